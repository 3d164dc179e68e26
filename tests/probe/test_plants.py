"""Each probe catches what it is for: faults as they happened in public, planted in scorers and programs."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from bitgolf.base.events import finish
from bitgolf.probe.foreign import Program
from bitgolf.probe.probes import PROBES, Text, probing
from bitgolf.probe.subject import drawn_phrases
from tests.probe.planted import BOS, PIECES, PLANTS, SIZE, Honest, InProcess

PAGE = Path(__file__).parents[2] / "docs" / "probe.md"
PLANTED = Path(__file__).with_name("planted.py")
TOKENS = drawn_phrases(SIZE, 60, BOS)
TEXT = Text(TOKENS, BOS, None, (TOKENS, sum(len(PIECES[token]) for token in TOKENS)))
# The probe that each plant is for; others may catch it too.
CAUGHT_BY = {
    "V01": "sums to one",
    "V01b": "sums to one",
    "V02": "target unseen",
    "V03": "causal",
    "V03b": "same again",
    "V04": "causal",
    "V05": "causal",
    "V08": "target unseen",
    "V09": "target unseen",
    "V10": "sums to one",
    "V15": "documents apart",
    "V17": "once",
    "V18": "once",
    "V18b": "processes equal",
    "V19": "once",
    "B01": "bytes counted",
    "B02": "bytes counted",
    "B11": "batch equal",
    "T17": "state restored",
}
# What a program cannot show, and the probe that stands for it.
OF_PROGRAMS = {"T17": "same again", "V18b": "batch equal"}


def failed(scorer, text=TEXT, positions=4, not_apart="") -> list[str]:
    findings = finish(probing(scorer, text, positions, not_apart))
    return [each.probe for each in findings if each.ended == "failed"]


def program(name: str) -> Program:
    return Program([sys.executable, str(PLANTED), name], seconds=60)


def test_every_plant_has_its_probe():
    assert CAUGHT_BY.keys() == PLANTS.keys()


def test_an_honest_scorer_passes_all():
    findings = finish(probing(InProcess(Honest()), TEXT, 6, ""))
    ended = {each.probe: each.ended for each in findings}
    assert ended.pop("bytes sum to one") == "left out"  # what its ids stand for is not known
    assert {*ended.values()} == {"passed"}
    assert ended.keys() | {"bytes sum to one"} == {"exam", *PROBES}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_caught(name):
    caught = failed(InProcess(PLANTS[name]()))
    assert CAUGHT_BY[name] in caught, caught


@pytest.mark.parametrize("name", ["Honest", *PLANTS])
def test_a_planted_fault_is_caught_in_a_program(name):
    with program(name) as scorer:
        assert scorer.knows_streams and scorer.knows_lists and scorer.vocabulary_size == SIZE
        caught = failed(scorer)
    assert caught == [] if name == "Honest" else OF_PROGRAMS.get(name, CAUGHT_BY[name]) in caught, caught


def test_a_finding_says_where_and_by_how_much():
    finding = next(
        each for each in finish(probing(InProcess(PLANTS["V17"]()), TEXT, 4, "")) if each.probe == "once"
    )
    assert (finding.token, finding.by) == (57, 3)
    assert finding.why == "3 of 59 targets: the first has no score"
    finding = next(
        each for each in finish(probing(InProcess(PLANTS["V04"]()), TEXT, 4, "")) if each.probe == "causal"
    )
    assert finding.by > 0.01
    assert re.fullmatch(r"its score moves with the tokens after token \d+", finding.why)


def test_without_distributions_every_target_is_tried():
    class Silent(InProcess):
        def distributions(self, tokens, places):
            return None

    assert failed(Silent(Honest())) == []
    for name in ("V01", "V01b", "V08", "V09", "V10", "V19"):
        assert "sums to one" in failed(Silent(PLANTS[name]())), name


def test_documents_are_probed_only_where_they_are_claimed():
    assert failed(InProcess(PLANTS["V15"]())) == ["documents apart"]
    assert failed(InProcess(PLANTS["V15"]()), not_apart="it does not claim it") == []


def test_a_tolerance_is_kept():
    class Shaky(Honest):
        draw = np.random.default_rng(1)

        def nats(self, ids, place):
            return super().nats(ids, place) + self.draw.uniform(0, 1e-5)

    assert "same again" in failed(InProcess(Shaky()))
    scorer = InProcess(Shaky())
    scorer.tolerance = 1e-4
    assert failed(scorer) == []


def test_the_page_says_what_catches_what():
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([a-z ]+) \|$", PAGE.read_text(), flags=re.MULTILINE)
    assert dict(rows) == CAUGHT_BY
