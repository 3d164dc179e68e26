"""The list of verbs says what their modules say, and nothing heavy is imported before it is needed."""

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitgolf.cli.main import VERBS
from bitgolf.recipe import Recipe
from bitgolf.score.windows import Chunked
from bitgolf.study.design import Study, add_one
from tests.fake_study import fake_study
from tests.study.test_verdicts import write_scores

CLI = Path(inspect.getfile(importlib.import_module("bitgolf.cli.main"))).parent
NO_VERBS = {"main", "options", "shown", "faults"}
HEAVY = {"torch", "numba", "scipy", "sentencepiece", "pandas", "matplotlib", "jinja2", "safetensors"}


def test_every_verb_has_a_module_and_every_module_its_line():
    assert {*VERBS} | NO_VERBS == {path.stem for path in CLI.glob("[!_]*.py")}
    for name, line in VERBS.items():
        verb = getattr(importlib.import_module(f"bitgolf.cli.{name}"), name)
        assert inspect.getdoc(verb).splitlines()[0] == line, name


LIGHT = {
    **dict.fromkeys(("--help", "--version", "findings EMA", "runn"), ""),
    **dict.fromkeys(("techniques", "techniques --json", "techniques Xsa", "techniques EMA_DECAY"), ""),
    **dict.fromkeys(("show demo", "show pr543-laptop --json", "compare demo pr543"), ""),
    # Welch's test needs `scipy.special`, documents drawn again and published figures no more than `scipy`.
    # A recipe that is changed is made of its classes, which stand beside what they compute with torch.
    **dict.fromkeys(("show demo --set model.layers=3",), "safetensors sentencepiece torch"),
    **dict.fromkeys(("compare {a} {b}", "compare {a} {b} --json", "compare {b} --against 1.2"), "scipy"),
}


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    arms = add_one(Recipe(), {"other": {"score.windows": Chunked(length=32)}})
    study = Study(name="c", baseline=Recipe(), arms=arms)
    fake_study(folder, study, {"baseline": [2.0, 2.002, 1.999], "other": [1.9, 1.903, 1.899]})
    for path in folder.glob("runs/*"):
        write_scores(path / "scores.npz", np.random.default_rng(len(path.name)).uniform(3, 5, 1000))
    return {
        n: ",".join(map(str, folder.glob(f"runs/c-{a}-*"))) for n, a in (("a", "baseline"), ("b", "other"))
    }


@pytest.mark.parametrize("words", LIGHT)
def test_nothing_heavy_is_imported_for(words, tmp_path, two_sets):
    program = f"""
import sys
from bitgolf.cli.main import main
try:
    main()
except SystemExit:
    print("imported:", *sorted({HEAVY} & sys.modules.keys()), file=sys.stderr)
"""
    command = [sys.executable, "-c", program, *words.format(**two_sets).split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr.splitlines()[-1].split() == ["imported:", *LIGHT[words].split()], done.stderr
    assert words == "runn" or done.stdout and "error" not in done.stderr


@pytest.mark.parametrize(
    ("typed", "words"),
    [("", [*VERBS]), ("sh", ["show", "share"]), ("--ver", ["--version"]), ("show base", ["baseline"])],
)
def test_the_shell_completes_verbs_options_and_recipes_without_anything_heavy(typed, words):
    program = f"""
import atexit, sys
from bitgolf.cli.main import main
atexit.register(lambda: print("imported:", *sorted({HEAVY} & sys.modules.keys()), file=sys.stderr))
main()
"""
    asked = {"COMP_WORDS": f"bitgolf {typed}", "COMP_CWORD": str(1 + typed.count(" "))}
    environment = os.environ | asked | {"_BITGOLF_COMPLETE": "complete_bash"}
    # The name of the program is part of the protocol.
    command = [sys.executable, "-c", "import sys; sys.argv = ['bitgolf']\n" + program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == words and done.stderr.split() == ["imported:"]


@pytest.mark.parametrize(("words", "looks_for_garbage"), [("--version", True), ("show demo", False)])
def test_the_classes_of_libraries_are_not_searched_for_garbage(words, looks_for_garbage):
    program = """
import atexit, gc
from bitgolf.cli.main import main
atexit.register(lambda: print(gc.isenabled(), len(gc.get_objects()) < gc.get_freeze_count()))
main()
"""
    done = subprocess.run([sys.executable, "-c", program, *words.split()], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"{looks_for_garbage} True", done.stderr


@pytest.mark.parametrize(
    "chosen, wanted",
    [
        ({}, {"GOMP_SPINCOUNT": "1000", "OPENBLAS_NUM_THREADS": "1"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7", "OPENBLAS_NUM_THREADS": "1"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active", "OPENBLAS_NUM_THREADS": "1"}),
        ({"OPENBLAS_NUM_THREADS": "2"}, {"GOMP_SPINCOUNT": "1000", "OPENBLAS_NUM_THREADS": "2"}),
    ],
    ids=["not chosen", "a count", "a policy", "threads of BLAS"],
)
@pytest.mark.parametrize("asked", ["bitgolf.cli.main.main()", "bitgolf.Recipe"])
def test_waiting_threads_give_up_their_core_unless_the_user_chose(chosen, wanted, asked):
    program = f"""
import atexit, os, sys
import bitgolf, bitgolf.cli.main
assert not sys.modules.keys() & {{"torch", "numpy"}}
names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS")
atexit.register(lambda: print({{name: os.environ[name] for name in names if name in os.environ}}))
sys.argv = ["bitgolf", "--version"]
{asked}
"""
    given = {
        name: value for name, value in os.environ.items() if not name.startswith(("GOMP", "OMP", "OPENBLAS"))
    }
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**given, **chosen}
    )
    assert done.stdout.splitlines()[-1] == str(wanted), done.stderr


def test_a_misspelled_verb_meets_the_right_one():
    done = subprocess.run([sys.executable, "-m", "bitgolf", "runn"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "did you mean 'run'" in done.stderr
