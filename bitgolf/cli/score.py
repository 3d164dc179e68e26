"""Bits per byte of a packed model."""

import re
from pathlib import Path
from typing import Annotated

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import with_progress
from bitgolf.cli.options import Json, ModelName, OnData, Overrides
from bitgolf.cli.shown import show_public_models
from bitgolf.inputs.resolve import SHIPPED, find_artifact
from bitgolf.pipeline.seen import tokens_trained_on
from bitgolf.pipeline.work import score_artifact
from bitgolf.public.byte_counts import public_rule
from bitgolf.report import screen
from bitgolf.rivals.known import keep_score
from bitgolf.rivals.public_model import PublicModel, PublicScore, read_public_model, score_public
from bitgolf.run.positions import positions_in_words
from bitgolf.score.metric import summary
from bitgolf.score.score import Scores
from bitgolf.text.tokenizer import Tokenizer

OVERLAP = 0.05  # of the scored tokens; boilerplate comes again in new text as well


def score(
    model: ModelName = SHIPPED,
    text: Annotated[Path | None, typer.Option("--text", help="Score this file.")] = None,
    dataset: OnData = None,
    overrides: Overrides = None,
    again: Annotated[
        str,
        typer.Option(
            "--recur-layers",
            metavar="LAYERS",
            help="Layers that a public checkpoint passes twice, e.g. 4,5.",
        ),
    ] = "",
    variables: Annotated[
        list[str] | None,
        typer.Option(
            "--env",
            metavar="NAME=VALUE",
            help="What weights of a public script do not show: DISABLE_LAYER0_ATTN, RECUR_LAYERS.",
        ),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option(
            "--beside",
            metavar="MODEL",
            help="Score a public model on the same bytes: hf:OWNER/NAME, its folder, a .gguf file.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure bits per byte of a packed model, on its own validation text or on any other.

    A public checkpoint (final_model.pt, final_model.int8.ptz) is scored on a dataset given with --data. Parts
    without weights are named with --set, as #543's --set "model.heads_out=(Xsa(last=4),)". Layers that are
    passed again with their own MLPs or scales are 4 and 5 by default (--recur-layers). Passes with their own
    scales are separate layers, so positions in --set count passes.

    Scores of public models on the text (--beside) are cached; later runs on the same text show them too.

    Example: bitgolf score runs/demo --set "score.windows=Sliding(length=256, stride=32)"
    """
    named, first_attention = script_settings(variables or [])
    layers = layers_by_number(again or named)
    path, unpacked = find_artifact(model, dataset, overrides or [], layers, first_attention)
    public_models = [read_public_model(other) for other in others or []]
    scores, result = screen.follow(score_artifact(path, unpacked, text, dataset, overrides or []))
    artifact_bytes = path.stat().st_size
    facts = {"artifact": str(path), "artifact_bytes": artifact_bytes, **summary(scores), **result}
    facts |= public_rule(unpacked.tokenizer, scores)
    if not scores.complete:
        screen.note("a part of the text was scored, so this score does not compare with that of the whole")
    if text is not None or dataset is not None:
        facts |= trained_on(scores, path, unpacked.tokenizer)
    if public_models:
        content = unpacked.tokenizer.decode(scores.target)
        rows = [measured(public, content)._asdict() for public in public_models]
        show_public_models(rows, facts["bits_per_byte"], artifact_bytes, as_json)
        facts |= {"public_models": rows} if as_json else {}
    if not as_json:
        facts["query_positions"] = positions_in_words(result)
    screen.close(facts, as_json=as_json)


def trained_on(scores: Scores, artifact: Path, tokenizer: Tokenizer) -> dict[str, int]:
    """How many scored tokens are in the training text too, where that is known; with a word if it is many."""
    seen, tokens = tokens_trained_on(scores, artifact, tokenizer)
    if seen >= OVERLAP * tokens > 0:
        share = f"{seen / tokens:.0%} of the scored tokens"
        screen.note(f"{share} are in the training text too: this says nothing of new text")
    return {"tokens_trained_on": seen} if tokens else {}


def measured(model: PublicModel, content: bytes) -> PublicScore:
    """The score of a public model on a text, shown as it is made, and kept."""
    score = screen.follow(with_progress(score_public(model, content), model.name))
    keep_score(content, score)
    return score


def script_settings(variables: list[str]) -> tuple[str, bool]:
    """Of a public script: the layers that it passes once more, and whether its first one has attention."""
    settings = {"RECUR_LAYERS": "", "DISABLE_LAYER0_ATTN": "0"}
    for word in variables:
        name, _, value = word.partition("=")
        if name not in settings:
            ways = "here DISABLE_LAYER0_ATTN=1 and RECUR_LAYERS=4,5; other settings by --set"
            raise BitgolfError("no setting of a checkpoint", where="--env", value=word, way_out=ways)
        settings[name] = value
    if settings["DISABLE_LAYER0_ATTN"] not in ("0", "1"):
        raise BitgolfError(
            "neither 0 nor 1",
            where="--env DISABLE_LAYER0_ATTN",
            value=settings["DISABLE_LAYER0_ATTN"],
            way_out="1 where the first layer has no attention",
        )
    return settings["RECUR_LAYERS"], settings["DISABLE_LAYER0_ATTN"] == "0"


def layers_by_number(text: str) -> list[int]:
    """Layers by number, with commas between them. Raises BitgolfError for anything else."""
    names = text.split(",") if text else []
    if not all(re.fullmatch(r"\s*[0-9]{1,5}\s*", name) for name in names):
        raise BitgolfError("not layers by number", where="--recur-layers", value=text, way_out="as 4,5")
    return [int(name) for name in names]
