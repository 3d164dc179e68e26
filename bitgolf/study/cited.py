"""Figures published by others, as rows of a table: read, checked, extended."""

import csv
import dataclasses
import io
import typing
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from bitgolf.base.errors import BitgolfError, nearest
from bitgolf.base.files import is_number, write_json
from bitgolf.inputs.typed import read_outside

SHIPPED = Path(__file__).with_name("cited.json")
IMPORTED = "public-records.json"  # rows of `bitgolf findings --import`, in the folder of the ledger


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cited:
    """One published figure with its conditions; the fields are the columns of a table that can be merged.

    effect: value - reference, or the published difference where either of them is not published. verdict:
    that of its author. seeds: how many runs are behind the value. uses: techniques by their names here.
    """

    source: str
    technique: str
    metric: str
    author: str = ""
    against: str = ""
    value: float | None = None
    reference: float | None = None
    effect: float | None = None
    verdict: str = ""
    conditions: str = ""
    seeds: int | None = None
    artifact_bytes: int | None = None
    note: str = ""
    uses: str = ""


COLUMNS = {field.name: field.type for field in dataclasses.fields(Cited)}
REQUIRED = ("source", "technique", "metric")


def cited_in(folder: Path, *more: Path) -> list[Cited]:
    """The same with the rows that were imported into a folder of studies, if there are some."""
    own = [folder / IMPORTED] if (folder / IMPORTED).is_file() else []
    return cited(*own, *more)


def cited(*more: Path) -> list[Cited]:
    """The figures that are shipped, and those of further tables: .json (a list of objects) or .csv.

    Their columns are the fields of `Cited`; source, technique and metric must be given. Raises BitgolfError.
    """
    return [row for path in (SHIPPED, *more) for row in _cited_rows(path)]


def keep_cited(rows: Sequence[Cited], folder: Path) -> Path:
    """Add rows to the imported ones of a folder; those of the same sources go. Returns the file."""
    path = folder / IMPORTED
    sources = {row.source for row in rows}
    kept = [row for row in _cited_rows(path) if row.source not in sources] if path.is_file() else []
    checked = [_cited_row(dataclasses.asdict(row), f"row of {row.source}") for row in rows]
    write_json(path, [dataclasses.asdict(row) for row in (*kept, *checked)])
    return path


def _cited_rows(path: Path) -> Iterator[Cited]:
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    for position, row in enumerate(rows, 1):
        yield _cited_row(row, f"{path}, row {position}")


def _json_rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        rows = read_outside(path)
    except RecursionError:
        raise BitgolfError("nested too deeply", where=str(path), way_out="give a list of objects") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BitgolfError(
            "not a table",
            where=str(path),
            value=type(rows).__name__,
            way_out=f"give a list of objects with {', '.join(REQUIRED)}",
        )
    return rows


def _csv_rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        rows = [*reader]
    except OSError as error:
        raise BitgolfError(f"cannot read: {error.strerror}", where=str(path)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BitgolfError(
            f"not readable as CSV: {error}", where=str(path), way_out="save it as UTF-8 with commas"
        ) from None
    if not reader.fieldnames:
        raise BitgolfError("empty", where=str(path), way_out=f"give a header with {', '.join(REQUIRED)}")
    for position, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise BitgolfError(
                "has more or fewer cells than the header",
                where=f"{path}, row {position}",
                value=[*row.values()],
                way_out="put cells with commas in quotes",
            )
    return [{name: _number_of_text(name, cell) for name, cell in row.items()} for row in rows]


def _number_of_text(column: str, cell: str) -> Any:
    """A CSV cell as JSON would have it; what is no number stays a text, and is refused as one."""
    if COLUMNS.get(column) is str:
        return cell
    try:
        return int(cell) if cell.strip().lstrip("+-").isdigit() else float(cell)
    except ValueError:
        return cell.strip() or None


def _cited_row(row: Mapping[str, Any], where: str) -> Cited:
    for column in row:
        if column not in COLUMNS:
            raise BitgolfError("no such column", where=where, value=column, way_out=nearest(column, COLUMNS))
    values = {name: _cell(name, value, where) for name, value in row.items() if value is not None}
    for name in REQUIRED:
        if not values.get(name):
            raise BitgolfError(f"has no {name}", where=where, way_out=f"each row needs {', '.join(REQUIRED)}")
    figure = Cited(**values)
    if figure.value is None and figure.effect is None and not figure.verdict:
        raise BitgolfError("says nothing", where=where, way_out="give a value, an effect or a verdict")
    return _with_effect(figure, where)


def _cell(column: str, value: Any, where: str) -> Any:
    """A cell by the type of its column. Raises BitgolfError for another."""
    if COLUMNS[column] is str:
        if not isinstance(value, str):
            raise BitgolfError(
                f"{column} is not a text", where=where, value=value, way_out="put it in quotes"
            )
        return plain(value)
    try:
        number = number_in(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None:
        raise BitgolfError(
            f"{column} is not a number",
            where=where,
            value=value,
            way_out="write 15949473 or -0.0221, or nothing",
        )
    if int in typing.get_args(COLUMNS[column]) and (number < 0 or number != int(number)):
        raise BitgolfError(f"{column} is not a count", where=where, value=value, way_out="give 0, 1, 2, ...")
    return value


def _with_effect(row: Cited, where: str) -> Cited:
    """With its effect filled in. Raises BitgolfError where one is given that the other figures contradict."""
    if row.value is None or row.reference is None:
        return row
    exact = Decimal(repr(row.value)) - Decimal(repr(row.reference))
    if row.effect is None:
        whole = isinstance(row.value, int) and isinstance(row.reference, int)
        return dataclasses.replace(row, effect=int(exact) if whole else float(exact))
    slack = sum(_half_a_place(figure) for figure in (row.value, row.reference, row.effect))
    if abs(exact - Decimal(repr(row.effect))) > slack:
        raise BitgolfError(
            "effect is not value - reference",
            where=where,
            value=row.effect,
            way_out=f"{row.value} - {row.reference} = {exact}; leave effect out to have it computed",
        )
    return row


def _half_a_place(figure: float) -> Decimal:
    """How far rounding can have moved a printed figure: half a unit of its last place. Counts are exact."""
    exponent = Decimal(repr(figure)).as_tuple().exponent
    return Decimal(5).scaleb(int(exponent) - 1) if isinstance(figure, float) else Decimal(0)


def number_in(value: Any) -> float | None:
    """A finite number or None. Raises TypeError or ValueError for anything else."""
    if value is None:
        return None
    if not is_number(value):
        raise TypeError(f"{str(value)[:60]!r} is not a number")
    return value


def plain(text: Any) -> str:
    """A text in one line that moves no cursor: tables come from other people."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is not a text")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
