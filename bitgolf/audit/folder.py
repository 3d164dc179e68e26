"""A record folder as anybody made it: its files sorted by what they are, its claims read by type."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bitgolf.audit.bounded import start_of, text_at
from bitgolf.audit.finding import CANNOT_TELL, SUSPECTED, Finding
from bitgolf.audit.logs import Log, decoded, looks_like_log, read_log
from bitgolf.base.errors import BitgolfError, displayed
from bitgolf.inputs.typed import read_outside

MOST_FILES = 2000
MOST_SCRIPTS_BYTES = 2**21  # of all Python files, some seven times the most that is known
ENTRY = ("train_gpt.py", "train.py")
SEED_KEYS = ("seed_results", "seeds", "per_seed", "results", "seed_scores")
VARIABLE = re.compile(r"(?<![\w-])([A-Z][A-Z0-9_]+)=[\"']?([^\s\"'`]+)")
CLAIM = re.compile(r"(?i)(?<![a-z])bpb\W{0,9}\d\.\d{3}|\d\.\d{3,8}\W{0,3}(?:val_)?bpb\b")  # in words
LARGEST = 1e18
BITS_KEYS = ("val_bpb", "bpb", "score", "mean_bpb", "val_bpb_mean", "mean_val_bpb")


class Claims(NamedTuple):
    """What a submission.json says. seeds: the fields of each seed. Figures that are no numbers are absent."""

    path: Path
    fields: dict[str, Any]
    seeds: dict[int, dict[str, float]]

    @property
    def scores(self) -> list[float]:
        """The score of each seed that has one."""
        return [bits for each in self.seeds.values() if (bits := bits_of(each)) is not None]

    def number(self, *names: str) -> float | None:
        """The first of these keys that is a number."""
        return next((each for name in names if (each := figure(self.fields.get(name))) is not None), None)


class Record(NamedTuple):
    """A folder. entry: the script that runs; None where nothing tells. Sizes in bytes. outside: what of it
    cannot be looked at.
    """

    folder: Path
    files: dict[str, int]
    entry: Path | None
    scripts: list[Path]
    logs: list[Log]
    claims: Claims | None
    unreadable: list[str]
    readme: str
    outside: list[Finding]

    @property
    def bits(self) -> float | None:
        """The score on top of its submission.json."""
        return self.claims.number("val_bpb") if self.claims else None

    @property
    def reports(self) -> bool:
        """Whether any score is reported that could be wrong: an analysis may ship a script without one."""
        return self.bits is not None or not self.readme or any(log.scores for log in self.logs)

    @property
    def claimed(self) -> bool:
        """Whether a score is claimed: by the submission.json, or in words."""
        return self.bits is not None or CLAIM.search(self.readme) is not None

    def logs_of(self, seed: int) -> list[Log]:
        """The logs of a seed that have a score."""
        return [log for log in self.logs if log.seed == seed and log.scores]

    @property
    def settings(self) -> dict[str, str]:
        """The variables that every command of the README sets alike for the script that runs."""
        name = self.entry.name if self.entry else ENTRY[0]
        text = re.sub(r"\\\s*\n\s*", " ", self.readme)  # a backslash continues a line
        given = (line.rpartition(name)[0] for line in text.splitlines())
        runs = [each for line in given if (each := dict(VARIABLE.findall(line)))]
        shared = runs[0].items() if runs else ()
        return {key: value for key, value in shared if all(each.get(key) == value for each in runs)}

    @property
    def is_timed(self) -> bool:
        """Whether the time budgets hold: not in the tracks without them."""
        track = str(self.claims.fields.get("track", "")) if self.claims else ""
        description = f"{track} {self.folder.absolute()}".lower().replace("-", "_")
        return not re.search(r"non_?record|unlimited|notable", description)


def read_record(folder: Path) -> Record:
    """Sort a folder's files. Raises BitgolfError where there is too much to look at."""
    files, outside = files_in(folder)
    paths = {name: folder / name for name in files}
    scripts = [path for name, path in paths.items() if name.endswith(".py")]
    if sum(files[name] for name in files if name.endswith(".py")) > MOST_SCRIPTS_BYTES:
        raise BitgolfError(
            f"more than {MOST_SCRIPTS_BYTES:,} bytes of scripts", where=str(folder), way_out="name one script"
        )
    found = [
        path
        for name, path in paths.items()
        if name.endswith(".log") or name.endswith(".txt") and looks_like_log(decoded(start_of(path)))
    ]
    logs = [read_log(path, len(found)) for path in found]
    claims, unreadable = None, []
    for name in sorted(files, key=lambda name: (name.count("/"), name)):
        if claims is None and re.fullmatch(r"(?:.*/)?submission\w*\.json", name):
            try:
                claims = read_claims(paths[name])
            except BitgolfError as error:
                unreadable.append(str(error))
    readme = next((name for name in files if name.lower() == "readme.md"), "")
    text = text_at(paths[readme]) if readme else ""
    return Record(folder, files, entry_of(folder, scripts), scripts, logs, claims, unreadable, text, outside)


def files_in(folder: Path) -> tuple[dict[str, int], list[Finding]]:
    """Every file below a folder with its size, and K03 for what is none or cannot be read; no link is
    followed. Raises BitgolfError for a folder that cannot be read, and for too many files.
    """
    files: dict[str, int] = {}
    outside: list[Finding] = []

    def refuse(error: OSError) -> None:
        problem = f"cannot read: {error.strerror}"
        if Path(error.filename) == folder:
            raise BitgolfError(problem, where=str(folder))
        outside.append(Finding("K03", CANNOT_TELL, str(Path(error.filename).relative_to(folder)), problem))

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=False):
        folders[:] = sorted(each for each in folders if each not in (".git", "__pycache__"))
        for name in sorted(names):
            path = Path(parent) / name
            label = str(path.relative_to(folder))
            if path.is_symlink() or not path.is_file():
                outside.append(Finding("K03", SUSPECTED, label, "a link, or no plain file"))
                continue
            try:
                with path.open("rb"):
                    files[label] = path.stat().st_size
            except OSError as error:
                refuse(error)
            if len(files) > MOST_FILES:
                raise BitgolfError(
                    f"more than {MOST_FILES:,} files", where=str(folder), way_out="name one record"
                )
    return files, outside


def entry_of(folder: Path, scripts: list[Path]) -> Path | None:
    """The script that trains: by its usual name, else the only one that is called so."""
    for name in ENTRY:
        if (folder / name) in scripts:
            return folder / name
    near = [path for path in scripts if path.parent == folder and path.name.startswith("train")]
    near = near or [path for path in scripts if path.parent == folder]
    return near[0] if len(near) == 1 else max(near, key=lambda path: path.stat().st_size, default=None)


def read_claims(path: Path) -> Claims:
    """A submission.json in any of the public forms. Raises BitgolfError for one that is none."""
    fields = read_outside(path)
    if not isinstance(fields, dict):
        raise BitgolfError("is no object", where=str(path), value=displayed(fields))
    for name, value in fields.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and figure(value) is None:
            raise BitgolfError(f"`{name}` is no figure", where=str(path), value=value)
    return Claims(path, fields, dict(_seeds(fields)))


def _seeds(fields: dict[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    """The figures of each seed, wherever they stand."""
    by_seed: dict[int, dict[str, float]] = {}
    for key in SEED_KEYS:
        value = fields.get(key)
        rows = [*value.items()] if isinstance(value, dict) else []
        rows += [(None, row) for row in value] if isinstance(value, list) else []
        for name, row in rows:
            number = re.search(r"\d+", str(name)) if name is not None else None
            if isinstance(row, dict):
                own = row.get("seed")
                seed = own if isinstance(own, int) else int(number[0][:18]) if number else None
                figures = {name: each for name, value in row.items() if (each := figure(value)) is not None}
            elif number and isinstance(row, float) and figure(row) is not None:
                seed, figures = int(number[0][:18]), {"val_bpb": row}
            elif isinstance(row, int) and not isinstance(row, bool) and name is None:
                seed, figures = row, {}
            else:
                continue
            if seed is not None:
                by_seed[seed] = by_seed.get(seed, {}) | figures
    yield from by_seed.items()


def figure(value: object) -> float | None:
    """A number that anything can be computed with; None for NaN, what is endless, and what is no number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < LARGEST else None


def bits_of(figures: dict[str, float]) -> float | None:
    """The score among a seed's figures."""
    return next((figures[key] for key in BITS_KEYS if key in figures), None)
