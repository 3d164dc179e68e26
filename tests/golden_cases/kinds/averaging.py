"""Averages of weights over the steps."""

import torch

from bitgolf.train.average import TAKEN, Averager, Ema, Swa, TightSwa
from bitgolf.train.schedule import Progress
from tests.golden_cases.case import Case, NotCoveredError
from tests.golden_cases.compare import limits


def check(case: Case) -> None:
    averager, steps = averager_of(case), case.arguments["n_steps"]
    names = [name.removeprefix("state.0.") for name in case.tensors if name.startswith("state.0.")]
    lives = [{name: case.tensors[f"state.{t}.{name}"] for name in names} for t in range(steps + 1)]
    state, taken = averager.start(lives[0]), []
    for step, scale in enumerate(case.arguments["lr_multiplier"], start=1):
        count = int(state.get(TAKEN, 0))
        state = averager.update(state, lives[step], Progress(step, steps), scale)
        taken += [step] if int(state.get(TAKEN, 0)) > count else []
    averaged = averager.weights(state, lives[-1])
    if "steps_collected_1based" in case.expected:
        assert taken == case.expected["steps_collected_1based"]
        assert len(taken) == case.expected["count"]
    assert isinstance(
        case.expected["average_applied_by_the_record"], bool
    )  # whether it was used says no more
    for name in names:
        if f"out.swa_sum.{name}" in case.tensors and lives[0][name].dtype == torch.bfloat16:
            better_than_the_public_sum(case, name, [lives[step][name] for step in taken], averaged[name])
        else:
            same_average(case, name, averaged[name], len(taken))


def averager_of(case: Case) -> Averager:
    """The averager that the case's public settings mean."""
    settings, which = case.settings, case.arguments["which"]
    every, start = settings.get("swa_every", 0), settings.get("swa_start_frac", 0.0)
    stated = settings.get("ema_decay", case.expected.get("ema_decay"))
    for name in ("swa_enabled", "ema_enabled"):
        settings.get(name)  # the case is about the average whether or not the record used it
    if which == "ema":
        assert case.expected["ema_decay"] == stated
        return Ema(decay=stated)
    if which != "swa":
        raise NotCoveredError(f"{which} averages")
    # The later records have the 0.2 in their code.
    return Swa(every=every, start_scale=start) if start else TightSwa(every=every)


def same_average(case: Case, name: str, found: torch.Tensor, count: int) -> None:
    close, coarse = limits(case, "out.avg"), limits(case, "bf16 outputs")
    for key, value in (("ema_fp32", found), ("swa_sum", found * count)):
        if (wanted := case.tensors.get(f"out.{key}.{name}")) is not None:
            torch.testing.assert_close(value, wanted.float(), atol=close["abs"], rtol=close["rel"])
    wanted = case.tensors[f"out.avg.{name}"]
    rel = coarse["rel"] if wanted.dtype == torch.bfloat16 else close["rel"]
    torch.testing.assert_close(found.to(wanted.dtype), wanted, atol=close["abs"], rtol=rel)


def better_than_the_public_sum(
    case: Case, name: str, chosen: list[torch.Tensor], found: torch.Tensor
) -> None:
    """The public sum in bfloat16 is further from the mean than its own dtype: ours must be the mean.

    The public figures must come out of the snapshots we chose, summed as the public script does.
    """
    public = sum(chosen[1:], chosen[0])
    assert torch.equal(public, case.tensors[f"out.swa_sum.{name}"])
    assert torch.equal(public / len(chosen), case.tensors[f"out.avg.{name}"])
    mean = torch.stack(chosen).double().mean(0)
    torch.testing.assert_close(found.double(), mean, atol=1e-6, rtol=1e-6)
