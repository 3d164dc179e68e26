"""The parts of a run folder that a report needs; a missing part is named in a sentence."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import read_json
from bitgolf.squeeze.artifact import unpack

Piece = Callable[[int], bytes]
View = dict[str, Any]


class MissingError(Exception):
    """A part of the run folder is not there; the text says which, for the reader of the page."""


class Run:
    """What can be read of a run folder; the rest is empty, or raises MissingError when asked for."""

    def __init__(self, folder: Path, piece: Piece | None = None) -> None:
        self.folder = folder
        self.result, self.recipe = _mapping(folder / "result.json"), _mapping(folder / "recipe.json")
        self.environment = _mapping(folder / "environment.json") or self.result.get("environment") or {}
        self.name = self.result.get("recipe") or folder.resolve().name
        self.piece = piece or self._piece

    @functools.cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """The columns of scores.npz, a row per scored token."""
        path = self.folder / "scores.npz"
        if not path.is_file():
            raise MissingError("The run has not been scored: scores.npz is not there.")
        with np.load(path, allow_pickle=False) as columns:
            scores = dict(columns)
        if not len(scores["nats"]):
            raise MissingError("scores.npz holds no tokens.")
        return {**scores, "nats": scores["nats"].astype(np.float64)}

    def _piece(self, token: int) -> bytes:
        return self._tokenizer.piece(token)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        try:
            return unpack((self.folder / "model.bin").read_bytes()).tokenizer
        except (OSError, BitgolfError):
            raise MissingError("Tokens have no text here: model.bin cannot be read.") from None


def _mapping(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path)
    except BitgolfError:
        return {}
    return data if isinstance(data, dict) else {}


def required(data: dict[str, Any], key: str, sentence: str) -> Any:
    if data.get(key) in (None, [], {}, ""):
        raise MissingError(sentence)
    return data[key]
