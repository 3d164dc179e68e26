"""The small text that scripts train on and score in the sandbox: tokens, shards, a tokenizer."""

from pathlib import Path
from typing import SupportsInt

import numpy as np
import numpy.typing as npt

BOS, CONTROLS, BYTES = 1, 4, 8  # of the small vocabulary: control ids first, then some bytes, then pieces
VOCABULARY = 64
SCORED, TRAINED = 257, 20_000  # tokens of each split
SHARD = Path("data", "datasets", "tiny", "fineweb_val_000000.bin")  # under the folder that a script runs in


def byte_lengths(vocabulary_size: int) -> np.ndarray:
    """Bytes of each piece without its space."""
    sizes = np.array([len(_piece(each).lstrip("\u2581")) for each in range(vocabulary_size)])
    sizes[CONTROLS : CONTROLS + BYTES] = 1
    return sizes


def _piece(token: int) -> str:
    if token < CONTROLS:
        return ""
    if token < CONTROLS + BYTES:
        return f"<0x{0x60 + token:02X}>"
    if token == CONTROLS + BYTES:
        return "\u2581"
    return ("\u2581" if token % 3 == 0 else "") + "abcdefghij"[: 1 + token % 5]


def text_bytes(tokens: np.ndarray) -> int:
    """Bytes that all tokens after the first stand for; a space is one where something stands before it."""
    plain, before = tokens[1:], tokens[:-1]
    pieces = byte_lengths(int(tokens.max()) + 1)
    spaced = (plain % 3 == 0) & (plain >= CONTROLS + BYTES) & (before >= CONTROLS)
    return int(pieces[plain].sum() + spaced.sum())


def stream(vocabulary_size: int, count: int, seed: int) -> np.ndarray:
    """Tokens in which every run of five is met once: what is scored can be told by its targets."""
    tokens = np.random.default_rng(seed).integers(CONTROLS, vocabulary_size, count)
    tokens[: count - 20 : max(count // 5, 41)] = BOS
    return tokens


def write_shards(folder: Path, vocabulary_size: int, scored: np.ndarray, trained: np.ndarray) -> None:
    """Shards and a tokenizer under every name that scripts look for."""
    data = folder / "datasets" / "tiny"
    data.mkdir(parents=True)
    for name, tokens in (("val_000000", scored), ("train_000000", trained), ("train_000001", trained[::-1])):
        write_shard(data / f"fineweb_{name}.bin", tokens)
    (folder / "tokenizers").mkdir()
    for vocabulary in {vocabulary_size, 1024, 2048, 4096, 8192}:
        (data.parent / f"fineweb10B_sp{vocabulary}").symlink_to(data)
        (folder / "tokenizers" / f"fineweb_{vocabulary}_bpe.model").write_bytes(b"tiny")


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """One shard, in the place of the one that was there."""
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, len(tokens)
    path.with_suffix(".new").write_bytes(header.tobytes() + tokens.astype(np.uint16).tobytes())
    path.with_suffix(".new").rename(path)


def paths(folder: Path, vocabulary_size: int) -> dict[str, str]:
    """Where scripts are told to look for them."""
    return {
        "DATA_PATH": str(folder / "datasets" / f"fineweb10B_sp{vocabulary_size}"),
        "DATA_DIR": f"{folder}/",
        "TOKENIZER_PATH": str(folder / "tokenizers" / f"fineweb_{vocabulary_size}_bpe.model"),
    }


class Tokenizer:
    """Answers as a SentencePiece processor does."""

    def __init__(self, *_: object, vocabulary_size: int = VOCABULARY, **__: object) -> None:
        self._size = vocabulary_size

    def vocab_size(self) -> int:
        return self._size

    get_piece_size = piece_size = GetPieceSize = __len__ = vocab_size  # noqa: N815

    def load(self, *_: object) -> bool:
        return True

    Load = load

    def id_to_piece(self, token: SupportsInt) -> str:
        return _piece(int(token))

    IdToPiece = id_to_piece

    def is_control(self, token: SupportsInt) -> bool:
        return int(token) in (0, 1, 2)

    def is_unknown(self, token: SupportsInt) -> bool:
        return int(token) == 3

    def is_unused(self, token: SupportsInt) -> bool:
        return False

    def is_byte(self, token: SupportsInt) -> bool:
        return CONTROLS <= int(token) < CONTROLS + BYTES

    IsControl, IsUnknown, IsUnused, IsByte = is_control, is_unknown, is_unused, is_byte

    def bos_id(self) -> int:
        return BOS

    def pad_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return 2

    def unk_id(self) -> int:
        return 3

    def piece_to_id(self, piece: str) -> int:
        return next((each for each in range(self._size) if _piece(each) == piece), 3)

    def decode(self, tokens: npt.ArrayLike) -> str:
        return "".join(map(_piece, np.atleast_1d(tokens).tolist())).replace("\u2581", " ")
