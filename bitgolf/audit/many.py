"""Audits of many folders as one page: a table that sorts by any column, findings under each row."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bitgolf.audit.audit import Audit, audit
from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED
from bitgolf.audit.folder import ENTRY
from bitgolf.audit.page import message_of, severity
from bitgolf.audit.rules import Rules
from bitgolf.base.errors import BitgolfError
from bitgolf.report.templates import templates

MOST_FOLDERS, MOST_DEPTH, MOST_SHOWN = 2000, 3, 40
UNREADABLE = "unreadable"
ORDER = ("invalid", "suspect", "flawed", CANNOT_TELL, "clean", UNREADABLE)


class Looked(NamedTuple):
    """One folder and what was found in it; None where it could not be read, then `error` says why."""

    path: Path
    audit: Audit | None
    error: str = ""

    @property
    def verdict(self) -> str:
        """The verdict, or that there is none."""
        return self.audit.verdict if self.audit else UNREADABLE


def records_in(path: Path) -> list[Path]:
    """The record folders below one that is none itself; empty for a record folder. No link is followed."""
    if not path.is_dir() or _is_record(path):
        return []
    folders: list[Path] = []
    waiting = [(path, 0)]
    while waiting:
        folder, depth = waiting.pop(0)
        for each in sorted(folder.iterdir()):
            if each.is_symlink() or not each.is_dir() or each.name.startswith("."):
                continue
            if _is_record(each):
                folders.append(each)
            elif depth + 1 < MOST_DEPTH:
                waiting.append((each, depth + 1))
            if len(folders) + len(waiting) > MOST_FOLDERS:
                raise BitgolfError(
                    f"more than {MOST_FOLDERS:,} folders", where=str(path), way_out="name one of them"
                )
    return sorted(folders)


def _is_record(path: Path) -> bool:
    """Whether a folder has a script, claims or a log of its own."""
    files = [each for each in path.iterdir() if each.is_file() and not each.is_symlink()]
    return any(each.match(kind) for each in files for kind in (*ENTRY, "submission*.json", "*.log"))


def audits(paths: list[Path], rules: Rules) -> Iterator[Looked]:
    """Each folder in turn; one that cannot be read does not end the others."""
    for path in paths:
        try:
            yield Looked(path, audit(path, rules))
        except BitgolfError as error:
            yield Looked(path, None, str(error))


def codes(audit: Audit, sure: str) -> list[str]:
    """The codes that were found, or suspected, each once."""
    return sorted({each.code for each in audit.real if each.sure == sure})


def table(looked: list[Looked], root: Path) -> list[tuple[str, ...]]:
    """Rows for a table on a screen: folder, verdict, found, suspected."""
    rows: list[tuple[str, ...]] = []
    for each in looked:
        name = str(each.path.relative_to(root))
        if each.audit is None:
            rows.append((name, UNREADABLE, "", each.error))
        else:
            rows.append(
                (name, each.verdict, *(" ".join(codes(each.audit, sure)) for sure in (FOUND, SUSPECTED)))
            )
    return rows


def html(looked: list[Looked], root: Path, rules: Rules) -> str:
    """One page, of itself: no file beside it and no network."""
    rows = [
        {
            "name": str(each.path.relative_to(root)),
            "verdict": each.verdict,
            "order": ORDER.index(each.verdict),
            "found": codes(each.audit, FOUND) if each.audit else [],
            "suspected": codes(each.audit, SUSPECTED) if each.audit else [],
            "open": sum(one.sure == CANNOT_TELL for one in each.audit.findings) if each.audit else 0,
            "seconds": each.audit.seconds if each.audit else 0.0,
            "findings": [
                {"code": one.code, "title": one.title, "sure": one.sure, "how": severity(each.audit, one)}
                | {"where": one.where, "said": message_of(one), "way": one.way_out}
                for one in each.audit.findings[:MOST_SHOWN]
            ]
            if each.audit
            else [],
            "error": each.error,
            "unchecked": each.audit.unchecked if each.audit else "",
        }
        for each in looked
    ]
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ORDER}
    return (
        templates("audit")
        .get_template("many.html.jinja")
        .render(
            rows=rows,
            root=root.name or str(root),
            rules=rules.title,
            counts={key: count for key, count in counts.items() if count},
        )
    )
