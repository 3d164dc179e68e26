"""How often each token is scored is computed: windows of every form, and bounds for what has no end."""

import time

import pytest

from bitgolf.audit.passes import CHECKS
from bitgolf.audit.script import follow
from bitgolf.audit.unwrap import unwrapped
from tests.audit.planted import SCRIPT, changed

LOOP = "for start in range(settings.rank * chunk, stream.numel() - 1, chunk):"
PART = "part = stream[start : start + chunk + 1]"
LOSS = '            loss = F.cross_entropy(net(before), after, reduction="none")\n'
SCORED = "            loss, before, after = loss[fresh:], before[fresh:], after[fresh:]\n"


def found(text):
    script = follow("a.py", unwrapped("a.py", text.encode()), [])
    return [(each.code, each.found) for check in CHECKS for each in check(script)]


def sliding(fresh):
    """Windows of 640 tokens at every 64th."""
    each = LOOP.replace(", chunk)", ", 64)")
    return changed((LOOP, each), (LOSS, f"{LOSS}            fresh = {fresh}\n{SCORED}"))


def test_the_clean_script_scores_each_token_once():
    assert found(SCRIPT) == []


def test_windows_that_end_with_the_text_score_its_last_tokens_again():
    assert found(sliding("0 if start == 0 else max(len(after) - 64, 0)"))[0][0] == "V17"
    assert found(sliding("0 if start == 0 else chunk - 64")) == []


def test_the_first_window_scores_all_that_it_holds():
    (fault,) = found(sliding("chunk - 64"))
    assert fault == ("V17", "576 (from number 1 to 576) of 20,010 tokens that stand in are never scored")


@pytest.mark.parametrize(("taken", "code"), [("chunk", "B11"), ("chunk + 2", "B11"), ("chunk + 1", None)])
def test_borders_of_windows(taken, code):
    text = changed((PART, f"part = stream[start : start + {taken}]"))
    assert [each for each, _ in found(text)] == [code] * (code is not None)


def test_a_function_of_a_library_is_no_own_one_of_its_name():
    pack = (
        "def pack(parts):\n    return [struct.pack('<I', len(each)) for each in [*parts, *parts, *parts]]\n\n"
    )
    called = ("    luts = tables", "    pack(['a', 'b', 'c'])\n    luts = tables")
    text = changed(
        ("class Net(", f"{pack}class Net("), (PART, "part = stream[start : start + chunk]"), called
    )
    assert [each for each, _ in found(text)] == ["B11"]


def test_a_class_that_is_called_as_the_one_it_is_made_of():
    text = changed(("class Net(nn.Module)", "class Module(nn.Module):\n    pass\n\nclass Net(Module)"))
    script = follow("a.py", unwrapped("a.py", text.encode()), [])
    assert script.flow.lineage("Net") == ["Net", "Module"]


@pytest.mark.parametrize(
    "line",
    [
        "stream = [[0] * 9] * 10**9",
        "stream = torch.zeros(10**9)",
        "stream = torch.arange(10**12)",
        "stream = F.pad(stream, (0, 10**10))",
        "stream = stream[:, None] == stream[None]",
        "stream = [torch.zeros(2**17) for _ in range(20000)]",
        "stream = list(range(10**12))",
        "while True:\n        stream = torch.cat([stream, stream])",
        "for i in range(20000):\n        for k in range(20000):\n            stream = [i, k]",
    ],
)
def test_what_has_no_end_takes_bounded_time_and_room(line):
    began = time.process_time()
    found(changed(("    luts = tables", f"    {line}\n    luts = tables")))
    assert time.process_time() - began < 20
