"""Bytes and losses of each tensor of an artifact, and alarms for a reader.

Every tensor is compared with plain rounding: a step for each row, from its largest weight, and as many levels
as give its codes the entropy of all that is shipped of the tensor. So both take as many bytes.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from bitgolf.report.screen import number
from bitgolf.squeeze.artifact import Artifact, unpack
from bitgolf.squeeze.form import QuantizedTensor
from bitgolf.squeeze.gptq import squared_error
from bitgolf.squeeze.grid import absmax_clip, as_matrix
from bitgolf.squeeze.quantize import SMALL_ELEMENTS, Curvature, Curvatures, QuantizePlan, Quantizer
from bitgolf.squeeze.rate import expected_damage
from bitgolf.train.qat import LateNoise, Noise
from bitgolf.train.schedule import Progress

LEVELS_SHOWN = 63  # counts of a histogram at most
LARGEST_OCTAVE, HALVINGS = 15.0, 12  # the search for plain rounding's levels: to 0.004 bits a weight
WORSE = 1.5  # times the loss of plain rounding, which is 0.3 bits a weight
CHANCE = 3.0  # deviations by which the losses of two roundings may differ anyhow
UNSEEN_ERROR = 0.001  # of the weights' size: a third of what eight bits lose
SILENT_SHARE = 0.01  # of the training text that calibration may miss
GIVEN_UP = 2.0  # times the mean damage of a row may be lost with one that is all zeros
# What an alarm calls each measure, and the power that makes it one of squares.
GAPS = ("gap", "gap_error", "kl_gap", "kl_gap_error", "predicted_gap")  # of a whole model, in bits per byte
LOSSES = {
    "relative_error": ("squared error", 2),
    "output_error": ("squared error of outputs", 2),
    "damage_nats": ("expected damage", 1),
}


def tensor_rows(
    plan: QuantizePlan,
    weights: Mapping[str, Tensor],
    curvatures: Curvatures,
    artifact: Artifact,
    rows: list[dict[str, Any]],
    noisy: Mapping[str, Quantizer],
) -> list[dict[str, Any]]:
    """The rows of `quantize_weights`, with what the packed bytes say of each tensor.

    noisy: the quantizers that training noise used, see `noise_quantizers`.
    """
    shipped, sizes, reported = unpack(artifact.data).tensors, tensor_bytes(artifact), []
    for row in rows:
        name = row["name"]
        weight, rule = weights[name].cpu(), plan.rule_of(name, weights[name])
        assert rule is not None, "rows are of tensors with a rule"
        facts = tensor_row(rule.quantizer, weight, shipped[name], curvatures.get(name), noisy.get(name))
        size_facts = {"bytes": sizes[name], "coded_bits": 8 * sizes[name] / max(1, weight.numel())}
        reported.append({"name": name, "rule": row["rule"], **size_facts, **facts, "seconds": row["seconds"]})
    return reported


def tensor_bytes(artifact: Artifact) -> dict[str, int]:
    """The bytes of each tensor in an artifact, scales and the like included; a shared stream is divided."""
    sizes: dict[str, int] = {}
    for line, num_bytes in artifact.ledger:
        name = line.split(" ")[0]
        sizes[name] = sizes.get(name, 0) + num_bytes
    return sizes


def tensor_row(
    quantizer: Quantizer,
    weight: Tensor,
    tensor: QuantizedTensor,
    curvature: Curvature | None = None,
    noise: Quantizer | None = None,
) -> dict[str, Any]:
    """What is shipped of a weight beside plain rounding; `alarm` is empty when all is well.

    noise: the quantizer with which the weight was trained, if any.
    """
    curvature = None if curvature is None else on_cpu(curvature)
    values = tensor.dequantize()
    mine = losses(weight, values, curvature)
    plain: dict[str, float] = {}
    small = weight.numel() <= SMALL_ELEMENTS and nominal_bits(quantizer, weight, tensor) >= 8
    if tensor.is_float or (small and curvature is None):
        mine["damage_nats"] = 0.0  # far below what is measured
    if not tensor.is_float and is_compared(tensor):
        plain = losses(weight, plain_rounding(weight, stored_bits(tensor)), curvature)
    alarms = [
        *collapse(weight, tensor, values, curvature),
        *lost_outlier(weight, tensor, values),
        *silent_rows(curvature),
        *comparison(mine, plain, freedom(weight, curvature)),
        *foreign_grid(weight, tensor, noise),
    ]
    return {
        "bits": nominal_bits(quantizer, weight, tensor),
        "elements": weight.numel(),
        **mine,
        **{f"{name}_plain": loss for name, loss in plain.items()},
        **levels(tensor),
        **coverage(curvature),
        **quantizer.notes(weight, tensor),
        "alarm": "; ".join(alarms),
    }


def on_cpu(curvature: Curvature) -> Curvature:
    """The same, where reports are made."""
    outputs = None if curvature.outputs is None else curvature.outputs.cpu()
    return curvature._replace(inputs=curvature.inputs.cpu(), outputs=outputs)


def nominal_bits(quantizer: Quantizer, weight: Tensor, tensor: QuantizedTensor) -> float:
    """Bits of a number before any entropy coding; of forms without a grid, the entropy of their codes."""
    return quantizer.notes(weight, tensor).get("bits", tensor.form.nominal_bits(tensor.pieces))


def losses(weight: Tensor, values: Tensor, curvature: Curvature | None) -> dict[str, float]:
    """What is lost with these values for a weight, by every measure there is; the last is the best.

    Errors of the weights and, where its inputs are known, of its outputs, both in shares of their size; and
    the nats a token expected to be lost, where gradients are known too.
    """

    def share(inputs: Tensor | None) -> float:
        lost, whole = (squared_error(weight, each, inputs) for each in (values, torch.zeros_like(weight)))
        return math.sqrt(max(0.0, lost) / whole) if whole > 0 else 0.0

    measures = {"relative_error": share(None)}
    if curvature is not None:
        measures["output_error"] = share(curvature.inputs)
        if curvature.outputs is not None:
            measures["damage_nats"] = expected_damage(weight, values, curvature)
    return measures


def shown_error(row: Mapping[str, Any], ending: str = "") -> float | None:
    """The error of a row's outputs where their inputs are known, else of its weights. ending: "_plain"."""
    return row.get(f"output_error{ending}", row.get(f"relative_error{ending}"))


def is_compared(tensor: QuantizedTensor) -> bool:
    """Whether there are four weights for each code, were all as likely: so many show what they cost."""
    count = math.prod(tensor.shape)
    return count > 4 and stored_bits(tensor) <= count * math.log2(count / 4)


def plain_rounding(weight: Tensor, bits: float) -> Tensor:
    """The weight on the nearest of each row's levels, as many as so many bits pay for, scales included."""
    matrix = as_matrix(weight).float()
    largest = absmax_clip(matrix)[:, None]
    values = torch.zeros_like(matrix)
    # The code of a row's largest weight, in octaves; at half a step all are zero.
    few, many = -1.0, LARGEST_OCTAVE
    for _ in range(HALVINGS):
        middle = (few + many) / 2
        steps = largest / 2**middle
        codes = torch.where(steps > 0, matrix / steps, 0.0).round()
        if entropy_bits(codes) + 16 * len(matrix) > bits:
            many = middle
        else:
            few, values = middle, codes * steps
    return values.reshape(weight.shape)


def stored_bits(tensor: QuantizedTensor) -> float:
    """Bits of all that is stored of a tensor, to a coder that knows how often each code occurs."""
    parts = tensor.pieces.values()
    return sum(entropy_bits(part) if part.dtype is torch.int8 else 8.0 * part.nbytes for part in parts)


def entropy_bits(codes: Tensor) -> float:
    """Bits of whole numbers to a coder that knows how often each occurs."""
    if not codes.numel():
        return 0.0
    flat = codes.flatten().int()
    counts = torch.bincount(flat - flat.min()).double()
    shares = counts[counts > 0] / codes.numel()
    return float(-(shares * shares.log2()).sum()) * codes.numel()


def levels(tensor: QuantizedTensor) -> dict[str, Any]:
    """How often each code occurs; of many, counts of as many neighbours as `width`, an odd number.

    first: the code in the middle of the first count.
    """
    if tensor.is_float or not math.prod(tensor.shape):
        return {}
    codes = tensor.form.whole_codes(tensor.pieces).int()
    low, high = int(codes.min()), int(codes.max())
    width = 1
    while (high + width // 2) // width - (low + width // 2) // width >= LEVELS_SHOWN:
        width += 2
    bars = (codes + width // 2).div(width, rounding_mode="floor").flatten()
    first = int(bars.min())
    counts = torch.bincount(bars - first).tolist()
    return {"levels": {"first": first * width, "width": width, "counts": counts}}


def coverage(curvature: Curvature | None) -> dict[str, Any]:
    """How much of a matrix the calibration text has reached: shares of its columns and rows."""
    if curvature is None:
        return {}
    facts: dict[str, Any] = {"calibration_tokens": curvature.tokens}
    if curvature.silent_rows:
        facts["silent_rows"], facts["silent_share"] = curvature.silent_rows, curvature.silent_share
    facts["inputs_seen"] = float((curvature.inputs.diagonal() > 0).double().mean())
    if curvature.outputs is not None:
        rows = curvature.outputs if curvature.outputs.ndim == 1 else curvature.outputs.diagonal()
        facts["outputs_seen"] = float((rows > 0).double().mean())
    return facts


def collapse(
    weight: Tensor, tensor: QuantizedTensor, values: Tensor, curvature: Curvature | None
) -> Iterator[str]:
    """An alarm where weights that share a scale (of other forms: a row) have all become zeros.

    Where gradients are known, a row may be given up that costs no more than others do by rounding.
    """
    if tensor.is_float:
        if bool(weight.any()) and not bool(values.any()):
            yield f"too small for {tensor.form.in_short()}: it is zeros"
        return
    if is_unseen(curvature):
        yield f"the loss does not see it{'' if bool(values.any()) else ': it is zeros'}"
        return
    before, after, kind = as_matrix(weight), as_matrix(values), "rows"
    if curvature is None or curvature.outputs is None:
        before, after = (tensor.form.scale_groups(matrix) for matrix in (before, after))
        kind = "rows" if after.shape == as_matrix(values).shape else "groups"
    gone = (after == 0).all(dim=1) & (before != 0).any(dim=1)
    if curvature is not None and curvature.outputs is not None and not bool(gone.all()):
        damages = row_damages(before - after, curvature)
        gone &= damages > GIVEN_UP * damages[~gone].mean()
    if bool(gone.any()):
        yield f"collapsed: {int(gone.sum())} of {len(gone)} {kind} are all zeros"


def is_unseen(curvature: Curvature | None) -> bool:
    """Whether no error of a matrix would change the loss of the calibration text."""
    if curvature is None or curvature.outputs is None:
        return False
    return not float(curvature.inputs.diagonal().sum()) * float(curvature.outputs.abs().sum())


def silent_rows(curvature: Curvature | None) -> Iterator[str]:
    """An alarm where calibration never saw tokens that the training text often has."""
    if curvature is not None and curvature.silent_share > SILENT_SHARE:
        share = f"{100 * curvature.silent_share:.1f}% of the training text"
        yield f"{curvature.silent_rows:,} rows, {share}, are not in that of calibration: more sequences"


def lost_outlier(weight: Tensor, tensor: QuantizedTensor, values: Tensor) -> Iterator[str]:
    """An alarm where the largest weight is shipped at less than half its size, and most error is there.

    Or where a scale is the largest that its type holds, so that codes cannot reach the weights.
    """
    if not weight.numel():
        return
    for scales in (part for name, part in tensor.pieces.items() if name.endswith("scales")):
        full = scales.float() >= torch.finfo(scales.dtype).max
        if bool(full.any()):
            kind = str(scales.dtype).removeprefix("torch.")
            yield f"{int(full.sum())} of {full.numel()} scales are the largest that {kind} holds"
    largest = int(weight.abs().argmax())
    before, after = float(weight.flatten()[largest]), float(values.flatten()[largest])
    total = float((weight.double() - values.double()).square().sum())
    if abs(after) < abs(before) / 2 < abs(before) and (before - after) ** 2 > total / 2:
        yield f"its largest weight, {before:.4g}, is shipped as {after:.4g}"


def row_damages(error: Tensor, curvature: Curvature) -> Tensor:
    """The nats a token that the error (rows, columns) of each row is expected to cost by itself."""
    assert curvature.outputs is not None, "gathered with outputs=True"
    rows = curvature.outputs if curvature.outputs.ndim == 1 else curvature.outputs.diagonal()
    error = error.double()
    return rows.double() * (error * (error @ curvature.inputs.double())).sum(dim=1) / 2


def comparison(mine: Mapping[str, float], plain: Mapping[str, float], squares: float) -> Iterator[str]:
    """An alarm where the best measure there is finds more loss than with plain rounding, and not by chance.

    squares: of how many independent ones a loss is the sum, see `freedom`.
    """
    if not plain or not mine[measure := [*plain][-1]] or mine["relative_error"] < UNSEEN_ERROR:
        return
    label, power = LOSSES[measure]
    ratio = (mine[measure] / plain[measure]) ** power if plain[measure] > 0 else math.inf
    # The logarithm of the ratio of two such sums has the variance 4 / squares.
    if ratio > WORSE * math.exp(CHANCE * 2 / math.sqrt(squares)):
        yield f"worse than plain rounding of as many bits: {ratio:.2f} times its {label}"


def freedom(weight: Tensor, curvature: Curvature | None) -> float:
    """How many directions of a matrix its loss is spread over."""
    rows, columns = as_matrix(weight).shape
    if curvature is None:
        return max(1.0, rows * columns)
    seen = rows if curvature.outputs is None else directions(curvature.outputs)
    return max(1.0, seen * directions(curvature.inputs))


def directions(moments: Tensor) -> float:
    """How many directions second moments, or their diagonal, are spread over: all if they are equal."""
    trace = moments.sum() if moments.ndim == 1 else moments.diagonal().sum()
    squares = moments.double().square().sum()
    return float(trace.double() ** 2 / squares) if squares > 0 else 0.0


def noise_quantizers(noise: Noise, plan: QuantizePlan, weights: Mapping[str, Tensor]) -> dict[str, Quantizer]:
    """The quantizers that training noise had at its end, by tensor, from the table it was given."""
    if not isinstance(noise, LateNoise) or not noise.active(Progress(1, 1), 0.0):
        return {}
    plan = noise.noise_plan(plan)
    rules = {name: plan.rule_of(name, weights[name]) for name in noise.chosen(weights)}
    return {name: rule.quantizer for name, rule in rules.items() if rule is not None}


def foreign_grid(weight: Tensor, tensor: QuantizedTensor, noise: Quantizer | None) -> Iterator[str]:
    """An alarm where a tensor was trained on one grid and is shipped on another."""
    if noise is not None and not same_grid(noise.quantize(weight), tensor):
        yield f"not on the grid it was trained on, that of {number(noise)} without calibration"


def same_grid(one: QuantizedTensor, other: QuantizedTensor) -> bool:
    """Whether the codes of two tensors, whatever they are, stand for the same values."""
    if one.form.levels() != other.form.levels() or one.is_float:
        return one.form == other.form
    kinds = one.form.pieces(one.shape).items()
    steps = [kind for kind, (dtype, shape) in kinds if dtype is not torch.int8 or len(shape) != 2]
    return all(torch.equal(one.pieces[kind], other.pieces[kind]) for kind in steps)


def predicted_gap(rows: list[dict[str, Any]], bytes_per_token: float) -> float | None:
    """Bits per byte that the expected damage of all tensors comes to; None where one of them has none.

    Kept floats and control tensors of eight bits count as no damage. The sum is to second order, and knows
    nothing of tensors together.
    """
    damages = [row.get("damage_nats") for row in rows]
    measured = [damage for damage in damages if damage is not None]
    return bits_per_byte_of(sum(measured), bytes_per_token) if len(measured) == len(damages) else None


def bits_per_byte_of(nats_per_token: float, bytes_per_token: float) -> float:
    """A loss of every token as bits per byte of text."""
    return nats_per_token / math.log(2) / bytes_per_token
