"""The packed file of a script: read, and loaded into a model."""

import hashlib
import zlib

import torch
from torch import Tensor

from bitgolf.net.position import Rope
from bitgolf.public.checkpoints import (
    infer_model_plan,
    load_tensors,
    pack_public_int8,
    read_public,
    unpack_public_int8,
)
from bitgolf.public.streams import expand
from bitgolf.public.tables import public_int8_table
from tests.golden_cases.case import Case
from tests.golden_cases.compare import close_figure
from tests.golden_cases.kinds.quant_state_dict import check_stats
from tests.golden_cases.network import loaded, public_plan, public_weights


def check(case: Case) -> None:
    name, expected = case.facts["packed_file"], case.expected
    assert name == case.arguments["blob"]
    data = case.beside(name).read_bytes()
    raw = expand(data)
    assert hashlib.sha256(data).hexdigest() == expected["sha256"]
    assert hashlib.sha256(raw).hexdigest() == expected["raw_sha256"]
    assert (len(data), len(raw)) == (expected["file_bytes"], expected["raw_torch_bytes"])
    check_object(case, load_tensors(raw))
    state, wanted = read_public(case.beside(name)), case.tensors.starting("out.state.")
    assert state.keys() == wanted.keys()
    for key, tensor in state.items():
        assert tensor.dtype == wanted[key].dtype and torch.equal(tensor, wanted[key]), key
    if case.arguments["format"] == "int8_zlib":
        check_repacked(case, state)
    check_loss(case, state)


def check_object(case: Case, table: dict[str, object]) -> None:
    """The tables in the file, and the names in each."""
    stated = case.expected["object"]
    assert table.keys() == set(stated)
    for key in stated:
        found, said = table[key], stated[key]
        if isinstance(said, list):
            assert isinstance(found, dict) and sorted(found) == sorted(said), key
        else:
            assert found == said, key


def check_repacked(case: Case, state: dict[str, Tensor]) -> None:
    """The baseline's file, written again from what was read."""
    packed = pack_public_int8(state)
    again = unpack_public_int8(packed)
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert len(zlib.decompress(packed)) == case.expected["raw_torch_bytes"]
    assert infer_model_plan(state).position == Rope(frequencies="bfloat16")
    if "stats" in case.expected:
        check_stats(case, state, public_int8_table(state))


def check_loss(case: Case, state: dict[str, Tensor]) -> None:
    inputs, targets = (case.tensors[f"out.{name}_ids"].long() for name in ("input", "target"))
    assert case.arguments["eval_batch"] and inputs.shape == targets.shape
    # The scripts load into a model that .bfloat16() went over, which rounds the frequencies of RoPE.
    weights = public_weights(case, state)
    plan = public_plan(case, weights).replace({"position.frequencies": "bfloat16"})
    with torch.no_grad():
        loss = loaded(plan, weights).eval().loss(inputs, targets)
    close_figure(case, "fp32_loss_of_loaded_model", float(loss))
