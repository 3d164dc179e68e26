"""What is watched inside of the sandbox, one part at a time: texts, files, sizes, compiled loops, reasons."""

import json

import numpy as np
import torch

from bitgolf.audit.finding import CANNOT_TELL
from bitgolf.audit.sandbox.asking import least
from bitgolf.audit.sandbox.findings import findings
from bitgolf.audit.sandbox.lines import TINY, parsed
from bitgolf.audit.sandbox.run import Run
from bitgolf.audit.sandbox.scorers import is_text
from bitgolf.audit.sandbox.script import compile_unwatched, sizes
from bitgolf.audit.sandbox.watch import Watch

TOKENS = np.arange(100, 200)


def seen_of(*lines):
    text = "\n".join(json.dumps({"stage": TINY, "rank": 0, **each}) for each in lines)
    return Run("a.py", 1, "unshare", 1.0, "", [*parsed(text.encode())])


def test_only_token_numbers_are_the_text():
    text = torch.from_numpy(TOKENS)
    assert is_text(TOKENS, TOKENS) and is_text(text[:50].int(), TOKENS)
    others = (text.bfloat16(), text.to("meta"), text.cfloat(), text + 1, text[:10], text[None], "text")
    assert not any(is_text(each, TOKENS) for each in others)


def test_bytes_that_are_written_and_read_again_may_be_a_model():
    watch = Watch()
    for name, mode in (("run.txt", "w"), ("run.txt", "r"), ("shard.bin", "r"), ("model.ptz", "w")):
        watch.on_file(name, mode)
    assert (watch.saves, watch.reloaded, watch.by_bytes) == (0, False, False)
    watch.on_file("model.ptz", "r")
    assert (watch.saves, watch.reloaded, watch.by_bytes) == (1, True, True)


def test_whether_a_model_is_made_of_bytes_is_not_told():
    score = {"event": "evaluated", "name": "f", "loss": 5.0, "saves": 1, "steps": 2, "reloaded": True}
    ran = ({"event": "ran", "ended": "passed"}, {"event": "learnt", "saves": 1, "early": 0})
    assert "T13" in findings(seen_of(score | {"by_bytes": False}, *ran))[1]
    found, looked = findings(seen_of(score | {"by_bytes": True}, *ran))
    assert "T13" not in looked and "V06" in looked
    (said,) = (each.found for each in found if each.code == "T13" and each.sure == CANNOT_TELL)
    assert "bytes were written and read again" in said


def test_each_reason_is_of_its_own_probe():
    probes = [
        {"event": "probe", "name": "f", "how": "seen", "probe": probe, "ended": ended, "why": why}
        for probe, ended, why in (
            ("target unseen", "left out", "it gives no distributions"),
            ("bytes counted", "left out", "it counts no bytes"),
        )
    ]
    whys = {each.code: each.found for each in findings(seen_of(*probes))[0]}
    assert whys["V08"].endswith("f: it gives no distributions")
    assert whys["B01"].endswith("f: it counts no bytes") and "no function" in whys["V06"]
    summed = probes[0] | {"probe": "sums to one", "ended": "passed", "why": ""}
    assert "V08" in findings(seen_of(*probes, summed))[1]


class Asked:
    """Learns once for each chunk that another follows."""

    def __init__(self, chunk, fails=False):
        self.chunk, self.fails, self.learnt, self.watch = chunk, fails, 0, Watch()

    def rows(self, tokens):
        if self.fails and len(tokens) < 257:
            raise ValueError("of another length")
        self.watch.steps += (len(tokens) - 2) // self.chunk if self.chunk else 0


def test_a_scorer_that_adapts_is_asked_by_the_least_text_in_which_it_does():
    text = np.arange(257)
    assert len(least(Asked(64), text)) == 129
    for whole in (Asked(0), Asked(128), Asked(64, fails=True)):  # no learning, none in half of it, no half
        assert len(least(whole, text)) == 257


class Own(torch.nn.Module):
    """A model with a table of a class of its own."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(9, 3))
        self.table = torch.nn.Parameter(torch.ones(64, 8))
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(2)])


def test_the_sizes_of_a_model_with_its_own_table():
    assert sizes(Own(), 64) == {"parameters": 27 + 512 + 144, "layers": 2, "vocabulary": 64, "width": 8}
    assert sizes(torch.nn.Embedding(5, 7), 64)["width"] == 7


def test_what_is_watched_compiles_as_it_was(monkeypatch):
    import functools

    import numba

    monkeypatch.setattr(numba, "njit", numba.njit)  # put back at the end
    names = {}
    exec("def double(x):\n    return 2 * x\n\ndef total(n):\n    return n + 1\n", names)
    compile_unwatched(dict(names))
    for name in ("double", "total"):
        plain = names[name]
        names[name] = functools.update_wrapper(lambda *given, plain=plain, **named: plain(*given), plain)
    assert numba.njit(names["total"])(4) == 5 and numba.njit(nogil=True)(names["double"])(4) == 8
