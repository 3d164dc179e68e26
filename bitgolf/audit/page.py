"""An audit as a comment that a reviewer can post: verdict, findings, what could not be told, what to ask."""

from collections.abc import Iterable

from bitgolf.audit.audit import Audit
from bitgolf.audit.finding import CANNOT_TELL, SURENESS, Finding
from bitgolf.audit.rules import VIOLATION

MOST_ROWS, MOST_LETTERS = 20, 300


def markdown(audit: Audit) -> str:
    """One screen of Markdown."""
    real, open_ones = audit.real, [each for each in audit.findings if each.sure == CANNOT_TELL]
    lines = [f"**{audit.verdict}** under {audit.rules.title}: {counted(audit)}.", ""]
    lines += [f"Not checked: {cell(audit.unchecked)}.", ""] if audit.unchecked else []
    if real:
        lines += ["| code | sure | where | found | expected |", "|---|---|---|---|---|"]
        lines += [_row(audit, each) for each in real[:MOST_ROWS]]
        lines += [f"| | | | and {len(real) - MOST_ROWS} more | |"] if len(real) > MOST_ROWS else []
        lines.append("")
    if open_ones:
        lines.append(
            "Cannot tell: " + "; ".join(f"{each.code} {cell(each.found)}" for each in open_ones[:6]) + "."
        )
    codes = ", ".join(audit.untold())
    lines += [f"Not looked for, since files do not show it: {codes}.", ""] if codes else []
    ways = dict.fromkeys(each.way_out for each in real if each.way_out)
    lines += ["To the author:", *(f"- {cell(way)}" for way in [*ways][:8])] if ways else []
    return "\n".join(lines).rstrip() + "\n"


def counted(audit: Audit) -> str:
    """How many findings of each sureness."""
    numbers = [sum(each.sure == sure for each in audit.findings) for sure in SURENESS]
    return ", ".join(f"{number} {sure}" for number, sure in zip(numbers, SURENESS))


def rows(audit: Audit, findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    """Findings for a table on a screen."""
    return [
        (each.code, each.sure, severity(audit, each), each.where, message_of(each), each.way_out)
        for each in findings
    ]


def message_of(finding: Finding) -> str:
    """What was found, and what was expected."""
    return f"{finding.found}; expected: {finding.expected}" if finding.expected else finding.found


def severity(audit: Audit, finding: Finding) -> str:
    """How bad it is, with the word of the ruling where it is no violation."""
    ruling = audit.ruling(finding)
    if ruling.word == VIOLATION:
        return finding.severity
    return f"{ruling.word}: {finding.severity}" + (
        f", {ruling.source}" if finding.code in audit.taken else ""
    )


def _row(audit: Audit, each: Finding) -> str:
    cells = (f"{each.code} {each.title}", each.sure, each.where, each.found, each.expected)
    return "| " + " | ".join(map(cell, cells)) + " |"


def cell(text: str) -> str:
    """Text from anywhere as it may stand in a table: on one line, without marks of its own."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    plain = plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("@", "@\u200b")
    return plain if len(plain) <= MOST_LETTERS else plain[:MOST_LETTERS] + "..."
