"""What a packed model shows: tensors that nothing needs, rows that are gone, levels that are not used."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bitgolf.audit.bounded import start_of
from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding
from bitgolf.audit.rules import Rules
from bitgolf.base.errors import BitgolfError
from bitgolf.inputs.resolve import read_artifact
from bitgolf.public.checkpoints import read_public
from bitgolf.squeeze.sections import ARTIFACT_MAGIC

TRAINING_ONLY = ("mtp_heads.", "optimizer", "exp_avg", "momentum_buffer", "ema_", "teacher.")
MOST_BYTES = 2**28  # of an artifact, packed or not
MOST_ZERO_ROWS = 0.02  # of a matrix


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """The weights in an artifact of ours or of a public script, dequantized. Nothing is executed."""
    ours = start_of(path, len(ARTIFACT_MAGIC)) == ARTIFACT_MAGIC
    if path.stat().st_size > MOST_BYTES:
        raise BitgolfError(f"more than {MOST_BYTES:,} bytes", where=str(path))
    return read_artifact(path).weights if ours else read_public(path, limit=MOST_BYTES)


def is_packed(name: str) -> bool:
    """Whether a file has a name that packed models have."""
    return name.endswith(".ptz") or name == "model.bin"


def artifacts_in(folder: Path, names: Sequence[str]) -> list[Path]:
    """The packed models among a folder's files: safetensors only where nothing else is packed, for beside it
    they are what training keeps, and never the state of a run of ours.
    """
    tensors = [name for name in names if name.endswith(".safetensors") and not _is_state(folder / name)]
    return [folder / name for name in [*filter(is_packed, names)] or tensors]


def _is_state(path: Path) -> bool:
    """Whether a checkpoint or weights of ours, with the facts that a run goes on from."""
    try:
        with safe_open(path, "pt") as file:
            return "bitgolf" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def check_artifact(path: Path, rules: Rules) -> Iterator[Finding]:
    """All findings of an artifact."""
    artifact_bytes = path.stat().st_size
    if artifact_bytes > rules.budget_bytes:
        those = f"at most {rules.budget_bytes:,}, code included"
        yield Finding("K01", FOUND, path.name, f"{artifact_bytes:,} bytes", those)
    try:
        tensors = read_tensors(path)
    except BitgolfError as error:
        yield Finding("K06", CANNOT_TELL, path.name, str(error))
        return
    if odd := [name for name, tensor in tensors.items() if bool(tensor.isnan().any())]:
        count, name = int(tensors[odd[0]].isnan().sum()), odd[0]
        message = f"{count:,} of {tensors[name].numel():,} weights are NaN"
        yield Finding("V19", FOUND, f"{path.name}: {name}", message, "weights that give every token a score")
        return
    yield from needless(path, tensors)
    yield from coarse_table(path, tensors)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.ndim == 2 and min(tensor.shape) > 1:
            matrix = tensor.detach().float()
            if bool(matrix.isfinite().all()):  # a mask has infinities
                yield from collapsed(path, name, matrix)


def needless(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[Finding]:
    """K06: tensors of training alone, and the same numbers twice."""
    trained = [name for name in tensors if any(word in name for word in TRAINING_ONLY)]
    yield from _largest(path, tensors, {name: f"{name} is of training alone" for name in trained})
    seen: dict[tuple[object, ...], str] = {}
    twice: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() < 1024 or not bool(tensor.any()):
            continue
        key = (tuple(tensor.shape), float(tensor.double().sum()), float(tensor.flatten()[:64].double().sum()))
        other = seen.setdefault(key, name)
        if other != name and torch.equal(tensors[other], tensor):
            twice[name] = f"{name} and {other} are equal"
    yield from _largest(path, tensors, twice, "each once")


def _largest(
    path: Path, tensors: Mapping[str, Tensor], found: Mapping[str, str], expected: str = ""
) -> Iterator[Finding]:
    """One finding of whatever many tensors: of the largest, with how many there are."""
    if found:
        name = max(found, key=lambda each: tensors[each].numel())
        message = f"{found[name]}, {tensors[name].numel():,} numbers"
        if len(found) > 1:
            total = sum(tensors[each].numel() for each in found)
            message += f"; with {len(found) - 1} more such tensors {total:,}"
        yield Finding("K06", FOUND, f"{path.name}: {name}", message, expected)


def coarse_table(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[Finding]:
    """T10: the table of tokens on fewer levels than the matrices beside it."""
    matrices = {
        name: tensor.detach().float()
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and tensor.ndim == 2 and min(tensor.shape) >= 32
    }
    if len(matrices) < 3:
        return
    name = max(matrices, key=lambda each: matrices[each].shape[0] / matrices[each].shape[1])
    if matrices[name].shape[0] < 4 * matrices[name].shape[1] and "emb" not in name:
        return
    levels = {each: _levels(matrix) for each, matrix in matrices.items()}
    others = sorted(count for each, count in levels.items() if each != name)
    usual = others[len(others) // 2]
    if levels[name] <= 64 and levels[name] <= 0.7 * usual:
        message = f"{levels[name]} levels in a row of the largest table, {usual} in the matrices beside it"
        yield Finding("T10", SUSPECTED, f"{path.name}: {name}", message)


def _levels(matrix: Tensor) -> int:
    """How many different values a row has, in the middle of some rows."""
    rows = matrix[:: max(1, matrix.shape[0] // 16)][:16]
    return sorted(len(row.unique()) for row in rows)[len(rows) // 2]


def collapsed(path: Path, name: str, matrix: Tensor) -> Iterator[Finding]:
    """T08, T09: rows of zeros in a matrix that has others, rows of a few values beside one outlier."""
    rows = matrix.shape[0]
    empty = int((matrix == 0).all(1).sum())
    if 0 < empty < rows and empty > MOST_ZERO_ROWS * rows:
        yield Finding("T08", SUSPECTED, f"{path.name}: {name}", f"{empty:,} of {rows:,} rows are zero")
    if matrix.shape[1] < 64:
        return
    largest = matrix.abs().amax(1, keepdim=True).clamp_min(1e-30)
    share = ((matrix.abs() < 1e-6 * largest).float().mean(1) > 0.85) & (largest[:, 0] > 1e-20)
    if int(share.sum()) > MOST_ZERO_ROWS * rows:
        message = f"{int(share.sum()):,} of {rows:,} rows hold an outlier and zeros"
        yield Finding("T09", SUSPECTED, f"{path.name}: {name}", message)


COVERED = frozenset("K01 K06 T08 T09 T10 V19".split())
