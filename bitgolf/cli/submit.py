"""The record folder of finished runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import NAME_RULE, is_plain_name
from bitgolf.cli.options import Json
from bitgolf.report import screen


def submit(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs, one a seed.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write.")] = None,
    name: Annotated[str, typer.Option("--name", help="Title; the recipe's name if not given.")] = "",
    author: Annotated[str, typer.Option("--author", help="Who stands for it.")] = "",
    track: Annotated[str, typer.Option("--track", help="E.g. track_10min_16mb.")] = "own",
    against: Annotated[
        float | None, typer.Option("--against", help="A published score to test against.")
    ] = None,
    rules: Annotated[str, typer.Option("--rules", help="Of the audit at the end.")] = "final",
    as_json: Json = False,
) -> None:
    """The record folder of finished runs, one a seed: script, claims, README, logs, hashes.

    Every figure is computed again from the runs; runs that do not fit together are refused. The folder is
    audited at the end.

    Example: bitgolf submit runs/a1 runs/a2 runs/a3 --out records/mine
    """
    from bitgolf.audit.audit import audit
    from bitgolf.audit.rules import rules_named
    from bitgolf.submit.gather import gathered
    from bitgolf.submit.write import Words, write_record

    if not is_plain_name(track):
        raise BitgolfError("no name of a track", where="--track", value=track, way_out=NAME_RULE)
    chosen = rules_named(rules)
    found = gathered(runs)
    title = name or found[0].result["recipe"]
    folder = out or Path("records") / f"{found[0].result['recipe']}-{found[0].result['recipe_identity'][:8]}"
    claims = write_record(found, folder, Words(title, author, track, against=against))
    checked = audit(folder, chosen)
    for each in [] if as_json else checked.real:
        print(screen.escaped(f"{each.code} {each.sure}: {each.where}: {each.found}"))
    facts: dict[str, Any] = {
        "folder": str(folder),
        "bits_per_byte": claims["val_bpb"],
        "seeds": len(found),
        "total_bytes": claims["bytes_total"],
        "budget_bytes": claims["budget_bytes"],
        "code_bytes": claims["bytes_code"],
        "status": checked.verdict,
        "findings": len(checked.real),
        "rules": chosen.name,
        "next": f"bitgolf audit {folder}",
    }
    if as_json:
        facts["claims"] = claims
    screen.close(facts, as_json=as_json)
    if checked.real:
        raise typer.Exit(1)
