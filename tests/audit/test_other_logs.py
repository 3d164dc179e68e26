"""Logs in other words than the public ones: what they say is read, and over a budget it is named."""

import pytest

from bitgolf.audit.audit import audit
from bitgolf.audit.finding import CANNOT_TELL
from bitgolf.audit.logs import looks_like_log
from bitgolf.audit.rules import rules_named

RULES = rules_named()
FORMS = {
    "short": (
        "iter {step}: loss 3.1, {seconds:.1f}s",
        "total bytes {size}, training and packing {train:.1f}s\n"
        "final val_bpb {bits:.6f} over 62021845 tokens, evaluation {eval:.1f}s",
    ),
    "stamped": (
        "[ {seconds:.1f}s] step {step} loss 3.1 share 0.5",
        "[ {train:.1f}s] bytes in all {size}\n[ 900.0s] final val_bpb {bits:.6f} in {eval:.1f} s",
    ),
    "json": (
        '{{"t": {seconds:.1f}, "step": {step}, "loss": 3.1}}',
        '{{"t": {train:.1f}, "event": "packed", "bytes": {size}}}\n'
        '{{"t": 900.0, "event": "final", "val_bpb": {bits:.6f}, "eval_seconds": {eval:.1f}}}',
    ),
    "logging": (
        "10:00:00 INFO train: step={step} loss=3.1 elapsed={seconds:.1f}s",
        "INFO train: training finished after {train:.1f} seconds\n"
        "INFO train: artifact size {size:,} bytes (limit 16,000,000)\n"
        "INFO eval: val_bpb={bits:.4f} eval took {eval:.1f}s",
    ),
    "runtime": (
        "{{'loss': 3.1, 'step': {step}}}",
        "{{'train_runtime': {train:.1f}}}\nsubmission_bytes={size}\n"
        "{{'eval_bpb': {bits:.5f}, 'eval_runtime': {eval:.1f}}}",
    ),
}
CLEAN = {"train": 585.0, "eval": 300.0, "size": 15_900_000, "bits": 1.14}
FAULTS = [("K07", "train", 640.0), ("K10", "eval", 700.0), ("K01", "size", 16_050_000), ("V14", "bits", 0.2)]


def text_of(form: str, **other: float) -> str:
    line, ends = FORMS[form]
    said = CLEAN | other
    steps = [line.format(step=n, seconds=said["train"] * n / 9000) for n in range(1000, 9001, 1000)]
    return "\n".join([*steps, ends.format(**said)]) + "\n"


def codes(tmp_path, text: str) -> set[str]:
    (tmp_path / "train.log").write_text(text, encoding="utf-8")
    return {each.code for each in audit(tmp_path / "train.log", RULES).findings if each.sure != CANNOT_TELL}


@pytest.mark.parametrize("form", FORMS)
def test_a_clean_log_is_read(tmp_path, form):
    assert looks_like_log(text_of(form))
    assert codes(tmp_path, text_of(form)) == set()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("code", "what", "value"), FAULTS)
def test_what_is_over_is_named(tmp_path, form, code, what, value):
    assert codes(tmp_path, text_of(form, **{what: value})) == {code}


def test_a_raw_checkpoint_is_no_submission(tmp_path):
    raw = "raw model: 85587955 bytes | code: 70969 bytes | total: 85658924\n"
    assert codes(tmp_path, raw + text_of("short")) == set()
