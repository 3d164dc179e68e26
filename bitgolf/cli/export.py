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
    """A packed model for other programs: a Hugging Face folder, ONNX or safetensors.

    It is reloaded from its packed bytes, written in float32, read again by the other program, and its logits
    are compared; they may differ by 0.0001 at most. A Hugging Face folder carries its own code and needs
    `trust_remote_code=True`; ONNX takes ids of any batch and length.

    Example: bitgolf export runs/demo --to onnx
    """
    screen.close(export_to(model, to, out), as_json=as_json)
