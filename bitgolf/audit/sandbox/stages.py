"""Runs in the sandbox: executes a script at tiny size and puts probes to what scores its validation tokens.

`main` reads a task, the file it is given, and writes what it saw as lines of JSON; each stage is a process.
"""

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
import torch._dynamo  # before anything stands in for what it lists
import torch._inductor.config

from bitgolf.audit.sandbox.asking import probe
from bitgolf.audit.sandbox.lines import SHARED, SIZES, TINY, UNTRAINED, Report, Task
from bitgolf.audit.sandbox.machine import PROGRAMS, install
from bitgolf.audit.sandbox.scorers import Evaluation, oracle, texts_of
from bitgolf.audit.sandbox.script import Enough, Script, largest_model, parameters, sizes
from bitgolf.audit.sandbox.text import SCORED, TRAINED, VOCABULARY, paths, stream, write_shards
from bitgolf.audit.sandbox.tiny import TINY as SMALL

SHARES = {SIZES: 0.25, TINY: 0.8, UNTRAINED: 0.8, SHARED: 1.0}  # of the time that is left
MOST_EVALUATIONS = 6


class Late(BaseException):  # noqa: N818 - no error of the script, which would catch one
    """Its time is over."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise Late after so many seconds."""

    def late(*_: object) -> None:
        raise Late(f"stopped after {seconds:.0f} seconds")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def stage(task: Task, name: str, rank: int, until: float, report: Report) -> None:
    """Run a script one way; whatever it raises is said."""
    torch.set_num_threads(1)
    folder = Path("/tmp", name.replace(" ", "_"))
    os.chdir(folder)
    os.environ["PATH"] += f":{folder}/bin"
    task = task._replace(file=str(folder / Path(task.file).name))
    vocabulary = task.vocabulary if name == SIZES else VOCABULARY
    os.environ |= paths(folder / "data", vocabulary)
    if name != SIZES:
        os.environ |= {key: str(value) for key, value in SMALL.items()}
        if name == UNTRAINED:
            os.environ |= {"ITERATIONS": "0", "WARMUP_STEPS": "0"}
        if name == SHARED:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": "29517",
            }
    script = Script(task, name, report)
    install(vocabulary)
    if name == SIZES:
        script.watch.on_optimizer = enough
    error: BaseException | None = None  # kept, since its frames hold the model
    try:
        with within((0.5 if name in (TINY, UNTRAINED) else 1.0) * (until - time.monotonic())):
            script.run()
    except BaseException as raised:
        error = raised
    failed = error is not None and not isinstance(error, Enough | SystemExit)
    report("ran", ended="failed" if failed else "passed", why=reason(error, task.file) if failed else "")
    model = largest_model()
    if model is not None and parameters(model):
        report("sizes", **sizes(model, vocabulary))
    if name in (TINY, UNTRAINED):
        look(script, model, until, report)


def lay_out(task: Task, name: str) -> None:
    """A folder to run in: the script's own, shards, a tokenizer, and what it calls."""
    folder = Path("/tmp", name.replace(" ", "_"))
    shutil.copytree(Path(task.file).parent, folder)
    (folder / "bin").mkdir(exist_ok=True)
    for program, does in PROGRAMS.items():
        (folder / "bin" / program).write_text(f"#!/bin/sh\n{does}\n")
        (folder / "bin" / program).chmod(0o755)
    trained = stream(VOCABULARY, TRAINED, 4)
    scored = trained if name == SIZES else stream(VOCABULARY, SCORED, 3)
    write_shards(folder / "data", task.vocabulary if name == SIZES else VOCABULARY, scored, trained)


def enough() -> None:
    """Stop where the model is made and nothing is trained yet."""
    raise Enough


def look(script: Script, model: torch.nn.Module | None, until: float, report: Report) -> None:
    """What the run showed, and the probes."""
    early = sum(saves < script.watch.saves for saves in script.learnt_at)
    report("learnt", early=early, learnt=len(script.learnt_at), saves=script.watch.saves)
    latest: dict[str, Evaluation] = {}
    for evaluation in script.evaluations:
        latest[evaluation.name] = evaluation
    evaluations = list(latest.values())[-MOST_EVALUATIONS:]
    if not evaluations and model is not None:
        evaluations = [oracle(model, script.scored, script.watch)]
    for number, evaluation in enumerate(evaluations):
        try:
            share = (until - time.monotonic() - 1) / (len(evaluations) - number)
            length = max((len(each) for each in texts_of(evaluation, script.scored)), default=SCORED)
            with within(share):
                probe(evaluation, report, script.scored[:length])
        except (Exception, Late) as error:
            report("unprobed", name=evaluation.name, why=reason(error, script.module.__file__ or ""))


def reason(error: BaseException | None, file: str) -> str:
    """An error, with the line of the script."""
    if error is None:
        return ""
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == file]
    message = " ".join(str(error).split())[:200]
    kind = "no end in its time" if isinstance(error, Late) else type(error).__name__
    return f"{kind}: {message}" + (f" (line {lines[-1]})" if lines else "")


def main() -> None:
    """Each stage in a process of its own; a stage that does not end in its share of the time is ended."""
    pipe = os.fdopen(os.dup(1), "w")
    task = Task(**json.loads(Path(sys.argv[1]).read_text()))
    deadline = time.monotonic() + task.seconds
    for name, share in SHARES.items():
        if name not in task.stages or (name == UNTRAINED and Path("/tmp/scored").exists()):
            continue
        lay_out(task, name)
        ranks = range(2 if name == SHARED else 1)
        until = time.monotonic() + max(5.0, share * (deadline - time.monotonic()))
        children = [_start(task, name, rank, until, pipe) for rank in ranks]
        if not _ended(children, until):
            _reporter(pipe, name, 0)("unended")


def _start(task: Task, name: str, rank: int, until: float, pipe: IO[str]) -> int:
    if child := os.fork():
        return child
    os.setpgid(0, 0)
    with Path("/dev/null").open("r+b") as nothing:
        for number in (0, 1, 2):
            os.dup2(nothing.fileno(), number)
    try:
        stage(task, name, rank, until, _reporter(pipe, name, rank))
    finally:
        os._exit(0)


def _reporter(pipe: IO[str], name: str, rank: int) -> Report:
    def report(event: str, **facts: object) -> None:
        if event == "evaluated" and name in (TINY, UNTRAINED):
            Path("/tmp/scored").touch()
        line = {"stage": name, "rank": rank, "event": event, **facts}
        pipe.write(json.dumps(line, default=float) + "\n")
        pipe.flush()

    return report


def _ended(children: list[int], until: float) -> bool:
    """Whether all end in time; those that do not are ended."""
    running = list(children)
    while running and time.monotonic() < until:
        running = [each for each in running if os.waitpid(each, os.WNOHANG)[0] == 0]
        time.sleep(0.02)
    for each in running:
        os.killpg(each, signal.SIGKILL)
        os.waitpid(each, 0)
    return not running
