"""One run on several processes: what torchrun starts, `-m bitgolf.study.together SCRIPT RECIPE.json OPTIONS`.

It is the package's own run, which resumes and says how it stands; the script's bytes are what is counted.
"""

import sys
from pathlib import Path

from bitgolf.inputs.typed import read_plan
from bitgolf.recipe import Recipe
from bitgolf.run.command import main

if __name__ == "__main__":
    recipe = read_plan(Path(sys.argv[2]), Recipe)
    sys.argv = [sys.argv[1], *sys.argv[3:]]
    sys.exit(main(recipe))
