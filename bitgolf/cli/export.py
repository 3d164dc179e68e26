"""Packed models for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.options import Json, ModelName
from bitgolf.export.write import export_to
from bitgolf.report import screen


def export(
    model: ModelName,
    to: Annotated[str, typer.Option("--to", metavar="FORM", help="hf, onnx or safetensors.")] = "hf",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder or file to write; beside the model if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a packed model: a Hugging Face folder, ONNX or safetensors.

    The model is reloaded from its packed bytes, written in float32, and read by the other program. The logits
    of both may differ by 0.0001 at most. A Hugging Face folder has its own code and needs
    `trust_remote_code=True`; ONNX takes ids of any batch and length.

    Example: bitgolf export runs/demo --to onnx
    """
    screen.close(export_to(model, to, out), as_json=as_json)
