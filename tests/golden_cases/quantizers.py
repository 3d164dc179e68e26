"""The public rules of rounding to the nearest code, by record."""

from typing import Any

from bitgolf.squeeze.clip import ClipSearch, CoarseCodes
from bitgolf.squeeze.grid import Grid, PerTensor
from bitgolf.squeeze.quantize import AbsMax, Percentile, Quantizer
from tests.golden_cases.case import Case, Fields, NotCoveredError

HALF_TINY = 2.0**-14  # the smallest normal float16, a floor of two records of 2026-03-20
PLAIN = ("10L_Int5MLP", "Int6_MLP3x")  # to the row's maximum, hardly a floor
FLOORED = ("11L_EfficientPartialXSA", "11L_XSA4")  # to the row's maximum, no step below 1/31


def grid_to(largest: int, **settings: Any) -> Grid:
    """Codes up to `largest`, in as many bits as they need."""
    return Grid(bits=max(2, largest.bit_length() + 1), largest=largest, **settings)


def percentile(axes: int, largest: int = 127, **settings: Any) -> Quantizer:
    """`quantize_float_tensor`: codes with the step before it is rounded; a vector has one step."""
    if axes != 2:
        settings |= {"granularity": PerTensor(), "scale_dtype": "float32", "zero_scale": 1.0}
        return Percentile(grid=grid_to(largest, **settings))
    return Percentile(grid=grid_to(largest, round_scale_first=False, scale_floor=1 / largest, **settings))


def in_fours(eight: Quantizer) -> Quantizer:
    """int6 as multiples of four, of which 124 is the largest."""
    return CoarseCodes(of=eight, step=4, multiples_only=True)


def narrow(case: Case, axes: int, largest: int = 31) -> Quantizer:
    """`quantize_int6_per_row` and the like: one more code below zero at first, later a clip search."""
    if any(name in case.record for name in PLAIN):
        grid = grid_to(largest, symmetric=False, scale_floor=HALF_TINY)
        return AbsMax(grid=grid if axes == 2 else grid.replace(granularity=PerTensor()))
    if any(name in case.record for name in FLOORED):
        if axes != 2:
            return AbsMax(grid=grid_to(31, symmetric=False, granularity=PerTensor(), zero_scale=1.0))
        return AbsMax(grid=grid_to(31, symmetric=False, scale_floor=1 / 31))
    if axes != 2:
        return AbsMax(grid=grid_to(largest, granularity=PerTensor(), zero_scale=1.0))
    return ClipSearch(grid=grid_to(largest, scale_floor=1 / largest), choice="tensor")


def quantizer_of(case: Case, axes: int) -> Quantizer:
    """The rule behind the public function that a case names, with its keyword arguments."""
    function, options = case.arguments["function"], case.arguments.get("kwargs") or Fields("kwargs", {})
    if function == "quantize_float_tensor":
        by_default = 31 if any(name in case.record for name in ("MixedQuant", "smeargate")) else 127
        bits = options.get("bits", 6 if options.get("use_int6") else 8)
        by_default = 2 ** (bits - 1) - 1 if "bits" in options or "use_int6" in options else by_default
        largest = options.get("quant_range", by_default)
        # Two records of 2026-03-19 round vectors to int8 whatever the range of matrices is.
        whole = (
            127
            if "quant_range" in options or "bits" not in options and "use_int6" not in options
            else largest
        )
        return percentile(axes, largest if axes == 2 else whole)
    if function == "quantize_float_tensor_int6":
        return in_fours(percentile(axes, symmetric=False))
    if function in ("quantize_int6_per_row", "quantize_intN_per_row", "_quantize_int6_percentile"):
        return narrow(case, axes, options.get("clip_range", 31))
    if function == "_quantize_gate_int8_row":
        return AbsMax(grid=Grid(bits=8))
    raise NotCoveredError(f"quantization by {function}")
