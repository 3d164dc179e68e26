"""Whatever the bytes of a token file or tokenizer: an error of ours or a value, in bounded time, memory."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitgolf.base.errors import BitgolfError
from tests import fuzz_data

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", [1, 2])
def test_changed_token_files_and_tokenizers_are_refused_or_read(seed, tmp_path):
    """In a process of its own, as a library that is given nonsense may end it."""
    words = [sys.executable, "-m", "tests.fuzz_data", str(tmp_path), str(seed), "120"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert (done.returncode, done.stdout) == (0, "120 tries, 0 wrong\n"), done.stdout + done.stderr[-3000:]


def test_what_goes_wrong_is_found(monkeypatch):
    def refused():
        raise BitgolfError("odd")

    def endless():
        raise BitgolfError("odd" * 9999)

    assert fuzz_data.one(refused, 2**50) == ""
    assert "IndexError" in fuzz_data.one(lambda: [][0], 2**50)
    assert fuzz_data.one(endless, 2**50) == "an endless message"
    assert fuzz_data.one(lambda: None, 1) == "too much memory"
    monkeypatch.setattr(fuzz_data, "CPU_SECONDS", 0)
    end = time.process_time() + 0.05
    assert fuzz_data.one(lambda: [None for _ in iter(lambda: time.process_time() < end, False)], 2**50)
