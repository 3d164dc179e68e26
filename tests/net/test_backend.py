"""The choice of device, number type and kernels."""

import subprocess
import sys

import pytest
import torch

from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.net import backend as chosen
from bitgolf.net.backend import Backend, BackendPlan, choose_backend
from bitgolf.net.model import ModelPlan, build_model

TINY = ModelPlan(vocabulary_size=64, layers=2, width=32, heads=2, kv_heads=1)


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_bfloat16_is_chosen_by_measuring(monkeypatch):
    for gain, dtype, attention in ((3.0, torch.bfloat16, "chunk"), (0.7, torch.float32, "sdpa")):
        monkeypatch.setattr(chosen, "bfloat16_gain", lambda device, gain=gain: gain)
        backend = choose_backend(BackendPlan(device="cpu"))
        assert (backend.dtype, backend.attention) == (dtype, attention)
        assert f"{gain:.1f} times" in backend.reasons["dtype"]


def test_the_probe_is_short_and_positive():
    assert chosen.bfloat16_gain(torch.device("cpu")) > 0


def test_wishes_are_kept_and_every_choice_has_a_reason():
    backend = choose_backend(
        BackendPlan(device="cpu", dtype="float32", attention="math", fused=False, threads=1)
    )
    assert backend.device.type == "cpu" and backend.dtype == torch.float32
    assert (backend.attention, backend.fused, backend.threads) == ("math", False, 1)
    assert torch.get_num_threads() == 1
    assert {"device", "threads", "dtype", "attention", "reuse_memory"} <= set(backend.reasons)
    assert "reuse_memory" not in choose_backend(BackendPlan(dtype="float32", reuse_memory=False)).reasons


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_device_is_refused():
    with pytest.raises(BitgolfError, match="no CUDA device.*device=cpu"):
        choose_backend(BackendPlan(device="cuda"))


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr(chosen, "compiler_found", lambda: False)
    with pytest.raises(BitgolfError, match="no C\\+\\+ compiler.*compile=false"):
        choose_backend(BackendPlan(device="cpu", dtype="float32", compile=True))


def test_unknown_names_are_refused_with_a_hint():
    with pytest.raises(PlanError, match="did you mean 'bfloat16'"):
        BackendPlan(dtype="bfloat")


def test_a_few_tokens_are_computed_in_float32():
    backend = Backend(dtype=torch.bfloat16, attention="chunk", fused=True)
    model = build_model(TINY).use(backend)
    assert model.hidden(torch.zeros(1, 7, dtype=torch.long)).dtype == torch.float32
    assert model.hidden(torch.zeros(2, 4, dtype=torch.long)).dtype == torch.bfloat16


def test_weights_and_nats_stay_float32_whatever_is_computed_in():
    model = build_model(TINY).use(Backend(dtype=torch.bfloat16, attention="chunk", fused=True))
    tokens = torch.zeros(2, 16, dtype=torch.long)
    model.loss(tokens, tokens).backward()
    assert model.nats(tokens, tokens).dtype == torch.float32
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


def test_reusing_memory_saves_page_faults():
    """Each fresh big block would be faulted in page by page; the switch must make that stop."""
    program = (
        "import resource, sys, torch\n"
        "from bitgolf.net.backend import keep_freed_memory\n"
        "if sys.argv[1] == 'on' and not keep_freed_memory(): print(0); sys.exit()\n"
        "faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]\n"
        "for _ in range(30):\n"
        "    torch.zeros(1 << 22).add_(1)\n"
        "    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
        "print(min(after - before for before, after in zip(faults, faults[1:])))\n"
    )
    faults = {
        switch: int(subprocess.run([sys.executable, "-c", program, switch], capture_output=True).stdout)
        for switch in ("on", "off")
    }
    assert faults["on"] <= faults["off"] / 10


def test_of_several_processes_all_take_what_the_first_one_measured(monkeypatch):
    gains = iter([9.0, 0.1])
    monkeypatch.setattr(chosen, "bfloat16_gain", lambda device: next(gains))
    first: list[float] = []
    agreed = [lambda gain: first.append(gain) or gain, lambda gain: first[0]]
    types = [choose_backend(BackendPlan(device="cpu"), "", each).dtype for each in agreed]
    assert types == [torch.bfloat16] * 2


@pytest.mark.parametrize(
    ("capability", "dtype", "attention"),
    [((7, 5), torch.float32, "math"), ((8, 0), torch.bfloat16, "sdpa"), ((9, 0), torch.bfloat16, "sdpa")],
)
def test_a_gpu_computes_in_what_it_has(monkeypatch, capability, dtype, attention):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    backend = choose_backend(BackendPlan())
    assert (backend.device.type, backend.dtype, backend.attention) == ("cuda", dtype, attention)
    assert {"device", "dtype", "attention"} <= backend.reasons.keys()
