"""Text to ids: the encoder of a tokenizer, and the training of a tokenizer.

SentencePiece encodes. For our own tokenizers each byte is written as one letter, so that broken UTF-8 and
SentencePiece's space mark have ids too.

Model files are written and checked by hand. SentencePiece's protobuf classes write the same bytes, but need
protobuf, and cannot be in one process with those of transformers, which the harness uses: both register the
name sentencepiece_model.proto.
"""

import codecs
import io
import itertools
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import sentencepiece

from bitgolf.base.errors import TokenizerError
from bitgolf.text.casing import fold_case
from bitgolf.text.tokenizer import (
    ALPHABETS,
    BOS_ID,
    FIRST_BYTE_ID,
    FOLDED_KIND,
    LARGEST_VOCABULARY,
    MERGES_KIND,
    SPACE_MARK,
    UNKNOWN_ID,
    Tokenizer,
    open_model,
)

# Letters without a special meaning in SentencePiece; printable ASCII stays as it is.
BYTE_LETTERS = "".join(chr(byte) if 32 <= byte < 127 else chr(256 + byte) for byte in range(256))
# Merges stay inside a line with the line ends after it; long lines are cut, which keeps encoding fast.
LINE_PATTERN = re.compile("[^\u010a]{1,4096}\u010a{0,64}|\u010a{1,64}")
# Bytes of such lines encoded at once, to bound memory for long texts.
PIECE_PATTERN = re.compile(b"(?:[^\n]{1,4096}\n{0,64}|\n{1,64}){1,1024}")
UNTOUCHED_PATTERN = re.compile("([\udc80-\udcff\u2581\x00]+)")  # changed by a plain SentencePiece model


class Encoder:
    """Turns documents into ids of a tokenizer; opening it takes some milliseconds."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.in_letters = tokenizer, tokenizer.kind in ALPHABETS
        self._fold: Callable[[bytes], bytes] = fold_case if tokenizer.case_ops else bytes
        own = _model_proto(tokenizer.pieces[FIRST_BYTE_ID:]) if self.in_letters else tokenizer.body
        self._processor = open_model(own)

    def encode(self, document: bytes) -> np.ndarray:
        """Ids (uint16) of one document, without BOS."""
        return np.concatenate([np.zeros(0, np.uint16), *(ids for ids, _ in self.encode_pieces(document))])

    def encode_pieces(self, document: bytes) -> Iterator[tuple[np.ndarray, float]]:
        """The same in pieces, cut where no id changes, each with the share of the text that is done."""
        if not self.in_letters:
            yield self._encode_at_once(document), 1.0
            return
        folded = self._fold(document)
        for piece in PIECE_PATTERN.finditer(folded):
            yield _flat(self._processor.encode(_lines(piece[0]))), piece.end() / len(folded)

    def _encode_at_once(self, document: bytes) -> np.ndarray:
        if not self.tokenizer.lossless:
            return _flat([self._processor.encode(document.decode("utf-8", "replace"))])
        parts = UNTOUCHED_PATTERN.split(document.decode("utf-8", "surrogateescape"))
        return _flat(
            self._byte_ids(part.encode("utf-8", "surrogateescape"))
            if index % 2
            else self._processor.encode(part)
            for index, part in enumerate(parts)
        )

    def names(self) -> list[str]:
        """SentencePiece's text for each id; all different."""
        return [self._processor.id_to_piece(token) for token in range(self.tokenizer.vocabulary_size)]

    def scores(self) -> list[float]:
        """SentencePiece's score of each id; for byte-pair merges, minus their rank."""
        return [self._processor.get_score(token) for token in range(self.tokenizer.vocabulary_size)]

    def _byte_ids(self, data: bytes) -> list[int]:
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in data]

    def encode_documents(self, documents: Iterable[bytes]) -> Iterator[np.ndarray]:
        """Ids (uint16) of each document, with BOS first if the tokenizer has one."""
        start = np.array([self.tokenizer.bos] if self.tokenizer.bos >= 0 else [], np.uint16)
        for document in documents:
            yield np.concatenate([start, self.encode(document)])


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
    merges = merges[: vocabulary_size - smallest]  # bytes that are absent from the text left room for more
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


def _learn_merges(
    lines: list[str], vocabulary_size: int, across_words: bool, longest_piece: int
) -> list[bytes]:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary_size,
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
        unk_id=UNKNOWN_ID,
        bos_id=BOS_ID,
        eos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=3,
    )
    trained = open_model(model.getvalue())
    pieces = [trained.id_to_piece(token) for token in range(FIRST_BYTE_ID, trained.get_piece_size())]
    values = {letter: byte for byte, letter in enumerate(BYTE_LETTERS.replace(" ", SPACE_MARK))}
    return [bytes(values[letter] for letter in piece) for piece in pieces if len(piece) > 1]


def _write_merges(merges: list[bytes], alphabet: bytes) -> bytes:
    """All left parts, then all right parts, as indices of pieces: the alphabet, then the merges."""
    indices = {bytes([byte]): index for index, byte in enumerate(alphabet)}
    halves = []
    for merge in merges:
        cuts = [(merge[:cut], merge[cut:]) for cut in range(1, len(merge))]
        halves.append(min((indices[a], indices[b]) for a, b in cuts if a in indices and b in indices))
        indices[merge] = len(indices)
    return np.array(halves, "<u2").reshape(-1, 2).T.tobytes()


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
    rest, length = len(content), bytearray()
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes([number << 3 | 2, *length, rest]) + content
