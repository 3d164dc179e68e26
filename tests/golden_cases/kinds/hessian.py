"""Second moments of what goes into each matrix, over calibration text."""

import torch
from torch import Tensor

from bitgolf.squeeze.hessian import gather_curvatures
from tests.golden_cases.case import Case, NotCoveredError
from tests.golden_cases.compare import limits
from tests.golden_cases.network import looping, public_model
from tests.golden_cases.records import date

DAMPING = 0.01  # of the mean of the diagonal: records before 2026-04-01 add it as they collect
TEXTS = ("input_ids", "tokens", "token_seqs", "sequences", "val_tokens")
COUNTS = (
    "n_batches",
    "num_batches",
    "n_calibration_batches",
    "batches",
    "hessian_divisor",
    "divisor",
    "n_seqs",
)


def check(case: Case) -> None:
    outputs = [name for name in case.tensors if name.startswith("out.")]
    sums, batches = sums_of_inputs(case)
    assert outputs, "no moments to compare"
    for output in outputs:
        name = next((name for name in sums if output == f"out.{name}" or output.endswith(f".{name}")), None)
        if name is None:
            raise NotCoveredError(f"the moments {output}")
        mean, expected = sums[name] / batches, case.tensors[output].float()
        if date(case) < "2026-04-01":
            mean = mean + DAMPING * mean.diagonal().mean().clamp_min(1e-6) * torch.eye(len(mean))
        stated, size = limits(case, output), float(mean.abs().max())
        rtol, atol = stated.get("rel", 1e-3), stated.get("abs", 1e-4 * size)
        torch.testing.assert_close(mean, expected, rtol=rtol, atol=atol)


def sums_of_inputs(case: Case) -> tuple[dict[str, Tensor], float]:
    """Sums of x x^T by name, and by how many batches they are divided."""
    counts = {name: case.arguments[name] for name in COUNTS if name in case.arguments}
    if not any(name.startswith("weights.") for name in case.tensors):
        given = [t.float().flatten(0, -2) for name, t in case.tensors.items() if name.lower()[:1] == "x"]
        return {"H": sum(rows.T @ rows for rows in given)}, next(iter(counts.values()), len(given))
    text, model, active = calibration_text(case), public_model(case), looping(case)
    model.train(not active).at(1.0 if active else 0.0)  # outside training ours always passes them again
    batches = len(text) if text.ndim == 3 else None
    divisor = batches or next(iter(counts.values()), len(text))
    assert all(count == divisor for count in counts.values()), counts
    wanted = [name for name, tensor in model.named_parameters() if is_product(name, tensor)]
    found = gather_curvatures(model, text.flatten(0, -2), wanted, False, torch.Generator())
    return {name: each.inputs * each.tokens for name, each in found.items()}, divisor


def calibration_text(case: Case) -> Tensor:
    """What the model reads (batches, batch, time), or (sequences, time): targets at the end are not read."""
    name = next(name for name in TEXTS if name in case.tensors)
    text, length = case.tensors[name].long(), case.arguments.get("seq", 0)
    if name != "input_ids" and (not length or text.shape[-1] == length + 1):
        text = text[..., :-1]
    assert not length or text.shape[-1] == length
    assert text.shape[-2] == case.arguments.get("batch", text.shape[-2])
    return text


def is_product(name: str, tensor: Tensor) -> bool:
    """Whether a matrix is multiplied with hidden states."""
    return (
        tensor.ndim == 2
        and name.endswith(".weight")
        and not name.endswith(("embed.weight", "smear_gate.weight"))
    )
