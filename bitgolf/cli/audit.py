"""What is wrong with anyone's folder, script, log or artifact."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.cli.options import Json
from bitgolf.report import screen


def audit(
    target: Annotated[Path, typer.Argument(metavar="FOLDER|SCRIPT|LOG|ARTIFACT", help="Anybody's.")],
    rules: Annotated[
        str, typer.Option("--rules", help="march-2026, april-2026, final, or strict: everything counts.")
    ] = "final",
    as_markdown: Annotated[bool, typer.Option("--markdown", help="A comment that can be posted.")] = False,
    as_json: Json = False,
) -> None:
    """What is wrong with anyone's folder, script, log or artifact; nothing in it is executed.

    Each finding says where it is, what was expected and how sure it is: found, suspected, or cannot tell.
    Exit code 1 with findings, 0 without.

    Example: bitgolf audit records/2026-04-09_mine
    """
    from bitgolf.audit import page
    from bitgolf.audit.audit import audit as audited
    from bitgolf.audit.rules import rules_named

    if as_json and as_markdown:
        raise BitgolfError("two forms at once", where="audit", value="--json --markdown", way_out="give one")
    found = audited(target, rules_named(rules))
    if as_markdown:
        print(page.markdown(found), end="")
    else:
        for each in [] if as_json else found.findings:
            severity = page.severity(found, each)
            print(screen.escaped(f"{each.code} {each.sure} ({severity}): {each.title}"))
            print(screen.escaped(f"    {each.where}: {page.said(each)}"))
            if each.way_out:
                print(screen.escaped(f"    {each.way_out}"))
        facts = found.to_json()
        screen.close(facts, as_json=as_json)
        if not as_json:
            print(f"not looked for:  {', '.join(found.untold())}")
    if found.real:
        raise typer.Exit(1)
