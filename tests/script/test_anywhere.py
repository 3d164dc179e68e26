"""Techniques in a user's own file: run at once, kept with the run, read again, carried into the script."""

import os
import pickle
import subprocess
import sys

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import read_json, write_json
from bitgolf.base.plan import from_json, to_json
from bitgolf.inputs.recorded import record, recorded, recording, refuse_changed
from bitgolf.inputs.resolve import find_recipe
from bitgolf.inputs.typed import read_plan
from bitgolf.pipeline.work import work
from bitgolf.recipe import Recipe
from bitgolf.run.stages import run
from bitgolf.script import own
from bitgolf.script.counted import script_of
from bitgolf.script.flatten import flatten, undefined_names
from bitgolf.script.proofs import prove_scripts
from bitgolf.script.source import SourceError
from tests.own_file import TEXT

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    return path


def recipe_of(path):
    return find_recipe(f"{path}:mine")


def in_another_process(*words, program="-m", **environment):
    command = [sys.executable, program, *map(str, words)]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_a_script_holds_what_the_class_needs_and_no_more(file):
    script = flatten(recipe_of(file))
    assert undefined_names(script) == []
    assert "# As low as it gets.\nFLOOR = 0.1" in script
    assert script.count("class InverseRoot(Plan):") == 1  # no other schedule stands beside it
    rate = "max(1.0 / math.sqrt(1.0 + (before.step / optimizers.plan.schedule.half)), FLOOR)"
    assert f"lr_scale = {rate}" in script  # it and its helper, where the one schedule is asked
    assert "schedule=InverseRoot(half=2)" in script
    for left_out in ("colorsys", "def mine", "def unused", "import bitgolf", "from bitgolf", "import mine"):
        assert left_out not in script.partition('"""\n')[2], left_out


def test_the_counted_code_holds_it_and_computes_the_same(file, dataset):
    recipe = recipe_of(file)
    code = script_of(recipe)
    readable = flatten(recipe)
    assert "InverseRoot" in readable
    sizes = prove_scripts(recipe, dataset.folder, {"readable": readable, "packed": code})
    assert sizes["model.bin"] > 1000


@pytest.mark.slow
def test_a_run_keeps_the_file_and_is_read_in_another_process(file, dataset, tmp_path):
    folder = tmp_path / "run"
    for _ in work(recipe_of(file), str(dataset.folder), folder, 1):
        pass
    assert (folder / "own" / "mine.py").read_text() == TEXT
    file.unlink()
    code, out, err = in_another_process("bitgolf", "score", folder, "--json")
    assert code == 0 and '"bits_per_byte"' in out, err
    # Another user's cache: nobody has named the file there.
    code, out, err = in_another_process("bitgolf", "score", folder, BITGOLF_CACHE=str(tmp_path / "new"))
    assert (code, out) == (2, "") and "unknown class 'InverseRoot'" in err
    assert "was never named here" in err and f"bitgolf techniques {folder}/own/mine.py" in err
    (folder / "own" / "mine.py").unlink()
    code, out, err = in_another_process("bitgolf", "show", folder / "recipe.json")
    assert (code, out) == (2, "") and f"is read from {folder}/own, which does not hold it" in err


PART = """import dataclasses

from bitgolf.net.parts import Dimensions, Start, start_constant
from bitgolf.net.mlp import Activation, ReluSquared
from bitgolf.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Activation):
    pass


def mine():
    return Recipe().replace({"model.activation": Own()})
"""


def test_an_artifact_with_a_class_of_a_file_is_read_with_it(file, tmp_path):
    file.write_text(PART)
    recipe = recipe_of(file)
    record(recipe, tmp_path / "run")
    write_json(tmp_path / "run" / "recipe.json", to_json(recipe))
    assert read_plan(tmp_path / "run" / "recipe.json", Recipe) == recipe


def test_a_resumed_run_has_the_techniques_that_it_was_begun_with(file, tmp_path):
    recipe, folder = recipe_of(file), tmp_path / "run"
    record(recipe, folder)
    for same in (TEXT + "\nMORE = 3\n", TEXT.replace("FLOOR = 0.1\n", "FLOOR = 0.1\n\nMORE = 3\n")):
        file.write_text(same)
        refuse_changed(recipe_of(file), folder)
        record(recipe_of(file), folder)
    assert [path.name for path in recorded(folder)] == ["mine.py"]
    for other in (TEXT.replace("FLOOR = 0.1\n", "FLOOR = 0.2\n"), TEXT.replace("1.0 + steps", "2.0 + steps")):
        file.write_text(other)
        with pytest.raises(
            BitgolfError, match=r"have changed.*InverseRoot.*run/recipe.json --out .*--resume"
        ):
            refuse_changed(recipe_of(file), folder)


def test_of_two_files_with_one_class_the_last_named_is_meant(file, tmp_path):
    first = recipe_of(file)
    other = tmp_path / "other.py"
    other.write_text(TEXT.replace("0.1", "0.3"))
    second = recipe_of(other)
    for recipe, path in ((second, other), (first, file), (second, other)):
        assert recipe_of(path) == recipe == from_json(Recipe, to_json(recipe))
    assert first != second


def test_settings_go_to_another_process_with_their_file(file, tmp_path):
    recipe = recipe_of(file)
    (tmp_path / "pickled").write_bytes(pickle.dumps(recipe))
    file.unlink()
    program = f"import pickle; r = pickle.load(open({str(tmp_path / 'pickled')!r}, 'rb'))"
    program += "; print(r.optim.schedule, r.identity())"
    code, out, err = in_another_process(program, program="-c")
    assert (code, out.split()) == (0, ["InverseRoot(half=2)", recipe.identity()]), err
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_runs_of_studies_keep_it_too(file, dataset, tmp_path):
    recipe = recipe_of(file)
    for _ in recording(run(recipe, dataset, tmp_path / "run", 1, code=b""), recipe, tmp_path / "run"):
        pass
    assert [path.name for path in recorded(tmp_path / "run")] == ["mine.py"]
    assert read_json(tmp_path / "run" / "recipe.json") == to_json(recipe)


BODY = "        return 1.0 if"
MATH, FLOOR, FUTURE = "import math\n", "FLOOR = 0.1\n", "from __future__ import annotations\n"
REFUSED = {
    "import inside a function": ("mine.py:32: import inside", BODY, "        import os\n" + BODY),
    "another library": (
        "mine.py:4: imports sentencepiece",
        MATH,
        "import sentencepiece\nmath = sentencepiece\n",
    ),
    "another library that may be missing": (
        "imports brotli",
        MATH,
        "try:\n    import brotli as math\nexcept ImportError:\n    math = None\n",
    ),
    "a module of the package": ("imports a whole module", MATH, "import bitgolf.recipe\nmath = bitgolf\n"),
    "what no script holds": (
        "imports bitgolf.report.screen, which no script can contain",
        MATH,
        "from bitgolf.report.screen import note\nmath = note\n",
    ),
    "another name": (
        "`setting as math`; what is of bitgolf keeps its name",
        MATH,
        "from bitgolf.base.plan import setting as math\n",
    ),
    "what core only imports": ("defines no math", MATH, "from bitgolf.train.schedule import math\n"),
    "one name twice": (
        "_root already means something else at mine.py:35",
        "def unused() -> None:\n    import colorsys",
        "def _root():\n    pass",
    ),
    "a name of core": ("main already means something else at run.py", "_root", "main"),
    "a statement": ("only def, class, constants, imports", FLOOR, FLOOR + "FLOOR += 0.1\n"),
    "the file itself": ("__file__ means something else", BODY, "        str(__file__)\n" + BODY),
    "star import": ("star import", MATH, "from math import *\nimport math\n"),
    "future import": ("future import", "import dataclasses", FUTURE + "import dataclasses"),
}


@pytest.mark.parametrize(("message", "old", "new"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_carried_is_refused_with_its_line(file, message, old, new):
    assert old in TEXT
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(SourceError, match="a technique cannot be put into the script") as caught:
        flatten(recipe_of(file))
    assert any(message in fault for fault in caught.value.faults), caught.value.faults


INNER = """
def made():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Inner(Schedule):
        pass

    return Inner()
"""


def test_a_class_made_inside_a_function_is_refused(file):
    file.write_text(TEXT.replace("InverseRoot(half=2)", "made()") + INNER)
    with pytest.raises(SourceError, match="mine.py: made.<locals>.Inner is not at the top level"):
        flatten(recipe_of(file))


COUNTING = """
from bitgolf.recipe import Recipe
SEEN = []

def mine():
    SEEN.append(1)
    return Recipe(name=f"r{len(SEEN)}")
"""


def test_a_file_without_techniques_is_executed_each_time(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text(COUNTING)
    assert [recipe_of(path).name for _ in range(2)] == ["r1", "r1"]
    assert not any(known.path == path for known in own.OWN_FILES.values())
