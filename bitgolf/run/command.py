"""A run without a screen, with its own command line: for several processes and for proofs of scripts."""

import argparse
import json
import math
import sys
from pathlib import Path

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event, finish, is_first_process
from bitgolf.recipe import Recipe
from bitgolf.run.stages import run
from bitgolf.text.shards import Dataset


def main(recipe: Recipe) -> int:
    """The command line of a generated script: train on a dataset folder, pack, reload, score."""
    parser = argparse.ArgumentParser(description=f"bitgolf {recipe.name}, {recipe.identity()}")
    parser.add_argument("--data", type=Path, required=True, help="dataset folder with passport.json")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--resume", action="store_true", help="continue a run that was stopped")
    choice = parser.parse_args()
    try:
        code = Path(sys.argv[0]).read_bytes()
        steps = run(
            recipe, Dataset.open(choice.data), choice.out, choice.seed, code=code, resume=choice.resume
        )
        result = finish(steps, Printer()).result
    except (BitgolfError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if is_first_process():
        shown = {name: value for name, value in result.items() if not isinstance(value, (dict, list))}
        print(json.dumps(shown))
    return 0 if result["status"] == "ok" else 1


class Printer:
    """A line on stderr for every tenth of each stage, by the first process."""

    def __init__(self) -> None:
        self._printed = ("", -1)

    def __call__(self, event: Event) -> None:
        """Print the event if it is due."""
        tenth = math.floor(10 * event.done / event.total) if event.total else 10
        if (event.stage, tenth) != self._printed and is_first_process():
            facts = " ".join(f"{name}={value}" for name, value in event.facts.items())
            print(f"{event.stage} {10 * tenth}% {facts}", file=sys.stderr, flush=True)
            self._printed = (event.stage, tenth)
