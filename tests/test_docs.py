"""The documentation as a site: every link leads somewhere."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    with (site / "docs/index.md").open("a") as page:
        page.write("\n[broken](nowhere.md)\n")
    done = built(site)
    assert done.returncode == 1 and "nowhere.md" in done.stderr
