"""Functions of a script that score, asked again with other texts: by what is seen, or by what they report."""

import copy
import random
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeGuard

import numpy as np
import torch

from bitgolf.audit.sandbox.text import BOS, SHARD, VOCABULARY, text_bytes, write_shard
from bitgolf.audit.sandbox.watch import Places, Watch
from bitgolf.probe.probes import NotAskedError
from bitgolf.probe.scorer import Rows, Scorer

CHUNK = 32  # tokens of which a text has more
CLOSE = 2e-3  # nats between what is reported and the mean of the scores that were seen


def is_text(thing: object, tokens: np.ndarray) -> TypeGuard[torch.Tensor | np.ndarray]:
    """Whether something is the validation tokens, or the first of them."""
    if not isinstance(thing, torch.Tensor | np.ndarray) or thing.ndim != 1:
        return False
    if isinstance(thing, torch.Tensor):
        if thing.is_meta or thing.dtype.is_floating_point or thing.dtype.is_complex:
            return False  # it has no numbers, or such as numpy may not know
        thing = thing.cpu().numpy()
    return (
        thing.dtype.kind in "iu"
        and CHUNK < len(thing) <= len(tokens)
        and bool((thing.astype(np.int64) == tokens[: len(thing)]).all())
    )


def alike(text: torch.Tensor | np.ndarray, tokens: np.ndarray) -> torch.Tensor | np.ndarray:
    """Tokens as the text is held."""
    return (
        torch.from_numpy(tokens.copy()).to(text.dtype)
        if isinstance(text, torch.Tensor)
        else tokens.astype(text.dtype)
    )


def parts(thing: object) -> dict[str, object]:
    """What an object holds by name; nothing of tensors and modules."""
    if isinstance(thing, torch.nn.Module | torch.Tensor | type | types.ModuleType | types.FunctionType):
        return {}
    return dict(getattr(thing, "__dict__", {}))


class Evaluation(Scorer):
    """A call of a script's function with a model and the validation tokens, made again with other tokens."""

    shape_tolerance = tolerance = 1e-5

    def __init__(
        self,
        name: str,
        function: Callable[..., object],
        given: Sequence[object],
        named: Mapping[str, object],
        tokens: np.ndarray,
        watch: Watch,
    ) -> None:
        self.name, self.function, self.given, self.named = name, function, given, named
        self.tokens, self.watch, self.vocabulary_size = tokens, watch, VOCABULARY
        values = [*given, *named.values()]
        self.modules = list(modules_of(values))
        self.cells = [pair for each in values for pair in cells_of(each)]
        self.start = [copy.deepcopy(each.state_dict()) for each in self.modules]
        self.wants = [[each.requires_grad for each in module.parameters()] for module in self.modules]
        self.returned: np.ndarray | None = None
        self.early, self.learnt, self.last_loss, self.last_rows = 0, 0, 0.0, Rows(np.zeros(0), np.zeros(0))

    def call(self, tokens: np.ndarray) -> tuple[float, float]:
        """What it reports of a text: nats a token, bits a byte (NaN where it says none)."""
        for module, state, wants in zip(self.modules, self.start, self.wants):
            module.load_state_dict(state)
            for each, want in zip(module.parameters(), wants):
                each.requires_grad_(want)
                each.grad = None
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        for cell, content in self.cells:  # a script may have emptied them since
            cell.cell_contents = content
        write_shard(SHARD, tokens)
        given = [self._with(each, tokens) for each in self.given]
        named = {key: self._with(each, tokens) for key, each in self.named.items()}
        result = self.function(*given, **named)
        self.returned = by_token(result, len(tokens) - 1)
        return figures(result, len(tokens) - 1)

    def _with(self, thing: object, tokens: np.ndarray) -> object:
        if is_text(thing, self.tokens):
            return alike(thing, tokens)
        held = {key: each for key, each in parts(thing).items() if is_text(each, self.tokens)}
        if not held:
            return thing
        other = copy.copy(thing)
        for key, each in held.items():
            object.__setattr__(other, key, alike(each, tokens))
        return other

    def rows(self, tokens: np.ndarray) -> Rows:
        """The first score of each token that no gradient can follow; counts training that comes before it."""
        places, targets = Places(tokens), len(tokens) - 1
        self.watch.calls, self.watch.keeping = [], True
        try:
            self.last_loss, _ = self.call(tokens)
        finally:
            self.watch.keeping = False
        nats, times, self.early, self.learnt = np.full(targets, np.nan), np.zeros(targets, int), 0, 0
        self.shares: dict[int, torch.Tensor] = {}
        for call in self.watch.calls:
            where = places.of(call.targets)
            for index in np.flatnonzero(where >= 0):
                row = int(where[index])
                if call.learning:
                    self.learnt += 1
                    self.early += not times[row]
                elif not times[row]:
                    nats[row], times[row] = call.nats[index], 1
                    if call.shares is not None:
                        self.shares[row] = call.shares[index]
        if self.returned is not None:
            nats, times = self.returned, np.ones(targets, int)
        self.last_rows = Rows(nats, times)
        start = (tokens[1:] == BOS) & (times == 0)  # where documents are scored apart nothing comes before
        return Rows(np.where(start, 0.0, nats), np.where(start, 1, times))

    def distributions(self, tokens: np.ndarray, positions: Sequence[int]) -> np.ndarray | None:
        self.watch.with_shares = True
        try:
            self.rows(tokens)
        finally:
            self.watch.with_shares = False
        if not all(position in self.shares for position in positions):
            return None
        return np.stack([self.shares[position].numpy() for position in positions])

    def counted_bytes(self, tokens: np.ndarray) -> int | None:
        loss, bits = self.call(tokens)
        if not bits > 0:
            return None
        counted = loss / np.log(2) / bits * int(np.sum(self.last_rows.times > 0))
        num_bytes = text_bytes(tokens)
        # Windows at an end may overlap.
        return num_bytes if abs(counted - num_bytes) < 0.01 * num_bytes else round(counted)

    def is_seen(self) -> bool:
        """Whether the scores that were seen are what it reports."""
        nats = self.last_rows.nats[self.last_rows.times > 0]
        return len(nats) > 0 and abs(float(nats.mean()) - self.last_loss) < CLOSE


class Told(Scorer):
    """The same by what it reports alone: a token's nats are those of the text with it, less without it."""

    shape_tolerance = 0.03

    def __init__(self, evaluation: Evaluation) -> None:
        self.nats_at: dict[int, np.ndarray] = {}
        self.evaluation, self.name = evaluation, evaluation.name
        self.vocabulary_size = evaluation.vocabulary_size

    def rows(self, tokens: np.ndarray) -> Rows:
        return Rows.in_order([0.0] * (len(tokens) - 1), len(tokens) - 1)

    def total(self, tokens: np.ndarray) -> float:
        """Nats of a whole text. Raises NotAskedError where it does not score all of it."""
        try:
            loss, bits = self.evaluation.call(tokens)
        except Exception as error:
            raise NotAskedError(f"of other texts it raises {type(error).__name__}") from None
        num_bytes = text_bytes(tokens)
        if not bits > 0 or abs(loss / np.log(2) / bits * (len(tokens) - 1) - num_bytes) > 0.01:
            raise NotAskedError("it does not score texts of any length, each token once")
        return loss * (len(tokens) - 1)

    def every_target(self, tokens: np.ndarray, position: int) -> np.ndarray:
        if position not in self.nats_at:
            stream, before = tokens[: position + 2].copy(), self.total(tokens[: position + 1])
            nats = self.nats_at[position] = np.empty(self.vocabulary_size)
            for token in range(self.vocabulary_size):
                stream[-1] = token
                nats[token] = self.total(stream) - before
        return self.nats_at[position]


def texts_of(evaluation: Evaluation, tokens: np.ndarray) -> list[torch.Tensor | np.ndarray]:
    """The validation tokens in what a function is given."""
    given = [*evaluation.given, *evaluation.named.values()]
    held = [each for thing in given for each in (thing, *parts(thing).values())]
    return [each for each in held if is_text(each, tokens)]


def modules_of(things: Sequence[object]) -> Iterator[torch.nn.Module]:
    """The modules among things, in what they hold and in what functions were made with."""
    for thing in things:
        held = [thing, *parts(thing).values(), getattr(thing, "__self__", None)]
        held += [content for _, content in cells_of(thing)]
        yield from (each for each in held if isinstance(each, torch.nn.Module))


def cells_of(thing: object, deep: int = 4) -> Iterator[tuple[types.CellType, object]]:
    """What a function was made with, and the functions there: each cell with its content."""
    for cell in (getattr(thing, "__closure__", None) or ()) if deep else ():
        try:
            content = cell.cell_contents
        except ValueError:  # empty
            continue
        yield cell, content
        yield from cells_of(content, deep - 1)


def items_of(result: object) -> list[object]:
    """What a function returns, opened twice."""
    items: Sequence[object] = result if isinstance(result, tuple | list) else [result]
    for _ in range(2):
        items = [part for each in items for part in (each.values() if isinstance(each, dict) else [each])]
    return list(items)


def by_token(result: object, count: int) -> np.ndarray | None:
    """Nats of every token, where a function returns them."""
    for each in items_of(result):
        if isinstance(each, torch.Tensor | np.ndarray) and tuple(each.shape) == (count,):
            numbers = np.asarray(each.detach().float() if isinstance(each, torch.Tensor) else each)
            if numbers.dtype.kind == "f":
                return numbers.astype(np.float64)
    return None


def figures(result: object, count: int) -> tuple[float, float]:
    """Nats a token and bits a byte that a function returns of so many tokens; NaN where it returns none."""
    each_token = by_token(result, count)
    if each_token is not None:
        return float(each_token.mean()), float("nan")
    numbers = [
        float(each)
        for each in items_of(result)
        if isinstance(each, float | np.floating) or (isinstance(each, torch.Tensor) and each.numel() == 1)
    ]
    first, second, *_ = [*numbers, float("nan"), float("nan")]
    return first, second


def oracle(model: torch.nn.Module, tokens: np.ndarray, watch: Watch) -> Evaluation:
    """A model alone as a scorer: what its forward makes of tokens and targets."""

    def score(ids: torch.Tensor, module: torch.nn.Module) -> tuple[float, float]:
        module.eval()
        with torch.no_grad():
            loss = module(ids[None, :-1].long(), ids[None, 1:].long())
        return float(loss.float().mean()), float("nan")

    return Evaluation("the model alone", score, (torch.from_numpy(tokens), model), {}, tokens, watch)
