"""Lossless models count the bytes of the text; what the challenge's rule counts is said where it differs."""

import io

import numpy as np
import pytest
import sentencepiece

from bitgolf.public.byte_counts import public_rule
from bitgolf.score.score import Scores
from bitgolf.text.encoder import Encoder, train_tokenizer
from bitgolf.text.tokenizer import MODEL_FILE_KIND, Tokenizer

TEXT = "the cat  sat   on the mat\n" * 40 + " the dog    ran\n" * 30
ODD = {
    "plain": {},
    "pieces of spaces": {"allow_whitespace_only_pieces": True},
    "across words": {"split_by_whitespace": False, "allow_whitespace_only_pieces": True},
    "given pieces": {"user_defined_symbols": ["a\u2581b", "\u2581\u2581\u2581", "\n", "the"]},
    "control pieces": {"control_symbols": ["<doc>"], "user_defined_symbols": ["\u2581\u2581"]},
}


def odd(**settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n")),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        minloglevel=3,
        **settings,
    )
    return Tokenizer(MODEL_FILE_KIND, model.getvalue())


def scored(tokenizer, document):
    ids = Encoder(tokenizer).encode(document).astype(np.int64)
    counted = tokenizer.token_bytes(ids, np.concatenate([[tokenizer.bos], ids[:-1]]))
    none = np.zeros(len(ids), np.int64)
    return Scores(
        target=ids, nats=np.ones(len(ids)), bytes=counted, document=none, position=none, context=none,
        windows="", complete=True, file_bytes=len(document),
    )  # fmt: skip


def by_the_rule(tokenizer, ids):
    """The public rule, one token after the other."""
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_file)
    total, after_special = 0, True
    for token in map(int, ids):
        piece = model.id_to_piece(token)
        special = model.is_control(token) or model.is_unknown(token) or model.is_unused(token)
        if model.is_byte(token):
            total += 1
        elif not special:
            bare = piece[1:] if piece.startswith("\u2581") else piece
            total += len(bare.encode()) + (bare != piece and not after_special)
        after_special = special
    return total


@pytest.mark.parametrize("kind", ODD)
def test_a_lossless_model_counts_the_text_whatever_its_pieces(kind):
    tokenizer = odd(**ODD[kind])
    document = (TEXT + " \u2581 a\u2581b \u00e9\U0001f600\x00\xff").encode() + b"\xff\xfe"
    scores = scored(tokenizer, document)
    assert tokenizer.lossless and tokenizer.decode(scores.target) == document
    assert scores.bytes.sum() == len(document)
    said, expected = public_rule(tokenizer, scores), by_the_rule(tokenizer, scores.target)
    assert said.get("public_rule_bytes", len(document)) == expected
    if kind != "plain":
        assert expected > len(document)
        bits = len(scores.target) / np.log(2)
        assert said["public_rule_bits_per_byte"] == pytest.approx(bits / expected)


def test_a_tokenizer_of_ours_has_one_rule():
    tokenizer = train_tokenizer([TEXT.encode()], 270)
    assert public_rule(tokenizer, scored(tokenizer, TEXT.encode())) == {}
