"""Low-rank test-time training of each document, and global phases beside it."""

import dataclasses

import numpy as np
import pytest
import torch

from bitgolf.adapt.documents import DocumentLearner, LoraDocuments, PhasedLora
from bitgolf.adapt.learner import LearningError
from bitgolf.adapt.lora import LORA_TARGETS, Lora
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.errors import DataError, PlanError
from bitgolf.net.backend import Backend
from bitgolf.net.heads import AttentionOutputGate
from bitgolf.net.layers import ParallelResidual
from bitgolf.net.model import Model, ModelPlan, build_model
from bitgolf.net.position import DocumentAttention
from bitgolf.net.route import Looped
from bitgolf.score.exam import Exam, RuleError
from bitgolf.score.score import finish, score, scoring
from bitgolf.score.windows import Chunked, Growing, PerDocument
from bitgolf.train.optim import AdamRule, Frozen, SgdRule
from tests.score.test_score import Bytes, make_model, plan

WINDOWS = PerDocument(within=Growing(length=24, stride=8))
STARTS = [0, 60, 61, 100, 160, 171, 230]
LATER = {
    "rank": 4,
    "alpha": 6.0,
    "targets": LORA_TARGETS,
    "rule": AdamRule(lr=0.01, beta1=0.0, beta2=0.99, eps=1e-10, weight_decay=0.5),
    "longest_first": True,
    "warm": True,
}


def adapter(**fields) -> LoraDocuments:
    given = {"rank": 3, "alpha": 3.0, "rule": AdamRule(lr=0.03, eps=1e-10), "batch_documents": 3}
    return LoraDocuments(**{**given, **fields})


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    """Documents that repeat themselves, each with letters of its own."""
    stream = (np.arange(301) % 7).astype(np.uint16)
    for number, start in enumerate(STARTS):
        stream[start:] = np.arange(301 - start) % 7 + 9 * number
        stream[start] = 256
    return stream


def looped() -> Model:
    """A layer passed three times, in parallel, with gates that look at queries."""
    shape = ModelPlan(
        vocabulary_size=257,
        layers=3,
        width=32,
        heads=4,
        kv_heads=2,
        heads_out=(AttentionOutputGate(channels=4, source="queries"),),
        residual=ParallelResidual(first=2),
        recurrence=Looped(first=1, last=1, loops=2),
        embedding_width=16,
        scope=(DocumentAttention(),),
        bos_id=256,
    )
    model, draw = build_model(shape), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


MODELS = {"plain": make_model, "looped": looped, "fused": lambda: make_model().use(FUSED)}
FUSED = Backend(fused=True, attention="chunk")


def nats(tokens, model=None, windows=WINDOWS, batch_tokens=1, **fields) -> np.ndarray:
    own = model or make_model()
    return score(own, tokens, Bytes(), plan(windows, batch_tokens=batch_tokens, **fields)).nats


def spans() -> list[slice]:
    return [slice(start, end) for start, end in zip(STARTS, [*STARTS[1:], 300])]


@pytest.mark.parametrize("fields", [{}, LATER], ids=["first", "later"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_it_learns_from_its_own_document(tokens, make, fields):
    fixed, adapted = nats(tokens, make()), nats(tokens, make(), adapter=adapter(**fields))
    for span in spans():
        first = slice(span.start, min(span.start + 8, span.stop))
        assert np.array_equal(adapted[first], fixed[first])  # nothing of it was known
    assert adapted.mean() < fixed.mean() - 0.02


@pytest.mark.parametrize("batch_documents", [1, 2, 3])
def test_a_few_windows_are_scored_by_the_fixed_model_whatever_documents_they_are_of(tokens, batch_documents):
    each = plan(WINDOWS, adapter=adapter(batch_documents=batch_documents))
    for sample in (2, 5, 100):
        some = finish(scoring(make_model(), tokens, Bytes(), each, sample=sample))
        fixed = finish(scoring(make_model(), tokens, Bytes(), plan(WINDOWS), sample=sample))
        assert np.array_equal(some.target, fixed.target) and len(some.nats) > sample
        assert some.nats == pytest.approx(fixed.nats, abs=1e-6)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_off_is_the_fixed_model_to_the_bit(tokens, make, monkeypatch):
    fixed = nats(tokens, make())
    whole = score(make(), tokens, Bytes(), plan(WINDOWS)).nats
    later = {**LATER, "rule": dataclasses.replace(LATER["rule"], lr=0.0)}
    off = [adapter(alpha=0.0), adapter(rule=AdamRule(lr=0.0)), adapter(**later)]
    for each in off:
        together = score(make(), tokens, Bytes(), plan(WINDOWS, adapter=each)).nats
        assert not each.on and np.array_equal(together, whole)
    monkeypatch.setattr(LoraDocuments, "on", True)  # then it learns, by nothing
    for each in off:
        assert np.array_equal(nats(tokens, make(), adapter=each), fixed)


@pytest.mark.parametrize("fields", [{}, {**LATER, "warm": False}], ids=["first", "later"])
def test_a_document_does_not_depend_on_its_batch(tokens, fields):
    alone, together, all_at_once = (
        nats(tokens, adapter=adapter(**{**fields, "batch_documents": count}), batch_tokens=size)
        for count, size in ((1, 1), (3, 100), (64, 16384))
    )
    np.testing.assert_allclose(together, alone, atol=2e-4)
    np.testing.assert_allclose(all_at_once, alone, atol=2e-4)
    lone = tokens[STARTS[3] : STARTS[4] + 1]
    np.testing.assert_allclose(nats(lone, adapter=adapter(**fields)), alone[spans()[3]], atol=2e-4)


def test_no_later_chunk_and_no_other_document_touches_a_score(tokens):
    before = nats(tokens, adapter=adapter())
    changed = tokens.copy()
    changed[[*range(85, 100), *range(120, 160)]] = 5
    after = nats(changed, adapter=adapter())
    touched = np.flatnonzero(before != after)
    # Of the third document from token 85 on, of the fourth from 120 on: chunks begin at 77, 116.
    assert set(touched) <= {*range(84, 100), *range(119, 160)}
    assert len(touched) > 40


def test_a_log_of_events_proves_score_before_training(tokens, monkeypatch):
    events, ask, released = [], Exam.ask, Exam.released

    def asked(self, indices):
        events.extend(("score", t) for i in indices for t in range(*self.windows[i][2:0:-1]))
        return ask(self, indices)

    def given(self, start, end):
        events.extend(("train", t) for t in range(start, end))
        return released(self, start, end)

    monkeypatch.setattr(Exam, "ask", asked)
    monkeypatch.setattr(Exam, "released", given)
    nats(tokens, adapter=adapter())
    scored = {t: n for n, (what, t) in enumerate(events) if what == "score"}
    assert sorted(scored) == list(range(300)) and len([e for e in events if e[0] == "score"]) == 300
    trained = {t for what, t in events if what == "train"}
    assert all(n > scored[t] for n, (what, t) in enumerate(events) if what == "train")
    lasts = [(span.stop - span.start - 1) // 8 * 8 + span.start for span in spans()]
    assert not trained & {t for span, last in zip(spans(), lasts) for t in range(last, span.stop)}


class TooEarly(DocumentLearner):
    """The fault: it trains on the windows that are scored next."""

    def learn(self, exam, part):
        super().learn(exam, [index + 1 for index in part if index not in self.last])


def test_to_learn_before_the_answer_is_refused(tokens, monkeypatch):
    monkeypatch.setattr("bitgolf.adapt.documents.DocumentLearner", TooEarly)
    with pytest.raises(RuleError, match="not scored yet"):
        nats(tokens, adapter=adapter())


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_comes_back_as_it_was(tokens, monkeypatch, broken):
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if broken:
        monkeypatch.setattr(DocumentLearner, "pull", lambda *_: 1 / 0)
    try:
        nats(tokens, model, adapter=phased())
    except ZeroDivisionError:
        assert broken
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters()) and model.training
    for block in model.blocks:
        assert not block.attn._forward_hooks and not block.mlp._forward_hooks
        assert "heads_of" not in vars(block.attn)


def test_additions_are_the_products_they_stand_beside():
    """q, k, v and the head by changed matrices; o and mlp by hand."""
    model = make_model().eval()
    lora = Lora(model, ("q", "k", "v", "head"), 3, 6.0, seed=1)
    lora.begin(2)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, up in lora.factors.values():
            up.copy_(0.1 * torch.randn(up.shape, generator=draw))
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad(), lora.beside(), lora.looking_at([1, 0]):
        hidden = model.hidden(ids)
        found = lora.nats([1, 0], hidden, ids)
        one = -lora.logits(0, hidden[1, 3]).log_softmax(0)[ids[1, 3]]
        torch.testing.assert_close(one, found[1, 3], atol=1e-5, rtol=1e-5)
    for row, factors in enumerate((1, 0)):
        changed = make_model().eval()
        with torch.no_grad():
            for layer, block in enumerate(changed.blocks):
                for name in "qkv":
                    down, up = (f[factors] for f in lora.factors[f"{layer}.{name}/0"])
                    getattr(block.attn, f"c_{name}").weight += 2.0 * up @ down
            down, up = (f[factors] for f in lora.factors["head/0"])
            state = changed.hidden(ids[row : row + 1])
            expected = changed.nats_of(state, ids[row : row + 1], changed.head() + 2.0 * up @ down)
        torch.testing.assert_close(found[row], expected[0], atol=1e-5, rtol=1e-5)


def test_warm_factors_are_kept_by_batches_of_a_size_alone():
    lora = Lora(make_model(), ("q",), 3, 3.0, seed=1)
    lora.begin(2)
    fresh = lora.factors["0.q/0"][0].detach().clone()
    with torch.no_grad():
        for pair in lora.factors.values():
            for factor in pair:
                factor.add_(1)
    lora.begin(2, warm=True)
    down, up = lora.factors["0.q/0"]
    assert torch.equal(down, fresh + 1) and not up.any()
    lora.begin(3, warm=True)
    assert torch.equal(lora.factors["0.q/0"][0][:2], fresh)
    lora.begin(3)
    assert torch.equal(lora.factors["0.q/0"][0][:2], fresh)


def phased(**fields) -> PhasedLora:
    globally = ScoreFirst(chunk_tokens=24, epochs=2, rule=SgdRule(lr=0.05), batch_sequences=2)
    given = {"rank": 3, "alpha": 3.0, "rule": AdamRule(lr=0.03, eps=1e-10), "batch_documents": 2}
    given |= {"longest_first": True}
    return PhasedLora(**{**given, "prefix_documents": 4, "phases": 2, "globally": globally} | fields)


@pytest.mark.parametrize("longest_first", [True, False])
def test_phases_learn_from_documents_that_are_done(tokens, monkeypatch, longest_first):
    log, released = [], Exam.released
    monkeypatch.setattr(Exam, "released", lambda self, *span: log.append(span) or released(self, *span))
    fields = {"longest_first": longest_first, "rule": AdamRule(lr=0.0), "phases": 1}
    fields["prefix_documents"] = 3 if longest_first else 5
    off = phased(**fields, globally=phased().globally.replace({"rule.lr": 0.0}))
    fixed = nats(tokens)
    assert not off.on and np.array_equal(nats(tokens, adapter=off), fixed)
    monkeypatch.setattr(PhasedLora, "on", True)
    assert np.array_equal(nats(tokens, adapter=off), fixed)
    log.clear()
    adapted = nats(tokens, adapter=phased(**fields))
    whole = [(span.start, span.stop) for span in spans()]
    prefixes = [span for span in log if span in whole and span[1] - span[0] > 8]
    assert prefixes
    moved = {n for n, span in enumerate(spans()) if not np.array_equal(adapted[span], fixed[span])}
    still = set(range(7)) - moved
    assert moved and still
    first = {n for n, span in enumerate(whole) if span in log[: log.index(prefixes[0]) + 1]}
    assert first <= still  # what was learnt from first was scored by the fixed model


def test_refusals(tokens):
    with pytest.raises(PlanError, match="adapter: LoraDocuments needs windows of each document alone"):
        plan(Chunked(length=16), adapter=adapter())
    with pytest.raises(PlanError, match="targets: some of q, k"):
        adapter(targets=("q", "w"))
    with pytest.raises(PlanError, match="rule: AdamRule or SgdRule, found Frozen"):
        adapter(rule=Frozen())
    with pytest.raises(PlanError, match="phases: at most one a document"):
        phased(phases=5)
    with pytest.raises(LearningError, match="no document has two windows"):
        nats(tokens[:62], windows=PerDocument(within=Growing(length=64, stride=64)), adapter=adapter())
    with pytest.raises(LearningError, match="no phase comes before the text ends"):
        nats(tokens, adapter=phased(prefix_documents=7, phases=1))
    before, asked = make_model(), []
    for change, said in (
        ({"tensors": ("bloks.*",)}, r"score\.adapter\.globally\.tensors: 'bloks\.\*' matches no tensor"),
        ({"frozen": ("*",)}, "every parameter is frozen"),
    ):
        globally = phased().globally.replace(**change)
        with pytest.raises(PlanError, match=said):
            how = plan(WINDOWS, adapter=phased(globally=globally))
            asked += scoring(before, tokens, Bytes(), how)
    assert not asked and all(each.requires_grad for each in before.parameters())
    with pytest.raises(LearningError, match="no more than a chunk"):
        nats(tokens, adapter=phased(globally=ScoreFirst(epochs=1)))


def test_without_bos_there_are_no_documents(tokens):
    class NoBos(Bytes):
        bos = -1

    how = plan(WINDOWS, adapter=adapter())
    for each in (how, how.fixed()):
        with pytest.raises(DataError, match=r"score\.windows.*no BOS.*growing 24/8, each document alone"):
            score(make_model(), tokens, NoBos(), each)
    score(make_model(), tokens, NoBos(), plan(WINDOWS.within))


def test_bounds_of_the_logits_learn_in_phases(tokens):
    still = phased(globally=phased().globally.replace(caps=SgdRule(lr=0.0)))
    moving = phased(globally=phased().globally.replace(caps=SgdRule(lr=500.0)))
    before = nats(tokens, adapter=phased())
    np.testing.assert_allclose(nats(tokens, adapter=still), before, atol=2e-4)
    assert np.abs(nats(tokens, adapter=moving) - before).max() > 1e-3


def test_windows_grow_and_score_every_target_once():
    assert list(Growing(length=6, stride=4).windows(12)) == [(0, 4, 0), (2, 8, 4), (5, 11, 8)]
    assert list(Growing(length=6, stride=6).windows(12)) == [(0, 6, 0), (5, 11, 6)]
    assert [w.first_scored for w in Growing(length=6, stride=4, least=5).windows(12)] == [0, 2, 4, 6, 8, 10]
    with pytest.raises(PlanError, match="would skip targets"):
        Growing(length=3, stride=4)
