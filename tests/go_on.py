"""A study gone on with: `python -m tests.go_on STUDY_FOLDER STORE [PROCESSES]`; for tests that kill it."""

import sys
from pathlib import Path

import torch

from bitgolf.report.screen import follow
from bitgolf.script import counted
from bitgolf.study.executors import in_processes, in_this_process
from bitgolf.study.runner import find_study, prepare, run_study
from tests.any_source import ANY_SOURCE

if __name__ == "__main__":
    torch.set_num_threads(1)
    counted.minified = lambda _: ANY_SOURCE
    executor = in_processes(int(sys.argv[3]), 1) if len(sys.argv) > 3 else in_this_process
    run_study(follow(prepare(find_study(sys.argv[1]), Path(sys.argv[2]))), executor, lambda: None)
