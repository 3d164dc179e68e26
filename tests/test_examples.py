"""Commands in README and docs: the command line takes every one, and quick ones run in an empty folder."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from bitgolf.base.errors import BitgolfError
from bitgolf.cli import main as cli
from bitgolf.cli.shown import changed_recipe
from bitgolf.inputs.resolve import LAPTOP
from bitgolf.public.names import parse_variables
from bitgolf.recipes import recipe_names
from tests.cli.test_cli import bitgolf  # noqa: F401
from tests.conftest import generated_text

ROOT = Path(__file__).parents[1]
DAYS = sorted((ROOT / "docs" / "days").glob("*.sh"))
KEPT_AS_IT_WAS = {"log.md"}
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *DAYS]
    if page.name not in KEPT_AS_IT_WAS
]
COMMAND = rf"bitgolf (?:{'|'.join(cli.VERBS)})\b[^\n]*"
ENDS = {">", "|", "||", "&&", "2>"}
INCOMPLETE = ("Missing argument", "requires an argument")  # fine for a verb that a sentence names
NAMES = {name + ending for name in recipe_names() for ending in ("", LAPTOP)}
# Quick and in need of nothing but a text; as they stand in README or docs.
QUICK = (
    "bitgolf techniques",
    "bitgolf techniques Xsa",
    "bitgolf show pr543",
    "bitgolf compare pr488 pr543",
    "bitgolf findings EMA",
    "bitgolf make book.txt notes/ --bytes 300000 --minutes 2 --plan",
    'bitgolf sample --prompt "My fellow citizens"',
    "bitgolf score --text speech.txt",
    "bitgolf compress speech.txt",
)


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """Commands of bitgolf in a page, and whether each is a line of code; else it stands in a sentence."""
    joined = text.replace("\\\n", " ")
    for line in re.findall(rf"^ *(?:\$ )?({COMMAND})$", joined, flags=re.MULTILINE):
        yield line, True
    for words in re.findall(rf"(?<!`)`({COMMAND.replace('[^', '[^`')})`", joined):
        yield words, False


def words_of(command: str) -> list[str]:
    """The words after `bitgolf`, up to a comment, a pipe or a file."""
    words = shlex.split(command, comments=True)[1:]
    return words[: min((place for place, word in enumerate(words) if word in ENDS), default=len(words))]


def refusal(words: list[str], whole: bool) -> str:
    """Why the command line would refuse these words; empty if it takes them. Nothing is run."""
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    try:
        with group.make_context("bitgolf", list(words)) as above:
            _, verb, rest = group.resolve_command(above, [*above._protected_args, *above.args])
            assert verb is not None
            check_settings(words[0], verb.make_context(verb.name, rest, parent=above).params)
    except BitgolfError as error:
        return str(error)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer has classes of its own for these since 0.29
            raise
        why = str(error.format_message())
        return "" if not whole and any(text in why for text in INCOMPLETE) else why
    return ""


def check_settings(verb: str, parsed: dict[str, Any]) -> None:
    """Raises BitgolfError where a recipe or the model that ships does not take the settings of a command."""
    if verb == "run" and parsed["recipe"] in NAMES:
        changed_recipe(
            parsed["recipe"], parse_variables(parsed["variables"] or []), parsed["overrides"], quiet=True
        )
    if parsed.get("model") == "runs/demo":
        changed_recipe("demo", {}, parsed.get("overrides"), quiet=True)


def help_examples() -> Iterator[tuple[str, str, bool]]:
    """The examples in the help of each verb."""
    for verb in cli.VERBS:
        function = getattr(importlib.import_module(f"bitgolf.cli.{verb}"), verb)
        found = re.findall(r"^ *Example: (bitgolf .+)$", function.__doc__, flags=re.MULTILINE)
        yield from ((verb, command, True) for command in found)


ALL = [(page.name, *found) for page in PAGES for found in commands(page.read_text())]
ALL += help_examples()


def test_the_command_line_takes_every_command_of_the_documentation():
    assert len(ALL) > 150
    refused = [(*each[:2], why) for *each, whole in ALL if (why := refusal(words_of(each[1]), whole))]
    assert refused == []


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("bitgolf run demo --ouput x", "No such option"),
        ("bitgolf run", "Missing argument"),
        ("bitgolf submit runs/a --seeds", "requires an argument"),
        ("bitgolf run demo --seed S", "--seed"),
        ("bitgolf run demo --set model.layer=3", "layers"),
        ("bitgolf run baseline --env ROPE_DIM=16", "ROPE_DIMS"),
        ("bitgolf score runs/demo --set score.windows=Slidin(length=3)", "Sliding"),
    ],
)
def test_a_planted_wrong_command_is_found(command, why):
    ((found, whole),) = commands(f"Text.\n\n    {command}   # a comment\n")
    assert whole and why in refusal(words_of(found), whole)
    ((found, whole),) = commands(f"Text with `{command}` in it.")
    assert not whole and (why in refusal(words_of(found), whole)) == ("argument" not in why)


def test_every_verb_has_examples_and_its_help_keeps_each_on_one_line(bitgolf):  # noqa: F811
    assert {verb for verb, _, _ in help_examples()} == {*cli.VERBS}
    for verb in ("compare", "sample"):
        said = bitgolf(verb, "--help")[1].splitlines()
        assert all(f"  Example: {command}" in said for name, command, _ in help_examples() if name == verb)


@pytest.mark.parametrize("command", QUICK)
def test_a_quick_command_runs_in_an_empty_folder(bitgolf, tmp_path, command):  # noqa: F811
    assert command in [found.partition("  ")[0] for _, found, _ in ALL]
    (tmp_path / "notes").mkdir()
    for number, name in enumerate(("notes/day.txt", "book.txt")):
        (tmp_path / name).write_text(generated_text(number, 2000))
    (tmp_path / "speech.txt").write_text(generated_text(2, 20))
    code, out, err = bitgolf(*words_of(command))
    assert code == 0 and out, err


def test_the_notebook_runs(any_script, own_cache, capsys):
    """Every cell, in order; what it printed where it was made is what it prints here, numbers aside."""
    names: dict[str, Any] = {}
    for cell in json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            kept = "".join(line for output in cell["outputs"] for line in output["text"])
            assert words_alone(capsys.readouterr().out) == words_alone(kept) or "sample(" in "".join(
                cell["source"]
            )
    assert names["result"]["status"] == "ok"
    assert names["scores"]["an address"] < 2 < 8 < names["scores"]["noise"]


def words_alone(text: str) -> str:
    return re.sub(r"[\d.,]+", "0", " ".join(text.split()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("day", "said", "made"),
    [
        ("hobbyist", "model_sha256: ", "runs/mine/share.html"),
        ("participant", "**clean** under", "records/mine/submission.json"),
        ("researcher", "better", "runs/board.html"),
    ],
)
def test_a_day_of_each_user(tmp_path, own_cache, day, said, made):
    """Each script runs to its end in an empty folder, as a user would run it."""
    (tmp_path / "letters").mkdir()
    for number in range(12):
        (tmp_path / "letters" / f"{number:02}.txt").write_text(generated_text(number, 300))
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "bitgolf"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m bitgolf "$@"\n')
    command.chmod(0o755)
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        ["sh", str(ROOT / "docs" / "days" / f"{day}.sh"), "../letters"],
        cwd=tmp_path / "empty",
        env={**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout and (tmp_path / "empty" / made).is_file(), done.stdout
