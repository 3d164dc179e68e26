"""What the twin computes for a case, by kind, from its facts and the tensors that are given."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from tests.golden_twin import network, squeeze, training
from tests.golden_twin.network import Weights

Facts = dict[str, Any]
Tensors = dict[str, Tensor]
Outputs = tuple[dict[str, Any], Tensors]


def weights_of(tensors: Tensors) -> Weights:
    return {k[8:]: v.double() for k, v in tensors.items() if k.startswith("weights.")}


def switches(facts: Facts, time: int) -> dict[str, Any]:
    """What the hyperparameters mean for the network; `twin` says what the record has in its code."""
    s, record = facts["effective_hyperparameters"], facts["twin"]
    layers, loops = s["num_layers"], s.get("num_loops", 0)
    order = list(range(layers))
    if loops and facts["arguments"].get("looping_active"):
        first, last = s["loop_start"], s["loop_end"]
        order = [*range(first), *(list(range(first, last + 1)) * (loops + 1)), *range(last + 1, layers)]
    again = sorted(int(i) for i in s.get("recur_layers", s.get("recur_layers_str", "")).split(",") if i)
    if again and facts["arguments"].get("recurrence_active"):
        order = [*range(again[-1] + 1), *again, *range(again[-1] + 1, layers)]
    parallel, lanes = s.get("parallel_residual_start", -1), s.get("parallel_start_layer", 0)
    used = [int(i) for i in s.get("ve_layers", "").split(",") if i] if s.get("ve_enabled") else []
    return {
        "layers": layers,
        "order": order,
        "heads": s["num_heads"],
        "kv_heads": s["num_kv_heads"],
        "cap": s["logit_softcap"],
        "rope_dims": s.get("rope_dims", 0),
        "rope_base": s["rope_base"],
        "reference": record["reference"],
        "window": max(time, record.get("window", 0)),
        "xsa_last": s.get("xsa_last_n", 0),
        "ln_scale": s.get("ln_scale", False),
        "slope": record["slope"],
        "gate_scale": s.get("sparse_attn_gate_scale", 1.0),
        "parallel": parallel if parallel >= 0 else layers,
        "lanes": lanes if lanes > 0 and "merged" not in record else layers,
        "value_layers": used,
        "value_residual": s.get("value_residual", False),
        "in_turn": s.get("parallel_residual", False),
        "again": again[0] if again else 0,
        "merged": record.get("merged", layers),
        "late_skips": record.get("late_skips", True),
        "later": record.get("later", "none"),
        "own_scales": record.get("own_scales", False),
        "smear_stops_at_bos": record.get("smear_stops_at_bos", False),
    }


def model_forward(facts: Facts, tensors: Tensors) -> Outputs:
    weights = {name: w.requires_grad_() for name, w in weights_of(tensors).items()}
    ids, targets = tensors["input_ids"].long(), tensors["target_ids"].long()
    found = network.logits(weights, ids, switches(facts, ids.shape[1]), [[0] * ids.shape[1]] * len(ids))
    nats = network.nats(found, targets)
    nats.mean().backward()
    norms = {name: None if w.grad is None else float(w.grad.norm()) for name, w in weights.items()}
    expected = {"mean_loss": float(nats.detach().mean()), "grad_l2_norms": norms}
    return expected, {"out.logits": found.detach(), "out.nll": nats.detach()}


def component(facts: Facts, tensors: Tensors) -> Outputs:
    a, record = facts["arguments"], facts["twin"]
    given = {k: v.double() for k, v in tensors.items() if k not in ("input_ids", "cu_seqlens")}
    if a["component"] == "rotary":
        cos, sin = network.angles(a["seq"], a["rope_dims"] or a["head_dim"], a["rope_base"], 0, a["seq"])
        return {}, {"out.cos": cos, "out.sin": sin, "out.y": network.turned(given["x"], cos, sin)}
    if a["component"] == "mlp_banked":
        own = {"fc": given["up_w"], "mlp_proj": given["down_w"]}
        own |= {"mlp_gate": weights_of(tensors)["mlp_gate_proj.weight"]} if a["extra"]["gate_mlp_out"] else {}
        return {}, {"out.y": network.mlp(own, given["x"], {"slope": record["slope"]})}
    how = {
        "heads": a["num_heads"],
        "kv_heads": a["num_kv_heads"],
        "rope_dims": a["rope_dims"],
        "rope_base": a["rope_base"],
        "reference": record["reference"],
        "xsa": a["use_xsa"],
        "slope": record.get("slope", 0.0),
        "gate_scale": a.get("extra", {}).get("sparse_attn_gate_scale", 1.0),
    }
    x, w = given["x"], weights_of(tensors)
    starts = a.get("cu_seqlens", [0])
    document = [[sum(t >= start for start in starts) for t in range(x.shape[1])]] * len(x)
    if a["component"] == "attention_banked":
        p = w | {s: given[b] for s, b in zip(("c_q", "c_k", "c_v", "proj"), ("q_w", "k_w", "v_w", "out_w"))}
        return {}, {"out.y": network.attention(p, x, how, document)}
    p = network.layer_weights({f"blocks.0.{name}": t for name, t in w.items()}, 0, 1, 0)
    stream = p["resid_mix"][0] * x + p["resid_mix"][1] * given["x0"]
    factor = (a["layer_idx"] + 1) ** -0.5 if a["ln_scale"] else 1.0
    y = stream + p["attn_scale"] * network.attention(p, factor * network.norm(stream), how, document)
    read = stream if a.get("parallel") else y
    return {}, {"out.y": y + p["mlp_scale"] * network.mlp(p, factor * network.norm(read), how)}


def scoring(facts: Facts, tensors: Tensors) -> Outputs:
    a, s, record = facts["arguments"], facts["effective_hyperparameters"], facts["twin"]
    weights, ids = weights_of(tensors), tensors["val_tokens"].long()
    length, targets = record["length"], len(ids) - 1
    spans = []  # of a window: first input, end, first that is scored
    if a["function"] == "eval_val":  # rows of a whole batch, cut at documents and at the length
        span = length * (s["val_batch_tokens"] // 8 // length)
        spans = [(start, start + span, start) for start in range(0, targets - span + 1, span)]
    else:
        for start in range(0, targets, a["stride"]):
            end = min(start + length, targets)
            if end - start >= a["stride"] or start == 0:
                spans.append((start, end, max(start, end - a["stride"]) if start else 0))
    order, total = [], 0.0
    for start, end, scored in spans:
        row = ids[None, start:end]
        apart = network.documents(row, length) if a["function"] == "eval_val" else [[0] * (end - start)]
        with torch.no_grad():
            found = network.logits(weights, row, switches(facts, end - start), apart)
        nats = network.nats(found, ids[None, start + 1 : end + 1])[0]
        total += float(nats[scored - start :].sum())
        order += range(scored + 1, end + 1)
    times = torch.bincount(torch.tensor(order), minlength=len(ids))
    text = text_bytes(tensors, order)
    loss = total / len(order)
    expected = {
        "val_loss": loss,
        "val_bpb": loss / 0.6931471805599453 * len(order) / text,
        "loss_sum": total,
        "token_count": float(len(order)),
        "byte_count": float(text),
        "tokens_scored_more_than_once": int((times > 1).sum()),
        "tokens_never_scored_excluding_first": int((times[1:] == 0).sum()),
    }
    names = ("out.scored_order", "out.times_scored_per_token_index")
    return expected, {name: t.int() for name, t in zip(names, (torch.tensor(order), times))}


def text_bytes(tensors: Tensors, order: Iterable[int]) -> int:
    ids = tensors["val_tokens"].long()
    return sum(
        int(tensors["base_bytes"][ids[i]])
        + int(tensors["has_leading_space"][ids[i]] and not tensors["is_boundary"][ids[i - 1]])
        for i in order
    )


def scoring_ttt(facts: Facts, tensors: Tensors) -> Outputs:
    """Each chunk is scored, then trained on by gradient descent with momentum; the last one is not."""
    a, s, length = facts["arguments"], facts["effective_hyperparameters"], facts["twin"]["length"]
    weights, ids = weights_of(tensors), tensors["val_tokens"].long()
    targets, size, stride = len(ids) - 1, s["ttt_chunk_tokens"], a["stride"]
    once = a["function"] == "eval_val_ttt"
    spans = []
    for start in range(0, targets, stride):
        end = min(start + length, targets)
        if once and start and start + length - stride < targets:
            spans.append((start, end, start + length - stride))
        elif start == 0 or not once and end - start >= stride:
            spans.append((start, end, max(start, end - stride) if start else 0))
    count = -(-targets // size)
    frozen = [f"blocks.{i}." for i in range(s.get("ttt_freeze_blocks", 0))]
    learning = [name for name in weights if not any(name.startswith(each) for each in frozen)]
    speeds: Tensors = {}
    sums, order = [[0.0, 0.0, 0.0] for _ in range(count)], []
    for chunk in range(count):
        for start, end, scored in (span for span in spans if span[2] // size == chunk):
            row, how = ids[None, start:end], switches(facts, end - start)
            found = network.logits(weights, row, how, [[0] * (end - start)])
            nats = network.nats(found, ids[None, start + 1 : end + 1])[0, scored - start :]
            places = range(scored + 1, end + 1)
            order += places
            new = float(nats.sum()), float(len(places)), float(text_bytes(tensors, places))
            sums[chunk] = [old + more for old, more in zip(sums[chunk], new)]
        if chunk == count - 1:
            break
        rate = s["ttt_lr"] * (1 + math.cos(math.pi * chunk / (count - 1))) / 2
        first, last = chunk * size, min((chunk + 1) * size, targets)
        starts = range(first, first + (last - first) // length * length, length)
        batch = s.get("ttt_batch_seqs", a["batch_seqs"])
        for begin in [*range(0, len(starts), batch)] * s["ttt_epochs"]:
            rows = torch.stack([ids[start : start + length + 1] for start in starts[begin : begin + batch]])
            live = {n: w.clone().requires_grad_(n in learning) for n, w in weights.items()}
            found = network.logits(live, rows[:, :-1], switches(facts, length), [[0] * length] * len(rows))
            network.nats(found, rows[:, 1:]).mean().backward()
            pulls = {n: live[n].grad for n in learning if live[n].grad is not None}
            norm = float(torch.stack([each.norm() for each in pulls.values()]).norm())
            factor = min(1.0, s.get("ttt_grad_clip", 1.0) / (norm + 1e-6))
            for name, pull in pulls.items():
                speeds[name] = s["ttt_momentum"] * speeds.get(name, 0) + factor * pull
                weights[name] = weights[name] - rate * speeds[name]
    nats, tokens, size_in_bytes = (sum(row[i] for row in sums) for i in range(3))
    times = torch.bincount(torch.tensor(order), minlength=len(ids))
    kept = [row for row in sums if row[1]]
    expected = {
        "val_loss": nats / tokens,
        "val_bpb": nats / math.log(2) / size_in_bytes,
        "loss_sum": nats,
        "token_count": tokens,
        "byte_count": size_in_bytes,
        "chunks_loss_sum_tokens_bytes": kept,
        "chunk_mean_losses": [row[0] / row[1] for row in kept],
        "tokens_scored_more_than_once": int((times > 1).sum()),
        "tokens_never_scored_excluding_first": int((times[1:] == 0).sum()),
    }
    outputs = {"out.scored_order": torch.tensor(order).int(), "out.times_scored_per_token_index": times.int()}
    return expected, outputs | {f"out.after.{name}": w.detach() for name, w in weights.items()}


def scoring_lora_ttt(facts: Facts, tensors: Tensors) -> Outputs:
    """Each document by itself; its factors are multiplied out and added to the matrices beside them."""
    s, ids = facts["effective_hyperparameters"], tensors["val_tokens"].long()
    weights, opens = weights_of(tensors), facts["arguments"]["bos_at"]
    places = {"lm_head_lora": "tok_emb.weight"}
    for i in range(s["num_layers"]):
        places |= {f"{short}_loras.{i}": f"blocks.{i}.attn.c_{short}.weight" for short in "qv"}
    chunk, length = s["ttt_chunk_size"], s["ttt_eval_seq_len"]
    ends = [*opens[1:], len(ids) - 1]  # a document ends with the start of the next as its last target
    chunks = [-(-(end - start) // chunk) for start, end in zip(opens, ends)]
    queue = sorted(range(len(opens)), key=lambda document: chunks[document])
    batches = [queue[i : i + s["ttt_batch_size"]] for i in range(0, len(queue), s["ttt_batch_size"])]
    found: dict[int, list[tuple[float, int]]] = {}
    outputs: dict[str, list[Tensor]] = {}
    for batch in batches:
        most = max(chunks[document] for document in batch)
        for document in batch:
            row = queue.index(document)
            factors = {f"{place}.A": tensors[f"lora.{place}.A"][row].double() for place in places}
            factors |= {
                f"{p}.B": torch.zeros(len(weights[n]), s["ttt_lora_rank"]).double() for p, n in places.items()
            }
            state = {name: (torch.zeros_like(f), torch.zeros_like(f)) for name, f in factors.items()}
            found[document] = []
            for number in range(most):
                pulls = {name: torch.zeros_like(f) for name, f in factors.items()}
                if number < chunks[document]:
                    begin = opens[document] + number * chunk
                    end = min(begin + chunk, ends[document])
                    start = max(end - length, opens[document])
                    live = {name: f.clone().requires_grad_() for name, f in factors.items()}
                    own = dict(weights)
                    for place, name in places.items():
                        into = "lm_head.weight" if place == "lm_head_lora" else name
                        own[into] = weights[name] + live[f"{place}.B"] @ live[f"{place}.A"]
                    logits = network.logits(
                        own, ids[None, start:end], switches(facts, end - start), [[0] * (end - start)]
                    )
                    nats = network.nats(logits, ids[None, start + 1 : end + 1])[0, begin - start :]
                    found[document].append((float(nats.detach().sum()), end - begin))
                    if number < chunks[document] - 1:
                        nats.mean().backward()
                        pulls = {name: f.grad for name, f in live.items()}
                if number < most - 1:  # one optimizer for the batch: it goes on where a document has ended
                    for name, pull in pulls.items():
                        one, two = state[name]
                        one = s["beta1"] * one + (1 - s["beta1"]) * pull
                        two = s["beta2"] * two + (1 - s["beta2"]) * pull.square()
                        state[name] = one, two
                        up, down = (1 - s[b] ** (number + 1) for b in ("beta1", "beta2"))
                        step = one / up / ((two / down).sqrt() + 1e-10)
                        factors[name] = factors[name] - s["ttt_lora_lr"] * step
            for name, factor in factors.items():
                outputs.setdefault(f"out.lora.{name}", []).append(factor)
    events = [
        [row, *found[document][number]]
        for batch in batches
        for number in range(max(chunks[document] for document in batch))
        for row, document in enumerate(batch)
        if number < chunks[document]
    ]
    nats, tokens = sum(each[1] for each in events), sum(each[2] for each in events)
    size = text_bytes(tensors, range(opens[0] + 1, len(ids)))
    expected = {
        "val_loss": nats / tokens,
        "val_bpb": nats / math.log(2) / size,
        "events_batchrow_losssum_tokens_in_order": events,
        "documents_start_length": [[start, end - start + 1] for start, end in zip(opens, ends)],
    }
    return expected, {name: torch.stack(each) for name, each in outputs.items()}


def hessian(facts: Facts, tensors: Tensors) -> Outputs:
    weights, moments = weights_of(tensors), dict[str, Tensor]()
    batches = [
        batch[:, :-1] for batch in tensors["tokens"].long()
    ]  # the last token of a row is a target alone
    for batch in batches:
        how = switches(facts, batch.shape[1]) | {"moments": moments}
        network.logits(weights, batch, how, [[0] * batch.shape[1]] * len(batch))
    damping = facts["twin"]["damping"]
    outputs = {}
    for name, total in moments.items():
        mean = total / len(batches)
        mean = mean + damping * mean.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64)
        outputs[f"out.{name}"] = mean
    return {}, outputs


def quant_gptq(facts: Facts, tensors: Tensors) -> Outputs:
    options = facts["arguments"]["kwargs"]
    weight, moments = tensors["W"].double(), tensors["H"].double()
    largest, damping = options["clip_range"], options.get("percdamp", 0.01)
    if "clip_sigmas" in options:
        tried = [options["clip_sigmas"] * weight.std(dim=1) / largest]
    else:
        clips = [squeeze.clip_at(weight, share) for share in (0.999, 0.9995, 0.9999, 0.99999, 1.0)]
        tried = [(clip / largest).clamp_min(1 / largest) for clip in clips]
    best = None
    for steps in map(squeeze.half, tried):
        codes = squeeze.gptq(weight, moments, steps, largest, damping)
        kept = weight * (moments.diagonal() > 0)
        error = float((kept - codes * steps[:, None]).square().mean())
        if best is None or error < best[0]:
            best = (error, steps, codes)
    _, steps, codes = best
    nearest = squeeze.rounded(weight, steps, -largest, largest)
    expected = {
        "hessian_error_trace_EHEt": squeeze.error_under(weight, codes, steps, moments),
        "hessian_error_round_to_nearest_same_scales": squeeze.error_under(weight, nearest, steps, moments),
        "mse": float((weight - codes * steps[:, None]).square().mean()),
    }
    shipped = {"out.q": codes.to(torch.int8), "out.scale": steps.half(), "out.deq": codes * steps[:, None]}
    return expected, shipped


def quant_tensor(facts: Facts, tensors: Tensors) -> Outputs:
    errors, outputs = [], {}
    for i in range(len(facts["arguments"]["shapes"])):
        weight = tensors[f"t.{i}"].double()
        rows = weight if weight.ndim == 2 else weight[None]
        if facts["arguments"]["function"] == "quantize_float_tensor_int6":
            codes, steps, shipped = squeeze.in_fours(rows, floored=weight.ndim == 2)
            outputs |= {f"out.q.{i}": codes.view(weight.shape).to(torch.int8)}
            outputs |= {f"out.scale.{i}": shipped if weight.ndim == 2 else shipped[0]}
            back = (codes * shipped.double()[:, None]).view(weight.shape)
            outputs[f"out.deq.{i}"] = back
            errors.append(float((back - weight).square().mean()))
            continue
        most = rows.abs().amax(1)
        steps = (most / 31).clamp_min(1 / 31) if weight.ndim == 2 else most / 31
        steps = squeeze.half(steps)
        codes = squeeze.rounded(rows, steps, -32, 31)
        back = (codes * steps[:, None]).view(weight.shape)
        outputs |= {f"out.q.{i}": codes.view(weight.shape).to(torch.int8), f"out.deq.{i}": back}
        outputs[f"out.scale.{i}"] = steps.half() if weight.ndim == 2 else steps[0].half()
        errors.append(float((back - weight).square().mean()))
    return {"mse": errors}, outputs


def fake_quant(facts: Facts, tensors: Tensors) -> Outputs:
    weight = tensors["W"].double()
    if sharpness := facts["arguments"].get("alpha"):
        used, gradient = squeeze.soft_by_hand(weight, tensors["G"].double(), sharpness)
        return {}, {"out.w_used": used, "out.grad": gradient}
    steps = weight.abs().amax(1).clamp_min(1e-12) / 127
    codes = squeeze.rounded(weight, steps, -127, 127)
    if facts["arguments"].get("qat_int6"):
        codes = squeeze.fours(codes)
    used = codes * steps[:, None]
    return {}, {"out.w_used": used, "out.grad": tensors["G"].clone()}


def quant_state_dict(facts: Facts, tensors: Tensors) -> Outputs:
    """Large tensors in int8, those of the middle layers in steps of four; embedding and small ones kept."""
    options, found = facts["arguments"]["kwargs"], dict[str, Tensor]()
    parts: dict[str, dict[str, Any]] = {"dtypes": {}, "qmeta": {}, "passthrough_orig_dtypes": {}}
    payload, counted = 0, 0
    for name, _, dtype in facts["arguments"]["tensors"]:
        weight = tensors[f"sd.{name}"]
        control = name.endswith(("q_gain", "resid_mix")) or name == "skip_weights"
        if weight.numel() <= 65_536 or name == "tok_emb.weight":
            kept = weight.float() if control else weight.half()
            parts["passthrough_orig_dtypes"] |= {} if control else {name: dtype}
            found |= {f"out.passthrough.{name}": kept, f"out.deq.{name}": kept.to(weight.dtype)}
            found[f"out.deq.{name}"] = kept if control else kept.to(weight.dtype)
            payload += kept.numel() * kept.element_size()
            continue
        layer = int(name.split(".")[1])
        middle = options["int6_layer_start"] <= layer <= options["int6_layer_end"]
        codes, steps, shipped = squeeze.eight_bits(weight.double(), in_fours=middle)
        found |= {f"out.quantized.{name}": codes.to(torch.int8), f"out.scales.{name}": shipped}
        found[f"out.deq.{name}"] = (codes * shipped.double()[:, None]).to(weight.dtype)
        parts["dtypes"][name], parts["qmeta"][name] = dtype, {"scheme": "per_row", "axis": 0}
        payload += codes.numel() + 2 * len(steps)
        counted += 1
    given = [tensors[f"sd.{name}"] for name, *_ in facts["arguments"]["tensors"]]
    stats = {
        "param_count": sum(t.numel() for t in given),
        "num_tensors": len(given),
        "num_float_tensors": counted,
        "num_nonfloat_tensors": 0,
        "baseline_tensor_bytes": sum(t.numel() * t.element_size() for t in given),
        "int8_payload_bytes": payload,
    }
    return {"stats": stats, "quant_format": "int8_clean_per_row_v1", **parts}, found


def schedule(facts: Facts, tensors: Tensors) -> Outputs:
    s, a = facts["effective_hyperparameters"], facts["arguments"]
    rows = [[step, ms, training.fraction_scale(s, step, ms)] for step, ms in a["points"]]
    momenta = [[step, training.momentum(s, step)] for step in a["momentum_steps"]]
    columns = {
        "step": torch.tensor([row[0] for row in rows]),
        "elapsed_ms": torch.tensor([row[1] for row in rows], dtype=torch.float64),
        "out.lr_multiplier": torch.tensor([row[2] for row in rows], dtype=torch.float64),
        "out.momentum": torch.tensor([value for _, value in momenta], dtype=torch.float64),
    }
    return {"lr_rows_step_elapsedms_multiplier": rows, "momentum_rows_step_value": momenta}, columns


def optimizer_groups(facts: Facts, tensors: Tensors) -> Outputs:
    groups, forgotten = training.groups(facts["effective_hyperparameters"], facts["twin"]["names"])
    return (
        {"groups": groups, "parameters_in_no_group": forgotten},
        {"out.n_groups": torch.tensor([len(groups)], dtype=torch.int32)},
    )


def training_steps(facts: Facts, tensors: Tensors) -> Outputs:
    weights, s, a = weights_of(tensors), facts["effective_hyperparameters"], facts["arguments"]
    how = switches(facts, a["seq"])
    expected: dict[str, list[float]] = {
        name: [] for name in "loss_before_each_step lr_multiplier muon_momentum".split()
    }
    expected["total_grad_norm_before_clip"] = []
    steppers = training.steppers(s, weights)
    for step, tokens in enumerate(tensors["tokens"].long()):
        live = {name: w.clone().requires_grad_() for name, w in weights.items()}
        found = network.logits(live, tokens[:, :-1], how, [[0] * a["seq"]] * a["batch"])
        loss = network.nats(found, tokens[:, 1:]).mean()
        loss.backward()
        gradients = {name: w.grad for name, w in live.items() if w.grad is not None}
        norm = float(torch.stack([g.norm() for g in gradients.values()]).norm())
        scale, momentum = training.fraction_scale(s, step, a["elapsed_ms"][step]), training.momentum(s, step)
        for name, value in zip(expected, (float(loss.detach()), scale, momentum, norm)):
            expected[name].append(value)
        factor = min(1.0, s["grad_clip_norm"] / (norm + 1e-6)) if s["grad_clip_norm"] > 0 else 1.0
        for name, gradient in gradients.items():
            if name in steppers:
                weights[name] = steppers[name](weights[name], factor * gradient, scale, momentum)
    return expected, {f"out.after.{name}": w for name, w in weights.items()}


KINDS: dict[str, Callable[[Facts, Tensors], Outputs]] = {
    kind.__name__: kind
    for kind in (
        component,
        fake_quant,
        hessian,
        model_forward,
        optimizer_groups,
        quant_gptq,
        quant_state_dict,
        quant_tensor,
        schedule,
        scoring,
        scoring_lora_ttt,
        scoring_ttt,
        training_steps,
    )
}
