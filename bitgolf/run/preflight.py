"""Tests before training of everything that could fail after it."""

import time
from collections.abc import Callable, Generator

import torch
from torch import Tensor

from bitgolf.base.errors import BitgolfError, DataError, PlanError
from bitgolf.base.events import Event, finish, with_progress
from bitgolf.net.backend import Backend
from bitgolf.net.model import build_model, count_parameters, model_with, shipped_weights
from bitgolf.recipe import Recipe
from bitgolf.run.evaluation import refuse_slow_run
from bitgolf.run.packer import Packer
from bitgolf.score.metric import summary
from bitgolf.score.score import scoring
from bitgolf.squeeze.artifact import Unpacked, load_model, pack, unpack
from bitgolf.squeeze.quantize import quantize_weights
from bitgolf.text.shards import Dataset
from bitgolf.train.optim import make_optimizers

PREFLIGHT_WINDOWS = 8


def preflight(
    recipe: Recipe,
    dataset: Dataset,
    backend: Backend,
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[Event, None, Unpacked]:
    """Data, tables, one trip through the artifact, a few scores; the model that came back from it, untrained.

    clock: seconds; of several processes one that all read alike.
    Raises BitgolfError for what would fail after the training.
    """
    yield Event("preflight", 0, 1, {})
    refuse_unfit(recipe, dataset)
    model = build_model(recipe.network(), seed)
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    make_optimizers(recipe.optim, model)
    if problems := recipe.noise.validate_for(weights):
        raise PlanError(f"noise.{problem}" for problem in problems)
    unpacked = packed_trial(recipe, dataset, weights, backend)
    tokens = dataset.scored_tokens()
    steps = scoring(
        load_model(unpacked, backend), tokens, dataset.tokenizer, recipe.score, sample=PREFLIGHT_WINDOWS
    )
    summary((yield from with_progress(steps, "preflight")))
    refuse_slow_run(load_model(unpacked, backend), dataset, recipe.score, clock)
    yield Event("preflight", 1, 1, {"parameters": count_parameters(recipe.model)})
    return unpacked


def refuse_unfit(recipe: Recipe, dataset: Dataset) -> None:
    """Raise DataError where a text is not one that the recipe can be trained and scored on."""
    pieces = dataset.tokenizer.vocabulary_size
    if pieces > recipe.model.vocabulary_size:
        raise DataError(
            f"the tokenizer has {pieces} pieces, the model {recipe.model.vocabulary_size}",
            where=str(dataset.folder),
            way_out=f"--set model.vocabulary_size={pieces}, or data made with another tokenizer",
        )
    length = recipe.data.sequence_length
    for name, stream in (("training", dataset.train), ("validation", dataset.val)):
        if stream.tokens <= length:
            raise DataError(
                f"the {name} text is shorter than one sequence",
                where=str(dataset.folder),
                value=f"{stream.tokens:,} tokens, sequence_length {length}",
                way_out="use more text or a smaller data.sequence_length",
            )
    bos = dataset.tokenizer.bos
    if bos not in (-1, recipe.model.bos_id):
        raise DataError(
            f"documents open with token {bos}, the model takes {recipe.model.bos_id} for that",
            where=str(dataset.folder),
            way_out=f"--set model.bos_id={bos}",
        )


def packed_trial(recipe: Recipe, dataset: Dataset, weights: dict[str, Tensor], backend: Backend) -> Unpacked:
    """Weights quantized with a trial of the calibration, packed and unpacked, which must give them back."""
    shipped, length = recipe.network().shipped(), recipe.data.sequence_length
    weights = shipped_weights(shipped, weights)
    model = model_with(shipped, weights, backend)
    curvatures = recipe.quantize.curvatures(model, dataset.train, length, trial=True)
    finish(
        Packer(recipe, b"", weights, curvatures, 0).tuned(recipe.quantize, backend, dataset.train, trial=True)
    )
    tensors, _ = quantize_weights(recipe.quantize, weights, curvatures)
    unpacked = unpack(pack(shipped, tensors, dataset.tokenizer.to_bytes(), recipe.pack).data)
    for name, tensor in tensors.items():
        if not torch.equal(unpacked.weights[name], tensor.dequantize()):
            raise BitgolfError("the artifact does not give back what was packed", where=name)
    return unpacked
