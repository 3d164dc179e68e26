"""A run by several processes: all share its scores, which are those of one to the bit."""

import shutil
import threading
from threading import BrokenBarrierError

import pytest

from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.events import NOTE, finish
from bitgolf.base.files import read_json
from bitgolf.mix.ngram import NgramCache
from bitgolf.probe.together import together
from bitgolf.run import stages
from bitgolf.run.evaluation import UNSHARED
from bitgolf.run.stages import run
from bitgolf.score.exam import Exam, RuleError
from bitgolf.score.windows import Chunked
from bitgolf.squeeze.quantize import QuantizeError
from bitgolf.train.optim import SgdRule
from bitgolf.train.world import World

LEARNS = ScoreFirst(rule=SgdRule(lr=0.05), chunk_tokens=1024, epochs=1, batch_sequences=8)
PLANS = {
    "fixed": {"score.batch_tokens": 512},
    "learns": {"score.batch_tokens": 128, "score.windows": Chunked(length=32), "score.adapter": LEARNS},
    "mixes": {"score.mixers": (NgramCache(weight=0.3),), "score.limit_tokens": 2000},
}
STAGES = ("score live", "score averaged", "score quantized", "score final")


@pytest.fixture
def processes(monkeypatch):
    """Resume a run by several processes; what each comes to, and its events of scoring."""
    own = threading.local()
    monkeypatch.setattr(stages, "join_world", lambda _: getattr(own, "world", World()))
    monkeypatch.setattr(stages, "leave_world", lambda _: None)

    def resumed(recipe, dataset, folder, stops=(0, 0)):
        def one(world):
            own.world, seen = world, []

            def see(event):
                seen.extend([event] * (event.stage in (*STAGES, NOTE)))
                if len(seen) == stops[world.rank] > 0:
                    raise InterruptedError

            steps = run(recipe, dataset, folder, 1, code=b"", resume=True)
            try:
                return finish(steps, see).result, seen
            finally:
                steps.close()

        return together(len(stops), one)

    return resumed


@pytest.fixture
def finished(recipe, dataset, tmp_path):
    """Run the tiny recipe by one process, changed; the recipe, the folder, the figures of each score."""

    def ran(changes):
        plan, folder = recipe.replace(changes), tmp_path / "one"
        result = finish(run(plan, dataset, folder, 1, code=b"")).result
        shutil.copytree(folder, tmp_path / "several")
        for name in ("result.json", "scores.npz", "model.bin", "weights.safetensors"):
            (tmp_path / "several" / name).unlink()
        return plan, tmp_path / "several", figures(result)

    return ran


def figures(result):
    """What was scored, without seconds."""
    return [
        {name: value for name, value in row.items() if not name.endswith("seconds")}
        for row in result["variants"]
    ]


def same_files(folder):
    one = folder.parent / "one"
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in one.iterdir())
    return all((folder / n).read_bytes() == (one / n).read_bytes() for n in ("model.bin", "scores.npz"))


@pytest.mark.parametrize("name", PLANS)
def test_scores_are_those_of_one_process_to_the_bit(name, finished, processes, dataset):
    plan, folder, exact = finished(PLANS[name])
    (result, seen), (other, others) = processes(plan, dataset, folder)
    assert figures(result) == exact == figures(read_json(folder / "result.json")) and same_files(folder)
    assert other["status"] == "ok" and "variants" not in other
    counts = [[sum(each.stage == stage for each in events) for stage in STAGES] for events in (seen, others)]
    if name == "mixes":
        assert counts[1][-1] == 0 < counts[0][-1], "the first alone"
        assert [each.facts[NOTE] for each in seen if each.stage == NOTE] == [UNSHARED]
    else:
        assert all(min(pair) > 0.35 * sum(pair) for pair in zip(*counts)), counts
        assert not [each for each in (*seen, *others) if each.stage == NOTE]


@pytest.mark.parametrize("stops", [(2, 3), (60, 65)])
def test_what_was_killed_goes_on_to_the_same_bits(stops, finished, processes, dataset, monkeypatch):
    """While the first score is made, and while the last is."""
    monkeypatch.setattr("bitgolf.run.evaluation.KEEP_SECONDS", 0.0)
    monkeypatch.setattr("bitgolf.run.evaluation.KEEP_SHARE", 1e9)
    plan, folder, exact = finished(PLANS["learns"])
    with pytest.raises((InterruptedError, BrokenBarrierError)):
        processes(plan, dataset, folder, stops)
    assert list(folder.glob("scores*.part")) and list(folder.glob("scores*.part1"))
    (result, seen), (_, others) = processes(plan, dataset, folder)
    assert figures(result) == exact
    (folder / "result.json").unlink()
    whole = [len(events) for _, events in processes(plan, dataset, folder)]
    assert len(seen) + len(others) < sum(whole) - sum(stops) // 2, "nothing is made twice"
    assert same_files(folder)


def test_a_process_that_leaves_out_its_part_is_caught(finished, processes, dataset, monkeypatch):
    plan, folder, _ = finished(PLANS["fixed"])
    real = Exam.share

    def forgets(exam, indices, world, device):
        exam._answered[indices[:1]] = False
        real(exam, indices, world, device)

    with monkeypatch.context() as patch:
        patch.setattr(Exam, "share", forgets)
        with pytest.raises(RuleError, match="left one out"):
            processes(plan, dataset, folder)
    crash = read_json(folder / "result.json")
    assert crash["status"] == "crash" and "left one out" in crash["error"]


def test_all_end_where_the_first_finds_nothing_to_pack(finished, processes, dataset, monkeypatch):
    plan, folder, _ = finished(PLANS["fixed"])

    def breaks(*_):
        raise QuantizeError("planted", where="a tensor")
        yield

    monkeypatch.setattr(stages, "_pack", breaks)
    found = processes(plan, dataset, folder)
    assert [result["status"] for result, _ in found] == ["diverged"] * 2
    assert read_json(folder / "result.json")["error"] == "a tensor: planted"
