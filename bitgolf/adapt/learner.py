"""A model that learns from scored text for a while, and is given back as it was."""

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
    """A model cannot learn from the text that it scores, or loses itself in it."""


class Learner:
    """Steps on a model's own weights; the state of the optimizers persists from call to call.

    Between two calls the model has the weights that it is scored with: those that the noise makes, if any.
    world: the processes that share each step.
    """

    world = World()

    def __init__(self, model: Model, optim: OptimPlan, clip: float, noise: Noise) -> None:
        self.model, self.clip, self.noise = model, clip, noise
        dtype = model.backend.dtype
        self.optimizers = make_optimizers(optim, model, iteration_dtype=dtype)
        self.shown = ExitStack()

    def show(self) -> None:
        """Put the weights that are scored in the place of those that learn."""
        self.shown.enter_context(swapped_weights(self.optimizers, self.noisy()))

    def noisy(self) -> Mapping[str, Tensor | CustomGradient]:
        """What stands in for weights."""
        return self.noise.fake_quantized(self.optimizers.parameters, QuantizePlan(), AT_THE_END, 0.0)

    def learn(self, tokens: Tensor, length: int, rows: int, epochs: int, progress: Progress) -> None:
        """Passes over tokens (n + 1) in rows of `length` side by side, so many to a step; a rest is left out.

        progress: of the schedule of all rates. Raises LearningError where a gradient's length is no
        number, RuleError where the processes come to different weights.
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
        refuse_apart([each.detach() for each in self.that_learn().values()], world)
        model.eval()
        self.show()

    def state(self) -> dict[str, Tensor]:
        """Copies of the weights that learn, and of what the optimizers keep."""
        self.shown.close()
        tensors = {f"weight/{name}": tensor.detach().clone() for name, tensor in self.that_learn().items()}
        self.show()
        return tensors | {f"kept/{key}": tensor.clone() for key, tensor in self.optimizers.state().items()}

    def restore(self, learnt: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave. Raises CheckpointError for what does not fit."""
        own, kept = self.that_learn(), part_of(learnt, "kept")
        refuse_other(part_of(learnt, "weight"), own)
        refuse_other(kept, {key: own.get(key.rpartition("/")[0]) for key in kept})
        self.shown.close()
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(learnt[f"weight/{name}"])
        self.optimizers.restore(kept)
        self.show()

    def that_learn(self) -> dict[str, nn.Parameter]:
        """The weights that learn, by name."""
        return {name: each for name, each in self.optimizers.parameters.items() if each.requires_grad}


def piece_rows(most: int, rows: int, device: torch.device) -> int:
    """Sequences in a piece of a step; a GPU's step has pieces for as many processes as the public scripts."""
    return min(most, -(-rows // PUBLIC_MICRO_BATCHES)) if device.type == "cuda" else most


def shared_gradients(
    model: nn.Module, optimizers: Optimizers, pieces: list[tuple[Tensor, Tensor]], world: World
) -> float:
    """Leave the gradient of the mean loss of all pieces in the parameters; its length.

    Each piece is one process's, and all are added up in the order of the pieces.
    So every process comes to the bits that one alone comes to.
    """
    rows, total = sum(len(inputs) for inputs, _ in pieces), torch.zeros(0)
    for first in range(0, len(pieces), world.size):
        wave = pieces[first : first + world.size]
        # A process without one takes another's once more, which is not counted.
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


def refuse_apart(weights: list[Tensor], world: World) -> None:
    """Raise RuleError, on all processes, unless all have these weights, by a sum over their bits."""
    if world.size > 1:
        own = torch.stack([each.view(torch.int32).sum() for each in weights])
        if any(not torch.equal(own, other) for other in world.each(own)):
            raise RuleError("the processes have learnt different weights")


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Those that are called 'part/...', by the rest of their names."""
    return {name[len(part) + 1 :]: each for name, each in tensors.items() if name.startswith(f"{part}/")}


def refuse_other(restored: Mapping[str, Tensor], own: Mapping[str, Tensor | None]) -> None:
    """Raise CheckpointError unless these are tensors like our own; a single number, as a count, always is."""
    for name in sorted({*restored, *own}):
        one, other = restored.get(name), own.get(name)
        if one is None or other is None or one.ndim and one.shape != other.shape:
            raise CheckpointError("what was learnt is of another model", value=name)


@contextmanager
def given_back(model: nn.Module) -> Iterator[None]:
    """Afterwards every weight is as before, to the bit, and so is what else learning changes."""
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
