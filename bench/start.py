"""Seconds until a command answers, each in a new process, taken in turns.

python -m bench.start [--rounds N] [--json]
Processor time of the process and its children. The least of the rounds counts: a start can only be disturbed.
"""

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from bench.machine import Watch, show, spread

COMMANDS = {
    "python": ("-c", "pass"),
    "torch": ("-c", "import torch"),
    "the package": ("-c", "import bitgolf; bitgolf.import_core()"),
    "--help": ("-m", "bitgolf", "--help"),
    "show demo": ("-m", "bitgolf", "show", "demo"),
    "techniques": ("-m", "bitgolf", "techniques"),
}


def seconds_of(command: tuple[str, ...]) -> float:
    """Processor seconds of a command, which must end well."""
    before = os.times()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def bench_starts(rounds: int) -> dict[str, Any]:
    """Each command some times; the first time, which may write compiled files, is not among them."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            seconds = seconds_of(command)
            if number:
                found[name].append(seconds)
    return {
        "bench": "start",
        "least_seconds": {name: min(values) for name, values in found.items()},
        "median_seconds": {name: spread(values)["median"] for name, values in found.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    watch = Watch()
    results = [bench_starts(options.rounds), watch.facts()]
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        print()
    else:
        for result in results:
            show(result)


if __name__ == "__main__":
    main()
