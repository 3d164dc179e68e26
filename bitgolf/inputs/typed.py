"""JSON from outside, read by type: valid JSON may still have the wrong shape."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Required, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from bitgolf import import_core
from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.base.files import read_json
from bitgolf.base.plan import P, from_json
from bitgolf.corpus.textfile import refuse_special
from bitgolf.inputs.recorded import techniques_of

Shape = TypeVar("Shape")
Count = Annotated[int, Field(gt=0, lt=2**63)]
Size = Annotated[int, Field(ge=0, lt=2**63)]
Figure = Annotated[float, Field(ge=0)]
STRICT = with_config(ConfigDict(strict=True, extra="allow", allow_inf_nan=False))
MOST_JSON_BYTES, MOST_JSON_ITEMS = 2**26, 100_000  # no file of ours comes near
RENAMED = {"AsSet": "Fixed"}  # classes of settings, by the name that older runs wrote
AGAIN = "the file was changed or cut short; make it again"


@STRICT
class Variant(TypedDict, total=False):
    """A score of the same run by other weights or windows."""

    name: Required[str]
    bits_per_byte: Required[Figure]
    tokens_sha256: str


@STRICT
class Split(TypedDict, total=False):
    """What a passport says of a split."""

    text_bytes: Size
    text_sha256: str | None


@STRICT
class Splits(TypedDict):
    """Both of them."""

    val: Split


@STRICT
class Passport(TypedDict, total=False):
    """What a result says about its data."""

    name: str
    tokenizer_identity: str
    splits: Splits


@STRICT
class Named(TypedDict):
    """What a result.json says of its run, where only that is known."""

    seed: int
    recipe_identity: str


@STRICT
class Device(TypedDict, total=False):
    """What a run was computed on."""

    device: str


@STRICT
class Environment(TypedDict, total=False):
    """The machine of a run."""

    backend: Device


@STRICT
class Result(TypedDict, total=False):
    """A result.json, whatever became of the run, as far as others compute with it."""

    status: Required[str]
    error: str | None
    data: Passport
    environment: Environment
    variants: list[Variant]
    seconds: dict[str, float]
    train_seconds: Figure
    train_tokens: Size
    steps: Size
    artifact_bytes: Size
    total_bytes: Size


@STRICT
class Score(Result):
    """That of a run with a score."""

    bits_per_byte: Figure
    tokens: Count
    text_bytes: Count


@STRICT
class Origin(TypedDict, total=False):
    """Where a run's data lies, in its result.json."""

    dataset: str
    dtype: str


@STRICT
class Certificate(TypedDict):
    """The certificate.json of a proof, as far as it is verified."""

    bits_per_byte: Figure
    stepwise_bits_per_byte: Figure
    parallel_bits_per_byte: Figure
    rare_bits: NotRequired[Figure]
    text_bytes: Count
    coded_bytes: Count
    artifact_bytes: Count
    artifact_sha256: str
    text_sha256: str
    coded_sha256: str


@STRICT
class Progress(TypedDict):
    """The progress.json of a run that is under way."""

    time: Figure
    stage: Annotated[str, Field(pattern=r"^\w[\w .:+/-]{0,59}$")]
    share: Annotated[float, Field(ge=0, le=1)]


@STRICT
class Step(TypedDict):
    """A line of metrics.jsonl, as far as curves are drawn of it."""

    progress: float
    nats_per_token: float | None


@STRICT
class Validated(TypedDict):
    """A line of metrics.jsonl after which the validation text was scored."""

    step: Count
    val_bits_per_byte: Figure | None


@STRICT
class Machine(TypedDict, total=False):
    """The environment.json of a run, as far as bits depend on it."""

    torch: str
    processor: str
    backend: Device


@STRICT
class NumberTypes(TypedDict, total=False):
    """In which number type the runs of a store are computed, by kind of device."""

    cpu: Literal["float32", "bfloat16"]
    cuda: Literal["float32", "bfloat16"]


@STRICT
class Change(TypedDict):
    """A setting of a study that was changed after its first run."""

    path: str
    before: Any
    after: Any


@STRICT
class Amendment(TypedDict):
    """What was changed at one time."""

    written: str
    changes: list[Change]


@STRICT
class PlannedRun(TypedDict):
    """Where the run of an arm and a seed lies."""

    arm: str
    seed: int
    folder: str


@STRICT
class Receipt(TypedDict):
    """The plan.json of a study."""

    written: Annotated[str, Field(min_length=len("2026-01-02"))]
    plan: dict[str, Any]
    amendments: list[Amendment]
    runs: list[PlannedRun]


def typed(data: Any, shape: type[Shape], where: Path | str, way_out: str = AGAIN) -> Shape:
    """The data itself, which has this shape. Raises BitgolfError naming file, key and value.

    Keys that the shape does not name may hold anything.
    """
    try:
        TypeAdapter(shape).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        message = first["msg"][:1].lower() + first["msg"][1:]
        value = first["input"]
        if first["type"] == "missing":
            message, value = "is missing", None
        elif value is None:
            message += ", found null"
        raise BitgolfError(
            f"{key or 'its content'}: {message}", where=str(where), value=value, way_out=way_out
        ) from None
    return data


def read_outside(path: Path) -> Any:
    """A JSON file that may be anybody's. Raises BitgolfError for one that is no file or of absurd size."""
    if path.exists():
        refuse_special(path)
        if (num_bytes := path.stat().st_size) > MOST_JSON_BYTES:
            raise BitgolfError(
                f"more than {MOST_JSON_BYTES:,} bytes of JSON",
                where=str(path),
                value=f"{num_bytes:,}",
                way_out=AGAIN,
            )
    data = read_json(path)
    left = [data]
    while left:
        each = left.pop()
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        if len(inner) > MOST_JSON_ITEMS:
            count = f"{len(inner):,}"
            raise BitgolfError(
                f"more than {MOST_JSON_ITEMS:,} items in one", where=str(path), value=count, way_out=AGAIN
            )
        left += inner
    return data


def read_as(path: Path, shape: type[Shape], way_out: str = AGAIN) -> Shape:
    """A JSON file of this shape. Raises BitgolfError for any other."""
    return typed(read_outside(path), shape, path, way_out)


def renamed(data: Any) -> Any:
    """JSON of settings with classes under the names that they have today."""
    if isinstance(data, dict):
        new = {key: renamed(value) for key, value in data.items()}
        return new | {"class": RENAMED[new["class"]]} if new.get("class") in [*RENAMED] else new
    return [*map(renamed, data)] if isinstance(data, list) else data


def read_plan(path: Path, kind: type[P]) -> P:
    """The settings in a JSON file. Raises PlanError, which names the file in front of every problem."""
    import_core()
    with techniques_of(path.parent):
        try:
            return from_json(kind, renamed(read_outside(path)))
        except PlanError as error:
            raise PlanError(f"{path}: {problem}" for problem in error.problems) from None


def read_lines(path: Path, shape: type[Shape]) -> Iterator[Shape]:
    """The lines of a .jsonl file that have this shape. Others are dropped: a kill may leave half of one."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for line in lines:
        try:
            yield typed(json.loads(line), shape, path)
        except (ValueError, RecursionError, BitgolfError):
            continue
