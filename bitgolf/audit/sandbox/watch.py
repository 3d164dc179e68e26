"""What is seen of a script that runs: each cross entropy, what is saved and loaded, steps of optimizers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from bitgolf.audit.sandbox.machine import put

TEXTS = (".txt", ".log", ".json", ".jsonl", ".csv", ".md", ".py", ".pyc")
RUN_OF = (5, 3)  # targets in a row that tell where in the text a score stands
_cross_entropy, _embedding = F.cross_entropy, F.embedding


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
        self.saves, self.steps, self.reloaded = 0, 0, False
        self.written: set[str] = set()
        self.by_bytes = False  # what was read last are bytes of which nobody sees whether they become a model

    def install(self) -> None:
        """From now on."""
        put(F, "cross_entropy", self._cross_entropy)
        put(F, "embedding", self._look_up)
        register_optimizer_step_post_hook(lambda *_: self._on_step())
        module, optimizer = torch.nn.Module, torch.optim.Optimizer
        put(torch, "save", _after(self._on_save, torch.save))
        put(torch, "load", _after(self._on_load, torch.load, map_location="cpu"))
        put(module, "load_state_dict", _after(self._on_load, module.load_state_dict))
        put(optimizer, "__init__", _after(lambda: self.on_optimizer(), optimizer.__init__))

    def _on_save(self) -> None:
        self.saves, self.reloaded = self.saves + 1, False

    def on_file(self, name: str, mode: str) -> None:
        """A file that is opened. What the script wrote and reads again, no text, is taken for a model."""
        if self.keeping or name.endswith(TEXTS):
            return
        if mode[:1] in ("w", "x"):
            self.written.add(name)
        elif mode[:1] == "r" and name in self.written:
            self._on_save()
            self.reloaded, self.by_bytes = True, True

    def _on_step(self) -> None:
        self.steps += 1
        self.on_step()

    def _on_load(self) -> None:
        self.reloaded, self.by_bytes = True, False

    def _look_up(self, ids: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and not self.keeping:
            self.on_ids(ids.detach().reshape(-1)[:64].numpy().astype(np.int64))
        return _embedding(ids, *given, **named)

    def _cross_entropy(
        self, logits: torch.Tensor, targets: torch.Tensor, *given: Any, **named: Any
    ) -> torch.Tensor:
        if targets.dtype in (torch.int64, torch.int32) and logits.ndim - 1 == targets.ndim:
            learning = torch.is_grad_enabled() and logits.requires_grad
            flat = targets.detach().reshape(-1).cpu().numpy().astype(np.int64)
            if not torch.is_inference_mode_enabled() or not self.keeping:
                self.on_call(flat, learning)
            if self.keeping:
                self._keep(logits, flat, learning)
        return _cross_entropy(logits, targets, *given, **named)

    def _keep(self, logits: torch.Tensor, flat: np.ndarray, learning: bool) -> None:
        with torch.no_grad():
            rows = logits.detach().float()
            rows = rows.movedim(1, -1).reshape(-1, rows.shape[1])
            inside = np.clip(flat, 0, rows.shape[1] - 1)
            each = torch.log_softmax(rows.double(), 1)
            nats = -each[torch.arange(len(flat)), torch.from_numpy(inside)].numpy()
            shares = each.exp() if self.with_shares and not learning else None
        self.calls.append(Seen(flat, nats, learning, shares))


def _after(notify: Callable[[], None], function: Callable[..., object], **always: object) -> object:
    """A function that says so before it is called; always: what it is given in any case."""

    def call(*given: object, **named: object) -> object:
        notify()
        return function(*given, **(named | always))

    return call


class Places:
    """Where in a text a run of targets stands."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.targets = tokens[1:].tolist()
        self.starts: dict[tuple[int, ...], int] = {}
        for length in RUN_OF:
            for start in range(len(self.targets) - length + 1):
                run = tuple(self.targets[start : start + length])
                self.starts[run] = -1 if run in self.starts else start

    def of(self, targets: np.ndarray) -> np.ndarray:
        """int64 (n): the row of each target; -1 where it cannot be told."""
        values, rows = targets.tolist(), np.full(len(targets), -1)
        last = -2
        for index, target in enumerate(values):
            if 0 <= last + 1 < len(self.targets) and self.targets[last + 1] == target:
                last += 1
            else:
                last = self._start(values, index)
            rows[index] = last
            last = last if last >= 0 else -2
        return rows

    def _start(self, values: list[int], index: int) -> int:
        for length in RUN_OF:
            start = self.starts.get(tuple(values[index : index + length]), -1)
            if start >= 0:
                return start
        return -1
