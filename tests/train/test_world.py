"""Processes that trained together end alone: nothing of their group outlives it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# The import stands for what a run imports after it joined: the compiler, by way of an optimizer.
PROGRAM = """
import os, pathlib, sys, torch
from bitgolf.train.world import join_world, leave_world

world = join_world("cpu")
import torch.distributed.nn
assert world.sum(torch.ones(3)).tolist() == [2, 2, 2]
leave_world(world)
threads = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
assert not any("gloo" in thread for thread in threads), threads
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are named by /proc alone")
def test_no_thread_of_a_group_is_left(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*TORCHRUN, tmp_path / "program.py"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
