"""What is wrong with anyone's folder, script, log or artifact."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.cli.options import Json, RulesName
from bitgolf.inputs.writable import refuse_page
from bitgolf.report import screen

if TYPE_CHECKING:
    from bitgolf.audit.audit import Audit
    from bitgolf.audit.many import Looked
    from bitgolf.audit.rules import Rules
    from bitgolf.audit.sandbox.run import Run


def audit(
    target: Annotated[Path, typer.Argument(metavar="FOLDER|SCRIPT|LOG|ARTIFACT", help="Anyone's.")],
    rules: RulesName = "final",
    page_file: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="For a directory of folders: write the table as a page."),
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Also execute the script: at tiny size, in a sandbox, with probes.")
    ] = False,
    run_seconds: Annotated[
        int, typer.Option("--run-seconds", min=10, max=3600, help="How long the run may take.")
    ] = 120,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a comment that can be posted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find what is wrong with anyone's folder, script, log or artifact; executes it only with --run.

    Each finding has its place, what was expected, and how sure it is: found, suspected, or cannot tell. A
    directory of folders gives one line for each, and with --html a sortable page. Exit code 1 with findings,
    0 without.

    Example: bitgolf audit records/2026-04-09_mine
    Example: bitgolf audit records/track_10min_16mb --html audits.html
    """
    from bitgolf.audit.audit import audit as audited
    from bitgolf.audit.many import records_in
    from bitgolf.audit.rules import rules_named

    if as_json and as_markdown:
        raise BitgolfError("two forms at once", where="audit", value="--json --markdown", way_out="give one")
    chosen = rules_named(rules)
    if folders := records_in(target):
        if run:
            raise BitgolfError(
                "one folder is run at a time", where="audit", value="--run", way_out=f"give {folders[0]}"
            )
        if page_file:
            refuse_page(page_file, "give another --html")
        _many(folders, target, chosen, page_file, as_markdown, as_json)
        return
    if page_file:
        raise BitgolfError(
            "a page is made of a directory of folders", where="audit", value="--html", way_out="leave it out"
        )
    audit_result = audited(target, chosen)
    seen = None
    if run:
        from bitgolf.audit.sandbox.findings import with_run

        audit_result, seen = with_run(audit_result, run_seconds)
    if as_json:
        screen.close(_facts(audit_result, seen), as_json=True)
    else:
        (_print_comment if as_markdown else _print_findings)(audit_result, seen)
    if audit_result.real:
        raise typer.Exit(1)


def _facts(audit_result: "Audit", seen: "Run | None") -> dict[str, Any]:
    return audit_result.to_json() | ({"run": seen.to_json()} if seen else {})


def _print_comment(audit_result: "Audit", seen: "Run | None") -> None:
    """The audit as Markdown, and what was seen of a run."""
    from bitgolf.audit import page

    print(page.markdown(audit_result), end="")
    for line in seen.summary() if seen else ():
        print(screen.escaped(f"- {page.cell(line)}"))


def _print_findings(audit_result: "Audit", seen: "Run | None") -> None:
    """Each finding on a few lines, what was seen of a run, and the figures."""
    from bitgolf.audit import page
    from bitgolf.audit.finding import CANNOT_TELL

    for each in audit_result.findings:
        sure = f"{each.sure} if" if each.sure == CANNOT_TELL else each.sure
        print(screen.escaped(f"{each.code} {sure} ({page.severity(audit_result, each)}): {each.title}"))
        print(screen.escaped(f"    {each.where}: {page.message_of(each)}"))
        if each.way_out:
            print(screen.escaped(f"    {each.way_out}"))
    for line in seen.summary() if seen else ():
        print(screen.escaped(line))
    facts = _facts(audit_result, seen)
    if not audit_result.unchecked:
        del facts["unchecked"]
    screen.close(facts, as_json=False)
    print(f"not looked for:  {', '.join(audit_result.untold())}")


def _many(
    folders: list[Path], root: Path, rules: "Rules", page_file: Path | None, as_markdown: bool, as_json: bool
) -> None:
    """One line a folder; the page beside."""
    from bitgolf.audit import many

    looked = []
    for each in many.audits(folders, rules):
        looked.append(each)
        if not as_json and not as_markdown:
            name, verdict, found_codes, suspected = many.table([each], root)[0]
            print(
                screen.escaped(
                    f"{verdict:<11} {name}  {found_codes}{'; suspected: ' if suspected else ''}{suspected}"
                ),
                flush=True,
            )
    if page_file:
        page_file.write_text(many.html(looked, root, rules), encoding="utf-8")
    if as_markdown:
        print("| folder | verdict | found | suspected |\n|---|---|---|---|")
        for row in many.table(looked, root):
            print(screen.escaped("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"))
    elif as_json:
        rows = [
            each.audit.to_json()
            if each.audit
            else {"target": str(each.path), "status": many.UNREADABLE, "error": each.error}
            for each in looked
        ]
        screen.close(
            {"target": str(root), "rules": rules.name, "status": _worst(looked), "folders": rows},
            as_json=True,
        )
    else:
        counts = {verdict: sum(each.verdict == verdict for each in looked) for verdict in many.ORDER}
        print(
            f"{len(looked)} folders: "
            + ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        )
    if any(each.audit is None or each.audit.real for each in looked):
        raise typer.Exit(1)


def _worst(looked: list["Looked"]) -> str:
    """The worst verdict of all."""
    from bitgolf.audit import many

    return min((each.verdict for each in looked), key=many.ORDER.index)
