"""Core as a script is given it: what falls away, and that nothing else does."""

import textwrap

import pytest
import torch

from bitgolf import READING_ORDER
from bitgolf.net.backend import Backend
from bitgolf.script.core import read_core
from bitgolf.script.lean.net.backend import Backend as LeanBackend
from bitgolf.script.slim import LEAN_FOLDER, added, overlaid, plain_settings, slim
from bitgolf.script.source import SourceError, file_of, read_module
from bitgolf.script.trust import trusting

ERRORS = '''
class BitgolfError(Exception):
    """Ours."""


class DataError(BitgolfError):
    """A child."""


def too_long(size: int) -> DataError:
    """Makes one."""
    return DataError(f"{size}")


'''


def trusted(body: str) -> str:
    """The text of the function `work` without refusals."""
    text = ERRORS + textwrap.dedent(body).lstrip()
    (module,) = trusting([read_module(text, "some")])
    return next(d.text for d in module.definitions if d.names == ("work",))


GONE = {
    "an assertion": ("assert x > 0, 'why'", ""),
    "a condition that raises": ("if x < 0:\n    raise DataError('no', value=x)", ""),
    "an error made by a function": ("if x < 0:\n    raise too_long(x)", ""),
    "what only the message reads": ("if x < 0:\n    said = str(x)\n    raise DataError(said)", ""),
    "what only the condition reads": ("odd = [i for i in x if i]\nif odd:\n    raise DataError('no')", ""),
    "a list of faults that grows": (
        "odd = [i for i in x if i]\nodd += [f'{i.name()}' for i in x]\nif odd:\n    raise DataError(odd)",
        "",
    ),
    "a condition that names its value": ("if odd := sorted(x):\n    raise DataError(odd)", ""),
    "a loop of refusals": ("for i in x:\n    if i:\n        raise DataError('no')", ""),
    "a check of its own": ("check(x)", ""),
    "what is computed to be checked alone": (
        "logits = x.logits(x[0])\ncheck(logits.double().log_softmax(0))",
        "",
    ),
    "a handler that translates": (
        "try:\n    y = x()\nexcept OSError as error:\n    raise DataError('no') from error",
        "y = x()",
    ),
    "a comment with what it explains": ("# why\nif x:\n    raise DataError('no')", ""),
}
KEPT = {
    "another family": "if x < 0:\n    raise ValueError(x)",
    "a condition that does something": "if x < 0:\n    x = 0",
    "a condition with another way": "if x < 0:\n    raise DataError('no')\nelse:\n    x = 1",
    "a handler that goes on": "try:\n    x = int(x)\nexcept ValueError:\n    x = 0",
    "a raise at the end": "raise DataError('no')",
    "a value that is read later": "if y := x:\n    raise DataError('no')\nx.y = y",
    "a sum that grows by calls": "y = 0\ny += x.pop()\nassert x",
    "a call that does something": "y = x.pop()\nif y:\n    raise ValueError('no')",
    "an unread value of an unknown call": "y = x.pop()\nassert x",
}
CHECK = "\n\ndef check(x):\n    if not x:\n        raise DataError('no')\n"


def work(body: str) -> str:
    return "def work(x):\n" + textwrap.indent(body + "\nreturn x", "    ") + "\n"


@pytest.mark.parametrize("name", GONE)
def test_refusals_go(name):
    body, left = GONE[name]
    assert trusted(work(body) + CHECK).split() == work(left).split()


@pytest.mark.parametrize("name", KEPT)
def test_what_is_no_refusal_stays(name):
    assert trusted(work(KEPT[name])) == work(KEPT[name].replace("\nassert x", "")).rstrip()


SETTINGS = '''
class Plan:
    """Base."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slot(Plan):
    """A slot."""

    abstract: ClassVar[bool] = True

    def act(self) -> int:
        """Open."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member(Slot):
    """A member."""

    size: float = setting(2, at_least=1)
    names: tuple[str, ...] = setting(("a", "b"))

    def validate(self) -> Iterator[str]:
        yield "size: no"

    def act(self) -> int:
        return 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Other:
    """No settings."""
'''


def test_settings_keep_their_defaults_and_what_they_do():
    (module,) = plain_settings([read_module(SETTINGS, "some")])
    slot, member, other = (d.text for d in module.definitions[1:])
    assert slot == 'class Slot(Plan):\n    """A slot."""\n'.rstrip()
    assert "size: float = 2.0" in member and "names: tuple[str, ...] = ('a', 'b')" in member
    assert "problems" not in member and "def act" in member and "dataclass" not in member
    assert other.startswith("@dataclasses.dataclass")


def test_every_shorter_definition_stands_for_one_of_core_or_serves_one():
    core = {module.name: module for module in read_core()}
    files = {file_of(name) for name in READING_ORDER}
    assert [module.name for module in added(list(core.values()))] == ["run"]
    for path in LEAN_FOLDER.rglob("*.py"):
        if path.name not in ("__init__.py", "run.py"):
            assert path.relative_to(LEAN_FOLDER).as_posix() in files
            name = path.relative_to(LEAN_FOLDER).with_suffix("").as_posix().replace("/", ".")
            own = {n for d in core[name].definitions for n in d.names}
            lean = read_module(path.read_text(), name)
            assert own & {n for d in lean.definitions for n in d.names}, path


def test_a_shorter_definition_stands_in_the_place_of_the_long_one(tmp_path):
    (tmp_path / "some.py").write_text(
        "import json\n\n\ndef helper():\n    return 1\n\n\ndef b():\n    return helper()\n"
    )
    long = read_module("def a(): ...\n\n\ndef b():\n    return 2\n\n\ndef c(): ...\n", "some")
    module = overlaid(long, tmp_path)
    assert [d.names[0] for d in module.definitions] == ["a", "helper", "b", "c"]
    assert [item.module for item, _ in module.imports] == ["json"]


def test_a_name_of_something_else_in_core_is_refused(tmp_path):
    """Both stand in one file, where the later one takes the place of the first."""
    modules = [
        read_module("class Plan:\n    pass\n", "base.plan"),
        read_module("KINDS = 3\n", "mix.counts"),
    ]
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "plan.py").write_text("KINDS = {}\n\n\nclass Plan:\n    known = KINDS\n")
    with pytest.raises(SourceError, match=r"mix/counts.py:1: KINDS already means something else"):
        slim(modules, tmp_path)


def test_a_script_calibrates_with_the_attention_of_the_package():
    kept = [
        kind(device=torch.device("cpu"), dtype=torch.bfloat16, **given).plain()
        for kind, given in ((Backend, {"attention": "chunk"}), (LeanBackend, {}))
    ]
    assert kept[0].attention == kept[1].attention == "chunk"
    assert kept[0].dtype == kept[1].dtype == torch.float32
