"""Studies that were never run: a receipt and results written by hand, for tests of what is made of them."""

import math
import re
from pathlib import Path
from typing import Any

from bitgolf.base.files import write_json
from bitgolf.base.plan import to_json
from bitgolf.study.design import Study
from bitgolf.study.receipt import RECEIPT

Outcome = float | str | None


def fake_result(recipe: Any, seed: int, value: Outcome, **changes: Any) -> dict[str, Any]:
    """A result of this score; of this status, if it is a word."""
    facts = {"recipe_identity": recipe.identity(), "seed": seed}
    if isinstance(value, str):
        return {"status": value, **facts, "error": f"{value} on purpose"}
    variants = [
        {"name": "live", "bits_per_byte": value - 0.01},
        {"name": "quantized", "bits_per_byte": value},
        {"name": "quantized", "bits_per_byte": value},
    ]
    known = {
        "status": "ok",
        "bits_per_byte": value,
        "tokens": 1000,
        "text_bytes": 3000,
        "windows": "chunked 32",
        "artifact_bytes": 50_000,
        "total_bytes": 60_000,
        "train_seconds": 2.0,
        "train_tokens": 512,
        "steps": 4,
        "variants": variants,
        "seconds": {"train": 2.0, "score": 1.0},
        "environment": {
            "processor": "a processor",
            "cores": 2,
            "torch": "2",
            "backend": {"device": "cpu: x"},
        },
        "data": {"name": "text", "splits": {"val": {"text_bytes": 3000}}},
    }
    return known | facts | changes


def fake_study(root: Path, study: Study, values: dict[str, list[Outcome]], **changes: Any) -> Path:
    """The folder of a study with these outcomes, by arm and in the order of its seeds; None: not run yet."""
    rows = []
    for arm, recipe in study.recipes().items():
        for seed, value in zip(study.seeds, values[arm]):
            folder = root / "runs" / f"{study.name}-{re.sub('[ /]', '_', arm)}-{seed}"
            rows.append({"arm": arm, "seed": seed, "folder": f"../runs/{folder.name}"})
            if value is not None and not (isinstance(value, float) and math.isnan(value)):
                write_json(folder / "result.json", fake_result(recipe, seed, value, **changes))
                write_json(folder / "recipe.json", to_json(recipe))
    receipt = {"written": "2026-01-02T03:04:05+00:00", "plan": to_json(study), "amendments": [], "runs": rows}
    write_json(root / study.name / RECEIPT, receipt)
    return root / study.name
