"""The list of verbs says what their modules say, and nothing heavy is imported before it is needed."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from bitgolf.cli.main import VERBS

CLI = Path(inspect.getfile(importlib.import_module("bitgolf.cli.main"))).parent
NO_VERBS = {"main", "options", "shown", "faults"}
HEAVY = {"torch", "numba", "scipy", "sentencepiece", "pandas", "matplotlib", "jinja2", "safetensors"}


def test_every_verb_has_a_module_and_every_module_its_line():
    assert {*VERBS} | NO_VERBS == {path.stem for path in CLI.glob("[!_]*.py")}
    for name, line in VERBS.items():
        verb = getattr(importlib.import_module(f"bitgolf.cli.{name}"), name)
        assert inspect.getdoc(verb).splitlines()[0] == line, name


@pytest.mark.parametrize("words", ["--help", "--version", "findings EMA", "runn"])
def test_nothing_heavy_is_imported_for(words, tmp_path):
    program = f"""
import sys
from bitgolf.cli.main import main
try:
    main()
except SystemExit:
    print("imported:", *({HEAVY} & sys.modules.keys()), file=sys.stderr)
"""
    command = [sys.executable, "-c", program, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "imported:", done.stderr


def test_a_misspelled_verb_meets_the_right_one():
    done = subprocess.run([sys.executable, "-m", "bitgolf", "runn"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "did you mean 'run'" in done.stderr
