"""Rates, groups and update rules of the records from 2026-04-05 on, written out in float64."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Settings = dict[str, Any]
Stepper = Callable[[Tensor, Tensor, float, float], Tensor]
CUBIC = (3.4445, -4.7750, 2.0315)


def fraction_scale(s: Settings, step: int, elapsed_ms: float) -> float:
    """Full rate until the last share of the training, by the clock if there is one, then down in a line."""
    cap = 1000.0 * (s["max_wallclock_seconds"] - s.get("gptq_reserve_seconds", 0.0))
    done = elapsed_ms / cap if s["max_wallclock_seconds"] > 0 else step / s["iterations"]
    if done < 1.0 - s["warmdown_frac"]:
        return 1.0
    return max((1.0 - done) / s["warmdown_frac"], s["min_lr"])


def momentum(s: Settings, step: int) -> float:
    """From its start to its value over the first steps."""
    share = min(step / s["muon_momentum_warmup_steps"], 1.0)
    return (1 - share) * s["muon_momentum_warmup_start"] + share * s["muon_momentum"]


def group_of(name: str, ndim: int) -> str:
    """table, head, matrix or small; nothing for what the split forgets."""
    if name == "tok_emb.weight":
        return "table"
    if name == "lm_head.weight":
        return "head"
    if name in ("embed_proj.weight", "head_proj.weight"):
        return ""
    return (
        "matrix" if name.startswith("blocks.") and ndim == 2 and not name.endswith("resid_mix") else "small"
    )


def decays_and_rates(s: Settings) -> dict[str, tuple[float, float]]:
    """Of each group: the rate and the decay."""
    return {
        "table": (s["tied_embed_lr"] if s["tie_embeddings"] else s["embed_lr"], s["embed_wd"]),
        "head": (s["head_lr"], 0.0),
        "matrix": (s["matrix_lr"], s["muon_wd"]),
        "small": (s["scalar_lr"], s["adam_wd"]),
    }


def groups(s: Settings, names: dict[str, int]) -> tuple[list[dict[str, Any]], list[str]]:
    """The groups in the order of the script, and the forgotten; names: with the number of axes of each."""
    found = []
    for group in ("table", "head", "matrix", "small"):
        members = [name for name, ndim in names.items() if group_of(name, ndim) == group]
        rate, decay = decays_and_rates(s)[group]
        muon = group == "matrix"
        adam = None if muon else [s["beta1"], s["beta2"]]
        facts = {
            "optimizer": "Muon" if muon else "Adam" if group == "head" else "AdamW",
            "group": 0,
            "params": members,
            "lr": rate,
            "base_lr": rate,
            "weight_decay": decay,
            "betas": adam,
            "eps": None if muon else s["adam_eps"],
            "momentum": s["muon_momentum"] if muon else None,
            "row_normalize": s["muon_row_normalize"] if muon else None,
        }
        found += [facts] if members else []
    return found, [name for name, ndim in names.items() if not group_of(name, ndim)]


def steppers(s: Settings, weights: dict[str, Tensor]) -> dict[str, Stepper]:
    """How each weight follows its gradient; what the split forgets is missing."""
    rules = decays_and_rates(s)
    chosen = {}
    for name, weight in weights.items():
        if group := group_of(name, weight.ndim):
            rate, decay = rules[group]
            chosen[name] = muon(s, rate, decay) if group == "matrix" else adam(s, rate, decay)
    return chosen


def adam(s: Settings, rate: float, decay: float) -> Stepper:
    """AdamW."""
    b1, b2, eps = s["beta1"], s["beta2"], s["adam_eps"]
    mean, square, taken = [0.0], [0.0], [0]

    def step(weight: Tensor, gradient: Tensor, scale: float, momentum: float) -> Tensor:
        taken[0] += 1
        mean[0] = b1 * mean[0] + (1 - b1) * gradient
        square[0] = b2 * square[0] + (1 - b2) * gradient**2
        fair = mean[0] / (1 - b1 ** taken[0]), square[0] / (1 - b2 ** taken[0])
        return weight * (1 - scale * rate * decay) - scale * rate * fair[0] / (fair[1].sqrt() + eps)

    return step


def muon(s: Settings, rate: float, decay: float) -> Stepper:
    """Momentum, then five rounds of the cubic on the rows at length 1."""
    buffer = [0.0]

    def step(weight: Tensor, gradient: Tensor, scale: float, momentum: float) -> Tensor:
        buffer[0] = momentum * buffer[0] + gradient
        x = gradient + momentum * buffer[0]
        if s["muon_row_normalize"]:
            x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-7)
        x = x / (x.norm() + 1e-7)
        for _ in range(s["muon_backend_steps"]):
            square = x @ x.T
            x = CUBIC[0] * x + (CUBIC[1] * square + CUBIC[2] * square @ square) @ x
        size = max(1, weight.shape[0] / weight.shape[1]) ** 0.5
        return weight * (1 - scale * rate * decay) - scale * rate * size * x

    return step
