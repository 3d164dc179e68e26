"""Figures of a folder against each other: claims, means, README and its table against the logs."""

import re
import statistics
from collections.abc import Iterator

from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding
from bitgolf.audit.folder import Claims, Record, bits_of
from bitgolf.audit.logs import Log

UNIT = 5e-5  # of the four decimals that scores are compared by
OPENING = 8  # lines of a README that say what it reports


DECIMALS = re.compile(r"(?<![\w.])\d\.\d{3,}(?![\w.%])")


def near(value: float, other: float, decimals: int) -> bool:
    """Whether one is the other, as rounded to so many decimals."""
    return abs(value - other) <= 0.51 * 10.0**-decimals


def decimals_of(value: float) -> int:
    """How many decimals a figure is given with."""
    return len(f"{value:.10f}".rstrip("0").partition(".")[2])


def stands_in(bits: float, logs: list[Log]) -> bool:
    """Whether a score stands in a log in some form that is not known here."""
    decimals = min(decimals_of(bits), 6)
    words = {f"{bits:.{decimals}f}", f"{bits:.8f}"[: 2 + decimals]}
    return decimals >= 4 and any(word in line for log in logs for _, line in log.lines for word in words)


def log_of(record: Record, seed: int) -> list[Log]:
    """The logs of a seed."""
    return [log for log in record.logs if log.seed == seed and log.scores]


def seeds_and_logs(record: Record, claims: Claims) -> Iterator[Finding]:
    """K11, K13: figures of a seed that its log does not have."""
    for seed, figures in claims.seeds.items():
        logs = log_of(record, seed)
        where = f"{claims.path.name}: seed {seed}"
        if not logs:
            if record.logs:
                anywhere = [log for log in record.logs if log.scores]
                if len(anywhere) < len(claims.seeds):
                    yield Finding("K13", SUSPECTED, where, "no log of this seed")
                else:
                    yield Finding("K13", CANNOT_TELL, where, "no log says that it is of this seed")
            continue
        bits = bits_of(figures)
        said = [score.bits for log in logs for score in log.scores]
        fits = bits is None or any(near(bits, each, min(decimals_of(bits), 8)) for each in said)
        if bits is not None and not fits and not stands_in(bits, logs):
            close = min(said, key=lambda each: abs(each - bits))
            yield Finding(
                "K11",
                FOUND,
                where,
                f"{bits:g} bits per byte",
                f"a score of {', '.join(log.path.name for log in logs)}; nearest {close:g}",
            )
        steps = figures.get("steps", figures.get("train_steps"))
        ends = [log.end.step for log in logs if log.end]
        if steps is not None and ends and not any(abs(steps - end) <= 1 for end in ends):
            yield Finding("K11", FOUND, where, f"{steps:g} steps", f"{ends[0]} in the log", minor=True)


def headline(record: Record, claims: Claims) -> Iterator[Finding]:
    """K11, K14: the score on top against the logs and the seeds."""
    bits = claims.number("val_bpb")
    by_log = [log for log in record.logs if log.scores]
    if bits is None:
        yield Finding("K11", CANNOT_TELL, claims.path.name, "no val_bpb that is a number")
        return
    if not by_log:
        return
    decimals = min(decimals_of(bits), 8)
    single = [score.bits for log in by_log for score in log.scores]
    # Rounded figures may have been averaged, so a mean may be off by a unit of what was averaged.
    if any(near(bits, each, decimals) for each in single + _means(by_log, claims)):
        seeds = [value for figures in claims.seeds.values() if (value := bits_of(figures)) is not None]
        if (
            len(seeds) > 2
            and near(bits, min(seeds), decimals)
            and not near(bits, statistics.mean(seeds), decimals)
        ):
            yield Finding(
                "K14",
                FOUND,
                f"{claims.path.name}: val_bpb",
                f"{bits:g}, the best of {len(seeds)} seeds",
                f"their mean, {statistics.mean(seeds):.6f}",
            )
        return
    if stands_in(bits, by_log):
        return
    finals = [log.final.bits for log in by_log if log.final]
    unlogged = any(not log_of(record, seed) for seed in claims.seeds)
    yield Finding(
        "K11",
        SUSPECTED if unlogged else FOUND,
        f"{claims.path.name}: val_bpb",
        f"{bits:.8g}",
        f"a score of the logs, or a mean: they end with {', '.join(f'{each:g}' for each in finals[:5])}, "
        f"mean {statistics.mean(finals):.6f}",
        minor=min(abs(bits - each) for each in single + _means(by_log, claims)) < UNIT,
    )


def _means(logs: list[Log], claims: Claims) -> list[float]:
    """Every mean that a headline may honestly be: of one kind of score, over all logs or the seeds' own."""
    sets = [logs, [log for log in logs if log.seed in claims.seeds]]
    found = []
    for each in sets:
        tags = {score.tag for log in each for score in log.scores if score.step is None}
        for tag in tags:
            rows = [[score.bits for score in log.scores if score.tag == tag] for log in each]
            values = [row[-1] for row in rows if row]
            if len(values) > 1:
                found.append(statistics.mean(values))
                found.append(statistics.mean(round(value, 4) for value in values))
                unique = {log.seed: row[-1] for log, row in zip(each, rows) if row}
                found.append(statistics.mean(unique.values()))
                found += [
                    statistics.mean(value for j, value in enumerate(values) if j != i)
                    for i in range(len(values))
                    if len(values) > 3
                ]
    seeds = [value for figures in claims.seeds.values() if (value := bits_of(figures)) is not None]
    return found + (
        [statistics.mean(seeds)] if seeds and all(_in_logs(value, logs) for value in seeds) else []
    )


def _in_logs(bits: float, logs: list[Log]) -> bool:
    decimals = min(decimals_of(bits), 8)
    return any(near(bits, score.bits, decimals) for log in logs for score in log.scores)


def means(claims: Claims) -> Iterator[Finding]:
    """K11: a mean or deviation that is not that of the seeds beside it."""
    rows = [value for figures in claims.seeds.values() if (value := bits_of(figures)) is not None]
    if len(rows) < 2:
        return
    least = min(decimals_of(value) for value in rows)
    for key in ("val_bpb", "mean_bpb", "val_bpb_mean", "mean_val_bpb"):
        said = claims.number(key)
        if said is None:
            continue
        decimals = min(decimals_of(said), least)
        fits = [statistics.mean(rows), *(rows if key == "val_bpb" else ())]
        if not any(abs(said - each) <= 10.0**-decimals for each in fits):
            yield Finding(
                "K11",
                FOUND,
                f"{claims.path.name}: {key}",
                f"{said:.8g}",
                f"{statistics.mean(rows):.8f}, the mean of its {len(rows)} seeds",
                minor=min(abs(said - each) for each in fits) < UNIT,
            )
    for key in ("val_bpb_std", "std_bpb"):
        said = claims.number(key)
        if said is None:
            continue
        fits = [statistics.stdev(rows), statistics.pstdev(rows)]
        unit = max(10.0 ** -min(decimals_of(said), 8), 2 * 10.0**-least)
        if not any(abs(said - each) <= unit for each in fits):
            yield Finding(
                "K11",
                FOUND,
                f"{claims.path.name}: {key}",
                f"{said:g}",
                f"{fits[0]:.8f} over its {len(rows)} seeds",
                minor=abs(said - fits[0]) < 0.2 * fits[0],
            )


def readme_figures(record: Record) -> Iterator[Finding]:
    """K11: the score that a README opens with against the claims; rows of its table against the logs."""
    claims = record.claims
    if not record.readme:
        yield Finding("K11", CANNOT_TELL, record.folder.name, "no README.md")
        return
    bits = claims.number("val_bpb") if claims else None
    opening = "\n".join(record.readme.splitlines()[:OPENING])
    said = re.search(r"val_bpb\W{0,6}(\d\.\d{3,8})", opening)
    if bits is not None and said:
        value, decimals = float(said[1]), len(said[1]) - 2
        known = [bits, *(score.bits for log in record.logs for score in log.scores)]
        known += [value for figures in claims.seeds.values() for value in figures.values()] if claims else []
        if not any(abs(value - each) <= 1.01 * 10.0**-decimals for each in known):
            line = opening[: said.start()].count("\n") + 1
            yield Finding(
                "K11",
                SUSPECTED,
                f"README.md:{line}",
                f"val_bpb {said[1]}",
                f"{bits:g}, as submission.json has it",
                minor=abs(value - bits) < 0.01,
            )
    yield from table_rows(record)


def table_rows(record: Record) -> Iterator[Finding]:
    """K11: rows of a table that begin with a seed, whose figures stand in no log."""
    lines = record.readme.splitlines()
    known = {f"{score.bits:.8f}": score.bits for log in record.logs for score in log.scores}.values()
    header = ""
    for number, line in enumerate(lines, 1):
        cells = [cell.strip(" *`_") for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|"):
            header = ""
            continue
        header = header or line
        if "seed" not in header.lower() or not cells[0].isdigit():
            continue
        logs = log_of(record, int(cells[0][:18]))
        columns = [cell.strip(" *`_").lower() for cell in header.strip().strip("|").split("|")]
        for column, cell in zip(columns, cells):
            if not logs or "bpb" not in column or "gain" in column or "delta" in column:
                continue
            if found := DECIMALS.fullmatch(cell):
                value, decimals = float(found[0]), len(cell) - 2
                if 0.5 < value < 4 and not any(near(value, each, decimals) for each in known):
                    yield Finding(
                        "K11",
                        SUSPECTED,
                        f"README.md:{number}",
                        f"{column} {cell} of seed {cells[0]}",
                        f"a score of {', '.join(log.path.name for log in logs)}",
                        minor=True,
                    )
