"""Files are whole or absent, and a damaged one is refused."""

import errno
import os

import numpy as np
import pytest
import torch

from bitgolf.base.errors import BitgolfError, CheckpointError
from bitgolf.base.files import is_number, read_json, write_bytes, write_json
from bitgolf.base.tensors import read_tensors, write_tensors


def test_empty_arrays_of_numpy_are_kept(tmp_path):
    arrays = {
        "a": np.zeros(0, np.uint16),
        "b": np.array([], np.int64)[::2],
        "c": np.zeros((0, 3), np.float32),
    }
    write_tensors(tmp_path / "s", {name: torch.from_numpy(array) for name, array in arrays.items()}, {})
    tensors, _ = read_tensors(tmp_path / "s")
    assert {name: (t.shape, t.numpy().dtype) for name, t in tensors.items()} == {
        name: (array.shape, array.dtype) for name, array in arrays.items()
    }


def test_json_and_tensors_round_trip(tmp_path):
    write_json(tmp_path / "a" / "x.json", {"b": 1})
    assert read_json(tmp_path / "a" / "x.json") == {"b": 1}
    tensors = {"w": torch.randn(3, 4), "t": torch.tensor(3), "h": torch.ones(2, dtype=torch.bfloat16)}
    tensors |= {"empty": torch.from_numpy(np.zeros(0))}
    write_tensors(tmp_path / "s", tensors, {"step": 3})
    loaded, facts = read_tensors(tmp_path / "s")
    assert facts == {"step": 3}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path, monkeypatch):
    target = tmp_path / "kept"
    write_bytes(target, b"old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BitgolfError, match="no space left on the disk"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    for name in "abcd":
        write_tensors(tmp_path / name, {"w": torch.ones(2), "v": torch.zeros(1)}, {"x": 1, "y": 2})
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d[:-1],
        lambda d: d[:40],
        lambda d: b"",
        lambda d: d[:9] + b"?" + d[10:],
        lambda d: d[:-1] + b"?",
    ],
)
def test_damaged_state_is_refused(tmp_path, damage):
    path = tmp_path / "state"
    write_tensors(path, {"w": torch.zeros(5)}, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensors(path)


def test_missing_and_malformed_files_are_named(tmp_path):
    with pytest.raises(BitgolfError, match=r"absent\.json: no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(CheckpointError, match="absent"):
        read_tensors(tmp_path / "absent")
    (tmp_path / "bad.json").write_text('{"a": }')
    with pytest.raises(BitgolfError, match="line 1 column 7"):
        read_json(tmp_path / "bad.json")


def test_a_key_that_stands_twice_is_named(tmp_path):
    (tmp_path / "twice.json").write_text('{"a": 1, "b": [{"seed": 1, "seed": 2}]}')
    with pytest.raises(BitgolfError, match="the key 'seed' stands twice") as refused:
        read_json(tmp_path / "twice.json")
    assert "twice.json" in str(refused.value)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), True, "1", None, [1]])
def test_what_no_float_can_hold_is_no_number(value):
    assert not is_number(value) and is_number(10**30) and is_number(-0.5)
