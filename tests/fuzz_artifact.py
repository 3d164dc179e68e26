"""A program for tests: coverage-guided fuzzing of the reader of artifacts, until it fails or time is up.

python -m tests.fuzz_artifact FOLDER SECONDS; FOLDER then holds a crash-*, timeout-* or oom-* where it failed.
"""

import os
import random
import sys
import time
import traceback
import zlib
from pathlib import Path

import atheris

# numba cannot compile what is watched, and rounding reads no artifact.
with atheris.instrument_imports(include=["bitgolf"], exclude=["bitgolf.squeeze.trellis"]):
    import bitgolf
    from tests import forgery

    bitgolf.import_core()
from tests.peak_memory import peak_so_far

CPU_SECONDS, SECONDS = 5, 30  # for one input; the second ends what would never end, on a busy machine too
MORE_BYTES = 2**30  # than good artifacts take


def read(data: bytes, folder: Path, most_bytes: int) -> None:
    """One input. Where it fails it is kept, and the process ends."""
    try:
        started = time.process_time()
        forgery.refused_or_whole(data)
        assert time.process_time() - started < CPU_SECONDS, "too slow"
        assert peak_so_far() < most_bytes, "too much memory"
    except BaseException:  # a panic of a library in Rust is no Exception
        traceback.print_exc()
        (folder / f"crash-{zlib.crc32(data):08x}").write_bytes(data)
        os._exit(1)  # as leaving by an exception may hang


def changed(data: bytes, largest: int, seed: int) -> bytes:
    """The next input: the fuzzer's own changes of bytes, under right checksums."""
    draw = random.Random(seed)
    return forgery.mutated_artifact(data, draw, lambda part: atheris.Mutate(part, len(part) + 64))[:largest]


def main(folder: Path, seconds: int) -> None:
    """Does not return: libFuzzer ends the process."""
    seeds, found = folder / "seeds", folder / "corpus"
    for each in (seeds, found):
        each.mkdir(parents=True)
    for name, artifact in forgery.artifacts_of_all_forms().items():
        assert not forgery.refused_or_whole(artifact.data)
        (seeds / name).write_bytes(artifact.data)
    most_bytes = peak_so_far() + MORE_BYTES
    options = {
        "max_total_time": seconds,
        "timeout": SECONDS,
        "rss_limit_mb": 2 * most_bytes // 2**20,  # what would not come back from asking for more
        "max_len": 2**14,
        "artifact_prefix": f"{folder}/",
        "report_slow_units": 10 * SECONDS,  # by the clock, which a busy machine stretches
        "seed": 1,
    }
    arguments = [f"-{name}={value}" for name, value in options.items()]
    arguments = [sys.argv[0], *arguments, str(found), str(seeds)]
    atheris.Setup(arguments, lambda data: read(data, folder, most_bytes), custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
