"""A finding: what is wrong, where, and how sure one can be without running anything."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bitgolf.audit.violations import SEVERITIES, VIOLATIONS

FOUND, SUSPECTED, CANNOT_TELL = "found", "suspected", "cannot tell"
MINOR = "minor"
SURENESS = (FOUND, SUSPECTED, CANNOT_TELL)
MOST_ALIKE = 3  # findings that differ in a figure or a place
VARIES = re.compile(r"\[.*?\]|[\d.,]+")


class Finding(NamedTuple):
    """code: of the catalogue. where: file:line, a line of a log, a tensor, a key of a JSON file.

    sure: found, suspected, or cannot tell (then `found` says what is missing). minor: a figure that is wrong,
    or put wrongly, and decides nothing. Where expected and way_out are empty, those of the catalogue hold.
    """

    code: str
    sure: str
    where: str
    found: str
    expected: str = ""
    way_out: str = ""
    minor: bool = False

    @property
    def severity(self) -> str:
        """How bad a fault of this kind is."""
        return MINOR if self.minor else SEVERITIES[VIOLATIONS[self.code].severity]

    @property
    def title(self) -> str:
        """What the kind of fault is called."""
        return VIOLATIONS[self.code].title


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Surest and worst first, each once, with what the catalogue says of it; many that are alike are one."""
    severities = [*SEVERITIES.values(), MINOR]
    ordered = sorted(
        dict.fromkeys(map(_told, findings)),
        key=lambda each: (SURENESS.index(each.sure), severities.index(each.severity), each.code),
    )
    alike: dict[tuple[object, ...], list[Finding]] = {}
    for each in ordered:
        alike.setdefault((each.code, each.sure, each.minor, VARIES.sub("", each.found)), []).append(each)
    return [one for some in alike.values() for one in (some if len(some) <= MOST_ALIKE else [_all(some)])]


def _all(alike: Sequence[Finding]) -> Finding:
    """The first of many findings, with how many more there are and where."""
    first, *others = alike
    places = ", ".join(each.where for each in others[:MOST_ALIKE])
    more = ", ..." if len(others) > MOST_ALIKE else ""
    return first._replace(found=f"{first.found}; so in {len(others)} more places: {places}{more}")


def _told(each: Finding) -> Finding:
    kind = VIOLATIONS[each.code]
    if each.sure == CANNOT_TELL:
        return each
    return each._replace(expected=each.expected or kind.expected, way_out=each.way_out or kind.way_out)
