"""What ids stand for: the bytes of each, given the id before, and a vocabulary stored as bytes.

A tokenizer trained here (encoder.py) has byte-pair merges over the 256 byte values, so every byte string has
ids and the ids give back exactly those bytes. Ids: 0 unknown (never used), 1 BOS, 2..257 the bytes, then the
merges. With case operators it is trained on folded text (casing.py), whose 233 byte values are ids 2..234.
Public `.model` files of SentencePiece keep their own rules.
"""

import hashlib
import io
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from bitgolf.base.errors import TokenizerError
from bitgolf.text.casing import DOCUMENT_BREAK, FOLDED_BYTES, unfold_case

SPACE_MARK = "\u2581"  # how SentencePiece writes a space inside a piece
UNKNOWN_ID, BOS_ID, FIRST_BYTE_ID = 0, 1, 2
LARGEST_VOCABULARY = 65536  # ids are stored in two bytes

TOKENIZER_MAGIC = b"bgtk"
TOKENIZER_HEADER = struct.Struct("<4sBII")  # magic, kind, size of the body, CRC-32 of all but itself
MERGES_KIND, MODEL_FILE_KIND, FOLDED_KIND = 1, 2, 3
# Each of these bytes has an id; merges combine them.
ALPHABETS = {MERGES_KIND: bytes(range(256)), FOLDED_KIND: FOLDED_BYTES}
LARGEST_BODY_BYTES = 1 << 21
LARGEST_PIECES_BYTES = 1 << 22  # of all pieces together
DECODED_TOKENS = 1 << 20  # at once; as Python objects they take some 80 MB
LONGEST_RULE_BYTES = 64  # a model file may replace a character by; the longest in Unicode has 33
BODY_FILTERS = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 22, "lc": 0, "lp": 1, "pb": 0, "nice_len": 273}]


class Tokenizer:
    """A vocabulary: made by `train_tokenizer`, `load` or `from_bytes`. `Encoder` turns text into ids.

    lossless: ids decode to exactly the bytes that went in. bos: the id before each document, -1 if none.
    case_ops: capitals are operators, which stand for no bytes of the text. unknown: the id of unknown text.
    """

    def __init__(self, kind: int, body: bytes) -> None:
        self.kind, self.body, self.case_ops = kind, body, kind == FOLDED_KIND
        self._unfold: Callable[[bytes], bytes] = unfold_case if self.case_ops else bytes
        # The three public tables; ids past the vocabulary count nothing and act as a boundary.
        self.base_bytes = np.zeros(LARGEST_VOCABULARY, np.int64)
        self.leading_space = np.zeros(LARGEST_VOCABULARY, bool)
        self.boundary = np.ones(LARGEST_VOCABULARY, bool)
        if kind in ALPHABETS:
            self.bos, self.unknown, self.lossless = BOS_ID, UNKNOWN_ID, True
            start = DOCUMENT_BREAK if self.case_ops else b""
            self.pieces = [b"", start, *_read_pieces(body, ALPHABETS[kind])]
            self._count()
            return
        _check_model_file(body)
        model = open_model(body)
        self.bos, self.unknown = model.bos_id(), int(model.unk_id())
        try:
            self.pieces = _model_pieces(model)
        except UnicodeDecodeError:
            raise TokenizerError("a SentencePiece model with a piece that is not UTF-8") from None
        self.lossless = _keeps_every_byte(model, self.pieces)
        if self.lossless:
            self._count()
        else:
            self._count_as_public(model)

    @property
    def vocabulary_size(self) -> int:
        """The number of ids."""
        return len(self.pieces)

    def _count(self) -> None:
        """Fill the tables with bytes of the text; the public rule can count more: public.byte_counts."""
        self.base_bytes[: len(self.pieces)] = [len(self.piece(token)) for token in range(len(self.pieces))]
        self.boundary = self.base_bytes == 0

    def _count_as_public(self, model: sentencepiece.SentencePieceProcessor) -> None:
        """Fill the tables of a model that changes the text, by the public rule."""
        for token in range(self.vocabulary_size):
            if model.is_control(token) or model.is_unknown(token) or model.is_unused(token):
                continue
            self.boundary[token] = False
            text = model.id_to_piece(token)
            self.leading_space[token] = not model.is_byte(token) and text.startswith(SPACE_MARK)
            # Further space marks count the three bytes of the mark itself, as in the public scripts.
            self.base_bytes[token] = (
                1 if model.is_byte(token) else len(text.removeprefix(SPACE_MARK).encode())
            )

    @staticmethod
    def load(path: Path | str) -> "Tokenizer":
        """Read a `tokenizer.bin` of ours or a SentencePiece `.model`."""
        try:
            if Path(path).exists() and not Path(path).is_file():
                raise TokenizerError("not a file")  # reading a pipe would wait
            data = Path(path).read_bytes()
            return (
                Tokenizer.from_bytes(data)
                if data.startswith(TOKENIZER_MAGIC)
                else Tokenizer(MODEL_FILE_KIND, data)
            )
        except OSError as error:
            raise TokenizerError(f"cannot read: {error.strerror}", where=str(path)) from None
        except TokenizerError as error:
            raise TokenizerError(
                error.what, where=str(path), value=error.value, way_out=error.way_out
            ) from None

    def to_bytes(self) -> bytes:
        """The compact form that a submission stores: only the merges, compressed."""
        packed = lzma.compress(self.body, format=lzma.FORMAT_RAW, filters=BODY_FILTERS)
        head = TOKENIZER_HEADER.pack(TOKENIZER_MAGIC, self.kind, len(self.body), 0)[:-4]
        return head + struct.pack("<I", zlib.crc32(head + packed)) + packed

    @staticmethod
    def from_bytes(data: bytes) -> "Tokenizer":
        """The tokenizer that `to_bytes` wrote. Raises TokenizerError, which names the failed check."""
        if len(data) < TOKENIZER_HEADER.size:
            raise TokenizerError("cut short before the end of its header", value=f"{len(data)} bytes")
        magic, kind, body_bytes, checksum = TOKENIZER_HEADER.unpack_from(data)
        packed = data[TOKENIZER_HEADER.size :]
        if magic != TOKENIZER_MAGIC:
            raise TokenizerError("not a tokenizer: wrong magic at byte 0", value=magic)
        if zlib.crc32(data[: TOKENIZER_HEADER.size - 4] + packed) != checksum:
            raise TokenizerError("checksum does not hold", way_out="the bytes were cut or changed")
        if kind not in (*ALPHABETS, MODEL_FILE_KIND) or body_bytes > LARGEST_BODY_BYTES:
            raise TokenizerError("unknown kind or size in the header", value=(kind, body_bytes))
        unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=BODY_FILTERS)
        try:
            body = unpacker.decompress(packed, max_length=body_bytes + 1)
        except lzma.LZMAError as error:
            raise TokenizerError(f"cannot decompress: {error}") from None
        if len(body) != body_bytes or not unpacker.eof or unpacker.unused_data:
            raise TokenizerError("body is not as long as its header says", value=len(body))
        return Tokenizer(kind, body)

    @property
    def identity(self) -> str:
        """Hex SHA-256 of the content before compression, so that another lzma version changes nothing."""
        return hashlib.sha256(bytes([self.kind]) + self.body).hexdigest()

    @property
    def model_file(self) -> bytes:
        """The SentencePiece model file it was made from; empty for one trained here."""
        return self.body if self.kind == MODEL_FILE_KIND else b""

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of ids. Special ids give nothing and drop a space after them, as in the counts."""
        tokens, texts = np.asarray(ids), []
        for start in range(0, len(tokens), DECODED_TOKENS):
            piece = tokens[start : start + DECODED_TOKENS].astype(np.int64)
            first = start == 0 or self.boundary[int(tokens[start - 1])]
            after_boundary = np.concatenate([[first], self.boundary[piece[:-1]]])
            parts = [self.pieces[token] if token < self.vocabulary_size else b"" for token in piece.tolist()]
            for index in np.flatnonzero(self.leading_space[piece] & after_boundary).tolist():
                parts[index] = parts[index][1:]
            texts.append(b"".join(parts))
        return self._unfold(b"".join(texts))

    def token_bytes(self, targets: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """The bytes of text (int64) that each target stands for, given the token before it."""
        counted_space = self.leading_space[targets] & ~self.boundary[previous]
        return self.base_bytes[targets] + counted_space

    def piece(self, token: int) -> bytes:
        """The bytes of an id that follows no boundary; empty for special ids and ids past the vocabulary."""
        return self._unfold(self.pieces[token]) if token < self.vocabulary_size else b""


def _read_pieces(body: bytes, alphabet: bytes) -> list[bytes]:
    if len(body) % 4 or len(body) // 4 > LARGEST_VOCABULARY - FIRST_BYTE_ID - len(alphabet):
        raise TokenizerError("merges are not whole pairs", value=f"{len(body)} bytes")
    pieces = [bytes([byte]) for byte in alphabet]
    for merge, (left, right) in enumerate(np.frombuffer(body, "<u2").reshape(2, -1).T.tolist()):
        if max(left, right) >= len(pieces):
            raise TokenizerError("a merge names a later piece", where=f"merge {merge}")
        pieces.append(pieces[left] + pieces[right])
        if len(pieces[-1]) > 1024:
            raise TokenizerError("a piece is longer than 1,024 bytes", where=f"merge {merge}")
    if sum(map(len, pieces)) > LARGEST_PIECES_BYTES:
        raise TokenizerError(f"more than {LARGEST_PIECES_BYTES:,} bytes of pieces")
    if len(set(pieces)) < len(pieces):
        raise TokenizerError("two merges make the same piece")
    return pieces


def open_model(proto: bytes) -> sentencepiece.SentencePieceProcessor:
    """The SentencePiece model in these bytes. Raises TokenizerError if it is none, or has too many pieces."""
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=proto)
    except (RuntimeError, ValueError):
        model = None
    if model is None or not 0 < model.get_piece_size() <= LARGEST_VOCABULARY:
        raise TokenizerError("not a SentencePiece model that two-byte ids can hold")
    return model


def _check_model_file(proto: bytes) -> None:
    """Raises TokenizerError for a model file that would take long to open or to use."""
    for count, (number, content) in enumerate(_fields(proto)):
        if count > 2 * LARGEST_VOCABULARY or number == 4:
            raise TokenizerError("a SentencePiece model with too many pieces, or texts to try itself on")
        for inner, rules in _fields(content) if number == 3 else ():
            texts = rules[4 + int.from_bytes(rules[:4], "little") :] if inner == 2 else b""
            if max(map(len, texts.split(b"\0"))) > LONGEST_RULE_BYTES:
                raise TokenizerError("a SentencePiece model that writes a text for a character")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field of a protobuf message (b'' for numbers), up to the first error."""
    stream = io.BytesIO(message)
    while key := _varint(stream):
        length = _varint(stream) if key & 7 in (0, 2) else {1: 8, 5: 4}.get(key & 7, 0)
        yield key >> 3, stream.read(min(length, len(message))) if key & 7 else b""


def _varint(stream: io.BytesIO) -> int:
    """A protobuf number; 0 at the end."""
    value = 0
    for shift in range(0, 70, 7):
        byte = int.from_bytes(stream.read(1))
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value


def _model_pieces(model: sentencepiece.SentencePieceProcessor) -> list[bytes]:
    pieces = []
    for token in range(model.get_piece_size()):
        if model.is_control(token) or model.is_unknown(token) or model.is_unused(token):
            pieces.append(b"")
        elif model.is_byte(token):
            pieces.append(bytes([int(model.id_to_piece(token)[3:5], 16)]))
        else:
            pieces.append(model.id_to_piece(token).replace(SPACE_MARK, " ").encode())
    return pieces


def _keeps_every_byte(model: sentencepiece.SentencePieceProcessor, pieces: list[bytes]) -> bool:
    """Whether a model has all bytes and changes nothing: spaces, line ends, NFKC, no space added in front."""
    sample = "  a\n\n\tb  \u00a0\u2460\ufb01e\u0301 \u4f60\U0001f600\u200b\u0007" + "".join(
        map(chr, range(1, 384))
    )
    if any(model.is_unknown(model.piece_to_id(f"<0x{byte:02X}>")) for byte in range(256)):
        return False
    return all(
        b"".join(pieces[token] for token in model.encode(text)) == text.encode()
        for text in (sample, sample[::-1], "a", " a")
    )
