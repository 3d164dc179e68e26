"""Score-first test-time training: causal to the bit, off is exact, the model comes back as it was."""

import math

import numpy as np
import pytest
import torch

from bitgolf.adapt.caps import bent_logits
from bitgolf.adapt.learner import Learner, LearningError
from bitgolf.adapt.score_first import ChunkLearner, ScoreFirst
from bitgolf.base.errors import PlanError
from bitgolf.net.backend import Backend
from bitgolf.net.model import Model
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.exam import Exam, RuleError
from bitgolf.score.score import score, scoring
from bitgolf.score.windows import Chunked, PerDocument, Sliding
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.quantize import AbsMax, QuantRule
from bitgolf.train.optim import AdamRule, MuonRule, SgdRule
from bitgolf.train.qat import FakeQuantize
from tests.score.test_score import SLIDING, Bytes, make_model, plan

CHUNK = 64
SHAPES = {"chunked": Chunked(length=16), "sliding": SLIDING, "documents": PerDocument(within=SLIDING)}
COARSE = FakeQuantize(rules=(QuantRule(quantizer=AbsMax(grid=Grid(bits=6))),))


def adapter(**fields) -> ScoreFirst:
    given = {"chunk_tokens": CHUNK, "epochs": 2, "rule": SgdRule(lr=0.05), "batch_sequences": 2}
    return ScoreFirst(**{**given, **fields})


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    """Text that repeats, so that something can be learnt from it."""
    stream = np.tile(np.arange(37), 9)[:301].astype(np.uint16)
    stream[[0, 100, 101, 230]] = 256
    return stream


def nats(tokens, windows=SLIDING, model=None, **fields) -> np.ndarray:
    """Scores of windows one by one, so that no bit depends on what shares a batch."""
    return score(model or make_model(), tokens, Bytes(), plan(windows, batch_tokens=1, **fields)).nats


@pytest.mark.parametrize("windows", SHAPES.values(), ids=SHAPES)
def test_it_learns_from_what_was_scored(tokens, windows):
    fixed, adapted = nats(tokens, windows), nats(tokens, windows, adapter=adapter())
    first = sum(w.end - w.first_scored for w in windows.windows(301, [0, 100, 230]) if w.first_scored < CHUNK)
    assert np.array_equal(adapted[:first], fixed[:first])
    assert adapted[first:].mean() < fixed[first:].mean() - 0.1


@pytest.mark.parametrize("windows", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rule", [SgdRule(lr=0.0), AdamRule(lr=0.0)])
def test_at_rate_zero_every_bit_is_that_of_the_fixed_model(tokens, windows, rule, monkeypatch):
    fixed, whole = nats(tokens, windows), score(make_model(), tokens, Bytes(), plan(windows)).nats
    still = adapter(rule=rule)
    together = score(make_model(), tokens, Bytes(), plan(windows, adapter=still)).nats
    assert not still.on and np.array_equal(together, whole)
    monkeypatch.setattr(ScoreFirst, "on", True)  # then it learns, by nothing: exact window by window
    assert np.array_equal(nats(tokens, windows, adapter=still), fixed)


def test_what_changes_nothing_is_off():
    still = SgdRule(lr=0.0)
    off = [adapter(rule=rule) for rule in (still, AdamRule(lr=0.0), MuonRule(lr=0.0))]
    off += [adapter(epochs=0), adapter(rule=still, caps=still)]
    on = [adapter(), adapter(rule=still, caps=SgdRule()), adapter(rule=still, noise=COARSE)]
    assert not any(each.on for each in off) and all(each.on for each in on)
    assert (
        plan(SLIDING, adapter=off[0]).learner == NoAdapter() and plan(SLIDING, adapter=on[0]).learner == on[0]
    )


@pytest.mark.parametrize("windows", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_no_later_chunk_touches_a_score(tokens, windows, chunk):
    changed = tokens.copy()
    changed[chunk * CHUNK + 33 :] = 7  # a window may reach into the chunk after its own
    before, after = (nats(each, windows, adapter=adapter()) for each in (tokens, changed))
    assert np.array_equal(before[: chunk * CHUNK], after[: chunk * CHUNK])
    assert not np.array_equal(before[chunk * CHUNK :], after[chunk * CHUNK :])


def test_a_log_of_events_proves_score_before_training(tokens, monkeypatch):
    events, ask, released = [], Exam.ask, Exam.released

    def asked(self, indices):
        events.extend(
            ("score", t) for i in indices for t in range(self.windows[i].first_scored, self.windows[i].end)
        )
        return ask(self, indices)

    def given(self, start, end):
        events.extend(("train", t) for t in range(start, end))
        return released(self, start, end)

    monkeypatch.setattr(Exam, "ask", asked)
    monkeypatch.setattr(Exam, "released", given)
    nats(tokens, adapter=adapter())
    place = {event: number for number, event in enumerate(events)}
    assert len(place) == len(events)  # nothing is scored or released twice
    assert [t for what, t in events if what == "score"] == list(range(300))
    assert [t for what, t in events if what == "train"] == list(range(4 * CHUNK))  # all but the last chunk
    assert all(place["score", t] < place["train", t] for t in range(4 * CHUNK))


class TooEarly(ChunkLearner):
    """The fault: it trains on the chunk that is scored next."""

    def learn(self, exam, part):
        self.chunk += 1
        super().learn(exam, part)
        self.chunk -= 1


def test_to_learn_before_the_answer_is_refused(tokens, monkeypatch):
    monkeypatch.setattr("bitgolf.adapt.score_first.ChunkLearner", TooEarly)
    with pytest.raises(RuleError, match="not scored yet"):
        nats(tokens, adapter=adapter())


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_comes_back_as_it_was(tokens, monkeypatch, broken):
    model = make_model().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if broken:
        monkeypatch.setattr("bitgolf.adapt.learner.clipped_step", lambda *_: 1 / 0)
    fields = {"adapter": adapter(frozen=("blocks.0.*",), noise=COARSE)}
    try:
        nats(tokens, model=model, **fields)
    except ZeroDivisionError:
        assert broken
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters()) and not model.training


def test_bounds_of_logits_bend_each_sign_by_its_own():
    raw = torch.linspace(-9, 9, 37, dtype=torch.float64)
    caps = torch.tensor([2.0, 5.0], dtype=torch.float64, requires_grad=True)
    found = bent_logits(raw, caps)
    for x, each in zip(raw.tolist(), found.tolist()):
        assert each == pytest.approx(2 * math.tanh(x / 2) if x > 0 else 5 * math.tanh(x / 5))
    assert torch.autograd.gradcheck(lambda c: bent_logits(raw, c), (caps,))


@pytest.mark.parametrize("fused", [False, True])
def test_bounds_of_logits_learn_and_are_exact_at_rest(tokens, fused):
    def scored(**fields) -> tuple[np.ndarray, Model]:
        model = make_model().use(Backend(fused=fused))
        return nats(tokens, model=model, adapter=adapter(rule=SgdRule(lr=0.0), **fields)), model

    fixed, _ = scored()
    still, model = scored(caps=SgdRule(lr=0.0))
    assert np.array_equal(still, fixed)
    assert [*dict(model.named_parameters())] == [*dict(make_model().named_parameters())]
    assert not {"nats_of", "logits_of"} & vars(model).keys()
    moved, _ = scored(caps=SgdRule(lr=1000.0))
    assert np.array_equal(moved[:CHUNK], fixed[:CHUNK]) and not np.array_equal(moved, fixed)


def test_only_the_bounds_learn_where_all_else_is_frozen(tokens, monkeypatch):
    seen, step = [], Learner.learn

    def watched(self, *given):
        step(self, *given)
        seen.append({name: tensor.detach().clone() for name, tensor in self.model.named_parameters()})

    monkeypatch.setattr(Learner, "learn", watched)
    own = dict(make_model().named_parameters())
    nats(tokens, adapter=adapter(frozen=("*",), caps=AdamRule(lr=0.5)))
    assert all(torch.equal(seen[-1][name], own[name]) for name in own)
    above, below = seen[-1]["logit_caps"].tolist()
    assert above != 30.0 and below != 30.0 and above != below


def test_frozen_tensors_do_not_learn_and_others_do(tokens, monkeypatch):
    model, moved = make_model(), {}
    start = {name: tensor.clone() for name, tensor in model.named_parameters()}
    learn = Learner.learn

    def watched(self, *arguments):
        learn(self, *arguments)
        moved.update({n: not torch.equal(start[n], p) for n, p in self.model.named_parameters()})

    monkeypatch.setattr(Learner, "learn", watched)
    nats(tokens, model=model, adapter=adapter(frozen=("*.weight",)))  # #1718: matrices frozen
    assert moved == {name: not name.endswith(".weight") for name in start}
    nats(tokens, model=model, adapter=adapter(tensors=("tok_emb.*", "blocks.1.*"), frozen=("*.attn.*",)))
    assert {n for n in moved if moved[n]} == {
        "tok_emb.weight",
        *(
            f"blocks.1.{name}"
            for name in ("attn_scale", "mlp_scale", "resid_mix", "mlp.fc.weight", "mlp.proj.weight")
        ),
    }


@pytest.mark.parametrize("rule", [AdamRule(lr=0.003), MuonRule(lr=0.02, warmup_steps=0)])
def test_any_rule_of_the_parameter_table_will_do(tokens, rule):
    gain = nats(tokens).mean() - nats(tokens, adapter=adapter(rule=rule, tensors=("blocks.*.weight",))).mean()
    assert gain > 0.05


def test_fake_quantization_stays_on_while_it_adapts(tokens, monkeypatch):
    """Trained and scored weights are on the grid; the gradient moves those behind them."""
    seen, learn = [], Learner.learn

    def watched(self, *arguments):
        learn(self, *arguments)
        seen.append(self.model.blocks[0].mlp.fc.weight.detach().clone())

    monkeypatch.setattr(Learner, "learn", watched)
    coarse = nats(tokens, adapter=adapter(noise=COARSE))
    quantizer = COARSE.rules[0].quantizer
    assert len(seen) == 4 and not torch.equal(seen[0], seen[3])
    for weight in seen:
        assert len((weight[0] / weight[0].abs().max() * 31).unique()) <= 64
        torch.testing.assert_close(quantizer.fake_quantize(weight), weight, rtol=1e-2, atol=1e-3)
    assert not np.array_equal(coarse, nats(tokens, adapter=adapter()))


def test_fused_and_plain_kernels_learn_the_same(tokens):
    fused = Backend(fused=True, attention="chunk")
    plain, fast = (nats(tokens, model=make_model().use(b), adapter=adapter()) for b in (Backend(), fused))
    np.testing.assert_allclose(fast, plain, atol=2e-3)


def test_rates_fall_over_the_chunks_and_momentum_is_kept(tokens, monkeypatch):
    rates = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self)
    )
    nats(tokens, adapter=adapter(epochs=1, batch_sequences=9))
    assert rates == pytest.approx([0.05 * (1 + np.cos(np.pi * c / 4)) / 2 for c in range(4)])


def test_a_sample_of_windows_is_scored_and_checked_without_learning(tokens):
    steps = scoring(make_model(), tokens, Bytes(), plan(SLIDING, adapter=adapter()), sample=3)
    assert max(done for done, _ in steps) < 60
    with pytest.raises(LearningError, match="no longer than a chunk"):
        list(scoring(make_model(), tokens[:60], Bytes(), plan(SLIDING, adapter=adapter()), sample=3))


def test_refusals(tokens):
    with pytest.raises(LearningError, match=r"tokens: 60.*score.adapter.chunk_tokens=32"):
        nats(tokens[:61], adapter=adapter())
    nats(tokens[:61], adapter=adapter(chunk_tokens=32))
    with pytest.raises(LearningError, match=r"tokens: 30.*more text, or shorter score.windows"):
        nats(tokens[:31], adapter=adapter())
    for field in ("frozen", "tensors"):
        with pytest.raises(PlanError, match=rf"score.adapter.{field}: 'bloks\.\*' matches no tensor"):
            nats(tokens, adapter=adapter(**{field: ("bloks.*",)}))
    with pytest.raises(PlanError, match="score.adapter.noise.patterns: 'bloks"):
        nats(tokens, adapter=adapter(noise=FakeQuantize(patterns=("bloks.*",), rules=COARSE.rules)))
    with pytest.raises(PlanError, match="every parameter is frozen"):
        nats(tokens, adapter=adapter(frozen=("*",)))
    with pytest.raises(LearningError, match="leave out targets"):
        nats(tokens, PerDocument(within=Chunked(length=16, tail=False)), adapter=adapter())
    with pytest.raises(LearningError, match="diverged"):
        nats(tokens, adapter=adapter(rule=SgdRule(lr=1e18), clip=0.0))
    with pytest.raises(PlanError, match="noise: it needs rules"):
        adapter(noise=FakeQuantize())
    with pytest.raises(PlanError, match="caps: SgdRule, AdamRule or Frozen, found MuonRule"):
        adapter(caps=MuonRule())
    with pytest.raises(PlanError, match="sequence_length: 65"):
        adapter(sequence_length=65)
    with pytest.raises(PlanError, match="adapter: chunk_tokens: 64 are fewer than a window of 128"):
        plan(Sliding(length=128, stride=8), adapter=adapter())
