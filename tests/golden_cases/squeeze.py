"""Quantizers, fake quantization and packed files against the public scripts."""

import hashlib
import math
import zlib

import torch
from torch import Tensor

from bitgolf.core.grid import Grid, PerTensor
from bitgolf.core.model import build_model
from bitgolf.core.position import Rope
from bitgolf.core.quantize import (
    PUBLIC_CONTROLS,
    PUBLIC_SMALL_ELEMENTS,
    AbsMax,
    Keep,
    KeptTensor,
    QuantizePlan,
    Quantizer,
    QuantRule,
    QuantTensor,
    public_int8,
    quantize_weights,
)
from bitgolf.lab.public import (
    as_weights,
    infer_model_plan,
    pack_public_int8,
    public_int8_table,
    read_public,
    unpack_public_int8,
)
from tests.golden_cases.case import Case, NotCoveredError

CLIP_SEARCH_RECORDS = ("2026-03-22", "2026-03-23", "2026-03-29")
HALF_TINY = 2.0**-14  # the smallest normal float16, the floor of the 03-20 records


def plain_rows(bits: int, axes: int) -> Quantizer:
    """int6 and int5 of the 2026-03-20 records: one more code below zero, float16 scale first."""
    grid = Grid(bits=bits, symmetric=False, scale_floor=HALF_TINY)
    return AbsMax(grid=grid if axes == 2 else grid.but(granularity=PerTensor()))


def quantizer_of(case: Case, axes: int) -> Quantizer:
    function, record = case.arguments["function"], case.facts["source"]["record"]
    if function == "quantize_float_tensor":
        return public_int8().rules[0 if axes == 2 else 1].quantizer
    if (
        function in ("quantize_int6_per_row", "quantize_intN_per_row")
        and record[:10] not in CLIP_SEARCH_RECORDS
    ):
        clip_range = case.arguments.get("kwargs", {}).get("clip_range", 31)
        return plain_rows(1 + int(math.log2(clip_range + 1)), axes)
    raise NotCoveredError("int6 clip search")


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


def mixed_state_dict(case: Case, state: dict[str, Tensor]) -> None:
    large = {"more_than": PUBLIC_SMALL_ELEMENTS, "may_be_idle": True}
    record, cats = case.facts["source"]["record"], case.arguments["int6_cats"]
    searched = record[:10] in CLIP_SEARCH_RECORDS
    fp16_names = ("*tok_emb*", "*blocks.8.attn.c_k*") if not searched else ()
    keep = Keep(dtype="float16")
    rules = [QuantRule(patterns=fp16_names, quantizer=keep, **large)] if fp16_names else []
    rules += [
        QuantRule(patterns=PUBLIC_CONTROLS, quantizer=Keep(dtype="float32"), **large),
        QuantRule(patterns=tuple(f"*.{c}.*" for c in cats), quantizer=plain_rows(6, 2), axes=2, **large),
        QuantRule(quantizer=public_int8().rules[0].quantizer, axes=2, **large),
        QuantRule(quantizer=keep, may_be_idle=True),
    ]
    labels = ["passthrough_fp16"] * bool(fp16_names) + ["passthrough_ctrl", "int6", "int8", "passthrough"]
    plan = QuantizePlan(rules=tuple(rules))
    weights = {name: tensor.float() for name, tensor in state.items()}
    chosen = {name: labels[rule] for name, rule in plan.assign(weights).items()}
    meta = {name: {"type": c} if c.startswith("int") else c for name, c in chosen.items()}
    assert meta == case.expected["meta"]
    packed, _ = quantize_weights(plan, weights)
    unsearched = {name: tensor for name, tensor in packed.items() if chosen[name] != "int6" or not searched}
    for name, tensor in unsearched.items():
        deq = case.tensors[f"out.deq.{name}"]
        restored = tensor.dequantize().to(deq.dtype)
        if isinstance(tensor, KeptTensor):
            assert torch.equal(tensor.values, case.tensors[f"out.w.{name}"]) and torch.equal(restored, deq)
        else:
            names = {"codes": f"out.w.{name}.q", "scales": f"out.w.{name}.scale"}
            wanted = {**{key: case.tensors[value] for key, value in names.items()}, "restored": deq}
            check_codes(tensor.codes, tensor.scales, restored, wanted)
    if len(unsearched) < len(packed):
        raise NotCoveredError("int6 clip search (the other tensors of the case agree)")


def fake_quant(case: Case) -> None:
    quantizers = {
        "fake_quantize_int8_per_row": AbsMax(grid=Grid(bits=8, scale_dtype="float32", scale_floor=1 / 127)),
        "CastedLinear_late_qat": AbsMax(
            grid=Grid(bits=6, symmetric=False, scale_dtype="float32", scale_floor=1 / 31)
        ),
    }
    if case.arguments["function"] not in quantizers:
        raise NotCoveredError(f"fake quantization of {case.arguments['function']}")
    weight = case.tensors["W"].clone().requires_grad_()
    used = quantizers[case.arguments["function"]].fake_quantize(weight)
    (used * case.tensors["G"]).sum().backward()
    torch.testing.assert_close(used.detach(), case.tensors["out.w_used"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight.grad, case.tensors["out.grad"], rtol=1e-5, atol=1e-5)


def artifact(case: Case) -> None:
    if case.arguments["format"] != "int8_zlib":
        raise NotCoveredError("mixed int6 artifact with zstd")
    path = case.file("packed_file")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == case.expected["sha256"]
    state = read_public(path)
    expected = {
        k.removeprefix("out.state."): v for k, v in case.tensors.items() if k.startswith("out.state.")
    }
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name
    packed = pack_public_int8(state)
    again = unpack_public_int8(packed)
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert len(zlib.decompress(packed)) == case.expected["raw_torch_bytes"]
    settings = case.settings
    assert infer_model_plan(state).position == Rope(frequencies="bfloat16")
    position = Rope(base=settings["rope_base"], frequencies="bfloat16")
    plan = infer_model_plan(state, logit_softcap=settings["logit_softcap"], position=position)
    model = build_model(plan)
    model.load_state_dict(as_weights(state))
    with torch.no_grad():
        loss = model.loss(case.tensors["out.input_ids"].long(), case.tensors["out.target_ids"].long())
    wanted = case.expected["fp32_loss_of_loaded_model"]
    assert abs(float(loss) - wanted) <= case.tolerance["fp32_loss_of_loaded_model"]["abs"]


def later(technique: str):
    def handler(case: Case) -> None:
        raise NotCoveredError(technique)

    return handler


HANDLERS = {
    "quant_tensor": quant_tensor,
    "quant_state_dict": quant_state_dict,
    "fake_quant": fake_quant,
    "artifact": artifact,
    "quant_gptq": later("GPTQ"),
    "hessian": later("Hessian statistics"),
    "quant_grouped": later("group-wise ternary"),
    "byte_shuffle": later("byte shuffle (BSHF)"),
}
