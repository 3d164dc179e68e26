import hashlib
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bitgolf import import_core
from bitgolf.adapt.learner import Learner
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.errors import CheckpointError
from bitgolf.base.events import NOTE, finish
from bitgolf.base.plan import members
from bitgolf.base.tensors import read_tensors, write_tensors
from bitgolf.run import evaluation
from bitgolf.run.evaluation import SlowError, evaluate, refuse_slow_run, verdict
from bitgolf.run.memories import HOLDERS, KEPT_VERSION
from bitgolf.run.sheet import evaluation_identity
from bitgolf.score.chained import Chained
from bitgolf.score.metric import bits_per_byte
from bitgolf.score.mixer import Mixer
from bitgolf.score.score import ScorePlan, score
from bitgolf.score.windows import Chunked, Sliding
from bitgolf.train.world import World
from tests.mix.tokenizers import VOCABULARY, Pieces
from tests.score.test_score import BOS, Bytes, make_model

PLAN = ScorePlan(windows=Sliding(length=32, stride=8), batch_tokens=64)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def tokens():
    stream = np.random.default_rng(3).integers(0, 256, 230).astype(np.uint16)
    stream[[0, 40]] = BOS
    return stream


class Clock:
    """So many seconds later at each look."""

    def __init__(self, step: float) -> None:
        self.step, self.now = step, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def events(model, tokens, plan=PLAN, part=None, step=2.0):
    return evaluate(model, tokens, Bytes(), plan, stage="score", part=part, clock=Clock(step))


def test_the_bits_so_far_end_at_the_score(model, tokens):
    seen = []
    scores = finish(events(model, tokens), seen.append).scores
    assert (scores.nats == score(model, tokens, Bytes(), PLAN).nats).all()
    assert [event.done for event in seen] == sorted({event.done for event in seen})
    assert seen[-1].facts["bits_per_byte"] == pytest.approx(bits_per_byte(scores))
    assert seen[0].facts != seen[-1].facts


def test_a_killed_evaluation_goes_on_to_the_same_bits(model, tokens, tmp_path, monkeypatch):
    part, whole = tmp_path / "scores.part", score(model, tokens, Bytes(), PLAN)
    steps = events(model, tokens, part=part)
    for _ in range(4):
        next(steps)
    steps.close()
    assert part.is_file()
    asked = []
    real = model.hidden
    monkeypatch.setattr(model, "hidden", lambda *args: asked.append(1) or real(*args))
    seen = []
    scores = finish(events(model, tokens, part=part), seen.append).scores
    assert scores.nats.tobytes() == whole.nats.tobytes() and not part.exists()
    batches = len(
        list(PLAN.windows.batches(windows := list(PLAN.windows.windows(230)), range(len(windows)), 64))
    )
    assert len(asked) == batches - 4 == len(seen)


def test_it_is_kept_now_and_then_for_those_that_are_killed_without_a_word(model, tokens, tmp_path):
    steps = events(model, tokens, part=tmp_path / "scores.part", step=20.0)
    next(steps), next(steps), next(steps)
    tensors, _ = read_tensors(tmp_path / "scores.part")
    assert 0 < tensors["nats"].isfinite().sum() < 229


@pytest.mark.parametrize(
    "change", ["tokens", "weights", "windows", "batches", "damage", "version", "nothing"]
)
def test_what_is_kept_is_of_this_evaluation_or_not_used(model, tokens, tmp_path, change):
    part = tmp_path / "scores.part"
    steps = events(model, tokens, part=part)
    next(steps), next(steps)
    steps.close()
    kept, facts = read_tensors(part)
    kept["nats"][kept["nats"].isfinite()] = 77
    write_tensors(part, kept, {**facts, "version": facts["version"] - (change == "version")})
    other, text, plan = make_model(), tokens.copy(), PLAN
    if change == "tokens":
        text[-1] += 1
    elif change == "weights":
        other.tok_emb.weight.data[0, 0] += 1
    elif change == "windows":
        plan = PLAN.replace(windows=Chunked(length=32))
    elif change == "batches":
        plan = PLAN.replace(batch_tokens=128)
    elif change == "damage":
        part.write_bytes(part.read_bytes()[:-30])
    seen = []
    scores = finish(events(other, text, plan, part), seen.append).scores
    assert (scores.nats == 77).any() == (change == "nothing")
    lines = [event.facts[NOTE] for event in seen if event.stage == NOTE]
    assert len(lines) == (change != "nothing")
    reason = {"damage": "it is damaged", "version": "it is of another version of bitgolf"}.get(
        change, "it is of another model, text or recipe"
    )
    assert all(line == f"scores.part: {reason}; all is scored anew" for line in lines)


def test_what_fits_by_name_alone_is_refused(model, tokens, tmp_path):
    part = tmp_path / "scores.part"
    steps = events(model, tokens, part=part)
    next(steps), next(steps)
    steps.close()
    kept, facts = read_tensors(part)
    write_tensors(part, {"nats": kept["nats"][:-1]}, facts)
    with pytest.raises(CheckpointError, match="scores.part: does not fit: other nats.*delete it"):
        finish(events(model, tokens, part=part))


def test_what_has_ended_stays_where_it_is_spared(model, tokens, tmp_path, monkeypatch):
    part = tmp_path / "scores.part"
    for plan in (PLAN, PLAN.replace(adapter=ScoreFirst(chunk_tokens=57, epochs=1))):
        given = {"stage": "score", "part": part, "spare": True}
        whole = finish(evaluate(model, tokens, Bytes(), plan, **given))
        with monkeypatch.context() as patch:
            patch.setattr(Learner, "learn", None)
            patch.setattr(model, "hidden", None)
            again = finish(evaluate(model, tokens, Bytes(), plan, **given))
        assert again.scores.nats.tobytes() == whole.scores.nats.tobytes() and part.exists()


def test_a_limit_on_seconds_does_not_change_what_is_scored(model, tokens):
    limited = PLAN.replace(eval_seconds=600.0)
    assert evaluation_identity(model, tokens, limited) == evaluation_identity(model, tokens, PLAN)
    assert limited.label() == PLAN.label()


@pytest.mark.parametrize("windows", [PLAN.windows, Chained(history=24, stride=8, lanes=3)])
def test_what_would_not_end_in_its_time_is_refused_by_forecast(model, tokens, windows):
    plan = PLAN.replace(windows=windows)
    seen = list(events(model, tokens, plan))
    takes = 2.0 * len(seen)
    finish(events(model, tokens, plan.replace(eval_seconds=2 * takes)))
    steps = events(model, tokens, plan.replace(eval_seconds=takes / 3))
    seen.clear()
    with pytest.raises(SlowError, match=r"about [\d.]+ s, at most [\d.]+ s.*larger stride") as raised:
        seen.extend(steps)
    assert len(seen) <= 1 + (windows != PLAN.windows) * 5
    forecast = float(raised.value.value.split()[1])
    assert forecast == pytest.approx(takes, rel=0.35)


def test_a_run_whose_learning_would_not_end_in_time_is_refused_before_it(model, tokens, monkeypatch):
    """Ten seconds each time that it learns, and none for anything else."""
    spent, learn = [0.0], Learner.learn
    monkeypatch.setattr(Learner, "learn", lambda *given: (spent.append(10.0), learn(*given)))
    dataset = SimpleNamespace(scored_tokens=lambda: tokens, tokenizer=Bytes())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learns = PLAN.replace(adapter=ScoreFirst(chunk_tokens=40, epochs=1))  # six chunks, five times
    for seconds, refused in ((30.0, True), (70.0, False)):
        plan = learns.replace(eval_seconds=seconds)
        with pytest.raises(SlowError, match=r"about \d+ s, at most 30 s") if refused else nullcontext():
            refuse_slow_run(model, dataset, plan, lambda: sum(spent))
    assert spent == [0.0, 10.0, 10.0, 10.0, 10.0], "two updates tell the pace, each time"
    refuse_slow_run(model, dataset, learns.replace(eval_seconds=30.0, limit_tokens=82), lambda: sum(spent))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_after_the_last_chunk_nothing_is_learnt_and_no_time_is_asked_for_it(model, tokens, monkeypatch):
    spent, learn = [0.0], Learner.learn
    monkeypatch.setattr(Learner, "learn", lambda *given: (spent.append(10.0), learn(*given)))
    plan = PLAN.replace(adapter=ScoreFirst(chunk_tokens=130, epochs=1), eval_seconds=15.0)  # two chunks
    given = {"stage": "score", "clock": lambda: sum(spent)}
    found = finish(evaluate(model, tokens, Bytes(), plan, **given))
    assert (found.seconds, found.learning_seconds) == (10.0, 10.0)


def test_learning_that_would_not_end_in_time_is_refused_before_anything_is_scored(model, tokens, monkeypatch):
    """By the pace of its second update, in parts of one batch; the planted fault is a slow first one."""
    given, spent, learn = {"stage": "score"}, [0.0], Learner.learn
    monkeypatch.setattr(
        Learner, "learn", lambda *given: (spent.append(99.0 if not spent[1:] else 10.0), learn(*given))
    )
    adapter = ScoreFirst(chunk_tokens=110, epochs=1, batch_sequences=1)  # two updates, in a trial six of 32
    trials = adapter.trial(32)
    assert trials == adapter.replace(chunk_tokens=32) and adapter.trial(200) == adapter
    plan, seen = PLAN.replace(adapter=adapter), []
    tried = len(tokens) // 32
    for limit, refused in ((10.0 * tried - 1, True), (10.0 * tried + 1, False)):
        spent[:] = [0.0]
        limited = evaluate(
            model, tokens, Bytes(), plan.replace(eval_seconds=limit), **given, clock=lambda: sum(spent)
        )
        if refused:
            with pytest.raises(SlowError, match=f"about {10 * tried} s, at most {10 * tried - 1} s"):
                seen.extend(limited)
            assert not seen and spent == [0.0, 99.0, 10.0]
        else:
            next(limited)
            limited.close()


class Second(World):
    """The second of two processes, whose first one has all the time there is."""

    def broadcast(self, value):
        return 0.0

    def sum(self, tensor):  # the first has what the second has not
        return tensor.clamp_(min=1)

    def each(self, tensor):
        return [tensor, tensor]


@pytest.mark.parametrize("plan", [PLAN, PLAN.replace(adapter=ScoreFirst(chunk_tokens=40, epochs=1))])
def test_the_first_process_decides_for_all_whether_an_evaluation_is_too_slow(model, tokens, plan):
    limited = plan.replace(eval_seconds=50.0)
    finish(
        evaluate(
            model, tokens, Bytes(), limited, stage="score", clock=Clock(100.0), world=Second(rank=1, size=2)
        )
    )
    with pytest.raises(SlowError):
        finish(evaluate(model, tokens, Bytes(), limited, stage="score", clock=Clock(100.0)))


def test_the_verdict_counts_the_packed_model_alone():
    rows = [
        {"name": "live", "seconds": 500.0},
        {"name": "quantized", "seconds": 100.0},
        {"name": "quantized", "seconds": 200.0},
        {"name": "adapted", "seconds": 300.5},
    ]
    assert verdict(rows, 0.0) == {"evaluation_seconds": 600.5}
    assert verdict(rows, 600.0)["evaluation_verdict"] == "over 600 s"
    assert verdict(rows[:3], 600.0)["evaluation_verdict"] == "within 600 s"
    assert evaluation.PACKED == ("quantized", "adapted")


def test_the_version_of_kept_files_goes_with_what_mixers_know():
    """Where this fails, fields have changed: raise KEPT_VERSION, and pin them anew."""
    import_core()
    kinds = [kind for kind in members(Mixer).values() if kind.__module__.startswith("bitgolf.mix.")]
    kinds.sort(key=lambda kind: kind.__name__)
    known = [sorted(vars(kind().memory(VOCABULARY, Pieces()))) for kind in kinds]
    known += [sorted(vars(empty())) for empty in HOLDERS.values()]
    fields = hashlib.sha256(repr(known).encode()).hexdigest()[:12]
    assert (KEPT_VERSION, fields) == (3, "5530a4b86e32")
