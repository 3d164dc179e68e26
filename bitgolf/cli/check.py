"""The behaviour of techniques in a user's own file, checked as that of ours."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import parse_overrides
from bitgolf.catalog.behaviour import check_all
from bitgolf.catalog.own import example_of, techniques_in
from bitgolf.cli.options import Json
from bitgolf.cli.shown import close_verdicts
from bitgolf.report import screen

COLUMNS = (screen.Column("check", 20), screen.Column("", 9), screen.Column("why"))


def check(
    file: Annotated[str, typer.Argument(metavar="FILE.py[:NAME]", help="Your file; or one class in it.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SETTING=VALUE", help="A setting of the technique, e.g. --set last=2."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check whether the techniques in your file behave as ours must; failures are said in words.

    At its defaults, or as --set says, in a small recipe: the card, JSON, three training steps, off is exact,
    on has an effect, no score depends on later tokens or another document, the script trains to the same
    bits.

    Example: bitgolf check mine.py
    """
    path, _, name = file.partition(".py:")
    if not file.endswith(".py") and not name:
        raise BitgolfError("expected a Python file", where=file, way_out="bitgolf check mine.py")
    techniques = techniques_in(Path(f"{path}.py" if name else file), name)
    if overrides and len(techniques) > 1:
        raise BitgolfError(
            "--set needs one technique", where=file, way_out=f"bitgolf check {file}:NAME --set ..."
        )
    for each in techniques if overrides else ():
        parse_overrides(example_of(each), overrides or ())  # refused before anything runs
    verdicts = screen.follow(check_all(techniques, overrides or ()))
    names = dict.fromkeys(each.technique for each in verdicts)
    groups = [(name, [each[1:] for each in verdicts if each.technique == name]) for name in names]
    screen.grouped_table(COLUMNS, groups, as_json=as_json)
    close_verdicts(
        "checks",
        verdicts,
        {"file": file},
        {"techniques": len({each.technique for each in verdicts})},
        as_json=as_json,
    )
