"""What figures and verdicts are called, and the file that a study leaves behind."""

from pathlib import Path
from typing import Any

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import read_json
from bitgolf.corpus.textfile import refuse_special

BASELINE = "baseline"
METRICS = {
    "bits_per_byte": "bits per byte of the packed model, scored as the recipe says",
    "quantized_bits_per_byte": "bits per byte of the packed model in chunks",
    "float_bits_per_byte": "bits per byte before quantization, averaged weights where there are any",
    "live_bits_per_byte": "bits per byte of the last weights, never averaged",
    "adapted_bits_per_byte": "bits per byte with test-time training",
    "quantization_gap": "bits per byte that quantization costs, in chunks",
    "artifact_bytes": "bytes of the packed model",
    "total_bytes": "bytes that count towards the budget, code included",
    "train_seconds": "seconds of training",
    "steps": "steps that the training took",
}
IN_BITS = tuple(name for name in METRICS if "bits" in name or name == "quantization_gap")
VERDICTS = ("better", "worse", "equivalent", "no evidence", "invalid", "unfinished")


def is_study(found: Any) -> bool:
    """Whether what was read from JSON has the parts of a study's result."""
    return isinstance(found, dict) and {"comparisons", "arms"} <= found.keys()


def read_study(path: Path) -> dict[str, Any]:
    """A study.json. Raises BitgolfError for another file."""
    refuse_special(path)
    found = read_json(path)
    if not is_study(found):
        raise BitgolfError("not the result of a study", where=str(path))
    return found
