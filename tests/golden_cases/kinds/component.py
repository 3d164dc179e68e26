"""One module of the network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bitgolf.net.embed import BigramHash, SmearVector, bigram_buckets
from bitgolf.net.heads import (
    AttentionOutputGate,
    BiasedGate,
    GatedAttention,
    HeadsPart,
    SparseGate,
    Xsa,
    without_own_value,
)
from bitgolf.net.kernels import AttentionMask, PlainKernels, math_attend, rotate
from bitgolf.net.layers import (
    Attention,
    Block,
    DtgGate,
    LnScale,
    ParallelResidual,
    Residual,
    Serial,
    Unscaled,
)
from bitgolf.net.mlp import GatedMlp, Mlp
from bitgolf.net.parts import Context, Dimensions, Module
from bitgolf.net.position import Rope
from bitgolf.net.values import ValueEmbedding, ValuePart
from tests.golden_cases import records
from tests.golden_cases.case import Case, Fields, NotCoveredError
from tests.golden_cases.compare import close
from tests.golden_cases.documents import given_documents

CPU = torch.device("cpu")
BANKED = {"q_w": "c_q", "k_w": "c_k", "v_w": "c_v", "out_w": "proj", "up_w": "fc", "down_w": "proj"}


def check(case: Case) -> None:
    name = case.arguments["component"].removesuffix("_banked")
    if name not in COMPONENTS:
        raise NotCoveredError(f"the component {name}")
    for given in ("x", "y", "input_ids"):
        if given in case.tensors:
            shape = case.tensors[given].shape
            assert tuple(shape[:2]) == (case.arguments["batch"], case.arguments["seq"])
    COMPONENTS[name](case)


def extra(case: Case) -> Fields:
    """Further arguments of the public class."""
    return case.arguments.get("extra") or Fields("extra", {})


def dimensions(case: Case) -> Dimensions:
    width, heads, kv_heads = (case.arguments[name] for name in ("model_dim", "num_heads", "num_kv_heads"))
    return Dimensions(100, 1, width, width, heads, kv_heads, records.BOS)


def rope(case: Case, alone: bool = False) -> Rope:
    """Positions; the class by itself takes its reference length from the case, attention once fixed it."""
    arguments = case.arguments
    length, yarn = arguments.get("train_seq_len", 1024), extra(case).get("yarn", arguments.get("yarn", True))
    reference = records.reference_length(case, length, yarn)
    reference = length if reference and alone else reference
    return Rope(dims=arguments.get("rope_dims", 0), base=arguments["rope_base"], reference_length=reference)


def context(case: Case, x: Tensor, start: Tensor) -> Context:
    """What a layer may look at, with x (batch, time, width)."""
    head_width = case.arguments["model_dim"] // case.arguments["num_heads"]
    ids, mask = torch.zeros(x.shape[:2], dtype=torch.long), AttentionMask()
    for documents in given_documents(case, x.shape[1]):
        mask = documents.limit(mask, ids, records.BOS, False)
    tables = rope(case).tables(x.shape[1], 0, head_width, CPU)
    return Context(ids, start, *tables, PlainKernels(), math_attend, mask, None, {})


class GivenValues(ValuePart):
    """What a layer is given to add to its values."""

    def values(self, v: Tensor, layer: int, attention: Any, context: Context) -> Tensor:
        return v + context.memory["given values"].view_as(v)


def heads_out(case: Case) -> tuple[HeadsPart, ...]:
    """XSA and the gates, in the order of the scripts."""
    further, parts = extra(case), list[HeadsPart]()
    channels = further.get("gate_width", further.get("gate_window", 12))
    source = further.get("gate_attn_src", further.get("attn_out_gate_src", "proj"))
    scale = further.get("sparse_attn_gate_scale", 1.0)
    for start in ("gated_attn_init_std", "sparse_attn_gate_init_std"):
        further.get(start)  # the weights are given
    if case.arguments.get("use_xsa"):
        parts.append(Xsa(last=1))
    if further.get("gate_attn_out") or further.get("attn_out_gate"):
        parts.append(AttentionOutputGate(channels=channels, source="queries" if source == "q" else "input"))
    if further.get("gated_attn"):
        parts.append(GatedAttention())
    if further.get("gated_attention"):
        parts.append(BiasedGate())
    if further.get("sparse_attn_gate"):
        parts.append(SparseGate(channels=channels, scale=scale))
    return tuple(parts)


def weights(case: Case, banked: tuple[str, ...] = (), inside: str = "") -> dict[str, Tensor]:
    """The weights of a case, with those matrices that came out of a bank."""
    given = case.tensors.starting("weights.")
    return given | {f"{inside}{BANKED[k]}.weight": case.tensors[k] for k in banked if k in case.tensors}


def attention_part(case: Case, layer: int) -> Attention:
    values = (GivenValues(),) if "v_embed" in case.tensors else ()
    return Attention(dimensions(case), layer, case.arguments["qk_gain_init"], values, heads_out(case))


def given_values(case: Case, seen: Context) -> Context:
    if "v_embed" in case.tensors:
        seen.memory["given values"] = case.tensors["v_embed"]
    return seen


def attention(case: Case) -> None:
    x, module = case.tensors["x"], attention_part(case, 0)
    module.load_state_dict(weights(case, ("q_w", "k_w", "v_w", "out_w")))
    close(case, "out.y", module(x, given_values(case, context(case, x, x))))


def block(case: Case) -> None:
    arguments, x, layer = case.arguments, case.tensors["x"], case.arguments["layer_idx"]
    scale = (LnScale() if arguments.get("ln_scale") else Unscaled()).factor(layer)
    parallel = arguments.get("parallel", False) or extra(case).get("parallel", False)
    residual: Residual = ParallelResidual(first=0) if parallel else Serial()
    if arguments.get("dtg", False) or extra(case).get("dtg", False):
        residual = DtgGate()
    further = residual.layer_tensors(dimensions(case), layer)
    module = Block(attention_part(case, layer), mlp_part(case), residual, scale, further)
    given = weights(case, ("q_w", "k_w", "v_w", "out_w"), "attn.")
    module.load_state_dict(given | weights(case, ("up_w", "down_w"), "mlp."))
    close(case, "out.y", module(x, given_values(case, context(case, x, case.tensors["x0"]))))
    assert abs(case.expected.get("ln_scale_factor", scale) - scale) < 1e-12


def mlp_part(case: Case) -> Mlp:
    width, further = case.arguments["model_dim"], extra(case)
    slope = case.arguments.get("neg_slope", further.get("neg_slope", 0.5))
    activation = records.activation(case, slope)
    given = {name: case.arguments.get(name, further.get(name)) for name in ("gate_mlp_out", "gate_width")}
    if given["gate_mlp_out"]:
        activation = GatedMlp(inner=activation, channels=given["gate_width"] or 12)
    return Mlp(width, int(case.arguments["mlp_mult"] * width), activation)


def mlp(case: Case) -> None:
    module = mlp_part(case)
    module.load_state_dict(weights(case, ("up_w", "down_w")))
    x = case.tensors["x"]
    ids = torch.zeros(x.shape[:2], dtype=torch.long)
    seen = Context(ids, x, x, x, PlainKernels(), math_attend, AttentionMask(), None, {})
    close(case, "out.y", module(x, seen))


def rotary(case: Case) -> None:
    arguments, x = case.arguments, case.tensors["x"]
    assert tuple(x.shape[2:]) == (arguments["num_heads"], arguments["head_dim"])
    tables = rope(case, alone=True).tables(arguments["seq"], 0, arguments["head_dim"], CPU)
    close(case, "out.cos", tables[0])
    close(case, "out.sin", tables[1])
    close(case, "out.y", rotate(x.transpose(1, 2), *tables).transpose(1, 2))


def holder(case: Case, place: str) -> Module:
    """A module that has the weights of a case at `place`, as a model would."""
    root = Module()
    for name, tensor in case.tensors.starting("weights.").items():
        module: Any = root
        *path, local = f"{place}.{name}".split(".")
        for step in path:
            if step not in module._modules:
                module.add_module(step, Module())
            module = getattr(module, step)
        module.register_parameter(local, torch.nn.Parameter(tensor))
    return root


def bigram_hash(case: Case) -> None:
    arguments, ids = case.arguments, case.tensors["input_ids"].long()
    assert int(ids.max()) < arguments["vocab_size"]
    part = BigramHash(buckets=arguments["bigram_vocab_size"], dimension=arguments["bigram_dim"])
    assert torch.equal(bigram_buckets(ids, part.buckets), case.tensors["out.indices"].long())
    nothing = torch.zeros(*ids.shape, arguments["model_dim"])
    close(case, "out.embedding", part.embed(nothing, ids, holder(case, "bigram"), records.BOS))


def smear_gate(case: Case) -> None:
    x = case.tensors["x"]
    assert x.shape[2] == case.arguments["model_dim"]
    ids = torch.zeros(x.shape[:2], dtype=torch.long)
    close(case, "out.y", SmearVector().embed(x, ids, holder(case, "smear"), records.BOS))


def value_embedding(case: Case) -> None:
    arguments, ids = case.arguments, case.tensors["input_ids"].long()
    root = holder(case, "ve_shared")
    root.add_module("ve_layer_scales", Module())
    root.ve_layer_scales.register_parameter("0", torch.nn.Parameter(torch.ones(1)))
    part = ValueEmbedding(dimension=arguments["ve_dim"], layers=(0,))
    assert len(root.ve_shared.embed.weight) == arguments["vocab_size"]
    nothing = torch.zeros(*ids.shape, 1, arguments["kv_dim"])
    seen = Context(ids, nothing, nothing, nothing, PlainKernels(), math_attend, AttentionMask(), root, {})
    close(case, "out.embedding", part.values(nothing, 0, None, seen)[:, :, 0])


def xsa(case: Case) -> None:
    y, v = case.tensors["y"], case.tensors["v"]
    heads, kv_heads, width = (case.arguments[name] for name in ("num_heads", "num_kv_heads", "head_dim"))
    assert (*y.shape[2:], *v.shape[2:]) == (heads, width, kv_heads, width)
    close(case, "out.y", without_own_value(y, v))


COMPONENTS: dict[str, Callable[[Case], None]] = {
    part.__name__: part
    for part in (attention, bigram_hash, block, mlp, rotary, smear_gate, value_embedding, xsa)
}
