"""A study gone on with: `python -m tests.go_on STUDY_FOLDER STORE [PROCESSES]`; for tests that kill it."""

import sys
from pathlib import Path

import torch

from bitgolf.report.screen import follow
from bitgolf.study.conduct import conduct, find_study, prepare
from bitgolf.study.executors import in_processes, in_this_process

if __name__ == "__main__":
    torch.set_num_threads(1)
    executor = in_processes(int(sys.argv[3]), 1) if len(sys.argv) > 3 else in_this_process
    conduct(follow(prepare(find_study(sys.argv[1]), Path(sys.argv[2]))), executor, lambda: None)
