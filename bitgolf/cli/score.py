"""Bits per byte of a packed model."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.options import Changes, Json, ModelName
from bitgolf.inputs.resolve import find_artifact
from bitgolf.pipeline.work import score_artifact
from bitgolf.public.byte_counts import public_rule
from bitgolf.report import screen
from bitgolf.score.metric import summary


def score(
    model: ModelName,
    text: Annotated[Path | None, typer.Option("--text", help="Score this file.")] = None,
    dataset: Annotated[Path | None, typer.Option("--data", help="Score this dataset's validation.")] = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Bits per byte of a packed model, from its bytes alone; on its own validation text if not told.

    A public checkpoint (final_model.pt, final_model.int8.ptz) is scored on a dataset given with --data; what
    has no weights is named with --set, as #543's --set "model.heads_out=(Xsa(last=4),)".

    Example: bitgolf score runs/demo --set "score.windows=Sliding(length=256, stride=32)"
    """
    path, unpacked = find_artifact(model, dataset, changes or [])
    scores, dtype = screen.follow(score_artifact(path, unpacked, text, dataset, changes or []))
    size = path.stat().st_size
    facts = {"artifact": str(path), "artifact_bytes": size, **summary(scores), "dtype": dtype}
    facts |= public_rule(unpacked.tokenizer, scores)
    screen.close(facts, as_json=as_json)
