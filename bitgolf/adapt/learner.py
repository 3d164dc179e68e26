"""Training of a model on scored text; afterwards the model is restored."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from bitgolf.base.errors import BitgolfError, CheckpointError
from bitgolf.net.model import Model
from bitgolf.score.exam import RuleError
from bitgolf.squeeze.quantize import QuantizePlan
from bitgolf.train.loop import (
    PUBLIC_MICRO_BATCHES,
    TrainPlan,
    clipped_step,
    cut,
    swapped_weights,
)
from bitgolf.train.optim import Optimizers, OptimPlan, make_optimizers
from bitgolf.train.qat import CustomGradient, Noise
from bitgolf.train.schedule import Progress
from bitgolf.train.world import World

AT_THE_END = Progress(1, 1)  # of the training, for noise that begins late


class LearningError(BitgolfError):
    """A model cannot learn from the text that it scores, or diverges on it."""


class Learner:
    """Trains a model's own weights; the state of the optimizers is kept from call to call.

    Between two calls the model has the weights for scoring, which the noise makes if there is any.
    world: the processes that share each step.
    """

    world = World()

    def __init__(self, model: Model, optim: OptimPlan, clip: float, noise: Noise) -> None:
        self.model, self.clip, self.noise = model, clip, noise
        dtype = model.backend.dtype
        self.optimizers = make_optimizers(optim, model, iteration_dtype=dtype)
        self.shown = ExitStack()

    def show(self) -> None:
        """Replace the trained weights in the model by those for scoring."""
        self.shown.enter_context(swapped_weights(self.optimizers, self.noisy()))

    def noisy(self) -> Mapping[str, Tensor | CustomGradient]:
        """The replacements of weights by the noise."""
        return self.noise.fake_quantized(self.optimizers.parameters, QuantizePlan(), AT_THE_END, 0.0)

    def learn(self, tokens: Tensor, length: int, rows: int, epochs: int, progress: Progress) -> None:
        """Train for `epochs` on tokens (n + 1,) in rows of `length`, `rows` per step; a rest is left out.

        progress: of the learning-rate schedule. Raises LearningError if a gradient norm is not finite,
        RuleError if the processes get different weights.
        """
        model, world = self.model, self.world
        count = (len(tokens) - 1) // length
        device = tokens.device
        inputs, targets = (tokens[start:][: count * length].view(count, length) for start in (0, 1))
        plan = TrainPlan(batch_tokens=rows * length, grad_clip_norm=self.clip)
        lr_scale = self.optimizers.plan.schedule.lr_scale(progress)
        self.shown.close()
        model.train()
        for batch in [*zip(inputs.split(rows), targets.split(rows))] * epochs:
            with swapped_weights(self.optimizers, self.noisy()):
                pieces = cut([batch], piece_rows(plan.forward_rows(length, device), len(batch[0]), device))
                norm = shared_gradients(model, self.optimizers, pieces, world)
            if not norm < float("inf"):
                what = "test-time training diverged; the gradient's length"
                raise LearningError(what, value=norm, way_out="a lower rate of it")
            clipped_step(plan, self.optimizers, lr_scale, progress, norm)
        self.optimizers.zero()
        check_equal_weights([each.detach() for each in self.trained_weights().values()], world)
        model.eval()
        self.show()

    def state(self) -> dict[str, Tensor]:
        """Copies of the trained weights and of the optimizers' state."""
        self.shown.close()
        tensors = {
            f"weight/{name}": tensor.detach().clone() for name, tensor in self.trained_weights().items()
        }
        self.show()
        return tensors | {f"kept/{key}": tensor.clone() for key, tensor in self.optimizers.state().items()}

    def restore(self, learnt: Mapping[str, Tensor]) -> None:
        """Continue from a result of `state`. Raises CheckpointError if it does not fit."""
        own, kept = self.trained_weights(), part_of(learnt, "kept")
        refuse_other(part_of(learnt, "weight"), own)
        refuse_other(kept, {key: own.get(key.rpartition("/")[0]) for key in kept})
        self.shown.close()
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(learnt[f"weight/{name}"])
        self.optimizers.restore(kept)
        self.show()

    def trained_weights(self) -> dict[str, nn.Parameter]:
        """The trained weights, by name."""
        return {name: each for name, each in self.optimizers.parameters.items() if each.requires_grad}


def piece_rows(most: int, rows: int, device: torch.device) -> int:
    """Sequences in a piece of a step; a GPU's step has as many pieces as public scripts have processes."""
    return min(most, -(-rows // PUBLIC_MICRO_BATCHES)) if device.type == "cuda" else most


def shared_gradients(
    model: nn.Module, optimizers: Optimizers, pieces: list[tuple[Tensor, Tensor]], world: World
) -> float:
    """Compute the gradient of the mean loss of all pieces in the parameters; returns its norm.

    Each piece belongs to one process, and gradients are added in the order of the pieces. So every process
    gets the same bits as a single process would.
    """
    rows, total = sum(len(inputs) for inputs, _ in pieces), torch.zeros(0)
    for first in range(0, len(pieces), world.size):
        wave = pieces[first : first + world.size]
        # A process without a piece repeats that of another, which is not counted.
        inputs, targets = wave[min(world.rank, len(wave) - 1)]
        optimizers.zero()
        (model(inputs, targets) * (len(inputs) / rows)).backward()
        own = torch.cat([each.flatten() for each in optimizers.gradients()])
        for each in world.each(own)[: len(wave)]:
            total = total.add_(each) if len(total) else each
    gradients = optimizers.gradients()
    for gradient, part in zip(gradients, total.split([each.numel() for each in gradients])):
        gradient.copy_(part.view_as(gradient))
    return float(torch.stack([part.float() for part in torch._foreach_norm(gradients)]).norm())


def check_equal_weights(weights: list[Tensor], world: World) -> None:
    """Raises RuleError on all processes unless all have equal weights, by a checksum of their bits."""
    if world.size > 1:
        own = torch.stack([each.view(torch.int32).sum() for each in weights])
        if any(not torch.equal(own, other) for other in world.each(own)):
            raise RuleError("the processes have learnt different weights")


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors named 'part/...', by the rest of their names."""
    return {name[len(part) + 1 :]: each for name, each in tensors.items() if name.startswith(f"{part}/")}


def refuse_other(restored: Mapping[str, Tensor], own: Mapping[str, Tensor | None]) -> None:
    """Raises CheckpointError unless tensors have the names and shapes of ours; single numbers always fit."""
    for name in sorted({*restored, *own}):
        one, other = restored.get(name), own.get(name)
        if one is None or other is None or one.ndim and one.shape != other.shape:
            raise CheckpointError("what was learnt is of another model", value=name)


@contextmanager
def restored_after(model: nn.Module) -> Iterator[None]:
    """A context after which weights, and everything else that learning changes, are restored to the bit."""
    before = [(tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in model.parameters()]
    mode = model.training
    try:
        yield
    finally:
        model.train(mode)
        with torch.no_grad():
            for tensor, values, learns in before:
                tensor.copy_(values)
                tensor.requires_grad_(learns)
                tensor.grad = None
