"""Thirty cases of odd sizes: what is given. The twin computes the rest, see `kinds`."""

from collections.abc import Callable
from typing import Any

import torch

from tests.golden_twin.makers import (
    LATE,
    NETWORK,
    RATES,
    SIZES,
    STEPS,
    WIDTH,
    Given,
    adapted,
    calibrated,
    drawn,
    draws,
    feedback,
    forward,
    ids,
    low_rank,
    part,
    scored,
    shapes,
)


def own_model_lanes_in_loop() -> Given:
    """Two lanes after a loop, sparse gates, a smear that stops at BOS, NTK, one key head."""
    s = (
        SIZES
        | LATE
        | {
            "num_layers": 6,
            "num_loops": 1,
            "loop_start": 2,
            "loop_end": 4,
            "xsa_last_n": 4,
            "rope_dims": 4,
            "train_seq_len": 9,
        }
    )
    s |= {"rope_yarn": True, "parallel_start_layer": 3, "parallel_final_lane": "mean", "vocab_size": 7}
    s |= {"smear_gate_enabled": True, "gate_window": 3, "sparse_attn_gate_enabled": True}
    s |= {"sparse_attn_gate_scale": 0.5}
    parts: dict[str, Any] = {f"blocks__{i}__attn__attn_gate_w": (5, 3) for i in range(6)}
    parts |= {"skip_weights": (4, WIDTH), "skip_gates": (4, WIDTH), "smear_gate__weight": (1, 3)}
    parts |= {"smear_lambda": (1,), "parallel_resid_lambdas": (6, 2), "parallel_post_lambdas": (6, 2, 2)}
    twin = {"reference": 9, "slope": 0.5, "smear_stops_at_bos": True}
    record, loop = "2026-04-29_SmearGateBOSFix_3Seed_1.06141", {"looping_active": True}
    return forward("lanes", record, s, twin, 2, 13, loop, banked=True, **parts)


def own_model_values() -> Given:
    """Value residual and value embedding, a hash of pairs, the vector smear, XSA in two layers."""
    s = SIZES | NETWORK | {"xsa_last_n": 2, "rope_dims": 2, "ln_scale": False, "train_seq_len": 2048}
    s |= {"bigram_vocab_size": 11, "bigram_dim": 7, "ve_enabled": True, "ve_dim": 5, "ve_layers": "0,3"}
    s |= {"value_residual": True}
    parts: dict[str, Any] = {f"blocks__{i}__attn__vr_lambda": (2,) for i in range(5)}
    parts |= {"bigram__embed__weight": (11, 7), "bigram__proj__weight": (WIDTH, 7), "bigram__scale": ()}
    parts |= {"smear__gate": (WIDTH,), "skip_weights": (2, WIDTH), "ve_shared__embed__weight": (41, 5)}
    parts |= {"ve_shared__proj__weight": (4, 5), "ve_shared__scale": ()}
    parts |= {f"ve_layer_scales__{i}": (1,) for i in range(2)}
    record, twin = "2026-03-23_LeakyReLU_LegalTTT_ParallelMuon", {"reference": 1024, "slope": 0.5}
    return forward("values", record, s, twin, 2, 11, {}, banked=True, **parts)


def own_model_parallel_factored() -> Given:
    """Attention and MLP side by side, a factored table, a separate head, a loop of one layer."""
    s = SIZES | LATE | {"tie_embeddings": False, "embedding_dim": 18, "num_loops": 2, "loop_end": 1}
    s |= {
        "parallel_residual_start": 3,
        "xsa_last_n": 5,
        "rope_dims": 0,
        "train_seq_len": 8,
        "ln_scale": False,
    }
    parts = {"embed_proj__weight": (WIDTH, 18), "head_proj__weight": (18, WIDTH), "lm_head__weight": (41, 18)}
    parts |= {"skip_weights": (3, WIDTH), "skip_gates": (3, WIDTH)}
    record = "2026-04-09_SP8192_3LayerRecur_ParResid_QK525_LegalTTT"
    twin, loop = {"reference": 8, "slope": 0.5}, {"looping_active": True}
    return forward("parallel", record, s, twin, 1, 15, loop, **parts)


def own_model_merged_lanes() -> Given:
    """Lanes that one share merges, which a loop has begun before, late skips into the first of them."""
    s = SIZES | LATE | {"num_layers": 5, "num_loops": 1, "loop_start": 2, "loop_end": 3, "xsa_last_n": 2}
    s |= {"rope_dims": 2, "train_seq_len": 64, "parallel_start_layer": 3, "tie_embeddings": False}
    parts: dict[str, Any] = {"skip_weights": (3, WIDTH), "skip_gates": (3, WIDTH), "lane_merge": ()}
    record, loop = "2026-04-08_SP8192_ParallelResid_ScoreFirstTTT", {"looping_active": True}
    parts |= {"lm_head__weight": (41, WIDTH)}
    return forward("merged", record, s, {"reference": 64, "slope": 0.5, "merged": 3}, 2, 11, loop, **parts)


def own_model_recurring() -> Given:
    """Two layers once more with MLPs of their own, whose skips take the weights of the last."""
    s = SIZES | LATE | {"xsa_last_n": 2, "rope_dims": 4, "train_seq_len": 64, "recur_layers": "1,2"}
    del s["num_loops"], s["loop_start"], s["loop_end"]
    s |= {"repeat_untie_mlp": "full"}
    hidden = int(1.35 * WIDTH)
    parts: dict[str, Any] = {"skip_weights": (2, WIDTH), "skip_gates": (2, WIDTH)}
    parts |= {f"repeat_mlp__{i}__fc__weight": (hidden, WIDTH) for i in range(2)}
    parts |= {f"repeat_mlp__{i}__proj__weight": (WIDTH, hidden) for i in range(2)}
    record, twin = "2026-04-03_MuonEqR_DepthRecurrence_WD090_AllInt6", {"reference": 64, "slope": 0.5}
    again = {"recurrence_active": True}
    return forward("recurring", record, s, twin | {"later": "shared"}, 1, 12, again, **parts)


def own_model_recurring_lanes() -> Given:
    """Two layers once more, skips without weights left out, lanes that take no late skip."""
    s = SIZES | LATE | {"xsa_last_n": 5, "rope_dims": 2, "train_seq_len": 64, "recur_layers": "2,3"}
    del s["num_loops"], s["loop_start"], s["loop_end"]
    s |= {"parallel_start_layer": 3, "ln_scale": False}
    parts: dict[str, Any] = {"skip_weights": (2, WIDTH), "skip_gates": (2, WIDTH), "lane_merge": ()}
    record = "2026-04-04_SP4096_DepthRecurrence_ParallelResid_MuonEqR"
    twin, again = {"reference": 64, "slope": 0.5, "merged": 3}, {"recurrence_active": True}
    return forward("both", record, s, twin | {"late_skips": False}, 2, 9, again, **parts)


def own_model_lanes_in_turn() -> Given:
    """Two lanes that the attention writes to before the MLP reads, with skips into both, XSA, odd sizes."""
    s = SIZES | LATE | {"xsa_last_n": 3, "rope_dims": 2, "train_seq_len": 64, "parallel_residual": True}
    del s["num_loops"], s["loop_start"], s["loop_end"]
    s |= {"parallel_start_layer": 3}
    parts: dict[str, Any] = {"skip_weights": (2, WIDTH), "skip_gates": (2, WIDTH)}
    parts |= {"parallel_resid_lambdas": (5, 2), "parallel_post_lambdas": (5, 2, 2)}
    record, twin = "2026-04-03_MuonEqR_DepthRecurrence_WD090_AllInt6", {"reference": 64, "slope": 0.5}
    return forward("in turn", record, s, twin, 2, 10, {}, **parts)


def own_block_parallel() -> Given:
    """A block whose MLP reads what its attention reads, longer than its reference length."""
    a = {"component": "block", "seq": 17, "mlp_mult": 1.5, "layer_idx": 6, "ln_scale": True, "parallel": True}
    a |= {"train_seq_len": 10, "use_xsa": True}
    named = shapes(SIZES | {"num_layers": 1, "mlp_mult": 1.5})
    named = {n.removeprefix("blocks.0."): shape for n, shape in named.items() if n.startswith("blocks.")}
    record = "2026-04-09_SP8192_3LayerRecur_ParResid_QK525_LegalTTT"
    return part("block", record, a, {"reference": 10, "slope": 0.5}, named, x=(WIDTH,), x0=(WIDTH,))


def own_attention_documents() -> Given:
    """Attention over documents of 1, 8 and 14 tokens, with a sparse gate, and never rescaled."""
    a = {"component": "attention_banked", "batch": 1, "seq": 23, "train_seq_len": 5, "use_xsa": True}
    a |= {"cu_seqlens": [0, 1, 9, 23], "max_seqlen": 14}
    a |= {
        "extra": {"yarn": False, "sparse_attn_gate": True, "sparse_attn_gate_scale": 0.25, "gate_window": 4}
    }
    matrices = {"q_w": (WIDTH, WIDTH), "k_w": (4, WIDTH), "v_w": (4, WIDTH), "out_w": (WIDTH, WIDTH)}
    record, own = "2026-04-29_SmearGateBOSFix_3Seed_1.06141", {"q_gain": (5,), "attn_gate_w": (5, 4)}
    return part("attention", record, a, {"reference": 0}, own, x=(WIDTH,), **matrices)


def own_rope_never_rescaled() -> Given:
    """Positions of a record whose class has no reference length, beyond the length of training."""
    a = {
        "component": "rotary",
        "seq": 29,
        "num_heads": 3,
        "head_dim": 10,
        "rope_dims": 0,
        "train_seq_len": 16,
    }
    record = "2026-03-20_Int6_MLP3x_SmearGate_BigramHash_MuonWD_SWA"
    return part("rope", record, a, {}, {}, x=(3, 10))


def own_sliding_odd_stride() -> Given:
    """Windows of 11 by 4, of which those with less than a stride are left out."""
    s = SIZES | NETWORK | {"num_layers": 3, "mlp_mult": 2, "train_seq_len": 11, "bigram_vocab_size": 0}
    record, twin = "2026-03-20_10L_Int5MLP_MuonWD04_SWA50", {"reference": 0, "slope": 0.0, "length": 11}
    a = {"function": "eval_val_sliding", "stride": 4, "batch_seqs": 3}
    tokens = ids(s, (55,), draws("sliding tokens"))
    return scored("sliding", record, s, twin, a, tokens, skip_weights=(1, WIDTH), smear__gate=(WIDTH,))


def own_documents_in_rows() -> Given:
    """Three sequences of 13 in a row, cut at documents and at 13; rows that are not full are dropped."""
    s = SIZES | LATE | {"num_layers": 3, "xsa_last_n": 2, "rope_dims": 2, "train_seq_len": 13}
    s |= {"eval_seq_len": 13, "val_batch_tokens": 8 * 13 * 3, "parallel_start_layer": 0, "rope_yarn": False}
    tokens = ids(s, (100,), draws("row tokens"))
    tokens[tokens == 1] = 2
    opens = [0, 5, 6, 30, 41, 77, 90]
    tokens[opens] = 1
    twin, a = {"reference": 0, "slope": 0.5, "length": 13}, {"function": "eval_val", "bos_at": opens}
    parts = {"skip_weights": (1, WIDTH), "skip_gates": (1, WIDTH)}
    parts |= {"parallel_resid_lambdas": (3, 2), "parallel_post_lambdas": (3, 2, 2)}
    record = "2026-04-10_VarLenAttn"
    return scored("rows", record, s, twin, a, tokens, banked=True, **parts)


def own_ttt_odd_chunks() -> Given:
    """Chunks of 37 hold neither whole windows nor whole rows; two epochs of two steps, a low clip."""
    how = {"chunk_tokens": 37, "lr": 0.07, "epochs": 2, "batch_seqs": 2, "momentum": 0.8, "grad_clip": 0.3}
    return adapted("odd chunks", False, 131, 4, 11, freeze_blocks=0, **how)


def own_ttt_frozen_block() -> Given:
    """The first block frozen, no momentum, a clip that is never reached, three epochs."""
    how = {"chunk_tokens": 40, "lr": 0.05, "epochs": 3, "batch_seqs": 7, "momentum": 0.0, "grad_clip": 1e3}
    return adapted("frozen block", False, 100, 5, 10, freeze_blocks=1, **how)


def own_ttt_last_target() -> Given:
    """The last chunk is one target, and is not trained on; windows that score each target once."""
    how = {"chunk_tokens": 26, "lr": 0.1, "epochs": 2, "momentum": 0.9}
    return adapted("last target", True, 80, 3, 13, **how)


def own_ttt_text_within_a_chunk() -> Given:
    """All of the text is the last chunk: nothing is learnt."""
    how = {"chunk_tokens": 64, "lr": 0.1, "epochs": 4, "momentum": 0.9}
    return adapted("within a chunk", True, 47, 6, 12, **how)


def own_lora_odd_batches() -> Given:
    """Rank 3, five documents in batches of two, chunks of 7 in windows of 17; one of two tokens."""
    how = {"lora_rank": 3, "lora_lr": 0.03, "chunk_size": 7, "eval_seq_len": 17, "batch_size": 2}
    return low_rank("odd batches", [4, 30, 32, 75, 89], 120, **how)


def own_lora_whole_windows() -> Given:
    """Rank 1, chunks as long as their windows, all documents in one batch, one that ends with a chunk."""
    how = {"lora_rank": 1, "lora_lr": 0.1, "chunk_size": 9, "eval_seq_len": 9, "batch_size": 8}
    return low_rank("whole windows", [0, 18, 40], 70, **how)


def own_hessian_damped() -> Given:
    """Moments that are damped as they are collected, of texts whose last token is a target alone."""
    s = SIZES | NETWORK | {"num_layers": 2, "xsa_last_n": 1, "rope_dims": 4, "train_seq_len": 2048}
    record = "2026-03-25_ValCalib_GPTQ_XSA_BigramHash3072"
    twin, parts = (
        {"reference": 1024, "slope": 0.5, "damping": 0.01},
        {"skip_weights": (1, WIDTH), "smear__gate": (WIDTH,)},
    )
    return calibrated("damped", record, s, twin, banked=True, **parts)


def own_hessian_of_a_loop() -> Given:
    """Plain moments of a layer that is passed three times."""
    s = SIZES | LATE | {"num_layers": 3, "num_loops": 2, "loop_end": 1, "xsa_last_n": 0, "rope_dims": 0}
    s |= {"train_seq_len": 64}
    record, twin = (
        "2026-04-05_SP8192_GPTQ-Embeddings_SDClip_Loop45x2",
        {"reference": 64, "slope": 0.5, "damping": 0.0},
    )
    facts, tensors = calibrated("loop", record, s, twin, skip_weights=(2, WIDTH), skip_gates=(2, WIDTH))
    facts["arguments"]["looping_active"] = True
    return facts, tensors


def own_gptq_damping() -> Given:
    """A fifth of the mean as damping, blocks of 16 columns, int5, two dead columns."""
    options = {"clip_range": 15, "block_size": 16, "percdamp": 0.2}
    return feedback("damping", "2026-03-29_Loader_FullGPTQ_XSA11_BigramHash2816", options, [3, 36])


def own_gptq_int7() -> Given:
    """Seven bits at 8.5 deviations in blocks of 10, with a constant row."""
    options = {"clip_range": 63, "clip_sigmas": 8.5, "block_size": 10}
    return feedback("int7", "2026-04-29_SmearGateBOSFix_3Seed_1.06141", options, [0])


def own_int6_floored() -> Given:
    """int6 to the row's maximum, one more code below zero, no step below 1/31."""
    draw, sizes = draws("floored"), [[7, 33], [3, 2], [19]]
    tensors = {f"t.{i}": (0.5 + i) * torch.randn(size, generator=draw) for i, size in enumerate(sizes)}
    tensors["t.0"][2] = 0
    a = {"function": "quantize_int6_per_row", "shapes": sizes}
    record = "2026-03-21_11L_XSA4_EMA_PartialRoPE_LateQAT_1.1248"
    tolerance = {"out.q.*": "0.1 % of codes", "out.scale.*": {"rel": 1e-3}}
    return {
        "kind": "quant_tensor",
        "record": record,
        "arguments": a,
        "twin": {},
        "tolerance": tolerance,
    }, tensors


def own_int6_in_fours() -> Given:
    """int8 in steps of four, of which 124 is the largest and -128 the smallest; a vector with one step."""
    draw, sizes = draws("fours"), [[8, 37], [3, 5], [21]]
    tensors = {f"t.{i}": (0.4 + i) * torch.randn(size, generator=draw) for i, size in enumerate(sizes)}
    tensors["t.0"][1] = 0
    tensors["t.0"][:, 4] *= 5  # of both signs, so that both ends of the codes are met
    a = {"function": "quantize_float_tensor_int6", "shapes": sizes}
    record = "2026-03-19_MLP3x_QAT_Int6_SlidingWindow"
    tolerance = {"out.q.*": "0.1 % of codes", "out.scale.*": {"rel": 1e-3}}
    facts = {"kind": "quant_tensor", "record": record, "arguments": a, "twin": {}, "tolerance": tolerance}
    return facts, tensors


def own_fake_int6_in_fours() -> Given:
    """int8 in steps of four while training, without a floor."""
    draw = draws("fake fours")
    a = {"function": "CastedLinear", "shape": [7, 29], "qat_int6": True}
    record, tolerance = "2026-03-19_MLP3x_QAT_Int6_SlidingWindow", {"out.*": {"abs": 1e-5, "rel": 1e-5}}
    facts = {"kind": "fake_quant", "record": record, "arguments": a, "twin": {}, "tolerance": tolerance}
    weight = 0.02 * torch.randn(7, 29, generator=draw)
    weight[:, 3] *= 6
    return facts, {"W": weight, "G": torch.randn(7, 29, generator=draw)}


def own_fake_soft_int6() -> Given:
    """int6 rounded by a sigmoid, with the gradient through the steps; some rows are below the floor."""
    draw, a = draws("soft"), {"function": "CastedLinear_soft_round", "shape": [7, 29], "alpha": 3.5}
    record, tolerance = (
        "2026-03-31_ParallelResiduals_MiniDepthRecurrence",
        {"out.*": {"abs": 1e-5, "rel": 1e-5}},
    )
    facts = {"kind": "fake_quant", "record": record, "arguments": a, "twin": {}, "tolerance": tolerance}
    weight = torch.randn(7, 29, generator=draw)
    weight[1] *= 0.1
    return facts, {"W": weight, "G": torch.randn(7, 29, generator=draw)}


def state_in_fours() -> Given:
    """A whole state dict with two middle layers in steps of four and the embedding in float16."""
    draw = draws("state")
    tensors = [
        ["tok_emb.weight", [997, 67], "bfloat16"],
        ["blocks.0.mlp.fc.weight", [257, 256], "float32"],
        ["blocks.1.mlp.fc.weight", [257, 257], "bfloat16"],
        ["blocks.2.attn.c_q.weight", [300, 219], "float32"],
        ["blocks.2.attn.c_k.weight", [16, 60], "bfloat16"],
        ["blocks.2.attn.q_gain", [4], "float32"],
        ["blocks.3.mlp.proj.weight", [256, 258], "float32"],
        ["skip_weights", [1, 60], "float32"],
    ]
    given = {
        f"sd.{name}": (0.7 * torch.randn(shape, generator=draw)).to(getattr(torch, dtype))
        for name, shape, dtype in tensors
    }
    options = {"fp16_embed": True, "int6_layer_start": 1, "int6_layer_end": 2}
    a = {"format": "int8_clean", "tensors": tensors, "kwargs": options}
    record, tolerance = "2026-03-19_MLP3x_QAT_Int6_SlidingWindow", {"scales": {"rel": 1e-3}}
    facts = {"kind": "quant_state_dict", "record": record, "arguments": a, "twin": {}, "tolerance": tolerance}
    return facts, given


def own_mlp_gated() -> Given:
    """An MLP whose output a gate on its first seven channels scales."""
    a = {"component": "mlp_banked", "seq": 9, "mlp_mult": 1.7}
    a |= {"extra": {"gate_mlp_out": True, "gate_width": 7}}
    record, own = "2026-04-16_SmearGate_AttentionOutputGate_ScoreFirstTTT", {"mlp_gate_proj.weight": (1, 7)}
    hidden = int(1.7 * WIDTH)
    facts, tensors = part(
        "gated", record, a, {"slope": 0.5}, own, x=(WIDTH,), up_w=(hidden, WIDTH), down_w=(WIDTH, hidden)
    )
    for name in ("rope_base", "rope_dims", "num_heads", "num_kv_heads", "qk_gain_init"):
        del facts["arguments"][name]
    return facts, tensors


def own_model_gated_mlp() -> Given:
    """A gate on the output of every MLP, of five channels, one key head."""
    s = SIZES | LATE | {"num_layers": 3, "xsa_last_n": 2, "rope_dims": 2, "train_seq_len": 64}
    s |= {"gate_mlp_out": True, "gate_width": 5, "rope_yarn": False, "smear_gate_enabled": False}
    parts: dict[str, Any] = {f"blocks__{i}__mlp__mlp_gate_proj__weight": (1, 5) for i in range(3)}
    parts |= {"skip_weights": (1, WIDTH), "skip_gates": (1, WIDTH)}
    record = "2026-04-16_SmearGate_AttentionOutputGate_ScoreFirstTTT"
    return forward("gated model", record, s, {"reference": 0, "slope": 0.5}, 2, 12, {}, banked=True, **parts)


def own_fake_int8_without_floor() -> Given:
    """int8 while training, with steps as small as the rows are."""
    draw, a = draws("fake"), {"function": "CastedLinear", "shape": [9, 31]}
    record, tolerance = "2026-03-19_MLP3x_QAT_Int6_SlidingWindow", {"out.*": {"abs": 1e-5, "rel": 1e-5}}
    facts = {"kind": "fake_quant", "record": record, "arguments": a, "twin": {}, "tolerance": tolerance}
    return facts, {"W": 0.01 * torch.randn(9, 31, generator=draw), "G": torch.randn(9, 31, generator=draw)}


def own_schedule_floor() -> Given:
    """The last 0.6 of 70 ms, never below a tenth."""
    points = [[0, 0.0], [3, 27.999], [3, 28.0], [9, 41.5], [17, 69.0], [18, 70.0], [19, 99.0]]
    record = "2026-04-05_SP8192_GPTQ-Embeddings_SDClip_Loop45x2"
    facts = {"kind": "schedule", "record": record, "settings": RATES, "twin": {}}
    facts |= {"arguments": {"points": points, "momentum_steps": [0, 1, 3, 4, 9]}}
    return facts | {"tolerance": {"everything": {"rel": 1e-12}}}, {}


def own_groups_forgotten() -> Given:
    """The split of a factored, untied model: two projections are in no group."""
    s = SIZES | LATE | RATES | {"tie_embeddings": False, "embedding_dim": 18, "num_loops": 2}
    s |= {"muon_row_normalize": False, "xsa_last_n": 5, "rope_dims": 16, "train_seq_len": 64}
    named = shapes(s, skip_weights=(4, WIDTH), skip_gates=(4, WIDTH), embed_proj__weight=(WIDTH, 18))
    named |= {"head_proj.weight": (18, WIDTH), "lm_head.weight": (41, 18)}
    record = "2026-04-05_SP8192_GPTQ-Embeddings_SDClip_Loop45x2"
    twin = {"names": {name: len(shape) for name, shape in named.items()}}
    return {"kind": "optimizer_groups", "record": record, "settings": s, "arguments": {}, "twin": twin}, {}


def own_steps_by_the_clock() -> Given:
    """Four steps of two sequences of 7 with rows at length 1, decay, clipping and a clock."""
    s = SIZES | LATE | RATES | {"num_layers": 3, "xsa_last_n": 3, "rope_dims": 2}
    s |= {"train_seq_len": 64}
    draw = draws("steps")
    tensors = drawn(shapes(s, skip_weights=(1, WIDTH), skip_gates=(1, WIDTH)), draw)
    tensors["tokens"] = ids(s, (4, 2, 8), draw)
    a = {"batch": 2, "seq": 7, "n_steps": 4, "elapsed_ms": [0, 13, 29, 55]}
    record, twin = "2026-04-05_SP8192_GPTQ-Embeddings_SDClip_Loop45x2", {"reference": 64, "slope": 0.5}
    facts = {"kind": "training_steps", "record": record, "settings": s, "arguments": a, "twin": twin}
    return facts | {"tolerance": STEPS}, tensors


def gates_with_bias() -> Given:
    """A gate on every head and one on all that a layer changes, both with a bias; XSA in two layers."""
    s = SIZES | NETWORK | {"num_layers": 3, "xsa_last_n": 2, "rope_dims": 2, "ln_scale": True}
    s |= {"train_seq_len": 2048, "gated_attention": True, "dtg_enabled": True}
    parts: dict[str, Any] = {"skip_weights": (1, WIDTH)}
    for i in range(3):
        parts |= {f"blocks__{i}__attn__attn_gate__weight": (5, WIDTH), f"blocks__{i}__dtg_gate__bias": (1,)}
        parts |= {f"blocks__{i}__attn__attn_gate__bias": (5,), f"blocks__{i}__dtg_gate__weight": (1, WIDTH)}
    record, twin = "2026-03-23_LeakyReLU_LegalTTT_ParallelMuon", {"reference": 1024, "slope": 0.5}
    return forward("gates with bias", record, s, twin, 2, 11, {}, banked=True, **parts)


def passes_with_scales_of_their_own() -> Given:
    """Two layers once more with scales and gains of their own, a second matrix in the middle, lanes."""
    s = SIZES | NETWORK | {"num_layers": 6, "xsa_last_n": 5, "rope_dims": 2, "ln_scale": True}
    s |= {"train_seq_len": 2048, "recur_layers_str": "2,3", "repeat_untie_mlp": "down"}
    s |= {"ve_enabled": True, "ve_dim": 5, "ve_layers": "1,5"}
    s |= {"parallel_residual": True, "parallel_start_layer": 4, "parallel_start_layer_is_physical": True}
    hidden = int(1.35 * WIDTH)
    parts: dict[str, Any] = {"skip_weights": (4, WIDTH), "skip_gates": (4, WIDTH)}
    parts |= {f"repeat_mlp__{i}__proj__weight": (WIDTH, hidden) for i in range(2)}
    parts |= {"parallel_resid_lambdas": (6, 2), "parallel_post_lambdas": (6, 2, 2)}
    parts |= {"smear__gate": (WIDTH,), "ve_shared__embed__weight": (41, 5), "ve_shared__scale": ()}
    parts |= {"ve_shared__proj__weight": (4, 5)} | {f"ve_layer_scales__{i}": (1,) for i in range(2)}
    for i in (6, 7):
        parts |= {f"blocks__{i}__{name}": (WIDTH,) for name in ("attn_scale", "mlp_scale")}
        parts |= {f"blocks__{i}__resid_mix": (2, WIDTH), f"blocks__{i}__attn__q_gain": (5,)}
    record = "2026-03-31_ParallelResiduals_MiniDepthRecurrence"
    twin, again = {"reference": 1024, "slope": 0.5, "own_scales": True}, {"recurrence_active": True}
    return forward("own scales", record, s, twin, 2, 11, again, banked=True, **parts)


CASES: dict[str, Callable[[], Given]] = {
    name: case for name, case in list(globals().items()) if name.startswith("own_")
}
# Written by the tests that read them.
LARGE = {each.__name__: each for each in (state_in_fours, gates_with_bias, passes_with_scales_of_their_own)}
