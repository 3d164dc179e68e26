"""bitgolf trains, squeezes and proves the best language model that fits in N bytes.

From Python:

    >>> import bitgolf
    >>> model = bitgolf.load("demo")  # the model that ships; or a run folder, or a model.bin
    >>> bits_per_byte = model.score("The state of our Union is strong.")
    >>> text = model.sample("My fellow citizens", tokens=20)

    recipe = bitgolf.find_recipe("demo", ["train.train_seconds=60"])
    result = bitgolf.run_recipe(recipe, "runs/mine", data="my_texts/")
    print(result["bits_per_byte"], result["total_bytes"])

The names in `__all__` are imported when they are asked for. (`bitgolf.run` and `bitgolf.score` are packages.)

Two lists hold the house together. READING_ORDER names what a submission can contain: a module imports only
modules named before it. AROUND names the packages around it: each imports READING_ORDER and packages named
before it.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitgolf.inputs.resolve import find_recipe
    from bitgolf.pipeline.api import PackedModel, load, run_recipe
    from bitgolf.recipe import Recipe

__all__ = ["PackedModel", "Recipe", "find_recipe", "load", "run_recipe"]

READING_ORDER = (
    "base.errors",
    "base.events",
    "base.plan",
    "base.files",
    "base.tensors",
    "base.compiled",
    "base.threads",
    "text.casing",
    "text.tokenizer",
    "text.encoder",
    "text.shards",
    "text.batches",
    "net.backend",
    "net.kernels",
    "net.softcap",
    "net.machine",
    "net.parts",
    "net.position",
    "net.start",
    "net.embed",
    "net.values",
    "net.heads",
    "net.mlp",
    "net.layers",
    "net.route",
    "net.objective",
    "net.model",
    "net.overlap",
    "net.attend",
    "net.products",
    "net.native",
    "squeeze.trellis_states",
    "squeeze.symbol_model",
    "squeeze.codec",
    "squeeze.form",
    "squeeze.grid",
    "squeeze.quantize",
    "squeeze.fill",
    "squeeze.clip",
    "squeeze.gptq",
    "squeeze.between",
    "squeeze.rotate",
    "squeeze.lowrank",
    "squeeze.trellis",
    "squeeze.rate",
    "squeeze.hessian",
    "squeeze.tune",
    "squeeze.presets",
    "squeeze.sections",
    "squeeze.artifact",
    "train.world",
    "train.muon",
    "train.schedule",
    "train.optim",
    "train.average",
    "train.qat",
    "train.loop",
    "score.windows",
    "score.chained",
    "score.exam",
    "score.adapter",
    "score.mixer",
    "score.score",
    "score.metric",
    "adapt.learner",
    "adapt.caps",
    "adapt.score_first",
    "adapt.lora",
    "adapt.documents",
    "mix.trust",
    "mix.counts",
    "mix.ngram",
    "mix.tilt",
    "mix.match",
    "mix.nearest",
    "mix.byte_contexts",
    "mix.byte_tree",
    "mix.ppm",
    "recipe",
)
AROUND = (
    "run",
    "proof",
    "public",
    "script",
    "report",
    "corpus",
    "forecast",
    "recipes",
    "inputs",
    "rivals",
    "pipeline",
    "catalog",
    "probe",
    "study",
    "audit",
    "published",
    "submit",
    "export",
    "share",
    "serve",
    "watch",
    "cli",
    "harness",
)


_PUBLIC = {
    "load": "pipeline.api",
    "run_recipe": "pipeline.api",
    "PackedModel": "pipeline.api",
    "find_recipe": "inputs.resolve",
    "Recipe": "recipe",
}


def __getattr__(name: str) -> Any:
    """A public name, from its module."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'bitgolf' has no attribute {name!r}")
    yield_cores()
    return getattr(importlib.import_module(f"bitgolf.{_PUBLIC[name]}"), name)


def yield_cores() -> None:
    """Have waiting threads give up their core, unless the user has chosen.

    Called before torch and numpy are imported, which read this once. torch's OpenMP (GNU's) spins for
    milliseconds by itself: with another busy process on two cores a training step then takes seconds instead
    of a tenth of one. numpy's OpenBLAS spins as well, after products so small that one thread is enough.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def import_core() -> None:
    """Import all of READING_ORDER: a slot finds its members among the classes that are there.

    Called before settings are read from text, which may name any of them.
    """
    for name in READING_ORDER:
        importlib.import_module(f"bitgolf.{name}")
