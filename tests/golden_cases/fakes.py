"""What the scripts make of a layer's weights while they train."""

from typing import Any

from bitgolf.squeeze.clip import Ternary
from bitgolf.squeeze.grid import ColumnGroups, Grid
from bitgolf.squeeze.quantize import AbsMax, Keep, Percentile, Quantizer
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
    if "Ternary" in case.record and (storage := float_storage(case)):
        eight = Keep(dtype="float8_e4m3fn")
        return rows(4, largest=7, scale_floor=1e-8 / 7) if str(storage).lower() == "fp4" else eight
    if "SlidingWindowEval" in case.record:
        return rows(8, scale_floor=1 / 127)
    if trains_on_codes(case):
        grid = Grid(bits=6, scale_floor=1e-8 / 31, **FLOAT)
        return Percentile(grid=grid, percentile=0.9999984)
    if "Seq2048_FP16Emb" in case.record:
        return rows(6, scale_floor=1 / 31 / 31)
    if "MLP3x_QAT_Int6" in case.record:
        eight = rows(8, scale_floor=TINY / 127, symmetric=not int6)
        return in_fours(eight) if int6 else eight
    if any(name in case.record for name in LATE_QAT):
        return rows(6, symmetric=False, scale_floor=1 / 31)
    raise NotCoveredError(f"fake quantization of {function or case.record}")


def float_storage(case: Case) -> bool | str:
    """What the ternary record makes of its tables: nothing, eight bits (true), or four."""
    storage = case.arguments.get("fp_storage", case.settings.get("fp_storage", False))
    assert isinstance(storage, (bool, str))
    return storage


def trains_on_codes(case: Case) -> bool:
    """Whether the layers of the case's record are quantized whenever they train."""
    return any(name in case.record for name in ("smeargate", "MixedQuant"))


def soft_sharpness(case: Case) -> float | None:
    """How sharp the soft rounding of the case's record is; none where it rounds hard."""
    if not case.record.startswith("2026-03-31"):
        return None
    names = ("alpha", "qat_alpha", "soft_round_alpha", "sharpness")
    stated = [case.arguments[name] for name in names if name in case.arguments]
    return float(stated[0]) if stated else 1.0


def soft_quantizer() -> AbsMax:
    """What soft rounding cuts at in its record."""
    return AbsMax(grid=Grid(bits=6, scale_floor=1 / 31, **FLOAT))


def rows(bits: int, **settings: Any) -> Quantizer:
    """The largest weight of a row on the largest code."""
    return AbsMax(grid=Grid(bits=bits, **FLOAT, **settings))
