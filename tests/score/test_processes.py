"""One process or several: the scores are the same to the bit, also of what learns from them."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from bitgolf.adapt.documents import LoraDocuments, PhasedLora
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.mix.ngram import NgramCache
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.chained import Chained
from bitgolf.score.exam import Exam, RuleError
from bitgolf.score.score import ScorePlan, is_shared, score, scoring
from bitgolf.score.windows import Chunked, Growing, PerDocument, Sliding, Window
from bitgolf.train import loop
from bitgolf.train.optim import AdamRule, MuonRule, SgdRule
from bitgolf.train.world import World
from tests.score.test_score import BOS, Bytes, make_model

SLIDING = Sliding(length=32, stride=8)
DOCUMENTS = PerDocument(within=Growing(length=24, stride=8))
CHUNKS = {"chunk_tokens": 60, "epochs": 2, "batch_sequences": 4, "sequence_length": 12}
LORA = {"rank": 3, "alpha": 3.0, "rule": AdamRule(lr=0.03, eps=1e-10), "batch_documents": 2}
PHASED = PhasedLora(
    **LORA,
    warm=True,
    lanes=2,
    longest_first=True,
    prefix_documents=6,
    phases=2,
    globally=ScoreFirst(rule=SgdRule(lr=0.05), caps=SgdRule(lr=1.0), **CHUNKS),
)
PLANS = {
    "chunked": ScorePlan(windows=Chunked(length=32), batch_tokens=64),
    "sliding": ScorePlan(windows=SLIDING, batch_tokens=64),
    "tail": ScorePlan(windows=SLIDING.replace(public_tail=True), batch_tokens=64),
    "documents": ScorePlan(windows=PerDocument(within=Sliding(length=16, stride=4)), batch_tokens=64),
    "SGD": ScorePlan(windows=SLIDING, batch_tokens=64, adapter=ScoreFirst(rule=SgdRule(lr=0.05), **CHUNKS)),
    "Muon": ScorePlan(
        windows=SLIDING,
        batch_tokens=64,
        adapter=ScoreFirst(rule=MuonRule(lr=0.02), tensors=("blocks.*.weight",), **CHUNKS),
    ),
    "LoRA": ScorePlan(windows=DOCUMENTS, batch_tokens=64, adapter=LoraDocuments(**LORA)),
    "warm": ScorePlan(windows=DOCUMENTS, adapter=LoraDocuments(**LORA, warm=True, lanes=3)),
    "phases": ScorePlan(windows=DOCUMENTS, batch_tokens=64, adapter=PHASED),
    "chained": ScorePlan(windows=Chained(history=24, stride=8, lanes=3), batch_tokens=64),
    "mixed": ScorePlan(
        windows=SLIDING,
        adapter=ScoreFirst(rule=SgdRule(lr=0.05), **CHUNKS),
        mixers=(NgramCache(weight=0.2),),
    ),
}
WHOLE = ("chained", "mixed")  # by each process
FORWARD_TOKENS = 24  # so that a step has pieces to share
PROCESS = """
import sys
import numpy as np, torch
from bitgolf.adapt import learner
from bitgolf.adapt.documents import DocumentLearner
from bitgolf.adapt.score_first import ChunkLearner
from bitgolf.base.events import finish
from bitgolf.score.exam import Exam
from bitgolf.score.score import scoring
from bitgolf.train import loop
from bitgolf.train.world import join_world, leave_world
from tests.score.test_processes import FORWARD_TOKENS, PLANS, WHOLE, text
from tests.score.test_score import Bytes, make_model
torch.set_num_threads(1)
loop.CPU_FORWARD_TOKENS = FORWARD_TOKENS
world, found = join_world("cpu"), {}
exec(sys.argv[3])
for name in sys.argv[2].split(","):
    steps = []
    model = make_model()
    found[name] = finish(scoring(model, text(), Bytes(), PLANS[name], world=world), steps.append).nats
    found[name + " steps"] = np.array(len(steps))
    ends = [done for done, total in steps if done == total]
    assert len(ends) == 1 or world.size > 1 and name in WHOLE, name  # the whole score is there once
np.savez(sys.argv[1], **found)
leave_world(world)
"""


def text() -> np.ndarray:
    """Documents that repeat themselves, of very different lengths."""
    stream = np.random.default_rng(3).integers(0, 256, 430).astype(np.uint16)
    stream[40:] = stream[np.arange(390) % 37]
    stream[[0, 40, 41, 100, 140, 190, 215, 240, 330, 345]] = BOS
    return stream


def started(tmp_path, processes, names, fault="", seconds=170):
    """Exit codes and last lines of so many processes that score by these plans, and their files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place["WORLD_SIZE"] = str(processes)
    files = [tmp_path / f"{rank}.npz" for rank in range(processes)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(path), ",".join(names), fault],
            env={**os.environ, **place, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, path in enumerate(files)
    ]
    ended = [process.communicate(timeout=seconds)[1] for process in running]
    return [process.returncode for process in running], ended, files


@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_several_processes_give_the_scores_of_one_to_the_bit(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(loop, "CPU_FORWARD_TOKENS", FORWARD_TOKENS)
    threads = torch.get_num_threads()
    codes, said, files = started(tmp_path, processes, PLANS)
    assert codes == [0] * processes, said
    found = [np.load(path) for path in files]
    torch.set_num_threads(1)
    for name, plan in PLANS.items():
        alone = score(make_model(), text(), Bytes(), plan).nats
        assert all(each[name].tobytes() == alone.tobytes() for each in found), name
        if plan.adapter != NoAdapter():
            assert not np.array_equal(alone, score(make_model(), text(), Bytes(), plan.fixed()).nats)
        assert is_shared(plan) == (name not in WHOLE)
    torch.set_num_threads(threads)
    for name in ("documents", "LoRA", "phases"):
        steps = [int(each[f"{name} steps"]) for each in found]
        whole = sum(1 for _ in scoring(make_model(), text(), Bytes(), PLANS[name]))
        sharing = min(processes, PHASED.lanes) if name == "phases" else processes
        assert max(steps) <= 1.25 * whole / sharing + 5, (name, steps, whole)


FAULTS = {
    "a batch is left out": (
        "phases",
        "if world.rank: DocumentLearner.worker = lambda *_: 0",
        "left one out, or scored one twice",
    ),
    "two score the same": ("SGD", "ChunkLearner.worker = lambda *_: world.rank", "scored one twice"),
    "learns before all have scored": (
        "phases",
        "if world.rank: Exam.share = lambda *_: None",
        "not released",
    ),
    "learns otherwise": (
        "SGD",
        "def double(*given):\n"
        "    found = real(*given)\n"
        "    [each.mul_(2) for each in given[1].gradients()]\n"
        "    return found\n"
        "real = learner.shared_gradients\n"
        "if world.rank: learner.shared_gradients = double",
        "the processes have learnt different weights",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_process_that_goes_its_own_way_is_caught(tmp_path, fault):
    name, change, message = FAULTS[fault]
    codes, said, files = started(tmp_path, 2, [name], change)
    assert all(codes) and message in said[1], said
    assert not any(path.exists() for path in files)


def lanes_of(lengths, lanes):
    """Which lane takes each batch of a document, whose windows have so many tokens."""
    plan = LoraDocuments(batch_documents=1)
    windows = [Window(0, length, 0) for length in lengths]
    return plan.lane_of(windows, [[[index]] for index in range(len(lengths))], lanes)


def test_batches_go_where_least_is_to_do():
    assert lanes_of([9, 5, 4, 1], 2) == [0, 1, 1, 0]
    assert lanes_of([1, 4, 5, 9], 2) == [0, 1, 1, 0]  # the largest first, whatever their order
    assert lanes_of([3, 3, 3], 1) == [0, 0, 0]
    lengths = np.random.default_rng(1).lognormal(7, 1, 200).astype(int).tolist()
    taken = np.bincount(lanes_of(lengths, 8), weights=lengths)
    assert taken.max() < 1.02 * taken.mean()


def test_processes_have_about_equal_work_in_lanes_of_very_different_lengths():
    """Three processes, eight lanes: the longest lane is one process's alone."""
    starts = np.cumsum([0, 400, 90, 80, 70, 60, 50, 40, 30, 20, 10])
    windows = list(DOCUMENTS.windows(901, starts[:-1].tolist()))
    plan = LoraDocuments(warm=True, lanes=8, batch_documents=1)
    with plan.adapting(make_model(), windows, starts[:-1]) as learner:
        learner.join(World(0, 3))
        work = np.zeros(3)
        for part in plan.parts(windows, starts[:-1]):
            work[learner.worker(part, 0)] += sum(windows[i].end - windows[i].start for i in part)
    assert np.sort(work)[1] < 1.25 * np.sort(work)[0] and work.max() < 0.55 * work.sum()


def test_lanes_of_phases_are_filled_anew():
    batches = [[[index]] for index in range(6)]
    windows = [Window(0, length, 0) for length in (9, 1, 1, 9, 1, 1)]
    plan = PHASED.replace({"prefix_documents": 3, "phases": 1, "longest_first": False})
    assert plan.rounds(batches) == [range(3), range(3, 6)]
    assert plan.lane_of(windows, batches, 2) == [0, 1, 1, 0, 1, 1]
    assert plan.worked_off(windows, batches) == [[0, 1, 2], [3, 4, 5]]
    assert plan.replace({"phases": 3}).rounds(batches) == [range(1), range(1, 2), range(2, 3), range(3, 6)]


class Alone(World):
    """One of two processes, whose other one adds what is given."""

    def __init__(self, *others):
        super().__init__(0, 2)
        object.__setattr__(self, "others", list(others))

    def sum(self, tensor):
        return tensor.add_(torch.tensor(self.others.pop(0)))


def test_scores_that_are_no_numbers_are_shared_as_they_are_and_nothing_twice():
    exam = Exam(np.arange(9).astype(np.uint16), [Window(0, 4, 0), Window(4, 8, 4)])
    exam.ask([0])
    exam.answer(np.array([[1.0, np.nan, -0.0, 3.0]], np.float32))
    others = np.array([5, 6, np.nan, 8], np.float32)
    bits = [0, 0, 0, 0, *others.view(np.int32).tolist()]
    exam.share([0, 1], Alone([0, 1], bits), torch.device("cpu"))
    assert exam.nats.tobytes() == np.array([1, np.nan, -0.0, 3, *others], np.float32).tobytes()
    assert exam.answered([0, 1]) and list(exam.released(0, 8)) == list(range(9))
    for counts in ([1, 0], [0, 0]):
        exam = Exam(np.arange(9).astype(np.uint16), [Window(0, 4, 0), Window(4, 8, 4)])
        exam.ask([0])
        exam.answer(np.zeros((1, 4), np.float32))
        with pytest.raises(RuleError, match="left one out, or scored one twice"):
            exam.share([0, 1], Alone(counts), torch.device("cpu"))
