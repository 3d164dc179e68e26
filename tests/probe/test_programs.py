"""`bitgolf probe`: the example of its page, odd answers in one line, runs, artifacts and files of users."""

import json
import os
import re
import shlex
import sys
import textwrap
import time
from pathlib import Path

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.probe.foreign import _Pipe
from bitgolf.probe.probes import PROBES
from tests.cli.test_cli import bitgolf, finished, recipe_file, refused  # noqa: F401

PAGE = (Path(__file__).parents[2] / "docs" / "probe.md").read_text()
# A file, so that it runs in any folder.
PLANTED = [sys.executable, str(Path(__file__).with_name("planted.py"))]
EXAMPLE = re.search(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[1]


@pytest.fixture
def program(tmp_path):
    """Write a program that answers each question by an expression; get the words that run it."""

    def written(expression: str, before: str = "") -> list[str]:
        file = tmp_path / "theirs.py"
        loop = f"for line in sys.stdin:\n    q = json.loads(line)\n    print({expression}, flush=True)\n"
        file.write_text(f"import json, math, os, sys, time\n{textwrap.dedent(before)}\n{loop}")
        return [sys.executable, str(file)]

    return written


# q['prefix'] fails for the other kinds of question: they are not asked again.
UNIFORM = "json.dumps({'nats': math.log(4) * (q['prefix'] != 0), 'distribution': [0.25] * 4})"


def ended(out: str) -> dict[str, str]:
    return {row["probe"]: row["ended"] for row in json.loads(out)["probes"]}


def test_the_example_of_the_page_passes(bitgolf, tmp_path):  # noqa: F811
    (tmp_path / "theirs.py").write_text(EXAMPLE)
    assert 20 <= len(EXAMPLE.splitlines()) <= 30
    code, out, err = bitgolf("probe", "--json", "--", sys.executable, tmp_path / "theirs.py")
    assert code == 0, err
    found = ended(out)
    left_out = {"bytes sum to one", "documents apart", "batch equal", "processes equal", "state restored"}
    left_out |= {"bytes counted"}
    assert {name for name, end in found.items() if end == "left out"} == left_out
    assert found.keys() == {"exam", *PROBES}
    assert {name for name, end in found.items() if end == "failed"} == set()


def test_a_program_that_ends_before_it_is_asked_is_not_waited_for():
    pipe = _Pipe([sys.executable, "-c", "import nosuchmodule"], "theirs")
    pipe.process.wait()
    while pipe.lines.empty():
        time.sleep(0.01)
    with pytest.raises(BitgolfError, match="it ended with code 1: ModuleNotFoundError"):
        pipe.ask("{}", seconds=0.01)
    pipe.close()


@pytest.mark.parametrize("form", ["a string", "an executable"])
def test_a_command_may_be_one_word(bitgolf, tmp_path, program, form):  # noqa: F811
    words = program(UNIFORM)
    if form == "an executable":
        (tmp_path / "theirs").write_text("#!/bin/sh\nexec " + shlex.join(words))
        (tmp_path / "theirs").chmod(0o755)
    word = shlex.join(words) if form == "a string" else "./theirs"
    code, _, err = bitgolf("probe", word, "--json")
    assert code == 0, err


def test_a_program_that_knows_prefixes_alone(bitgolf, program):  # noqa: F811
    code, out, _ = bitgolf("probe", "--json", "--", *program(UNIFORM))
    assert code == 0
    assert ended(out)["sums to one"] == ended(out)["causal"] == "passed"


def test_a_fault_ends_with_code_1_and_a_table(bitgolf):  # noqa: F811
    code, out, err = bitgolf("probe", "--", *PLANTED, "V17")
    assert (code, err.count("error")) == (1, 0)
    line = next(line for line in out.splitlines() if line.startswith("once"))
    assert line.split()[:4] == ["once", "failed", "57", "7"]
    assert "status:   failed" in out


ODD = {
    "print('Loading')": ("print('Loading')", UNIFORM, ["no JSON", "Loading", "stderr"]),
    "nothing": ("sys.exit()", UNIFORM, ["it ended with code 0"]),
    "crash": ("raise ValueError('no weights')", UNIFORM, ["ended with code 1", "ValueError: no weights"]),
    "hang": ("time.sleep(99)", UNIFORM, ["no answer within 0.5 seconds", "--seconds"]),
    "half a line": ("sys.stdout.write('{'); sys.exit()", UNIFORM, ["no whole line"]),
    "two lines": ("", UNIFORM + " + '\\n{}'", []),
    "no nats": ("", "'{}'", ["another form", "nats", "docs/probe.md"]),
    "a list": ("", "'[1]'", ["another form"]),
    "nats in words": ("", "json.dumps({'nats': '1'})", ["another form", "nats", "number"]),
    "not finite": ("", "'{\"nats\": NaN}'", ["another form", "finite"]),
    "no distribution": ("", "json.dumps({'nats': 1.0})", ["vocabulary", "--vocabulary"]),
    "a long number": ("", "'{\"nats\": ' + '9' * 9999 + '}'", []),
    "nested": ("", "'[' * 99999", ["no JSON"]),
    "another length": (
        "",
        "json.dumps({'nats': 1.0, 'distribution': [0.5] * (2 + len(q['prefix']) % 2)})",
        ["distribution over", "asked for"],
    ),
    "later": (
        "left = iter(range(40))",
        "json.dumps({'nats': 1.0 + 0 * next(left), 'distribution': [.5] * 2})",
        [],
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_answers_are_one_clear_line(bitgolf, program, name):  # noqa: F811
    before, expression, words = ODD[name]
    said = refused(
        bitgolf("probe", "--seconds", "0.5", "--", *program(expression, before)), "theirs.py", *words
    )
    assert len([line for line in said.splitlines() if line.startswith("error")]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no_such_run"], "no packed model"),
        (["no_such_run", "other"], "one run at a time"),
        (["no_such.py:Thing"], "no such file"),
        (["--tolerance", "nan", "--", sys.executable], "--tolerance"),
        (["--seconds", "inf", "--", sys.executable], "--seconds"),
        (["'unclosed"], "no packed model"),
        (["--data", "nowhere", "--", *PLANTED, "Honest"], "nowhere"),
        (["--text", "x", "--", *PLANTED, "Honest"], "--data"),
        (["--tokens", "5", "--", *PLANTED, "Honest"], "at least 24"),
    ],
)
def test_what_cannot_be_probed_is_one_clear_line(bitgolf, words, said):  # noqa: F811
    refused(bitgolf("probe", *words), said)


def test_a_run_passes_on_its_own_text_and_on_a_file(bitgolf, finished, tmp_path):  # noqa: F811
    folder, _ = finished
    code, out, err = bitgolf("probe", folder, "--json", "--positions", "2")
    assert code == 0, err
    assert {name for name, end in ended(out).items() if end == "left out"} == {"documents apart"}
    assert json.loads(out)["subject"] == str(folder)
    (tmp_path / "mine.txt").write_bytes(bytes(range(256)) * 2)
    options = [
        "--text",
        tmp_path / "mine.txt",
        "--set",
        "score.windows=PerDocument(within=Chunked(length=32))",
    ]
    code, out, _ = bitgolf("probe", folder / "model.bin", "--data", "unused", "--json", *options)
    assert code == 0
    assert "left out" not in ended(out).values()
    code, out, _ = bitgolf("probe", folder, "--set", "score.windows=Chunked(length=32, tail=False)", "--json")
    assert (code, ended(out)["once"]) == (1, "failed")
    refused(bitgolf("probe", folder, "--text", tmp_path / "none.txt"), "none.txt")
    (tmp_path / "short.txt").write_text("ab")
    refused(bitgolf("probe", folder, "--text", tmp_path / "short.txt"), "at least 24 tokens")


MINE = '''
import dataclasses
import numpy as np
from bitgolf.base.plan import setting
from bitgolf.score.mixer import Memory, Mixer
from bitgolf.recipe import Recipe
from bitgolf.net.embed import EmbedPart
from bitgolf.net.model import ModelPlan
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Chunked


class Seen(Memory):
    everything = {}

    def __init__(self, size, leaks):
        self.counts = self.everything.setdefault("", np.ones(size)) if leaks else np.ones(size)

    def mix(self, own, state):
        return own + 0.01 * self.counts

    def observe(self, token):
        self.counts[token] += 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbedCounts(Mixer):
    """Counts of tokens."""

    leaks: bool = setting(False)

    def memory(self, vocabulary_size, tokenizer):
        return Seen(vocabulary_size, self.leaks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbedAhead(EmbedPart):
    """Each token with the one after the next."""

    def embed(self, x, inputs, root, bos_id):
        return x + 0.1 * x.roll(-2, 1)


def mine():
    return Recipe(model=ModelPlan(layers=2, width=32, heads=2, kv_heads=1),
                  score=ScorePlan(windows=Chunked(length=32), mixers=(ProbedCounts(leaks=True),)))
'''


def test_a_technique_or_a_recipe_of_a_user(bitgolf, tmp_path):  # noqa: F811
    (tmp_path / "mine.py").write_text(MINE)
    code, out, err = bitgolf("probe", "mine.py:ProbedCounts", "--json", "--positions", "2")
    assert code == 0, err
    options = ["--set", "leaks=True", "--json", "--positions", "2"]
    code, out, _ = bitgolf("probe", "mine.py:ProbedCounts", *options)
    assert code == 1
    assert ended(out)["same again"] == "failed"
    code, out, _ = bitgolf("probe", "mine.py:mine", "--json", "--positions", "2")
    assert (code, ended(out)["same again"]) == (1, "failed")
    refused(bitgolf("probe", "mine.py:ProbedCount"), "did you mean 'ProbedCounts'")
    refused(bitgolf("probe", "mine.py:ProbedCounts", "--set", "leak=True"), "leak")
    refused(bitgolf("probe", "mine.py"), "several techniques", "ProbedCounts, ProbedAhead")
    code, out, _ = bitgolf("probe", "mine.py:ProbedAhead", "--json", "--positions", "2")
    assert (code, ended(out)["causal"]) == (1, "failed")


def test_no_program_is_left_behind(bitgolf, program, tmp_path):  # noqa: F811
    command = program(
        "json.dumps({'nats': '1'})", f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    )
    refused(bitgolf("probe", "--", *command), "another form")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
