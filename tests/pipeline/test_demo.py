"""The demo: its wiring on a tiny recipe at once, and the promise of the README on the real one (slow)."""

import json
import os
import subprocess
import sys
import time

import pytest

from bitgolf.base.files import read_json
from bitgolf.cli import demo
from bitgolf.cli import main as cli
from bitgolf.mix.ngram import InterpolatedNgrams
from bitgolf.pipeline import work

PROMISED_BITS_PER_BYTE = 1.44
PROMISED_SECONDS = 300


@pytest.mark.usefixtures("any_script")
def test_the_demo_tells_the_whole_story(recipe, dataset, monkeypatch, capsys, tmp_path):
    def tiny_data(_text, _vocabulary_size, _case_ops):
        return dataset
        yield

    monkeypatch.setattr(work, "find_dataset", tiny_data)
    monkeypatch.chdir(tmp_path)
    mixed = recipe.replace({"score.mixers": (InterpolatedNgrams(),)})
    for folder, tried in {"demo": recipe, "demo-2": mixed}.items():
        monkeypatch.setattr(demo, "find_recipe", lambda name, changes, tried=tried: tried)
        monkeypatch.setattr(sys, "argv", ["bitgolf", "demo"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        out = capsys.readouterr().out
        for words in (
            "bzip3 -b 64",
            "PPMd order 16",
            "within the budget",
            "than this model: bzip3",  # of a model that learned for a second
            "A sample",
            "read back",
            "bits_per_byte:",
            "next:",
        ):
            assert words in out
        result = read_json(tmp_path / "runs" / folder / "result.json")
        assert result["status"] == "ok" and result["rivals"] and result["proof"]
        page = (tmp_path / "runs" / folder / "report.html").read_text()
        assert "bzip3 -b 64" in page and f"coded into {result['proof']['coded_bytes']:,} bytes" in page
        proof = tmp_path / "runs" / folder / "proof"
        stated = read_json(proof / "certificate.json")
        size = (proof / "coded.bin").stat().st_size
        assert stated["bits_per_byte"] == 8 * size / stated["text_bytes"]
        assert f"{stated['stepwise_bits_per_byte']:.4f}" in out and f"{size:,}" in out
        assert ("adapted" in stated) == (tried is mixed) and "as it is packed" not in out


@pytest.mark.slow
def test_the_real_demo_keeps_its_promise(tmp_path):
    """From no cache at all; prints its figures. The limit on seconds is for a machine at rest."""
    started = time.monotonic()
    command = [sys.executable, "-c", "from bitgolf.cli.main import main; main()"]
    done = subprocess.run(
        [*command, "demo", "--out", str(tmp_path / "demo"), "--json"],
        env={**os.environ, "BITGOLF_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        check=True,
    )
    seconds = time.monotonic() - started
    result = json.loads(done.stdout)
    print(f"{result['bits_per_byte']:.4f} bits per byte, {result['total_bytes']:,} bytes, {seconds:.0f} s")
    assert result["status"] == "ok"
    assert result["bits_per_byte"] <= PROMISED_BITS_PER_BYTE
    assert result["total_bytes"] <= 1_000_000
    assert result["text_bytes"] == 1_129_563
    assert 99_000 < result["proof"]["text_bytes"] <= 100_000
    assert seconds < PROMISED_SECONDS
