"""A script in this process, watched: its functions that score are noted as it runs."""

import ast
import functools
import gc
import inspect
import sys
import types
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch

from bitgolf.audit.sandbox.lines import SIZES, Report, Task
from bitgolf.audit.sandbox.machine import put
from bitgolf.audit.sandbox.scorers import Evaluation, figures, is_text, modules_of, parts, texts_of
from bitgolf.audit.sandbox.text import SCORED, VOCABULARY, stream
from bitgolf.audit.sandbox.tiny import small_settings
from bitgolf.audit.sandbox.watch import Places, Watch
from bitgolf.audit.unwrap import parsed

MOST_TRIED = 8  # calls of a function that is given no text: it may read one


class Enough(BaseException):
    """Nothing more is wanted of a script."""


class Script:
    """A script in this process, watched."""

    def __init__(self, task: Task, stage: str, report: Report) -> None:
        self.task, self.stage, self.report, self.watch = task, stage, report, Watch()
        self.scored = stream(VOCABULARY, SCORED, 3)
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
        self.module.__file__ = self.task.file
        sys.argv = [self.task.file]
        first, last = split(parsed(self.task.text))
        names = self.module.__dict__
        exec(compile(first, self.task.file, "exec"), names)
        self.report("imported")
        if self.stage != SIZES:
            own = [
                each for each in names.values() if isinstance(each, type) and each.__module__ == "__main__"
            ]
            small_settings(own)
            compile_unwatched(dict(names))
            for name, each in list(names.items()):
                if isinstance(each, types.FunctionType) and each.__module__ == "__main__":
                    names[name] = self.watched(name, each)
        exec(compile(last, self.task.file, "exec"), names)

    def _on_event(self, event: str, given: Sequence[object]) -> None:
        if event == "open":
            name, mode = str(given[0]), str(given[1])
            self.opened += "fineweb_val" in name
            self.watch.on_file(name, mode)

    def _on_ids(self, ids: np.ndarray) -> None:
        self.looked_up = self._is_scored(ids)  # the last look before a step is what it learns from

    def _on_step(self) -> None:
        if self.looked_up:
            self.learnt_at.append(self.watch.saves)
        self.looked_up = False

    def _is_scored(self, tokens: np.ndarray) -> bool:
        rows = self.places.of(tokens[:64])
        return bool((rows >= 0).sum() > len(rows) / 2)

    def _on_call(self, targets: np.ndarray, learning: bool) -> None:
        if learning and not self.watch.keeping and self._is_scored(targets):
            self.learnt_at.append(self.watch.saves)

    def watched(self, name: str, function: Callable[..., object]) -> Callable[..., object]:
        """A function, noted where it takes a model, takes or reads the validation tokens, returns numbers."""

        def call(*given: object, **named: object) -> object:
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
            if 0 < loss < np.inf and (has_text or self.opened > opened):
                if not has_inner:
                    self.evaluations.append(evaluation)
                    bits_said = bits if bits > 0 and np.isfinite(bits) else None
                    state = {
                        "saves": self.watch.saves,
                        "steps": self.watch.steps,
                        "reloaded": self.watch.reloaded,
                        "by_bytes": self.watch.by_bytes,
                    }
                    self.report("evaluated", name=name, loss=loss, bits=bits_said, **state)
                if self.nested:
                    self.nested[-1] = True
            return result

        return functools.update_wrapper(call, function)

    def _has_text(self, thing: object) -> bool:
        return is_text(thing, self.scored) or any(
            is_text(each, self.scored) for each in parts(thing).values()
        )


def compile_unwatched(names: dict[str, object]) -> None:
    """Let numba compile functions of a script as they were before they were watched, in these names."""
    try:
        import numba
    except ImportError:
        return
    njit: Callable[..., object] = numba.njit

    def compiled(*given: object, **named: object) -> object:
        if not (given and isinstance(given[0], types.FunctionType)):
            return lambda function: compiled(function, *given, **named)
        watched = inspect.unwrap(given[0])
        plain = types.FunctionType(
            watched.__code__, names, watched.__name__, watched.__defaults__, watched.__closure__
        )
        return njit(plain, *given[1:], **named)

    put(numba, "njit", compiled)


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
    modules = [each for each in gc.get_objects() if isinstance(each, torch.nn.Module)]
    return max(modules, key=parameters, default=None)


def parameters(model: torch.nn.Module) -> int:
    """How many, each once."""
    return sum(each.numel() for each in model.parameters())


def sizes(model: torch.nn.Module, vocabulary: int) -> dict[str, int]:
    """Parameters, layers, and the vocabulary and width of the table of embeddings: the largest one, or, where
    a script has a class of its own, the first matrix with a row for each token.
    """
    tables = [each.weight for each in model.modules() if isinstance(each, torch.nn.Embedding)]
    tables = [max(tables, key=lambda each: each.numel())] if tables else []
    tables += [each for each in model.parameters() if each.ndim == 2 and len(each) == vocabulary]
    lists = [len(each) for each in model.modules() if isinstance(each, torch.nn.ModuleList)]
    rows, width = tables[0].shape if tables else (0, 0)
    return {
        "parameters": parameters(model),
        "layers": max(lists, default=0),
        "vocabulary": rows,
        "width": width,
    }
