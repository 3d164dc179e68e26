"""One step of many texts at once: what the model expects next in each lane, with keys and values kept.

Coding and decoding run these very steps, on tensors of the same shapes, so both see the same bits. A parallel
pass over the text would round otherwise, and a decoder cannot make one.
"""

import torch
from torch import Tensor

from bitgolf.net.kernels import AttentionMask, attention_weights, capped_logits, split_heads, stack, unstack
from bitgolf.net.model import Model


class KeysAndValues:
    """Of the tokens that every lane has passed, for each attention on the way; room for `length` tokens."""

    def __init__(self, length: int) -> None:
        self.length, self.tokens = length, 0
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._call = 0

    def attend(self, heads: Tensor, queries: int, sight: AttentionMask) -> Tensor:
        """Causal attention of new tokens over all that came before; see `attend` of the kernels."""
        _, lanes, new, width = heads.shape
        start, end = self.tokens, self.tokens + new
        q, k, v = split_heads(heads, queries)
        if self._call == len(self._kept):
            self._kept.append(
                (k.new_empty(len(k), self.length, width), v.new_empty(len(v), self.length, width))
            )
        keys, values = self._kept[self._call]
        self._call += 1
        keys[:, start:end], values[:, start:end] = k, v
        weights = attention_weights(stack(q, 0, new), keys[:, :end], len(q), 0, start, sight)
        out = heads.new_empty(lanes, new, queries * width)
        places = out.view(lanes, new, *q.shape[:2], width).permute(2, 3, 0, 1, 4)
        places.copy_(unstack(torch.bmm(weights, values[:, :end]), places))
        return out

    def passed(self, tokens: int) -> None:
        """Note that all attentions have seen so many more tokens."""
        self.tokens, self._call = self.tokens + tokens, 0

    def forget(self) -> None:
        """Begin again, in the same memory."""
        self.tokens = 0


class Lanes:
    """Texts that move on together, one token each a step.

    A lane sees at most its last `window` tokens. When it has so many it begins again with all of them but
    the first `stride`, as windows of sliding scoring do. first: what every lane opens with; it is not coded.
    """

    def __init__(self, model: Model, lanes: int, window: int, stride: int, first: int) -> None:
        self.model, self.window, self.kept = model.eval(), window, window - stride
        self.device = next(model.parameters()).device
        self._cache = KeysAndValues(window)
        self._seen = torch.zeros(lanes, 0, dtype=torch.int64)
        self._next = torch.full((lanes, 1), first)

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """What each lane's next token may be: softcapped logits (lanes, vocabulary), float32."""
        if self._cache.tokens == self.window:
            self._cache.forget()
            self._seen = self._seen[:, self._seen.shape[1] - self.kept :]
            if self.kept:
                self._hidden(self._seen, self._seen)
        self._seen = torch.cat((self._seen, self._next), 1)
        hidden = self._hidden(self._seen, self._next)[:, -1]
        return capped_logits(hidden, self.model.head().to(hidden.dtype), self.model.plan.logit_softcap)

    def follow(self, tokens: Tensor) -> None:
        """Move on: the token (lanes,) that came in each lane."""
        self._next = tokens.view(-1, 1)

    def _hidden(self, seen: Tensor, new: Tensor) -> Tensor:
        """Final states (lanes, new, width) of the last tokens; seen: all in the window, these included."""
        model, cache, count = self.model, self._cache, new.shape[1]
        before = min(cache.tokens, len(model.plan.embed))  # each of them looks one token back
        start = model.embedded(seen[:, seen.shape[1] - count - before :].to(self.device))[:, before:]
        model.window = self.window
        try:
            hidden = model.through(start, model.context(seen.to(self.device), start, cache.attend))
        finally:
            model.window = 0
        cache.passed(count)
        return hidden
