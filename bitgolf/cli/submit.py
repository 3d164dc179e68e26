"""The record folder of finished runs."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import NAME_RULE, is_plain_name
from bitgolf.cli.options import Json, RulesName
from bitgolf.inputs.writable import refuse_folder
from bitgolf.report import screen
from bitgolf.study.status import run_folders

if TYPE_CHECKING:
    from bitgolf.audit.audit import Audit


def submit(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Finished runs, one a seed; an arm of a study as STUDY/ARM."),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write.")] = None,
    name: Annotated[str, typer.Option("--name", help="Title; the recipe's name if not given.")] = "",
    author: Annotated[str, typer.Option("--author", help="Who stands for it.")] = "",
    track: Annotated[str, typer.Option("--track", help="E.g. track_10min_16mb.")] = "own",
    against: Annotated[
        float | None, typer.Option("--against", help="A published score to test against.")
    ] = None,
    packed: Annotated[
        bool, typer.Option("--packed/--readable", help="The script as counted, or as text: then that counts.")
    ] = True,
    studies: Annotated[
        list[Path] | None,
        typer.Option("--study", help="A study whose table the README has; those of the runs are found."),
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", help="The seeds that were announced, as 1,2,3; each must be here.")
    ] = "",
    github: Annotated[str, typer.Option("--github", help="The author's account.")] = "",
    blurb: Annotated[
        str, typer.Option("--blurb", help="What it is, in a sentence; from the recipe if not given.")
    ] = "",
    rules: RulesName = "final",
    as_json: Json = False,
) -> None:
    """Write the record folder of finished runs, one per seed: script, claims, README, logs, hashes.

    Every figure is computed again from the runs, and inconsistent runs are refused. The README has the tables
    of the runs' studies, and of studies that are named. The folder is audited at the end.

    Example: bitgolf submit runs/a1 runs/a2 runs/a3 --out records/mine
    Example: bitgolf submit "runs/studies/mine/EMA 0.97" --out records/mine
    """
    from bitgolf.audit.audit import audit
    from bitgolf.audit.rules import rules_named
    from bitgolf.submit.gather import gathered
    from bitgolf.submit.write import Metadata, write_record

    if not is_plain_name(track):
        raise BitgolfError("no name of a track", where="--track", value=track, way_out=NAME_RULE)
    if against is not None and not 0 < against < math.inf:
        raise BitgolfError("no score", where="--against", value=against, way_out="e.g. 1.2244")
    chosen = rules_named(rules)
    declared = _declared(seeds)
    if out:
        refuse_folder(out)
    members = gathered([folder for word in runs for folder in run_folders(word) or [Path(word)]], declared)
    first = members[0].result
    folder = out or Path("records") / f"{first['recipe']}-{first['recipe_identity'][:8]}"
    metadata = Metadata(name or first["recipe"], author, track, against=against, github=github, blurb=blurb)
    claims = write_record(
        members, folder, metadata, readable=not packed, studies=studies or [], declared=declared
    )
    checked = audit(folder, chosen)
    _print(folder, claims, len(members), checked, as_json)
    if checked.real:
        raise typer.Exit(1)


def _print(folder: Path, claims: dict[str, Any], seeds: int, checked: "Audit", as_json: bool) -> None:
    """What was found in the folder, and its figures."""
    for each in [] if as_json else checked.real:
        print(screen.escaped(f"{each.code} {each.sure}: {each.where}: {each.found}"))
    facts = {
        "folder": str(folder),
        "bits_per_byte": claims["val_bpb"],
        "seeds": seeds,
        "deviation": claims.get("val_bpb_std"),
        "total_bytes": claims["bytes_total"],
        "budget_bytes": claims["budget_bytes"],
        "code_bytes": claims["bytes_code"],
        "status": checked.verdict,
        "findings": len(checked.real),
        "rules": checked.rules.name,
        "next": f"bitgolf audit {folder}",
    }
    screen.close(facts | ({"claims": claims} if as_json else {}), as_json=as_json)


def _declared(text: str) -> list[int]:
    """Seeds as they are typed. Raises BitgolfError for what is none."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if not (part.isascii() and part.isdigit() and len(part) < 20):
            raise BitgolfError("not a seed", where="--seeds", value=part, way_out="write --seeds 1,2,3")
    return [int(part) for part in parts]
