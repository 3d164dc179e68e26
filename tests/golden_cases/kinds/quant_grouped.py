"""Ternary groups along the rows: codes, steps, and weights after the step was divided at export."""

import torch
from torch import Tensor

from bitgolf.squeeze.clip import Ternary
from bitgolf.squeeze.grid import ColumnGroups, Grid, filled
from bitgolf.squeeze.quantize import Keep
from tests.golden_cases.case import Case, Fields, NotCoveredError
from tests.golden_cases.compare import limits, same_codes, same_scales

PACKED = {"standard": "ternary", "bitmask": "ternary_bitmask"}


def check(case: Case) -> None:
    arguments, allowed = case.arguments, limits(case, "out.deq.*")["rel"]
    stored_as, names = case.expected["entries"], set(arguments["ternary_names"])
    method = PACKED["standard" if arguments["ternary_method"] == "standard" else "bitmask"]
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
        if entry["type"] != "fp16":
            raise NotCoveredError(f"tensors kept as {entry['type']} (fp_storage {arguments['fp_storage']})")
        kept, expected = Keep().quantize(weight.float()), case.tensors[f"out.deq.{name}"]
        assert torch.equal(kept.dequantize().to(expected.dtype), expected)
        counts["fp_params"] += weight.numel()
        counts["fp_bytes"] += 2 * weight.numel()
    assert arguments["fp_storage"] in (False, True, "fp4")
    assert counts == case.expected["stats"]


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
