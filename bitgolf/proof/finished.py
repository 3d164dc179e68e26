"""The file of finished frames of a coding, one record each, so that an interruption costs one frame."""

import errno
import os
import struct
import zlib
from pathlib import Path

from bitgolf.base.errors import BitgolfError

RECORD = struct.Struct("<16sQI")  # key of the frame, bytes of its result, their CRC-32


class Finished:
    """Results in a file, by the keys of their jobs; without a path only in memory.

    is_found: whether the file had content.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self._in_memory, self._in_file = path, dict[bytes, bytes](), dict[bytes, tuple[int, int]]()
        size = path.stat().st_size if path is not None and path.is_file() else 0
        self.is_found, end = size > 0, 0
        if path is None or not size:
            return
        with path.open("rb") as file:
            while len(head := file.read(RECORD.size)) == RECORD.size:
                key, num_bytes, crc = RECORD.unpack(head)
                start = end + RECORD.size
                if start + num_bytes > size or zlib.crc32(file.read(num_bytes)) != crc:
                    break
                self._in_file[key] = start, num_bytes
                end = start + num_bytes
        if end < size:  # the last record is incomplete
            os.truncate(path, end)

    def __contains__(self, key: bytes) -> bool:
        return key in self._in_memory or key in self._in_file

    def __getitem__(self, key: bytes) -> bytes:
        if self.path is None:
            return self._in_memory[key]
        start, num_bytes = self._in_file[key]
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(num_bytes)

    def bytes_of(self, key: bytes) -> int:
        """The size of a result."""
        return len(self._in_memory[key]) if self.path is None else self._in_file[key][1]

    def add(self, key: bytes, result: bytes) -> None:
        """Save a result. Raises BitgolfError if the disk does not take it."""
        if self.path is None:
            self._in_memory[key] = result
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                self._in_file[key] = file.tell() + RECORD.size, len(result)
                file.write(RECORD.pack(key, len(result), zlib.crc32(result)) + result)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            way_out = "free some space, then give the same command again; it goes on where it stopped"
            raise BitgolfError(
                f"cannot keep a finished frame: {error.strerror}",
                where=str(self.path),
                way_out=way_out if full else "check the path and its rights",
            ) from None
