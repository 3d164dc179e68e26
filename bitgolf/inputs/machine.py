"""Whether a run is continued on the machine where it began; others give other bits."""

from pathlib import Path

import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.inputs.typed import Machine, read_as
from bitgolf.net.backend import choose_device
from bitgolf.recipe import Recipe
from bitgolf.run.folder import CHECKPOINT, processor_name


def other_machine(folder: Path, recipe: Recipe) -> str:
    """What is another here than where a run was begun, in a line; '' if nothing is, or nothing was trained.

    The number type is not among it: a run goes on in the one that it was begun in.
    """
    path = folder / "environment.json"
    if not path.is_file() or not (folder / CHECKPOINT).is_file():
        return ""
    try:
        begun = read_as(path, Machine)
    except BitgolfError as error:
        return f"it is not known on which machine this run was begun: {error}"
    device, _, _ = begun.get("backend", {}).get("device", "").partition(":")
    pairs = [
        ("torch", begun.get("torch"), str(torch.__version__)),
        ("device", device, choose_device(recipe.backend).type),
        ("processor", begun.get("processor"), processor_name()),
    ]
    differences = [f"{name} {was} before, {now} now" for name, was, now in pairs if was and was != now]
    return (
        f"begun elsewhere, so further steps may differ in bits: {', '.join(differences)}"
        if differences
        else ""
    )
