"""All checks of a script: by the flow of its values, and by patterns of its tree."""

from collections.abc import Iterator

from bitgolf.audit import (
    passes,
    script_averages,
    script_bytes,
    script_grids,
    script_packing,
    script_parameters,
    script_scoring,
    script_stages,
    script_training,
    script_windows,
)
from bitgolf.audit.finding import CANNOT_TELL, SUSPECTED, Finding, in_order
from bitgolf.audit.script import Script


def check_script(script: Script) -> Iterator[Finding]:
    """All findings of a script."""
    for layer in script.layers:
        for line in layer.hidden:
            message = "text is executed that is not in the script, or is packed in a way that is not known"
            yield Finding("K03", SUSPECTED, f"{layer.name}:{line}", message)
    if reason := script.unfollowed:
        for code in ("V04", "V05", "V06"):
            yield Finding(code, CANNOT_TELL, script.name, reason, way_out="look by hand, or run the scorer")
    findings = in_order([each for part in FLOWS for check in part.CHECKS for each in check(script)])
    surest = {(each.code, each.where): each for each in reversed(findings)}  # of a place
    yield from surest.values()
    for part in PATTERNS:
        for pattern in part.CHECKS:
            yield from pattern(script)


FLOWS = (script_scoring, script_windows, passes)
PATTERNS = (
    script_bytes,
    script_packing,
    script_parameters,
    script_grids,
    script_stages,
    script_averages,
    script_training,
)
COVERED = frozenset[str]().union(*(each.COVERED for each in (*FLOWS, *PATTERNS)))
