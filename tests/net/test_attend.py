"""Attention by tiles as machine code against the attention of the kernels, in float64."""

import inspect
import threading

import pytest
import torch

from bitgolf.net import attend as module
from bitgolf.net.attend import KEYS, QUERIES, attend_tiles, takes
from bitgolf.net.kernels import AttentionMask, attend_last
from bitgolf.net.native import NativeKernels

ROOM = 11  # places of memory beside those that are given


def given(count, group, batch, last, width, time, seed=1):
    """Queries, and keys and values that lie in a larger memory."""
    draw = torch.Generator().manual_seed(seed)
    q = 0.3 * torch.randn(count, group, batch, last, width, generator=draw)
    k, v = (torch.randn(count * batch, time + ROOM, width, generator=draw)[:, 4 : 4 + time] for _ in (0, 1))
    return q, k, v


SIZES = {
    "all see themselves": (2, 2, 2, 70, 8, 70),
    "a span of a chain": (2, 2, 3, 64, 32, 256),
    "one key head": (1, 6, 2, 64, 32, 100),
    "a tile and one more": (1, 1, 1, QUERIES + 1, 4, QUERIES + KEYS + 2),
}


@pytest.mark.parametrize("window", [0, 1, 5, 60, 90])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_it_is_the_attention_of_the_kernels(sizes, window):
    q, k, v = given(*sizes)
    mask = AttentionMask(window=window)
    with torch.inference_mode():
        assert takes(q, k, v, mask)
        found, exact = attend_tiles(q, k, v, window), attend_last(q.double(), k.double(), v.double(), mask)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=3e-6)


def test_scores_of_any_size_stay_numbers():
    q, k, v = given(1, 2, 1, 40, 8, 200)
    with torch.inference_mode():
        found = attend_tiles(100 * q, 100 * k, v, 0)
        exact = attend_last(100 * q.double(), 100 * k.double(), v.double(), AttentionMask())
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-2)  # scores of 10^5, in float32


def test_threads_change_no_bit(monkeypatch):
    q, k, v = given(2, 2, 3, 64, 32, 256)
    with torch.inference_mode():
        alone, started = attend_tiles(q, k, v, 0), []
        start = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", lambda self: (started.append(self), start(self)))
        monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
        assert torch.equal(attend_tiles(q, k, v, 0), alone)
    assert len(started) == 3


def test_what_it_is_not_for_takes_the_attention_of_the_kernels(monkeypatch):
    monkeypatch.setattr(module, "attend_pairs", None)
    q, k, v = given(2, 2, 2, 64, 8, 70)
    changed = AttentionMask(score_mods=(lambda scores, first, start: scores,))
    with torch.inference_mode():
        few, narrow = q[:, :, :, :3], (q[..., :6], k[..., :6], v[..., :6])
        for wanted, mask in (
            ((few, k, v), AttentionMask()),
            (narrow, AttentionMask()),
            ((q, k, v), changed),
            ([each.double() for each in (q, k, v)], AttentionMask()),
        ):
            assert not takes(*wanted, mask)
            assert torch.equal(NativeKernels().attend_last(*wanted, mask), attend_last(*wanted, mask))
    assert not takes(q, k, v, AttentionMask())  # gradients


@pytest.mark.parametrize("fault", ["future", "window"])
def test_a_key_too_many_is_seen(fault, monkeypatch):
    """The comparison above finds a mask that is off by one."""
    q, k, v = given(1, 2, 1, 64, 8, 100)
    mask = AttentionMask(window=20)
    with torch.inference_mode():
        exact = attend_last(q, k, v, mask)
        if fault == "window":
            assert (attend_tiles(q, k, v, 21) - exact).abs().max() > 1e-3
        else:
            later = attend_last(q[:, :, :, :-1], k, v, mask)  # each query one place too far back
            assert (attend_tiles(q, k, v, 20)[:, :-1] - later).abs().max() > 1e-3


FAULTS = {
    "": ("merge", "", ""),
    "a later tile forgets the largest score": ("merge", "top[r] = peak[r]", "top[r] = top[r]"),
    "shares of earlier tiles keep their size": ("merge", "total[r] * top[r]", "total[r]"),
    "a query sees the next key": ("hide_keys", "begin + t > position", "begin + t > position + 1"),
    "one power of two too many": (
        "to_shares",
        "np.int32(whole) + BIAS",
        "np.int32(whole) + BIAS + (whole < -3)",
    ),
    "a column is left out": ("add_product", "range(0, inner, 4)", "range(4, inner, 4)"),
    "what an earlier tile left is seen": ("attend_pairs", "begin + KEYS > lowest + 1", "False"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_of_the_kernel_is_seen(fault, monkeypatch):
    """As plain Python; the comparison is that of the first test."""
    changed, right, wrong = FAULTS[fault]
    for name in ("hide_keys", "to_shares", "merge", "add_product", "attend_pairs"):
        source = inspect.getsource(getattr(module, f"{name}_plainly"))
        assert name != changed or not fault or source.count(right) == 1
        code = source.replace(right, wrong) if name == changed and fault else source
        made: dict = {}
        exec(code, vars(module), made)
        monkeypatch.setattr(module, name, made[f"{name}_plainly"])
    q, k, v = given(1, 2, 1, 40, 8, 100)
    with torch.inference_mode():
        found, exact = (
            attend_tiles(q, k, v, 0),
            attend_last(q.double(), k.double(), v.double(), AttentionMask()),
        )
    assert ((found.double() - exact).abs().max() > 3e-6) == bool(fault)
