"""Settings, tensors and facts that cases are made of."""

import math
import zlib
from typing import Any

import torch
from torch import Tensor

Facts = dict[str, Any]
Given = tuple[Facts, dict[str, Tensor]]
WIDTH = 20  # of five heads, which share one head of keys and values
SIZES = {
    "vocab_size": 41,
    "num_layers": 5,
    "model_dim": WIDTH,
    "num_heads": 5,
    "num_kv_heads": 1,
    "mlp_mult": 1.35,
}
NETWORK = {"tie_embeddings": True, "logit_softcap": 17.5, "rope_base": 700.0, "qk_gain_init": 1.7}
LATE = NETWORK | {
    "skip_gates_enabled": True,
    "num_loops": 0,
    "loop_start": 1,
    "loop_end": 2,
    "ln_scale": True,
}
RATES = {
    "iterations": 40,
    "warmdown_frac": 0.6,
    "min_lr": 0.1,
    "max_wallclock_seconds": 0.1,
    "gptq_reserve_seconds": 0.03,
    "embed_lr": 0.6,
    "head_lr": 0.008,
    "tied_embed_lr": 0.03,
    "matrix_lr": 0.022,
    "scalar_lr": 0.02,
    "muon_momentum": 0.99,
    "muon_backend_steps": 5,
    "muon_momentum_warmup_start": 0.92,
    "muon_momentum_warmup_steps": 4,
    "muon_row_normalize": True,
    "beta1": 0.9,
    "beta2": 0.95,
    "adam_eps": 1e-8,
    "adam_wd": 0.02,
    "muon_wd": 0.095,
    "embed_wd": 0.085,
    "grad_clip_norm": 0.3,
    "enable_looping_at": 0.35,
}
FORWARD = {
    "mean_loss": {"abs": 2e-5},
    "out.logits": {"abs": 2e-4},
    "out.nll": {"abs": 2e-4},
    "grad_l2_norms": {"rel": 1e-3, "abs": 1e-6},
}
PARTS = {"out.*": {"abs": 2e-5, "rel": 2e-5}, "integer outputs": "exact"}
FEEDBACK = {"out.scale": {"rel": 1e-3}, "out.q": "2 % of codes", "hessian_error_trace_EHEt": {"rel": 0.02}}
SCORED = {"positions, counts": "exact", "val_loss": {"abs": 2e-5}, "val_bpb": {"rel": 5e-6}}
STEPS = {
    "loss_before_each_step[0]": {"abs": 2e-5},
    "loss_before_each_step": {"abs": 0.02},
    "out.after.*": {"rel_frobenius_of_total_change": 0.2},
    "lr_multiplier, muon_momentum": {"rel": 1e-12},
    "why": "the twin iterates in float64, Muon in bfloat16",
}


def draws(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def drawn(shapes: dict[str, tuple[int, ...]], draw: torch.Generator) -> dict[str, Tensor]:
    """Weights by public name, of which none is at its start."""
    found = {}
    for name, shape in shapes.items():
        plain = torch.randn(shape, generator=draw)
        small = len(shape) < 2 or any(part in name for part in ("resid_mix", "lambdas", "skip_"))
        found[f"weights.{name}"] = 0.8 + 0.3 * plain if small else plain / math.sqrt(shape[-1])
    return found


def shapes(s: Facts, banked: bool = False, **further: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network; `further` has those of its parts, with _ for a dot."""
    width, layers, hidden = s["model_dim"], s["num_layers"], int(s["mlp_mult"] * s["model_dim"])
    kv_width = s["num_kv_heads"] * width // s["num_heads"]
    found: dict[str, tuple[int, ...]] = {"tok_emb.weight": (s["vocab_size"], s.get("embedding_dim", width))}
    matrices = {"attn.c_q": (width, width), "attn.c_k": (kv_width, width), "attn.c_v": (kv_width, width)}
    matrices |= {"attn.proj": (width, width), "mlp.fc": (hidden, width), "mlp.proj": (width, hidden)}
    for i in range(layers):
        found |= {f"blocks.{i}.{n}": (width,) for n in ("attn_scale", "mlp_scale")}
        found |= {f"blocks.{i}.resid_mix": (2, width), f"blocks.{i}.attn.q_gain": (s["num_heads"],)}
        found |= {} if banked else {f"blocks.{i}.{n}.weight": shape for n, shape in matrices.items()}
    if banked:
        found |= {"qo_bank": (2 * layers, width, width), "kv_bank": (2 * layers, kv_width, width)}
        found |= {"mlp_up_bank": (layers, hidden, width), "mlp_down_bank": (layers, width, hidden)}
    return found | {name.replace("__", "."): shape for name, shape in further.items()}


def ids(s: Facts, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    return torch.randint(s["vocab_size"], shape, generator=draw).int()


def forward(
    name: str, record: str, settings: Facts, twin: Facts, batch: int, seq: int, arguments: Facts, **parts: Any
) -> Given:
    draw = draws(name)
    tensors = drawn(shapes(settings, **parts), draw)
    tensors |= {key: ids(settings, (batch, seq), draw) for key in ("input_ids", "target_ids")}
    facts = {
        "kind": "model_forward",
        "record": record,
        "settings": settings,
        "twin": twin,
        "arguments": {"batch": batch, "seq": seq, **arguments},
        "tolerance": FORWARD,
    }
    return facts, tensors


def part(
    name: str, record: str, arguments: Facts, twin: Facts, weights: dict[str, Any], **given: Any
) -> Given:
    draw = draws(name)
    arguments = {"batch": 2, "rope_base": 333.0, "rope_dims": 4, **arguments}
    if arguments["component"] != "rotary":
        arguments |= {"model_dim": WIDTH, "num_heads": 5, "num_kv_heads": 1, "qk_gain_init": 0.9}
    first = arguments["batch"], arguments["seq"]
    tensors = drawn(weights, draw)
    for key, shape in given.items():
        whole = shape if key.endswith("_w") else (*first, *shape)
        tensors[key] = torch.randn(whole, generator=draw) / (
            math.sqrt(shape[-1]) if key.endswith("_w") else 1
        )
    return {
        "kind": "component",
        "record": record,
        "arguments": arguments,
        "twin": twin,
        "tolerance": PARTS,
    }, tensors


def scored(
    name: str, record: str, settings: Facts, twin: Facts, arguments: Facts, tokens: Tensor, **parts: Any
) -> Given:
    draw, size = draws(name), settings["vocab_size"]
    tensors = drawn(shapes(settings, **parts), draw) | {"val_tokens": tokens.int()}
    tensors |= {"base_bytes": torch.randint(1, 9, (size,), generator=draw).to(torch.int16)}
    for key, share in (("has_leading_space", 0.4), ("is_boundary", 0.1)):
        tensors[key] = torch.rand(size, generator=draw) < share
    facts = {
        "kind": "scoring",
        "record": record,
        "settings": settings,
        "twin": twin,
        "arguments": {"n_tokens": len(tokens), **arguments},
        "tolerance": SCORED,
    }
    return facts, tensors


# Of test-time training: weights stand in these cases before and after it.
SMALL = {
    "vocab_size": 23,
    "num_layers": 2,
    "model_dim": 12,
    "num_heads": 3,
    "num_kv_heads": 1,
    "mlp_mult": 1.5,
}
ADAPTED = {
    "token and byte counts, positions": "exact",
    "chunk_mean_losses, val_loss": {"abs": 5e-5},
    "val_bpb": {"rel": 2e-5},
    "out.after.*": {"rel_frobenius_of_total_change": 0.03},
}
LOW_RANK = {
    "token counts, order of events": "exact",
    "loss sums of events": {"abs": 2e-3},
    "val_loss": {"abs": 5e-5},
    "out.lora.*": {"abs": 5e-4},
}


def adapted(name: str, later: bool, count: int, stride: int, length: int, **ttt: Any) -> Given:
    """Score-first training by the first record that had it, or by a later one: exact windows, no banks."""
    s: Facts = (
        SMALL | (LATE if later else NETWORK) | {"xsa_last_n": 1, "rope_dims": 2, "train_seq_len": length}
    )
    s |= {"ln_scale": True} | {f"ttt_{key}": value for key, value in ttt.items()}
    record = "2026-03-23_LeakyReLU_LegalTTT_ParallelMuon"
    if later:
        record = "2026-04-08_SP8192_ParallelResid_ScoreFirstTTT"
        s |= {"eval_seq_len": length}
    function = "eval_val_ttt" if later else "eval_val_sliding_ttt"
    a = {"function": function, "stride": stride, "batch_seqs": ttt.get("batch_seqs", 3)}
    twin = {"reference": length if later else 1024, "slope": 0.5, "length": length}
    parts: dict[str, Any] = {"skip_weights": (1, 12)} | ({"skip_gates": (1, 12)} if later else {})
    tokens = ids(s, (count,), draws(f"{name} tokens"))
    facts, tensors = scored(name, record, s, twin, a, tokens, banked=not later, **parts)
    return facts | {"kind": "scoring_ttt", "tolerance": ADAPTED}, tensors


def low_rank(name: str, opens: list[int], count: int, **ttt: Any) -> Given:
    """Factors for each document by the first record of them; A is given for the documents in their order."""
    s: Facts = SMALL | NETWORK | {"mlp_mult": 2, "train_seq_len": 64, "beta1": 0.9, "beta2": 0.95}
    s |= {f"ttt_{key}": value for key, value in ttt.items()}
    draw = draws(f"{name} tokens")
    tokens = ids(s, (count,), draw)
    tokens[tokens == 1] = 2
    tokens[opens] = 1
    a = {"bos_at": opens, "n_docs": len(opens)}
    twin = {"reference": 0, "slope": 0.0}
    facts, tensors = scored(name, "2026-03-17_LoRA_TTT", s, twin, a, tokens, skip_weights=(1, 12))
    for place in ("q_loras.0", "q_loras.1", "v_loras.0", "v_loras.1", "lm_head_lora"):
        shape = len(opens), ttt["lora_rank"], 12
        tensors[f"lora.{place}.A"] = (2 * torch.rand(shape, generator=draw) - 1) / math.sqrt(12)
    return facts | {"kind": "scoring_lora_ttt", "tolerance": LOW_RANK}, tensors


def calibrated(name: str, record: str, settings: Facts, twin: Facts, **parts: Any) -> Given:
    draw = draws(name)
    tensors = drawn(shapes(settings, **parts), draw) | {"tokens": ids(settings, (3, 2, 10), draw)}
    a = {"n_batches": 3, "batch": 2, "seq": 9}
    facts = {"kind": "hessian", "record": record, "settings": settings, "twin": twin, "arguments": a}
    return facts, tensors


def feedback(name: str, record: str, options: Facts, dead: list[int]) -> Given:
    draw = draws(name)
    inputs = torch.randn(90, 37, generator=draw) @ (torch.eye(37) + 0.3 * torch.randn(37, 37, generator=draw))
    inputs[:, dead] = 0
    weight = 0.4 * torch.randn(11, 37, generator=draw)
    weight[4] = 0.125
    a = {"shape": [11, 37], "n_samples": 90, "hessian_divisor": 3, "dead_columns": dead, "kwargs": options}
    facts = {"kind": "quant_gptq", "record": record, "arguments": a, "twin": {}, "tolerance": FEEDBACK}
    return facts, {"W": weight, "X": inputs, "H": inputs.T @ inputs / 3}
