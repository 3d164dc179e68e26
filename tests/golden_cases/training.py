"""Optimizers, parameter groups, training steps, schedules and averages of the public scripts."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch

from bitgolf.core.average import TAKEN, Averager, Ema, NoAverage, Swa, TightSwa
from bitgolf.core.muon import NEWTON_SCHULZ, POLAR_EXPRESS, orthogonalise, orthogonalise_reference
from bitgolf.core.optim import AdamRule, MuonRule, OptimPlan, ParameterRow, make_optimizers, public_rows
from bitgolf.core.schedule import Progress, WarmdownClock, WarmdownFraction, momentum_at
from bitgolf.core.train import TrainPlan, train
from bitgolf.core.world import World
from tests.golden_cases.case import Case, NotCoveredError
from tests.golden_cases.model import bank_members, public_model, public_weights


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def optimizer(case: Case) -> None:
    arguments, rule = case.arguments, muon_rule(case)
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
        for i, found in enumerate(_muon_steps(case, rule, dtype)):
            start = case.tensors[f"param.{i}"]
            gap = relative(found - start, case.tensors[reference.format(i)] - start)
            assert gap <= (allowed[i] if dtype == torch.bfloat16 else exact["rel_frobenius_of_update"]), (
                dtype,
                i,
            )
    for i in range(len(arguments["shapes"])):
        _same_iteration(
            rule, case.tensors[f"grad.0.{i}"], case.tensors[f"out.orthogonalised_grad0.{i}"], allowed[i]
        )


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


def _muon_steps(case: Case, rule: MuonRule, dtype: torch.dtype) -> list[torch.Tensor]:
    """The parameters after all steps. A bank (n, rows, cols) is stepped as the n matrices it holds."""
    starts = [case.tensors[f"param.{i}"] for i in range(len(case.arguments["shapes"]))]
    banks = [[torch.nn.Parameter(part.clone()) for part in _matrices(start)] for start in starts]
    muon = rule.make([matrix for bank in banks for matrix in bank], World(), dtype)
    for step, rates in enumerate(case.arguments["steps"]):
        muon.param_groups[0].update(rates)
        for i, (start, bank) in enumerate(zip(starts, banks)):
            gradient = case.tensors[f"grad.{step}.{i}"]
            if start.ndim == 3 and dtype == torch.bfloat16:
                # The banked scripts hold gradient and momentum in the dtype of the iteration.
                gradient = gradient.to(dtype).float()
                for matrix in bank:
                    muon.state[matrix].setdefault("momentum", torch.zeros_like(matrix, dtype=dtype))
            for matrix, part in zip(bank, _matrices(gradient)):
                matrix.grad = part.clone()
        muon.step()
    return [torch.stack([*bank]).detach().view(start.shape) for start, bank in zip(starts, banks)]


def _matrices(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.ndim == 3 else tensor[None]


def _same_iteration(rule: MuonRule, gradient: torch.Tensor, wanted: torch.Tensor, allowed: float) -> None:
    """The bare iteration on one gradient, batched and matrix by matrix."""
    coefficients = rule.coefficients()
    batch = _matrices(gradient.bfloat16())
    loop = torch.stack([orthogonalise_reference(matrix, coefficients) for matrix in batch])
    for found in (orthogonalise(batch, coefficients), loop):
        assert relative(found.view(wanted.shape), wanted) <= allowed


def table(settings: dict[str, Any]) -> tuple[ParameterRow, ...]:
    """The parameter table that a public script's hyperparameters mean."""
    decay = settings.get("weight_decay", settings.get("adam_wd", 0.0))
    adam = AdamRule(
        lr=settings["scalar_lr"],
        beta1=settings["beta1"],
        beta2=settings["beta2"],
        eps=settings["adam_eps"],
        weight_decay=decay,
    )
    muon = MuonRule(
        lr=settings["matrix_lr"],
        momentum=settings["muon_momentum"],
        warmup_start=settings["muon_momentum_warmup_start"],
        warmup_steps=settings["muon_momentum_warmup_steps"],
        backend_steps=settings["muon_backend_steps"],
        weight_decay=settings.get("muon_wd", settings.get("weight_decay", 0.0)),
        row_normalize=bool(settings.get("muon_row_normalize", False)),
    )
    embedding_lr = settings["tied_embed_lr" if settings["tie_embeddings"] else "embed_lr"]
    return public_rows(
        embedding=adam.but(lr=embedding_lr, weight_decay=settings.get("embed_wd", decay)),
        head=adam.but(lr=settings["head_lr"], weight_decay=0.0),
        matrices=muon,
        rest=adam,
    )


def stand_ins(settings: dict[str, Any], names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Zeros with the names and shapes of the weights that these hyperparameters mean."""
    vocabulary, width, layers = (settings[name] for name in ("vocab_size", "model_dim", "num_layers"))
    heads, hidden = settings["num_heads"], int(settings["mlp_mult"] * width)
    kv_width = settings["num_kv_heads"] * (width // heads)
    embedding = settings.get("embedding_dim") or width
    bigram, values = settings.get("bigram_dim", 0), settings.get("ve_dim", 0)
    gate = settings.get("gate_window", settings.get("gate_width", 12))
    looped = settings.get("loop_end", 0) - settings.get("loop_start", 1) + 1
    visits = layers + settings.get("num_loops", 0) * looped
    shapes: dict[str, tuple[int, ...]] = {
        "tok_emb.weight": (vocabulary, embedding),
        "embed_proj.weight": (width, embedding),
        "head_proj.weight": (embedding, width),
        "lm_head.weight": (vocabulary, embedding),
        "mtp_heads.*": (vocabulary, width),
        "*.c_[kv].weight": (kv_width, width),
        "*.mlp.fc.weight": (hidden, width),
        "*.mlp.proj.weight": (width, hidden),
        "*.attn.c_q.weight": (width, width),
        "*.attn.proj.weight": (width, width),
        "qo_bank": (2 * layers, width, width),
        "kv_bank": (2 * layers, kv_width, width),
        "mlp_up_bank": (layers, hidden, width),
        "mlp_down_bank": (layers, width, hidden),
        "bigram.embed.weight": (settings.get("bigram_vocab_size", 0), bigram),
        "bigram.proj.weight": (width, bigram),
        "ve_shared.embed.weight": (vocabulary, values),
        "ve_shared.proj.weight": (kv_width, values),
        "ve_layer_scales.*": (1,),
        "*.scale": (),
        "*q_gain": (heads,),
        "*attn_gate*": (heads, gate),
        "*resid_mix": (2, width),
        "skip_*": (visits // 2, width),
        "smear_gate.weight": (1, gate),
        "smear_lambda": (1,),
        "parallel_resid_lambdas": (layers, 2),
        "parallel_post_lambdas": (layers, 2, 2),
        "*": (width,),
    }
    return {
        name: torch.zeros(next(shape for pattern, shape in shapes.items() if fnmatchcase(name, pattern)))
        for name in names
    }


def optimizer_groups(case: Case) -> None:
    groups, forgotten = case.expected["groups"], case.expected["parameters_in_no_group"]
    names = [name for group in groups for name in group["params"]] + forgotten
    given = Case(case.path)  # of its own, because it gets weights
    given.tensors.update({f"weights.{k}": v for k, v in stand_ins(case.settings, names).items()})
    given.settings["rope_dims"] = (
        0  # no parameter depends on it, and the public 16 is too many for small heads
    )
    used = public_weights(given)
    optimizers = make_optimizers(OptimPlan(rows=table(case.settings)), public_model(given))
    found = {name: row.rule for row, names in zip(optimizers.rows, optimizers.names) for name in names}
    for group in groups:
        parameters = [ours for name in group["params"] for ours in our_names(given, used, name)]
        for rule in map(found.pop, parameters):
            assert rule.lr == group["lr"], group["params"]
            assert rule.weight_decay == (group["weight_decay"] or 0.0), group["params"]
            if group["optimizer"] == "Muon":
                assert isinstance(rule, MuonRule) and rule.momentum == group["momentum"]
                assert rule.row_normalize == bool(group["row_normalize"])
            else:
                assert isinstance(rule, AdamRule), group["params"]
                assert [[rule.beta1, rule.beta2], rule.eps] == [group["betas"], group["eps"]]
    # What a public script forgot to train has a row here: a parameter without one is refused.
    assert set(found) == {ours for name in forgotten for ours in our_names(given, used, name)}


def our_names(case: Case, used: dict[str, torch.Tensor], name: str) -> list[str]:
    """Ours behind a public parameter: itself, the matrices of a bank, none where settings leave it unused."""
    return [name] if name in used else bank_members(case, name)


class GivenBatches:
    """The batches that the case holds, one for each step."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens, self.length = tokens.long(), tokens.shape[2] - 1

    def take(
        self, position: int, rows: int, world: World, length: int
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
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
    arguments, settings, expected = case.arguments, case.settings, case.expected
    model = public_model(case)
    schedule = WarmdownClock(warmdown_steps=settings["warmdown_iters"])
    plan = TrainPlan(
        steps=settings["iterations"],
        train_seconds=settings["max_wallclock_seconds"],
        batch_tokens=arguments["batch"] * arguments["seq"],
        accumulation=1,
        grad_clip_norm=settings["grad_clip_norm"],
    )
    optimizers = make_optimizers(OptimPlan(rows=table(settings), schedule=schedule), model)
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


def averager_of(case: Case) -> Averager:
    """The averager that the case's public settings mean."""
    if case.arguments["which"] == "ema":
        return Ema(decay=case.expected["ema_decay"])
    if case.arguments["which"] != "swa":
        raise NotCoveredError(case.arguments["which"].upper())
    every = case.settings["swa_every"]
    if "swa_start_frac" in case.settings:
        return Swa(every=every, start_scale=case.settings["swa_start_frac"])
    return TightSwa(every=every)  # the records after that have the 0.2 in their code


def averaging(case: Case) -> None:
    averager, steps = averager_of(case), case.arguments["n_steps"]
    names = [name.removeprefix("state.0.") for name in case.tensors if name.startswith("state.0.")]
    lives = [{name: case.tensors[f"state.{t}.{name}"] for name in names} for t in range(steps + 1)]
    state, taken = averager.start(lives[0]), []
    for step, scale in enumerate(case.arguments.get("lr_multiplier", [1.0] * steps), start=1):
        count = int(state.get(TAKEN, 0))
        state = averager.update(state, lives[step], Progress(step, steps), scale)
        taken += [step] if int(state.get(TAKEN, 0)) > count else []
    averaged = averager.weights(state, lives[-1])
    if "steps_collected_1based" in case.expected:
        assert taken == case.expected["steps_collected_1based"]
        assert len(taken) == case.expected["count"]
    for name in names:
        if f"out.swa_sum.{name}" in case.tensors and lives[0][name].dtype == torch.bfloat16:
            _better_than_the_public_sum(case, name, [live[name] for live in lives], taken, averaged[name])
        else:
            _same_average(case, name, averaged[name], len(taken))


def _same_average(case: Case, name: str, found: torch.Tensor, count: int) -> None:
    close = case.tolerance["out.*"]
    for key, value in (("ema_fp32", found), ("swa_sum", found * count)):
        if (wanted := case.tensors.get(f"out.{key}.{name}")) is not None:
            torch.testing.assert_close(value, wanted, atol=close["abs"], rtol=close["rel"])
    wanted = case.tensors[f"out.avg.{name}"]
    rel = case.tolerance["bf16 outputs"]["rel"] if wanted.dtype == torch.bfloat16 else close["rel"]
    torch.testing.assert_close(found.to(wanted.dtype), wanted, atol=close["abs"], rtol=rel)


def _better_than_the_public_sum(
    case: Case, name: str, lives: list[torch.Tensor], taken: list[int], found: torch.Tensor
) -> None:
    """The public sum in bfloat16 is further from the mean than its own dtype: ours must be the mean.

    The public figures must come out of the snapshots we chose, summed as the public script does.
    """
    chosen = [lives[step] for step in taken]
    public = sum(chosen[1:], chosen[0])
    assert torch.equal(public, case.tensors[f"out.swa_sum.{name}"])
    assert torch.equal(public / len(chosen), case.tensors[f"out.avg.{name}"])
    mean = torch.stack(chosen).double().mean(0)
    torch.testing.assert_close(found.double(), mean, atol=1e-6, rtol=1e-6)


HANDLERS = {
    "optimizer": optimizer,
    "optimizer_groups": optimizer_groups,
    "training_steps": training_steps,
    "schedule": schedule,
    "averaging": averaging,
}
