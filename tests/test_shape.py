"""The shape of the code: reading order, what core may not do, cards, docstrings, recipes, the docs page."""

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bitgolf.recipes
from bitgolf import AROUND, READING_ORDER
from bitgolf.base.plan import Plan, from_json, members, to_json
from bitgolf.catalog.architecture import PAGE, architecture
from bitgolf.recipe import Recipe
from bitgolf.script.core import read_core
from bitgolf.script.flatten import flatten, undefined_names
from bitgolf.script.slim import slim_core
from bitgolf.script.source import PACKAGE_FOLDER, SourceError, file_of

THIRD_PARTY = {"numpy", "torch", "sentencepiece", "safetensors"}
# numba is imported when it is needed; scripts have a `compiled` of their own, in script/lean.
OPTIONAL = {"squeeze/codec.py": {"brotli", "constriction", "zstandard"}, "base/compiled.py": {"importlib"}}
READS_ENVIRONMENT = {
    "base/events.py",
    "train/world.py",
}  # torchrun speaks through them
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "copyreg", "importlib", "runpy", "subprocess"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "globals", "locals"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
CARD = ("What", "Source", "Cost", "Not for", "Neutral")


LONGEST_FUNCTION = 60  # lines, with signature and docstring
ROWS = re.compile(r"(dict|Mapping)\[str, Any\]")  # of JSON, whose values are looked at before use


def core_modules() -> list[object]:
    return [importlib.import_module(f"bitgolf.{name}") for name in READING_ORDER]


def classes_of_core() -> list[type]:
    return [
        item
        for module in core_modules()
        for item in vars(module).values()
        if inspect.isclass(item) and item.__module__ == module.__name__
    ]


def ships(kind: type) -> bool:
    """Whether a class is one of ours, not of a test."""
    return kind.__module__.removeprefix("bitgolf.") in READING_ORDER


def slots() -> list[type[Plan]]:
    return [item for item in classes_of_core() if issubclass(item, Plan) and item.__dict__.get("abstract")]


def files_of(folder: Path) -> dict[str, Path]:
    """What a submission can contain, by its file."""
    return {file_of(name): folder / file_of(name) for name in READING_ORDER}


def forbidden(folder: Path) -> Iterator[str]:
    """What a submission may not contain, as 'file:line: text'."""
    for file, path in files_of(folder).items():
        allowed = sys.stdlib_module_names - FORBIDDEN_MODULES | THIRD_PARTY | OPTIONAL.get(file, set())
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            found = [name for name in names if name.split(".")[0] not in allowed]
            found = [name for name in found if name.removeprefix("bitgolf.") not in READING_ORDER]
            if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
                found.append(ast.unparse(node.func))
            if (
                isinstance(node, ast.keyword)
                and node.arg == "allow_pickle"
                and ast.unparse(node.value) != "False"
            ):
                found.append("allow_pickle")
            if file not in READS_ENVIRONMENT and getattr(node, "attr", "") in ("environ", "getenv"):
                found.append("environment variables")
            yield from (f"{file}:{node.lineno}: {text}" for text in found)


def without_docstring(folder: Path) -> Iterator[str]:
    """Public functions, classes and modules of core that say nothing about themselves."""
    for file, path in files_of(folder).items():
        tree = ast.parse(path.read_text())
        for node in [tree, *tree.body]:
            is_public = isinstance(node, ast.Module) or not getattr(node, "name", "_").startswith("_")
            documented = not isinstance(node, DOCUMENTED) or ast.get_docstring(node)
            if is_public and not documented:
                yield f"{file}:{getattr(node, 'lineno', 1)}: {getattr(node, 'name', 'module')}"


def untyped_arguments(folder: Path) -> Iterator[str]:
    """Arguments of core that may be anything, as 'file:line: name'."""
    for file, path in files_of(folder).items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.arg) and node.annotation is not None:
                kind = ROWS.sub("", ast.unparse(node.annotation))
                if re.search(r"\bAny\b", kind):
                    yield f"{file}:{node.lineno}: {node.arg}"


def long_functions(folder: Path) -> Iterator[str]:
    """Functions of core that do not fit on a screen, as 'file:line: name'."""
    for file, path in files_of(folder).items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST_FUNCTION:
                yield f"{file}:{node.lineno}: {node.name}"


def card_faults(name: str, docstring: str | None) -> Iterator[str]:
    """What a technique's card lacks: a title, an empty line, then five labels in order, each with text."""
    title, _, rest = inspect.cleandoc(docstring or "").partition("\n\n")
    if not title or "\n" in title:
        yield f"{name}: needs a title of one line, then an empty line"
    labels = re.findall(r"^([A-Z][A-Za-z ]*):[ \n]+\S", rest, flags=re.MULTILINE)
    if tuple(label for label in labels if label in CARD) != CARD:
        yield f"{name}: card has the lines {labels}, expected {list(CARD)}"


def test_reading_order_lists_every_module_of_core_once():
    packages = {name.rpartition(".")[0] for name in READING_ORDER}
    there = [path for package in packages for path in (PACKAGE_FOLDER / package).glob("[!_]*.py")]
    assert sorted(map(file_of, READING_ORDER)) == sorted(
        str(path.relative_to(PACKAGE_FOLDER)) for path in there
    )


def test_the_packages_stand_in_one_order():
    """Modules of a package stand together, and every other package is named in AROUND."""
    order = [package for package, _ in itertools.groupby(READING_ORDER, lambda name: name.rpartition(".")[0])]
    assert len(set(order)) == len(order)
    assert {path.parent.name for path in PACKAGE_FOLDER.glob("*/__init__.py")} == {*order, *AROUND} - {""}


def imported(path: Path) -> Iterator[str]:
    """The packages of bitgolf that a file imports anywhere, by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "bitgolf":
            inside = (node.module or "").partition(".")[2]
            yield from [inside.partition(".")[0]] if inside else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("bitgolf."))


@pytest.mark.parametrize("package", AROUND)
def test_packages_around_import_only_those_before_them(package):
    before = AROUND[: AROUND.index(package) + 1]
    for path in (PACKAGE_FOLDER / package).rglob("*.py"):
        assert not {*imported(path)} & ({*AROUND} - {*before}), path


def test_core_can_be_put_into_one_file():
    read_core()  # raises with every offending line: order, imports, top-level names
    slim_core()


def test_core_holds_nothing_forbidden():
    assert list(forbidden(PACKAGE_FOLDER)) == []


def test_everything_public_in_core_has_a_docstring():
    assert list(without_docstring(PACKAGE_FOLDER)) == []


def test_arguments_of_core_have_types():
    """Each of the few that may be anything has its reason in a comment."""
    assert len(list(untyped_arguments(PACKAGE_FOLDER))) < 10


def test_functions_of_core_fit_on_a_screen():
    assert list(long_functions(PACKAGE_FOLDER)) == []


def test_every_technique_has_its_card():
    faults = []
    for slot in slots():
        own = [kind for kind in members(slot).values() if ships(kind)]
        assert own, f"{slot.__name__} has no member"
        faults += [text for kind in own for text in card_faults(kind.__name__, kind.__dict__.get("__doc__"))]
    assert faults == []


def test_techniques_are_final_frozen_and_keyword_only():
    for slot in slots():
        for kind in members(slot).values():
            own = [child for child in kind.__subclasses__() if ships(child)]
            assert own == [], f"{kind.__name__} is subclassed; wrap it instead"
            if ships(kind):
                assert kind.__dataclass_params__.frozen, kind.__name__
                assert inspect.getfullargspec(kind).args == ["self"], f"{kind.__name__}: keyword-only"


def recipe_functions() -> list[tuple[str, object]]:
    found = []
    for place in pkgutil.iter_modules(bitgolf.recipes.__path__):
        module = importlib.import_module(f"bitgolf.recipes.{place.name}")
        for name, item in vars(module).items():
            if inspect.isfunction(item) and item.__module__ == module.__name__ and name[0] != "_":
                found.append((f"{place.name}.{name}", item))
    return found


@pytest.mark.parametrize(("name", "make"), recipe_functions())
def test_every_recipe_is_one_value_that_becomes_a_script(name, make):
    recipe = make()
    assert isinstance(recipe, Recipe)
    assert from_json(Recipe, to_json(recipe)) == recipe
    script = flatten(recipe)
    compile(script, name, "exec")
    assert undefined_names(script) == []


def test_the_architecture_page_is_up_to_date():
    assert architecture() == PAGE.read_text(), "run `python -m bitgolf.catalog.architecture`"


# Planted bugs: each line is added to a copy of core and must be found there.

FORBIDDEN_LINES = {
    "import pickle": "pickle",
    "import requests": "requests",
    "import brotli": "brotli",
    "from bitgolf.script.flatten import flatten": "bitgolf.script.flatten",
    "X = eval('1')": "eval",
    "X = torch.load('file')": "torch.load",
    "X = np.load('file', allow_pickle=True)": "allow_pickle",
    "X = os.environ['STEPS']": "environment variables",
    "def f():\n    import pickle": "pickle",
}


@pytest.fixture
def copy(tmp_path):
    return Path(
        shutil.copytree(PACKAGE_FOLDER, tmp_path / "bitgolf", ignore=shutil.ignore_patterns("__pycache__"))
    )


def plant(copy: Path, module: str, line: str) -> int:
    """Append the line; its number comes back."""
    text = (copy / file_of(module)).read_text()
    (copy / file_of(module)).write_text(f"{text}\n{line}\n")
    return text.count("\n") + 2


@pytest.mark.parametrize("line", FORBIDDEN_LINES)
def test_a_planted_forbidden_line_is_found(copy, line):
    number = plant(copy, "score.windows", line) + line.count("\n")
    assert list(forbidden(copy)) == [f"score/windows.py:{number}: {FORBIDDEN_LINES[line]}"]


@pytest.mark.parametrize(
    ("module", "line", "message"),
    [
        (
            "score.windows",
            "from bitgolf.recipe import Recipe",
            "imports bitgolf.recipe, which is not before",
        ),
        ("score.windows", "from bitgolf.base import plan", "imports a whole module"),
        ("score.windows", "def f():\n    from bitgolf.base.plan import Plan", "import inside a function"),
        ("score.metric", "def setting(): ...", "setting already means something else at base/plan.py"),
    ],
)
def test_a_planted_break_of_the_order_is_found_with_its_line(copy, module, line, message):
    number = plant(copy, module, line) + line.count("\n")
    with pytest.raises(SourceError) as caught:
        read_core(copy)
    assert any(f.startswith(f"{file_of(module)}:{number}: ") and message in f for f in caught.value.faults)


def test_a_planted_silent_function_is_found(copy):
    number = plant(copy, "score.windows", "def silent():\n    return 1")
    assert list(without_docstring(copy)) == [f"score/windows.py:{number}: silent"]


@pytest.mark.parametrize(
    "kind", ["Any", "'Any'", "list[Any]", "Callable[[Any], int] | None", "dict[Any, str]"]
)
def test_a_planted_argument_without_a_type_is_found(copy, kind):
    before = list(untyped_arguments(copy))
    number = plant(copy, "score.windows", f"def f(x: {kind}, row: dict[str, Any]): ...")
    found = [text for text in untyped_arguments(copy) if text not in before]
    assert found == [f"score/windows.py:{number}: x"]


def test_a_planted_long_function_is_found(copy):
    plant(copy, "score.windows", "def fits():\n    x = 1" + "\n    x += 1" * (LONGEST_FUNCTION - 2))
    assert list(long_functions(copy)) == []
    number = plant(copy, "score.windows", "def long():\n    x = 1" + "\n    x += 1" * (LONGEST_FUNCTION - 1))
    assert list(long_functions(copy)) == [f"score/windows.py:{number}: long"]


def test_a_bad_card_is_found():
    good = "Title.\n\n    What: a\n    Source: b\n    Cost: c\n    Not for: d\n    Neutral: e\n    "
    assert list(card_faults("Good", good)) == []
    for bad in (None, "Title.", good.replace("Cost: c", ""), good.replace("Not for: d", "Not for:")):
        assert list(card_faults("Bad", bad)), bad
    assert list(card_faults("Bad", good.replace("Title.\n", "Title.\nMore.\n")))
    assert list(card_faults("Bad", good.replace("What: a\n    Source: b", "Source: b\n    What: a")))
