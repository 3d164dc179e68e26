"""Whether a training overfitted: only reported, nothing is changed."""

from pathlib import Path

from bitgolf.inputs.typed import Validated, read_lines

NOTED_SHARE = 0.002  # of the score; a smaller rise is that of single validations


def overfitting(metrics: Path) -> str:
    """A sentence where a validation during training was better than the last one; else nothing.

    The weights stay the last ones: to take those of the best validation would choose them by the text that
    they are scored on.
    """
    lines = [line for line in read_lines(metrics, Validated) if line["val_bits_per_byte"] is not None]
    if not lines:
        return ""
    best, last = min(lines, key=_bits), lines[-1]
    if _bits(last) <= (1 + NOTED_SHARE) * _bits(best):
        return ""
    return (
        f"the validation text took {_bits(best):.4f} bits per byte after step {best['step']:,} and takes "
        f"{_bits(last):.4f} after the last, {last['step']:,}: from some point on the training text was "
        f"learnt by heart; more text, a smaller model, or an earlier end helps "
        f"(--set train.steps={best['step']}; then score other text, as the validation text has chosen that)"
    )


def _bits(line: Validated) -> float:
    return line["val_bits_per_byte"] or 0.0
