"""What a submission can contain, in one reading order: a module imports only modules named before it."""

# A slot finds its members among the classes that are there; no other module asks for these.
import bitgolf.core.lowrank
import bitgolf.core.presets
import bitgolf.core.rate
import bitgolf.core.rotate  # noqa: F401

READING_ORDER = (
    "errors",
    "plan",
    "files",
    "windows",
    "tables",
    "codec",
    "form",
    "grid",
    "quantize",
    "clip",
    "gptq",
    "rotate",
    "lowrank",
    "rate",
    "world",
    "muon",
    "schedule",
    "casing",
    "tokenizer",
    "shards",
    "batches",
    "backend",
    "kernels",
    "parts",
    "position",
    "start",
    "embed",
    "values",
    "heads",
    "layers",
    "route",
    "objective",
    "model",
    "hessian",
    "presets",
    "optim",
    "average",
    "noise",
    "train",
    "artifact",
    "score",
    "metric",
    "recipe",
    "run",
)
