"""`bitgolf audit`: exit codes, one JSON object, a page that can be posted, refusals in a line."""

import json
import shutil

import pytest

from bitgolf.audit.sandbox import findings, run
from tests.audit.planted import write_claims, write_folder
from tests.cli.test_cli import bitgolf, refused  # noqa: F401


@pytest.fixture
def folder(tmp_path):
    claims = write_folder(tmp_path / "record")
    return tmp_path / "record", claims


def test_exit_codes_and_json(bitgolf, folder):  # noqa: F811
    path, claims = folder
    code, out, err = bitgolf("audit", path, "--json")
    assert (code, err, json.loads(out)["status"]) == (0, "", "clean")
    write_claims(path, claims | {"val_bpb": 1.1})
    code, out, _ = bitgolf("audit", path, "--json")
    found = json.loads(out)
    assert code == 1 and found["status"] == "invalid" and found["findings"][0]["code"] == "K11"
    assert bitgolf("audit", path)[0] == 1
    code, out, _ = bitgolf("audit", path, "--markdown")
    assert code == 1 and out.startswith("**invalid**")


def test_wrong_use_is_one_line(bitgolf, folder, tmp_path):  # noqa: F811
    path, _ = folder
    refused(bitgolf("audit", tmp_path / "none"), "no such file")
    refused(bitgolf("audit", path, "--rules", "finla"), "did you mean 'final'")
    refused(bitgolf("audit", path, "--json", "--markdown"), "two forms at once")
    refused(bitgolf("submit", path), "no result.json")
    for name, data in (("empty.json", b""), ("list.json", b"[]"), ("odd.bin", bytes(range(256)))):
        (tmp_path / name).write_bytes(data)  # nothing was looked at, so "clean" would be a silent pass
        refused(bitgolf("audit", tmp_path / name), "neither a script, a log nor an artifact that can be read")


def test_a_script_runs_in_a_sandbox_or_not_at_all(bitgolf, folder, monkeypatch):  # noqa: F811
    path, _ = folder
    monkeypatch.setattr(shutil, "which", lambda name: None)
    refused(bitgolf("audit", path, "--run"), "REFUSED: foreign code runs in a sandbox alone")
    refused(bitgolf("audit", path.parent, "--run"), "one folder is run at a time")
    line = {"stage": "tiny", "rank": 0, "event": "probe", "name": "f", "probe": "causal", "ended": "failed"}
    seen = run.Run("train_gpt.py", 9, "unshare", 1.0, "", [{**line, "why": "its score moves", "token": 5}])
    monkeypatch.setattr(findings.box, "way", lambda: "unshare")
    monkeypatch.setattr(findings, "run", lambda *_: seen)
    code, out, _ = bitgolf("audit", path, "--run", "--json")
    found = json.loads(out)
    assert code == 1 and found["status"] == "invalid" and found["run"]["lines"][0]["probe"] == "causal"
    assert [each["code"] for each in found["findings"] if each["sure"] == "found"] == ["V05"]
    assert "f, causal: failed: its score moves" in bitgolf("audit", path, "--run")[1]
    assert "- f, causal: failed" in bitgolf("audit", path, "--run", "--markdown")[1]
