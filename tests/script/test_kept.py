"""Sources of scripts on disk: the same in the next process, made anew where damaged or of other code."""

import zlib

import pytest

from bitgolf.script import kept
from bitgolf.script.counted import script_of


@pytest.fixture
def made(monkeypatch, tmp_path):
    """How often a script was generated, in a cache of its own and as in a new process."""
    monkeypatch.setenv("BITGOLF_CACHE", str(tmp_path))
    times = []

    def source(recipe):
        times.append(recipe)
        return f"x = {recipe.train.steps!r}\n"

    monkeypatch.setattr(kept, "flatten", source)
    kept._minified.cache_clear()
    yield times
    kept._minified.cache_clear()


def test_a_source_is_made_once(made, recipe, tmp_path):
    first = kept.minified(recipe)
    kept._minified.cache_clear()
    assert kept.minified(recipe) == first and len(made) == 1
    assert len(list((tmp_path / "scripts").iterdir())) == 1
    assert kept.minified(recipe.replace({"train.steps": 5})) != first and len(made) == 2


def test_what_is_damaged_or_of_other_code_is_made_anew(made, recipe, tmp_path, monkeypatch):
    first = kept.minified(recipe)
    [path] = (tmp_path / "scripts").iterdir()
    for data in (b"", path.read_bytes()[:-1], zlib.compress(b"other")[:-4] + bytes(4)):
        path.write_bytes(data)
        kept._minified.cache_clear()
        assert kept.minified(recipe) == first
    assert len(made) == 4
    kept._minified.cache_clear()
    monkeypatch.setattr(kept, "_code_hash", lambda: "other")
    assert kept.minified(recipe) == first and len(made) == 5


def test_the_oldest_are_forgotten_and_no_folder_is_needed(made, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "MOST_KEPT", 2)
    for steps in (5, 6, 7):
        kept.minified(recipe.replace({"train.steps": steps}))
    assert len(list((tmp_path / "scripts").iterdir())) == 2
    monkeypatch.setenv("BITGOLF_CACHE", "/dev/null")
    assert kept.minified(recipe).strip() == b"x=4"
    assert script_of(recipe).startswith(b"#coding")
