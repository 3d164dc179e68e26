"""A cache of scores of public models on this machine, by text."""

import hashlib
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import write_json
from bitgolf.inputs.typed import STRICT, Figure, Size, read_as
from bitgolf.rivals.public_model import PublicScore
from bitgolf.run.cache import cache_folder

KEPT_SCORES = "public_models.json"


@STRICT
class Row(TypedDict):
    """A public model's score, and the text's hash."""

    text_sha256: str
    name: Annotated[str, Field(max_length=300)]
    bits_per_byte: Figure
    parameters: Size
    model_bytes: Size
    tokens: Size
    text_bytes: Size
    window_tokens: Size


@STRICT
class Rows(TypedDict):
    """A file of them."""

    scores: list[Row]


def known_scores(content: bytes) -> list[Row]:
    """All scores of public models on exactly this text, best first; a damaged file of kept ones has none."""
    digest = hashlib.sha256(content).hexdigest()
    return sorted(
        (row for row in _kept() if row["text_sha256"] == digest), key=lambda row: row["bits_per_byte"]
    )


def keep_score(content: bytes, score: PublicScore) -> None:
    """Keep one, in place of an older one of this model on this text."""
    row = {"text_sha256": hashlib.sha256(content).hexdigest(), **score._asdict()}
    same = (row["text_sha256"], row["name"])
    others = [kept for kept in _kept() if (kept["text_sha256"], kept["name"]) != same]
    write_json(cache_folder() / KEPT_SCORES, {"scores": [*others, row]})


def _kept() -> list[Row]:
    path = cache_folder() / KEPT_SCORES
    try:
        return read_as(path, Rows)["scores"] if path.is_file() else []
    except BitgolfError:
        return []
