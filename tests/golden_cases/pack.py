"""Packed files and the byte shuffle against the public scripts."""

import dataclasses
import hashlib
import zlib

import torch
from torch import Tensor

from bitgolf.core.model import build_model
from bitgolf.core.position import Rope
from bitgolf.lab.public import (
    as_weights,
    byte_shuffle,
    byte_unshuffle,
    expand,
    infer_model_plan,
    pack_public_int8,
    read_public,
    unpack_public_int8,
)
from tests.golden_cases.case import Case
from tests.golden_cases.model import public_plan


@dataclasses.dataclass(frozen=True)
class Loaded(Case):
    """A case whose weights come out of its packed file."""

    state: dict[str, Tensor]

    def weights(self) -> dict[str, Tensor]:
        return self.state


def artifact(case: Case) -> None:
    path = case.file("packed_file")
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == case.expected["sha256"]
    assert len(expand(data)) == case.expected["raw_torch_bytes"]
    state = read_public(path)
    prefix = "out.state."
    expected = {k.removeprefix(prefix): v for k, v in case.tensors.items() if k.startswith(prefix)}
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name
    if case.arguments["format"] == "int8_zlib":
        packed = pack_public_int8(state)
        again = unpack_public_int8(packed)
        assert all(torch.equal(again[name], state[name]) for name in state)
        assert len(zlib.decompress(packed)) == case.expected["raw_torch_bytes"]
        assert infer_model_plan(state).position == Rope(frequencies="bfloat16")
    # The scripts load into a model that .bfloat16() went over, which rounds the frequencies of RoPE.
    plan = public_plan(Loaded(case.path, state)).but({"position.frequencies": "bfloat16"})
    model = build_model(plan)
    model.load_state_dict(as_weights(state))
    with torch.no_grad():
        loss = model.loss(case.tensors["out.input_ids"].long(), case.tensors["out.target_ids"].long())
    wanted = case.expected["fp32_loss_of_loaded_model"]
    assert abs(float(loss) - wanted) <= case.tolerance["fp32_loss_of_loaded_model"]["abs"]


def shuffle(case: Case) -> None:
    for i, (length, shuffled_length) in enumerate(case.expected["lengths"]):
        data, expected = (bytes(case.tensors[f"{kind}.{i}"].tolist()) for kind in ("data", "out.shuffled"))
        assert (len(data), len(expected)) == (length, shuffled_length)
        assert byte_shuffle(data, case.arguments["stride"]) == expected
        assert byte_unshuffle(expected) == data


HANDLERS = {"artifact": artifact, "byte_shuffle": shuffle}
