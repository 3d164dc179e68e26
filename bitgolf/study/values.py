"""The figures of one run by name, as studies use them."""

import math
from typing import Any

from bitgolf.study.design import METRICS
from bitgolf.study.runs import Standing

PLAIN = ("artifact_bytes", "total_bytes", "train_seconds", "steps")


def metric_of(result: dict[str, Any], metric: str) -> float:
    """A metric of a finished run's result.json; nan where this run does not have it."""
    if metric == "quantization_gap":
        return metric_of(result, "quantized_bits_per_byte") - metric_of(result, "float_bits_per_byte")
    if metric in PLAIN or metric == "bits_per_byte":
        return float(result.get(metric, math.nan))
    kind = metric.removesuffix("_bits_per_byte")
    found = {row["name"]: row["bits_per_byte"] for row in reversed(result.get("variants", []))}
    if kind == "float":
        return float(found.get("averaged", found.get("live", math.nan)))
    return float(found.get(kind, math.nan))


def value_of(found: Standing, metric: str) -> float:
    """A metric of a run as it stands; nan while it has none, and for good if it failed."""
    return metric_of(found.result, metric) if found.state == "done" and found.result else math.nan


def figures(result: dict[str, Any]) -> dict[str, float]:
    """All metrics that a run has."""
    known = {metric: metric_of(result, metric) for metric in METRICS}
    return {metric: value for metric, value in known.items() if not math.isnan(value)}


def bytes_per_token(result: dict[str, Any]) -> float:
    """Of the scored text, which turns nats per token into bits per byte."""
    return float(result["text_bytes"] / result["tokens"])
