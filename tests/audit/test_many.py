"""A directory of folders: one line each, a page that sorts, exit codes."""

import json

import pytest
from typer.testing import CliRunner

from bitgolf.audit.many import audits, html, records_in
from bitgolf.audit.rules import rules_named
from bitgolf.base.errors import BitgolfError
from bitgolf.cli.main import app
from tests.audit.planted import write_claims, write_folder

RULES = rules_named()


@pytest.fixture
def directory(tmp_path):
    root = tmp_path / "records"
    for name in ("a", "deeper/b"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_folder(root / name)
    claims = json.loads((root / "a" / "submission.json").read_text())
    write_claims(root / "a", claims | {"bytes_total": 17_000_000, "name": "<script>x</script>"})
    (root / "c").mkdir()
    (root / "c" / "train_gpt.py").write_bytes(b"\0" * 100)
    (root / "loop").symlink_to(root)
    return root


def test_folders_are_found_and_a_record_is_none(directory):
    assert [path.name for path in records_in(directory)] == ["a", "c", "b"]
    assert records_in(directory / "a") == []


def test_a_page_of_itself(directory):
    page = html([*audits(records_in(directory), RULES)], directory, RULES)
    assert "<script>x" not in page and "http" not in page.replace("http-equiv", "")
    assert page.count("<tr>") == 4 and "invalid" in page and "1 suspect, 1 clean" in page


def test_exit_codes_and_forms(directory, tmp_path):
    run = CliRunner()
    page = tmp_path / "page.html"
    shown = run.invoke(app, ["audit", str(directory), "--html", str(page)])
    assert (
        shown.exit_code == 1
        and "3 folders: 1 invalid" in shown.stdout
        and page.read_text().startswith("<!doctype")
    )
    found = json.loads(run.invoke(app, ["audit", str(directory), "--json"]).stdout)
    assert found["status"] == "invalid" and len(found["folders"]) == 3
    assert run.invoke(app, ["audit", str(directory / "deeper")]).exit_code == 0
    assert "| a | invalid |" in run.invoke(app, ["audit", str(directory), "--markdown"]).stdout
    refused = run.invoke(app, ["audit", str(directory / "a"), "--html", "x.html"])
    assert isinstance(refused.exception, BitgolfError) and "directory of folders" in str(refused.exception)


def test_names_that_would_turn_a_line_are_written_out(directory):
    (directory / "a").rename(directory / "a\u202eb")
    page = html([*audits(records_in(directory), RULES)], directory, RULES)
    assert "\u202e" not in page and "a\\u202eb" in page
