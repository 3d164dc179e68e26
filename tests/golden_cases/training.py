"""Optimizers, parameter groups, training steps, schedules and averages of the public scripts."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bitgolf.core.average import Ema, NoAverage
from bitgolf.core.model import ModelPlan, build_model
from bitgolf.core.muon import NEWTON_SCHULZ, Muon, orthogonalise, orthogonalise_reference
from bitgolf.core.optim import AdamRule, MuonRule, OptimPlan, ParameterRow, make_optimizers
from bitgolf.core.schedule import Progress, WarmdownClock, WarmdownFraction, momentum_at
from bitgolf.core.train import TrainPlan, train
from bitgolf.core.world import World
from tests.golden_cases.case import Case, NotCoveredError

LATER_PARTS = {
    "bigram": "BigramHash",
    "smear": "SmearGate",
    "ve_": "value embeddings",
    "mtp_heads": "multi-token",
}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def optimizer(case: Case) -> None:
    arguments = case.arguments
    if [tuple(c) for c in arguments["coefficients"]] != [NEWTON_SCHULZ]:
        raise NotCoveredError("Polar Express")
    if arguments.get("row_normalize"):
        raise NotCoveredError("MuonEq-R")
    count, steps = len(arguments["shapes"]), arguments["backend_steps"]
    gaps = zip(
        case.expected["rel_update_gap_bf16_vs_fp64"],
        case.expected["rel_update_gap_bf16_other_operation_order"],
    )
    allowed = [1.5 * max(pair) for pair in gaps]
    exact = case.tolerance["out.ref_fp32.* and out.ref_fp64.*, for an fp32 or fp64 implementation"]
    for dtype, reference in (
        (torch.bfloat16, f"out.param.{len(arguments['steps']) - 1}.{{}}"),
        (torch.float32, "out.ref_fp32.param.{}"),
    ):
        for i, found in enumerate(_muon_steps(case, dtype)):
            start = case.tensors[f"param.{i}"]
            gap = relative(found - start, case.tensors[reference.format(i)] - start)
            assert gap <= (allowed[i] if dtype == torch.bfloat16 else exact["rel_frobenius_of_update"]), (
                dtype,
                i,
            )
    for i in range(count):
        gradient = case.tensors[f"grad.0.{i}"].bfloat16()
        wanted = case.tensors[f"out.orthogonalised_grad0.{i}"]
        for found in (orthogonalise(gradient[None], steps)[0], orthogonalise_reference(gradient, steps)):
            assert relative(found, wanted) <= allowed[i]


def _muon_steps(case: Case, dtype: torch.dtype) -> list[torch.Tensor]:
    count = len(case.arguments["shapes"])
    parameters = [torch.nn.Parameter(case.tensors[f"param.{i}"].clone()) for i in range(count)]
    muon = Muon(
        parameters,
        lr=0.0,
        backend_steps=case.arguments["backend_steps"],
        nesterov=case.arguments["nesterov"],
        weight_decay=case.arguments.get("weight_decay", 0.0),
        iteration_dtype=dtype,
    )
    for step, rates in enumerate(case.arguments["steps"]):
        muon.param_groups[0].update(rates)
        for i, parameter in enumerate(parameters):
            parameter.grad = case.tensors[f"grad.{step}.{i}"].clone()
        muon.step()
    return [parameter.detach() for parameter in parameters]


def public_rows(settings: dict[str, Any]) -> tuple[ParameterRow, ...]:
    """The parameter table that a public script's hyperparameters mean."""
    decay = settings.get("weight_decay", settings.get("adam_wd", 0.0))
    adam = AdamRule(
        beta1=settings["beta1"], beta2=settings["beta2"], eps=settings["adam_eps"], weight_decay=decay
    )
    muon = MuonRule(
        lr=settings["matrix_lr"],
        momentum=settings["muon_momentum"],
        warmup_start=settings["muon_momentum_warmup_start"],
        warmup_steps=settings["muon_momentum_warmup_steps"],
        backend_steps=settings["muon_backend_steps"],
        weight_decay=settings.get("muon_wd", settings.get("weight_decay", 0.0)),
    )
    tied = settings["tie_embeddings"]
    embedding_lr = settings["tied_embed_lr"] if tied else settings["embed_lr"]
    head = ParameterRow(pattern="lm_head.weight", rule=adam.but(lr=settings["head_lr"], weight_decay=0.0))
    return (
        ParameterRow(pattern="tok_emb.weight", rule=adam.but(lr=embedding_lr)),
        *(() if tied else (head,)),
        ParameterRow(pattern="blocks.*.weight", minimum_ndim=2, maximum_ndim=2, rule=muon),
        ParameterRow(pattern="*", rule=adam.but(lr=settings["scalar_lr"])),
    )


def public_model(settings: dict[str, Any]) -> ModelPlan:
    return ModelPlan(
        vocabulary_size=settings["vocab_size"],
        layers=settings["num_layers"],
        width=settings["model_dim"],
        heads=settings["num_heads"],
        kv_heads=settings["num_kv_heads"],
        mlp_multiplier=float(settings["mlp_mult"]),
        tied=settings["tie_embeddings"],
        logit_softcap=settings["logit_softcap"],
        qk_gain=settings["qk_gain_init"],
        rope_base=settings["rope_base"],
    )


def _refuse_later_parts(names: list[str]) -> None:
    needed = [part for word, part in LATER_PARTS.items() if any(word in name for name in names)]
    if needed:
        raise NotCoveredError(", ".join(needed))


def optimizer_groups(case: Case) -> None:
    groups = case.expected["groups"]
    _refuse_later_parts([name for group in groups for name in group["params"]])
    assert case.expected["parameters_in_no_group"] == []
    model = build_model(public_model(case.settings))
    optimizers = make_optimizers(OptimPlan(rows=public_rows(case.settings)), model)
    found = {name: row.rule for row, names in zip(optimizers.plan.rows, optimizers.names) for name in names}
    for group in groups:
        for name in group["params"]:
            rule = found.pop(name)
            assert rule.lr == group["lr"]
            assert rule.weight_decay == (group["weight_decay"] or 0.0)
            if group["optimizer"] == "Muon":
                assert isinstance(rule, MuonRule) and rule.momentum == group["momentum"]
            else:
                assert isinstance(rule, AdamRule)
                assert [[rule.beta1, rule.beta2], rule.eps] == [group["betas"], group["eps"]]
    assert not found


class GivenBatches:
    """The batches that the case holds, one for each step."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens, self.length = tokens.long(), tokens.shape[2] - 1

    def take(self, position: int, rows: int, world: World) -> tuple[torch.Tensor, torch.Tensor, int]:
        tokens = self.tokens[position]
        return tokens[:, :-1], tokens[:, 1:], position + 1

    def synthetic(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tokens[0][:, :-1], self.tokens[0][:, 1:]


def _clock(elapsed_ms: list[float]) -> Iterator[float]:
    """What the clock must show at the start and end of every step."""
    for now, then in zip(elapsed_ms, [*elapsed_ms[1:], elapsed_ms[-1]]):
        yield now / 1000.0
        yield then / 1000.0


def training_steps(case: Case) -> None:
    weights, arguments, settings, expected = case.weights(), case.arguments, case.settings, case.expected
    _refuse_later_parts(list(weights))
    model = build_model(public_model(settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights.pop(name))
    assert not weights
    schedule = WarmdownClock(warmdown_steps=settings["warmdown_iters"])
    plan = TrainPlan(
        steps=settings["iterations"],
        train_seconds=settings["max_wallclock_seconds"],
        batch_tokens=arguments["batch"] * arguments["seq"],
        accumulation=1,
        grad_clip_norm=settings["grad_clip_norm"],
    )
    optimizers = make_optimizers(OptimPlan(rows=public_rows(settings), schedule=schedule), model)
    batches = GivenBatches(case.tensors["tokens"])
    shown = _clock(arguments["elapsed_ms"])
    reports = train(model, plan, optimizers, NoAverage(), batches, clock=lambda: next(shown, 0.0))
    allowed = case.tolerance
    for step, report in zip(range(arguments["n_steps"]), reports):
        close = allowed["loss_before_each_step" if step else "loss_before_each_step[0]"]["abs"]
        assert report.nats_per_token == pytest.approx(expected["loss_before_each_step"][step], abs=close)
        assert report.scale == pytest.approx(expected["lr_multiplier"][step], rel=1e-12)
        assert report.momentum == pytest.approx(expected["muon_momentum"][step], rel=1e-12)
        norm = expected["total_grad_norm_before_clip"][step]
        assert report.gradient_norm == pytest.approx(norm, rel=0.02 if step else 1e-4)
    for name, parameter in model.named_parameters():
        start = case.tensors[f"weights.{name}"]
        gap = relative(parameter.detach() - start, case.tensors[f"out.after.{name}"] - start)
        assert gap <= allowed["out.after.*"]["rel_frobenius_of_total_change"], name


def schedule(case: Case) -> None:
    settings = case.settings
    cap = settings["max_wallclock_seconds"]
    steps = settings["iterations"]
    if "warmdown_frac" in settings:
        # With a clock the public fraction does not look at steps; ours follows whichever is further.
        steps = 10**12 if cap > 0 else steps
        cap -= settings.get("gptq_reserve_seconds", 0.0) if cap > 0 else 0.0
        plan: Any = WarmdownFraction(fraction=settings["warmdown_frac"], minimum=settings["min_lr"])
    else:
        plan = WarmdownClock(warmdown_steps=settings["warmdown_iters"])
    for step, elapsed_ms, scale in case.expected["lr_rows_step_elapsedms_multiplier"]:
        found = plan.scale(Progress(step, steps, elapsed_ms / 1000.0, cap))
        assert found == pytest.approx(scale, rel=1e-12), step
    for step, momentum in case.expected["momentum_rows_step_value"]:
        found = momentum_at(
            step,
            settings["muon_momentum_warmup_start"],
            settings["muon_momentum"],
            settings["muon_momentum_warmup_steps"],
        )
        assert found == pytest.approx(momentum, rel=1e-12), step


def averaging(case: Case) -> None:
    if case.arguments["which"] != "ema":
        raise NotCoveredError(case.arguments["which"].upper())
    names = [name.removeprefix("state.0.") for name in case.tensors if name.startswith("state.0.")]
    ema = Ema(decay=case.expected["ema_decay"])
    state = ema.start({name: case.tensors[f"state.0.{name}"] for name in names})
    for step in range(1, case.arguments["n_steps"] + 1):
        live = {name: case.tensors[f"state.{step}.{name}"] for name in names}
        state = ema.update(state, live, Progress(step, case.arguments["n_steps"]))
    averaged = ema.weights(state, live)
    close = case.tolerance["out.*"]
    for name in names:
        torch.testing.assert_close(
            averaged[name], case.tensors[f"out.ema_fp32.{name}"], atol=close["abs"], rtol=close["rel"]
        )
        wanted = case.tensors[f"out.avg.{name}"]
        rel = case.tolerance["bf16 outputs"]["rel"] if wanted.dtype == torch.bfloat16 else close["rel"]
        torch.testing.assert_close(averaged[name].to(wanted.dtype), wanted, atol=close["abs"], rtol=rel)


HANDLERS = {
    "optimizer": optimizer,
    "optimizer_groups": optimizer_groups,
    "training_steps": training_steps,
    "schedule": schedule,
    "averaging": averaging,
}
