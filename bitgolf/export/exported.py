"""A packed model for other programs: plan, float32 weights, tokenizer, and logits to compare."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import to_json
from bitgolf.base.tensors import read_tensors, write_tensors
from bitgolf.inputs.resolve import find_artifact
from bitgolf.inputs.typed import read_plan
from bitgolf.net.backend import Backend
from bitgolf.net.model import Model, ModelPlan, model_with
from bitgolf.recipe import Recipe
from bitgolf.run.positions import trained_length
from bitgolf.squeeze.artifact import Unpacked
from bitgolf.text.tokenizer import Tokenizer

WINDOW = 1024  # tokens that a model sees, where no recipe beside it says how many it was trained on
COMPARED_ROWS, COMPARED_TOKENS = 2, 48
TOLERANCE = 1e-4  # by which a logit may differ there


class Exported(NamedTuple):
    """path: of the artifact. window: tokens that it was trained on. name: of its recipe, or of the file."""

    path: Path
    name: str
    plan: ModelPlan
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    window: int

    def model(self) -> Model:
        """The network in float32 and plain operations, on the CPU."""
        return model_with(self.plan, self.weights, Backend().plain())

    def probe(self) -> tuple[Tensor, Tensor]:
        """Ids (rows, time) drawn from a fixed seed, and their logits (rows, time, vocabulary)."""
        length = min(COMPARED_TOKENS, self.window)
        draws = torch.Generator().manual_seed(0)
        ids = torch.randint(self.plan.vocabulary_size, (COMPARED_ROWS, length), generator=draws)
        if self.tokenizer.bos >= 0:
            ids[:, 0] = self.tokenizer.bos
        with torch.inference_mode():
            return ids, self.model().logits(ids)


def read_exported(run: str) -> Exported:
    """A run folder or model.bin, reloaded from its packed bytes."""
    return exported_of(*find_artifact(run))


def exported_of(path: Path, unpacked: Unpacked) -> Exported:
    """An artifact that was read already, with its recipe's name and window where one is beside it."""
    recipe_file = path.parent / "recipe.json"
    recipe = read_plan(recipe_file, Recipe) if recipe_file.is_file() else None
    name = recipe.name if recipe else path.stem
    window = trained_length(recipe) if recipe else WINDOW
    return Exported(path, name, unpacked.model, unpacked.weights, unpacked.tokenizer, window)


def write_weights(exported: Exported, out: Path) -> float:
    """The float32 weights under their public names as safetensors; returns 0, as they are the same bits.

    The plan of the model stands in its facts; `bitgolf score OUT --data DATASET` reads such a file too.
    """
    write_tensors(out, exported.weights, {"model": to_json(exported.plan), "name": exported.name})
    read, _ = read_tensors(out)
    ids, expected = exported.probe()
    with torch.inference_mode():
        return greatest_difference(exported._replace(weights=read).model().logits(ids), expected, out)


def greatest_difference(logits: Tensor, expected: Tensor, where: Path) -> float:
    """Between logits of what was written and the model's own. Raises BitgolfError above TOLERANCE."""
    difference = float((logits - expected).abs().max())
    if not difference <= TOLERANCE:  # NaN too
        raise BitgolfError(
            "what was written gives other logits than the packed model",
            where=str(where),
            value=difference,
            way_out=f"at most {TOLERANCE} is expected; please report it with the model",
        )
    return difference
