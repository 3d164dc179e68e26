"""A finding: what is wrong, where, and how sure one can be without running anything."""

from typing import NamedTuple

from bitgolf.audit.violations import SEVERITIES, VIOLATIONS

FOUND, SUSPECTED, CANNOT_TELL = "found", "suspected", "cannot tell"
SLIP = "slip of the pen"
SURENESS = (FOUND, SUSPECTED, CANNOT_TELL)


class Finding(NamedTuple):
    """code: of the catalogue. where: file:line, a line of a log, a tensor, a key of a JSON file.

    sure: found, suspected, or cannot tell (then `found` says what is missing). slip: a figure that is wrong,
    or put wrongly, and decides nothing.
    """

    code: str
    sure: str
    where: str
    found: str
    expected: str = ""
    way_out: str = ""
    slip: bool = False

    @property
    def severity(self) -> str:
        """How bad a fault of this kind is."""
        return SLIP if self.slip else SEVERITIES[VIOLATIONS[self.code].severity]

    @property
    def title(self) -> str:
        """What the kind of fault is called."""
        return VIOLATIONS[self.code].title


def in_order(findings: list[Finding]) -> list[Finding]:
    """Surest and worst first, each once."""
    severities = [*SEVERITIES.values(), SLIP]
    return sorted(
        dict.fromkeys(findings),
        key=lambda each: (SURENESS.index(each.sure), severities.index(each.severity), each.code),
    )
