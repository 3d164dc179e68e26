"""Overlapping windows share the work of the first layer.

Queries, keys and values of the first layer depend only on the token and its place, and scores only on the
distance. So the scores of a query block and a key block are computed once, for all windows that contain both.
In deeper layers a state depends on its window, and nothing can be shared.
"""

from functools import partial

import torch
from torch import Tensor

from bitgolf.net.kernels import AttentionMask, hidden_keys
from bitgolf.net.layers import Block, ParallelResidual, Serial
from bitgolf.net.model import Model
from bitgolf.net.parts import Context
from bitgolf.net.position import NoPosition, Rope, far_tables


def hidden_of_windows(model: Model, inputs: Tensor, last: int = 0) -> Tensor:
    """As `Model.hidden`, up to rounding; faster if each row starts `last` tokens after the row before."""
    if not overlap(inputs, last) or not can_share(model):
        return Model.hidden(model, inputs, last)
    time, plan = inputs.shape[1], model.plan
    stretch = torch.cat((inputs[0], inputs[1:, -last:].flatten()))[None]
    start = model.embedded(stretch)
    context = model.context(inputs, start[0].unfold(0, time, last).transpose(1, 2).contiguous())
    tables = plan.position.tables(time, model.window, plan.width // plan.heads, inputs.device)
    cos, sin = far_tables(tables, stretch.shape[1])
    attend = partial(attend_in_windows, time, last)
    once = context._replace(inputs=stretch, start=start, cos=cos, sin=sin, attend=attend, memory={})
    block = first_block(model)
    attention_output = block.attended(block.mixed_with_start(start, once), once)

    def attended(x: Tensor, context: Context) -> Tensor:
        """Replaces the method, only at the first stop."""
        del vars(block)["attended"]
        return attention_output

    vars(block)["attended"] = attended
    try:
        return model.through(context.start, context, last)
    finally:
        vars(block).pop("attended", None)


def overlap(inputs: Tensor, last: int) -> bool:
    """Whether rows (windows, time) are windows of one stretch, `last` tokens apart, a divisor of time."""
    rows, time = inputs.shape
    if rows < 2 or not 0 < last < time or time % last or torch.is_grad_enabled():
        return False
    return torch.equal(inputs[1:, :-last], inputs[:-1, last:])


def can_share(model: Model) -> bool:
    """Whether the first layer uses other tokens only by plain causal attention."""
    plan, attention = model.plan, first_block(model).attn
    if model.training or model.backend.dtype == torch.bfloat16:  # too coarse for sums of exponentials
        return False
    changed = plan.embed or plan.scope or plan.values or attention.heads_out or len(model.scoring_calls) < 2
    by_row = attention._forward_hooks or "heads_of" in vars(attention)  # LoRA factors for each row of a batch
    plain = isinstance(plan.position, Rope | NoPosition) and isinstance(
        plan.residual, Serial | ParallelResidual
    )
    return plain and not changed and not by_row


def first_block(model: Model) -> Block:
    """The first layer on the route."""
    block = model.blocks[model.scoring_calls[0][0]]
    assert isinstance(block, Block)
    return block


def attend_in_windows(time: int, stride: int, heads: Tensor, queries: int, mask: AttentionMask) -> Tensor:
    """Causal attention of a stretch (heads, 1, tokens, dimension) in windows of `time`, one each `stride`.

    Returns (windows, time, queries * dimension). A block of `stride` queries attends to the keys of its own
    block, then of the block before, and so on. After each step the result is that of one window.
    """
    blocks, count, width = time // stride, (len(heads) - queries) // 2, heads.shape[-1]
    group, by_block = queries // count, heads[:, 0].unflatten(1, (-1, stride))
    q, k, v = by_block.split((queries, count, count))
    q = (
        q.unflatten(0, (count, group)).transpose(1, 2).flatten(2, 3)
    )  # (key heads, blocks, group * stride, ...)
    windows = q.shape[1] - blocks + 1
    out = heads.new_empty(windows, blocks, stride, count, group, width)
    total = mean = out  # of the keys so far: log of the sum of weights, weighted mean of values
    for back in range(blocks):
        query, seen = q[:, back:].flatten(0, 1), slice(0, q.shape[1] - back)
        scores = torch.bmm(query, k[:, seen].flatten(0, 1).transpose(1, 2))
        if not back:
            scores.view(-1, group, stride, stride).add_(hidden_keys(0, 0, stride, 0, scores))
        shares = scores.softmax(-1)
        log_sum = (scores.amax(-1, keepdim=True) - shares.amax(-1, keepdim=True).log()).unflatten(
            0, (count, -1)
        )
        attended = torch.bmm(shares, v[:, seen].flatten(0, 1)).unflatten(0, (count, -1))
        if back:
            previous, total = total[:, 1:], torch.logaddexp(total[:, 1:], log_sum)
            mean = mean[:, 1:] * (previous - total).exp_() + attended * (log_sum - total).exp_()
        else:
            total, mean = log_sum, attended
        whole = mean[:, :windows].unflatten(2, (group, stride))
        out[:, back] = whole.permute(1, 3, 0, 2, 4)
    return out.view(windows, time, -1)
