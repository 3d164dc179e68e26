"""From trained weights to the bytes that count: allocate, tune, quantize, pack."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from bitgolf.base.events import Event, mapped, with_progress
from bitgolf.net.backend import Backend
from bitgolf.net.model import model_with
from bitgolf.recipe import Recipe
from bitgolf.squeeze.artifact import Artifact, Encoded, pack
from bitgolf.squeeze.quantize import (
    Curvatures,
    Made,
    NoTuning,
    QuantizePlan,
    TuningTask,
    quantize_weights,
)
from bitgolf.text.shards import TokenStream


@dataclass(frozen=True)
class Packer:
    """Everything that decides the bytes of a packed model but the table of quantizers.

    made, encoded: tensors and streams of its last packing. The next one takes from there what is the same.
    """

    recipe: Recipe
    tokenizer: bytes
    weights: dict[str, Tensor]
    curvatures: Curvatures
    code_bytes: int
    made: dict[str, Made] = field(default_factory=dict)
    encoded: dict[str, Encoded] = field(default_factory=dict)

    def packed(self, plan: QuantizePlan) -> tuple[list[dict[str, Any]], Artifact]:
        """The report of the tensors by a table, and the artifact."""
        tensors, rows = quantize_weights(plan, self.weights, self.curvatures, self.made)
        shipped = self.recipe.network().shipped()
        return rows, pack(shipped, tensors, self.tokenizer, self.recipe.pack, self.encoded)

    def total_bytes(self, artifact: Artifact) -> int:
        """What counts towards the budget: code and artifact, without the tokenizer where that is free."""
        free = 0 if self.recipe.budget.count_tokenizer else dict(artifact.ledger).get("tokenizer", 0)
        return len(artifact.data) - free + self.code_bytes

    def allocate(self, plan: QuantizePlan) -> Generator[Event, None, QuantizePlan]:
        """The table at its rate."""
        steps = plan.rate.allocate(
            plan, self.recipe.budget.budget_bytes, lambda tried: self.total_bytes(self.packed(tried)[1])
        )
        return mapped(steps, lambda facts: Event("fill", 0, 1, facts))

    def tuned(
        self, plan: QuantizePlan, backend: Backend, stream: TokenStream, trial: bool = False
    ) -> Generator[Event, None, "Packer"]:
        """The same with weights as the table's tuning leaves them; itself where there is none."""
        small = plan.tunable(self.weights)
        if plan.tuning == NoTuning() or not small:
            return self
        shipped, length = self.recipe.network().shipped(), self.recipe.data.sequence_length
        exact, student = (model_with(shipped, self.weights, backend) for _ in range(2))
        weights = dict(self.weights)

        def rounded(names: Iterable[str], changed: dict[str, Tensor]) -> dict[str, Tensor]:
            weights.update(changed)
            tensors, _ = quantize_weights(plan, weights, self.curvatures, self.made)
            return {name: tensors[name].dequantize() for name in names}

        task = TuningTask(exact, student, small, rounded, stream, length, trial)
        tuned = yield from with_progress(plan.tuning.tune(task), "tune")
        return replace(self, weights={**self.weights, **tuned})

    def allocated(
        self, backend: Backend, stream: TokenStream
    ) -> Generator[Event, None, tuple["Packer", QuantizePlan]]:
        """The packer with tuned weights and the recipe's table, both at the rate that the table asks for."""
        plan = yield from self.allocate(self.recipe.quantize)
        tuned = yield from self.tuned(plan, backend, stream)
        if tuned is self:
            return self, plan
        fitting = yield from tuned.allocate(plan)
        if fitting != plan and plan.tuning.one_rate:
            tuned = yield from self.tuned(fitting, backend, stream)
            fitting = yield from tuned.allocate(fitting)
        return tuned, fitting


class Packing(NamedTuple):
    """One way to pack: its table, what that knew, how each tensor was quantized, bytes and seconds.

    weights: what was quantized, small tensors tuned.
    """

    plan: QuantizePlan
    curvatures: Curvatures
    weights: dict[str, Tensor]
    rows: list[dict[str, Any]]
    artifact: Artifact
    seconds: dict[str, float]
