"""A whole state dict by the rules of a script."""

from torch import Tensor

from bitgolf.public.tables import int8_state, public_int6_table, public_int8_table
from bitgolf.squeeze.quantize import (
    PUBLIC_CONTROLS,
    PUBLIC_SMALL_ELEMENTS,
    Keep,
    QuantizePlan,
    QuantRule,
    quantize_weights,
)
from tests.golden_cases.case import Case, NotCoveredError
from tests.golden_cases.compare import limits, same_codes, same_scales, same_weights
from tests.golden_cases.quantizers import PLAIN, narrow, of_state_dict, percentile

AS_SMALL = ("FP16Embed_WD3600", "Seq2048_FP16Emb")  # keep the embedding as they keep small tensors
LATER_CONTROLS = (
    "*skip_gate*",
    "*ve_layer_scales*",
    "*ve_shared.scale*",
    "*attn_gate*",
    "*smear*",
    "*vr_lambda*",
)


def check(case: Case) -> None:
    state = {name: case.tensors[f"sd.{name}"] for name, *_ in case.arguments["tensors"]}
    for name, shape, dtype in case.arguments["tensors"]:
        assert list(state[name].shape) == shape and str(state[name].dtype) == f"torch.{dtype}"
    assert limits(case, "scales")["rel"] <= 1e-3  # one unit of float16
    form = case.arguments["format"]
    if form not in ("int8_clean", "mixed"):
        raise NotCoveredError(f"a state dict as {form}")
    (int8_clean if form == "int8_clean" else mixed)(case, state)


def int8_clean(case: Case, state: dict[str, Tensor]) -> None:
    table = public_int8_table(state)
    of_record(case, state, table)
    for key in ("dtypes", "qmeta", "passthrough_orig_dtypes"):
        assert table.get(key, {}) == case.expected.get(key, {})
    assert table["__quant_format__"] == case.expected["quant_format"]
    restored = int8_state(table)
    assert restored.keys() == state.keys()
    for name, tensor in restored.items():
        assert tensor.dtype == state[name].dtype
        if name in table["quantized"]:
            same_scales(case, table["scales"][name], f"out.scales.{name}")
            expected = case.tensors[f"out.deq.{name}"]
            if same_codes(table["quantized"][name], case.tensors[f"out.quantized.{name}"]):
                same_weights(tensor, expected)
        else:
            same_kept(case, f"out.passthrough.{name}", table["passthrough"][name])
            same_kept(case, f"out.deq.{name}", tensor)
    check_stats(case, state, table)


def of_record(case: Case, state: dict[str, Tensor], table: dict[str, dict[str, Tensor | str]]) -> None:
    """Change in the baseline's table what the record of the case has otherwise."""
    layers = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("blocks.")), default=0)
    for name, tensor in state.items():
        quantizer = of_state_dict(case, name, tensor, layers) if tensor.is_floating_point() else None
        if quantizer is None:
            continue
        packed, dtype = quantizer.quantize(tensor.float()), str(tensor.dtype).removeprefix("torch.")
        if not packed.is_float:
            scales = packed.pieces["scales"]
            table["quantized"][name] = packed.pieces["codes"].reshape(tensor.shape)
            table["scales"][name] = scales if tensor.ndim == 2 else scales[0]
            continue
        for key in ("quantized", "scales", "dtypes", "qmeta"):
            table.get(key, {}).pop(name, None)
        table["passthrough"][name] = packed.pieces["values"]
        if dtype != "float16" or not any(record in case.record for record in AS_SMALL):
            table.setdefault("passthrough_orig_dtypes", {})[name] = dtype


def same_kept(case: Case, name: str, found: Tensor) -> None:
    expected = case.tensors[name]
    assert found.dtype == expected.dtype and bool((found == expected).all()), name


def check_stats(case: Case, state: dict[str, Tensor], table: dict[str, dict[str, Tensor]]) -> None:
    """The script counts as floats only those tensors that it quantizes; one, those that it might have."""
    large = [n for n, t in state.items() if t.is_floating_point() and t.numel() > PUBLIC_SMALL_ELEMENTS]
    parts = [t for key in ("quantized", "scales", "passthrough") for t in table[key].values()]
    stats = {
        "param_count": sum(t.numel() for t in state.values()),
        "num_tensors": len(state),
        "num_float_tensors": len(large if "smeargate" in case.record else table["quantized"]),
        "num_nonfloat_tensors": sum(not t.is_floating_point() for t in state.values()),
        "baseline_tensor_bytes": sum(t.numel() * t.element_size() for t in state.values()),
        "int8_payload_bytes": sum(t.numel() * t.element_size() for t in parts),
    }
    assert stats == case.expected["stats"]


def mixed_rules(case: Case) -> list[tuple[str, QuantRule]]:
    """The public mixed table, line by line, with what its metadata calls each."""
    record, plain = case.record, any(name in case.record for name in PLAIN)
    small = 8192 if "Int5MLP" in record else PUBLIC_SMALL_ELEMENTS
    large = {"more_than": small, "may_be_idle": True}
    narrow_parts = set(case.arguments["int6_cats"])
    parts = {
        "embed": ("*tok_emb*", "*lm_head*"),
        "mlp": ("*.mlp.*",),
        "bigram": ("*bigram*",) if "Int5MLP" in record else (),
        "attn": ("*.attn.*", "*.proj.*"),
    }
    controls = PUBLIC_CONTROLS + (LATER_CONTROLS if record[:10] >= "2026-03-22" else ())
    rules = [("passthrough_ctrl", QuantRule(patterns=controls, quantizer=Keep(dtype="float32"), **large))]
    if plain:
        kept = ("*tok_emb*", "*blocks.8.attn.c_k*")
        rules.append(("passthrough_fp16", QuantRule(patterns=kept, quantizer=Keep(), **large)))
    largest = (case.arguments.get("kwargs") or {}).get("clip_range", 31)
    for category, patterns in [*parts.items(), ("other", ("*",))]:
        top = 15 if category == "mlp" and "Int5MLP" in record else largest
        for axes in (2, 0):
            chosen = category in narrow_parts
            quantizer = narrow(case, axes, top) if chosen else percentile(axes)
            label = ("int5" if top == 15 and "Int5MLP" in record else "int6") if chosen else "int8"
            if patterns:
                rules.append((label, QuantRule(patterns=patterns, quantizer=quantizer, axes=axes, **large)))
    return [*rules, ("passthrough", QuantRule(quantizer=Keep(), may_be_idle=True))]


def mixed(case: Case, state: dict[str, Tensor]) -> None:
    rules = mixed_rules(case)
    plan = QuantizePlan(rules=tuple(rule for _, rule in rules))
    weights = {name: tensor.float() for name, tensor in state.items() if tensor.is_floating_point()}
    chosen = {name: rules[rule][0] for name, rule in plan.assign(weights).items()}
    meta = {name: {"type": c} if c.startswith("int") else c for name, c in chosen.items()}
    assert meta == case.expected["meta"]
    packed, _ = quantize_weights(plan, weights)
    for name, tensor in packed.items():
        expected = case.tensors[f"out.deq.{name}"]
        restored = tensor.dequantize().to(expected.dtype)
        if tensor.is_float:
            same_kept(case, f"out.w.{name}", tensor.pieces["values"])
            same_kept(case, f"out.deq.{name}", restored)
            continue
        same_scales(case, tensor.pieces["scales"], f"out.w.{name}.scale")
        if same_codes(tensor.pieces["codes"], case.tensors[f"out.w.{name}.q"]):
            same_weights(restored, expected)
    if case.record.startswith("2026-03-22") and {*case.arguments["int6_cats"]} == {"mlp", "attn"}:
        written(case, public_int6_table(state), {*packed})


def written(case: Case, table: dict[str, dict[str, Tensor]], floats: set[str]) -> None:
    """What our own writer of the mixed form makes of the same state dict."""
    assert table["m"] == case.expected["meta"]
    for name, tensor in table["w"].items():
        if name.endswith(".q"):
            same_codes(tensor, case.tensors[f"out.w.{name}"])
        elif name in floats:
            same_kept(case, f"out.w.{name}", tensor)
        else:
            same_scales(case, tensor, f"out.w.{name}")
