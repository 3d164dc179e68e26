"""A score proven by coding the text and reading it back."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.cli.options import Json, ModelName, OnData, Overrides, Portable, Processes
from bitgolf.pipeline.coding import check_certificate, prove_artifact
from bitgolf.proof.prove import share_of
from bitgolf.report import screen

WHOLE = "100%"


def prove(
    model: ModelName,
    text: Annotated[Path | None, typer.Option("--text", help="Prove on this file.")] = None,
    dataset: OnData = None,
    most_bytes: Annotated[
        int, typer.Option("--bytes", min=0, help="Only this many bytes from the start.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for coded.bin and certificate.json.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option("--check", metavar="CERTIFICATE", help="Verify a certificate again.")
    ] = None,
    audit: Annotated[
        str, typer.Option(metavar="SHARE", help="With --check: decode only a random share, e.g. 1%.")
    ] = WHOLE,
    seed: Annotated[int, typer.Option(min=0, help="Seed for the frames of an audit.")] = 0,
    overrides: Overrides = None,
    portable: Portable = False,
    processes: Processes = 0,
    as_json: Json = False,
) -> None:
    """Prove a score: code the text with the packed model, and decode it.

    Bits per byte is then 8 times the size of the file over the size of the text. Adapters and mixers of the
    recipe, or of --set, are used in the same way, one token after another.

    Example: bitgolf prove runs/demo --bytes 100000
    """
    proving = {"--text": text, "--data": dataset, "--bytes": most_bytes, "--out": out, "--set": overrides}
    proving["--portable"] = portable
    checking = {"--audit": audit != WHOLE, "--seed": seed}
    for name, value in (proving if check is not None else checking).items():
        if value:
            way_out = "the certificate says what is checked" if check else "give --check CERTIFICATE too"
            raise BitgolfError("this has no use here", where=name, way_out=way_out)
    if check is not None:
        held = check_certificate(model, check, share_of(audit), seed, processes)
        screen.close(screen.follow(held), as_json=as_json)
        return
    steps = prove_artifact(model, text, dataset, most_bytes, out, portable, processes, overrides or [])
    certificate = screen.follow(steps)
    screen.close(certificate, as_json=as_json)
    if "alarm" in certificate:
        raise typer.Exit(1)
