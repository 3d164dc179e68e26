"""Whatever the bytes, reading an artifact ends in an error of its own or in a whole model."""

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bitgolf.squeeze.grid import Grid
from tests import forgery

ROOT = Path(__file__).parents[2]
FUZZ_SECONDS = int(os.environ.get("BITGOLF_FUZZ_SECONDS", "3600"))
PROGRAM = """
import time
from pathlib import Path
from tests import fuzz_artifact
{plant}
fuzz_artifact.main(Path({folder!r}), {seconds})
"""


class Fuzzed(NamedTuple):
    """What a coverage-guided run did; coverage in branches of bitgolf."""

    executions: int
    seconds: float
    seed_coverage: int
    coverage: int
    failures: dict[str, str]  # inputs as hex, by the name of what they did
    log: str


def fuzz(folder: Path, seconds: int, plant: str = "") -> Fuzzed:
    """Fuzzing in a process of its own, which libFuzzer ends; plant: a program that puts a fault in before."""
    program = PROGRAM.format(plant=plant, folder=str(folder), seconds=seconds)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started, command = time.monotonic(), [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment, timeout=seconds + 300)
    took, log = time.monotonic() - started, done.stderr.decode(errors="replace")
    seeds = re.search(r"INITED +cov: (\d+)", log)
    last = re.findall(r"^#(\d+)\s+\w+ +cov: (\d+)", log, re.MULTILINE)
    failures = {path.name: path.read_bytes().hex() for path in folder.glob("*-*")}
    assert seeds and (failures or "\nDone " in log), log[-3000:]
    executions, coverage = map(int, last[-1])
    return Fuzzed(executions, took, int(seeds[1]), coverage, failures, log)


@pytest.mark.slow
def test_coverage_guided_fuzzing_finds_nothing(tmp_path):
    pytest.importorskip("atheris")
    found = fuzz(tmp_path / "fuzz", FUZZ_SECONDS)
    rate = found.executions / found.seconds
    print(f"{found.executions:,} executions in {found.seconds:,.0f} s, {rate:.0f} a second")
    print(f"coverage {found.seed_coverage} of the seeds, {found.coverage} at the end")
    assert not found.failures, f"{found.log[-3000:]}\n{found.failures}"
    assert found.coverage > found.seed_coverage


PLANTS = {
    "crash": ("raise IndexError('planted')", "crash-"),
    "slow": ("end = time.process_time() + 6\n        while time.process_time() < end: pass", "crash-"),
    "hang": ("time.sleep(1000)", "timeout-"),
    "memory": ("b'x' * (2**30 + 2**28)", "crash-"),
}
# Where numbers are refused, which is beyond all seeds.
PLANTED = """
class Planted(fuzz_artifact.forgery.ArtifactError):
    def __init__(self, *_, **__):
        {fault}
from bitgolf.squeeze import artifact
artifact.ValueRangeError = Planted
"""


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTS)
def test_coverage_guided_fuzzing_finds_what_is_planted(plant, tmp_path):
    pytest.importorskip("atheris")
    fault, kind = PLANTS[plant]
    found = fuzz(tmp_path / "fuzz", 120, PLANTED.format(fault=fault))
    assert [name.startswith(kind) for name in found.failures] == [True], found.log[-3000:]


def failures(tries: int) -> Iterator[str]:
    """What goes wrong in so many random changes of good artifacts, each with its input as hex."""
    draw = random.Random(0)
    goods = [good.data for good in forgery.artifacts_of_all_forms().values()]
    for _ in range(tries):
        data = draw.choice(goods)
        for _ in range(draw.choice((1, 1, 2, 3))):
            data = forgery.mutated_artifact(data, draw, lambda part: forgery.mutated(part, draw))
        started = time.process_time()
        try:
            forgery.refused_or_whole(data)
        except Exception as error:
            yield f"{error!r:.200}: {data.hex()}"
        if time.process_time() - started > 5:
            yield f"slow: {data.hex()}"


def test_hundreds_of_random_changes_are_refused_or_give_a_whole_model():
    assert not list(failures(200))


def test_a_planted_fault_is_found(monkeypatch):
    def planted(grid, codes):
        return range(grid.qmin, grid.qmax + 1)[int(codes.max()) - grid.qmin]

    monkeypatch.setattr(Grid, "check_codes", planted)
    assert not any(forgery.refused_or_whole(good.data) for good in forgery.artifacts_of_all_forms().values())
    assert "IndexError" in next(failures(300))


def test_good_artifacts_of_all_forms_are_read():
    for name, good in forgery.artifacts_of_all_forms().items():
        assert forgery.Taken(good.data).bytes() == good.data, name
        assert not forgery.refused_or_whole(good.data), name
