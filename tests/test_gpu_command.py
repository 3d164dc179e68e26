"""`make gpu`, tried on the CPU: every part runs, faults are found, and nothing is claimed of a GPU."""

import json
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu
from bitgolf.net.kernels import FusedKernels

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"


def rehearsed(monkeypatch, capsys, *words):
    """Exit code and facts of a rehearsal."""
    monkeypatch.setattr(sys, "argv", ["gpu", "--rehearse", *words])
    code = gpu.main()
    return code, json.loads(capsys.readouterr().out)


def test_a_rehearsal_says_that_it_is_one(monkeypatch, capsys, tmp_path):
    out, page = tmp_path / "gpu.json", tmp_path / "gpu.md"
    words = ("--parts", "choices,parity,scores", "--out", str(out), "--page", str(page))
    code, facts = rehearsed(monkeypatch, capsys, *words)
    assert code == 0
    assert json.loads(out.read_text()) == facts
    assert facts["rehearsed"]
    assert "A rehearsal on a CPU" in page.read_text()


def test_a_wrong_kernel_is_found(monkeypatch, capsys):
    right = FusedKernels.relu_squared
    monkeypatch.setattr(FusedKernels, "relu_squared", lambda self, x: 1.5 * right(self, x))
    code, facts = rehearsed(monkeypatch, capsys, "--parts", "parity")
    assert code == 1
    assert {row["what"].rpartition(", ")[2] for row in facts["rows"] if not row["ok"]} == {"fused"}


def test_a_part_that_fails_is_a_row_and_the_others_go_on(monkeypatch, capsys):
    def broken(bench):
        yield {"what": "first", "ok": True}
        raise RuntimeError("no kernel image")

    monkeypatch.setitem(gpu.PARTS, "training", broken)
    code, facts = rehearsed(monkeypatch, capsys, "--parts", "training,choices")
    assert code == 1
    assert [(row["part"], row["ok"]) for row in facts["rows"]] == [
        ("training", True),
        ("training", False),
        ("choices", True),
    ]
    assert facts["rows"][1]["note"] == "no kernel image"


def test_what_no_time_is_left_for_is_not_passed(monkeypatch, capsys):
    code, facts = rehearsed(monkeypatch, capsys, "--parts", "choices", "--seconds", "-1")
    assert code == 1
    assert facts["rows"][0]["what"] == "not done"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "no CUDA device" in said.err


def test_the_page_claims_nothing_that_no_gpu_has_shown():
    shown = PAGE.read_text()
    assert shown == gpu.page(None) or "A rehearsal" not in shown


@pytest.mark.slow
def test_every_part_runs(monkeypatch, capsys):
    code, facts = rehearsed(monkeypatch, capsys, "--seconds", "400")
    assert code == 0, [row for row in facts["rows"] if not row["ok"]]
    assert {row["part"] for row in facts["rows"]} == set(gpu.PARTS)
