"""The contents of a run folder before and during training."""

import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import read_json, write_bytes, write_json
from bitgolf.base.plan import to_json
from bitgolf.net.backend import Backend
from bitgolf.recipe import Recipe

CHECKPOINT = Path("checkpoint") / "state.safetensors"


def claim_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Refuse to write over another run, and to resume another recipe's; where nothing is, a run begins."""
    recipe_file = folder / "recipe.json"
    if not recipe_file.is_file():
        return
    if not resume:
        raise BitgolfError(
            "this folder holds a run already", where=str(folder), way_out="use --resume, or another --out"
        )
    if read_json(recipe_file) != to_json(recipe):
        raise BitgolfError(
            "this folder holds a run of another recipe",
            where=str(folder),
            way_out=f"resume it with the recipe it was started with: bitgolf run {recipe_file} --resume",
        )


def describe_run(folder: Path, recipe: Recipe, backend: Backend, code: bytes) -> None:
    """Write what is known before training: the recipe, the program, the machine."""
    write_json(folder / "environment.json", environment(backend))
    write_bytes(folder / "train_gpt.py", code)
    write_json(folder / "recipe.json", to_json(recipe))


def environment(backend: Backend) -> dict[str, Any]:
    """The machine and the choices made on it."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "backend": backend.reasons,
    }


def processor_name() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def keep_metrics(path: Path, steps: int) -> None:
    """Drop what a killed run wrote after its last checkpoint, to be written again, and what is no line."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    write_bytes(path, b"".join(line + b"\n" for line in lines if 0 < logged_step(line) <= steps))


def logged_step(line: bytes) -> int:
    """The step of a line of metrics; 0 of what a power cut has made of one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return 0
    step = row.get("step") if isinstance(row, dict) else 0
    return step if type(step) is int else 0


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with null for numbers that JSON cannot say."""
    odd = {name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    return {name: None if name in odd else value for name, value in row.items()}
