"""The fast arithmetic of a step against plain torch, and files in either."""

import numpy as np
import pytest
import torch

from bitgolf.base.errors import ArtifactError
from bitgolf.base.events import finish
from bitgolf.net.kernels import AttentionMask, attend_last
from bitgolf.net.model import ModelPlan
from bitgolf.net.parts import Linear
from bitgolf.net.products import product
from bitgolf.proof import file
from bitgolf.proof.adapted import AdaptedPlan
from bitgolf.proof.arithmetic import NATIVE, PLAIN, PORTABLE, arithmetic_here, within
from bitgolf.proof.attention import attend_rows, attend_rows_plainly, attend_step, supports
from bitgolf.proof.crew import Coder
from bitgolf.proof.file import compress_adapted, compress_tokens, decompress, read_header
from bitgolf.proof.lanes import Lanes
from bitgolf.proof.prove import claims_of, refuse_untrue
from tests.proof.test_adapted import PLANS
from tests.proof.test_proof import ODD_TEXTS, coder, encoded, shaken  # noqa: F401

SCORES = {"stepwise_bits_per_byte": 1.0, "parallel_bits_per_byte": 1.0, "alarm": "not looked at here"}
PLAN = ModelPlan(vocabulary_size=64, layers=2, width=32, heads=4, kv_heads=2)


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("count, group, lanes, width", [(2, 2, 3, 8), (1, 6, 1, 12), (3, 1, 5, 4)])
@pytest.mark.parametrize("end, window", [(1, 0), (17, 0), (40, 0), (40, 9), (5, 9)])
@torch.inference_mode()
def test_attention_of_one_query_is_that_of_many(count, group, lanes, width, end, window):
    q, mask = 3 * drawn(count, group, lanes, 1, width), AttentionMask(window=window)
    keys, values = (drawn(count * lanes, width, 40 + i).mT[:, :40] for i in (0, 1))
    keys, values = (each.mT.contiguous().mT for each in (keys, values))
    keys[:, end:], values[:, end:] = torch.nan, torch.inf  # what is not filled yet is not looked at
    assert supports(q, keys, values, mask)
    found = attend_step(q, keys, values, end, mask)
    exact = attend_last(q.double(), keys[:, :end].double(), values[:, :end].double(), mask)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
    plainly = np.empty((lanes, count, group, width), np.float32)
    given = q[:, :, :, 0].numpy(), keys.mT.numpy(), values.mT.numpy(), max(0, end - window) if window else 0
    attend_rows_plainly(*given, end, plainly)
    np.testing.assert_allclose(found.numpy().ravel(), plainly.ravel(), rtol=1e-5, atol=1e-6)
    assert attend_rows is not attend_rows_plainly


@torch.inference_mode()
def test_what_attention_does_not_know_is_left_to_torch():
    q, kept, mask = drawn(1, 2, 3, 1, 8), drawn(3, 8, 20).mT, AttentionMask()
    assert supports(q, kept, kept, mask)
    assert not supports(drawn(1, 2, 3, 2, 8), kept, kept, mask)
    assert not supports(drawn(1, 2, 3, 1, 6), drawn(3, 6, 20).mT, drawn(3, 6, 20).mT, mask)
    assert not supports(q.double(), kept.double(), kept.double(), mask)
    assert not supports(q, kept, kept, AttentionMask(score_mods=(lambda scores, first, start: scores,)))


def test_a_model_is_as_it_was_after_each_step():
    model = shaken(PLAN)

    def way():
        return [each.multiply for each in model.modules() if isinstance(each, Linear)], model.kernels

    before = way()
    lanes = Lanes(model, 20, 6, 3, 1, NATIVE)
    for token in range(9):
        lanes.logits()
        assert way() == before
        lanes.follow(torch.full((20,), token))
    with pytest.raises(ZeroDivisionError), within(NATIVE, model):
        assert {*way()[0]} == {product} and way()[1] is not before[1]
        raise ZeroDivisionError
    assert way() == before


@pytest.mark.parametrize("arithmetic", [PLAIN, NATIVE])
def test_lanes_that_stopped_go_on_to_the_same_bits(arithmetic):
    def step(lanes, token):
        found = lanes.logits().clone()
        lanes.follow(torch.full((2,), token))
        return found

    model, tokens = shaken(PLAN), list(range(20, 31))
    whole, first, second = (Lanes(model, 2, 6, 3, 1, arithmetic) for _ in range(3))
    expected = [step(whole, token) for token in tokens]
    for token in tokens[:8]:
        step(first, token)
    second.restore(first.state())
    assert all(torch.equal(step(second, token), logits) for token, logits in zip(tokens[8:], expected[8:]))


def test_files_in_plain_arithmetic_are_read_as_ever(coder, monkeypatch):  # noqa: F811
    """They are written no more; their head says in what they were made."""
    text = ODD_TEXTS["text"]
    tokens = encoded(coder, text)
    found = {}
    for arithmetic, ways in ((NATIVE, (file.NATIVELY, file.ADAPTED)), (PLAIN, (2, 4))):
        monkeypatch.setattr(Coder, "arithmetic", arithmetic)
        monkeypatch.setattr(file, "NATIVELY", ways[0])
        monkeypatch.setattr(file, "ADAPTED", ways[1])
        found[arithmetic] = [
            finish(compress_tokens(coder, tokens, text, lanes=3)).data,
            finish(
                compress_adapted(
                    coder, AdaptedPlan.of(PLANS["mixes"]), tokens[:60], coder.tokenizer.decode(tokens[:60])
                )
            ).data,
        ]
        assert [read_header(each).method for each in found[arithmetic]] == [*ways]
        monkeypatch.undo()
        assert {claims_of(coder, each)["arithmetic"] for each in found[arithmetic]} == {arithmetic}
    for both in found.values():
        assert finish(decompress(coder, both[0])) == text
        assert finish(decompress(coder, both[1])) == coder.tokenizer.decode(tokens[:60])
    assert abs(len(found[NATIVE][0]) - len(found[PLAIN][0])) <= 4
    assert {file.ARITHMETIC[2], file.ARITHMETIC[4]} == {PLAIN}
    true = claims_of(coder, found[PLAIN][0])
    of_before = {name: said for name, said in true.items() if name != "arithmetic"} | SCORES
    refuse_untrue(of_before, true, portable=False)
    with pytest.raises(ArtifactError, match="arithmetic"):
        refuse_untrue({**of_before, "arithmetic": NATIVE}, true, portable=False)
    assert len({arithmetic_here(each) for each in (PLAIN, NATIVE, PORTABLE)}) == 3
