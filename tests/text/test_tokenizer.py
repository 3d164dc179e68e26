"""Every byte string comes back, token bytes add up, and a damaged tokenizer is refused."""

import io
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.base.errors import TokenizerError
from bitgolf.text.encoder import Encoder, train_tokenizer
from bitgolf.text.tokenizer import Tokenizer
from tests.forgery import model_file
from tests.text.test_belonging import model

ODD_WORDS = "the cat and, in 1,024 days; the floor\n\n— naïve café 你好 😀 ▁ x".split(" ")
SYLLABLES = "ba ce di fo gu ha ke li mo nu pra ste tri".split()


def text(words: int, seed: int = 0, capitals: bool = False) -> bytes:
    """Made-up words, a tenth of them odd, and if asked for a third of the others with capitals."""
    chosen = random.Random(seed)
    made = ["".join(chosen.choices(SYLLABLES, k=chosen.randint(1, 3))) for _ in range(words)]
    if capitals:
        made = [chosen.choice([str.title, str.upper, str, str, str, str])(word) for word in made]
    return " ".join(chosen.choice(ODD_WORDS) if chosen.random() < 0.1 else word for word in made).encode()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "case_ops"])
def tokenizer(request) -> Tokenizer:
    documents = [text(2000, seed, capitals=request.param) for seed in range(4)]
    return train_tokenizer(documents, 400, case_ops=request.param)


def counted(tokenizer: Tokenizer, ids: np.ndarray) -> int:
    before = np.concatenate([[max(tokenizer.bos, 0)], ids[:-1]])
    return int(tokenizer.token_bytes(ids, before).sum())


ODD_PIECES = st.sampled_from(
    [
        b"\x00",
        b" ",
        b"   ",
        b"\n",
        b"\r\n",
        b"\t",
        "▁".encode(),
        "▁▁ ▁".encode(),
        "▅".encode(),
        b"<s>",
        b"<0x41>",
    ]
    + [
        b"<unk>",
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xe2\x96",
        "e\u0301ﬁ①\u200b\ufeff".encode(),
        b"the cat",
    ]
    + [b"The NASA iPhone", b"A", b"aBC", b"x" * 4090 + b"McDONALD's", b"TACB" * 3]
    + [b"a" * 5000, b"\n" * 200, " ".encode("utf-16"), "Ċ\u0109Ġ".encode(), "\U0010ffff\ufffe".encode()]
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.lists(ODD_PIECES).map(b"".join), st.binary(), st.text().map(str.encode)))
def test_ids_give_back_exactly_the_bytes(tokenizer, document):
    ids = Encoder(tokenizer).encode(document)
    assert ids.dtype == np.uint16
    assert tokenizer.decode(ids) == document
    assert not len(ids) or (ids.max() < tokenizer.vocabulary_size and ids.min() >= 2)
    pieces = b"".join(map(tokenizer.piece, ids.tolist()))  # an operator may stand in the piece before
    assert pieces.lower() == document.lower() if tokenizer.case_ops else pieces == document
    assert len(ids) == 0 or counted(tokenizer, ids) == len(document)


def test_every_byte_has_an_id_and_merges_shorten(tokenizer):
    every = bytes(range(256)) * 2
    assert tokenizer.decode(Encoder(tokenizer).encode(every)) == every
    assert len(Encoder(tokenizer).encode(text(1000, 9))) < 0.4 * len(text(1000, 9))
    assert tokenizer.lossless and tokenizer.bos == 1 and tokenizer.vocabulary_size == 400


def test_documents_start_with_bos_which_decodes_to_nothing(tokenizer):
    documents = [b"the CAT", b"of", b"", b" of", b"a", b"BC"]  # no operator reaches into the next document
    rows = list(Encoder(tokenizer).encode_documents(documents))
    assert [row[0] for row in rows] == [tokenizer.bos] * 6
    assert tokenizer.decode(np.concatenate(rows)) == b"".join(documents)
    stream = np.concatenate(rows)
    assert tokenizer.token_bytes(stream[1:], stream[:-1]).sum() == len(b"".join(documents))
    assert tokenizer.token_bytes(np.array([1, 60000]), np.array([70, 1])).tolist() == [0, 0]


def test_compact_form_round_trips_and_keeps_the_ids(tokenizer):
    data = tokenizer.to_bytes()
    again = Tokenizer.from_bytes(data)
    assert again.identity == tokenizer.identity and again.to_bytes() == data
    assert (Encoder(again).encode(text(500, 3)) == Encoder(tokenizer).encode(text(500, 3))).all()
    assert len(data) < 2.5 * tokenizer.vocabulary_size - 500


def test_training_is_deterministic_across_processes(tokenizer):
    code = (
        "from tests.text.test_tokenizer import text; from bitgolf.text.encoder import train_tokenizer\n"
        f"documents = [text(2000, seed, {tokenizer.case_ops}) for seed in range(4)]\n"
        f"print(train_tokenizer(documents, 400, case_ops={tokenizer.case_ops}).identity)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == tokenizer.identity
    assert found.stderr == ""


STORED = bytes.fromhex(
    "6267746b0118000000a3402b050030800a8979c9b6f13aa574194bc6caecc2b7ad075b44a3482d3ffedab000"
)


def test_a_tokenizer_without_case_operators_is_stored_as_it_always_was():
    documents = [b"the cat and the dog sat on the mat, and the cat ran. " * 3]
    stored = Tokenizer.from_bytes(STORED)
    assert stored.identity == train_tokenizer(documents, 264, case_ops=False).identity
    assert stored.to_bytes() == STORED and not stored.case_ops
    assert Encoder(stored).encode(b"the Cat and").tolist() == [260, 34, 69, 258, 34, 262, 102]


def test_knobs_bite():
    capitals = [text(2000, seed, capitals=True) for seed in range(4)]
    plain, folded = (train_tokenizer(capitals, 400, case_ops=case_ops) for case_ops in (False, True))
    assert len(Encoder(folded).encode(capitals[0])) < 0.95 * len(Encoder(plain).encode(capitals[0]))
    documents = [text(2000, seed) for seed in range(4)]
    tokenizer = train_tokenizer(documents, 400)
    words = train_tokenizer(documents, 400, across_words=False)
    assert not any(b" " in words.piece(i).strip(b" ") for i in range(400))
    assert any(b" " in tokenizer.piece(i).strip(b" ") for i in range(400))
    short = train_tokenizer(documents, 350, longest_piece=4)
    assert (
        max(len(short.piece(i)) for i in range(350)) <= 4 < max(len(tokenizer.piece(i)) for i in range(350))
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=5), st.booleans())
def test_a_tiny_text_names_the_largest_vocabulary_which_then_works(documents, case_ops):
    with pytest.raises(TokenizerError, match="too small for this vocabulary.*choose at most (\\d+)") as error:
        train_tokenizer(documents, 5000, case_ops=case_ops)
    largest = int(error.value.way_out.split()[3])
    small = train_tokenizer(documents, largest, case_ops=case_ops)
    assert small.vocabulary_size == largest
    assert [small.decode(Encoder(small).encode(document)) for document in documents] == documents


def test_refusals():
    with pytest.raises(TokenizerError, match="no text"):
        train_tokenizer([b""], 300)
    for size in (257, 65537):
        with pytest.raises(TokenizerError, match="vocabulary size out of range"):
            train_tokenizer([b"abc"], size)
    assert Encoder(train_tokenizer([b"abc"], 258)).encode(b"abc").tolist() == [99, 100, 101]
    with pytest.raises(TokenizerError, match=r"choose 235 \(bytes alone\)"):
        train_tokenizer([b"abc"], 234, case_ops=True)
    letters = train_tokenizer([b"abc"], 235, case_ops=True)  # its operators have no letter after them here
    assert letters.decode(range(235)) == bytes(range(65)) + bytes(range(91, 256))


def test_every_damaged_byte_is_refused(tokenizer, tmp_path):
    data = tokenizer.to_bytes()
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :]
        with pytest.raises(TokenizerError):
            Tokenizer.from_bytes(changed)
    for cut in (b"", data[:5], data[:-1], data + b"x", b"nonsense" * 4):
        with pytest.raises(TokenizerError):
            Tokenizer.from_bytes(cut)
    path = tmp_path / "tokenizer.bin"
    with pytest.raises(TokenizerError, match=r"tokenizer\.bin: cannot read"):
        Tokenizer.load(path)
    path.write_bytes(b"neither")
    with pytest.raises(TokenizerError, match=r"tokenizer\.bin: not a SentencePiece model"):
        Tokenizer.load(path)
    path.write_bytes(data)
    assert Tokenizer.load(path).identity == tokenizer.identity


@pytest.mark.parametrize(
    ("merges", "fault"),
    [
        ([(0, 256)], "later piece"),
        ([(1, 2), (1, 2)], "same piece"),
        ([(97, 97), (256, 98), (256, 98)], "same"),
    ],
)
def test_merges_that_make_no_sense_are_refused(merges, fault):
    with pytest.raises(TokenizerError, match=fault):
        Tokenizer(1, np.array(merges, "<u2").T.tobytes())


def test_a_piece_cannot_grow_without_bound():
    doubling = [(97, 97), *((256 + i, 256 + i) for i in range(40))]
    with pytest.raises(TokenizerError, match=r"longer than 1,024 bytes"):
        Tokenizer(1, np.array(doubling, "<u2").T.tobytes())


def test_pieces_cannot_grow_without_bound_together():
    half = [(97, 97), *((256 + i, 256 + i) for i in range(8))]  # the last has 512 bytes
    longer = [(264, byte) for byte in range(256)] + [(265 + i, j) for i in range(40) for j in range(256)]
    with pytest.raises(TokenizerError, match=r"more than 4,194,304 bytes of pieces"):
        Tokenizer(1, np.array(half + longer, "<u2").T.tobytes())


@pytest.mark.parametrize(
    ("proto", "fault"),
    [
        (model_file() + b"\x22\0", "texts to try itself on"),
        (model_file("41\t" + 100 * "61 "), "writes a text for a character"),
        (model_file() + b"\x0a\x09\x0a\x02\xff\xfe\x15" + bytes(4), "a piece that is not UTF-8"),
        (b"\x0a\0" * 140_000, "too many pieces"),
        (b"\x0a\0" * 70_000, "two-byte ids"),
        (b"\x1a\x05" + b"\xff" * 5, "two-byte ids"),
        (b"\xff" * 2**20, "two-byte ids"),
        (b"\x0a\xff\xff\xff\xff\x7f", "two-byte ids"),
        (b"", "two-byte ids"),
    ],
)
def test_model_files_that_would_take_long_or_are_broken_are_refused(proto, fault):
    with pytest.raises(TokenizerError, match=fault):
        Tokenizer(2, proto)


def plain_model(tmp_path, **settings):
    model = io.BytesIO()
    lines = [line for seed in range(4) for line in text(800, seed).decode().splitlines()]
    options = {"byte_fallback": True, "add_dummy_prefix": False, "remove_extra_whitespaces": False}
    options |= {
        "normalization_rule_name": "identity",
        "model_type": "bpe",
        "vocab_size": 400,
        "minloglevel": 3,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, **{**options, **settings}
    )
    path = tmp_path / "plain.model"
    path.write_bytes(model.getvalue())
    return Tokenizer.load(path)


def test_a_model_file_that_changes_nothing_is_lossless(tmp_path):
    model = plain_model(tmp_path)
    assert model.lossless and model.bos == 1
    for document in (text(300, 7), bytes(range(256)), "▁ ▁▁a ▁".encode(), b" a  b ", b"", b"\n\n \n"):
        ids = Encoder(model).encode(document)
        assert model.decode(ids) == document
        assert not document or counted(model, ids) == len(document)
    assert Tokenizer.from_bytes(model.to_bytes()).identity == model.identity


@pytest.mark.parametrize(
    "settings",
    [
        {"normalization_rule_name": "nmt_nfkc"},
        {"remove_extra_whitespaces": True},
        {"add_dummy_prefix": True},
        {"byte_fallback": False},
    ],
)
def test_a_model_file_that_changes_text_says_so_and_counts_what_it_decodes_to(tmp_path, settings):
    model = plain_model(tmp_path, **settings)
    assert not model.lossless
    for document in (b"the cat  of\n\na house ", "ﬁ ① café".encode(), b" x"):
        ids = Encoder(model).encode(document)
        assert counted(model, ids) == len(model.decode(ids))
    assert model.decode(Encoder(model).encode(b"the cat of a house")) == b"the cat of a house"


LONG_DOCUMENTS = {
    "line ends": b"\n" * 70_000,
    "one line": b"the people " * 500_000,
    "zeros": b"\0" * 5_000_000 + b"\n\nthe",
    "both": (b"\n" * 130 + b"x" * 9000 + b"\n") * 300,
}


@pytest.mark.parametrize("name", LONG_DOCUMENTS)
def test_long_documents_have_the_same_ids_in_pieces(name, monkeypatch):
    document, made = LONG_DOCUMENTS[name], Encoder(train_tokenizer([b"the people of the people " * 40], 264))
    pieces = [*made.encode_pieces(document)]
    shares = [share for _, share in pieces]
    assert len(pieces) > 1 and shares == sorted(shares) and shares[-1] == 1
    monkeypatch.setattr("bitgolf.text.encoder.PIECE_PATTERN", re.compile(b"(?s:.+)"))
    at_once = made.encode(document)
    assert np.array_equal(np.concatenate([ids for ids, _ in pieces]), at_once)
    monkeypatch.setattr("bitgolf.text.tokenizer.DECODED_TOKENS", 1000)
    assert made.tokenizer.decode(at_once[:5000]) == document[: len(made.tokenizer.decode(at_once[:5000]))]
    monkeypatch.undo()
    assert made.tokenizer.decode(at_once) == document


def test_pieces_of_tokens_know_the_boundary_before_them(monkeypatch, tmp_path):
    (tmp_path / "tok.model").write_bytes(model(1))
    public = Tokenizer.load(tmp_path / "tok.model")
    ids = Encoder(public).encode(b"the people of the people")
    ids = np.concatenate([[public.bos], ids, [public.bos], ids]).astype(np.uint16)
    whole = public.decode(ids)
    for tokens in (1, 2, 3, len(ids) - 1):
        monkeypatch.setattr("bitgolf.text.tokenizer.DECODED_TOKENS", tokens)
        assert public.decode(ids) == whole == b"the people of the people" * 2
