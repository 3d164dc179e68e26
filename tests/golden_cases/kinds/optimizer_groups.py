"""Which parameter is stepped by which rule, with which settings."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from bitgolf.net.position import Rope
from bitgolf.train.optim import AdamRule, MuonRule, OptimPlan, make_optimizers
from tests.golden_cases.case import Case, Fields
from tests.golden_cases.network import bank_members, loaded, public_plan, public_weights
from tests.golden_cases.optimizers import public_table


def check(case: Case) -> None:
    groups, forgotten = case.expected["groups"], case.expected["parameters_in_no_group"]
    assert case.tensors["out.n_groups"].tolist() == [len(groups)]
    names = [name for group in groups for name in group["params"]] + forgotten
    assert len(set(names)) == len(names)
    weights = public_weights(case, stand_ins(case.settings, names))
    plan = public_plan(case, weights, position=Rope())  # the public 16 dimensions may be more than a head has
    optimizers = make_optimizers(OptimPlan(rows=public_table(case)), loaded(plan, weights))
    found = {name: row.rule for row, names in zip(optimizers.rows, optimizers.names) for name in names}
    for group in groups:
        check_group(
            Fields("group", group),
            [found.pop(o) for name in group["params"] for o in ours(case, weights, name)],
        )
    # What a public script forgot to train has a row here: a parameter without one is refused.
    assert set(found) == {o for name in forgotten for o in ours(case, weights, name)}


def check_group(group: Fields, rules: list[AdamRule | MuonRule]) -> None:
    params, optimizer, number = group["params"], group["optimizer"], group["group"]
    assert isinstance(number, int)
    for rule in rules:
        assert rule.lr == group["lr"] == (group["base_lr"] or group["lr"]), params
        assert rule.weight_decay == (group["weight_decay"] or 0.0), params
        normalized = group["row_normalize"]  # two records normalize rows whatever the group says
        muon = [group["momentum"], getattr(rule, "row_normalize", None) if normalized is None else normalized]
        adam = [group["betas"], group["eps"]]
        if optimizer == "Muon":
            assert isinstance(rule, MuonRule) and [rule.momentum, rule.row_normalize] == muon, params
        else:
            assert isinstance(rule, AdamRule) and optimizer in ("Adam", "AdamW"), params
            assert [[rule.beta1, rule.beta2], rule.eps] == adam, params
    assert not rules or not group.unseen(), group.unseen()


def ours(case: Case, used: dict[str, Tensor], name: str) -> list[str]:
    """Ours behind a public parameter: itself, the matrices of a bank, none where settings leave it unused."""
    return [name] if name in used else bank_members(case, name)


def stand_ins(settings: Fields, names: Iterable[str]) -> dict[str, Tensor]:
    """Zeros with the names and shapes of the weights that these hyperparameters mean."""
    vocabulary, width, layers = (settings[name] for name in ("vocab_size", "model_dim", "num_layers"))
    heads, hidden = settings["num_heads"], settings.get("mlp_hidden") or int(settings["mlp_mult"] * width)
    kv_width = settings["num_kv_heads"] * (width // heads)
    embedding = settings.get("embedding_dim") or width
    bigram, values = settings.get("bigram_dim", 0), settings.get("ve_dim", 0)
    hashed = settings.get("bigram_hash_dim", 0)
    gate = settings.get("gate_window", settings.get("gate_width", 12))
    smear = settings.get("smear_gate_width", gate)
    looped = settings.get("loop_end", 0) - settings.get("loop_start", 1) + 1
    visits = layers + settings.get("num_loops", 0) * looped
    shapes: dict[str, tuple[int, ...]] = {
        "tok_emb.weight": (vocabulary, embedding),
        "embed_proj.weight": (width, embedding),
        "head_proj.weight": (embedding, width),
        "lm_head.weight": (vocabulary, embedding),
        "mtp_heads.*": (vocabulary, width),
        "*.c_[kv].weight": (kv_width, width),
        "*.mlp.fc.weight": (hidden, width),
        "*.mlp.proj.weight": (width, hidden),
        "*.attn.c_q.weight": (width, width),
        "*.attn.proj.weight": (width, width),
        "qo_bank": (2 * layers, width, width),
        "kv_bank": (2 * layers, kv_width, width),
        "mlp_up_bank": (layers, hidden, width),
        "mlp_down_bank": (layers, width, hidden),
        "bigram_hash.table.weight": (settings.get("bigram_hash_buckets", 0), hashed),
        "bigram_hash.proj.weight": (width, hashed),
        "bigram.embed.weight": (settings.get("bigram_vocab_size", 0), bigram),
        "bigram.proj.weight": (width, bigram),
        "ve_shared.embed.weight": (vocabulary, values),
        "ve_shared.proj.weight": (kv_width, values),
        "ve_layer_scales.*": (1,),
        "*.scale": (),
        "*q_gain": (heads,),
        "*vr_lambda": (2,),
        "*attn_gate.weight": (heads, width),
        "*attn_gate.bias": (heads,),
        "*dtg_gate.weight": (1, width),
        "*dtg_gate.bias": (1,),
        "repeat_mlp.*.fc.weight": (hidden, width),
        "repeat_mlp.*.proj.weight": (width, hidden),
        "*attn_gate_w": (heads, width if settings.get("gated_attn_enabled") else gate),
        "*attn_gate_proj*": (heads, gate),
        "*resid_mix": (2, width),
        "skip_*": (visits // 2, width),
        "smear_gate.weight": (1, smear),
        "smear_lambda": (1,),
        "lane_merge": (),
        "parallel_resid_lambdas": (layers, 2),
        "parallel_post_lambdas": (layers, 2, 2),
        "*": (width,),
    }
    return {
        name: torch.zeros(next(shape for pattern, shape in shapes.items() if fnmatchcase(name, pattern)))
        for name in names
    }
