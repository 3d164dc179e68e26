"""Text to ids and back, and the bytes that each id stands for, given the one before.

A tokenizer trained here is SentencePiece byte-pair encoding over the 256 byte values: each byte is written as
one letter, so every byte string (broken UTF-8 and SentencePiece's own space mark included) has ids and the
ids give back exactly those bytes. Ids: 0 unknown (never used), 1 BOS, 2..257 the bytes, then the merges.
With case operators it is learnt on folded text (casing.py), whose 233 byte values are ids 2..234.
Public `.model` files keep their own rules.
"""

import codecs
import hashlib
import io
import itertools
import lzma
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from bitgolf.base.errors import TokenizerError
from bitgolf.text.casing import DOCUMENT_BREAK, FOLDED_BYTES, fold_case, unfold_case

SPACE_MARK = "\u2581"  # how SentencePiece writes a space inside a piece
# Letters without a meaning of their own to SentencePiece; the printable ASCII keeps its face.
BYTE_LETTERS = "".join(chr(byte) if 32 <= byte < 127 else chr(256 + byte) for byte in range(256))
# Merges stay inside a line with the line ends after it; long lines are cut, which keeps encoding fast.
LINE_PATTERN = re.compile("[^\u010a]{1,4096}\u010a{0,64}|\u010a{1,64}")
UNTOUCHED_PATTERN = re.compile(
    "([\udc80-\udcff\u2581\x00]+)"
)  # what a plain SentencePiece model would change
BOS_ID, FIRST_BYTE_ID = 1, 2
LARGEST_VOCABULARY = 65536  # ids are stored in two bytes

TOKENIZER_MAGIC = b"bgtk"
TOKENIZER_HEADER = struct.Struct("<4sBII")  # magic, kind, size of the body, CRC-32 of all but itself
MERGES_KIND, MODEL_FILE_KIND, FOLDED_KIND = 1, 2, 3
# Each of these bytes has an id; what is learnt merges them.
ALPHABETS = {MERGES_KIND: bytes(range(256)), FOLDED_KIND: FOLDED_BYTES}
LARGEST_BODY_BYTES = 1 << 21
LARGEST_PIECES_BYTES = 1 << 22  # of all pieces together
LONGEST_RULE_BYTES = 64  # what a model file may put in place of a character; the longest in Unicode has 33
BODY_FILTERS = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 22, "lc": 0, "lp": 1, "pb": 0, "nice_len": 273}]


class Tokenizer:
    """Made by `train_tokenizer`, `load` or `from_bytes`.

    lossless: ids decode to exactly the bytes that went in. bos: the id before each document, -1 if none.
    case_ops: capitals are operators, which stand for no bytes of the text. unknown: the id of what is lost.
    """

    def __init__(self, kind: int, body: bytes) -> None:
        self._kind, self._body, self.case_ops = kind, body, kind == FOLDED_KIND
        self._fold: Callable[[bytes], bytes] = fold_case if self.case_ops else bytes
        self._unfold: Callable[[bytes], bytes] = unfold_case if self.case_ops else bytes
        if kind in ALPHABETS:
            pieces = _read_pieces(body, ALPHABETS[kind])
            self._processor = _open_model(_model_proto(pieces))
            self.vocabulary_size, self.bos, self.lossless = FIRST_BYTE_ID + len(pieces), BOS_ID, True
            self._pieces = [b"", DOCUMENT_BREAK if self.case_ops else b"", *pieces]
        else:
            _check_model_file(body)
            self._processor = _open_model(body)
            self.vocabulary_size, self.bos = self._processor.get_piece_size(), self._processor.bos_id()
            try:
                self._pieces = _model_pieces(self._processor)
            except UnicodeDecodeError:
                raise TokenizerError("a SentencePiece model with a piece that is not UTF-8") from None
            self.lossless = _keeps_every_byte(self._processor, self._pieces)
        self.unknown = int(self._processor.unk_id())
        self._fill_tables()

    def _fill_tables(self) -> None:
        """The three public tables; ids past the vocabulary count nothing and act as a boundary."""
        self.base_bytes = np.zeros(LARGEST_VOCABULARY, np.int64)
        self.leading_space = np.zeros(LARGEST_VOCABULARY, bool)
        self.boundary = np.ones(LARGEST_VOCABULARY, bool)
        size = self.vocabulary_size
        if self.lossless:  # the bytes of the text; the public rule can count more: public.byte_counts
            self.base_bytes[:size] = [len(self.piece(token)) for token in range(size)]
            self.boundary[:size] = self.base_bytes[:size] == 0
            return
        model = self._processor
        for token in range(size):
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
                raise TokenizerError("not a file")  # a pipe would be waited for
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
        """The compact form that a submission stores: the merges alone, compressed."""
        packed = lzma.compress(self._body, format=lzma.FORMAT_RAW, filters=BODY_FILTERS)
        head = TOKENIZER_HEADER.pack(TOKENIZER_MAGIC, self._kind, len(self._body), 0)[:-4]
        return head + struct.pack("<I", zlib.crc32(head + packed)) + packed

    @staticmethod
    def from_bytes(data: bytes) -> "Tokenizer":
        """What `to_bytes` wrote. Raises TokenizerError naming the check that a damaged one fails."""
        if len(data) < TOKENIZER_HEADER.size:
            raise TokenizerError("cut short before the end of its header", value=f"{len(data)} bytes")
        magic, kind, size, checksum = TOKENIZER_HEADER.unpack_from(data)
        packed = data[TOKENIZER_HEADER.size :]
        if magic != TOKENIZER_MAGIC:
            raise TokenizerError("not a tokenizer: wrong magic at byte 0", value=magic)
        if zlib.crc32(data[: TOKENIZER_HEADER.size - 4] + packed) != checksum:
            raise TokenizerError("checksum does not hold", way_out="the bytes were cut or changed")
        if kind not in (*ALPHABETS, MODEL_FILE_KIND) or size > LARGEST_BODY_BYTES:
            raise TokenizerError("unknown kind or size in the header", value=(kind, size))
        unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=BODY_FILTERS)
        try:
            body = unpacker.decompress(packed, max_length=size + 1)
        except lzma.LZMAError as error:
            raise TokenizerError(f"cannot decompress: {error}") from None
        if len(body) != size or not unpacker.eof or unpacker.unused_data:
            raise TokenizerError("body is not as long as its header says", value=len(body))
        return Tokenizer(kind, body)

    @property
    def identity(self) -> str:
        """Hex SHA-256 of the content before compression: the same on machines with another lzma."""
        return hashlib.sha256(bytes([self._kind]) + self._body).hexdigest()

    @property
    def model_file(self) -> bytes:
        """The SentencePiece model that it was made from; empty for one trained here."""
        return self._body if self._kind == MODEL_FILE_KIND else b""

    def encode(self, document: bytes) -> np.ndarray:
        """Ids (uint16) of one document, without BOS."""
        if self._kind in ALPHABETS:
            return _flat(self._processor.encode(_lines(self._fold(document))))
        if not self.lossless:
            return _flat([self._processor.encode(document.decode("utf-8", "replace"))])
        parts = UNTOUCHED_PATTERN.split(document.decode("utf-8", "surrogateescape"))
        return _flat(
            self._byte_ids(part.encode("utf-8", "surrogateescape"))
            if place % 2
            else self._processor.encode(part)
            for place, part in enumerate(parts)
        )

    def _byte_ids(self, data: bytes) -> list[int]:
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in data]

    def encode_documents(self, documents: Iterable[bytes]) -> Iterator[np.ndarray]:
        """Ids of each document with BOS first, where there is one."""
        start = np.array([self.bos] if self.bos >= 0 else [], np.uint16)
        for document in documents:
            yield np.concatenate([start, self.encode(document)])

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that ids stand for; special ids give nothing and drop a space after them, as counted."""
        tokens = np.asarray(ids, np.int64)
        after_boundary = np.concatenate([np.ones(1, bool), self.boundary[tokens[:-1]]])
        parts = [self._pieces[token] if token < self.vocabulary_size else b"" for token in tokens.tolist()]
        for place in np.flatnonzero(self.leading_space[tokens] & after_boundary[: len(tokens)]).tolist():
            parts[place] = parts[place][1:]
        return self._unfold(b"".join(parts))

    def token_bytes(self, targets: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """How many bytes of text each target stands for, given the token before it (int64)."""
        counted_space = self.leading_space[targets] & ~self.boundary[previous]
        return self.base_bytes[targets] + counted_space

    def piece(self, token: int) -> bytes:
        """The bytes of one id away from a boundary; empty for special ids and ids past the vocabulary."""
        return self._unfold(self._pieces[token]) if token < self.vocabulary_size else b""


def train_tokenizer(
    documents: Iterable[bytes],
    vocabulary_size: int,
    *,
    across_words: bool = True,
    longest_piece: int = 16,
    case_ops: bool = False,
) -> Tokenizer:
    """Learn merges from documents; the same documents give the same tokenizer.

    across_words: pieces may hold spaces (' of the'), which takes fewer tokens per byte. longest_piece in
    bytes. case_ops: capitals become operators, so that 'The' and 'the' share their letters. Raises
    TokenizerError naming the largest vocabulary the text allows.
    """
    kind = FOLDED_KIND if case_ops else MERGES_KIND
    smallest = FIRST_BYTE_ID + len(ALPHABETS[kind])
    if not smallest <= vocabulary_size <= LARGEST_VOCABULARY:
        raise TokenizerError(
            "vocabulary size out of range",
            value=vocabulary_size,
            way_out=f"choose {smallest} (bytes alone) to {LARGEST_VOCABULARY}",
        )
    folded = map(fold_case, documents) if case_ops else documents
    lines = list(itertools.chain.from_iterable(map(_lines, folded)))
    if not lines:
        raise TokenizerError("no text to train a tokenizer on", way_out="give at least one document")
    merges: list[bytes] = []
    if vocabulary_size > smallest:
        merges = _learn_merges(lines, vocabulary_size, across_words, longest_piece)
    merges = merges[: vocabulary_size - smallest]  # bytes absent from the text left room for more
    if smallest + len(merges) < vocabulary_size:
        raise TokenizerError(
            "the text is too small for this vocabulary",
            value=vocabulary_size,
            way_out=f"choose at most {smallest + len(merges)} or give more text",
        )
    return Tokenizer(kind, _write_merges(merges, ALPHABETS[kind]))


def _lines(document: bytes) -> list[str]:
    return LINE_PATTERN.findall(codecs.charmap_decode(document, "strict", BYTE_LETTERS)[0])


def _flat(lists: Iterable[Sequence[int]]) -> np.ndarray:
    return np.fromiter(itertools.chain.from_iterable(lists), np.uint16)


def _learn_merges(lines: list[str], size: int, across_words: bool, longest_piece: int) -> list[bytes]:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_whitespace=not across_words,
        split_by_unicode_script=False,
        split_by_number=False,
        allow_whitespace_only_pieces=True,
        max_sentencepiece_length=longest_piece,
        max_sentence_length=1 << 16,
        unk_id=0,
        bos_id=BOS_ID,
        eos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=3,
    )
    trained = _open_model(model.getvalue())
    pieces = [trained.id_to_piece(token) for token in range(FIRST_BYTE_ID, trained.get_piece_size())]
    values = {letter: byte for byte, letter in enumerate(BYTE_LETTERS.replace(" ", SPACE_MARK))}
    return [bytes(values[letter] for letter in piece) for piece in pieces if len(piece) > 1]


def _write_merges(merges: list[bytes], alphabet: bytes) -> bytes:
    """All left halves, then all right halves, as earlier pieces: the alphabet, then the merges."""
    places = {bytes([byte]): place for place, byte in enumerate(alphabet)}
    halves = []
    for merge in merges:
        cuts = [(merge[:cut], merge[cut:]) for cut in range(1, len(merge))]
        halves.append(min((places[a], places[b]) for a, b in cuts if a in places and b in places))
        places[merge] = len(places)
    return np.array(halves, "<u2").reshape(-1, 2).T.tobytes()


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


def _model_proto(learnt: list[bytes]) -> bytes:
    """The smallest SentencePiece model file with these pieces, earlier merges first."""
    letters = BYTE_LETTERS.replace(" ", SPACE_MARK)
    rows = [("<unk>", 0.0, 2), ("<s>", 0.0, 3)]
    rows += [
        (piece.decode("latin-1").translate(letters), -float(rank) if len(piece) > 1 else -1e6, 1)
        for rank, piece in enumerate(learnt)
    ]
    pieces = [
        _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([3 << 3, kind])
        for text, score, kind in rows
    ]
    trainer = bytes([3 << 3, 2])  # model type BPE
    normalizer = bytes([3 << 3, 0, 4 << 3, 0])  # no space put in front, no spaces taken out
    return b"".join(_field(1, piece) for piece in pieces) + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes."""
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


def _open_model(proto: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=proto)
    except (RuntimeError, ValueError):
        model = None
    if model is None or not 0 < model.get_piece_size() <= LARGEST_VOCABULARY:
        raise TokenizerError("not a SentencePiece model that two-byte ids can hold")
    return model


def _check_model_file(proto: bytes) -> None:
    """Refuse a model file that would take long to open or to use."""
    for count, (number, content) in enumerate(_fields(proto)):
        if count > 2 * LARGEST_VOCABULARY or number == 4:
            raise TokenizerError("a SentencePiece model with too many pieces, or texts to try itself on")
        for inner, rules in _fields(content) if number == 3 else ():
            texts = rules[4 + int.from_bytes(rules[:4], "little") :] if inner == 2 else b""
            if max(map(len, texts.split(b"\0"))) > LONGEST_RULE_BYTES:
                raise TokenizerError("a SentencePiece model that writes a text for a character")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field of a protobuf message, b'' for numbers, up to the first fault."""
    stream = io.BytesIO(message)
    while key := _varint(stream):
        size = _varint(stream) if key & 7 in (0, 2) else {1: 8, 5: 4}.get(key & 7, 0)
        yield key >> 3, stream.read(min(size, len(message))) if key & 7 else b""


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
    """Whether a model file has all bytes and changes nothing: spaces, line ends, NFKC, a space in front."""
    sample = "  a\n\n\tb  \u00a0\u2460\ufb01e\u0301 \u4f60\U0001f600\u200b\u0007" + "".join(
        map(chr, range(1, 384))
    )
    if any(model.is_unknown(model.piece_to_id(f"<0x{byte:02X}>")) for byte in range(256)):
        return False
    return all(
        b"".join(pieces[token] for token in model.encode(text)) == text.encode()
        for text in (sample, sample[::-1], "a", " a")
    )
