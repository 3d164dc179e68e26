"""The bytes that each id stands for, given the one before. Shards hold ids, so nothing is encoded here."""

import lzma
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bitgolf.text.casing import DOCUMENT_BREAK, unfold_case
from bitgolf.text.tokenizer import (
    ALPHABETS,
    BODY_FILTERS,
    BOS_ID,
    FIRST_BYTE_ID,
    FOLDED_KIND,
    LARGEST_VOCABULARY,
    MODEL_FILE_KIND,
    SPACE_MARK,
    TOKENIZER_HEADER,
    TOKENIZER_MAGIC,
    _keeps_every_byte,
    _model_pieces,
    _read_pieces,
    open_model,
)


class Tokenizer:
    """A SentencePiece `.model` or a `tokenizer.bin`, as scores count it and an artifact holds it."""

    def __init__(self, path: Path) -> None:
        self._kind, self._body = MODEL_FILE_KIND, path.read_bytes()
        self.base_bytes = np.zeros(LARGEST_VOCABULARY, np.int64)
        self.leading_space = np.zeros(LARGEST_VOCABULARY, bool)
        self.boundary = np.ones(LARGEST_VOCABULARY, bool)
        if self._body.startswith(TOKENIZER_MAGIC):
            packed = self._body[TOKENIZER_HEADER.size :]
            self._kind, self.bos = TOKENIZER_HEADER.unpack_from(self._body)[1], BOS_ID
            self._body = lzma.decompress(packed, lzma.FORMAT_RAW, filters=BODY_FILTERS)
            pieces = [*[b""] * FIRST_BYTE_ID, *_read_pieces(self._body, ALPHABETS[self._kind])]
            self._count(map(unfold_case, pieces) if self._kind == FOLDED_KIND else pieces)
            return
        model = open_model(self._body)
        self.bos, pieces = model.bos_id(), _model_pieces(model)
        if _keeps_every_byte(model, pieces):
            self._count(pieces)
            return
        for token in range(len(pieces)):
            if not (model.is_control(token) or model.is_unknown(token) or model.is_unused(token)):
                text = model.id_to_piece(token)
                self.boundary[token] = False
                self.leading_space[token] = not model.is_byte(token) and text.startswith(SPACE_MARK)
                size = 1 if model.is_byte(token) else len(text.removeprefix(SPACE_MARK).encode())
                self.base_bytes[token] = size

    def _count(self, pieces: Iterable[bytes]) -> None:
        sizes = [len(piece) for piece in pieces]
        self.base_bytes[: len(sizes)] = sizes
        self.boundary = self.base_bytes == 0

    @property
    def pieces(self) -> list[bytes]:
        """The bytes of each id, before capitals are put back."""
        if self._kind == MODEL_FILE_KIND:
            return _model_pieces(open_model(self._body))
        start = DOCUMENT_BREAK if self._kind == FOLDED_KIND else b""
        return [b"", start, *_read_pieces(self._body, ALPHABETS[self._kind])]

    def to_bytes(self) -> bytes:
        """The compact form that an artifact holds."""
        packed = lzma.compress(self._body, format=lzma.FORMAT_RAW, filters=BODY_FILTERS)
        head = TOKENIZER_HEADER.pack(TOKENIZER_MAGIC, self._kind, len(self._body), 0)[:-4]
        return head + struct.pack("<I", zlib.crc32(head + packed)) + packed

    def token_bytes(self, targets: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """How many bytes of text each target stands for, given the token before it (int64)."""
        return self.base_bytes[targets] + (self.leading_space[targets] & ~self.boundary[previous])
