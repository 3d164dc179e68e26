"""The documentation as a site: every link leads somewhere, and what is made from the code is all there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitgolf.cli.main import VERBS
from bitgolf.run.result import RunResult

ROOT = Path(__file__).parents[1]


@pytest.fixture
def site(tmp_path):
    """A copy of what the site is built from."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    return tmp_path


def built(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "site")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_site_is_built_and_a_broken_link_is_not(site):
    done = built(site)
    assert done.returncode == 0, done.stderr
    assert (site / "site/index.html").is_file()
    commands = (site / "site/cli/index.html").read_text()
    assert all(f'<h2 id="{verb}">' in commands for verb in VERBS)
    assert all(option in commands for option in ("--continue-from RUN", "--packed / --readable", "--bytes N"))
    assert "bitgolf.run_recipe" in (site / "site/api/index.html").read_text()
    helped = (site / "site/gallery/index.html").read_text()
    assert helped.index("Better here") < helped.index("Worse here") < helped.index("Published by others")
    with (site / "docs/index.md").open("a") as page:
        page.write("\n[broken](nowhere.md)\n")
    done = built(site)
    assert done.returncode == 1 and "nowhere.md" in done.stderr


def keys_in(page: str, heading: str) -> set[str]:
    """The names in the first column of the table below a heading."""
    section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    return {
        name
        for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
        for name in row.strip("`").split("`, `")
    }


def test_the_page_of_formats_has_every_figure_of_a_result():
    page = (ROOT / "docs/formats.md").read_text()
    assert keys_in(page, "result.json") == {*RunResult.__annotations__}
    assert keys_in(page.replace("`, `parameters`", ""), "result.json") != {*RunResult.__annotations__}
