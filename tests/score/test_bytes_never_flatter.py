"""Whatever the tokenizer and the text: no figure counts a byte that the scores do not stand for."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.corpus.passport import differing_bytes
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.score.metric import summary
from bitgolf.score.score import ScorePlan, score
from bitgolf.text.encoder import Encoder, train_tokenizer
from bitgolf.text.tokenizer import MODEL_FILE_KIND, Tokenizer
from tests.text.test_belonging import DOCUMENTS, model

MODELS = {
    "challenge": {},
    "no fallback": {"byte_fallback": False, "vocab_size": 120},
    "no document start": {"bos_id": -1, "pad_id": -1, "eos_id": 1, "unk_id": 0},
    "identity": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "identity, no prefix": {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
    },
    "folds case": {"normalization_rule_name": "nfkc_cf"},
}
PIECES = st.sampled_from(
    [
        "the",
        "people",
        " ",
        "  ",
        "\n",
        "\u2581",
        "\ufb03",
        "\u2460",
        "\ufdfa",
        "e\u0301",
        "\U0001f600",
        "X",
        "\0",
    ]
)
TEXTS = st.lists(PIECES, min_size=1, max_size=30).map("".join).map(str.encode)


@functools.cache
def made(name: str) -> tuple[Tokenizer, object]:
    if name == "ours":
        tokenizer = train_tokenizer(DOCUMENTS, 270)
    else:
        tokenizer = Tokenizer(MODEL_FILE_KIND, model(1, **MODELS[name]))
    shape = ModelPlan(vocabulary_size=tokenizer.vocabulary_size, layers=2, width=16, heads=2, kv_heads=1)
    return tokenizer, build_model(shape).eval()


@pytest.mark.parametrize("name", [*MODELS, "ours"])
@settings(max_examples=30, deadline=None)
@given(st.one_of(TEXTS, st.binary(min_size=1, max_size=60)))
def test_no_figure_counts_more_than_the_file(name, text):
    tokenizer, network = made(name)
    tokens = next(Encoder(tokenizer).encode_documents([text]))
    counted = tokenizer.token_bytes(tokens[1:], tokens[:-1]).sum() if len(tokens) > 1 else 0
    if counted == 0:
        return  # nothing to score, which is refused
    decoded = tokenizer.decode(tokens)
    scores = score(network, tokens, tokenizer, ScorePlan(), len(text), differing_bytes(text, decoded))
    figures = summary(scores)
    nats = float(scores.nats.sum(dtype=np.float64))
    assert figures["text_bytes"] <= len(text)
    assert figures["bits_per_byte"] >= nats / np.log(2) / len(text) * (1 - 1e-6)
    whole = decoded == text and not tokenizer.decode(tokens[:1])
    assert ("lossy" in figures) == (not whole)
    if "bits_per_file_byte" in figures:
        assert whole and figures["bits_per_file_byte"] == pytest.approx(nats / np.log(2) / len(text))
    if tokenizer.lossless and tokenizer.bos >= 0:
        assert figures["text_bytes"] == len(text) and "file_bytes" not in figures
