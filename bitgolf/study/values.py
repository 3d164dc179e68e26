"""The figures of one run by name, as studies use them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitgolf.base.files import sha256_of
from bitgolf.study.status import RunStatus
from bitgolf.study.terms import METRICS

SAME_TEXT = 0.01  # windows of documents end where these do, so parts of a text may differ by so much
CHALLENGE_NATS = 0.005  # by which a record of the public challenge had to be better
PLAIN = ("artifact_bytes", "total_bytes", "train_seconds", "steps")


def metric_of(result: dict[str, Any], metric: str) -> float:
    """A metric of a finished run's result.json; nan where this run does not have it."""
    if metric == "quantization_gap":
        return metric_of(result, "quantized_bits_per_byte") - metric_of(result, "float_bits_per_byte")
    if metric in PLAIN or metric == "bits_per_byte":
        return float(result.get(metric, math.nan))
    kind = metric.removesuffix("_bits_per_byte")
    if kind == "fixed":
        rows = result.get("variants", [])
        return float(rows[-2]["bits_per_byte"]) if rows and rows[-1]["name"] == "adapted" else math.nan
    scores = {row["name"]: row["bits_per_byte"] for row in reversed(result.get("variants", []))}
    if kind == "float":
        return float(scores.get("averaged", scores.get("live", math.nan)))
    return float(scores.get(kind, math.nan))


def value_of(status: RunStatus, metric: str) -> float:
    """A metric of a run as it stands; nan while it has none, and for good if it failed."""
    return metric_of(status.result, metric) if status.state == "done" and status.result else math.nan


def figures(result: dict[str, Any]) -> dict[str, float]:
    """All metrics that a run has."""
    values = {metric: metric_of(result, metric) for metric in METRICS}
    return {metric: value for metric, value in values.items() if not math.isnan(value)}


def whole_text(result: dict[str, Any]) -> str:
    """Names the text that a run was scored on, whatever its tokenizer; empty where nothing says so."""
    return _validation(result).get("text_sha256") or ""


def _validation(result: dict[str, Any]) -> dict[str, Any]:
    """What the passport said of the text that was scored."""
    splits = (result.get("data") or {}).get("splits") or {}
    return splits.get("val") or {}


def scored_tokens(result: dict[str, Any]) -> str:
    """Names the tokens that gave a run's score; empty for runs that were made before this was kept."""
    last = (result.get("variants") or [{}])[-1]
    return last.get("tokens_sha256") or ""


def repeats(runs: Sequence[tuple[int, dict[str, Any], Path]]) -> list[int]:
    """Seeds of runs (seed, result, folder) that are one run: copies, or nothing in them depends on the seed.

    Real seeds move every score: so they are if all score alike to the last bit, or some do token by token.
    """
    alike: dict[float, list[tuple[int, Path]]] = {}
    for seed, result, folder in runs:
        alike.setdefault(result["bits_per_byte"], []).append((seed, folder / "scores.npz"))
    repeated: list[int] = []
    for group in alike.values():
        files = [path for _, path in group if path.is_file()] if len(group) < len(runs) else []
        hashes = [sha256_of(path) for path in files] if len(group) > 1 else []
        same = {path for path, name in zip(files, hashes) if hashes.count(name) > 1}
        repeated += [seed for seed, path in group if path in same or 1 < len(group) == len(runs)]
    return sorted(repeated)


def other_texts(results: Sequence[dict[str, Any]]) -> str:
    """What differs between the texts that were scored, in words; empty if nothing is known to.

    Ends of windows may lie apart by SAME_TEXT of the text.
    """
    if len({*map(whole_text, results)} - {""}) > 1:
        return "texts of different content"
    whole = [text_bytes for result in results if (text_bytes := _validation(result).get("text_bytes"))] or [1]
    if len({*whole}) > 1:
        return f"texts of {min(whole):,} and {max(whole):,} bytes"
    sizes = [result["text_bytes"] for result in results] or [1]
    if max(sizes) > (1 + SAME_TEXT) * min(sizes):
        return f"different parts of the text, {min(sizes):,} and {max(sizes):,} bytes: see score.limit_tokens"
    named: dict[tuple[Any, ...], set[str]] = {}
    for result in results:
        tokenizer = (result.get("data") or {}).get("tokenizer_identity")
        named.setdefault((tokenizer, result["tokens"], result["text_bytes"]), set()).add(
            scored_tokens(result)
        )
    if any(len(hashes - {""}) > 1 for hashes in named.values()):
        return "different tokens of equal number"
    return ""


def bytes_per_token(result: dict[str, Any]) -> float:
    """Of the scored text, which turns nats per token into bits per byte."""
    return float(result["text_bytes"] / result["tokens"])


def challenge_margin(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The public challenge's 0.005 nats as bits per byte, in each unit in which it has been read."""
    read = {"bits per byte": CHALLENGE_NATS, "nats per byte": CHALLENGE_NATS / math.log(2)}
    if results:
        read["nats per token"] = CHALLENGE_NATS / math.log(2) / bytes_per_token(results[0])
    return read
