"""What a training step does compiled, against plain torch in float64."""

import inspect
import threading

import pytest
import torch

from bitgolf.net import machine as module
from bitgolf.net.backend import Backend
from bitgolf.net.kernels import FusedKernels, PlainKernels
from bitgolf.net.machine import MachineKernels
from bitgolf.net.model import choose_kernels

NEAR = 6e-3  # a bfloat16 is within 0.004 of itself


def numbers(*shape: int, kind=torch.bfloat16, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(kind)


def given(rows=70, width=24, vocabulary=101):
    return numbers(rows, width), numbers(vocabulary, width, seed=2)


def with_gradients(kernels, hidden, weight, cap):
    """Nats, and gradients of their weighted sum, in float64."""
    leaves = [each.clone().requires_grad_() for each in (hidden, weight)]
    nats = kernels.nats(*leaves, torch.arange(len(hidden)) % len(weight), cap)
    (nats * torch.linspace(-1, 2, len(nats))).sum().backward()
    return [each.detach().double() for each in (nats, *(leaf.grad for leaf in leaves))]


def error(hidden, weight, cap):
    """The largest of the nats and of both gradients, as a share of their size."""
    found = with_gradients(MachineKernels(), hidden, weight, cap)
    exact = with_gradients(PlainKernels(), hidden.double(), weight.double(), cap)
    return max(((x - y).norm() / y.norm()).item() for x, y in zip(found, exact))


@pytest.mark.parametrize(("cap", "size"), [(30.0, 1.0), (2.5, 5.0), (37.0, 8.0)])
def test_nats_and_their_gradients(cap, size, monkeypatch):
    hidden, weight = given(rows=600)
    used, right = [], module.slope_rows
    monkeypatch.setattr(module, "slope_rows", lambda *values: (used.append(1), right(*values)))
    assert error(size * hidden, weight, cap) < NEAR
    assert len(used) == 2 * torch.get_num_threads()  # 512 rows at a time


def test_logits_without_bound_stay_numbers_and_what_is_none_stays_none():
    weight, targets = torch.eye(8).bfloat16(), torch.arange(4)
    far = (1e30 * numbers(4, 8)).requires_grad_()
    assert MachineKernels().nats(far, weight, targets, 30.0).isfinite().all()
    hidden = torch.zeros(4, 8).bfloat16()
    hidden[1, 2] = torch.nan
    hidden.requires_grad_()
    nats = MachineKernels().nats(hidden, weight, targets, 30.0)
    assert nats.isnan().tolist() == [False, True, False, False]
    nats.sum().backward()
    assert hidden.grad.isnan().all(1).tolist() == [False, True, False, False]


def test_threads_change_no_bit(monkeypatch):
    alone, started = with_gradients(MachineKernels(), *given(), 30.0), []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: (started.append(self), start(self)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    together = with_gradients(MachineKernels(), *given(), 30.0)
    assert len(started) == 3
    assert all(torch.equal(one, other) for one, other in zip(alone, together))


def test_what_it_is_not_for_keeps_its_bits(monkeypatch):
    """Scores, float32, and backends whose attention is not that of a CPU with bfloat16."""
    monkeypatch.setattr(module, "slope_rows", None)
    hidden, weight = given()
    targets = torch.arange(len(hidden))
    with torch.no_grad():
        found, same = (kind().nats(hidden, weight, targets, 30.0) for kind in (MachineKernels, FusedKernels))
    assert torch.equal(found, same)
    for cap, kind in ((30.0, torch.float32), (38.0, torch.bfloat16)):
        both = [
            with_gradients(each(), hidden.to(kind), weight.to(kind), cap)
            for each in (MachineKernels, FusedKernels)
        ]
        assert all(torch.equal(one, other) for one, other in zip(*both))
    assert type(choose_kernels(Backend(attention="chunk", fused=True))) is MachineKernels
    assert type(choose_kernels(Backend(attention="sdpa", fused=True))) is FusedKernels


FAULTS = {
    "": ("slope_rows", "", ""),
    "the target is like any token": ("slope_rows", "slopes[target] -= total", "pass"),
    "the slope of the cap is left out": ("slope_rows", " * (ONE - squashed[i])", ""),
    "a quarter more of the share": ("slope_rows", "shares[row] = ", "shares[row] = 1.25 * "),
    "the last token is not read": (
        "slope_rows",
        "range(width):\n            bits",
        "range(width - 1):\n            bits",
    ),
    "cut, not rounded": ("slope_rows", " + HALF_BIT", ""),
    "one power of two too many": ("two_to", "+ BIAS", "+ BIAS + (whole < -3)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_of_the_loops_is_seen(fault, monkeypatch):
    """As plain Python: against what is compiled, which the tests above hold to float64, bit for bit."""
    changed, right, wrong = FAULTS[fault]
    hidden, weight = numbers(60, 8), numbers(64, 8, seed=2)
    exact = with_gradients(MachineKernels(), hidden, weight, 5.0)
    for name in ("two_to", "slope_rows"):
        code = inspect.getsource(getattr(module, name).function).replace("@for_training\n", "")
        assert name != changed or right in code
        made: dict = {}
        exec(code.replace(right, wrong) if name == changed and fault else code, vars(module), made)
        monkeypatch.setattr(module, name, made[name])
    found = with_gradients(MachineKernels(), hidden, weight, 5.0)
    apart = max(((x - y).norm() / y.norm()).item() for x, y in zip(found, exact))
    assert (apart > 1e-4) == bool(fault)
