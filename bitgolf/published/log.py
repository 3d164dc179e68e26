"""Anyone's training log as figures and curves, and two of them beside each other."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitgolf.audit.logs import Log, decoded, encoding_of, ends_of, parse_log
from bitgolf.base.errors import BitgolfError
from bitgolf.corpus.textfile import refuse_special

MOST_NULS = 0.001  # of a text in bytes; more are in programs, archives and models
PARAMETERS = re.compile(r"model_params ?[:=] ?(\d{1,18})\b")
MEMORY = re.compile(r"peak memory allocated ?: ?(\d{1,18}) MiB")
WORLD = re.compile(r"world_size ?[:=] ?(\d{1,6})\b")
KEPT = 12  # rows of steps that two logs have in common
MOST_LOGS = 64  # at a time


class Curve(NamedTuple):
    """A figure during training, by step. seconds: on the clock, NaN where the log does not say."""

    step: np.ndarray
    seconds: np.ndarray
    value: np.ndarray


class Published(NamedTuple):
    """A log and its figures. curves: train_loss in nats by token, val_bpb in bits by byte; may be empty."""

    name: str
    log: Log
    facts: dict[str, Any]
    curves: dict[str, Curve]


def read_logs(paths: Sequence[Path]) -> list[Published]:
    """Logs of any public format, each under a name of its own. Raises BitgolfError for what is none."""
    if len(paths) > MOST_LOGS:
        raise BitgolfError(f"more than {MOST_LOGS} logs at a time", where="log", value=len(paths))
    names = _names(paths)
    return [published(path, name) for path, name in zip(paths, names)]


def published(path: Path, name: str = "") -> Published:
    """One log. Of a large one its start and its end are read."""
    text, cut = text_of(path)
    log = parse_log(path, text, cut)
    if not (log.scores or log.steps):
        raise BitgolfError(
            "no line of a training log is in it",
            where=str(path),
            value=f"{len(log.lines):,} lines",
            way_out="a log has lines with val_loss and val_bpb, or step, train_loss and train_time",
        )
    return Published(name or path.name, log, facts_of(log), curves_of(log))


def text_of(path: Path) -> tuple[str, bool]:
    """The text of a file in its encoding, and whether its middle is left out. Raises BitgolfError."""
    if path.exists():
        refuse_special(path)
    data, cut = ends_of(path)
    if not data.strip():
        raise BitgolfError("the file is empty", where=str(path))
    nuls = data.rstrip(b"\0\r\n").count(0)  # a power cut leaves some at the end
    if encoding_of(data) == "utf-8" and nuls > MOST_NULS * len(data):
        raise BitgolfError(
            "not a text", where=str(path), value=f"{nuls:,} NUL bytes", way_out="name the log itself"
        )
    return decoded(data), cut


def facts_of(log: Log) -> dict[str, Any]:
    """Its figures under the names that `bitgolf` uses, None where it does not say one.

    scored_as: the words before the last score; they name no method for sure. Sizes in bytes.
    """
    final, end = log.final, log.end
    last = max((step.step for step in log.steps), default=None)
    evaluated = log.evaluations[-1][1] if log.evaluations else None
    during = [score.bits for score in log.scores if score.step is not None and math.isfinite(score.bits)]
    return {
        "seed": log.seed,
        "bits_per_byte": _finite(final.bits) if final else None,
        "nats_per_token": _finite(final.nats) if final else None,
        "scored_as": final.tag if final else "",
        "last_training_bits_per_byte": during[-1] if during else None,
        "steps": last,
        "planned_steps": max((step.of for step in log.steps), default=0) or None,
        "train_seconds": _finite(end.seconds) if end else None,
        "step_ms": _finite(1000 * end.seconds / end.step) if end and end.seconds is not None else None,
        "evaluation_seconds": _finite(final.seconds if final and final.seconds else evaluated),
        "parameters": _number(PARAMETERS, log),
        "total_bytes": _last_size(log, "total"),
        "model_bytes": _last_size(log, "model"),
        "code_bytes": _last_size(log, "code"),
        "peak_memory_mib": _number(MEMORY, log),
        "processes": _number(WORLD, log),
        "scores": len(log.scores),
        "cut": log.cut,
    }


def curves_of(log: Log) -> dict[str, Curve]:
    """Training loss and validation score by step, each step once: a resumed log tells some twice."""
    # Not every script prints the clock beside a score: then that of the same step.
    clock = {step.step: step.seconds for step in log.steps if step.seconds is not None}
    losses = [(s.step, s.seconds, s.nats) for s in log.steps if s.nats is not None]
    scores = [(s.step, clock.get(s.step), s.bits) for s in log.scores if s.step is not None]
    return {"train_loss": _curve(losses), "val_bpb": _curve(scores)}


def _curve(points: Sequence[tuple[int, float | None, float]]) -> Curve:
    last = {step: (seconds, value) for step, seconds, value in points if math.isfinite(value)}
    steps = sorted(last)
    seconds = [math.nan if last[step][0] is None else last[step][0] for step in steps]
    return Curve(
        np.array(steps, float), np.array(seconds, float), np.array([last[step][1] for step in steps], float)
    )


def compared(left: Published, right: Published) -> dict[str, Any]:
    """Right beside left: at equal steps, at equal seconds, at the end, and the settings that differ.

    Differences are right - left; lower is better.
    """
    rows = [*_common_steps(left, right)]
    return {
        "left": left.name,
        "right": right.name,
        "bits_per_byte": _difference(left, right, "bits_per_byte"),
        "nats_per_token": _difference(left, right, "nats_per_token"),
        "step_ms": _difference(left, right, "step_ms"),
        "total_bytes": _difference(left, right, "total_bytes"),
        "at_equal_steps": rows,
        "at_equal_seconds": _at_equal_seconds(left, right),
        "settings": [*_other_settings(left.log, right.log)],
        "one_run_twice": is_copy(left, right),
    }


def is_copy(left: Published, right: Published) -> bool:
    """Whether two logs tell one run: equal losses to every digit at five steps or more, and equal times."""
    a, b = left.curves["train_loss"], right.curves["train_loss"]
    same = len(a.step) >= 5 and np.array_equal(a.value, b.value) and np.array_equal(a.step, b.step)
    return bool(same and np.array_equal(a.seconds, b.seconds, equal_nan=True))


def _common_steps(left: Published, right: Published) -> Iterator[dict[str, Any]]:
    for name in ("val_bpb", "train_loss"):
        a, b = left.curves[name], right.curves[name]
        steps, at_a, at_b = np.intersect1d(a.step, b.step, return_indices=True)
        kept = {*np.unique(np.linspace(0, len(steps) - 1, KEPT).round().astype(int))} if len(steps) else ()
        for i in sorted(kept):
            one, other = float(a.value[at_a[i]]), float(b.value[at_b[i]])
            difference = round(other - one, 8)
            yield {
                "figure": name,
                "step": int(steps[i]),
                "left": one,
                "right": other,
                "difference": difference,
            }


def _at_equal_seconds(left: Published, right: Published) -> list[dict[str, Any]]:
    """Validation scores of the right at the times of the left's, between its own neighbours."""
    a, b = (_timed(each.curves["val_bpb"]) for each in (left, right))
    if len(a.step) < 2 or len(b.step) < 2:
        return []
    inside = (a.seconds >= b.seconds[0]) & (a.seconds <= b.seconds[-1])
    rows = []
    for seconds, value in zip(a.seconds[inside], a.value[inside]):
        other = float(np.interp(seconds, b.seconds, b.value))
        rows.append(
            {
                "seconds": float(seconds),
                "left": float(value),
                "right": other,
                "difference": round(other - float(value), 8),
            }
        )
    return rows[:: max(1, -(-len(rows) // KEPT))]


def _timed(curve: Curve) -> Curve:
    """The part of a curve whose clock is known and goes on."""
    timed = np.isfinite(curve.seconds)
    seconds = curve.seconds[timed]
    rising = np.concatenate([[True], np.diff(seconds) > 0])[: len(seconds)]
    return Curve(curve.step[timed][rising], seconds[rising], curve.value[timed][rising])


def _other_settings(left: Log, right: Log) -> Iterator[dict[str, str]]:
    for name in sorted({*left.settings} | {*right.settings}):
        one, other = (each.settings[name][1] if name in each.settings else "" for each in (left, right))
        if one != other:
            yield {"name": name, "left": one, "right": other}


def _difference(left: Published, right: Published, name: str) -> float | None:
    one, other = left.facts[name], right.facts[name]
    return None if one is None or other is None else round(other - one, 8)


def _last_size(log: Log, kind: str) -> int | None:
    sizes = log.sizes_of(kind)
    return sizes[-1].bytes if sizes else None


def _number(pattern: re.Pattern[str], log: Log) -> int | None:
    return next((int(match[1]) for _, line in log.lines if (match := pattern.search(line))), None)


def _finite(value: float | None) -> float | None:
    """A number that JSON can say."""
    return None if value is None or not math.isfinite(value) else value


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each, with as many folders before it as tell them apart."""
    for depth in range(1, 6):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len({*names}) == len(names):
            return names
    return [f"{number}: {path.name}" for number, path in enumerate(paths, 1)]
