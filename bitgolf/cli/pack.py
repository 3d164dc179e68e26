"""A trained run packed again."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bitgolf.cli.options import Json, OnData, Overrides
from bitgolf.cli.shown import show_alarms
from bitgolf.inputs.resolve import find_artifact, find_dataset
from bitgolf.inputs.writable import refuse_folder
from bitgolf.pipeline.repack import (
    OWN,
    TABLES,
    Trained,
    chunked,
    compare_tables,
    filling,
    open_run,
    pack_again,
)
from bitgolf.report import screen
from bitgolf.report.charts import sparkline, trimmed
from bitgolf.report.tensors import GAPS, bits_per_byte_of, shown_error


def pack(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    overrides: Overrides = None,
    tables: Annotated[
        str | None,
        typer.Option("--compare", metavar="NAMES", help="Ready tables, separated by commas, or `all`."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; RUN/packed if not given.")
    ] = None,
    budget_bytes: Annotated[
        int | None, typer.Option("--budget-bytes", min=1, help="Fill so many bytes, code included.")
    ] = None,
    dataset: OnData = None,
    as_json: Json = False,
) -> None:
    """Pack a trained run again by other rules, without training, or compare several rules.

    Every figure comes from reloaded bytes. Gaps are to the float weights on the same tokens, with a standard
    error over sequences. The predicted gap comes from the curvature, if it is known for every tensor. With
    --compare nothing is written; `recipe` is the run's own table. With --budget-bytes rate-aware rounding is
    used (unless the run's own table has it), at the rate that fills the budget to the last tenth of a
    percent.

    Example: bitgolf pack runs/demo --compare int8,int6,gptq,gptq-sdclip
    """
    target = out or folder / "packed"
    if tables is None:
        refuse_folder(target)
    if dataset is not None:  # text is tokenized as the run's model does
        tokenizer = find_artifact(str(folder))[1].tokenizer
        dataset = screen.follow(
            find_dataset(str(dataset), tokenizer.vocabulary_size, tokenizer=tokenizer)
        ).folder
    trained = open_run(folder, overrides or [], dataset)
    if budget_bytes is not None:
        trained = filling(trained, budget_bytes)
    if tables is None:
        result = screen.follow(pack_again(trained, target))
        _show_tensors(result, as_json)
        following = f"bitgolf score {target}"
        screen.close({**result, "packed": str(target), "next": following}, as_json=as_json)
        if result["status"] != "ok":
            raise typer.Exit(1)
        return
    _compare(trained, tables, as_json)


def _compare(trained: Trained, tables: str, as_json: bool) -> None:
    """What several tables of quantization rules would give; nothing is written."""
    names = [OWN, *TABLES] if tables == "all" else [name.strip() for name in tables.split(",")]
    lines = screen.follow(compare_tables(trained, names))
    header = ("table", "bytes", "bpb", "gap", "+-", "KL", "predicted", "seconds", "alarms")
    rows = [
        (
            *(line.get(key) for key in ("name", "artifact_bytes", "bits_per_byte")),
            *(_five(line.get(key)) for key in GAPS if key != "kl_gap_error"),
            *(line.get(key) for key in ("seconds", "alarms")),
        )
        for line in lines
    ]
    title = (
        f"{trained.recipe.name}: packed again; bits per byte (bpb), {chunked(trained.recipe).windows.label()}"
    )
    screen.table(title, header, rows, as_json=as_json)
    screen.close({"run": str(trained.folder), "status": "ok", "tables": lines}, as_json=as_json)


def _show_tensors(result: dict[str, Any], as_json: bool) -> None:
    """What each quantized tensor costs and loses; the floats in one line."""
    bytes_per_token = result["text_bytes"] / result["tokens"]
    groups: dict[str, list[tuple[str, ...]]] = {}
    for row in result["quantization"]:
        if "levels" in row:
            groups.setdefault(row["rule"], []).append(_tensor_line(row, bytes_per_token))
    kept = [row for row in result["quantization"] if "levels" not in row]
    if kept:
        num_bytes = sum(row["bytes"] for row in kept)
        groups["as floats"] = [(f"{len(kept)} tensors", "", "", f"{num_bytes:,}", *[""] * 6)]
    screen.grouped_table(TENSOR_COLUMNS, groups.items(), as_json=as_json)
    show_alarms(result, as_json)


def _tensor_line(row: dict[str, Any], bytes_per_token: float) -> tuple[str, ...]:
    damages = (row.get(f"damage_nats{ending}") for ending in ("", "_plain"))
    seen = (row.get(f"{side}_seen") for side in ("inputs", "outputs"))
    return (
        row["name"],
        sparkline(trimmed(row["levels"]["counts"])[1]),
        f"{row['coded_bits']:.2f}",
        f"{row['bytes']:,}",
        *(_share(shown_error(row, ending)) for ending in ("", "_plain")),
        *("-" if nats is None else f"{bits_per_byte_of(nats, bytes_per_token):.6f}" for nats in damages),
        " ".join(_share(share) for share in seen if share is not None) or "-",
        f"{row['seconds']:.1f}",
    )


def _five(value: float | None) -> str | None:
    return None if value is None else f"{value:.5f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3g}%"


TENSOR_COLUMNS = (
    screen.Column("tensor"),
    screen.Column("codes", 15, at_least=76),
    screen.Column("bits each", 9, right=True),
    screen.Column("bytes", 10, right=True),
    screen.Column("error", 7, right=True),
    screen.Column("plain", 7, right=True, at_least=90),
    screen.Column("damage", 9, right=True, at_least=60),
    screen.Column("plain", 9, right=True, at_least=100),
    screen.Column("seen", 11, right=True, at_least=120),
    screen.Column("seconds", 7, right=True, at_least=128),
)
