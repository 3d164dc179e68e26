"""Lines of logs in other words than the public ones: steps, times, sizes and scores."""

import math
import re
from collections.abc import Iterator

from bitgolf.audit.log_lines import Score, Size, Step

IS = r"[ =:'\"]{1,4}"  # between a name and its number
NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?|nan|inf"
TIME = r"\d+(?:\.\d+)?"
SCORE = re.compile(
    rf"\b(?:val_|eval_|test_)?(?:bpb|bits[ _]per[ _]byte)\b{IS}(?P<bits>{NUMBER})", re.IGNORECASE
)
STEP = re.compile(rf"\b(?:step|iter|iteration|it)\b{IS}(?P<step>\d+)", re.IGNORECASE)
LOSS = re.compile(rf"(?<!val_)(?<!val )\b(?:train_)?loss\b{IS}(?P<loss>{NUMBER})", re.IGNORECASE)
# Of the whole run so far: in front of a line, by a name, or alone at its end.
CLOCK = re.compile(
    rf"^\[ *({TIME}) ?s\]|, ({TIME}) ?s$"
    rf"|\b(?:elapsed|time|t|seconds|wall)(?:_s)?{IS}({TIME})(?: ?s\b|(?=[ ,}}]|$))",
    re.IGNORECASE,
)
TRAINED = re.compile(
    rf"\btrain(?:ed|ing)?\b[^\n]{{0,40}}?\b(?:in|after|took|for) ({TIME}) ?s(?:econds)?\b"
    rf"|\btrain_runtime\b{IS}({TIME})",
    re.IGNORECASE,
)
EVALUATED = re.compile(
    rf"\beval(?:uation)?\b[^\n]{{0,12}}?({TIME}) ?s(?:econds)?\b|\beval_runtime\b{IS}({TIME})"
    rf"|(?:\b|_)(?:bpb|byte)\b[^\n]{{1,24}} \(?in ({TIME}) ?s\b",
    re.IGNORECASE,
)
TOTAL = re.compile(
    r"(?:\b(?:total|artifact|submission|packed|in all)|_total)(?:_|\b)[^\n]{0,32}?"
    r"[ =:](?P<bytes>\d[\d,]{6,})(?![.\d])",
    re.IGNORECASE,
)
UNPACKED = re.compile(r"\b(?:raw|float\d*|fp\d+|un(?:compressed|quantized|packed))\b", re.IGNORECASE)


def scores(lines: list[tuple[int, str]]) -> Iterator[Score]:
    """Scores of lines that say no loss with them."""
    for number, line in lines:
        if match := SCORE.search(line):
            step = STEP.search(line)
            took = seconds(EVALUATED.search(line))
            tag, bits = line[: match.start()].strip(" :=[]{}'\""), match["bits"]
            decimals = len(bits.partition(".")[2])
            at = int(step["step"][:18]) if step else None
            yield Score(number, tag, math.nan, float(bits), decimals, at, took)


def steps(lines: list[tuple[int, str]]) -> Iterator[Step]:
    """Lines of training, and the one that says how long all of it took."""
    last = 0
    for number, line in lines:
        step, loss, clock = STEP.search(line), LOSS.search(line), CLOCK.search(line)
        if step and loss and not SCORE.search(line):
            last = int(step["step"][:18])
            yield Step(number, last, 0, float(loss["loss"]), seconds(clock), None, False)
        elif last and (took := seconds(TRAINED.search(line))):
            yield Step(number, last, last, None, took, None, False)


def evaluations(lines: list[tuple[int, str]]) -> Iterator[tuple[int, float]]:
    """Lines that say what an evaluation took, in seconds."""
    for number, line in lines:
        if not LOSS.search(line) and (took := seconds(EVALUATED.search(line))):
            yield number, took


def totals(lines: list[tuple[int, str]]) -> Iterator[Size]:
    """Sizes of what is handed in, which is no raw checkpoint."""
    for number, line in lines:
        if UNPACKED.search(line) or not re.search("byte|size", line, re.IGNORECASE):
            continue
        if match := TOTAL.search(line):
            yield Size(number, "total", "", int(match["bytes"].replace(",", "")[:18]))


def seconds(match: re.Match[str] | None) -> float | None:
    """The time that a line says."""
    return next((float(each) for each in match.groups() if each), None) if match else None
