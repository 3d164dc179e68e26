"""The network, written out: one pass of one model, weights by their public names, in float64."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
EPSILON = 1.1920928955078125e-07  # of float32, as the norm of the scripts has it


def norm(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt()


def angles(time: int, dims: int, base: float, reference: int, window: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (time, dims / 2); the base grows where the window is longer than the reference."""
    if 0 < reference < window:
        base = base * (window / reference) ** (dims / (dims - 2))
    rows = [[t / base ** (2 * j / dims) for j in range(dims // 2)] for t in range(time)]
    table = torch.tensor(rows, dtype=torch.float64)
    return table.cos(), table.sin()


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (batch, time, heads, width) with the first dimensions turned in pairs (j, j + half)."""
    half = cos.shape[1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = cos[None, :, None], sin[None, :, None]
    return torch.cat([a * cos + b * sin, b * cos - a * sin, rest], -1)


def gathered(q: Tensor, k: Tensor, v: Tensor, document: Sequence[Sequence[int]]) -> Tensor:
    """Every query over the keys of its own document up to its own place."""
    batch, time, heads, width = q.shape
    result = torch.zeros_like(q)
    for b in range(batch):
        for h in range(heads):
            group = h * k.shape[2] // heads
            for t in range(time):
                seen = [s for s in range(t + 1) if document[b][s] == document[b][t]]
                scores = (k[b, seen, group] @ q[b, t, h]) / math.sqrt(width)
                result[b, t, h] = torch.softmax(scores, 0) @ v[b, seen, group]
    return result


def attention(
    p: Weights, x: Tensor, how: dict[str, Any], document: Sequence[Sequence[int]], added: Tensor | None = None
) -> Tensor:
    """Attention of one layer; p: c_q, c_k, c_v, proj, q_gain and what its gates have."""
    batch, time, _ = x.shape
    heads, kv_heads = how["heads"], how["kv_heads"]
    note(how, ("attn.c_q", "attn.c_k", "attn.c_v"), x)
    raw = x @ p["c_q"].T
    v = x @ p["c_v"].T + (0 if added is None else added)
    q, k, v = (
        t.view(batch, time, n, -1) for t, n in ((raw, heads), (x @ p["c_k"].T, kv_heads), (v, kv_heads))
    )
    if "first_values" in how:  # value residual
        first = how["first_values"]
        if first:
            v = p["vr_lambda"][0] * first[0] + p["vr_lambda"][1] * v
        else:
            first.append(v)
    window = how.get("window", time)
    cos, sin = angles(time, how["rope_dims"] or q.shape[3], how["rope_base"], how["reference"], window)
    q = turned(norm(q), cos, sin) * p["q_gain"][None, None, :, None]
    y = gathered(q, turned(norm(k), cos, sin), v, document)
    if how.get("xsa"):
        own = torch.stack([v[:, :, h * kv_heads // heads] for h in range(heads)], 2)
        own = own / own.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        y = y - (y * own).sum(-1, keepdim=True) * own
    if "attn_gate_w" in p:
        seen = x[..., : p["attn_gate_w"].shape[1]]
        y = y * torch.sigmoid(how.get("gate_scale", 1.0) * (seen @ p["attn_gate_w"].T))[..., None]
    if "attn_gate" in p:
        y = y * torch.sigmoid(x @ p["attn_gate"].T + p["attn_gate_bias"])[..., None]
    y = y.reshape(batch, time, -1)
    note(how, ("attn.proj",), y)
    return y @ p["proj"].T


def mlp(p: Weights, x: Tensor, how: dict[str, Any]) -> Tensor:
    note(how, ("mlp.fc",), x)
    hidden = x @ p["fc"].T
    hidden = torch.where(hidden > 0, hidden, how["slope"] * hidden).square()
    note(how, ("mlp.proj",), hidden)
    y = hidden @ p["mlp_proj"].T
    if "mlp_gate" not in p:
        return y
    seen = x[..., : p["mlp_gate"].shape[1]]
    return y * 2 * torch.sigmoid(seen @ p["mlp_gate"][0])[..., None]


def note(how: dict[str, Any], names: Sequence[str], x: Tensor) -> None:
    """Add the moments of what goes into matrices of this layer, where someone asks."""
    for name in names if "moments" in how else ():
        rows, key = x.flatten(0, 1), f"blocks.{how['layer']}.{name}.weight"
        how["moments"][key] = how["moments"].get(key, 0) + rows.T @ rows


def layer_weights(weights: Weights, i: int, layers: int, block: int) -> Weights:
    """The tensors of layer i by short names, out of banks where there are some; small ones of a block."""
    own = f"blocks.{block}."
    p = {
        n.removeprefix(own).split(".")[-1]: w
        for n, w in weights.items()
        if n.startswith(own) and n[-7:] != ".weight"
    }
    for short, name in (("attn_gate", "attn.attn_gate"), ("dtg", "dtg_gate")):
        if f"{own}{name}.weight" in weights:
            p |= {short: weights[f"{own}{name}.weight"], f"{short}_bias": weights[f"{own}{name}.bias"]}
    for short, name in (("c_q", "attn.c_q"), ("c_k", "attn.c_k"), ("c_v", "attn.c_v"), ("proj", "attn.proj")):
        if f"{own}{name}.weight" in weights:
            p[short] = weights[f"{own}{name}.weight"]
    if f"{own}mlp.mlp_gate_proj.weight" in weights:
        p["mlp_gate"] = weights[f"{own}mlp.mlp_gate_proj.weight"]
    if "qo_bank" in weights:
        qo, kv = weights["qo_bank"], weights["kv_bank"]
        p |= {"c_q": qo[i], "c_k": kv[i], "c_v": kv[layers + i], "proj": qo[layers + i]}
        return p | {"fc": weights["mlp_up_bank"][i], "mlp_proj": weights["mlp_down_bank"][i]}
    return p | {"fc": weights[f"{own}mlp.fc.weight"], "mlp_proj": weights[f"{own}mlp.proj.weight"]}


def embedded(weights: Weights, ids: Tensor, how: dict[str, Any]) -> Tensor:
    """What enters the first layer."""
    x = weights["tok_emb.weight"][ids]
    if "bigram.embed.weight" in weights:
        x = x + bigram(weights, ids)
    if "smear_lambda" in weights:
        w, before = weights["smear_gate.weight"][0], x
        x = x.clone()
        for b in range(ids.shape[0]):
            for t in range(1, ids.shape[1]):
                if not (how["smear_stops_at_bos"] and ids[b, t] == 1):
                    gate = torch.sigmoid(before[b, t, : len(w)] @ w)
                    x[b, t] = before[b, t] + weights["smear_lambda"] * gate * before[b, t - 1]
    x = norm(x)
    if "embed_proj.weight" in weights:
        x = x @ weights["embed_proj.weight"].T
    if "smear.gate" in weights:
        share = torch.sigmoid(weights["smear.gate"])
        x = (1 - share) * x + share * torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    return x


def bigram(weights: Weights, ids: Tensor) -> Tensor:
    buckets = len(weights["bigram.embed.weight"])
    places = [
        [buckets - 1] + [((36313 * b) ^ (27191 * a)) % (buckets - 1) for a, b in zip(row, row[1:])]
        for row in ids.tolist()
    ]
    rows = weights["bigram.embed.weight"][torch.tensor(places)]
    return weights["bigram.scale"] * (rows @ weights["bigram.proj.weight"].T)


def logits(weights: Weights, ids: Tensor, how: dict[str, Any], document: Sequence[Sequence[int]]) -> Tensor:
    """The capped logits (batch, time, vocabulary). how: sizes and switches, see `cases`."""
    layers, order = how["layers"], how["order"]
    start = embedded(weights, ids, how)
    first = len(order) // 2
    how = how | ({"first_values": []} if how.get("value_residual") else {})
    x, lanes, kept, pair = start, None, [], None
    for place, i in enumerate(order):
        block = place if how.get("own_scales") else i
        p = layer_weights(weights, i, layers, block)
        if how.get("own_scales"):  # the passes in the middle, whichever layers these are
            number = f"repeat_mlp.{place - first}."
            if 0 <= place - first < len(order) - layers and number + "proj.weight" in weights:
                p |= {"fc": weights.get(number + "fc.weight", p["fc"])}
                p |= {"mlp_proj": weights[number + "proj.weight"]}
        elif i in order[:place] and (number := f"repeat_mlp.{i - how['again']}.") + "fc.weight" in weights:
            p |= {"fc": weights[f"{number}fc.weight"], "mlp_proj": weights[f"{number}proj.weight"]}
        row, two = place - first, place >= first and how.get("lanes", layers) <= i
        if two and lanes is None:
            lanes = [x, x]
        if lanes and not two:  # an earlier layer that the loop comes back to: nothing happens
            continue
        rows = len(weights.get("skip_weights", ()))
        if 0 <= row < len(kept) and (row < rows or how.get("later") == "shared"):
            own = min(row, rows - 1)
            skip = weights["skip_weights"][own] * kept[first - 1 - row]

            def joined(into: Tensor, skip: Tensor = skip, own: int = own) -> Tensor:
                if "skip_gates" not in weights:
                    return into + skip
                share = torch.sigmoid(weights["skip_gates"][own])
                return share * into + (1 - share) * skip

            if pair:
                pair = [joined(pair[0]), pair[1]] if how["late_skips"] else pair
            elif lanes:
                lanes = [joined(lanes[0]), joined(lanes[1]) if how.get("in_turn") else lanes[1]]
            else:
                x = joined(x)
        factor = 1 / math.sqrt(block + 1) if how.get("ln_scale") else 1.0
        count = len(order) if how.get("own_scales") else layers
        local = how | {"xsa": block >= count - how["xsa_last"], "layer": i}
        if pair is None and place >= first and how.get("merged", layers) <= i:
            pair = [x, x]
        stream = pair[0] if pair else lanes[0] if lanes else x
        stream = p["resid_mix"][0] * stream + p["resid_mix"][1] * start
        a = p["attn_scale"] * attention(
            p, factor * norm(stream), local, document, values(weights, ids, block, how)
        )
        if pair:
            pair = [stream + a, pair[1] + p["mlp_scale"] * mlp(p, factor * norm(pair[1]), local)]
        elif lanes and how.get("in_turn"):
            keep, post = weights["parallel_resid_lambdas"][i], weights["parallel_post_lambdas"][i]
            lanes = [keep[0] * lanes[lane] + post[0][lane] * a for lane in (0, 1)]
            second = p["resid_mix"][0] * lanes[1] + p["resid_mix"][1] * start
            m = p["mlp_scale"] * mlp(p, factor * norm(second), local)
            lanes = [keep[1] * lanes[lane] + post[1][lane] * m for lane in (0, 1)]
        elif lanes:
            m = p["mlp_scale"] * mlp(p, factor * norm(lanes[1]), local)
            keep, post = weights["parallel_resid_lambdas"][i], weights["parallel_post_lambdas"][i]
            lanes = [keep[lane] * lanes[lane] + post[0][lane] * a + post[1][lane] * m for lane in (0, 1)]
        elif i >= how.get("parallel", layers):
            x = stream + a + p["mlp_scale"] * mlp(p, factor * norm(stream), local)
        else:
            x = stream + a
            x = x + p["mlp_scale"] * mlp(p, factor * norm(x), local)
        if "dtg" in p:
            gate = torch.sigmoid(stream.detach() @ p["dtg"].T + p["dtg_bias"])
            x = stream + gate * (x - stream)
        if place < first:
            kept.append(x)
    if pair:
        x = weights["lane_merge"] * pair[0] + (1 - weights["lane_merge"]) * pair[1]
    x = norm((lanes[0] + lanes[1]) / 2 if lanes else x)
    if "head_proj.weight" in weights:
        x = x @ weights["head_proj.weight"].T
    head = weights.get("lm_head.weight", weights["tok_emb.weight"])
    return how["cap"] * torch.tanh(x @ head.T / how["cap"])


def values(weights: Weights, ids: Tensor, i: int, how: dict[str, Any]) -> Tensor | None:
    """What the shared value embedding adds in a layer."""
    if i not in how.get("value_layers", ()):
        return None
    rows = weights["ve_shared.embed.weight"][ids] @ weights["ve_shared.proj.weight"].T
    number = how["value_layers"].index(i)
    return weights[f"ve_layer_scales.{number}"] * weights["ve_shared.scale"] * rows


def nats(found: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each target (batch, time)."""
    return found.logsumexp(-1) - found.gather(-1, targets[..., None])[..., 0]


def documents(ids: Tensor, longest: int = 0) -> list[list[int]]:
    """A number for each token: that of its stretch since the last BOS, cut after so many tokens."""
    rows = []
    for row in ids.tolist():
        number, since, numbers = 0, 0, []
        for token in row:
            if token == 1 or longest and since == longest:
                number, since = number + 1, 0
            numbers.append(number)
            since += 1
        rows.append(numbers)
    return rows
