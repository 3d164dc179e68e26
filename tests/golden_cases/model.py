"""Parity of the forward pass and its parts with the public scripts."""

import fnmatch
from collections.abc import Callable
from typing import Any

import torch
from torch.func import functional_call

from bitgolf.core.backend import Backend
from bitgolf.core.embed import BigramHash, SmearGate, SmearVector, bigram_buckets
from bitgolf.core.grid import Grid
from bitgolf.core.heads import AttentionOutputGate, GatedAttention, SparseGate, Xsa, without_own_value
from bitgolf.core.kernels import PlainKernels, Sight, rotate
from bitgolf.core.layers import (
    Activation,
    Attention,
    Block,
    LeakyReluSquared,
    LnScale,
    Mlp,
    ParallelResidual,
    ReluSquared,
    Serial,
    TwoLanes,
    Unscaled,
)
from bitgolf.core.model import Model, ModelPlan, build_model
from bitgolf.core.noise import FakeQuantize
from bitgolf.core.objective import MultiToken
from bitgolf.core.parts import Context, Dimensions, Module
from bitgolf.core.position import AttentionWindow, DocumentAttention, NoPosition, Rope
from bitgolf.core.quantize import AbsMax, QuantizePlan, QuantRule
from bitgolf.core.route import Looped
from bitgolf.core.schedule import Progress
from bitgolf.core.values import ValueEmbedding
from bitgolf.lab.public import as_weights, infer_model_plan, unbanked
from tests.golden_cases.case import Case, NotCoveredError

CPU = torch.device("cpu")
GATE_ARGUMENTS = {"gate_attn_out", "gate_attn_src", "gate_width", "attn_out_gate", "attn_out_gate_src"}
GATE_ARGUMENTS |= {"gate_window", "gated_attn", "gated_attn_init_std", "sparse_attn_gate", "yarn"}
GATE_ARGUMENTS |= {"sparse_attn_gate_init_std", "sparse_attn_gate_scale"}
BOS = 1  # of the public tokenizers, and written into the later scripts
BOUNDARY_FROM = "2026-04-27"  # records whose gated smear keeps documents apart
FAKE_INT8 = AbsMax(grid=Grid(bits=8, scale_dtype="float32", scale_floor=1 / 127))
FAKE_INT6 = AbsMax(grid=Grid(bits=6, symmetric=False, scale_dtype="float32", scale_floor=1 / 31))


def public_activation(record: str) -> Activation:
    """What the scripts of a date have between the matrices of the MLP: leaky from 2026-03-23 on."""
    leaky = record[:10] >= "2026-03-23" and "Ternary" not in record and record[:2] == "20"
    return LeakyReluSquared() if leaky else ReluSquared()


def public_plan(case: Case) -> ModelPlan:
    """The model of a case: what the tensors show, and what its hyperparameters say besides."""
    settings, record = case.settings, case.facts["source"]["record"]
    weights = public_weights(case)
    layers = settings["num_layers"]
    unknown = [
        name for name in ("dtg_enabled", "gated_attention", "asym_logit_enabled") if settings.get(name)
    ]
    if unknown:
        raise NotCoveredError(", ".join(unknown))
    changes: dict[str, Any] = {
        "logit_softcap": settings["logit_softcap"],
        "qk_gain": settings["qk_gain_init"],
        "activation": public_activation(record),
        "input_scale": LnScale() if settings.get("ln_scale") else Unscaled(),
        "position": public_position(case),
    }
    if settings.get("num_loops") and "loop_start" in settings:  # an early record counts the one pass
        first, last, loops = (settings[name] for name in ("loop_start", "loop_end", "num_loops"))
        active = case.arguments.get("looping_active", True)
        changes["recurrence"] = Looped(first=first, last=last, loops=loops, enable_at=0.0 if active else 1.0)
    if settings.get("parallel_residual_start", -1) >= 0:
        changes["residual"] = ParallelResidual(first=settings["parallel_residual_start"])
    if (window := settings.get("swa_window_size", 0)) > 0:
        changes["scope"] = (AttentionWindow(tokens=window),)
    if settings.get("parallel_start_layer") and "parallel_resid_lambdas" in weights:
        leaves = settings.get("parallel_final_lane", "mean")
        changes["residual"] = TwoLanes(first=settings["parallel_start_layer"], leaves=leaves)
    plan = infer_model_plan(weights, **changes)
    for path, part in enumerate(plan.values):
        if isinstance(part, ValueEmbedding):
            used = tuple(int(layer) for layer in settings["ve_layers"].split(",") if layer)
            plan = plan.but({f"values.{path}": part.but(layers=used)})
    for path, part in enumerate(plan.embed):
        if isinstance(part, SmearGate):
            plan = plan.but({f"embed.{path}": part.but(boundary=record[:10] >= BOUNDARY_FROM)})
    for path, part in enumerate(plan.heads_out):
        source = settings.get("gate_attn_src", settings.get("attn_out_gate_src"))
        if isinstance(part, AttentionOutputGate) and source == "q":
            plan = plan.but({f"heads_out.{path}": part.but(source="queries")})
        if isinstance(part, SparseGate):
            plan = plan.but({f"heads_out.{path}.scale": settings.get("sparse_attn_gate_scale", 1.0)})
    if last := settings.get("xsa_last_n", 0):
        plan = plan.but(heads_out=(Xsa(last=min(last, layers)), *plan.heads_out))
    if isinstance(plan.objective, MultiToken):
        plan = plan.but({"objective.weight": settings["mtp_loss_weight"]})
    return plan


def public_position(case: Case) -> Rope | NoPosition:
    settings, record = case.settings, case.facts["source"]["record"][:10]
    if settings.get("nope"):
        return NoPosition()
    reference = 1024 if "2026-03-20" <= record <= "2026-03-29" else 0
    if settings.get("rope_yarn"):
        reference = settings.get("rope_train_seq_len", 0)
    return Rope(dims=settings.get("rope_dims", 0), base=settings["rope_base"], reference_length=reference)


def public_weights(case: Case) -> dict[str, torch.Tensor]:
    """The weights of a case under our names, without those that its settings leave unused."""
    weights = as_weights(case.weights())
    if not case.settings.get("parallel_start_layer"):
        weights = {name: w for name, w in weights.items() if not name.startswith("parallel_")}
    return weights


def public_model(case: Case, plan: ModelPlan | None = None) -> Model:
    model = build_model(plan or public_plan(case))
    model.load_state_dict(public_weights(case))
    return model


def close(case: Case, name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within the case's own tolerance, which has its reason beside it."""
    patterns = sorted(case.tolerance, key=len, reverse=True)  # the most exact one first
    limits = next((case.tolerance[p] for p in patterns if fnmatch.fnmatchcase(name, p)), {})
    absolute, relative = limits.get("abs", 0.0), limits.get("rel", 0.0)
    torch.testing.assert_close(found, expected, atol=absolute, rtol=relative, msg=lambda m: f"{name}: {m}")


class Forward(torch.nn.Module):
    """Every output of a model in one call, so that other weights can stand in for its own."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        model = self.model
        return model.logits(inputs), model.nats(inputs, targets), model.loss(inputs, targets)


def model_forward(case: Case) -> None:
    for backend in (Backend(), Backend(attention="chunk", fused=True)):
        model = public_model(case).use(backend)
        model.at(0.0 if case.arguments.get("looping_active") is False else 1.0)
        check_forward(case, model, fake_weights(case, model))


def fake_weights(case: Case, model: Model) -> dict[str, torch.Tensor]:
    """What stands in for the weights of a case that trains on quantized ones."""
    flag = case.arguments.get("qat")
    if not flag:
        return {}
    linears = [name for name, tensor in model.named_parameters() if tensor.ndim == 2 and "blocks" in name]
    linears = [name for name in linears if name.endswith(".weight")]
    quantizer = FAKE_INT6 if flag == "class_flag" else FAKE_INT8
    noise = FakeQuantize(patterns=tuple(linears))
    rules = QuantizePlan(rules=(QuantRule(quantizer=quantizer),))
    return noise.replaced(dict(model.named_parameters()), rules, Progress(1, 2), 1.0)


def check_forward(case: Case, model: Model, fakes: dict[str, torch.Tensor]) -> None:
    inputs, targets = (case.tensors[name].long() for name in ("input_ids", "target_ids"))
    leaves = {f"model.{name}": tensor.clone().requires_grad_() for name, tensor in fakes.items()}
    logits, nats, loss = functional_call(Forward(model), leaves, (inputs, targets))
    close(case, "out.logits", logits, case.tensors["out.logits"])
    close(case, "out.nll", nats, case.tensors["out.nll"])
    assert abs(loss.item() - case.expected["mean_loss"]) <= case.tolerance["mean_loss"]["abs"]
    loss.backward()
    gradients = {name: tensor.grad for name, tensor in model.named_parameters()}
    gradients |= {name.removeprefix("model."): leaf.grad for name, leaf in leaves.items()}
    check_gradients(case, gradients)


def check_gradients(case: Case, gradients: dict[str, torch.Tensor | None]) -> None:
    """Lengths of gradients by public names: a bank's is that of all its matrices together."""
    limits = case.tolerance["grad_l2_norms"]
    for name, norm in case.expected["grad_l2_norms"].items():
        members = [name] if name in gradients else bank_members(case, name)
        found = [gradients[member] for member in members if gradients.get(member) is not None]
        if norm is None:
            assert all(not gradient.any() for gradient in found), name
            continue
        length = torch.stack([gradient.norm() for gradient in found]).norm().item()
        assert abs(length - norm) <= limits["rel"] * norm + limits["abs"], name
        if (key := f"out.grad.{name}") in case.tensors and len(found) == 1:
            close(case, key, found[0], case.tensors[key])


def bank_members(case: Case, bank: str) -> list[str]:
    """Our names of the matrices in a public bank; none for a tensor that is no bank."""
    if not bank.endswith("_bank"):
        return []
    layers = case.settings["num_layers"]
    marks = {"mlp_up_bank": torch.zeros(layers, 1)} | {bank: torch.zeros(len(case.weights()[bank]), 1)}
    only = unbanked(marks)
    return [name for name in only if bank == "mlp_up_bank" or ".mlp.fc." not in name]


def dimensions(arguments: dict[str, Any]) -> Dimensions:
    width = arguments.get("model_dim", 16)
    heads, kv_heads = arguments.get("num_heads", 4), arguments.get("num_kv_heads", 2)
    return Dimensions(arguments.get("vocab_size", 100), 1, width, width, heads, kv_heads, BOS)


def context(x: torch.Tensor, start: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> Context:
    ids = torch.zeros(x.shape[:2], dtype=torch.long)
    return Context(ids, start, *tables, PlainKernels(), "math", Sight(), None, {})


def rope(arguments: dict[str, Any]) -> Rope:
    """Positions of a component: rescaled beyond train_seq_len, as the records of its date do."""
    dims, reference = arguments.get("rope_dims", 0), arguments.get("train_seq_len", 0)
    return Rope(dims=dims, base=arguments.get("rope_base", 10000.0), reference_length=reference)


def attention_of(case: Case) -> Attention:
    """The attention of a component case with its weights."""
    arguments, extra = case.arguments, case.arguments.get("extra", {})
    heads_out: tuple = (Xsa(last=1),) if arguments.get("use_xsa") else ()
    unknown = set(extra) - GATE_ARGUMENTS
    if unknown:
        raise NotCoveredError(", ".join(sorted(unknown)))
    channels = extra.get("gate_width", extra.get("gate_window", 12))
    if extra.get("gate_attn_out") or extra.get("attn_out_gate"):
        source = extra.get("gate_attn_src", extra.get("attn_out_gate_src"))
        source = "queries" if source == "q" else "input"
        heads_out += (AttentionOutputGate(channels=channels, source=source),)
    if extra.get("gated_attn"):
        heads_out += (GatedAttention(),)
    if extra.get("sparse_attn_gate"):
        heads_out += (SparseGate(channels=channels, scale=extra.get("sparse_attn_gate_scale", 1.0)),)
    attention = Attention(dimensions(arguments), 0, arguments["qk_gain_init"], (), heads_out)
    weights = case.weights()
    for ours, theirs in (("c_q", "q_w"), ("c_k", "k_w"), ("c_v", "v_w"), ("proj", "out_w")):
        if theirs in case.tensors:
            weights[f"{ours}.weight"] = case.tensors[theirs]
    attention.load_state_dict(weights)
    return attention


def check_rotary(case: Case) -> None:
    arguments = case.arguments
    tables = rope(arguments).tables(arguments["seq"], arguments["head_dim"], CPU)
    close(case, "out.cos", tables[0], case.tensors["out.cos"])
    close(case, "out.sin", tables[1], case.tensors["out.sin"])
    turned = rotate(case.tensors["x"].transpose(1, 2), *tables).transpose(1, 2)
    close(case, "out.y", turned, case.tensors["out.y"])


def check_mlp(case: Case) -> None:
    arguments, record = case.arguments, case.facts["source"]["record"]
    width = arguments["model_dim"]
    mlp = Mlp(width, int(arguments["mlp_mult"] * width), public_activation(record))
    weights = case.weights()
    for ours, theirs in (("fc", "up_w"), ("proj", "down_w")):
        if theirs in case.tensors:
            weights[f"{ours}.weight"] = case.tensors[theirs]
    mlp.load_state_dict(weights)
    close(case, "out.y", mlp(case.tensors["x"], PlainKernels()), case.tensors["out.y"])


def check_attention(case: Case) -> None:
    arguments, x = case.arguments, case.tensors["x"]
    tables = rope(arguments).tables(x.shape[1], arguments["model_dim"] // arguments["num_heads"], CPU)
    close(case, "out.y", attention_of(case)(x, context(x, x, tables)), case.tensors["out.y"])


def check_block(case: Case) -> None:
    arguments, x = case.arguments, case.tensors["x"]
    sizes = dimensions(arguments)
    attention = Attention(sizes, arguments["layer_idx"], arguments["qk_gain_init"], (), ())
    activation = public_activation(case.facts["source"]["record"])
    mlp = Mlp(sizes.width, int(arguments["mlp_mult"] * sizes.width), activation)
    scale = LnScale() if arguments.get("ln_scale") else Unscaled()
    block = Block(attention, mlp, Serial(), scale.factor(arguments["layer_idx"]))
    block.load_state_dict(case.weights())
    tables = rope(arguments).tables(x.shape[1], sizes.head_width, CPU)
    close(case, "out.y", block(x, context(x, case.tensors["x0"], tables)), case.tensors["out.y"])


def holder(case: Case, place: str) -> Module:
    """A module that has the weights of a case at `place`, as a model would."""
    root = Module()
    root.add_module(place, Module())
    for name, tensor in case.weights().items():
        *path, local = name.split(".")
        module = getattr(root, place)
        for step in path:
            if step not in module._modules:
                module.add_module(step, Module())
            module = getattr(module, step)
        module.register_parameter(local, torch.nn.Parameter(tensor))
    return root


def check_bigram(case: Case) -> None:
    arguments, ids = case.arguments, case.tensors["input_ids"].long()
    part = BigramHash(buckets=arguments["bigram_vocab_size"], dimension=arguments["bigram_dim"])
    assert torch.equal(bigram_buckets(ids, part.buckets), case.tensors["out.indices"].long())
    nothing = torch.zeros(*ids.shape, arguments["model_dim"])
    found = part.embed(nothing, ids, holder(case, "bigram"), BOS)
    close(case, "out.embedding", found, case.tensors["out.embedding"])


def check_smear(case: Case) -> None:
    x = case.tensors["x"]
    ids = torch.zeros(x.shape[:2], dtype=torch.long)
    if "input_ids" in case.tensors:
        ids = case.tensors["input_ids"].long()
    found = SmearVector().embed(x, ids, holder(case, "smear"), BOS)
    close(case, "out.y", found, case.tensors["out.y"])


def check_value_embedding(case: Case) -> None:
    arguments, ids = case.arguments, case.tensors["input_ids"].long()
    root = holder(case, "ve_shared")
    root.add_module("ve_layer_scales", Module())
    root.ve_layer_scales.register_parameter("0", torch.nn.Parameter(torch.ones(1)))
    part = ValueEmbedding(dimension=arguments["ve_dim"], layers=(0,))
    nothing = torch.zeros(*ids.shape, 1, arguments["kv_dim"])
    shared = context(nothing, nothing, (nothing, nothing))._replace(inputs=ids, root=root)
    found = part.values(nothing, 0, None, shared)[:, :, 0]
    close(case, "out.embedding", found, case.tensors["out.embedding"])


def check_xsa(case: Case) -> None:
    close(case, "out.y", without_own_value(case.tensors["y"], case.tensors["v"]), case.tensors["out.y"])


COMPONENTS: dict[str, Callable[[Case], None]] = {
    "mlp": check_mlp,
    "mlp_banked": check_mlp,
    "rotary": check_rotary,
    "attention": check_attention,
    "attention_banked": check_attention,
    "block": check_block,
    "bigram_hash": check_bigram,
    "smear_gate": check_smear,
    "value_embedding": check_value_embedding,
    "xsa": check_xsa,
}


def component(case: Case) -> None:
    name = case.arguments["component"]
    if name not in COMPONENTS:
        raise NotCoveredError(f"{name}: {case.facts['what']}")
    COMPONENTS[name](case)


def isolated(plan: ModelPlan, longest: int, bos_id: int) -> ModelPlan:
    """The same model with attention cut at documents and at so many tokens of one."""
    return plan.but(scope=(DocumentAttention(longest=longest),), bos_id=bos_id)


HANDLERS = {"model_forward": model_forward, "component": component}
