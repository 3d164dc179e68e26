"""Steps of the model over several lanes at once, one token per lane, with cached keys and values.

Coding and decoding run the same steps, on tensors of the same shapes, so both see the same bits. A parallel
pass over the text would round differently, and a decoder cannot make one.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from bitgolf.base.errors import BitgolfError
from bitgolf.net.kernels import AttentionMask, attend_last, split_heads
from bitgolf.net.model import Model
from bitgolf.proof.arithmetic import NATIVE, PLAIN, Arithmetic, within
from bitgolf.proof.attention import attend_step, supports


class KeysAndValues:
    """Cached keys and values of the tokens of all lanes, for each attention; memory for `length` tokens.

    native: steps of one token per lane use `attend_step`.
    """

    def __init__(self, length: int, native: bool = False) -> None:
        self.length, self.native, self.tokens = length, native, 0
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._call = 0

    def attend(self, heads: Tensor, queries: int, mask: AttentionMask) -> Tensor:
        """Causal attention of new tokens over all tokens so far; see `attend` of the kernels."""
        q, k, v = split_heads(heads, queries)
        start, end = self.tokens, self.tokens + heads.shape[2]
        if self._call == len(self._kept):
            self._kept.append((self._allocate(k), self._allocate(v)))
        keys, values = self._kept[self._call]
        self._call += 1
        keys[:, start:end], values[:, start:end] = k, v
        if self.native and supports(q, keys, values, mask):
            return attend_step(q, keys, values, end, mask)
        return attend_last(q, keys[:, :end], values[:, :end], mask)

    def _allocate(self, like: Tensor) -> Tensor:
        """Memory for tensors like this one (rows, tokens, dimension)."""
        rows, _, width = like.shape
        if self.native:  # tokens are adjacent in memory, as the compiled code needs them
            return like.new_empty(rows, width, self.length).mT
        return like.new_empty(rows, self.length, width)

    def advance(self, tokens: int) -> None:
        """Count `tokens` more tokens, once all attentions have seen them."""
        self.tokens, self._call = self.tokens + tokens, 0

    def clear(self) -> None:
        """Remove all tokens; the memory is kept."""
        self.tokens = 0

    def state(self) -> dict[str, Tensor]:
        """Copies of keys and values, by name."""
        pairs = enumerate(self._kept)
        return {
            f"{n}/{i}": each[:, : self.tokens].clone() for n, pair in pairs for i, each in enumerate(pair)
        }

    def restore(self, state: Mapping[str, Tensor], tokens: int) -> None:
        """Continue from a result of `state` with `tokens` tokens."""
        self._kept, self.tokens = [], tokens
        for number in range(len(state) // 2):
            own = [state[f"{number}/{side}"] for side in (0, 1)]
            memory = [self._allocate(each) for each in own]
            for each, restored in zip(memory, own):
                each[:, :tokens] = restored
            self._kept.append((memory[0], memory[1]))


class Lanes:
    """Texts that advance together, one token per step.

    A lane sees at most its last `window` tokens. When it is full it starts again with all but the first
    `stride` of them, as sliding windows do. first: the first token of every lane, which is not coded.
    arithmetic: PLAIN, PORTABLE or NATIVE; see `within`.

    Raises BitgolfError for a model whose layers look back by other means than attention.
    """

    def __init__(
        self,
        model: Model,
        lanes: int,
        window: int,
        stride: int,
        first: int,
        arithmetic: Arithmetic = PLAIN,
    ) -> None:
        if model.plan.looks_back:
            raise BitgolfError(
                "a part of the model looks at other positions than its own, whose states no step keeps",
                way_out="score it; it cannot be coded",
            )
        self.model, self.window, self.kept = model.eval(), window, window - stride
        self.device = next(model.parameters()).device
        self._arithmetic = within(arithmetic, model)
        self._cache = KeysAndValues(window, native=arithmetic == NATIVE)
        self._seen = torch.zeros(lanes, 0, dtype=torch.int64)
        self._next = torch.full((lanes, 1), first)
        self.states = torch.empty(lanes, 0)  # (lanes, width): hidden states of the last logits

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Softcapped logits (lanes, vocabulary), float32, of the next token of each lane."""
        with self._arithmetic:
            return self._logits()

    def _logits(self) -> Tensor:
        if self._cache.tokens == self.window:
            self._cache.clear()
            self._seen = self._seen[:, self._seen.shape[1] - self.kept :]
            if self.kept:
                self._hidden(self._seen, self._seen)
        self._seen = torch.cat((self._seen, self._next), 1)
        self.states = self._hidden(self._seen, self._next)[:, -1]
        return self.model.logits_of(self.states)

    @torch.inference_mode()
    def prefill(self, tokens: Tensor) -> None:
        """Pass the first tokens (lanes, count) of every lane together, except the last, for the next step.

        Only those that fit into the window are passed. Rounding differs from that of single steps.
        """
        seen = tokens[:, -self.window :]
        self._cache.clear()
        self._seen, self._next = seen[:, :-1], seen[:, -1:]
        if seen.shape[1] > 1:
            with self._arithmetic:
                self._hidden(self._seen, self._seen)

    def follow(self, tokens: Tensor) -> None:
        """Append the next token (lanes,) of each lane."""
        self._next = tokens.view(-1, 1)

    def state(self) -> dict[str, Tensor]:
        """Copies of the lanes' state, by name; other lanes can `restore` it and continue to the same bits."""
        state = {"seen": self._seen, "next": self._next, "tokens": torch.tensor(self._cache.tokens)}
        return state | {f"cache/{name}": each for name, each in self._cache.state().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a result of `state`."""
        self._seen, self._next = state["seen"], state["next"]
        cache = {name: each.to(self.device) for name, each in state.items() if name.startswith("cache/")}
        self._cache.restore({name[6:]: each for name, each in cache.items()}, int(state["tokens"]))

    def _hidden(self, seen: Tensor, new: Tensor) -> Tensor:
        """Final states (lanes, new, width) of the last tokens; seen: all tokens in the window, with these."""
        model, cache, count = self.model, self._cache, new.shape[1]
        lookback = min(cache.tokens, len(model.plan.embed))  # each embedding part may read one token back
        start = model.embedded(seen[:, seen.shape[1] - count - lookback :].to(self.device))[:, lookback:]
        model.window = self.window
        try:
            hidden = model.through(start, model.context(seen.to(self.device), start, cache.attend))
        finally:
            model.window = 0
        cache.advance(count)
        return hidden
