"""The behaviour suite as a library: all slots beside the network's, planted faults, the page's example."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from bitgolf.catalog.behaviour import CHECKS, Verdict, check
from bitgolf.catalog.own import faults_of, techniques_in
from bitgolf.catalog.small import Small
from bitgolf.catalog.techniques import Technique, techniques
from bitgolf.inputs.resolve import find_recipe
from bitgolf.mix.tilt import TokenTilt
from bitgolf.script.flatten import flatten, undefined_names
from bitgolf.squeeze.clip import CoarseCodes
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.hessian import TrainText
from bitgolf.squeeze.quantize import AbsMax, int6_rows
from bitgolf.train.average import Ema, LateEma, Latest, Several, Swa, SwaCount
from tests.cli.test_cli import bitgolf, refused  # noqa: F401

PAGE = Path(__file__).parents[2] / "docs" / "add-a-technique.md"
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
# Settings that bite in three steps, where the defaults do not.
BITING = {
    "LateEma": LateEma(decay=0.5, start_fraction=0.0),
    "Swa": Swa(every=1, start_scale=0.9),
    "SwaCount": SwaCount(checkpoints=2, guard=0.0),
    "Latest": Latest(snapshots=2, every=1),
    "Several": Several(averages=(Ema(decay=0.5), Latest(snapshots=2, every=1)), shipped=1),
    "AbsMax": AbsMax(grid=Grid(bits=5)),
    "CoarseCodes": CoarseCodes(of=int6_rows().rules[1].quantizer, step=4),
    "TrainText": TrainText(sequences=2),
    "TokenTilt": TokenTilt(order=3),
}
# What the cards say in prose.
SAID = {
    "PublicOrder": "this is the neutral one",
    "ShardsByLength": "this is the neutral one",  # of one shard
    "Frozen": "none",
    "Deflate": "this is the neutral one",  # of the small recipe
    "PerRow": "this is the neutral one",
}
SLOTS = {"Order", "Rule", "Schedule", "Averager", "Noise", "Rate", "Tuning", "Windows", "Codec", "Layout"}
SLOTS |= {"Calibration", "Quantizer", "Granularity", "Mixer"}
FAST = ("card", "json", "trains", "off is exact", "on has an effect", "a mixture")
# TightSwa waits for a fifth of the rate, which three steps reach once.
TRIED = [one for one in techniques() if one.slot in SLOTS and one.name != "TightSwa"]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Small:
    return Small(tmp_path_factory.mktemp("small"))


def tried(technique: Technique) -> Technique:
    """One of ours with settings that bite, and with a neutral line that a program can read."""
    neutral = SAID.get(technique.name, technique.card.neutral)
    return dataclasses.replace(
        technique,
        card=technique.card._replace(neutral=neutral),
        example=BITING.get(technique.name, technique.example),
    )


def failures(verdicts) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.ended == "failed"]


@pytest.mark.parametrize("technique", TRIED, ids=[one.name for one in TRIED])
def test_techniques_beside_the_network_keep_what_all_keep(technique, small):
    found = failures(check(tried(technique), small, FAST))
    # Cards that say in prose what is neutral are read by people.
    assert [each for each in found if "its card says" not in each.why] == []


def own(path, text, name=""):
    path.write_text(text)
    return techniques_in(path, name)


@pytest.fixture
def file(tmp_path, own_cache):
    return tmp_path / "mine.py"


HEAD = """
import dataclasses

import torch

from bitgolf.net.heads import HeadsPart
from bitgolf.base.plan import setting
"""
PART = '''

@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted(HeadsPart):
    """Something done with the outputs of heads.

    What: see below.
    Source: a test.
    Cost: no bytes.
    Not for: use.
    Neutral: share=0
    """

    share: float = setting(0.5)

    def heads_out(self, y, values, x, queries, attention):
        return BODY
'''
PLANTED = {
    "y * (1 - self.share)": None,
    "y - self.share * y.mean(1, keepdim=True)": ("causal", "it sees the future: scores up to token"),
    "y - self.share * y.mean(0, keepdim=True)": ("documents apart", "the other sequences of a batch"),
    "y - self.share * y.roll(1, 1) * (y.new_tensor(range(y.shape[1])) > 0)[:, None, None]": (
        "documents apart",
        "it looks across documents",
    ),
    "y * (1 - self.share) * 1.0001": ("off is exact", "off (share=0) is not exact: "),
    "y": ("on has an effect", "on has no effect"),
    "y / 0": ("trains", "not finite"),
    "y + missing": ("trains", "NameError"),
    "y - self.share * (y.mean(1, keepdim=True) if attention.training else y)": (
        "causal",
        "it sees the future: in training, predictions up to token",
    ),
    "y - self.share * (y.mean(1, keepdim=True) if y.requires_grad else y)": ("causal", "in training"),
    "y - self.share * (y.mean(0, keepdim=True) if attention.training else y)": (
        "documents apart",
        "other sequences of a batch: in training, predictions",
    ),
    "y - self.share * (y.roll(1, 1) * (y.new_tensor(range(y.shape[1])) > 0)[:, None, None] "
    "if attention.training else y)": (
        "documents apart",
        "it looks across documents: with DocumentAttention, in training",
    ),
    "y - self.share * torch.nn.functional.dropout(y, 0.5, attention.training)": None,
}


@pytest.mark.parametrize("body", PLANTED)
def test_a_planted_fault_is_found_in_words(body, file, small):
    (technique,) = own(file, HEAD + PART.replace("BODY", body))
    names = ("card", "json", "trains", "off is exact", "on has an effect", "causal", "documents apart")
    found = failures(check(technique, small, names))
    if PLANTED[body] is None:
        assert found == []
    else:
        name, words = PLANTED[body]
        assert any(each.check == name and words in each.why for each in found), found


def test_what_class_and_card_lack_is_said(file):
    text = HEAD + PART.replace("BODY", "y")
    faults = {
        "    Cost: no bytes.\n": ["its card has no line `Cost: ...`"],
        ", kw_only=True": ["kw_only"],
        "    Source: a test.\n    Cost: no bytes.\n": ["`Source: ...`", "`Cost: ...`"],
    }
    assert faults_of(own(file, text)[0]) == []
    for cut, expected in faults.items():
        found = faults_of(own(file, text.replace(cut, ""))[0])
        assert len(found) == len(expected) and all(e in f for e, f in zip(expected, found)), found


QUANTIZATION = '''
import dataclasses

import torch

from bitgolf.base.plan import setting
from bitgolf.net.model import keyed_generator
from bitgolf.squeeze.grid import Granularity, Grid
from bitgolf.squeeze.hessian import drawn_text, gather_curvatures
from bitgolf.squeeze.quantize import AbsMax, Calibration, Quantizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(Granularity):
    """One scale for so many rows.

    What: the largest weight of the rows sets their step.
    Source: a test.
    Cost: two bytes for `rows` rows.
    Not for: use.
    Neutral: rows=1, which is PerRow
    """

    rows: int = setting(2, at_least=1)

    def groups(self, matrix):
        missing = -matrix.shape[0] % self.rows
        rows = torch.nn.functional.pad(matrix, (0, 0, 0, missing))
        return rows.reshape(len(rows) // self.rows, -1)

    def spread(self, values, shape):
        return values.repeat_interleave(self.rows)[: shape[0], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shrunk(Quantizer):
    """Six bits of a weight that was made smaller.

    What: AbsMax of (1 - share) times the weight.
    Source: a test.
    Cost: as AbsMax.
    Not for: use.
    Neutral: share=0
    """

    share: float = setting(0.25, at_least=0.0, below=1.0)

    def quantize(self, weight, curvature=None):
        return AbsMax(grid=Grid(bits=6)).quantize(weight * (1 - self.share))

    def notes(self, weight, tensor):
        return {"bits": 6}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnDraw(Calibration):
    """Sequences drawn under a key of its own.

    What: a few sequences of the training text.
    Source: a test.
    Cost: a pass over them.
    Not for: use.
    Neutral: none; choose TrainText
    """

    sequences: int = setting(4, at_least=1)

    def gives_outputs(self):
        return True

    def gather(self, names, model, stream, length, trial):
        draws = keyed_generator(1, "own draw")
        text = drawn_text(stream, 1 if trial else self.sequences, length, draws)
        return gather_curvatures(model, text, names, True, draws)
'''
SLIPS = {
    "what is right": ("", "", []),
    "off groups by two": ("self.rows", "max(self.rows, 2)", ["Pairs: off is exact"]),
    "off shrinks": ("1 - self.share", "0.999 - self.share", ["Shrunk: off is exact"]),
    "nothing shrinks": ("weight * (1 - self.share)", "weight", ["Shrunk: on has an effect"]),
    "drawn anew each time": (
        'keyed_generator(1, "own draw")', "torch.Generator().manual_seed(torch.seed())",
        ["OwnDraw: script equal"],
    ),
}  # fmt: skip


SLOW_SLIPS = ("what is right", "off groups by two", "nothing shrinks")


@pytest.mark.parametrize(
    "slip", [pytest.param(name, marks=pytest.mark.slow if name in SLOW_SLIPS else ()) for name in SLIPS]
)
def test_slots_of_quantization_take_a_users_class_and_slips_are_found(slip, file, small):
    right, wrong, expected = SLIPS[slip]
    assert right in QUANTIZATION
    found = []
    for technique in own(file, QUANTIZATION.replace(right, wrong) if right else QUANTIZATION):
        tried_here = not expected or expected[0].startswith(technique.name)
        names = (*FAST, "script equal") if tried_here else ()
        found += [f"{each.technique}: {each.check}" for each in failures(check(technique, small, names))]
    assert found == expected


CODEC = '''
import dataclasses
from typing import ClassVar

from bitgolf.recipe import Recipe
from bitgolf.recipes.demo import demo
from bitgolf.squeeze.codec import Codec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inverted(Codec):
    """Every bit turned."""

    name: ClassVar[str] = "inverted"

    def encode(self, data, shapes=()):
        return self.name, bytes(255 - byte for byte in data)


def mine() -> Recipe:
    return demo().replace({"name": "mine", "pack.codec": Inverted()})
'''


def test_a_codec_of_ones_own_is_refused_in_one_sentence(bitgolf, file, dataset):  # noqa: F811
    file.write_text(CODEC)
    code, out, _ = bitgolf("check", file, "--json")
    answer = json.loads(out)
    assert code == 1 and answer["failed"] == len(answer["checks"]) == 1
    assert "a codec of your own" in answer["checks"][0]["why"]
    refused(bitgolf("show", f"{file}:mine", "--script"), "Inverted is a codec of your own")
    refused(
        bitgolf("run", f"{file}:mine", "--data", dataset.folder, "--out", "r"),
        "Inverted is a codec of your own",
    )
    assert not Path("r").exists()


@pytest.mark.parametrize("line", ["from helper import half", "import helper", "from .helper import half"])
def test_a_technique_in_two_files_is_refused_with_the_way_out(bitgolf, file, line):  # noqa: F811
    file.with_name("helper.py").write_text("def half(x):\n    return x / 2\n")
    file.write_text("import dataclasses\n" + line + HEAD + PART.replace("BODY", "half(y)"))
    way_out = "stand in one file: move that into this one"
    refused(bitgolf("check", file), "line 2: imports", "a file beside it", way_out)
    file.write_text("import helpr\n")
    refused(bitgolf("check", file), "line 1: ModuleNotFoundError: No module named 'helpr'")


def test_a_neighbour_that_can_be_imported_is_refused_by_the_script(file, monkeypatch, small):
    monkeypatch.syspath_prepend(file.parent)
    file.with_name("beside_it.py").write_text("def half(x):\n    return x / 2\n")
    file.write_text(HEAD + "from beside_it import half\n" + PART.replace("BODY", "half(y)"))
    (found,) = failures(check(techniques_in(file)[0], small, ("script equal",)))
    assert "imports beside_it; a script brings" in found.why and "this one file" in found.why


@pytest.mark.usefixtures("any_script_here")
def test_the_example_of_the_page_runs_passes_and_becomes_a_script(bitgolf, file, dataset):  # noqa: F811
    file.write_text(EXAMPLE)
    code, out, err = bitgolf("techniques", file)
    assert code == 0 and "InverseRoot" in out and "faults:" in out, err
    code, out, err = bitgolf("check", f"{file}:InverseRoot", "--json")
    assert code == 0, out + err
    answer = json.loads(out)
    assert answer["status"] == "ok" and answer["failed"] == answer["left_out"] == 0
    script = flatten(find_recipe(f"{file}:mine"))
    assert "class InverseRoot(Plan)" in script and undefined_names(script) == []
    small = ("model.vocabulary_size=320", "model.layers=2", "model.width=32", "train.train_seconds=0")
    small += ("train.steps=3", "data.sequence_length=32", "train.batch_tokens=128", "model.heads=2")
    changes = [word for change in (*small, "model.kv_heads=1") for word in ("--set", change)]
    code, _, err = bitgolf("run", f"{file}:mine", *changes, "--data", dataset.folder, "--out", "r", "--json")
    assert code == 0, err
    assert Path("r/own/mine.py").read_text() == EXAMPLE


def test_wrong_use_is_exit_code_two_and_failures_are_one(bitgolf, file, monkeypatch):  # noqa: F811
    refused(bitgolf("check", "nothing.py"), "no such file")
    refused(bitgolf("check", "demo"), "expected a Python file")
    file.write_text("x = 1\n")
    refused(bitgolf("check", file), "no technique in this file", "Schedule")
    file.write_text("x = 1 / 0\n")
    refused(bitgolf("techniques", file), "line 1", "ZeroDivisionError")
    file.write_text(HEAD + PART.replace("BODY", "y"))
    refused(bitgolf("check", f"{file}:Plantd"), "did you mean 'Planted'")
    refused(bitgolf("check", file, "--set", "shar=1"), "did you mean 'share'")
    monkeypatch.setitem(CHECKS, "script equal", lambda case: None)
    code, out, _ = bitgolf("check", file)
    assert code == 1 and "on has no effect" in out and "failed:" in out
