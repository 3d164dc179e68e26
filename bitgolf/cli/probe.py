"""The rules of scoring, asked of a scorer from outside."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.options import Json, OnData, Overrides
from bitgolf.cli.shown import close_verdicts
from bitgolf.probe.subject import ProbeOptions, probe_subject
from bitgolf.report import screen

COLUMNS = (
    screen.Column("probe", 18),
    screen.Column("", 9),
    screen.Column("token", 8, right=True),
    screen.Column("by", 10, right=True),
    screen.Column("why"),
)


def probe(
    target: Annotated[
        list[str],
        typer.Argument(metavar="RUN|ARTIFACT|FILE.py:NAME|-- COMMAND", help="What is probed."),
    ],
    text: Annotated[Path | None, typer.Option("--text", help="Probe on the start of this file.")] = None,
    dataset: OnData = None,
    positions: Annotated[int, typer.Option(min=1, max=1000, help="How many positions are probed.")] = 4,
    tokens: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Number of tokens; 0: a few windows and updates.")
    ] = 0,
    overrides: Overrides = None,
    apart: Annotated[
        int,
        typer.Option(
            metavar="BOS", min=-1, help="For a program that separates documents: the id that starts one."
        ),
    ] = -1,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=86400, help="For a program: seconds that an answer may take.")
    ] = 60,
    vocabulary: Annotated[
        int, typer.Option(min=0, max=65536, help="For a program without distributions: its number of ids.")
    ] = 0,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="For a program: nats by which equal work may differ.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Test whether a scorer keeps the rules: of a run, of your file, or of anyone's program.

    A program reads questions as JSON lines and writes answers as JSON lines; docs/probe.md has the protocol
    and an example of twenty lines. Exit code 1 if a rule is broken.

    Example: bitgolf probe runs/demo
    """
    options = ProbeOptions(
        text, dataset, overrides or (), positions, tokens, apart, seconds, vocabulary, tolerance
    )
    name, num_tokens, findings = screen.follow(probe_subject(target, options))
    rows = [
        [
            each.probe,
            each.ended,
            "" if each.token is None else f"{each.token:,}",
            "" if each.by is None else screen.number(each.by),
            each.why,
        ]
        for each in findings
    ]
    screen.grouped_table(COLUMNS, [(name, rows)], as_json=as_json)
    close_verdicts("probes", findings, {"subject": name}, {"tokens": num_tokens}, as_json=as_json)
