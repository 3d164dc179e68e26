"""The model of a case: what its tensors show, and what its hyperparameters say besides."""

from typing import Any

import torch
from torch import Tensor

from bitgolf.net.embed import BigramSum, PairTable, SmearGate, SmearVector
from bitgolf.net.heads import AttentionOutputGate, BiasedGate, GatedAttention, SparseGate, Xsa
from bitgolf.net.layers import (
    DtgGate,
    LanesInTurn,
    LnScale,
    MergedLanes,
    ParallelResidual,
    TwoLanes,
    Unscaled,
)
from bitgolf.net.mlp import GatedMlp
from bitgolf.net.model import Model, ModelPlan, build_model
from bitgolf.net.objective import MultiToken
from bitgolf.net.position import AttentionWindow, NoPosition, Position, Rope, Scope
from bitgolf.net.route import GatedSkips, Looped
from bitgolf.net.values import ValueEmbedding, ValueResidual
from bitgolf.public.checkpoints import (
    LANE_TENSORS,
    as_weights,
    infer_model_plan,
    matrix_of,
    pass_order,
    pass_sources,
    renamed,
    unbanked,
)
from tests.golden_cases import records
from tests.golden_cases.case import Case, NotCoveredError

Weights = dict[str, Tensor]


def public_model(case: Case, *scope: Scope) -> Model:
    """The model of a case with its weights, and what besides limits its sight."""
    weights = public_weights(case)
    model = loaded(public_plan(case, weights, scope), weights)
    if case.settings.get("disable_layer0_attn"):
        model.blocks[0].attn_scale.requires_grad_(False)
    return model


def loaded(plan: ModelPlan, weights: Weights) -> Model:
    model = build_model(plan)
    model.load_state_dict(weights)
    return model


def public_weights(case: Case, state: Weights | None = None) -> Weights:
    """The weights of a case under our names, without those that its settings leave unused."""
    again, apart, layers = recurring(case), passes_apart(case), case.settings["num_layers"]
    state = case.tensors.starting("weights.") if state is None else state
    state = {name: w for name, w in state.items() if again or apart or not name.startswith("repeat_mlp.")}
    if named_apart(case) and not apart:  # before passes are switched on nothing beyond the layers is used
        state = {n: w for n, w in state.items() if n[:7] != "blocks." or int(n.split(".")[1]) < layers}
        state = {n: w[: layers // 2] if n.startswith("skip_") else w for n, w in state.items()}
    if "smeargate.gate" in state:  # in one record the share of the token itself
        state["smear.gate"] = -state.pop("smeargate.gate")
    weights = as_weights(state, apart or (range(again.first, again.last + 1) if again else ()))
    if case.settings.get("disable_layer0_attn"):
        weights["blocks.0.attn_scale"] = torch.zeros_like(weights["blocks.0.attn_scale"])
    if case.settings.get("parallel_start_layer", 0) <= 0 and not case.settings.get("parallel_residual"):
        weights = {name: w for name, w in weights.items() if not name.startswith("parallel_")}
    weights.pop("blocks.0.attn.vr_lambda", None)  # the first layer has no values before its own to mix in
    if not 0 < first_merged(case) < case.settings["num_layers"]:
        weights.pop("lane_merge", None)
    used = value_layers(case)
    for i in range(len(case.settings.get("ve_layers", "").split(","))):
        if i >= len(used):
            weights.pop(f"ve_layer_scales.{i}", None)
    return weights if used else {k: w for k, w in weights.items() if not k.startswith("ve_shared.")}


def first_merged(case: Case) -> int:
    """The first layer with lanes that a share merges; one record does not count it as a hyperparameter."""
    return int(case.settings.get("parallel_start_layer", case.knobs.get("PARALLEL_START_LAYER", 7)))


def value_layers(case: Case) -> tuple[int, ...]:
    """The layers with a value embedding; the scripts name layers that a small model does not have."""
    settings = case.settings
    named = [int(layer) for layer in settings.get("ve_layers", "").split(",") if layer.strip()]
    count = settings["num_layers"] + len(passes_apart(case))
    used = [layer for layer in named if layer < count] if settings.get("ve_enabled") else []
    if used != named[: len(used)]:
        raise NotCoveredError(f"VE_LAYERS={settings['ve_layers']}: a layer that is not there before others")
    return tuple(used)


def public_plan(case: Case, weights: Weights, scope: tuple[Scope, ...] = (), **overrides: Any) -> ModelPlan:
    """The plan of a case; overrides are for cases to which a part of it does not matter."""
    settings = case.settings
    refuse_unknown(case)
    changes: dict[str, Any] = {
        "logit_softcap": settings["logit_softcap"],
        "qk_gain": settings["qk_gain_init"],
        "activation": records.activation(case, settings.get("negative_slope", 0.5)),
        "input_scale": LnScale() if settings.get("ln_scale") else Unscaled(),
        "position": position(case),
        "scope": scope,
    }
    if (gate := weights.get("blocks.0.mlp.mlp_gate_proj.weight")) is not None:
        changes["activation"] = GatedMlp(inner=changes["activation"], channels=gate.shape[1])
    if window := settings.get("swa_window_size", 0):
        changes["scope"] += (AttentionWindow(tokens=window),)
    if again := recurring(case):
        if "skip_gates" not in weights:
            raise NotCoveredError("skips without gates that share their weights")
        later = "shared" if records.date(case) == "2026-04-03" else "none"
        changes["route"] = GatedSkips(rows=len(weights["skip_gates"]), later=later)
    if recurrence := again or looped(case):
        changes["recurrence"] = recurrence
    if "lane_merge" in weights:
        late = records.date(case) >= "2026-04-05"
        changes["residual"] = MergedLanes(first=first_merged(case), late_skips=late)
    if (parallel := settings.get("parallel_residual_start", -1)) >= 0:
        changes["residual"] = ParallelResidual(first=parallel)
    lanes, leaves = settings.get("parallel_start_layer", 0), settings.get("parallel_final_lane", "mean")
    if settings.get("parallel_residual"):
        further, physical = passes_apart(case), settings.get("parallel_start_layer_is_physical", True)
        lanes += len(further) if further and physical else 0
        if lanes < (settings["num_layers"] + len(further)) // 2 or not (physical or further):
            raise NotCoveredError("lanes in the first half, or from a place on rather than a layer")
        if further and physical and lanes <= max(further) + len(further):
            raise NotCoveredError("lanes from a layer on that is passed again")
        changes["residual"] = LanesInTurn(first=lanes)
    elif lanes > 0 and "parallel_resid_lambdas" in weights:
        changes["residual"] = TwoLanes(first=lanes, leaves=leaves)
    plan = with_settings_of_parts(case, infer_model_plan(weights, **(changes | overrides)))
    check_shapes(case, plan)
    return plan


def refuse_unknown(case: Case) -> None:
    """Fail on what is switched on in early records of April, and in no later one."""
    for name in ("bank_split", "parallel_start_layer_is_physical"):
        case.settings.get(name)


def recurring(case: Case) -> Looped | None:
    """Layers passed once more as records from 2026-03-31 to 04-04 have them; the case says if they are."""
    settings = case.settings
    named = settings.get("recur_layers", settings.get("recur_layers_str", ""))
    active = [case.arguments.get(name) for name in ("recurrence_active", "recur_active")]
    untied = settings.get("repeat_untie_mlp", "none")
    if not named.strip() or records.date(case) == "2026-03-31" or not any(active):
        return None
    layers = sorted({int(layer) for layer in named.split(",") if layer.strip()})
    if layers != [*range(layers[0], layers[-1] + 1)] or settings.get("repeat_untie_mlp_layers"):
        raise NotCoveredError(f"RECUR_LAYERS={named} with gaps, or some of them untied")
    whole, down = untied == "full", untied == "down"
    return Looped(first=layers[0], last=layers[-1], loops=1, untied=whole, untied_down=down)


def named_apart(case: Case) -> tuple[int, ...]:
    """Layers that the record of 2026-03-31 passes again, with scales and gains of their own."""
    named = case.settings.get("recur_layers_str", "") if records.date(case) == "2026-03-31" else ""
    return tuple(sorted({int(layer) for layer in named.split(",") if layer.strip()}))


def passes_apart(case: Case) -> tuple[int, ...]:
    """Those layers, where the case says that they are passed again."""
    active = [case.arguments.get(name) for name in ("recurrence_active", "recur_active")]
    if (further := named_apart(case)) and any(active):
        untied = case.settings.get("repeat_untie_mlp_layers", "")
        case.settings.get("repeat_untie_mlp")  # the tensors show it
        assert not untied or {int(layer) for layer in untied.split(",")} <= {*further}
        return further
    return ()


def by_public_layers(case: Case, gradients: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Gradients of passes that share matrices, summed under the name of the layer."""
    if not (further := passes_apart(case)):
        return gradients
    names = renamed(unbanked(case.tensors.starting("weights.")))
    order = pass_order(names, further)
    found = {n: g for n, g in gradients.items() if not matrix_of(n)}
    for name, source in pass_sources(names, order).items():
        gradient, known = gradients[name], found.get(source)
        found[source] = gradient if known is None or gradient is None else known + gradient
    for name in LANE_TENSORS:
        if (rows := found.get(name)) is not None:
            whole = torch.zeros_like(names[name], dtype=rows.dtype)
            found[name] = whole.index_add(0, torch.tensor(order), rows)
    return found


def looped(case: Case) -> Looped | None:
    """Layers passed again; the scripts build a model in which that is not yet switched on."""
    first, last, loops = (case.settings.get(name, 0) for name in ("loop_start", "loop_end", "num_loops"))
    if "loop_start" not in case.settings or not loops:  # an early record counts the one pass
        return None
    return Looped(first=first, last=last, loops=loops, enable_at=0.0 if looping(case) else 1.0)


def looping(case: Case) -> bool:
    """Whether layers are passed again, or there are none that could be."""
    loops = case.settings.get("num_loops", 0) if "loop_start" in case.settings else 0
    return case.arguments.get("looping_active", False) or not loops


def position(case: Case) -> Position:
    settings = case.settings
    length, yarn = settings.get("train_seq_len", 0), settings.get("rope_yarn", False)
    settings.get("rope_train_seq_len")  # stands in the scripts, but they rescale from the length of training
    rope = Rope(
        dims=settings.get("rope_dims", 0),
        base=settings["rope_base"],
        reference_length=records.reference_length(case, length, yarn),
    )
    return NoPosition() if settings.get("nope") else rope


def with_settings_of_parts(case: Case, plan: ModelPlan) -> ModelPlan:
    """What the parts that the tensors show cannot tell by themselves."""
    settings, changes = case.settings, dict[str, Any]()
    source = settings.get("gate_attn_src", settings.get("attn_out_gate_src", "proj"))
    scale = settings.get("sparse_attn_gate_scale", 1.0)
    weight = settings.get("mtp_loss_weight", 0.2)
    for seam in ("values", "embed", "heads_out"):
        for i, part in enumerate(getattr(plan, seam)):
            if isinstance(part, ValueEmbedding):
                changes[f"{seam}.{i}.layers"] = value_layers(case)
            elif isinstance(part, BigramSum):
                changes[f"{seam}.{i}.multiplier"] = 92821 if "smeargate" in case.record else 31
            elif isinstance(part, SmearVector):
                changes[f"{seam}.{i}.before_norm"] = "smeargate" in case.record
            elif isinstance(part, SmearGate):
                changes[f"{seam}.{i}.boundary"] = records.smear_keeps_documents_apart(case)
            elif isinstance(part, AttentionOutputGate):
                changes[f"{seam}.{i}.source"] = "queries" if source == "q" else "input"
            elif isinstance(part, SparseGate):
                changes[f"{seam}.{i}.scale"] = scale
    if isinstance(plan.objective, MultiToken):
        changes["objective.weight"] = weight
    plan = plan.replace(changes)
    unused = 0 if passes_apart(case) else len(named_apart(case))  # XSA counts passes that may be off
    last = min(max(settings.get("xsa_last_n", 0) - unused, 0), plan.layers)
    return plan.replace(heads_out=(Xsa(last=last), *plan.heads_out)) if last else plan


def check_shapes(case: Case, plan: ModelPlan) -> None:
    """Every hyperparameter that the tensors show as well must say the same."""
    settings = case.settings
    parts = {type(part): part for part in plan.parts()}
    bigram = next((part for part in plan.parts() if isinstance(part, PairTable)), None)
    values = parts.get(ValueEmbedding)
    gate = parts.get(AttentionOutputGate) or parts.get(SparseGate) or parts.get(SmearGate)
    gated = plan.activation if isinstance(plan.activation, GatedMlp) else None
    objective = plan.objective
    skips = plan.route.layer_calls(plan.recurrence.order(plan.layers, 1.0, False))[-1].source >= 0
    shown = {
        "vocab_size": plan.vocabulary_size,
        "num_layers": plan.layers - len(passes_apart(case)),
        "model_dim": plan.width,
        "num_heads": plan.heads,
        "num_kv_heads": plan.kv_heads,
        "tie_embeddings": plan.tied,
        "embedding_dim": plan.dimensions.embedding_width,
        "bigram_hash_buckets": bigram.buckets if bigram else 0,
        "use_smeargate": SmearVector in parts,
        "bigram_vocab_size": bigram.buckets if bigram else 0,
        "ve_enabled": isinstance(values, ValueEmbedding),
        "value_residual": ValueResidual in parts,
        "skip_gates_enabled": isinstance(plan.route, GatedSkips),
        "smear_gate_enabled": SmearGate in parts,
        "gate_attn_out": AttentionOutputGate in parts,
        "gate_mlp_out": gated is not None,
        "attn_out_gate_enabled": AttentionOutputGate in parts,
        "gated_attn_enabled": GatedAttention in parts,
        "gated_attention": BiasedGate in parts,
        "dtg_enabled": DtgGate in parts,
        "sparse_attn_gate_enabled": SparseGate in parts,
        "mtp_num_heads": objective.heads if isinstance(objective, MultiToken) else 0,
    }
    sizes = {  # of parts, which say nothing where the part is left out
        "bigram_hash_dim": bigram.dimension if bigram else None,
        "bigram_dim": bigram.dimension if bigram else None,
        "ve_dim": values.dimension if isinstance(values, ValueEmbedding) else None,
        "gate_width": getattr(gated or gate, "channels", None),
        "gate_window": getattr(gate, "channels", None),
        "smear_gate_width": getattr(parts.get(SmearGate), "channels", None),
    }
    hidden = settings.get("mlp_hidden") or int(settings["mlp_mult"] * settings["model_dim"])
    assert plan.hidden_width() == hidden
    for name, found in {**shown, **sizes}.items():
        if name in settings:
            said = settings[name]
            vacuous = found is None or name == "skip_gates_enabled" and not skips
            vacuous = vacuous or name == "ve_enabled" and not value_layers(case)
            assert vacuous or found == said, f"{name}: the tensors show {found}, the case says {said}"


def bank_members(case: Case, bank: str) -> list[str]:
    """Our names of the matrices in a public bank, or of an MLP passed again; none for any other tensor."""
    if (loop := recurring(case)) and bank.startswith("repeat_mlp."):
        return [*as_weights({bank: torch.zeros(1, 1)}, range(loop.first, loop.last + 1))]
    if bank == "smeargate.gate":
        return ["smear.gate"]
    if (name := next(iter(renamed({bank: torch.zeros(1)})))) != bank:
        return [name]
    if not bank.endswith("_bank"):
        return []
    layers = case.settings["num_layers"]
    count = layers if bank.startswith("mlp_") else 2 * layers
    alone = unbanked({"mlp_up_bank": torch.zeros(layers, 1, 1), bank: torch.zeros(count, 1, 1)})
    return [name for name in alone if bank == "mlp_up_bank" or ".mlp.fc." not in name]
