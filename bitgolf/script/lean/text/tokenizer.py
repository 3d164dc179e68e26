"""The bytes that each id stands for, given the one before. Shards hold ids, so nothing is encoded here."""

import lzma
import struct
import zlib
from pathlib import Path

import numpy as np
import sentencepiece

from bitgolf.text.casing import CASE_OPERATORS, DOCUMENT_BREAK
from bitgolf.text.tokenizer import (
    ALPHABETS,
    BODY_FILTERS,
    BOS_ID,
    FOLDED_KIND,
    LARGEST_VOCABULARY,
    MODEL_FILE_KIND,
    SPACE_MARK,
    TOKENIZER_HEADER,
    TOKENIZER_MAGIC,
    _keeps_every_byte,
    _model_pieces,
    _read_pieces,
)


class Tokenizer:
    """A SentencePiece `.model` or a `tokenizer.bin`, as scores count it and an artifact holds it."""

    def __init__(self, path: Path) -> None:
        self._kind, self._body = MODEL_FILE_KIND, path.read_bytes()
        self.base_bytes = np.zeros(LARGEST_VOCABULARY, np.int64)
        self.leading_space = np.zeros(LARGEST_VOCABULARY, bool)
        if self._body.startswith(TOKENIZER_MAGIC):
            packed = self._body[TOKENIZER_HEADER.size :]
            self._kind, self.bos = TOKENIZER_HEADER.unpack_from(self._body)[1], BOS_ID
            self._body = lzma.decompress(packed, lzma.FORMAT_RAW, filters=BODY_FILTERS)
            is_folded = self._kind == FOLDED_KIND
            start = DOCUMENT_BREAK if is_folded else b""
            self.pieces = [b"", start, *_read_pieces(self._body, ALPHABETS[self._kind])]
            sizes = [len(piece.translate(None, CASE_OPERATORS * is_folded)) for piece in self.pieces]
        else:
            model = sentencepiece.SentencePieceProcessor(model_proto=self._body)
            self.bos, self.pieces = model.bos_id(), _model_pieces(model)
            sizes = [len(piece) for piece in self.pieces]
            for token in [] if _keeps_every_byte(model, self.pieces) else range(len(sizes)):
                text = model.id_to_piece(token)
                if sizes[token] and not model.is_byte(token):
                    self.leading_space[token] = text.startswith(SPACE_MARK)
                    sizes[token] = len(text.removeprefix(SPACE_MARK).encode())
        self.base_bytes[: len(sizes)] = sizes
        self.boundary = np.ones(LARGEST_VOCABULARY, bool)
        self.boundary[: len(sizes)] = [not piece for piece in self.pieces]

    def to_bytes(self) -> bytes:
        """The compact form that an artifact holds."""
        packed = lzma.compress(self._body, format=lzma.FORMAT_RAW, filters=BODY_FILTERS)
        head = TOKENIZER_HEADER.pack(TOKENIZER_MAGIC, self._kind, len(self._body), 0)[:-4]
        return head + struct.pack("<I", zlib.crc32(head + packed)) + packed

    def token_bytes(self, targets: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """How many bytes of text each target stands for, given the token before it (int64)."""
        return self.base_bytes[targets] + (self.leading_space[targets] & ~self.boundary[previous])
