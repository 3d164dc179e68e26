"""Quantizers, fake quantization and calibration against the public scripts."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from bitgolf.core.clip import PUBLIC_PERCENTILES, ClipSearch, Ternary
from bitgolf.core.gptq import Gptq, squared_error
from bitgolf.core.grid import ColumnGroups, Grid, PerTensor, filled
from bitgolf.core.hessian import gather_curvatures
from bitgolf.core.quantize import (
    PUBLIC_CONTROLS,
    PUBLIC_SMALL_ELEMENTS,
    AbsMax,
    Curvature,
    Keep,
    KeptTensor,
    Percentile,
    QuantizePlan,
    Quantizer,
    QuantRule,
    QuantTensor,
    SdClip,
    public_int8,
    quantize_weights,
)
from bitgolf.lab.public import (
    pack_public_int8,
    public_int8_table,
    unpack_public_int8,
)
from tests.golden_cases.case import Case, NotCoveredError
from tests.golden_cases.model import public_model

FIRST_CLIP_SEARCH = "2026-03-22"  # the date of the first record with one
HALF_TINY = 2.0**-14  # the smallest normal float16, the floor of the 03-20 records


def rows_or_whole(quantizer: Quantizer, axes: int) -> Quantizer:
    """A scale for each row of a matrix; one for a tensor of any other number of axes."""
    return quantizer if axes == 2 else quantizer.but({"grid.granularity": PerTensor()})


def grid_to(largest: int, **settings: Any) -> Grid:
    """Codes up to `largest`, in as many bits as they need."""
    return Grid(bits=max(2, largest.bit_length() + 1), largest=largest, **settings)


def plain_rows(largest: int, axes: int) -> Quantizer:
    """int6 and int5 of the 2026-03-20 records: one more code below zero, float16 scale first."""
    grid = grid_to(largest, symmetric=False, scale_floor=HALF_TINY)
    return rows_or_whole(AbsMax(grid=grid), axes)


def searched_rows(largest: int, axes: int) -> Quantizer:
    """int6 of the records with a clip search: one percentile a matrix; vectors to their maximum."""
    if axes != 2:
        return AbsMax(grid=grid_to(largest, granularity=PerTensor(), zero_scale=1.0))
    return ClipSearch(grid=grid_to(largest, scale_floor=1 / largest), choice="tensor")


def is_searched(case: Case) -> bool:
    return case.facts["source"]["record"][:10] >= FIRST_CLIP_SEARCH


def quantizer_of(case: Case, axes: int) -> Quantizer:
    function = case.arguments["function"]
    if function == "quantize_float_tensor":
        return public_int8().rules[0 if axes == 2 else 1].quantizer
    if "int6" in function or "intN" in function:
        largest = case.arguments.get("kwargs", {}).get("clip_range", 31)
        return (searched_rows if is_searched(case) else plain_rows)(largest, axes)
    raise NotCoveredError(f"quantization by {function}")


def check_codes(codes: Tensor, scales: Tensor, restored: Tensor, expected: dict[str, Tensor]) -> None:
    off = (codes.reshape(-1).int() - expected["codes"].reshape(-1).int()).abs()
    assert off.numel() == 0 or int(off.max()) <= 1
    assert int((off > 0).sum()) <= max(1, off.numel() // 1000)
    assert scales.dtype == expected["scales"].dtype
    torch.testing.assert_close(scales.reshape(-1), expected["scales"].reshape(-1), rtol=1e-3, atol=0)
    if int(off.sum()) == 0:
        kind = expected["restored"].dtype
        torch.testing.assert_close(restored.to(kind), expected["restored"], rtol=1e-3, atol=1e-7)


def quant_tensor(case: Case) -> None:
    for i in range(len(case.arguments["shapes"])):
        weight = case.tensors[f"t.{i}"]
        packed = quantizer_of(case, weight.ndim).quantize(weight)
        assert isinstance(packed, QuantTensor)
        names = {"codes": f"out.q.{i}", "scales": f"out.scale.{i}", "restored": f"out.deq.{i}"}
        expected = {key: case.tensors[name] for key, name in names.items()}
        check_codes(packed.codes, packed.scales, packed.dequantize(), expected)
        error = float((packed.dequantize() - weight).square().mean())
        assert math.isclose(error, case.expected["mse"][i], rel_tol=1e-3)


def quant_state_dict(case: Case) -> None:
    state = {name[3:]: case.tensors[name] for name in case.tensors if name.startswith("sd.")}
    state = {name: state[name] for name, *_ in case.arguments["tensors"]}
    if case.arguments["format"] == "mixed":
        mixed_state_dict(case, state)
    else:
        int8_state_dict(case, state)


def int8_state_dict(case: Case, state: dict[str, Tensor]) -> None:
    table, expected = public_int8_table(state), case.tensors
    for key in ("dtypes", "qmeta", "passthrough_orig_dtypes"):
        assert table.get(key, {}) == case.expected[key]
    assert table["__quant_format__"] == case.expected["quant_format"]
    restored = unpack_public_int8(pack_public_int8(state))
    for name, tensor in restored.items():
        assert tensor.dtype == state[name].dtype
        deq = expected[f"out.deq.{name}"]
        if name in table["quantized"]:
            names = {"codes": f"out.quantized.{name}", "scales": f"out.scales.{name}"}
            wanted = {**{key: expected[value] for key, value in names.items()}, "restored": deq}
            check_codes(table["quantized"][name], table["scales"][name], tensor, wanted)
        else:
            kept = table["passthrough"][name]
            assert kept.dtype == expected[f"out.passthrough.{name}"].dtype
            assert torch.equal(kept, expected[f"out.passthrough.{name}"]) and torch.equal(tensor, deq)
    stats = case.expected["stats"]
    parts = [t for key in ("quantized", "scales", "passthrough") for t in table[key].values()]
    assert sum(t.numel() * t.element_size() for t in parts) == stats["int8_payload_bytes"]
    assert sum(t.numel() for t in state.values()) == stats["param_count"]


def mixed_rules(case: Case) -> list[tuple[str, QuantRule]]:
    """The public mixed table, line by line, with what its metadata calls each."""
    large = {"more_than": PUBLIC_SMALL_ELEMENTS, "may_be_idle": True}
    record, searched = case.facts["source"]["record"], is_searched(case)
    narrow = set(case.arguments["int6_cats"])
    parts = {
        "embed": ("*tok_emb*", "*lm_head*"),
        "mlp": ("*.mlp.*",),
        "bigram": () if searched else ("*bigram*",),
        "attn": ("*.attn.*", "*.proj.*"),
    }
    rules = [
        ("passthrough_ctrl", QuantRule(patterns=PUBLIC_CONTROLS, quantizer=Keep(dtype="float32"), **large))
    ]
    if not searched:
        kept = ("*tok_emb*", "*blocks.8.attn.c_k*")
        rules.insert(0, ("passthrough_fp16", QuantRule(patterns=kept, quantizer=Keep(), **large)))
    for category, patterns in [*parts.items(), ("other", ("*",))]:
        largest = 15 if category == "mlp" and "Int5MLP" in record else 31
        for axes in (2, 0):
            quantizer = public_int8().rules[0 if axes else 1].quantizer
            label = "int8"
            if category in narrow:
                quantizer = (searched_rows if searched else plain_rows)(largest, axes)
                label = f"int{largest.bit_length() + 1}"
            if patterns:
                rules.append((label, QuantRule(patterns=patterns, quantizer=quantizer, axes=axes, **large)))
    return [*rules, ("passthrough", QuantRule(quantizer=Keep(), may_be_idle=True))]


def mixed_state_dict(case: Case, state: dict[str, Tensor]) -> None:
    rules = mixed_rules(case)
    plan = QuantizePlan(rules=tuple(rule for _, rule in rules))
    weights = {name: tensor.float() for name, tensor in state.items()}
    chosen = {name: rules[rule][0] for name, rule in plan.assign(weights).items()}
    meta = {name: {"type": c} if c.startswith("int") else c for name, c in chosen.items()}
    assert meta == case.expected["meta"]
    packed, _ = quantize_weights(plan, weights)
    for name, tensor in packed.items():
        deq = case.tensors[f"out.deq.{name}"]
        restored = tensor.dequantize().to(deq.dtype)
        if isinstance(tensor, KeptTensor):
            assert torch.equal(tensor.values, case.tensors[f"out.w.{name}"]) and torch.equal(restored, deq)
        else:
            names = {"codes": f"out.w.{name}.q", "scales": f"out.w.{name}.scale"}
            wanted = {**{key: case.tensors[value] for key, value in names.items()}, "restored": deq}
            check_codes(tensor.codes, tensor.scales, restored, wanted)


def gptq(case: Case) -> None:
    """Error feedback on the case's own moments; the earlier form tries five percentiles."""
    settings = case.arguments.get("kwargs", {})
    largest, block = settings.get("clip_range", 31), settings.get("block_size", 128)
    if "clip_sigmas" in settings:
        quantizer = Gptq(scales=(SdClip(grid=grid_to(largest), sigmas=settings["clip_sigmas"]),), block=block)
    else:
        grid = grid_to(largest, scale_floor=1 / largest)
        tried = tuple(Percentile(grid=grid, percentile=share) for share in PUBLIC_PERCENTILES)
        quantizer = Gptq(scales=tried, block=block, measure="weights")
    weight, inputs = case.tensors["W"], case.tensors["H"]
    packed = quantizer.quantize(weight, Curvature(inputs, None, 1))
    assert isinstance(packed, QuantTensor)
    scales, expected = packed.scales.float(), case.tensors["out.scale"].float()
    torch.testing.assert_close(scales, expected, rtol=1e-3, atol=0)
    used = expected > 0  # with a step of zero the code says nothing
    off = (packed.codes.int() - case.tensors["out.q"].int()).abs()[used]
    assert off.numel() == 0 or int(off.max()) <= 1
    assert int((off > 0).sum()) <= 0.02 * off.numel()
    found, wanted = squared_error(weight, packed, inputs), case.expected["hessian_error_trace_EHEt"]
    assert math.isclose(found, wanted, rel_tol=0.02, abs_tol=1e-9)
    nearest = dataclasses.replace(packed, codes=packed.grid.quantize_codes(weight, scales))
    wanted = case.expected["hessian_error_round_to_nearest_same_scales"]
    assert math.isclose(squared_error(weight, nearest, inputs), wanted, rel_tol=0.02, abs_tol=1e-9)
    assert found <= squared_error(weight, nearest, inputs) * (1 + 1e-9)


def grouped(case: Case) -> None:
    """Ternary groups along the rows: codes, steps, and weights after the step was divided at export."""
    size = case.arguments["group_size"]
    quantizer = Ternary(grid=Grid(bits=2, granularity=ColumnGroups(columns=size)))
    for name in case.expected["entries"]:
        weight = case.tensors[f"sd.{name}"]
        restored = case.tensors[f"out.deq.{name}"]
        if name not in case.arguments["ternary_names"]:
            if case.expected["entries"][name]["type"] != "fp16":
                raise NotCoveredError(f"tensors kept as {case.expected['entries'][name]['type']}")
            torch.testing.assert_close(Keep().quantize(weight).dequantize().to(restored.dtype), restored)
            continue
        tensor = quantizer.quantize(weight.float())
        stored = quantizer.but(rescaled=False).quantize(weight.float()).scales
        codes = filled(tensor.codes, size, 1)
        wanted = {"codes": case.tensors[f"out.q.{name}"], "scales": case.tensors[f"out.scale.{name}"]}
        check_codes(codes, stored, tensor.dequantize(), {**wanted, "restored": restored.float()})
        entry = case.expected["entries"][name]
        assert entry["n_trits"] == codes.numel() and entry["padded_cols"] == codes.shape[1]
        if entry["type"] == "ternary" and torch.equal(codes.flatten(), wanted["codes"].flatten()):
            assert torch.equal(five_trits(codes), case.tensors[f"out.packed.{name}"])


def five_trits(codes: Tensor) -> Tensor:
    """Codes -1, 0 and 1 as digits 0 to 2, five to a byte, the first the least; filled up with digit 0."""
    digits = codes.flatten().long() + 1
    digits = torch.nn.functional.pad(digits, (0, -len(digits) % 5)).reshape(-1, 5)
    return (digits * 3 ** torch.arange(5)).sum(1).to(torch.uint8)


def hessian(case: Case) -> None:
    """Second moments of inputs, summed over tokens and divided by the number of batches.

    Earlier records add 1% of the mean diagonal at once; theirs are compared with that.
    """
    found, batches = sums_of_inputs(case)
    outputs = {name.split(".", 1)[1]: tensor for name, tensor in case.tensors.items() if name[:4] == "out."}
    compared = 0
    for name, moments in found.items():
        key = next((key for key in outputs if key == name or key.endswith(f".{name}")), None)
        if key is None:
            continue
        expected = outputs[key].float()
        for batch in batches:
            mean = moments / batch
            damped = mean + 0.01 * mean.diagonal().mean().clamp_min(1e-6) * torch.eye(len(mean))
            close = [
                torch.allclose(each, expected, rtol=1e-3, atol=1e-4 * float(mean.abs().max()))
                for each in (mean, damped)
            ]
            if any(close):
                break
        else:
            raise AssertionError(f"{name}: moments of its inputs differ")
        compared += 1
    assert compared, f"no moments found in {sorted(outputs)}"


def sums_of_inputs(case: Case) -> tuple[dict[str, Tensor], list[int]]:
    """Sums of x x^T by name, and by what they may have been divided."""
    arguments = case.arguments
    counts = [value for key, value in arguments.items() if "batch" in key or "divisor" in key]
    counts = [value for value in counts if isinstance(value, int) and value > 0]
    if not case.weights():
        rows = {key: t.float().flatten(0, -2) for key, t in case.tensors.items() if key.lower()[:1] == "x"}
        found = {"H": sum(x.T @ x for x in rows.values())}
        return found, [*counts, len(rows), 1]
    names = ("input_ids", "tokens", "token_seqs", "val_tokens")
    ids = next(case.tensors[name] for name in names if name in case.tensors).long()
    text = ids.reshape(-1, ids.shape[-1])
    model = public_model(case).eval()
    wanted = [name for name, tensor in model.named_parameters() if tensor.ndim == 2 and is_product(name)]
    curvatures = gather_curvatures(model, text, wanted, False, torch.Generator())
    return {name: each.inputs * each.tokens for name, each in curvatures.items()}, [*counts, len(ids), 1]


def is_product(name: str) -> bool:
    """Whether a matrix of the blocks, or the head, is multiplied with hidden states."""
    return name.startswith("blocks.") and name.endswith(".weight") or name in ("tok_emb.weight",)


def fake_quantizer(function: str) -> Quantizer:
    """What a public function or layer makes of its weights while training."""
    if "ernary" in function:
        grid = Grid(bits=2, granularity=ColumnGroups(columns=64), scale_dtype="float32")
        return Ternary(grid=grid, rescaled=False)
    if "int8" in function:
        return AbsMax(grid=Grid(bits=8, scale_dtype="float32", scale_floor=1 / 127))
    if function == "CastedLinear_late_qat":
        return AbsMax(grid=Grid(bits=6, symmetric=False, scale_dtype="float32", scale_floor=1 / 31))
    if "int6" in function:
        return AbsMax(grid=Grid(bits=6, symmetric=False, scale_dtype="float32"))
    raise NotCoveredError(f"fake quantization of {function}")


def fake_quant(case: Case) -> None:
    quantizer = fake_quantizer(case.arguments["function"])
    if isinstance(quantizer, Ternary) and "group_size" in case.arguments:
        quantizer = quantizer.but({"grid.granularity.columns": case.arguments["group_size"]})
    weight = case.tensors["W"].clone().requires_grad_()
    used = quantizer.fake_quantize(weight)
    (used * case.tensors["G"]).sum().backward()
    narrow = isinstance(quantizer, Ternary)  # a layer that works in bfloat16
    close = (
        {"rtol": 0.01, "atol": 0.01 * float(weight.detach().abs().max())}
        if narrow
        else {"rtol": 1e-5, "atol": 1e-5}
    )
    torch.testing.assert_close(used.detach(), case.tensors["out.w_used"].float(), **close)
    torch.testing.assert_close(weight.grad, case.tensors["out.grad"].float(), **close)


HANDLERS = {
    "quant_tensor": quant_tensor,
    "quant_state_dict": quant_state_dict,
    "fake_quant": fake_quant,
    "quant_gptq": gptq,
    "hessian": hessian,
    "quant_grouped": grouped,
}
