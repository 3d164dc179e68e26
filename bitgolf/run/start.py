"""Training that starts from the weights of another run."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from bitgolf.base.errors import BitgolfError
from bitgolf.net.backend import Backend
from bitgolf.net.model import build_model
from bitgolf.run.spec import RunSpec
from bitgolf.train.loop import State
from bitgolf.train.optim import make_optimizers
from bitgolf.train.world import World

SHOWN = 3  # tensors that do not fit, in a message


class Start(NamedTuple):
    """Weights to start from, by name. name: where they came from."""

    name: str
    weights: Mapping[str, Tensor]


def start_state(spec: RunSpec, start: Start, backend: Backend, world: World) -> State:
    """The state before the first step of a training that starts from these weights; the rest is as always.

    Raises BitgolfError where they are of another model, naming the first tensors that do not fit.
    """
    model = build_model(spec.recipe.network(), spec.seed).use(backend)
    live = model.state_dict()
    refuse_others(start, {name: tuple(tensor.shape) for name, tensor in live.items()})
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(start.weights[name])
    optimizers = make_optimizers(spec.recipe.optim, model, world, backend.dtype)
    return State(
        identity=spec.training_identity,
        dtype=backend.dtype_name,
        weights=live,
        optimizer=optimizers.state(),
        averaged=spec.recipe.average.start(live),
        random={"cpu": torch.get_rng_state()},
    )


def refuse_others(start: Start, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise BitgolfError unless the weights have exactly these names and shapes."""
    start_shapes = {name: tuple(tensor.shape) for name, tensor in start.weights.items()}
    odd = [
        f"{name}: {in_words(start_shapes.get(name))} there, {in_words(shapes.get(name))} here"
        for name in [*shapes, *(name for name in start_shapes if name not in shapes)]
        if start_shapes.get(name) != shapes.get(name)
    ]
    if odd:
        more = f", and {len(odd) - SHOWN:,} more" if len(odd) > SHOWN else ""
        raise BitgolfError(
            f"{len(odd)} of its tensors do not fit: {'; '.join(odd[:SHOWN])}{more}",
            where=start.name,
            way_out="start from a run with the same model settings, or change no setting of the model",
        )


def in_words(shape: tuple[int, ...] | None) -> str:
    """A shape as 4096x192."""
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"
