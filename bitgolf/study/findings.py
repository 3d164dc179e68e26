"""The ledger of findings: results of studies below a folder, and figures of others beside them.

A `Finding` was measured here, by runs that are on disk. A `Cited` figure was published by someone else, under
their conditions. They are different types with different tables, so neither is ever taken for the other.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import Plan, diff
from bitgolf.inputs.typed import read_outside
from bitgolf.report import screen
from bitgolf.study.cited import Cited, number_in, plain
from bitgolf.study.terms import IN_BITS, Scale, StudyResult, is_study, read_study

if TYPE_CHECKING:
    from bitgolf.study.design import Arm, Study

MEASURED = Path(__file__).with_name("measured")  # the studies of the project, one JSON file each
OWN_NAME = "study.json"  # what `bitgolf study` writes
MARKS = (b'"study"', b'"comparisons"', b'"arms"')
MOST_BYTES = 2**26  # of a file that is looked into
INSIDE_THE_NOISE = ("no evidence", "equivalent")
BUNDLED = ("+", ",", "&", "/", " and ", " with ")  # in the name of what is several changes at once
INTERACTION = "interaction"  # a comparison of effects, not of settings
Rows = tuple[list[str], list[tuple[str, ...]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the table of a study that was run here.

    effect, low, high: in the metric, with the 95% interval; None where too few runs are left. detectable: the
    smallest difference that this line would have shown. paths: the changed settings, each with its value
    after the change in the words of `screen.number`. why: what is wrong with an invalid one.
    """

    technique: str
    study: str
    kind: str
    against: str
    metric: str
    effect: float | None
    low: float | None
    high: float | None
    n: int
    p_corrected: float | None
    verdict: str
    why: str
    detectable: float | None
    scale: str
    paths: tuple[tuple[str, str], ...]
    file: str


Entry = TypeVar("Entry", Finding, Cited)


def measured(folder: Path) -> tuple[list[Finding], list[str]]:
    """The lines of all studies below a folder, whatever their verdict, and what is wrong with broken ones.

    A JSON file is a study by its content, whatever its name; one named study.json claims to be one.
    """
    if not folder.is_dir():
        raise BitgolfError("no such folder", where=str(folder), way_out="give the one that studies write to")
    findings: list[Finding] = []
    problems = []
    for path in sorted(_study_files(folder)):
        try:
            if path.name == OWN_NAME or is_study(read_outside(path)):
                findings += findings_in(path)
        except BitgolfError as error:
            problems.append(str(error))
    return findings, problems


def with_shipped(findings: Sequence[Finding]) -> list[Finding]:
    """Some lines, and those of the project's own studies that are not among them."""
    listed = {dataclasses.replace(each, file="") for each in findings}
    ours, _ = measured(MEASURED)
    return [*findings, *(each for each in ours if dataclasses.replace(each, file="") not in listed)]


def _study_files(folder: Path) -> Iterator[Path]:
    """What may be a study; hidden folders are left out: environments hold ten thousand files."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if OWN_NAME in folders:
            yield Path(parent) / OWN_NAME
        for name in files:
            path = Path(parent) / name
            if name == OWN_NAME or (path.suffix.lower() == ".json" and _has_marks(path)):
                yield path


def _has_marks(path: Path) -> bool:
    """Whether two of the words of a study stand in a file, so that a study cut short is missed as one."""
    try:
        data = path.read_bytes() if path.is_file() and path.stat().st_size <= MOST_BYTES else b""
    except OSError:
        return False
    return sum(mark in data for mark in MARKS) > 1


def findings_in(path: Path) -> list[Finding]:
    """The lines of the table of one study.json. Raises BitgolfError for another file."""
    study = read_study(path)
    changes, scale = _changes(study), _scale_in_words(study["scale"])
    findings = []
    for row in study["comparisons"]:
        numbers = ("effect", "low", "high", "p_corrected", "detectable")
        finding = Finding(
            technique=plain(row["name"]),
            study=plain(study["study"]),
            kind=plain(row["kind"]),
            against=plain(row.get("against") or ""),
            metric=plain(study["metric"]),
            n=int(number_in(row.get("n")) or 0),
            verdict=row["verdict"],
            why=plain(row.get("why") or ""),
            scale=scale,
            paths=changes.get(row["name"], ()),
            file=str(path),
            **{name: number_in(row.get(name)) for name in numbers},
        )
        findings.append(finding)
    return findings


def _changes(study: StudyResult) -> dict[str, tuple[tuple[str, str], ...]]:
    """The changed settings by the name of a comparison.

    An effect of factors has those of the arm that moves in its factors alone.
    """
    firsts = {factor["name"]: factor["levels"][0] for factor in study.get("factors", ())}
    settings = {}
    for arm in study["arms"]:
        cell = zip(firsts.items(), arm.get("levels", ()))
        moved = [f"{factor}: {level}" for (factor, first), level in cell if level != first]
        paths = ((plain(change["path"]), plain(change["after"])) for change in arm["changes"])
        settings[" x ".join(moved) or arm["name"]] = tuple(paths)
    return settings


def _scale_in_words(scale: Scale) -> str:
    """'1.46 M parameters, 400 steps, 1.64 M tokens of sotu'."""
    counted = ((scale.get("parameters"), "parameters"), (scale.get("steps"), "steps"))
    parts = [f"{_rounded(count)} {name}" for count, name in counted if count is not None]
    if (tokens := scale.get("train_tokens")) is not None:
        parts.append(
            f"{_rounded(tokens)} tokens" + (f" of {plain(scale['data'])}" if scale.get("data") else "")
        )
    return ", ".join(parts) or "unknown"


def _rounded(count: float) -> str:
    """A count in at most five characters and its unit."""
    for divisor, unit in ((1e9, " B"), (1e6, " M")):
        if count >= divisor:
            return f"{count / divisor:.3g}{unit}"
    return f"{count:,.0f}"


def novelty(figures: Sequence[Cited], terms: Sequence[str]) -> str:
    """In how many public entries something was tried, the best that came of it, and under which conditions.

    An entry is a source; what it tried is what its name says, or what its own settings switch on.
    """
    matches = matching(figures, terms)
    entries, sources = {row.source for row in matches}, {row.source for row in figures}
    query = " ".join(terms)
    if not entries:
        return f"{query}: tried in none of the {len(sources)} public entries that are known here"
    in_bits = [row for row in matches if "bits per byte" in row.metric]
    gains = [row for row in in_bits if row.effect is not None]
    scores = [row for row in in_bits if row.value is not None and "pre-quant" not in row.metric]
    parts = [f"{query}: tried in {len(entries)} of {len(sources)} public entries"]
    named = (row for row in gains if all(word.lower() in row.technique.lower() for word in terms))
    alone = [row for row in named if not any(joint in row.technique for joint in BUNDLED)]
    if gains:
        best = min(alone or gains, key=lambda row: row.effect or 0.0)
        parts.append(
            f"best {_signed(best.effect or 0.0)} bits per byte ({best.source}: {best.technique} against "
            f"{best.against or 'what it names'}; {best.conditions or 'conditions not stated'})"
            + ("" if alone else ", of all that this entry changes together")
        )
    else:
        parts.append("no entry states a difference")
    if scores:
        lowest = min(scores, key=lambda row: row.value or math.inf)
        parts.append(
            f"lowest score {_as_printed(lowest.value)} ({lowest.source}; "
            f"{lowest.conditions or 'conditions not stated'}), with whatever else it has"
        )
    return "; ".join(parts)


def matching(entries: Iterable[Entry], terms: Sequence[str]) -> list[Entry]:
    """Those in whose technique, study, settings or source each of the words occurs, in either case."""
    wanted = [word.lower() for word in terms]
    return [entry for entry in entries if all(word in _searched(entry) for word in wanted)]


def _searched(entry: Finding | Cited) -> str:
    texts = [entry.technique, entry.against]
    if isinstance(entry, Finding):
        texts += [entry.study, *(f"{path}={after}" for path, after in entry.paths)]
    else:
        texts += [entry.source, entry.author, entry.uses]
    return "\n".join(texts).lower()


def already_tested(study: "Study", findings: Iterable[Finding]) -> list[str]:
    """A sentence for each planned arm whose change was tested before, in another study, inside the noise.

    A change is the same if it leads to the same values, as people read them, at the same paths. Bits per byte
    are compared with bits per byte of any kind; other metrics with themselves alone.
    """
    null = [
        finding
        for finding in findings
        if finding.verdict in INSIDE_THE_NOISE
        and finding.study != study.name
        and finding.kind != INTERACTION
        and (finding.metric == study.metric or {finding.metric, study.metric} <= {*IN_BITS})
    ]
    planned = [(arm, _planned_change(study, arm)) for arm in study.arms]
    return [
        _in_a_sentence(arm, finding)
        for arm, change in planned
        for finding in null
        if change == {*finding.paths}
    ]


def tried_in_public(study: "Study", figures: Sequence[Cited]) -> list[str]:
    """The note of novelty on each technique that a planned arm brings in and public entries have tried."""
    recipes = study.recipes()
    notes: dict[str, str] = {}
    for arm in study.arms:
        for _, before, after in diff(recipes[arm.against], recipes[arm.name]):
            for kind in _kinds(after) - _kinds(before):
                if kind not in notes and matching(figures, [kind]):
                    notes[kind] = f"{arm.name}: {novelty(figures, [kind])}"
    return [*notes.values()]


def _kinds(value: Any) -> set[str]:
    """The classes of a changed setting."""
    return {
        type(each).__name__
        for each in (value if isinstance(value, tuple) else (value,))
        if isinstance(each, Plan)
    }


def _planned_change(study: "Study", arm: "Arm") -> set[tuple[str, str]]:
    recipes = study.recipes()
    changes = diff(recipes[arm.against], recipes[arm.name])
    return {(plain(path), plain(screen.number(after))) for path, _, after in changes}


def _in_a_sentence(arm: "Arm", finding: Finding) -> str:
    least = "unknown" if finding.detectable is None else f"{finding.detectable:.4g}"
    return (
        f"{arm.name}: tested in the study {finding.study} as {finding.technique!r} ({finding.scale}): "
        f"{finding.metric} {_effect_in_words(finding)}, n={finding.n}, {finding.verdict}; "
        f"the smallest difference that it could have shown is {least}"
    )


def _effect_in_words(finding: Finding) -> str:
    """'-0.0123 [-0.0200, -0.0046]'."""
    if finding.effect is None:
        return "-"
    interval = ", ".join("-" if end is None else _signed(end) for end in (finding.low, finding.high))
    return f"{_signed(finding.effect)} [{interval}]"


def _signed(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:+,.0f}"
    return f"{value:+.4f}" if abs(value) >= 0.001 or not value else f"{value:+.3g}"


def _as_printed(value: float | None, sign: str = "") -> str:
    """A cited figure to eight digits, more than anybody prints; '-' for none."""
    return "-" if value is None else f"{Decimal(f'{value:.8g}'):{sign},f}"


def _in_short(metric: str) -> str:
    return metric.replace("_", " ").replace("bits per byte", "bpb")


def measured_rows(findings: Sequence[Finding]) -> Rows:
    """Header and rows for `screen.table`."""
    header = ["technique", "study", "metric", "effect, [95%]", "n", "verdict", "scale"]
    return header, [
        (
            each.technique,
            each.study,
            _in_short(each.metric),
            _effect_in_words(each).replace(" ", "\n", 1),
            str(each.n),
            each.verdict,
            each.scale,
        )
        for each in findings
    ]


def cited_rows(figures: Sequence[Cited]) -> Rows:
    """Header and rows for `screen.table`."""
    header = ["technique", "cited from", "metric", "value", "effect", "their verdict", "conditions"]
    return header, [
        (
            f"{each.technique}, against {each.against}" if each.against else each.technique,
            each.source,
            _in_short(each.metric),
            _as_printed(each.value),
            _as_printed(each.effect, "+"),
            each.verdict,
            each.conditions,
        )
        for each in figures
    ]
