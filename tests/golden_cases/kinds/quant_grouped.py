"""Ternary groups along the rows: codes, steps, and weights after the step was divided at export."""

import torch
from torch import Tensor

from bitgolf.squeeze.clip import Ternary
from bitgolf.squeeze.form import QuantizedTensor
from bitgolf.squeeze.grid import ColumnGroups, Grid, filled
from bitgolf.squeeze.quantize import AbsMax, Keep
from tests.golden_cases.case import Case, Fields
from tests.golden_cases.compare import limits, same_codes, same_scales

PACKED = {"standard": "ternary", "bitmask": "ternary_bitmask"}
FOUR_BITS = Grid(bits=4, largest=7, round_scale_first=False, scale_floor=1e-8 / 7)
FLOATS = {"fp16": Keep(), "fp8": Keep(dtype="float8_e4m3fn"), "fp4": AbsMax(grid=FOUR_BITS)}


def check(case: Case) -> None:
    arguments, allowed = case.arguments, limits(case, "out.deq.*")["rel"]
    stored_as, names = case.expected["entries"], set(arguments["ternary_names"])
    method = PACKED["standard" if arguments["ternary_method"] == "standard" else "bitmask"]
    tables = stored_floats(arguments["fp_storage"])
    counts = dict.fromkeys(case.expected["stats"], 0)
    assert set(stored_as) == {name for name, _ in arguments["tensors"]}
    for name, shape in arguments["tensors"]:
        weight, entry = case.tensors[f"sd.{name}"], stored_as[name]
        assert list(weight.shape) == shape
        if name in names:
            assert entry["type"] == method
            packed = ternary(case, name, weight.float(), entry, arguments["group_size"], allowed)
            counts["ternary_params"] += weight.numel()
            counts["ternary_bytes"] += packed
            continue
        matrix, expected = weight.float().flatten(1) if weight.ndim > 2 else weight, f"out.deq.{name}"
        assert entry["type"] == (tables if matrix.ndim == 2 else "fp16")
        kept = FLOATS[entry["type"]].quantize(matrix.float())
        found = kept.dequantize().to(case.tensors[expected].dtype).view_as(case.tensors[expected])
        assert torch.equal(found, case.tensors[expected])
        counts["fp_params"] += weight.numel()
        counts["fp_bytes"] += float_bytes(case, name, kept)
        facts = {"shape": [*matrix.shape], "orig_shape": [*weight.shape]}
        assert {key: entry[key] for key in entry if key != "type"}.items() <= facts.items()
    assert counts == case.expected["stats"]


def stored_floats(storage: bool | str) -> str:
    """What the record calls tables that it does not make ternary."""
    return {True: "fp8", "fp8": "fp8", "fp4": "fp4", False: "fp16"}[storage]


def float_bytes(case: Case, name: str, kept: QuantizedTensor) -> int:
    """What such a table takes; its four-bit codes are packed two to a byte, the first one low."""
    if kept.is_float:
        stored = f"out.data.{name}"
        if stored in case.tensors:
            assert torch.equal(case.tensors[stored].float(), kept.pieces["values"].float())
        return kept.pieces["values"].nbytes
    codes, scales = kept.pieces["codes"], kept.pieces["scales"]
    flat = torch.nn.functional.pad(codes.flatten().int(), (0, codes.numel() % 2)) + 8
    packed = (flat[0::2] + 16 * flat[1::2]).to(torch.uint8)
    for key, own in (("packed", packed), ("scale", scales)):
        if f"out.{key}.{name}" in case.tensors:
            assert torch.equal(case.tensors[f"out.{key}.{name}"].flatten(), own.flatten())
    return packed.numel() + 2 * scales.numel()


def ternary(case: Case, name: str, weight: Tensor, entry: Fields, size: int, allowed: float) -> int:
    """One matrix; the bytes it takes with its steps. More than two axes are joined behind the first."""
    matrix = weight.flatten(1)
    quantizer = Ternary(grid=Grid(bits=2, granularity=ColumnGroups(columns=size)))
    tensor = quantizer.quantize(matrix)
    codes = filled(tensor.pieces["codes"], size, 1)
    shape = {"shape": list(matrix.shape), "padded_cols": codes.shape[1], "n_trits": codes.numel()}
    shape |= {"group_size": size, "orig_shape": list(weight.shape)}
    assert {key: entry[key] for key in entry if key != "type"} == shape
    same_scales(
        case, quantizer.replace(rescaled=False).quantize(matrix).pieces["scales"], f"out.scale.{name}"
    )
    expected, packed = case.tensors[f"out.deq.{name}"].float(), case.tensors[f"out.packed.{name}"]
    if same_codes(codes, case.tensors[f"out.q.{name}"]):
        restored = tensor.dequantize().view(expected.shape)
        torch.testing.assert_close(restored, expected, rtol=allowed, atol=1e-7)
        bits = five_trits(codes) if entry["type"] == "ternary" else signs_of_used(codes)
        assert torch.equal(bits, packed)
    return packed.numel() + 2 * (codes.numel() // size)


def five_trits(codes: Tensor) -> Tensor:
    """Codes -1, 0 and 1 as digits 0 to 2, five to a byte, the first the least; filled up with digit 0."""
    digits = codes.flatten().long() + 1
    digits = torch.nn.functional.pad(digits, (0, -len(digits) % 5)).reshape(-1, 5)
    return (digits * 3 ** torch.arange(5)).sum(1).to(torch.uint8)


def signs_of_used(codes: Tensor) -> Tensor:
    """A bit for each code that is not zero, then a bit for each of those that is positive."""
    flat = codes.flatten()
    return torch.cat([eight_bits(flat != 0), eight_bits(flat[flat != 0] > 0)])


def eight_bits(flags: Tensor) -> Tensor:
    """Flags as bytes, the first the most significant bit."""
    rows = torch.nn.functional.pad(flags.long(), (0, -len(flags) % 8)).reshape(-1, 8)
    return (rows * 2 ** torch.arange(7, -1, -1)).sum(1).to(torch.uint8)
