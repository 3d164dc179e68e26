"""The glossary names what is there, each term once."""

import importlib
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "glossary.md"
ROWS = re.findall(r"^\| (.+?) \| `(\S+)` \| .+ \| .+ \|$", PAGE.read_text(), flags=re.MULTILINE)


def test_every_term_stands_where_the_glossary_says():
    assert len(ROWS) == PAGE.read_text().count("\n| ") - 1  # the heading
    for _, place in ROWS:
        module, _, name = place.rpartition(".")
        assert hasattr(importlib.import_module(f"bitgolf.{module}"), name), place


def test_terms_are_in_order_and_there_once():
    terms = [term.lower() for term, _ in ROWS]
    assert terms == sorted(terms)
    assert len({*terms}) == len(terms)
