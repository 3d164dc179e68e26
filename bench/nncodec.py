"""NNCodec (ISO/IEC 15938-17) as a peer of the packer: the standard's own coder on the same trained weights.

Its package asks for older libraries than ours, so it runs in an environment of its own:
python -m venv nncodec-env && nncodec-env/bin/pip install nncodec
python -m bench.pack RUN --ways nncodec --nncodec nncodec-env/bin/python
"""

import subprocess
from collections.abc import Generator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event
from bitgolf.net.model import model_with
from bitgolf.pipeline.repack import Trained, chunked, paired_gap
from bitgolf.report.divergence import divergence
from bitgolf.report.tensors import bits_per_byte_of
from bitgolf.run.result import by_sequence
from bitgolf.run.scoring import score_split
from bitgolf.score.metric import bits_per_byte
from bitgolf.score.score import Scores

# What that Python is told: weights in, the coded stream and what it decodes to out.
PROGRAM = """
import contextlib, sys, time
import numpy as np
from nncodec.nn import decode, encode
given, stream, decoded, level, small = sys.argv[1:]
with contextlib.redirect_stdout(sys.stderr):
    started = time.perf_counter()
    data = encode(dict(np.load(given)), args={
        "qp": int(level), "nonweight_qp": int(small), "use_dq": True, "verbose": False
    })
    seconds = time.perf_counter() - started
    open(stream, "wb").write(bytes(data))
    np.savez(decoded, **{name: np.asarray(each) for name, each in decode(data).items()})
print(seconds)
"""
# Quantization parameters of matrices; four are a factor of two in the step.
LEVELS = (-26, -24, -22, -20, -18, -16)
SMALL = -38  # that of vectors: the coarsest that loses nothing on the models here


class Peer(NamedTuple):
    """A way of NNCodec: the Python that has it, and the quantization parameter of matrices."""

    python: str
    level: int


class Coded(NamedTuple):
    """A coded stream: its bytes, the weights that come back from it, seconds of coding."""

    size: int
    weights: dict[str, Tensor]
    seconds: float


def ways(python: str) -> dict[str, Peer]:
    """A way for each step."""
    return {f"n NNCodec, qp {level}": Peer(python, level) for level in LEVELS}


def coded(peer: Peer, weights: Mapping[str, Tensor], small: int = SMALL) -> Coded:
    """Weights (float32, on the CPU) through the standard's coder and back.

    Raises BitgolfError where that Python has no NNCodec, or it fails.
    """
    with TemporaryDirectory() as folder:
        given, stream, decoded = (Path(folder) / name for name in ("given.npz", "coded.nnc", "decoded.npz"))
        np.savez(given, **{name: np.atleast_1d(tensor.numpy()) for name, tensor in weights.items()})
        paths = [str(path) for path in (given, stream, decoded)]
        command = [str(Path(peer.python).absolute()), "-c", PROGRAM, *paths, str(peer.level), str(small)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            way_out = "give a Python that has nncodec with --nncodec"
            raise BitgolfError("NNCodec failed", where=peer.python, value=reason, way_out=way_out)
        arrays = np.load(decoded)
        back = {name: torch.from_numpy(arrays[name].reshape(weights[name].shape)) for name in weights}
        return Coded(stream.stat().st_size, back, float(done.stdout))


def measured(run: Trained, name: str, peer: Peer, base: Scores) -> Generator[Event, None, dict[str, Any]]:
    """A line as `bench.pack` has for its own ways; the tokenizer counts too. base: of the float weights."""
    yield Event(f"pack {name}", 0, 1, {})
    found = coded(peer, run.weights)
    size = found.size + len(run.dataset.tokenizer.to_bytes())
    yield Event(f"pack {name}", 1, 1, {"artifact_bytes": size})
    plan = run.recipe.network().shipped()
    exact, packed = (model_with(plan, weights, run.backend) for weights in (run.weights, found.weights))
    scores = (yield from score_split(packed, run.dataset, chunked(run.recipe), f"score {name}")).scores
    sums = by_sequence(scores)
    gap, error = paired_gap(sums, by_sequence(base))
    moved = divergence(exact, packed, run.dataset.train, run.recipe.data.sequence_length)
    matrix_weights = sum(weight.numel() for weight in run.weights.values() if weight.ndim > 1)
    bytes_per_token = int(sums.bytes.sum()) / int(sums.tokens.sum())
    return {
        "name": name,
        "gap": gap,
        "gap_error": error,
        "kl_gap": bits_per_byte_of(moved.nats, bytes_per_token),
        "kl_gap_error": bits_per_byte_of(moved.error, bytes_per_token),
        "artifact_bytes": size,
        "bits_per_byte": bits_per_byte(scores),
        "seconds": found.seconds,
        "bits_per_weight": 8 * size / matrix_weights,
    }
