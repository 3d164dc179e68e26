"""One step of many texts at once: what the model expects next in each lane, with keys and values kept.

Coding and decoding run these very steps, on tensors of the same shapes, so both see the same bits. A parallel
pass over the text would round otherwise, and a decoder cannot make one.
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
    """Of the tokens that every lane has passed, for each attention on the way; memory for `length` tokens.

    native: one token of each lane attends by `attend_step`.
    """

    def __init__(self, length: int, native: bool = False) -> None:
        self.length, self.native, self.tokens = length, native, 0
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._call = 0

    def attend(self, heads: Tensor, queries: int, mask: AttentionMask) -> Tensor:
        """Causal attention of new tokens over all that came before; see `attend` of the kernels."""
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
        """Memory for tensors as this one (rows, tokens, dimension)."""
        rows, _, width = like.shape
        if self.native:  # tokens lie side by side, as machine code adds them up
            return like.new_empty(rows, width, self.length).mT
        return like.new_empty(rows, self.length, width)

    def advance(self, tokens: int) -> None:
        """Note that all attentions have seen so many more tokens."""
        self.tokens, self._call = self.tokens + tokens, 0

    def clear(self) -> None:
        """Begin again, in the same memory."""
        self.tokens = 0

    def state(self) -> dict[str, Tensor]:
        """Copies of keys and values, by name."""
        pairs = enumerate(self._kept)
        return {
            f"{n}/{i}": each[:, : self.tokens].clone() for n, pair in pairs for i, each in enumerate(pair)
        }

    def restore(self, state: Mapping[str, Tensor], tokens: int) -> None:
        """Go on from what `state` gave, of so many tokens."""
        self._kept, self.tokens = [], tokens
        for number in range(len(state) // 2):
            own = [state[f"{number}/{side}"] for side in (0, 1)]
            memory = [self._allocate(each) for each in own]
            for each, restored in zip(memory, own):
                each[:, :tokens] = restored
            self._kept.append((memory[0], memory[1]))


class Lanes:
    """Texts that move on together, one token each a step.

    A lane sees at most its last `window` tokens. When it has so many it begins again with all of them but
    the first `stride`, as windows of sliding scoring do. first: what every lane opens with; it is not coded.
    arithmetic: PLAIN, PORTABLE or NATIVE; see `within`.

    Raises BitgolfError for a model whose layers look back but by attention.
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
        self.states = torch.empty(lanes, 0)  # (lanes, width): what the last logits were made of

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """What each lane's next token may be: softcapped logits (lanes, vocabulary), float32."""
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
        """Pass the first tokens (lanes, count) of every lane together; the last of them is the next step's.

        Of more than a window holds, the last are passed. Sums are rounded otherwise than step by step.
        """
        seen = tokens[:, -self.window :]
        self._cache.clear()
        self._seen, self._next = seen[:, :-1], seen[:, -1:]
        if seen.shape[1] > 1:
            with self._arithmetic:
                self._hidden(self._seen, self._seen)

    def follow(self, tokens: Tensor) -> None:
        """Move on: the token (lanes,) that came in each lane."""
        self._next = tokens.view(-1, 1)

    def state(self) -> dict[str, Tensor]:
        """Copies of all that the lanes see, by name; `restore` of other lanes goes on to the same bits."""
        state = {"seen": self._seen, "next": self._next, "tokens": torch.tensor(self._cache.tokens)}
        return state | {f"cache/{name}": each for name, each in self._cache.state().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._seen, self._next = state["seen"], state["next"]
        cache = {name: each.to(self.device) for name, each in state.items() if name.startswith("cache/")}
        self._cache.restore({name[6:]: each for name, each in cache.items()}, int(state["tokens"]))

    def _hidden(self, seen: Tensor, new: Tensor) -> Tensor:
        """Final states (lanes, new, width) of the last tokens; seen: all in the window, these included."""
        model, cache, count = self.model, self._cache, new.shape[1]
        lookback = min(cache.tokens, len(model.plan.embed))  # each of them looks one token back
        start = model.embedded(seen[:, seen.shape[1] - count - lookback :].to(self.device))[:, lookback:]
        model.window = self.window
        try:
            hidden = model.through(start, model.context(seen.to(self.device), start, cache.attend))
        finally:
            model.window = 0
        cache.advance(count)
        return hidden
