"""Arithmetic with the same bits everywhere: exact sums, functions near enough, one file on any processor."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import bitgolf
from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import finish
from bitgolf.net.backend import Backend
from bitgolf.net.model import build_model
from bitgolf.proof import portable
from bitgolf.proof.arithmetic import PLAIN, PORTABLE
from bitgolf.proof.frames import Layout, decode_frame, encode_frame, parallel_nats
from bitgolf.proof.portable import Portable
from bitgolf.squeeze.artifact import unpack
from tests.test_behaviour import FACTORS, ROWS, model_of

ROOT = Path(bitgolf.__file__).parent.parent
PLACES = (
    {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"},
    {"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2"},
)


def rows_with_everything():
    """Some rows in which every technique of the network stands."""
    missing = {(name, i) for row in ROWS for name, i in row.items()}
    while missing:
        row = max(ROWS, key=lambda each: len(missing & set(each.items())))
        missing -= set(row.items())
        yield {name: FACTORS[name][i] for name, i in row.items()}


def drawn_model(row):
    """A model whose weights do not come from torch, whose random numbers differ between processors."""
    model, rng = build_model(model_of(row, 64), 1).use(Backend()).eval(), np.random.default_rng(3)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.from_numpy(np.asarray(0.3 * rng.standard_normal(tensor.shape))))
    return model


def coded_here(arithmetic):
    """A text coded by a model of every row."""
    tokens, layout = np.arange(8) * 7 % 60, Layout(8, 2, 4, 3, 2, 1)
    for row in rows_with_everything():
        frame = finish(encode_frame(drawn_model(row), tokens, layout, arithmetic))
        yield frame.data.hex() + ("" if arithmetic == PORTABLE else f" {frame.nats!r}")


def test_every_technique_gives_the_same_bits_on_every_processor():
    """The planted fault is torch's own arithmetic, which rounds otherwise with other vectors."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this processor has one kind of vectors only")
    code = (
        "from tests.proof.test_portable import coded_here as c; print(*c('portable'), *c('plain'), sep='\\n')"
    )
    here = [*coded_here(PORTABLE), *coded_here(PLAIN)]
    half, apart = len(here) // 2, []
    for place in PLACES:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **place}
        words = [sys.executable, "-c", code]
        child = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
        there = child.stdout.splitlines()
        assert there[:half] == here[:half]
        apart.append(there[half:] != here[half:])
    assert any(apart), "otherwise this test shows nothing"


def test_what_is_coded_portably_comes_back_and_scores_alike():
    tokens, layout = np.arange(23) * 5 % 60, Layout(23, 2, 12, 6, 3, 1)
    model = drawn_model(next(rows_with_everything()))
    frame = finish(encode_frame(model, tokens, layout, PORTABLE))
    assert np.array_equal(finish(decode_frame(model, frame, 23, layout, "", PORTABLE)), tokens)
    assert frame.nats == pytest.approx(parallel_nats(model, tokens, layout).sum(), abs=1e-3)


def test_sums_have_no_order():
    draw = torch.Generator().manual_seed(2)
    a, b = (torch.randn(shape, generator=draw) * 10 for shape in ((8, 300), (300, 9)))
    order = torch.randperm(300, generator=draw)
    assert not torch.equal(a @ b, a[:, order] @ b[order]), "the planted fault"
    assert torch.equal(portable.product(a, b), portable.product(a[:, order], b[order]))
    assert torch.equal(portable.total(a, (1,)), portable.total(a[:, order], (1,)))
    torch.testing.assert_close(portable.product(a, b), a.double() @ b.double(), rtol=0, atol=1e-2)
    nothing = torch.zeros(2, 3)
    assert torch.equal(portable.product(nothing, nothing.T), torch.zeros(2, 2).double())


def test_functions_are_what_they_say():
    x = torch.linspace(-60, 60, 10_001)
    exact, near = x.double(), {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(portable.exp(x), exact.exp(), **near)
    torch.testing.assert_close(portable.sin(x), exact.sin(), **near)
    torch.testing.assert_close(portable.cos(x), exact.cos(), **near)
    torch.testing.assert_close(portable.log(x.abs() + 1e-5), (x.abs() + 1e-5).double().log(), **near)
    rows = x[:10_000].view(100, 100)
    masked = rows.masked_fill(rows < -50, -torch.inf)
    asked = {
        "softmax": lambda: masked[20:].softmax(-1),
        "sigmoid": lambda: rows.sigmoid(),
        "tanh": lambda: rows.tanh(),
        "norm": lambda: F.rms_norm(rows, (100,), eps=1e-6),
        "unit": lambda: F.normalize(rows, dim=-1),
        "mean": lambda: rows.mean(0, keepdim=True) + rows.mean(),
        "powers": lambda: 10000.0 ** (-rows.abs() / 60),
        "lerp": lambda: torch.lerp(rows, rows.T, rows.sigmoid()),
        "product": lambda: F.linear(rows, rows) + torch.baddbmm(rows, rows[None], rows[None])[0],
    }
    for name, ask in asked.items():
        with Portable():
            found = ask()
        near = {"rtol": 2e-5, "atol": 2e-5 + 2e-6 * float(found.abs().max())}
        torch.testing.assert_close(found, ask(), **near, msg=name)
        assert found.dtype == torch.float32


def test_an_operation_without_a_portable_form_is_refused():
    for ask in (torch.erf, torch.cumsum, torch.std):
        with Portable(), pytest.raises(BitgolfError, match="no portable arithmetic"):
            ask(torch.ones(3), *([0] if ask is torch.cumsum else []))
    with Portable(), pytest.raises(BitgolfError, match="square"):
        torch.ones(3) ** 3


def test_an_artifact_is_unpacked_portably_too():
    data = (ROOT / "tests/artifacts/version_1.bin").read_bytes()
    with Portable():
        found = unpack(data).weights
    assert all(torch.equal(found[name], weight) for name, weight in unpack(data).weights.items())
