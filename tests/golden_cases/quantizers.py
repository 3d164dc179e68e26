"""The public rules of rounding to the nearest code, by record."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bitgolf.squeeze.clip import ClipSearch, CoarseCodes
from bitgolf.squeeze.grid import Grid, PerTensor
from bitgolf.squeeze.quantize import PUBLIC_SMALL_ELEMENTS, AbsMax, Keep, Percentile, Quantizer
from tests.golden_cases.case import Case, Fields, NotCoveredError

HALF_TINY = 2.0**-14  # the smallest normal float16, a floor of two records of 2026-03-20
PLAIN = ("10L_Int5MLP", "03-20_Int6_MLP3x")  # to the row's maximum, hardly a floor
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
    options = case.arguments.get("kwargs") or Fields("kwargs", {})
    return rounding(case, case.arguments["function"], options, axes)


def rounding(case: Case, function: str, options: Mapping[str, Any], axes: int) -> Quantizer:
    """The rule behind a public function of the case's record."""
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


def of_state_dict(case: Case, name: str, tensor: Tensor, layers: int) -> Quantizer | None:
    """What a record's `quantize_state_dict_int8` does with a tensor that the baseline's treats otherwise."""
    record, options = case.record, case.arguments.get("kwargs") or Fields("kwargs", {})
    large, table, axes = tensor.numel() > PUBLIC_SMALL_ELEMENTS, "tok_emb" in name, tensor.ndim
    if "OvertoneInit" in record and table:  # at any size
        return Keep()
    if "WarmdownQuantization" in record:
        late = any(f"blocks.{layer}." in name for layer in (layers - 2, layers - 1))
        if name == "tok_emb.weight" or late and name.endswith("c_k.weight"):
            return Keep()
    if not large:
        return None
    if "WarmdownQuantization" in record:
        return rounding(case, "quantize_float_tensor", {"bits": 6}, axes)
    if "MLP3x_QAT_Int6" in record:
        first, last = options.get("int6_layer_start", -1), options.get("int6_layer_end", -1)
        if table and options.get("fp16_embed", False):
            return Keep()
        found = re.search(r"blocks\.(\d+)\.", name)
        middle = found is not None and 0 <= first <= int(found[1]) <= last
        return rounding(case, "quantize_float_tensor_int6", {}, 2) if middle and axes == 2 else None
    if "MixedQuant" in record:
        return None if table else rounding(case, "quantize_float_tensor", {"quant_range": 31}, axes)
    if "Seq2048_FP16Emb" in record:
        narrow = bool(int(case.knobs.get("USE_INT6", 1)))
        return Keep() if table else rounding(case, "quantize_float_tensor", {"use_int6": narrow}, axes)
    if "smeargate" in record:
        kept = table or "bigram_hash" in name
        return Keep() if kept else rounding(case, "quantize_float_tensor", {}, axes)
    return Keep() if table and "FP16Embed_WD3600" in record else None
