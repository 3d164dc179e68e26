"""Forecasts before training: bytes by tensor, memory, work. A run that cannot fit is refused."""

import functools
import math
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitgolf.base.errors import BudgetError
from bitgolf.base.events import finish
from bitgolf.base.threads import in_threads
from bitgolf.forecast.weight_model import ExpectedWeights
from bitgolf.net.backend import choose_backend
from bitgolf.net.kernels import KEEP_BYTES, chunks, head_rows
from bitgolf.net.model import ModelPlan, count_parameters, keyed_generator, parameter_shapes
from bitgolf.net.position import AttentionWindow
from bitgolf.recipe import Recipe
from bitgolf.report.tensors import nominal_bits
from bitgolf.squeeze.artifact import ByRole, join_planes
from bitgolf.squeeze.codec import Codec
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.hessian import HEADS
from bitgolf.squeeze.quantize import QuantizePlan, Quantizer, SdClip
from bitgolf.squeeze.rate import RateAware
from bitgolf.train.average import Averager, Latest, NoAverage, Several
from bitgolf.train.optim import Frozen, MuonRule, assign_parameters
from bitgolf.train.qat import NoNoise, SoftNoise

SAMPLED_ELEMENTS = 2**17  # drawn for each kind of tensor, which is taken to be like them
HEAD_ELEMENTS = 2**19  # of tables with a row for each token: a few rows of a kind that compresses better
TRAINED_STD = 0.4  # of a matrix of which nothing is known; matters only to rules with a scale floor
BLOCK_BYTES = 2**17  # of a stream, in which compressors take codes of all tensors for alike
FORECAST_ERROR = 0.05  # a forecast this far above the budget may still fit
RATE_ERROR = 0.25  # the same where a step against the loss sets the rate
WORTH_NATS = 0.17  # a token, of all weights together, against which such a step is; 0.09 to 0.5 were measured
TOKENIZER_BYTES = 2.6  # for each piece that is no single byte
STEP_SHARE = 0.3  # of the speed of matrix products that a training step reaches; 0.2 to 0.46 were measured
PRODUCTS = 20  # are timed
PROCESS_BYTES = 360 << 20  # Python, torch, and what torch loads in its first step
COMPILER_BYTES = 90 << 20  # numba, by which the loss of a training in bfloat16 is compiled
ALLOCATOR_FACTOR = 1.65  # memory taken from the system over tensors alive at once, measured with glibc


def forecast(recipe: Recipe, code_bytes: int, tokenizer_bytes: int = 0) -> dict[str, Any]:
    """Parameters, packed bytes by tensor, memory and work of a recipe; nothing is trained.

    Bytes come from quantizing and compressing weights as they are expected, as the recipe says.
    """
    counted_tokenizer = tokenizer_bytes if recipe.budget.count_tokenizer else 0
    recipe = at_its_rate(recipe, code_bytes + counted_tokenizer)
    shapes, rows = parameter_shapes(recipe.model), tensor_rows(recipe)
    artifact_bytes = sum(row["bytes"] for row in rows) + tokenizer_bytes
    total = artifact_bytes - tokenizer_bytes + counted_tokenizer + code_bytes
    return {
        "recipe": recipe.name,
        "parameters": sum(row["elements"] for row in rows),
        "artifact_bytes": artifact_bytes,
        "code_bytes": code_bytes,
        "total_bytes": total,
        "budget_bytes": recipe.budget.budget_bytes,
        "headroom_bytes": recipe.budget.budget_bytes - total,
        "forecast_error": forecast_error(recipe),
        "memory_bytes": memory_bytes(recipe, shapes),
        "flops_per_token": flops_per_token(recipe.model, recipe.data.sequence_length),
        "flops_per_step": flops_per_token(recipe.model, recipe.data.sequence_length)
        * recipe.train.batch_tokens,
        "tensors": rows,
    }


def forecast_seconds(recipe: Recipe, flops_per_step: int) -> dict[str, float]:
    """Seconds of a step and of the training on this machine, from how fast it multiplies matrices now."""
    backend = choose_backend(recipe.backend)
    rate = product_flops_per_second(backend.dtype, backend.device)
    step = flops_per_step / (rate * STEP_SHARE)
    clock, steps = recipe.train.train_seconds, recipe.train.in_steps().steps
    steps = math.ceil(min(steps, clock / (recipe.train.step_seconds or step))) if clock else steps
    return {
        "product_gflops_per_second": rate / 1e9,
        "seconds_per_step": step,
        "steps": steps,
        "train_tokens": recipe.train.seen_tokens(steps),
        "train_seconds": step * steps,
    }


@functools.cache
def product_flops_per_second(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of matrix products in a number type, at best; measured once."""
    left = torch.ones(4096, 512, dtype=dtype, device=device)
    right = torch.ones(512, 512, dtype=dtype, device=device)
    best = math.inf
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * 4096 * 512 * 512 / best


def refuse_over_budget(facts: dict[str, Any]) -> None:
    """Raise BudgetError where even a lucky forecast does not fit."""
    total, budget = facts["total_bytes"], facts["budget_bytes"]
    if total > budget * (1 + facts["forecast_error"]):
        largest = max(facts["tensors"], key=lambda row: row["bytes"])
        raise BudgetError(
            f"about {total:,} bytes are forecast ({facts['code_bytes']:,} of them code)",
            where="budget.budget_bytes",
            value=budget,
            way_out=f"raise the budget, or make the model smaller (largest: {largest['name']}, "
            f"{largest['bytes']:,} bytes)",
        )


def memory_of_machine() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def refuse_over_memory(facts: dict[str, Any], machine_bytes: int | None = None) -> None:
    """Raise BudgetError where training would need more memory than the machine has."""
    if machine_bytes is None:
        machine_bytes = memory_of_machine()
    if facts["memory_bytes"] > machine_bytes:
        raise BudgetError(
            f"about {facts['memory_bytes']:,} bytes of memory are forecast for training",
            value=f"{machine_bytes:,} bytes in this machine",
            way_out="lower train.forward_tokens: the same gradient from smaller passes",
        )


def at_its_rate(recipe: Recipe, other_bytes: int) -> Recipe:
    """The recipe with the table that its rate is expected to settle at, beside so many bytes of other things.

    Raises BudgetError where no rate fits.
    """
    plan = recipe.quantize

    def total_bytes(tried: QuantizePlan) -> int:
        return other_bytes + sum(row["bytes"] for row in tensor_rows(recipe.replace(quantize=tried)))

    steps = plan.rate.allocate(plan, recipe.budget.budget_bytes, total_bytes)
    return recipe.replace(quantize=finish(steps))


def forecast_error(recipe: Recipe) -> float:
    """How far the packed bytes of a recipe may be from their forecast, as a share."""
    rated = any(isinstance(rule.quantizer, RateAware) for rule in recipe.quantize.rules)
    return RATE_ERROR if rated else FORECAST_ERROR


def expected_tokenizer_bytes(recipe: Recipe) -> int:
    """Of a tokenizer that is made for the recipe, once it is packed."""
    return int(TOKENIZER_BYTES * max(0, recipe.model.vocabulary_size - 256))


def tensor_rows(recipe: Recipe) -> list[dict[str, Any]]:
    """What each shipped tensor will weigh; those of one role, rule and shape are taken to weigh the same."""
    shapes = parameter_shapes(recipe.model.shipped())
    chosen = recipe.quantize.assign({n: torch.empty(shape, device="meta") for n, shape in shapes.items()})
    quantizers = {name: recipe.quantize.rules[rule].quantizer for name, rule in chosen.items()}
    expected, parameters = ExpectedWeights(recipe), sum(map(math.prod, shapes.values()))
    streams: dict[tuple[str, int], dict[tuple[Any, ...], list[str]]] = {}  # names of each rule and shape
    for name, shape in shapes.items():
        apart = chosen[name] if math.prod(shape) >= BLOCK_BYTES else 0
        stream = streams.setdefault((ByRole().group(name), apart), {})
        stream.setdefault((chosen[name], shape), []).append(name)
    forecasts: dict[str, tuple[float, int]] = {}
    for (group, _), members in streams.items():
        # No sample is larger than a tensor, and all are in proportion to what they stand for.
        most = sum(len(names) * math.prod(shape) for (_, shape), names in members.items())
        limit = HEAD_ELEMENTS if group in HEADS else SAMPLED_ELEMENTS
        drawn = min(limit, most / max(map(len, members.values())))
        samples = []
        for (_, shape), (name, *more) in members.items():
            share = (1 + len(more)) * math.prod(shape) / max(1, most)
            weight = expected.sample(name, round(drawn * share))
            samples.append(sampled(quantizer_like(quantizers[name], parameters), shape, weight))
        sizes = stream_sizes(samples, recipe.pack.codec)
        for names, sample, num_bytes in zip(members.values(), samples, sizes):
            forecasts |= dict.fromkeys(names, (sample.bits, num_bytes))
    return [
        {
            "name": name,
            "shape": "x".join(map(str, shape)),
            "elements": math.prod(shape),
            "rule": type(quantizers[name]).__name__,
            "bits": forecasts[name][0],
            "bytes": forecasts[name][1],
        }
        for name, shape in shapes.items()
    ]


def quantizer_like(quantizer: Quantizer, parameters: int) -> Quantizer:
    """The quantizer, or one that needs no trained model for as many bytes.

    Rate-aware steps are of equal cost; where all weights are worth the same, they are so many deviations.
    """
    if not isinstance(quantizer, RateAware):
        return quantizer
    deviations = quantizer.step * math.sqrt(parameters / (2 * WORTH_NATS))
    grid = Grid(bits=8)
    return SdClip(grid=grid, sigmas=grid.qmax * deviations)


def packed_size(quantizer: Quantizer, shape: tuple[int, ...], codec: Codec) -> tuple[float, int]:
    """Bits of a quantized number, and bytes of a normal tensor of this shape after quantizer and codec."""
    shape = shape or (1,)
    rows = max(1, SAMPLED_ELEMENTS // math.prod(shape[1:]))
    weight = TRAINED_STD * torch.randn(rows, *shape[1:], generator=keyed_generator(0, "forecast"))
    sample = sampled(quantizer, shape, weight)
    return sample.bits, stream_sizes([sample], codec)[0]


class Sample(NamedTuple):
    """What an artifact stores of some rows of a tensor, and which share of its rows they are."""

    codes: list[Tensor]  # matrices of one-byte codes
    others: list[Tensor]
    share: float
    bits: float  # of a quantized number


def sampled(quantizer: Quantizer, shape: tuple[int, ...], weight: Tensor) -> Sample:
    """Some rows of a tensor of this shape, quantized."""
    tensor = quantizer.quantize(weight)
    parts = list(tensor.pieces.values())
    codes = [part for part in parts if part.dtype is torch.int8 and part.ndim == 2]
    others = [part for part in parts if part.dtype is not torch.int8 or part.ndim != 2]
    bits = nominal_bits(quantizer, weight, tensor)
    share = len(weight) / max(1, shape[0]) if weight.ndim else 1.0
    return Sample(codes, others, share, bits)


class Size(NamedTuple):
    """Bytes that a codec makes of a stream: what each number adds, and what it costs whatever its length."""

    each: float
    once: float


def stream_sizes(samples: Sequence[Sample], codec: Codec) -> list[int]:
    """Bytes of the tensors of some samples. Their codes share a stream, and its bytes by their number."""
    matrices = [matrix for sample in samples for matrix in sample.codes]
    count = sum(matrix.numel() for matrix in matrices)
    code = size_of([matrix[: len(matrix) // 2] for matrix in matrices], matrices, codec)
    sizes = []
    for sample in samples:
        own = sum(matrix.numel() for matrix in sample.codes)
        num_bytes = code.each * own / sample.share + code.once * own / max(1, count)
        for part in sample.others:
            planes = join_planes([part])
            for i in range(0, len(planes), max(1, part.numel())):
                plane = torch.frombuffer(bytearray(planes[i : i + part.numel()]), dtype=torch.uint8)
                other = size_of([plane[: len(plane) // 2]], [plane], codec)
                num_bytes += other.each * len(plane) / sample.share + other.once
        sizes.append(math.ceil(num_bytes))
    return sizes


def size_of(half: Sequence[Tensor], whole: Sequence[Tensor], codec: Codec) -> Size:
    """From the bytes of a half of a stream and of all of it: what a sample costs once counts once."""

    def measured(parts: Sequence[Tensor]) -> tuple[int, int]:
        if not (numbers := sum(part.numel() for part in parts)):
            return 0, 0
        return numbers, len(
            codec.encode(join_planes(parts), [tuple(p.shape) for p in parts if p.ndim == 2])[1]
        )

    (many, more), (few, less) = in_threads(measured, [whole, half])
    each = max(0.0, (more - less) / (many - few)) if many > few else 0.0
    return Size(each, more - each * many)


def attention_window(model: ModelPlan) -> int:
    """How many tokens a query sees in training, 0 for all before it."""
    return next((scope.tokens for scope in model.scope if isinstance(scope, AttentionWindow)), 0)


def flops_per_token(model: ModelPlan, sequence_length: int) -> int:
    """Multiplications and additions of one training token, forward and backward.

    Six for each number of a matrix or head, each time that it is used, and twelve for each pair of a layer's
    channel and a token that a query sees.
    """
    shapes = parameter_shapes(model)
    calls = [call.layer for call in model.layer_calls(training=True)]
    products = 0
    for name, shape in shapes.items():
        if name.startswith("blocks.") and not name.endswith((".weight", ".attn_gate_w")):
            continue
        if name.startswith("blocks."):
            products += math.prod(shape) * calls.count(int(name.split(".")[1]))
        elif not name.endswith(("embed.weight", "tok_emb.weight")) and name.endswith(".weight"):
            products += math.prod(shape)
    if model.tied:
        products += math.prod(shapes["tok_emb.weight"])
    window = min(attention_window(model) or sequence_length, sequence_length)
    seen = window - window * window / (2 * sequence_length)
    return 6 * products + int(12 * len(calls) * seen * model.width)


def memory_bytes(recipe: Recipe, shapes: dict[str, tuple[int, ...]]) -> int:
    """Peak memory of one training process on a CPU, as the system counts it.

    Weights, gradients, optimizer and average are float32; what is kept for the backward pass is freed before
    the optimizer makes its updates.
    """
    names_by_row = assign_parameters(
        recipe.optim, {name: torch.empty(s, device="meta") for name, s in shapes.items()}
    )
    copies = {  # the gradient, and what its optimizer keeps
        name: 0 if isinstance(row.rule, Frozen) else 2 if isinstance(row.rule, MuonRule) else 3
        for row, names in zip(recipe.optim.rows, names_by_row)
        for name in names
    }
    averaged = averaged_copies(recipe.average)
    averaged += not isinstance(recipe.noise, NoNoise)  # the weights that stand in for others
    averaged += isinstance(recipe.noise, SoftNoise)  # their slopes
    elements = {name: math.prod(shape) for name, shape in shapes.items()}
    lasting = sum(4 * count * (1 + copies[name] + averaged) for name, count in elements.items())
    vocabulary = recipe.model.vocabulary_size
    logits = 3 * 4 * head_rows(vocabulary) * vocabulary
    updates = 8 * sum(elements.values())
    process = PROCESS_BYTES + COMPILER_BYTES * (recipe.backend.dtype != "float32")
    return process + lasting + max(int(ALLOCATOR_FACTOR * (kept_bytes(recipe) + logits)), updates)


def averaged_copies(average: Averager) -> int:
    """How many copies of the weights an average keeps."""
    if isinstance(average, Several):
        return sum(map(averaged_copies, average.averages))
    if isinstance(average, Latest):
        return average.snapshots
    return 0 if isinstance(average, NoAverage) else 1


def kept_bytes(recipe: Recipe) -> int:
    """What one pass through the model keeps for the backward pass, with the fused kernels on a CPU.

    A number type of `auto` counts as bfloat16.
    """
    model, length = recipe.model, recipe.data.sequence_length
    itemsize = 4 if recipe.backend.dtype == "float32" else 2
    rows = min(recipe.train.rows(length, 1), recipe.train.forward_rows(length, torch.device("cpu")))
    tokens = rows * length
    width, values = model.width, model.kv_heads * model.width // model.heads
    # Inputs of both mixes, norms and matrices; queries, keys and values; both sides of the activation.
    layer = 8 * width + 3 * values + 2 * model.hidden_width()
    layer += 3 * width * len(model.heads_out) + 3 * values * len(model.values)  # parts in plain torch
    calls = len(model.layer_calls(training=True))
    layers = calls * (itemsize * tokens * layer + attention_bytes(recipe, tokens, itemsize))
    casts = 0 if itemsize == 4 else itemsize * count_parameters(model)
    return layers + itemsize * tokens * (model.vocabulary_size + 5 * width) + casts


def attention_bytes(recipe: Recipe, tokens: int, itemsize: int) -> int:
    """What the attention of one layer keeps besides its inputs and outputs."""
    model, length, kind = recipe.model, recipe.data.sequence_length, recipe.backend.attention
    if kind == "math":
        return itemsize * tokens * model.heads * length
    if kind == "sdpa" or (kind == "auto" and recipe.backend.dtype == "float32"):
        return (
            3 * itemsize * tokens * model.width
        )  # keys and values repeated for their queries, outputs moved
    seen = sum((end - start) * (end - first) for first, start, end in chunks(length, attention_window(model)))
    weights = itemsize * tokens // length * model.heads * seen
    return weights if weights <= KEEP_BYTES else 0
