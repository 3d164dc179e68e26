"""Muon, step by step."""

import torch
from torch import Tensor

from bitgolf.train.muon import NEWTON_SCHULZ, POLAR_EXPRESS, orthogonalise, orthogonalise_reference
from bitgolf.train.optim import MuonRule
from bitgolf.train.world import World
from tests.golden_cases.case import Case
from tests.golden_cases.compare import limits, relative

EXACT = "out.ref_fp32.* and out.ref_fp64.*, for an fp32 or fp64 implementation"
COARSE = "out.param.*, for a bf16 implementation"  # stated in words, as 1.5 times the larger of two gaps


def check(case: Case) -> None:
    arguments, rule = case.arguments, muon_rule(case)
    gaps = [case.expected[f"rel_update_gap_bf16_{name}"] for name in ("vs_fp64", "other_operation_order")]
    assert case.tolerance[COARSE] and max(case.expected["rel_update_gap_fp32_vs_fp64"]) < 1e-4
    allowed = [1.5 * max(pair) for pair in zip(*gaps)]
    exact, last = limits(case, EXACT)["rel_frobenius_of_update"], len(arguments["steps"]) - 1
    coarse, fine = (muon_steps(case, rule, dtype) for dtype in (torch.bfloat16, torch.float32))
    for i, shape in enumerate(arguments["shapes"]):
        start = case.tensors[f"param.{i}"]
        assert list(start.shape) == shape
        for step, found in enumerate(coarse):
            wanted = case.tensors[f"out.param.{step}.{i}"]
            # The gaps are those after the last step; they grow from step to step.
            assert relative(found[i] - start, wanted - start) <= allowed[i], (step, i)
        for name in ("fp32", "fp64"):
            wanted = case.tensors[f"out.ref_{name}.param.{i}"]
            assert relative(fine[last][i] - start, wanted - start) <= exact, (name, i)
        spread = (case.tensors[f"out.param.{last}.{i}"].double() - wanted.double()).abs().max()
        assert spread <= 1.01 * case.expected["max_abs_param_gap_bf16_vs_fp64"][i] + 1e-9
        bare = case.tensors[f"out.orthogonalised_grad0.{i}"]
        same_iteration(rule, case.tensors[f"grad.0.{i}"], bare, allowed[i])


def muon_rule(case: Case) -> MuonRule:
    """The rule with the case's settings; its coefficients must be those that the case names."""
    arguments = case.arguments
    published = [tuple(triple) for triple in arguments["coefficients"]]
    polar_express = published == list(POLAR_EXPRESS[: len(published)])
    assert polar_express or published == [NEWTON_SCHULZ]
    return MuonRule(
        backend_steps=arguments["backend_steps"],
        nesterov=arguments["nesterov"],
        weight_decay=arguments.get("weight_decay", 0.0),
        row_normalize=arguments.get("row_normalize", False),
        polar_express=polar_express,
    )


def muon_steps(case: Case, rule: MuonRule, dtype: torch.dtype) -> list[list[Tensor]]:
    """The parameters after each step. A bank (n, rows, cols) is stepped as the n matrices it holds."""
    starts = [case.tensors[f"param.{i}"] for i in range(len(case.arguments["shapes"]))]
    banks = [[torch.nn.Parameter(part.clone()) for part in matrices(start)] for start in starts]
    muon = rule.make([matrix for bank in banks for matrix in bank], World(), dtype)
    after = []
    for step, rates in enumerate(case.arguments["steps"]):
        muon.param_groups[0].update(dict(rates))
        for i, (start, bank) in enumerate(zip(starts, banks)):
            gradient = case.tensors[f"grad.{step}.{i}"]
            if start.ndim == 3 and dtype == torch.bfloat16:
                # The banked scripts hold gradient and momentum in the dtype of the iteration.
                gradient = gradient.to(dtype).float()
                for matrix in bank:
                    muon.state[matrix].setdefault("momentum", torch.zeros_like(matrix, dtype=dtype))
            for matrix, part in zip(bank, matrices(gradient)):
                matrix.grad = part.clone()
        muon.step()
        pairs = zip(starts, banks)
        after.append([torch.stack([*bank]).detach().clone().view(start.shape) for start, bank in pairs])
    return after


def matrices(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 3 else tensor[None]


def same_iteration(rule: MuonRule, gradient: Tensor, wanted: Tensor, allowed: float) -> None:
    """The bare iteration on one gradient, batched and matrix by matrix."""
    coefficients = rule.coefficients()
    batch = matrices(gradient.bfloat16())
    loop = torch.stack([orthogonalise_reference(matrix, coefficients) for matrix in batch])
    for found in (orthogonalise(batch, coefficients), loop):
        assert relative(found.view(wanted.shape), wanted) <= allowed
