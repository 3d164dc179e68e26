"""A program for tests to kill: run a recipe.json on a dataset folder."""

import sys
from pathlib import Path

from bitgolf.base.events import finish
from bitgolf.base.files import read_json
from bitgolf.base.plan import from_json
from bitgolf.recipe import Recipe
from bitgolf.run.command import Printer
from bitgolf.run.stages import run
from bitgolf.text.shards import Dataset

if __name__ == "__main__":
    recipe_path, data, folder, *extra = sys.argv[1:]
    recipe = from_json(Recipe, read_json(Path(recipe_path)))
    steps = run(recipe, Dataset.open(data), Path(folder), 3, code=b"", resume="--resume" in extra)
    finish(steps, Printer())
