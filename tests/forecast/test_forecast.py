"""Bytes forecast before training beside bytes that were really packed after it, on five recipes (slow)."""

import json
import subprocess
import sys

import pytest

from bitgolf.forecast.budget import FORECAST_ERROR

BITGOLF = [sys.executable, "-c", "from bitgolf.cli.main import main; main()"]


def answer(*words: str) -> dict:
    done = subprocess.run([*BITGOLF, *words, "--json"], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pr682", "pr212", "pr543", "pr488", "pr1718"])
def test_bytes_are_known_before_training(name, tmp_path):
    """The laptop forms, trained whole on the default corpus."""
    forecast = answer("forecast", f"{name}-laptop")
    result = answer("run", f"{name}-laptop", "--out", str(tmp_path / name))
    tokenizer = dict(result["ledger"])["tokenizer"]
    expected = forecast["total_bytes"]
    print(f"{name}: {expected:,} bytes forecast, {result['total_bytes']:,} packed, tokenizer {tokenizer:,}")
    assert abs(expected / result["total_bytes"] - 1) <= FORECAST_ERROR
    for part in ("artifact_bytes", "code_bytes"):
        assert abs(forecast[part] / result[part] - 1) <= FORECAST_ERROR, part
