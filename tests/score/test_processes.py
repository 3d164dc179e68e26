"""One process or several: the scores are the same to the bit."""

import os
import socket
import subprocess
import sys

import numpy as np

from bitgolf.score.chained import Chained
from bitgolf.score.exam import Exam
from bitgolf.score.score import ScorePlan, is_static, score
from bitgolf.score.windows import Chunked, PerDocument, Sliding, Window
from tests.score.test_score import BOS, Bytes, make_model

PLANS = {
    "chunked": Chunked(length=32),
    "sliding": Sliding(length=32, stride=8),
    "tail": Sliding(length=32, stride=8, public_tail=True),
    "documents": PerDocument(within=Sliding(length=16, stride=4)),
    "chained": Chained(history=24, stride=8, lanes=3),
}
PROCESS = """
import sys
import numpy as np, torch
from bitgolf.base.events import finish
from bitgolf.score.score import ScorePlan, scoring
from bitgolf.train.world import join_world, leave_world
from tests.score.test_processes import PLANS, text
from tests.score.test_score import Bytes, make_model
torch.set_num_threads(1)
world, model, found = join_world("cpu"), make_model(), {}
for name, windows in PLANS.items():
    plan = ScorePlan(windows=windows, batch_tokens=64)
    steps = []
    found[name] = finish(scoring(model, text(), Bytes(), plan, world=world), steps.append).nats
    found[name + " steps"] = np.array(len(steps))
np.savez(sys.argv[1], **found)
leave_world(world)
"""


def text() -> np.ndarray:
    stream = np.random.default_rng(3).integers(0, 256, 230).astype(np.uint16)
    stream[[0, 40, 41, 170]] = BOS
    return stream


def test_one_and_three_processes_give_the_same_scores_to_the_bit(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "3"}
    files = [tmp_path / f"{rank}.npz" for rank in range(3)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(path)], env={**os.environ, **place, "RANK": str(rank)}
        )
        for rank, path in enumerate(files)
    ]
    assert [process.wait(timeout=170) for process in running] == [0, 0, 0]
    found = [np.load(path) for path in files]
    for name, windows in PLANS.items():
        plan = ScorePlan(windows=windows, batch_tokens=64)
        alone = score(make_model(), text(), Bytes(), plan).nats
        assert all(each[name].tobytes() == alone.tobytes() for each in found), name
        steps = [int(each[f"{name} steps"]) for each in found]
        shared = is_static(plan)
        assert shared == (name != "chained") and (len(set(steps)) == 1 or shared)
        assert max(steps) - min(steps) <= 1


def test_scores_that_are_no_numbers_stay_so_and_nothing_is_added_twice():
    tokens = np.arange(9).astype(np.uint16)
    exam = Exam(tokens, [Window(0, 4, 0), Window(4, 8, 4)])
    exam.ask([0])
    exam.answer(np.array([[1.0, np.nan, 2.0, 3.0]], np.float32))
    np.testing.assert_array_equal(exam.own(), [1, np.nan, 2, 3, 0, 0, 0, 0])
    exam.resume(np.array([9, 9, 9, 9, 5, 6, 7, 8], np.float32))
    np.testing.assert_array_equal(exam.nats, [1, np.nan, 2, 3, 5, 6, 7, 8])
