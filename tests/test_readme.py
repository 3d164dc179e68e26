"""Figures of the README and the page on installing are those of the files that hold them."""

import re
from pathlib import Path

import pytest

from bitgolf.base.files import read_json
from bitgolf.catalog.shipped import PACKAGE_FOLDER
from bitgolf.recipes import recipe_names
from docs.screens import KEPT, SCREENS, with_screens

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
INSTALL = (ROOT / "docs" / "install.md").read_text()


def wrong_figures(readme: str, install: str) -> list[str]:
    """What the pages say otherwise than the files, by name."""
    made = read_json(PACKAGE_FOLDER / "shipped" / "made.json")
    rivals = {row["name"]: row for row in made["rivals"]}
    said = {
        "size of the model that ships": f"a model of {made['artifact_bytes']:,} bytes ships" in readme,
        "how it was made": all(
            text in " ".join(install.split())
            for text in (
                f"{made['steps']:,} steps in {made['train_seconds']:.0f} s",
                f"Its bytes are {made['artifact_bytes']:,}, and {made['total_bytes']:,} with the code",
                f"{made['text_bytes']:,} bytes of addresses",
                f"it needs {made['bits_per_byte']:.4f} bits per byte",
                f"needs {rivals['bzip3 -b 64']['primed_bits_per_byte']:.4f}.",
            )
        ),
        "recipes": recipes_in(readme) == recipes_that_ship(),
    }
    return [name for name, holds in said.items() if not holds] + wrong_rows(readme)


def recipes_in(readme: str) -> dict[str, int]:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| ([\d,]+) \|$", readme, flags=re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in rows}


def recipes_that_ship() -> dict[str, int]:
    known = read_json(PACKAGE_FOLDER / "catalog" / "shipped.json")["recipes"]
    return {name: known[name]["parameters"] for name in recipe_names()}


def wrong_rows(readme: str) -> list[str]:
    """Rows of the README's table that are not those of the study of #682."""
    study = {row["name"]: row for row in read_json(ROOT / "docs/studies/pr682.json")["comparisons"]}
    pattern = r"^    (\S.*?)  +([-+]\d\.\d{4})  +([-+]\S+) to ([-+]\S+)  +(\S+)  +(\w+)$"
    rows = re.findall(pattern, readme, flags=re.MULTILINE)
    assert len(rows) == 4
    wrong = []
    for name, *figures, p, verdict in rows:
        row = study[name]
        same = figures == [f"{row[key]:+.4f}" for key in ("effect", "low", "high")]
        if not same or p != f"{row['p_corrected']:.2g}" or verdict != row["verdict"]:
            wrong.append(name)
    return wrong


def test_every_figure_is_that_of_its_file():
    assert wrong_figures(README, INSTALL) == []


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("-0.0175", "-0.0176", "EMA 0.97"),
        ("8.1e-11        worse", "8.1e-11       better", "EMA 0.997"),
        ("21,778,504", "21,778,505", "recipes"),
        ("a model of 977,167", "a model of 977,168", "size of the model that ships"),
        ("999,793", "999,794", "how it was made"),
    ],
)
def test_a_planted_wrong_figure_is_found(old, new, name):
    assert old in README + INSTALL
    assert wrong_figures(README.replace(old, new), INSTALL.replace(old, new)) == [name]


@pytest.mark.parametrize("page", sorted({page for page, _, _ in SCREENS.values()}))
def test_screens_are_those_of_the_runs_that_are_kept(page):
    text, kept = (ROOT / page).read_text(), read_json(KEPT)
    assert with_screens(page, text, kept) == text, "python -m docs.screens writes them again"


def test_figures_around_the_screens_are_those_of_their_runs():
    demo, made = (read_json(KEPT)[name] for name in ("demo", "tutorial"))
    assert f"{demo['steps']:,} steps" in README
    tutorial = " ".join((ROOT / "docs/tutorial.md").read_text().split())
    assert f"({made['train_tokens']:,} tokens in {made['steps']:,} steps)" in tutorial
    assert f"uses {made['total_bytes']:,} bytes" in tutorial


def test_another_score_is_another_screen(tmp_path):
    kept = read_json(KEPT)
    for run in kept.values():
        run["variants"][-1]["bits_per_byte"] = run["bits_per_byte"] = 1.0007
    for page in ("README.md", "docs/tutorial.md"):
        assert "1.0007" in with_screens(page, (ROOT / page).read_text(), kept)
