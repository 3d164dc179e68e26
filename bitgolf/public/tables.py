"""The tables in the public challenge's packed files: codes and scales to a state dict, and back.

The baseline's has `__quant_format__`; its codes may be multiples of 4, which is int6 in int8 (#543). The
mixed one has `w` and `m`: int5 to int8 a row or a group of rows (#488), gates, and low-rank corrections
(#1797).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bitgolf.public.streams import PublicFileError
from bitgolf.squeeze.clip import ClipSearch
from bitgolf.squeeze.grid import Grid, PerTensor
from bitgolf.squeeze.quantize import (
    PUBLIC_CONTROLS,
    AbsMax,
    Keep,
    QuantizePlan,
    QuantRule,
    public_int8,
    quantize_weights,
)

INT8_FORMAT = "int8_clean_per_row_v1"
# What a table of the baseline's form may call itself; how codes and scales are read is the same.
INT8_FORMATS = (INT8_FORMAT, "int8_mixed_per_row_v1", "mixed_int8_int6_v1")
INT6_PARTS = ("*.mlp.*", "*.attn.*", "*.proj.*")  # whose large tensors get six bits in a mixed table
INT6_CONTROLS = (*PUBLIC_CONTROLS, "*smear*", "*dtg_gate*", "*ve_layer_scales*", "*ve_shared.scale*")
INT8_TABLES = ("quantized", "scales", "dtypes", "passthrough")
BFLOAT16_SUFFIXES = ("tok_emb.weight", ".embed.weight")  # what the scripts leave in bfloat16: embeddings
DTYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


def state_of_table(table: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict in a table of either kind."""
    return int6_state(table) if {"w", "m"} <= table.keys() else int8_state(table)


def int6_state(table: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by their kind in `m`: what is in `w` under their name, with endings for codes and scales.

    The file does not say what float16 was before: the scripts train embeddings in bfloat16, all else in
    float32. Raises PublicFileError for parts of `w` that no kind explains: weights read without them would
    be others.
    """
    tensors, kinds = table.get("w"), table.get("m")
    if not isinstance(tensors, dict) or not isinstance(kinds, dict):
        raise PublicFileError("tables are missing", value=["w", "m"])
    state, used = {}, set()
    for name, kind in kinds.items():
        parts = _Parts(str(name), tensors)
        dtype = DTYPES["bfloat16" if parts.name.endswith(BFLOAT16_SUFFIXES) else "float32"]
        kept = tensors.get(name)
        if isinstance(kept, Tensor):
            state[name] = kept.to(dtype) if kept.dtype == torch.float16 else kept
            used.add(name)
            continue
        state[name] = _whole(parts, kind).to(dtype)
        used |= parts.used
    if unknown := [name for name in tensors if name not in used]:
        raise PublicFileError(
            "parts that belong to no known kind of tensor",
            value=[str(name) for name in unknown[:3]],
            way_out="known: codes in rows or groups of rows, gates, rescued rows, low-rank corrections",
        )
    return state


class _Parts:
    """The tensors of one matrix, by the ending of their names; remembers which were asked for."""

    def __init__(self, name: str, tensors: Mapping[Any, Any]) -> None:
        self.name, self.tensors, self.used = name, tensors, set[str]()

    def floats(self, ending: str, *shape: int) -> Tensor:
        """A tensor in float32, of a shape where one is given."""
        part = f"{self.name}.{ending}"
        tensor = self.tensors.get(part)
        if not isinstance(tensor, Tensor):
            raise PublicFileError("codes, scale or number type is missing", value=part)
        if shape and tuple(tensor.shape) != shape:
            raise PublicFileError(
                "not of the shape that its codes ask for", value=[part, tuple(tensor.shape), shape]
            )
        self.used.add(part)
        return tensor.float()


def _whole(parts: _Parts, kind: Any) -> Tensor:
    """Codes times scales, with what was put right beside them. kind: a text, or facts with `type`."""
    facts = kind if isinstance(kind, dict) else {}
    if kind == "gate_int8_row":
        return _scaled(parts.name, parts.floats("gq"), parts.floats("gs"))
    weight = _scaled(parts.name, parts.floats("q"), parts.floats("scale"), facts.get("group_rows", 1))
    if facts.get("rescue_kind") == "row":
        rows = parts.floats("rescue_idx").long()
        if rows.ndim != 1 or rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < len(weight):
            raise PublicFileError("rescued rows that the matrix does not have", value=parts.name)
        weight[rows] += parts.floats("rescue_delta", len(rows), *weight.shape[1:])
    correction = kind.partition("+")[2] if isinstance(kind, str) else ""
    if not correction:
        return weight
    if weight.ndim != 2 or correction not in CORRECTIONS:
        raise PublicFileError(
            "an unknown correction", value=[parts.name, kind], way_out=f"known: {', '.join(CORRECTIONS)}"
        )
    return weight + CORRECTIONS[correction](parts, weight)


def _symmetric(parts: _Parts, weight: Tensor) -> Tensor:
    """A low-rank correction whose two factors have a scale a row."""
    left, right = parts.floats("lqA"), parts.floats("lqB")
    _check_factors(parts.name, weight, left, right)
    left_scales, right_scales = parts.floats("lqAs", len(left)), parts.floats("lqBs", len(right))
    return (left * left_scales[:, None]) @ (right * right_scales[:, None])


def _asymmetric(parts: _Parts, weight: Tensor) -> Tensor:
    """A low-rank correction: one scale for the left factor, one a group of the right one's numbers."""
    left, right, scales = parts.floats("lqA_a"), parts.floats("lqB_a"), parts.floats("lqBs_a")
    one = parts.floats("lqAs_a")
    _check_factors(parts.name, weight, left, right)
    if one.numel() != 1 or scales.ndim != 1 or not scales.numel() or right.numel() % scales.numel():
        raise PublicFileError(
            "a low-rank correction without a scale for each of its groups", value=parts.name
        )
    return (left * one.reshape(())) @ (right.reshape(len(scales), -1) * scales[:, None]).reshape(right.shape)


CORRECTIONS = {"lqer": _symmetric, "lqer_asym": _asymmetric}


def _check_factors(name: str, weight: Tensor, left: Tensor, right: Tensor) -> None:
    rank = right.shape[0] if right.ndim == 2 else 0
    thin = 0 < rank <= min(weight.shape)
    if not thin or left.shape != (weight.shape[0], rank) or right.shape[1] != weight.shape[1]:
        raise PublicFileError(
            "a low-rank correction that does not fit its matrix",
            value=[name, tuple(weight.shape), tuple(left.shape), tuple(right.shape)],
        )


def _scaled(name: str, codes: Tensor, scales: Tensor, group_rows: Any = 1) -> Tensor:
    """Codes times one scale, or the scale of each row or group of rows."""
    if not scales.ndim:
        return codes * scales
    if type(group_rows) is not int or group_rows < 1 or not codes.ndim or scales.ndim != 1:
        raise PublicFileError("not one scale a row", value=[name, tuple(codes.shape), tuple(scales.shape)])
    rows = torch.arange(len(codes)) // group_rows
    if len(scales) != (len(codes) + group_rows - 1) // group_rows:
        raise PublicFileError("not one scale a row", value=[name, tuple(codes.shape), tuple(scales.shape)])
    return codes * scales[rows].reshape(-1, *[1] * (codes.ndim - 1))


def int8_state(table: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of the baseline's table."""
    if table.get("__quant_format__") not in INT8_FORMATS:
        raise PublicFileError(
            f"expected the format {' or '.join(INT8_FORMATS)}",
            value=table.get("__quant_format__"),
            way_out="pack it as the baseline does, or give final_model.pt",
        )
    missing = [key for key in INT8_TABLES if not isinstance(table.get(key), dict)]
    if missing:
        raise PublicFileError("tables are missing", value=missing)
    state = {name: dequantize_public(name, table) for name in table["quantized"]}
    original = table.get("passthrough_orig_dtypes", {})
    for name, tensor in table["passthrough"].items():
        state[name] = tensor.to(DTYPES[original[name]]) if original.get(name) in DTYPES else tensor
    return state


def dequantize_public(name: str, table: Mapping[str, Any]) -> Tensor:
    """One tensor: codes times its scale or the scales of its rows."""
    codes, scales, dtype = table["quantized"][name], table["scales"].get(name), table["dtypes"].get(name)
    if not isinstance(codes, Tensor) or not isinstance(scales, Tensor) or dtype not in DTYPES:
        raise PublicFileError("codes, scale or number type is missing", value=name)
    return _scaled(name, codes.float(), scales.float()).to(DTYPES[dtype])


def public_int8_table(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The table that the baseline pickles: codes, scales, and what stays as it is."""
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    tensors, _ = quantize_weights(public_int8(), {name: tensor.float() for name, tensor in floats.items()})
    table: dict[str, Any] = {key: {} for key in (*INT8_TABLES, "qmeta", "passthrough_orig_dtypes")}
    for name, tensor in state.items():
        dtype, packed = str(tensor.dtype).removeprefix("torch."), tensors.get(name)
        if packed is not None and not packed.is_float:
            rows, scales = tensor.ndim == 2, packed.pieces["scales"]
            table["quantized"][name] = packed.pieces["codes"].reshape(tensor.shape)
            table["scales"][name] = scales if rows else scales[0]
            table["dtypes"][name] = dtype
            table["qmeta"] |= {name: {"scheme": "per_row", "axis": 0}} if rows else {}
            continue
        kept = tensor if packed is None else packed.pieces["values"]
        table["passthrough"][name] = kept.contiguous()
        if kept.dtype == torch.float16 and dtype in ("float32", "bfloat16"):
            table["passthrough_orig_dtypes"][name] = dtype
    optional = {key: table[key] for key in ("qmeta", "passthrough_orig_dtypes") if table[key]}
    return {"__quant_format__": INT8_FORMAT, **{key: table[key] for key in INT8_TABLES}, **optional}


def public_int6_table(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The mixed table of record 2026-03-22: MLP and attention in six bits by clip search, other large tensors
    in eight as the baseline has them, what is small in float16."""
    plan = _mixed_plan()
    floats = {name: tensor.float() for name, tensor in state.items() if tensor.is_floating_point()}
    packed, _ = quantize_weights(plan, floats)
    tensors: dict[str, Tensor] = {}
    kinds: dict[str, Any] = {}
    for name, tensor in state.items():
        one = packed.get(name)
        if one is not None and not one.is_float:
            scales = one.pieces["scales"]
            tensors[f"{name}.q"] = one.pieces["codes"].reshape(tensor.shape)
            tensors[f"{name}.scale"] = scales if tensor.ndim == 2 else scales[0]
            kinds[name] = {"type": f"int{one.form.nominal_bits(one.pieces)}"}
            continue
        tensors[name] = (tensor if one is None else one.pieces["values"]).contiguous()
        kept_whole = one is not None and tensors[name].dtype == torch.float32
        kinds[name] = "passthrough_ctrl" if kept_whole else "passthrough"
    return {"w": tensors, "m": kinds}


def _mixed_plan() -> QuantizePlan:
    """The rules of a mixed table; in it the size of a tensor decides before its name."""
    rows, whole, *_ = public_int8().rules
    six = ClipSearch(grid=Grid(bits=6, scale_floor=1 / 31), choice="tensor")
    six_whole = AbsMax(grid=Grid(bits=6, granularity=PerTensor(), zero_scale=1.0))
    return QuantizePlan(
        rules=(
            whole.replace(patterns=INT6_CONTROLS, quantizer=Keep(dtype="float32")),
            rows.replace(patterns=INT6_PARTS, quantizer=six),
            whole.replace(patterns=INT6_PARTS, quantizer=six_whole),
            rows,
            whole,
            QuantRule(quantizer=Keep(dtype="float16"), may_be_idle=True),
        )
    )
