"""An evaluation that learns, mixes or chains goes on where it was killed, to the same bits."""

import os
import signal
import socket
import subprocess
import sys
import time
from threading import BrokenBarrierError

import numpy as np
import pytest

from bitgolf.adapt.documents import LoraDocuments, PhasedLora
from bitgolf.adapt.learner import Learner
from bitgolf.adapt.score_first import ChunkLearner, ScoreFirst
from bitgolf.base.errors import CheckpointError
from bitgolf.base.events import finish
from bitgolf.base.tensors import read_tensors, write_tensors
from bitgolf.probe.together import together
from bitgolf.run.evaluation import evaluate
from bitgolf.run.sheet import Sheet
from bitgolf.score.adapter import Adaptation, NoAdapter
from bitgolf.score.chained import Chained, ChainedReader
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Chunked, Growing, PerDocument, Sliding
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.quantize import AbsMax, QuantRule
from bitgolf.train.optim import AdamRule, MuonRule, SgdRule
from bitgolf.train.qat import FakeQuantize
from tests.mix.test_members import BITING, AllBytes
from tests.score.test_score import make_model

CHUNK = {"chunk_tokens": 40, "epochs": 2, "batch_sequences": 2}
COARSE = FakeQuantize(rules=(QuantRule(quantizer=AbsMax(grid=Grid(bits=6))),))
LORA = {"rank": 3, "alpha": 3.0, "rule": AdamRule(lr=0.03, eps=1e-10), "batch_documents": 2}
DOCUMENTS = PerDocument(within=Growing(length=24, stride=8))
SLIDING = Sliding(length=32, stride=8)
PLANS = {
    "SGD": (SLIDING, ScoreFirst(rule=SgdRule(lr=0.05), **CHUNK), ()),
    "SGD without momentum": (SLIDING, ScoreFirst(rule=SgdRule(lr=0.05, momentum=0.0), **CHUNK), ()),
    "Adam, frozen layers, caps": (
        SLIDING,
        ScoreFirst(rule=AdamRule(lr=0.01), frozen=("blocks.0.*",), caps=SgdRule(lr=1.0), **CHUNK),
        (),
    ),
    "Muon, quantized": (
        Chunked(length=16),
        ScoreFirst(rule=MuonRule(lr=0.02), tensors=("blocks.*.weight",), noise=COARSE, **CHUNK),
        (),
    ),
    "LoRA": (DOCUMENTS, LoraDocuments(**LORA), ()),
    "LoRA, warm": (DOCUMENTS, LoraDocuments(**LORA, warm=True, longest_first=True), ()),
    "phases": (
        DOCUMENTS,
        PhasedLora(**LORA, prefix_documents=4, phases=2, globally=ScoreFirst(rule=SgdRule(lr=0.05), **CHUNK)),
        (),
    ),
    "chains": (Chained(history=24, stride=8, lanes=2), None, ()),
    "SGD and a mixer": (SLIDING, ScoreFirst(rule=SgdRule(lr=0.05), **CHUNK), (BITING[next(iter(BITING))],)),
    **{kind.__name__: (SLIDING, None, (mixer,)) for kind, mixer in BITING.items()},
}
COMPILED = ("Muon, quantized", "BytePpm")  # for seconds


def text() -> np.ndarray:
    """Documents that repeat themselves."""
    stream = (np.arange(301) % 37).astype(np.uint16)
    stream[[0, 50, 100, 101, 150, 230]] = 256
    return stream


def plan_of(name: str) -> ScorePlan:
    windows, adapter, mixers = PLANS[name]
    own = {} if adapter is None else {"adapter": adapter}
    return ScorePlan(windows=windows, batch_tokens=32, mixers=mixers, **own)


def evaluation(plan, part=None, model=None, **fields):
    return evaluate(model or make_model(), text(), AllBytes(), plan, stage="score", part=part, **fields)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in COMPILED else ()) for name in PLANS]
)
def test_what_was_killed_goes_on_to_the_same_bits(name, tmp_path, monkeypatch):
    plan, part = plan_of(name), tmp_path / "scores.part"
    whole = []
    first = finish(evaluation(plan), whole.append)
    exact = first.scores.nats
    work = []
    for kind, verb in ((Learner, "learn"), (Adaptation, "hidden"), (ChainedReader, "hidden")):
        real = getattr(kind, verb)
        monkeypatch.setattr(kind, verb, lambda *given, real=real: work.append(1) or real(*given))
    finish(evaluation(plan))
    needed = len(work)
    work.clear()
    for stop in (len(whole) * 2 // 5, len(whole) * 2 // 5):  # killed twice
        steps = evaluation(plan, part)
        for _ in range(stop):
            next(steps)
        steps.close()
        assert part.is_file()
    seen = []
    before = read_tensors(part)[1]
    ended = finish(evaluation(plan, part), seen.append)
    found = ended.scores.nats
    assert np.array_equal(ended.alone, first.alone) and len(first.alone) == (len(exact) if plan.mixers else 0)
    assert ended.seconds > before["seconds"] > 0 and ended.learning_seconds >= before["learning_seconds"]
    assert (ended.learning_seconds > 0) == (plan.adapter != NoAdapter())
    assert found.tobytes() == exact.tobytes() and not part.exists()
    assert len(seen) == len(whole) - 2 * (len(whole) * 2 // 5)
    assert len(work) == needed, "nothing is done twice"


def test_what_breaks_off_by_itself_is_gone_on_from_where_it_was_kept_last(tmp_path, monkeypatch):
    plan, part = plan_of("SGD"), tmp_path / "scores.part"
    exact, learn, turns = finish(evaluation(plan)).scores.nats, ChunkLearner.learn, []

    def breaks(self, exam, chunk):
        learn(self, exam, chunk)
        turns.append(1)
        if len(turns) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("bitgolf.run.evaluation.KEEP_SECONDS", 0.0)
    monkeypatch.setattr("bitgolf.run.evaluation.KEEP_SHARE", 1e9)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkLearner, "learn", breaks)
        with pytest.raises(KeyboardInterrupt):
            finish(evaluation(plan, part))
    assert read_tensors(part)[1]["updates_left"] == 5, "not what was being learnt"
    assert finish(evaluation(plan, part)).scores.nats.tobytes() == exact.tobytes()


def test_what_is_of_another_recipe_is_dropped_and_what_was_changed_is_refused(tmp_path):
    part = tmp_path / "scores.part"
    for change in ("recipe", "tensors"):
        steps = evaluation(plan_of("SGD"), part)
        for _ in range(20):
            next(steps)
        steps.close()
        tensors, facts = read_tensors(part)
        if change == "recipe":
            other, seen = plan_of("SGD").replace({"adapter.epochs": 1}), []
            assert (
                finish(evaluation(other, part), seen.append).scores.nats.tobytes()
                == finish(evaluation(other)).scores.nats.tobytes()
            )
            assert "another model, text or recipe" in seen[0].facts["note"]
        else:
            name = next(name for name in tensors if name.startswith("learnt/learner/weight/"))
            write_tensors(part, {**tensors, name: tensors[name][:1]}, facts)
            model = make_model()
            before = {name: each.clone() for name, each in model.state_dict().items()}
            with pytest.raises(CheckpointError, match="does not fit.*delete it"):
                finish(evaluation(plan_of("SGD"), part, model))
            assert all((before[name] == each).all() for name, each in model.state_dict().items())


def test_an_adapter_of_a_user_that_does_not_tell_begins_again(tmp_path, monkeypatch):
    part = tmp_path / "scores.part"

    class Own(ChunkLearner):
        resumable = False

    monkeypatch.setattr("bitgolf.adapt.score_first.ChunkLearner", Own)
    steps = evaluation(plan_of("SGD"), part)
    for _ in range(20):
        next(steps)
    steps.close()
    assert not part.exists()


SHARED = {
    "SGD": PLANS["SGD"],
    "LoRA": PLANS["LoRA"],
    "warm lanes": (DOCUMENTS, LoraDocuments(**LORA, warm=True, lanes=2), ()),
    "phases": PLANS["phases"],
    "fixed": (SLIDING, None, ()),
}
KILLS = {2: ((3, 8), (9, 4), (14, 14)), 3: ((4, 9, 6), (9, 3, 14))}  # after so many steps of each process


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("name", SHARED)
def test_processes_that_share_the_work_go_on_to_the_same_bits(name, processes, tmp_path, monkeypatch):
    """Each is killed at another place, also where one has learnt from a round and another has not."""
    monkeypatch.setitem(PLANS, name, SHARED[name])
    monkeypatch.setattr("bitgolf.run.evaluation.KEEP_SECONDS", 0.0)
    monkeypatch.setattr("bitgolf.run.evaluation.KEEP_SHARE", 1e9)
    monkeypatch.setattr("bitgolf.train.loop.CPU_FORWARD_TOKENS", 24)
    plan, part = plan_of(name), tmp_path / "scores.part"
    exact = finish(evaluation(plan)).scores.nats
    made = []

    def part_way(world, stops):
        steps = evaluation(plan, part, world=world)
        for _ in range(stops[world.rank] // (2 if name == "fixed" else 1)):  # which has fewer
            if next(steps, None) is None:
                break
        steps.close()
        raise InterruptedError(world.rank)

    def to_the_end(world):
        counted = []
        found = finish(evaluation(plan, part, world=world), counted.append).scores.nats
        made.append(len(counted))
        return found

    def of_all():
        made.clear()
        found = together(processes, to_the_end)
        assert all(each.tobytes() == exact.tobytes() for each in found)
        assert not list(tmp_path.iterdir())
        return sum(made)

    whole = of_all()
    for stops in KILLS[processes]:
        with pytest.raises((InterruptedError, BrokenBarrierError)):
            together(processes, lambda world, stops=stops: part_way(world, stops))
    assert part.is_file()
    assert of_all() < whole


def test_what_one_process_did_alone_is_used_in_its_round_only(tmp_path, monkeypatch):
    """Its file is older than the first's, newer than it, or lost: it begins where all had all scores."""
    monkeypatch.setattr("bitgolf.run.evaluation.KEEP_SECONDS", 0.0)
    monkeypatch.setattr("bitgolf.run.evaluation.KEEP_SHARE", 1e9)
    plan, part, files = plan_of("phases"), tmp_path / "scores.part", {}
    exact = finish(evaluation(plan)).scores.nats

    def one(world):
        steps = evaluation(plan, part, world=world)
        for _ in steps:
            own = tmp_path / f"scores.part{world.rank or ''}"
            if own.is_file():
                files.setdefault((world.rank, read_tensors(own)[1]["met"]), own.read_bytes())

    together(2, one)
    mets = sorted({met for _, met in files})
    assert len(mets) >= 3 and len({met for rank, met in files if rank}) >= 2  # rounds; the end by chance
    for first in (met for met in mets if (0, met) in files):
        for second in (*mets, None):
            part.write_bytes(files[0, first])
            if (1, second) in files:
                (tmp_path / "scores.part1").write_bytes(files[1, second])
            found = together(2, lambda world: finish(evaluation(plan, part, world=world)).scores.nats)
            assert all(each.tobytes() == exact.tobytes() for each in found), (first, second)


def test_no_process_goes_on_before_all_have_read_where(tmp_path, monkeypatch):
    """Killed just before its end, the first has nothing left to do, and its file is gone at once."""
    plan, part, kept = plan_of("phases"), tmp_path / "scores.part", {}
    close, read = Sheet.close, Sheet._read

    def closed(sheet, spare):
        sheet.moving = False
        sheet.keep()
        kept.setdefault(sheet.world.rank, sheet.path.read_bytes())
        close(sheet, spare)

    def slowly(sheet, path):
        time.sleep(0.5 * sheet.world.rank)
        return read(sheet, path)

    def shared():
        return together(2, lambda world: finish(evaluation(plan, part, world=world)).scores.nats)

    monkeypatch.setattr(Sheet, "close", closed)
    exact = shared()
    monkeypatch.setattr(Sheet, "_read", slowly)
    part.write_bytes(kept[0])
    assert all(one.tobytes() == other.tobytes() for one, other in zip(shared(), exact))


def test_processes_that_do_not_see_one_folder_are_refused(tmp_path, monkeypatch):
    """Else one would wait for the other for ever."""
    monkeypatch.setattr("bitgolf.run.evaluation.KEEP_SECONDS", 0.0)
    plan, places = plan_of("phases"), [tmp_path / "one", tmp_path / "other"]
    for each in places:
        each.mkdir()

    def stopped(world):
        for _ in evaluation(plan, places[0] / "scores.part", world=world):
            if (places[0] / "scores.part").is_file() and read_tensors(places[0] / "scores.part")[1]["met"]:
                raise InterruptedError

    with pytest.raises((InterruptedError, BrokenBarrierError)):
        together(2, stopped)
    with pytest.raises(CheckpointError, match="different places"):
        together(2, lambda w: finish(evaluation(plan, places[w.rank] / "scores.part", world=w)))


PROCESS = """
import sys, time
from pathlib import Path
import numpy as np, torch
from bitgolf.adapt.documents import LoraDocuments, PhasedLora
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.events import finish
from bitgolf.mix.ngram import InterpolatedNgrams
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.run import evaluation
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Growing, PerDocument, Sliding
from bitgolf.train.world import join_world, leave_world
torch.set_num_threads(1)
evaluation.KEEP_SECONDS, evaluation.KEEP_SHARE = 0.0, 1e9
class Bytes:
    bos, lossless, pieces = 256, True, [bytes([byte]) for byte in range(256)] + [b""]
    def token_bytes(self, targets, previous):
        return (np.asarray(targets) < 256).astype(np.int64)
    def decode(self, ids):
        return bytes(int(each) for each in ids if each < 256)
tokens = (np.arange(1501) % 37).astype(np.uint16)
tokens[::150] = 256
sliding = Sliding(length=32, stride=8)
plan = {
    "SGD": ScorePlan(windows=sliding, batch_tokens=32, adapter=ScoreFirst(chunk_tokens=100)),
    "LoRA": ScorePlan(
        windows=PerDocument(within=Growing(length=24, stride=8)), adapter=LoraDocuments(batch_documents=3)
    ),
    "phases": ScorePlan(
        windows=PerDocument(within=Growing(length=24, stride=8)),
        adapter=PhasedLora(
            batch_documents=1, warm=True, lanes=4, prefix_documents=6, phases=2,
            globally=ScoreFirst(chunk_tokens=100),
        ),
    ),
    "mixer": ScorePlan(windows=sliding, batch_tokens=32, mixers=(InterpolatedNgrams(),)),
}[sys.argv[1]]
model = build_model(ModelPlan(vocabulary_size=257, layers=2, width=32, heads=4, kv_heads=2))
def see(event):
    print(event.stage, event.done, flush=True)
    time.sleep(0.01)
part = Path(sys.argv[2]) if sys.argv[2] else None
world = join_world("cpu")
found = finish(evaluation.evaluate(model, tokens, Bytes(), plan, stage="score", part=part, world=world), see)
print(found.scores.nats.tobytes().hex())
leave_world(world)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SGD", "LoRA", "mixer"])
def test_a_process_that_is_killed_outright(name, tmp_path):
    command = [sys.executable, "-c", PROCESS, name]
    exact = subprocess.run([*command, ""], capture_output=True, text=True, check=True).stdout.split()
    given = [*command, str(tmp_path / "scores.part")]
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(exact.count("score") // 2):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    found = subprocess.run(given, capture_output=True, text=True, check=True).stdout.split()
    assert found[-1] == exact[-1] and found.count("score") < exact.count("score") and "note" not in found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SGD", "LoRA", "phases"])
def test_processes_over_gloo_that_are_killed_outright(name, tmp_path):
    """Both are killed halfway, and go on to the bits of one."""
    command = [sys.executable, "-c", PROCESS, name]
    exact = subprocess.run([*command, ""], capture_output=True, text=True, check=True).stdout.split()

    def both():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        environments = [{**os.environ, **place, "WORLD_SIZE": "2", "RANK": str(rank)} for rank in (0, 1)]
        words = [*command, str(tmp_path / "scores.part")]
        return [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=each) for each in environments]

    running = both()
    for _ in range(exact.count("score") // 4):  # half of what the first does
        running[0].stdout.readline()
    for process in running:
        process.kill()
        process.communicate()
    assert (tmp_path / "scores.part").is_file()
    ended = [process.communicate(timeout=200)[0].split() for process in both()]
    assert [each[-1] for each in ended] == [exact[-1]] * 2
    assert ended[0].count("score") < exact.count("score") // 2 and "note" not in ended[0]
