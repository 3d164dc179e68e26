"""What the scripts make of a layer's weights while they train."""

from typing import Any

from bitgolf.squeeze.clip import Ternary
from bitgolf.squeeze.grid import ColumnGroups, Grid
from bitgolf.squeeze.quantize import AbsMax, Quantizer
from tests.golden_cases.case import Case, NotCoveredError
from tests.golden_cases.quantizers import in_fours

FLOAT = {"scale_dtype": "float32"}
LATE_QAT = ("11L_", "2026-03-23", "2026-03-25")  # records whose layers turn to int6 late
TINY = 1e-12  # what keeps a scale from being zero


def fake_quantizer(case: Case) -> Quantizer:
    """The quantizer of the function that a case names, or of its record's layers."""
    function, settings = case.arguments.get("function", ""), case.settings
    int6 = settings.get("qat_int6", case.arguments.get("qat_int6", False))
    settings.get("qat"), settings.get("qat_enabled")
    if "ernary" in function:
        size = case.arguments.get("group_size", settings.get("bitnet_group_size", 64))
        return Ternary(grid=Grid(bits=2, granularity=ColumnGroups(columns=size), **FLOAT), rescaled=False)
    if "SlidingWindowEval" in case.record:
        return rows(8, scale_floor=1 / 127)
    if "MLP3x_QAT_Int6" in case.record:
        eight = rows(8, scale_floor=TINY / 127, symmetric=not int6)
        return in_fours(eight) if int6 else eight
    if any(name in case.record for name in LATE_QAT):
        return rows(6, symmetric=False, scale_floor=1 / 31)
    raise NotCoveredError(f"fake quantization of {function or case.record}")


def rows(bits: int, **settings: Any) -> Quantizer:
    """The largest weight of a row on the largest code."""
    return AbsMax(grid=Grid(bits=bits, **FLOAT, **settings))
