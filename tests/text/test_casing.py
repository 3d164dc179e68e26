"""Capitals become operators and come back, in our form and the public one, and every byte is counted once."""

import io
import random
import re

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.base.errors import ShardError
from bitgolf.public.case import (
    CONTROLS,
    decode_public_case,
    encode_public_case,
    is_sidecar,
    original_bytes,
    read_sidecar,
    sidecar_path,
    tokenize_public_case,
    write_sidecar,
)
from bitgolf.text.casing import FOLDED_BYTES, fold_case, operator_at_end, unfold_case
from bitgolf.text.encoder import Encoder, train_tokenizer
from bitgolf.text.shards import read_shard, write_shard
from bitgolf.text.tokenizer import MERGES_KIND, Tokenizer

BY_HAND = {
    "The NASA iPhone McDonald A USA x": "Tthe Anasa iCphone TmcCdonald Ta Ausa x",
    "HTTPServer aB AB Ab ABc aBC": "ThCtCtCpCserver aCb Aab Tab TaCbc aCbCc",
    "I'm U.S.-BORN, 3D x9Y_Z": "Ti'm Tu.Ts.-Aborn, 3Td x9Ty_Tz",
    "ÉCOLE École ñA 你A好B": "ÉAcole École ñTa 你Ta好Tb",
    "": "",
    "no capitals, 1,024 of them\n": "no capitals, 1,024 of them\n",
}
MIXED = st.text(
    st.one_of(st.sampled_from("abXYZATCB 9'\n" + CONTROLS), st.characters(codec="utf-8")), max_size=40
)
ANY_BYTES = st.one_of(
    st.binary(), MIXED.map(str.encode), st.lists(st.sampled_from(b"abTACBXZ .\xc3\x89")).map(bytes)
)


def fold_by_definition(text: str, title: str, all_caps: str, cap_next: str) -> str:
    """The definition read out: word by word, letter by letter."""
    parts = []
    for word in re.split("([A-Za-z]+)", text):
        low = word.lower()
        if not re.fullmatch("[A-Za-z]+", word) or word == low:
            parts.append(word)
        elif len(word) >= 2 and word == word.upper():
            parts.append(all_caps + low)
        else:
            marks = [cap_next if letter.isupper() else "" for letter in word]
            marks[0] = title if word[0].isupper() else ""
            parts += [mark + letter for mark, letter in zip(marks, low)]
    return "".join(parts)


@pytest.mark.parametrize("text", BY_HAND)
def test_words_by_hand_in_both_forms(text):
    assert fold_case(text.encode()).decode() == BY_HAND[text]
    assert unfold_case(BY_HAND[text].encode()).decode() == text
    public = BY_HAND[text].translate(str.maketrans("TAC", "\ue001\ue002\ue003"))
    assert encode_public_case(text) == public
    assert decode_public_case(public) == text


@settings(max_examples=300, deadline=None)
@given(ANY_BYTES)
def test_any_bytes_fold_by_the_definition_and_come_back(text):
    folded = fold_case(text)
    assert folded.decode("latin-1") == fold_by_definition(text.decode("latin-1"), "T", "A", "C")
    assert unfold_case(folded) == text
    assert set(folded) <= set(FOLDED_BYTES)
    assert len(folded) - sum(map(folded.count, (b"T", b"A", b"C"))) == len(text)


@settings(deadline=None)
@given(ANY_BYTES, st.integers(0, 40))
def test_a_text_unfolds_in_parts_too(folded, cut):
    head, rest = folded[:cut], folded[cut:]
    assert unfold_case(head) + unfold_case(operator_at_end(head) + rest) == unfold_case(folded)


def test_operators_left_alone_do_nothing():
    for folded, text in {
        b"T": b"",
        b"TTa": b"A",
        b"T.aC": b".a",
        b"AnCasa.na": b"NAsa.na",
        b"AnasaBnasa": b"NASAnasa",
        b"aTb": b"aB",
        b"AATC": b"",
    }.items():
        assert unfold_case(folded) == text


@settings(max_examples=300, deadline=None)
@given(MIXED)
def test_the_public_form_keeps_every_text(text):
    encoded = encode_public_case(text)
    assert decode_public_case(encoded) == text
    escaped = "".join(f"\ue004{letter}" if letter in CONTROLS else letter for letter in text)
    assert encoded == fold_by_definition(escaped, *CONTROLS[:3])
    assert not re.search("[A-Z]", encoded)


@settings(max_examples=300, deadline=None)
@given(MIXED, st.randoms())
def test_the_bytes_behind_the_parts_are_those_of_the_text_wherever_it_is_cut(text, chosen):
    encoded = encode_public_case(text)
    cuts = sorted(chosen.choices(range(len(encoded) + 1), k=5))
    parts = [encoded[a:b] for a, b in zip([0, *cuts], [*cuts, len(encoded)])]
    assert sum(original_bytes(parts)) == len(text.encode())


def test_bytes_behind_parts_by_hand():
    assert original_bytes(["\ue001", "the", " \ue002us", "a é", "\ue004", "\ue004", "\ue004\ue001", ""]) == [
        0, 3, 3, 4, 0, 3, 3, 0,
    ]  # fmt: skip
    assert original_bytes([]) == []


# ---- tokenizers ----


def sentence(seed: int) -> str:
    """Made-up words, every other one with capitals."""
    chosen = random.Random(seed)
    syllables = "ba ce di fo gu ha ke li mo nu pra ste tri".split()
    words = ["".join(chosen.choices(syllables, k=chosen.randint(1, 3))) for _ in range(200)]
    forms = (
        str.lower,
        str.lower,
        str.title,
        str.upper,
        str.swapcase,
        lambda word: word[:2] + word[2:].title(),
    )
    return " ".join(chosen.choice(forms)(word) for word in words)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([sentence(seed).encode() for seed in range(20)], 500, case_ops=True)


def test_an_operator_and_its_word_can_be_one_token(tokenizer):
    together = [tokenizer.piece(token) for token in range(tokenizer.vocabulary_size)]
    assert any(re.fullmatch(rb" [A-Z][a-z]+", piece) for piece in together)
    assert any(re.fullmatch(rb" ?[A-Z]{2,}", piece) for piece in together)
    assert tokenizer.case_ops and tokenizer.lossless


@settings(max_examples=200, deadline=None)
@given(ANY_BYTES)
def test_ids_give_back_the_bytes_and_count_them(tokenizer, document):
    ids = Encoder(tokenizer).encode(document)
    assert tokenizer.decode(ids) == document
    assert int(tokenizer.token_bytes(ids, ids).sum()) == len(document)
    assert tokenizer.decode(Encoder(Tokenizer.from_bytes(tokenizer.to_bytes())).encode(document)) == document


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 520), max_size=40))
def test_any_ids_have_a_text_of_the_counted_length_that_only_grows(tokenizer, ids):
    """Sampling and piecewise decoding depend on it."""
    row = np.array(ids, np.uint16)
    text = tokenizer.decode(row)
    assert len(text) == int(tokenizer.token_bytes(row, row).sum())
    assert text.lower() == b"".join(map(tokenizer.piece, ids)).lower()
    for end in range(len(ids)):
        assert text.startswith(tokenizer.decode(row[:end]))


@settings(max_examples=100, deadline=None)
@given(st.lists(ANY_BYTES, max_size=5))
def test_documents_decode_alone_as_in_the_stream(tokenizer, documents):
    rows = list(Encoder(tokenizer).encode_documents(documents))
    assert [tokenizer.decode(row) for row in rows] == documents
    assert tokenizer.decode(np.concatenate([np.zeros(0, np.uint16), *rows])) == b"".join(documents)


PLANTED = {
    "operators counted as bytes": lambda tokenizer: tokenizer.base_bytes.__setitem__(
        slice(tokenizer.vocabulary_size), [len(piece) for piece in tokenizer.pieces]
    ),
    "operators past the end of a document": lambda tokenizer: tokenizer.pieces.__setitem__(1, b""),
    "text not folded": lambda tokenizer: setattr(tokenizer, "case_ops", False),
    "text not unfolded": lambda tokenizer: setattr(tokenizer, "_unfold", bytes),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_noticed(tokenizer, bug):
    documents = [b"The NASA", b"xyz iPhone ", b"McDonald"]

    def sound(tokenizer: Tokenizer) -> bool:
        stream = np.concatenate(list(Encoder(tokenizer).encode_documents(documents)))
        whole = b"".join(documents)
        return tokenizer.decode(stream) == whole and tokenizer.token_bytes(stream, stream).sum() == len(whole)

    planted = Tokenizer.from_bytes(tokenizer.to_bytes())
    assert sound(planted)
    PLANTED[bug](planted)
    assert not sound(planted)


def test_a_stored_form_that_claims_the_other_kind_is_another_tokenizer(tokenizer):
    plain = Tokenizer(MERGES_KIND, tokenizer.body)
    assert plain.identity != tokenizer.identity and not plain.case_ops


# ---- public tokenizers and sidecars ----


@pytest.fixture(scope="module")
def public_model() -> sentencepiece.SentencePieceProcessor:
    """A model of the kind that the challenge's CaseOps uses, small, and one that strips nothing."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(encode_public_case(sentence(seed)) for seed in range(20)),
        model_writer=model,
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        user_defined_symbols=list(CONTROLS),
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=3,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@settings(max_examples=200, deadline=None)
@given(MIXED)
def test_a_public_document_accounts_for_its_bytes(public_model, text):
    ids, counts = tokenize_public_case(public_model, text)
    assert ids[0] == 1 and counts[0] == 0 and len(ids) == len(counts)
    assert (ids.dtype, counts.dtype) == (np.uint16, np.int64)
    assert int(counts.sum()) == len(text.encode())


def test_public_tokens_by_hand(public_model):
    ids, counts = tokenize_public_case(public_model, "Ba你 KE\ue001")
    pieces = [public_model.id_to_piece(int(token)) for token in ids]
    assert pieces[:3] == ["<s>", "\ue001", "ba"] and pieces[-2:] == ["\ue004", "\ue001"]
    assert counts[:3].tolist() == [0, 0, 2] and counts[-2:].tolist() == [0, 3]
    assert counts.sum() == len("Ba你 KE\ue001".encode())


def test_sidecars_lie_beside_their_shards(public_model, tmp_path):
    shard = tmp_path / "fineweb_val_000000.bin"
    texts = [sentence(seed) for seed in range(3)]
    rows = [tokenize_public_case(public_model, text) for text in texts]
    write_shard(shard, np.concatenate([ids for ids, _ in rows]))
    write_sidecar(shard, np.concatenate([counts for _, counts in rows]))
    assert sidecar_path(shard) == tmp_path / "fineweb_val_bytes_000000.bin"
    assert [path.name for path in tmp_path.glob("*val*.bin") if not is_sidecar(path)] == [shard.name]
    counts = read_sidecar(shard)
    assert int(counts.sum(dtype=np.int64)) == sum(len(text.encode()) for text in texts)
    assert not counts[read_shard(shard) == 1].any()
    with pytest.raises(ShardError, match="one entry for each of the"):
        write_sidecar(shard, counts[:-1])
    write_shard(shard, [1, 2])
    with pytest.raises(ShardError, match=r"fineweb_val_bytes_000000\.bin: a sidecar needs"):
        read_sidecar(shard)
