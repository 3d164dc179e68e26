"""Every row of the catalogue: its planted fault is named, its clean neighbour has no finding."""

import pytest

from bitgolf.audit.audit import audit
from bitgolf.audit.finding import CANNOT_TELL
from bitgolf.audit.rules import rules_named
from bitgolf.audit.violations import VIOLATIONS
from tests.audit.rows import ROWS, SCRIPT_ROWS
from tests.audit.rows.made import packed, renamed

RULES = rules_named()
KNOWN = {}  # codes by the files in which they were found


def codes(path):
    """The codes of what is found; equal files are looked at once."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    key = path.name, tuple((str(each.relative_to(path)), each.read_bytes()) for each in files)
    if key not in KNOWN:
        KNOWN[key] = {each.code for each in audit(path, RULES).findings if each.sure != CANNOT_TELL}
    return KNOWN[key]


def test_every_row_has_a_plant():
    assert {each.code for each in ROWS} == {*VIOLATIONS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.code} {row.name}")
def test_the_plant_is_named_and_its_neighbour_is_clean(tmp_path, row):
    (tmp_path / "plant").mkdir()
    (tmp_path / "clean").mkdir()
    assert row.code in codes(row.plant(tmp_path / "plant"))
    assert codes(row.clean(tmp_path / "clean")) == set()


@pytest.mark.slow
@pytest.mark.parametrize("form", [renamed, packed, lambda text: packed(renamed(text, 1))])
@pytest.mark.parametrize("row", SCRIPT_ROWS, ids=lambda row: f"{row.code} {row.name}")
def test_names_and_wrappers_hide_nothing(tmp_path, row, form):
    path = tmp_path / "train_gpt.py"
    path.write_text(form(row.text))
    assert row.code in codes(path)
    path.write_text(form(row.neighbour))
    assert codes(path) == set()
