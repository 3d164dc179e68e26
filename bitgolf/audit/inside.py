"""Runs in the sandbox: executes a script at tiny size and puts probes to what scores its validation tokens.

`python -m bitgolf.audit.inside PLAN`, PLAN is JSON: text (the script), file (what it finds as its own),
seconds. Writes what it saw as JSON lines.
"""

import ast
import copy
import gc
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
import torch._dynamo  # before anything stands in for what it lists
import torch._inductor.config
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from bitgolf.audit import standins
from bitgolf.audit.unwrap import parsed
from bitgolf.probe.probes import NotAskedError, Text, probing
from bitgolf.probe.scorer import Rows, Scorer

SCORED, TRAINED, CHUNK = 257, 20_000, 32
RUN_OF = (5, 3)  # targets in a row that tell where in the text a score stands
PROBED = ("once", "causal", "target unseen", "sums to one", "same again", "bytes counted")
AHEAD = ("causal", "target unseen")
CLOSE = 2e-3  # nats between what is reported and the mean of the scores that were seen
MOST_EVALUATIONS, MOST_TRIED, POSITIONS = 6, 8, 2
SIZES, TINY, UNTRAINED, SHARED = "sizes", "tiny", "untrained", "two processes"
SHARD = Path("data", "datasets", "tiny", "fineweb_val_000000.bin")  # under the folder that a script runs in
_cross_entropy = F.cross_entropy


class Enough(BaseException):
    """Nothing more is wanted of a script."""


class Late(BaseException):  # noqa: N818 - no error of the script, which would catch one
    """Its time is over."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise Late after so many seconds."""

    def late(*_: Any) -> None:
        raise Late(f"stopped after {seconds:.0f} seconds")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# ---- what is seen of scores ----


class Seen(NamedTuple):
    """One call of cross entropy. targets: int64 (n). nats: float64 (n). learning: whether a gradient can
    follow. shares: of every token, float32 (n, vocabulary), where asked for."""

    targets: np.ndarray
    nats: np.ndarray
    learning: bool
    shares: torch.Tensor | None


class Watch:
    """Sees every cross entropy, what is saved and loaded, and every step of an optimizer."""

    def __init__(self) -> None:
        self.calls: list[Seen] = []
        self.keeping, self.with_shares = False, False
        self.on_call: Callable[[np.ndarray, bool], None] = lambda targets, learning: None
        self.on_ids: Callable[[np.ndarray], None] = lambda ids: None
        self.on_step: Callable[[], None] = lambda: None
        self.on_optimizer: Callable[[], None] = lambda: None
        self.saves, self.reloaded = 0, False

    def install(self) -> None:
        """From now on."""
        functional: Any = F
        functional.cross_entropy = self._cross_entropy
        embedding = F.embedding

        def looking_up(ids: Any, *given: Any, **named: Any) -> Any:
            if torch.is_grad_enabled() and not self.keeping:
                self.on_ids(ids.detach().reshape(-1)[:64].numpy().astype(np.int64))
            return embedding(ids, *given, **named)

        functional.embedding = looking_up
        register_optimizer_step_post_hook(lambda *_: self.on_step())
        kinds: Any = torch.nn.Module, torch.optim.Optimizer
        save, load, put, made = torch.save, torch.load, kinds[0].load_state_dict, kinds[1].__init__

        def saving(*given: Any, **named: Any) -> Any:
            self.saves, self.reloaded = self.saves + 1, False
            return save(*given, **named)

        def loading(*given: Any, **named: Any) -> Any:
            self.reloaded = True
            return load(*given, **(named | {"map_location": "cpu"}))

        def putting(model: Any, *given: Any, **named: Any) -> Any:
            self.reloaded = True
            return put(model, *given, **named)

        def making(*given: Any, **named: Any) -> None:
            self.on_optimizer()
            made(*given, **named)

        torch.save, torch.load = saving, loading
        kinds[0].load_state_dict, kinds[1].__init__ = putting, making

    def _cross_entropy(self, logits: Any, targets: Any, *given: Any, **named: Any) -> Any:
        if targets.dtype in (torch.int64, torch.int32) and logits.ndim - 1 == targets.ndim:
            learning = torch.is_grad_enabled() and logits.requires_grad
            flat = targets.detach().reshape(-1).cpu().numpy().astype(np.int64)
            if not torch.is_inference_mode_enabled() or not self.keeping:
                self.on_call(flat, learning)
            if self.keeping:
                self._keep(logits, targets, flat, learning)
        return _cross_entropy(logits, targets, *given, **named)

    def _keep(self, logits: Any, targets: Any, flat: np.ndarray, learning: bool) -> None:
        with torch.no_grad():
            rows = logits.detach().float()
            rows = rows.movedim(1, -1).reshape(-1, rows.shape[1])
            inside = np.clip(flat, 0, rows.shape[1] - 1)
            each = torch.log_softmax(rows.double(), 1)
            nats = -each[torch.arange(len(flat)), torch.from_numpy(inside)].numpy()
            shares = each.exp() if self.with_shares and not learning else None
        self.calls.append(Seen(flat, nats, learning, shares))


class Places:
    """Where in a text a run of targets stands."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.targets = tokens[1:].tolist()
        self.known: dict[tuple[int, ...], int] = {}
        for length in RUN_OF:
            for start in range(len(self.targets) - length + 1):
                run = tuple(self.targets[start : start + length])
                self.known[run] = -1 if run in self.known else start

    def of(self, targets: np.ndarray) -> np.ndarray:
        """int64 (n): the row of each target; -1 where it cannot be told."""
        said, found = targets.tolist(), np.full(len(targets), -1)
        last = -2
        for index, target in enumerate(said):
            if 0 <= last + 1 < len(self.targets) and self.targets[last + 1] == target:
                last += 1
            else:
                last = self._start(said, index)
            found[index] = last
            last = last if last >= 0 else -2
        return found

    def _start(self, said: list[int], index: int) -> int:
        for length in RUN_OF:
            start = self.known.get(tuple(said[index : index + length]), -1)
            if start >= 0:
                return start
        return -1


# ---- a scorer found in a script ----


def is_text(thing: Any, tokens: np.ndarray) -> bool:
    """Whether something is the validation tokens, or the first of them."""
    return (
        isinstance(thing, torch.Tensor | np.ndarray)
        and thing.ndim == 1
        and CHUNK < len(thing) <= len(tokens)
        and np.asarray(thing).dtype.kind in "iu"
        and bool((np.asarray(thing).astype(np.int64) == tokens[: len(thing)]).all())
    )


def alike(text: Any, tokens: np.ndarray) -> Any:
    """Tokens as the text is held."""
    return (
        torch.from_numpy(tokens.copy()).to(text.dtype)
        if isinstance(text, torch.Tensor)
        else tokens.astype(text.dtype)
    )


def parts(thing: Any) -> dict[str, Any]:
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
        function: Callable[..., Any],
        given: Any,
        named: Any,
        tokens: np.ndarray,
        watch: Watch,
    ) -> None:
        self.name, self.function, self.given, self.named = name, function, given, named
        self.tokens, self.watch, self.vocabulary_size = tokens, watch, standins.TINY["VOCAB_SIZE"]
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
        standins.write_shard(SHARD, tokens)
        given = [self._with(each, tokens) for each in self.given]
        named = {key: self._with(each, tokens) for key, each in self.named.items()}
        result = self.function(*given, **named)
        self.returned = by_token(result, len(tokens) - 1)
        return figures(result, len(tokens) - 1)

    def _with(self, thing: Any, tokens: np.ndarray) -> Any:
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
        places, size = Places(tokens), len(tokens) - 1
        self.watch.calls, self.watch.keeping = [], True
        try:
            self.last_loss, _ = self.call(tokens)
        finally:
            self.watch.keeping = False
        nats, times, self.early, self.learnt = np.full(size, np.nan), np.zeros(size, int), 0, 0
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
            nats, times = self.returned, np.ones(size, int)
        self.last_rows = Rows(nats, times)
        start = (tokens[1:] == standins.BOS) & (
            times == 0
        )  # where documents are scored apart nothing comes before
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
        size = standins.text_bytes(tokens)
        return size if abs(counted - size) < 0.01 * size else round(counted)  # windows at an end may overlap

    def is_seen(self) -> bool:
        """Whether the scores that were seen are what it reports."""
        known = self.last_rows.nats[self.last_rows.times > 0]
        return len(known) > 0 and abs(float(known.mean()) - self.last_loss) < CLOSE


class Told(Scorer):
    """The same by what it reports alone: a token's nats are those of the text with it, less without it."""

    shape_tolerance = 0.03

    def __init__(self, evaluation: Evaluation) -> None:
        self.known: dict[int, np.ndarray] = {}
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
        size = standins.text_bytes(tokens)
        if not bits > 0 or abs(loss / np.log(2) / bits * (len(tokens) - 1) - size) > 0.01:
            raise NotAskedError("it does not score texts of any length, each token once")
        return loss * (len(tokens) - 1)

    def every_target(self, tokens: np.ndarray, position: int) -> np.ndarray:
        if position not in self.known:
            stream, before = tokens[: position + 2].copy(), self.total(tokens[: position + 1])
            nats = self.known[position] = np.empty(self.vocabulary_size)
            for token in range(self.vocabulary_size):
                stream[-1] = token
                nats[token] = self.total(stream) - before
        return self.known[position]


def modules_of(things: list[Any]) -> Iterator[torch.nn.Module]:
    """The modules among things, in what they hold and in what functions were made with."""
    for thing in things:
        held = [thing, *parts(thing).values(), getattr(thing, "__self__", None)]
        held += [content for _, content in cells_of(thing)]
        yield from (each for each in held if isinstance(each, torch.nn.Module))


def cells_of(thing: Any, deep: int = 4) -> Iterator[tuple[Any, Any]]:
    """What a function was made with, and the functions there: each cell with its content."""
    for cell in (getattr(thing, "__closure__", None) or ()) if deep else ():
        try:
            content = cell.cell_contents
        except ValueError:  # empty
            continue
        yield cell, content
        yield from cells_of(content, deep - 1)


def items_of(result: Any) -> list[Any]:
    """What a function returns, opened twice."""
    for _ in range(2):
        whole = result if isinstance(result, tuple | list) else [result]
        result = [part for each in whole for part in (each.values() if isinstance(each, dict) else [each])]
    return list(result)


def by_token(result: Any, count: int) -> np.ndarray | None:
    """Nats of every token, where a function returns them."""
    for each in items_of(result):
        if isinstance(each, torch.Tensor | np.ndarray) and tuple(each.shape) == (count,):
            numbers = np.asarray(each.detach().float() if isinstance(each, torch.Tensor) else each)
            if numbers.dtype.kind == "f":
                return numbers.astype(np.float64)
    return None


def figures(result: Any, count: int) -> tuple[float, float]:
    """Nats a token and bits a byte that a function returns of so many tokens; NaN where it returns none."""
    each_token = by_token(result, count)
    if each_token is not None:
        return float(each_token.mean()), float("nan")
    found = [
        float(each)
        for each in items_of(result)
        if isinstance(each, float | np.floating) or (isinstance(each, torch.Tensor) and each.numel() == 1)
    ]
    first, second, *_ = [*found, float("nan"), float("nan")]
    return first, second


# ---- a script ----


class Script:
    """A script in this process, watched."""

    def __init__(self, plan: dict[str, Any], stage: str, say: Callable[..., None]) -> None:
        self.plan, self.stage, self.say, self.watch = plan, stage, say, Watch()
        self.scored = standins.stream(64, SCORED, 3)
        self.evaluations: list[Evaluation] = []
        self.nested: list[bool] = []
        self.learnt_at: list[int] = []
        self.places = Places(self.scored)
        self.module = types.ModuleType("__main__")
        self.tried: Counter[str] = Counter()
        self.opened, self.looked_up = 0, False
        sys.addaudithook(self._on_event)

    def run(self) -> None:
        """Execute it as Python would; what it calls at its end waits until its functions are watched."""
        self.watch.on_call, self.watch.on_ids, self.watch.on_step = self._on_call, self._on_ids, self._on_step
        self.watch.install()
        sys.modules["__main__"] = self.module
        self.module.__file__ = self.plan["file"]
        sys.argv = [self.plan["file"]]
        first, last = split(parsed(self.plan["text"]))
        names = self.module.__dict__
        exec(compile(first, self.plan["file"], "exec"), names)
        self.say("imported")
        if self.stage != SIZES:
            own = [
                each for each in names.values() if isinstance(each, type) and each.__module__ == "__main__"
            ]
            standins.small_settings(own)
            for name, each in list(names.items()):
                if isinstance(each, types.FunctionType) and each.__module__ == "__main__":
                    names[name] = self.watched(name, each)
        exec(compile(last, self.plan["file"], "exec"), names)

    def _on_event(self, event: str, given: Any) -> None:
        self.opened += event == "open" and "fineweb_val" in str(given[0])

    def _on_ids(self, ids: np.ndarray) -> None:
        self.looked_up = self._is_scored(ids)  # the last look before a step is what it learns from

    def _on_step(self) -> None:
        if self.looked_up:
            self.learnt_at.append(self.watch.saves)
        self.looked_up = False

    def _is_scored(self, tokens: np.ndarray) -> bool:
        known = self.places.of(tokens[:64])
        return bool((known >= 0).sum() > len(known) / 2)

    def _on_call(self, targets: np.ndarray, learning: bool) -> None:
        if learning and not self.watch.keeping and self._is_scored(targets):
            self.learnt_at.append(self.watch.saves)

    def watched(self, name: str, function: Any) -> Any:
        """A function, noted where it takes a model, takes or reads the validation tokens, returns numbers."""

        def call(*given: Any, **named: Any) -> Any:
            values = [*given, *named.values()]
            has_text = any(self._has_text(each) for each in values)
            self.tried[name] += 1
            if self.watch.keeping or not (has_text or self.tried[name] <= MOST_TRIED):
                return function(*given, **named)
            if not next(modules_of(values), None):
                return function(*given, **named)
            if self.stage == SIZES and has_text:
                raise Enough
            evaluation, opened = (
                Evaluation(name, function, given, named, self.scored, self.watch),
                self.opened,
            )
            self.nested.append(False)
            try:
                result = function(*given, **named)
            finally:
                has_inner = self.nested.pop()
            count = max((len(each) for each in texts_of(evaluation, self.scored)), default=SCORED) - 1
            loss, bits = figures(result, count)
            if np.isfinite(loss) and (has_text or self.opened > opened):
                if not has_inner:
                    self.evaluations.append(evaluation)
                    bits_said = bits if bits > 0 and np.isfinite(bits) else None
                    state = {"saves": self.watch.saves, "reloaded": self.watch.reloaded}
                    self.say("evaluated", name=name, loss=loss, bits=bits_said, **state)
                if self.nested:
                    self.nested[-1] = True
            return result

        return call

    def _has_text(self, thing: Any) -> bool:
        return is_text(thing, self.scored) or any(
            is_text(each, self.scored) for each in parts(thing).values()
        )


def split(tree: ast.Module) -> tuple[ast.Module, ast.Module]:
    """What a script defines, and what it does as the main program."""
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    last: list[ast.stmt] = []
    first: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            last += node.body
        elif last or (isinstance(node, ast.Expr) and _calls(node.value, defined)):
            last.append(node)
        else:
            first.append(node)
    return ast.Module(first, tree.type_ignores), ast.Module(last, [])


def _calls(node: ast.expr, defined: set[str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined


def largest_model() -> torch.nn.Module | None:
    """The module with the most parameters of all that there are."""
    found = [each for each in gc.get_objects() if isinstance(each, torch.nn.Module)]
    return max(found, key=parameters, default=None)


def parameters(model: torch.nn.Module) -> int:
    """How many, each once."""
    return sum(each.numel() for each in model.parameters())


def sizes(model: torch.nn.Module) -> dict[str, Any]:
    """Parameters, layers, and the vocabulary and width of the first table of embeddings."""
    tables = [each for each in model.modules() if isinstance(each, torch.nn.Embedding)]
    lists = [len(each) for each in model.modules() if isinstance(each, torch.nn.ModuleList)]
    wide = max(tables, key=lambda each: each.weight.numel(), default=None)
    return {
        "parameters": parameters(model),
        "layers": max(lists, default=0),
        "vocabulary": wide.num_embeddings if wide else 0,
        "width": wide.embedding_dim if wide else 0,
    }


# ---- stages ----


def oracle(model: torch.nn.Module, tokens: np.ndarray, watch: Watch) -> Evaluation:
    """A model alone as a scorer: what its forward makes of tokens and targets."""

    def score(ids: torch.Tensor, module: torch.nn.Module) -> tuple[float, float]:
        module.eval()
        with torch.no_grad():
            loss = module(ids[None, :-1].long(), ids[None, 1:].long())
        return float(loss.float().mean()), float("nan")

    return Evaluation("the model alone", score, (torch.from_numpy(tokens), model), {}, tokens, watch)


def probe(evaluation: Evaluation, say: Callable[..., None], tokens: np.ndarray) -> None:
    """All probes of one scorer. What is seen of one that reports more is asked whether it looks ahead."""
    evaluation.rows(tokens)
    seen = evaluation.is_seen()
    say("seen", name=evaluation.name, seen=seen, early=evaluation.early, learnt=evaluation.learnt)
    text = Text(tokens, standins.BOS, None, (tokens, standins.text_bytes(tokens)))
    _put(evaluation, text, PROBED if seen else AHEAD, "seen" if seen else "part", say)
    phrases = np.random.default_rng(9).integers(standins.CONTROLS + standins.BYTES, 64, (4, 5))
    again = phrases[np.random.default_rng(10).integers(0, 4, 16)].reshape(-1)
    again[0] = standins.BOS
    _put(Told(evaluation), Text(again, standins.BOS), ("sums to one",), "told", say)


def _put(scorer: Scorer, text: Text, names: tuple[str, ...], how: str, say: Callable[..., None]) -> None:
    """One probe after the other, so that what was told stays told when time is over."""
    for name in names:
        asking = probing(scorer, text, POSITIONS, "it does not claim it", (name,))
        try:
            while True:
                next(asking)
        except StopIteration as end:
            for each in (one for one in end.value if one.probe == name or one.ended != "passed"):
                facts = {"probe": each.probe, "ended": each.ended, "why": each.why, "token": each.token}
                say("probe", name=scorer.name, how=how, **facts)


def stage(plan: dict[str, Any], name: str, rank: int, say: Callable[..., None]) -> None:
    """Run a script one way; whatever it raises is said."""
    torch.set_num_threads(1)
    place = Path("/tmp", name.replace(" ", "_"))
    os.chdir(place)
    os.environ["PATH"] += f":{place}/bin"
    plan = {**plan, "file": str(place / Path(plan["file"]).name)}
    vocabulary = plan["vocabulary"] if name == SIZES else 64
    os.environ |= standins.paths(place / "data", vocabulary)
    if name != SIZES:
        os.environ |= {key: str(value) for key, value in standins.TINY.items()}
        if name == UNTRAINED:
            os.environ |= {"ITERATIONS": "0", "WARMUP_STEPS": "0"}
        if name == SHARED:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": "29517",
            }
    script = Script(plan, name, say)
    standins.install(vocabulary)
    if name == SIZES:
        script.watch.on_optimizer = enough
    error: BaseException | None = None  # kept, since its frames hold the model
    try:
        with within((0.5 if name in (TINY, UNTRAINED) else 1.0) * (plan["until"] - time.monotonic())):
            script.run()
    except BaseException as raised:
        error = raised
    failed = error is not None and not isinstance(error, Enough | SystemExit)
    say("ran", ended="failed" if failed else "passed", why=reason(error, plan["file"]) if failed else "")
    model = largest_model()
    if model is not None and parameters(model):
        say("sizes", **sizes(model))
    if name in (TINY, UNTRAINED):
        look(script, model, plan["until"], say)


def lay_out(plan: dict[str, Any], name: str) -> None:
    """A folder to run in: the script's own, shards, a tokenizer, and what it calls."""
    place = Path("/tmp", name.replace(" ", "_"))
    shutil.copytree(Path(plan["file"]).parent, place)
    (place / "bin").mkdir(exist_ok=True)
    for program, does in standins.PROGRAMS.items():
        (place / "bin" / program).write_text(f"#!/bin/sh\n{does}\n")
        (place / "bin" / program).chmod(0o755)
    trained = standins.stream(64, TRAINED, 4)
    scored = trained if name == SIZES else standins.stream(64, SCORED, 3)
    standins.write_shards(place / "data", plan["vocabulary"] if name == SIZES else 64, scored, trained)


def enough() -> None:
    """Stop where the model is made and nothing is trained yet."""
    raise Enough


def look(script: Script, model: torch.nn.Module | None, until: float, say: Callable[..., None]) -> None:
    """What the run showed, and the probes."""
    early = sum(saves < script.watch.saves for saves in script.learnt_at)
    say("learnt", early=early, learnt=len(script.learnt_at), saves=script.watch.saves)
    latest: dict[str, Evaluation] = {}
    for evaluation in script.evaluations:
        latest[evaluation.name] = evaluation
    found = list(latest.values())[-MOST_EVALUATIONS:]
    if not found and model is not None:
        found = [oracle(model, script.scored, script.watch)]
    for number, evaluation in enumerate(found):
        try:
            share = (until - time.monotonic() - 1) / (len(found) - number)
            length = max((len(each) for each in texts_of(evaluation, script.scored)), default=SCORED)
            with within(share):
                probe(evaluation, say, script.scored[:length])
        except (Exception, Late) as error:
            say("unprobed", name=evaluation.name, why=reason(error, script.module.__file__ or ""))


def texts_of(evaluation: Evaluation, tokens: np.ndarray) -> list[Any]:
    """The validation tokens in what a function is given."""
    given = [*evaluation.given, *evaluation.named.values()]
    held = [each for thing in given for each in (thing, *parts(thing).values())]
    return [each for each in held if is_text(each, tokens)]


def reason(error: BaseException | None, file: str) -> str:
    """An error, with the line of the script."""
    if error is None:
        return ""
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == file]
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}" + (f" (line {lines[-1]})" if lines else "")


def main() -> None:
    """Each stage in a process of its own; a stage that does not end in its share of the time is ended."""
    pipe = os.fdopen(os.dup(1), "w")
    plan = json.loads(Path(sys.argv[1]).read_text())
    deadline = time.monotonic() + plan["seconds"]
    for name, share in ((SIZES, 0.25), (TINY, 0.8), (UNTRAINED, 0.8), (SHARED, 1.0)):
        if name not in plan["stages"] or (name == UNTRAINED and Path("/tmp/scored").exists()):
            continue
        lay_out(plan, name)
        ranks = range(2 if name == SHARED else 1)
        until = time.monotonic() + max(5.0, share * (deadline - time.monotonic()))
        children = [_start({**plan, "until": until}, name, rank, pipe) for rank in ranks]
        _wait(children, until, lambda name=name: _say(pipe, name, 0)("unended"))  # type: ignore[misc]


def _start(plan: dict[str, Any], name: str, rank: int, pipe: IO[str]) -> int:
    if child := os.fork():
        return child
    os.setpgid(0, 0)
    with Path("/dev/null").open("r+b") as nothing:
        for number in (0, 1, 2):
            os.dup2(nothing.fileno(), number)
    try:
        stage(plan, name, rank, _say(pipe, name, rank))
    finally:
        os._exit(0)


def _say(pipe: IO[str], name: str, rank: int) -> Callable[..., None]:
    def say(event: str, **facts: Any) -> None:
        if event == "evaluated" and name in (TINY, UNTRAINED):
            Path("/tmp/scored").touch()
        line = {"stage": name, "rank": rank, "event": event, **facts}
        pipe.write(json.dumps(line, default=float) + "\n")
        pipe.flush()

    return say


def _wait(children: list[int], until: float, unended: Callable[[], None]) -> None:
    running = list(children)
    while running and time.monotonic() < until:
        running = [each for each in running if os.waitpid(each, os.WNOHANG)[0] == 0]
        time.sleep(0.02)
    if running:
        unended()
    for each in running:
        os.killpg(each, signal.SIGKILL)
        os.waitpid(each, 0)


if __name__ == "__main__":
    main()
