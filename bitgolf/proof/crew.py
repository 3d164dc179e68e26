"""Frames worked off, by one process or several; those that are done stand in a file until all are."""

import errno
import hashlib
import multiprocessing
import os
import signal
import struct
import zlib
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

import bitgolf
from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import NOTE, Event, finish
from bitgolf.net.backend import Backend, keep_freed_memory
from bitgolf.net.model import Model
from bitgolf.proof.arithmetic import NATIVE, PORTABLE, Arithmetic, arithmetic_here
from bitgolf.proof.frames import Frame, Layout, decode_frame, encode_frame
from bitgolf.proof.portable import Portable
from bitgolf.run.child import end_with_parent
from bitgolf.squeeze.artifact import load_model, unpack
from bitgolf.text.tokenizer import Tokenizer

RECORD = struct.Struct("<16sQI")  # which frame, the bytes of its result, their CRC-32
CODED = struct.Struct("<Id")  # the check sum of a frame's tokens, and their nats
Value = TypeVar("Value")


class Coder(NamedTuple):
    """A packed model that codes. identity: the first 8 bytes of the SHA-256 of its file, the artifact."""

    model: Model
    tokenizer: Tokenizer
    identity: bytes
    window: int
    portable: bool = False
    artifact: bytes = b""

    @property
    def first(self) -> int:
        """The token before every lane."""
        return max(self.tokenizer.bos, 0)

    @property
    def arithmetic(self) -> Arithmetic:
        """In which it codes; what is decoded says its own."""
        return PORTABLE if self.portable else NATIVE


class Crew:
    """How frames are worked off: by how many processes, and the file of those that are done, if any."""

    def __init__(self, processes: int = 1, part: Path | None = None) -> None:
        self.processes, self.part = processes, part
        self._is_open, self._notes = False, list[str]()

    def open(self, is_found: bool, fits: bool) -> None:
        """The file was looked at, before this coding writes to it: note where all in it is of another one."""
        if is_found and not fits and not self._is_open and self.part is not None:
            self._notes.append(
                f"{self.part.name}: it is damaged, or of another text, model or version of bitgolf; "
                "all is coded anew"
            )
        self._is_open = True

    def follow(
        self, steps: Generator[tuple[int, int], None, Value], stage: str
    ) -> Generator[Event, None, Value]:
        """The (done, total) steps of its work as events of a stage, and its notes among them."""
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            while self._notes:
                yield Event(NOTE, 1, 1, {NOTE: self._notes.pop()})
            yield Event(stage, *step, {})

    def disband(self) -> None:
        """What the file held is where it belongs: remove it."""
        if self.part is not None:
            self.part.unlink(missing_ok=True)


ALONE = Crew()


class Encoding(NamedTuple):
    """Tokens of a frame that are to be coded."""

    tokens: np.ndarray
    layout: Layout
    arithmetic: Arithmetic

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    def content(self) -> bytes:
        """Its identity among jobs of one model, as bytes."""
        return self.tokens.astype("<u4").tobytes()

    def result(self, coder: Coder) -> Generator[int, None, bytes]:
        """The frame; yields how many tokens are done."""
        frame = yield from encode_frame(coder.model, self.tokens, self.layout, self.arithmetic)
        return CODED.pack(frame.tokens_crc, frame.nats) + frame.data


class Decoding(NamedTuple):
    """A frame that is to be decoded, of so many tokens. where: its name in messages."""

    frame: Frame
    num_tokens: int
    layout: Layout
    where: str
    arithmetic: Arithmetic

    def content(self) -> bytes:
        """Its identity among jobs of one model, as bytes."""
        return self.frame.data

    def result(self, coder: Coder) -> Generator[int, None, bytes]:
        """Its tokens; yields how many are done."""
        arguments = self.frame, self.num_tokens, self.layout, self.where, self.arithmetic
        steps = decode_frame(coder.model, *arguments)
        return (yield from steps).astype("<u4").tobytes()


Job = Encoding | Decoding


def encoded(
    coder: Coder, jobs: Sequence[Encoding], crew: Crew
) -> Generator[tuple[int, int], None, list[Frame]]:
    """The frames of some tokens; yields (done, to do) in tokens."""
    frames = []
    for result in (yield from run_jobs(coder, jobs, crew)):
        crc, nats = CODED.unpack_from(result)
        frames.append(Frame(result[CODED.size :], crc, nats))
    return frames


def decoded(
    coder: Coder, jobs: Sequence[Decoding], crew: Crew
) -> Generator[tuple[int, int], None, list[np.ndarray]]:
    """The tokens of some frames, int64; yields (done, to do) in tokens."""
    results = yield from run_jobs(coder, jobs, crew)
    return [np.frombuffer(result, "<u4").astype(np.int64) for result in results]


def run_jobs(coder: Coder, jobs: Sequence[Job], crew: Crew) -> Generator[tuple[int, int], None, list[bytes]]:
    """The results of all jobs; yields (done, to do) in tokens."""
    keys = [key_of(coder, job) for job in jobs]
    finished, total = Finished(crew.part), sum(job.num_tokens for job in jobs)
    unfinished = [(key, job) for key, job in zip(keys, jobs, strict=True) if key not in finished.results]
    crew.open(finished.is_found, len(unfinished) < len(jobs))
    done = total - sum(job.num_tokens for _, job in unfinished)
    processes = min(crew.processes, len(unfinished))
    if processes > 1:
        steps = _side_by_side(coder, unfinished, processes)
    else:
        steps = _one_by_one(coder, unfinished)
    for newly_done, finished_job in steps:
        if finished_job is not None:
            finished.add(*finished_job)
        done += newly_done
        yield done, total
    return [finished.results[key] for key in keys]


Step = tuple[int, tuple[bytes, bytes] | None]  # tokens that were done, and what is whole with them


def _one_by_one(coder: Coder, todo: Sequence[tuple[bytes, Job]]) -> Generator[Step, None, None]:
    for key, job in todo:
        done_before, steps = 0, job.result(coder)
        while True:
            try:
                done = next(steps)
            except StopIteration as end:
                yield job.num_tokens - done_before, (key, end.value)
                break
            yield done - done_before, None
            done_before = done


def _side_by_side(
    coder: Coder, todo: Sequence[tuple[bytes, Job]], processes: int
) -> Generator[Step, None, None]:
    children_before = set(multiprocessing.active_children())
    spawn, arguments = multiprocessing.get_context("spawn"), (coder.artifact, coder.window, coder.portable)
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_begin, initargs=arguments)
    try:
        futures = {pool.submit(_result, job): (key, job) for key, job in todo}
        for future in as_completed(futures):
            key, job = futures[future]
            yield job.num_tokens, (key, future.result())
    except BrokenProcessPool:
        raise BitgolfError(
            "a process was killed", value=f"{processes} of them", way_out="too little memory? --processes 1"
        ) from None
    finally:
        for child in set(multiprocessing.active_children()) - children_before:
            child.terminate()
        pool.shutdown(cancel_futures=True)


_coder: Coder  # of a process that works for another


def _begin(artifact: bytes, window: int, portable: bool) -> None:
    """In the process: open the model, and leave Ctrl-C to the parent."""
    global _coder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    torch.set_num_threads(1)
    bitgolf.import_core()
    _coder = coder_of(artifact, window, portable)


def _result(job: Job) -> bytes:
    return finish(job.result(_coder))


def coder_of(artifact: bytes, window: int, portable: bool = False) -> Coder:
    """A packed model that codes, from its bytes; in float32, which every processor has.

    window: tokens that it sees.
    """
    keep_freed_memory()
    with Portable() if portable else nullcontext():
        unpacked = unpack(artifact)
    model = load_model(unpacked, Backend())
    return Coder(model, unpacked.tokenizer, identity_of(artifact), window, portable, artifact)


def identity_of(artifact: bytes) -> bytes:
    """What a compressed file knows its model by."""
    return hashlib.sha256(artifact).digest()[:8]


def key_of(coder: Coder, job: Job) -> bytes:
    """Sixteen bytes that stand for a job, and for all that its bits depend on."""
    arithmetic = arithmetic_here(job.arithmetic)
    description = f"{type(job).__name__} {job.layout} {job.num_tokens} {coder.identity.hex()} {arithmetic} "
    return hashlib.sha256(description.encode() + job.content()).digest()[:16]


class Finished:
    """Results in a file, by the keys of their jobs; without a path they are kept in memory alone.

    is_found: there was something in the file.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.results = path, dict[bytes, bytes]()
        data = path.read_bytes() if path is not None and path.is_file() else b""
        self.is_found, offset = bool(data), 0
        while offset + RECORD.size <= len(data):
            key, num_bytes, crc = RECORD.unpack_from(data, offset)
            start = offset + RECORD.size
            if start + num_bytes > len(data) or zlib.crc32(data[start : start + num_bytes]) != crc:
                break
            self.results[key] = data[start : start + num_bytes]
            offset = start + num_bytes
        if path is not None and offset < len(data):  # the last record was not written to its end
            os.truncate(path, offset)

    def add(self, key: bytes, result: bytes) -> None:
        """Keep a result. Raises BitgolfError where the disk does not take it."""
        self.results[key] = result
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
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
