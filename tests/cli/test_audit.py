"""`bitgolf audit`: exit codes, one JSON object, a page that can be posted, refusals in a line."""

import json

import pytest

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
