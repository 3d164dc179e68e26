import math
import time

import numpy as np
import pytest
import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.net.embed import SmearVector
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.report.sample import choose, logits_of, next_logits, sample, until

BOS = 256


@pytest.fixture(autouse=True)
def encoded_by_the_tokenizer_itself(monkeypatch):
    monkeypatch.setattr("bitgolf.report.sample.Encoder", lambda tokenizer: tokenizer)


class Bytes:
    bos = BOS

    def encode(self, document):
        return np.frombuffer(document, np.uint8).astype(np.uint16)

    def decode(self, ids):
        return bytes(int(i) for i in ids if i < BOS)


class Speller(torch.nn.Module):
    """Says the same bytes again and again, as sure as can be, and notes what it was shown."""

    def __init__(self, text: bytes, stop: bool = False) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.text, self.stop, self.shown = text, stop, []

    def logits(self, inputs):
        self.shown.append(inputs[0].tolist())
        step = len(self.shown) - 1
        says = BOS if self.stop and step == len(self.text) else self.text[step % len(self.text)]
        logits = torch.full((1, inputs.shape[1], 257), -50.0)
        logits[0, -1, says] = 50.0
        return logits


def test_pieces_are_text_even_where_a_letter_is_split():
    pieces = list(sample(Speller("zwölf €".encode()), Bytes(), tokens=10))
    assert "".join(pieces) == "zwölf €"
    assert pieces[2] == ""  # the first half of ö
    assert pieces[3] == "ö"


def test_broken_text_becomes_replacement_marks():
    assert "".join(sample(Speller("a€".encode()), Bytes(), tokens=3)) == "a\ufffd"


def test_ends_with_the_document():
    model = Speller(b"end.", stop=True)
    assert "".join(sample(model, Bytes(), tokens=100)) == "end."


def test_prompt_and_window():
    model = Speller(b"x")
    assert "".join(sample(model, Bytes(), b"ab", tokens=3, window=4)) == "xxx"
    assert model.shown == [[BOS, 97, 98], [BOS, 97, 98, 120], [97, 98, 120, 120]]


def test_real_model_is_deterministic_by_seed_and_quick():
    model = build_model(ModelPlan(vocabulary_size=1024, layers=4, width=128, heads=4, kv_heads=2))
    tokenizer = Bytes()
    tokenizer.decode = lambda ids: b"".join(b"%d " % i for i in ids)
    started = time.perf_counter()
    texts = ["".join(sample(model, tokenizer, tokens=100, top_p=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert time.perf_counter() - started < 20


LOGITS = np.log(np.array([0.5, 0.1, 0.3, 0.1]))


def frequencies(temperature: float, top_p: float, top_k: int = 0, min_p: float = 0) -> list[float]:
    draws = (np.arange(1000) + 0.5) / 1000
    picks = [choose(LOGITS, temperature, top_p, draw, top_k, min_p) for draw in draws]
    return [round(picks.count(token) / 1000, 2) for token in range(4)]


@pytest.mark.filterwarnings("error")
def test_temperature():
    assert frequencies(1, 1) == [0.5, 0.1, 0.3, 0.1]
    assert frequencies(0, 1) == frequencies(1e-320, 1) == [1, 0, 0, 0]
    colder = np.exp(LOGITS * 2) / np.exp(LOGITS * 2).sum()
    assert frequencies(0.5, 1) == [round(p, 2) for p in colder]


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    assert frequencies(1, 0.75) in ([0.62, 0, 0.38, 0], [0.63, 0, 0.37, 0])
    assert frequencies(1, 0.45) == [1, 0, 0, 0]
    assert math.isclose(sum(frequencies(1, 0.85)), 1)
    assert frequencies(1, 0.85)[1] > 0


def test_top_k_and_min_p():
    assert frequencies(1, 1, top_k=2) in ([0.62, 0, 0.38, 0], [0.63, 0, 0.37, 0])
    assert frequencies(1, 1, top_k=1) == [1, 0, 0, 0]
    assert frequencies(1, 1, top_k=9) == frequencies(1, 1)
    assert frequencies(1, 1, min_p=0.5) in ([0.62, 0, 0.38, 0], [0.63, 0, 0.37, 0])
    assert frequencies(1, 1, min_p=1) == [1, 0, 0, 0]
    assert frequencies(1, 0.75, top_k=3, min_p=0.01) == frequencies(1, 0.75)


def test_stops_before_the_first_of_some_texts_wherever_pieces_are_cut():
    text = "one. two\nthree"
    for size in range(1, 6):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        for stop, found in (((), text), (("two",), "one. "), (("\nthr", ". t"), "one"), (("four", ""), text)):
            assert "".join(until(pieces, stop)) == found
    assert list(until(["ab", "c"], ["bcd"])) == ["a", "", "bc"]  # shown as soon as it cannot be the stop
    assert "".join(sample(Speller(b"end. and"), Bytes(), tokens=20, stop=[" a"])) == "end."


@pytest.mark.parametrize("parts", [{}, {"embed": (SmearVector(),)}])
def test_kept_keys_and_values_give_the_logits_of_a_whole_pass(parts):
    """Up to a full window, and after it has begun again with its second half; a prompt may be longer."""
    plan = ModelPlan(vocabulary_size=257, layers=3, width=32, heads=2, kv_heads=1, **parts)
    model = build_model(plan).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(7)))
    tokens = np.random.default_rng(0).integers(0, 256, 40).tolist()
    for first in (1, 5, 20):
        ids, seen = tokens[:first], min(first, 16)
        steps = logits_of(model, ids, 16)
        for token in tokens[first:]:
            found = next(steps)
            model.window = 16
            assert found == pytest.approx(next_logits(model, ids[-seen:]), abs=1e-4)
            ids.append(token)
            seen = seen + 1 if seen < 16 else 9


def test_extreme_draws_stay_in_range():
    for draw in (0.0, 1 - 1e-16):
        assert choose(LOGITS, 1, 1, draw) in range(4)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"window": 0}, {"top_k": -1}, {"min_p": 2}],
)
def test_wrong_settings(wrong):
    with pytest.raises(BitgolfError, match="cannot sample like this"):
        next(sample(Speller(b"x"), Bytes(), **wrong))


def test_nothing_to_start_from():
    tokenizer = Bytes()
    tokenizer.bos = -1
    with pytest.raises(BitgolfError, match="no document start; give a prompt"):
        next(sample(Speller(b"x"), tokenizer))
