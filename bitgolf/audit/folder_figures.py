"""Figures of a folder against each other: claims, means, README and its table against the logs."""

import re
import statistics
from collections.abc import Iterable, Iterator

from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding
from bitgolf.audit.folder import Claims, Record, bits_of
from bitgolf.audit.logs import Log

UNIT = 5e-5  # of the four decimals that scores are compared by
OPENING = 8  # lines of a README that say what it reports
DECIMALS = re.compile(r"(?<![\w.])\d\.\d{3,}(?![\w.%])")


def near(value: float, other: float, decimals: int) -> bool:
    """Whether one is the other, as rounded to so many decimals."""
    return abs(value - other) <= 0.51 * 10.0**-decimals


def stated(value: float, figures: Iterable[float]) -> bool:
    """Whether a figure, with the decimals that it is given with, is one of these."""
    return any(near(value, each, min(decimals_of(value), 8)) for each in figures)


def decimals_of(value: float) -> int:
    """How many decimals a figure is given with."""
    return len(f"{value:.10f}".rstrip("0").partition(".")[2])


def stands_in(bits: float, logs: list[Log]) -> bool:
    """Whether a score stands in a log in some form that is not known here."""
    decimals = min(decimals_of(bits), 6)
    spellings = {f"{bits:.{decimals}f}", f"{bits:.8f}"[: 2 + decimals]}
    return decimals >= 4 and any(word in line for log in logs for _, line in log.lines for word in spellings)


def scores_in(logs: Iterable[Log]) -> list[float]:
    """Every score in some logs."""
    return [score.bits for log in logs for score in log.scores]


def seeds_and_logs(record: Record, claims: Claims) -> Iterator[Finding]:
    """K11, K13: figures of a seed that its log does not have."""
    unnamed = sum(bool(log.scores) for log in record.logs) >= len(claims.seeds)
    for seed, figures in claims.seeds.items():
        logs, where, bits = record.logs_of(seed), f"{claims.path.name}: seed {seed}", bits_of(figures)
        if not logs:
            own = [log for log in record.logs if log.seed == seed]
            if record.logs and unnamed:
                yield Finding("K13", CANNOT_TELL, where, "no log says that it is of this seed")
            elif record.logs and (bits is None or not stands_in(bits, own)):
                yield Finding("K13", SUSPECTED, where, "no log of this seed")
            continue
        logged = scores_in(logs)
        if bits is not None and not stated(bits, logged) and not stands_in(bits, logs):
            close = min(logged, key=lambda each: abs(each - bits))
            those = f"a score of {', '.join(log.path.name for log in logs)}; nearest {close:g}"
            broken = all(log.final and log.final.step is not None for log in logs)
            code = "K13" if broken else "K11"  # it breaks off while training
            yield Finding(code, FOUND, where, f"{bits:g} bits per byte", those)
        steps = figures.get("steps", figures.get("train_steps"))
        ends = [(end.step, 0 if end.step == end.of else log.interval) for log in logs if (end := log.end)]
        if steps is not None and ends and not any(-1 <= steps - end <= max(1, every) for end, every in ends):
            yield Finding("K11", FOUND, where, f"{steps:g} steps", f"{ends[0][0]} in the log", minor=True)


def headline(record: Record, claims: Claims) -> Iterator[Finding]:
    """K11, K14: the score on top against the logs and the seeds."""
    bits, logs = record.bits, [log for log in record.logs if log.scores]
    if bits is None:
        yield Finding("K11", CANNOT_TELL, claims.path.name, "no val_bpb that is a number")
        return
    if not logs:
        return
    # Rounded figures may have been averaged, so a mean may be off by a unit of what was averaged.
    where, fits, seeds = f"{claims.path.name}: val_bpb", scores_in(logs) + _means(logs, claims), claims.scores
    decimals = min(decimals_of(bits), 8)
    of_rounded = decimals > 5 and any(abs(bits - each) <= 10.0**-decimals for each in fits)
    if stated(bits, fits) or of_rounded:
        if len(seeds) > 2 and stated(bits, [min(seeds)]) and not stated(bits, [statistics.mean(seeds)]):
            message = f"{bits:g}, the best of {len(seeds)} seeds"
            those = f"their mean, {statistics.mean(seeds):.6f}"
            yield Finding("K14", FOUND, where, message, those)
    elif not stands_in(bits, logs):
        finals = [log.final.bits for log in logs if log.final]
        ends = ", ".join(f"{each:g}" for each in finals[:5])
        those = f"a score of the logs, or a mean: they end with {ends}, mean {statistics.mean(finals):.6f}"
        sure = FOUND if all(map(record.logs_of, claims.seeds)) else SUSPECTED
        minor = min(abs(bits - each) for each in fits) < UNIT
        yield Finding("K11", sure, where, f"{bits:.8g}", those, minor=minor)


def _means(logs: list[Log], claims: Claims) -> list[float]:
    """Every mean that a headline may honestly be: of one kind of score, over all logs or the seeds' own."""
    means: list[float] = []
    for each in (logs, [log for log in logs if log.seed in claims.seeds]):
        for tag in {score.tag for log in each for score in log.scores if score.step is None}:
            tagged = [(log, [score.bits for score in log.scores if score.tag == tag]) for log in each]
            rows = [(log.seed, bits[-1]) for log, bits in tagged if bits]
            values = [bits for _, bits in rows]
            if len(values) > 1:
                sets = [values, [round(value, 4) for value in values], [*dict(rows).values()]]
                sets += [values[:i] + values[i + 1 :] for i in range(len(values)) if len(values) > 3]
                means += map(statistics.mean, sets)
    seeds = claims.scores
    if seeds and all(stated(value, scores_in(logs)) for value in seeds):
        means.append(statistics.mean(seeds))
    return means


def means(claims: Claims) -> Iterator[Finding]:
    """K11: a mean or deviation that is not that of the seeds beside it."""
    rows = claims.scores
    if len(rows) < 2:
        return
    least, mean = min(map(decimals_of, rows)), statistics.mean(rows)
    spreads = [statistics.stdev(rows), statistics.pstdev(rows)]
    for key in ("val_bpb", "mean_bpb", "val_bpb_mean", "mean_val_bpb", "val_bpb_std", "std_bpb"):
        if (claimed := claims.number(key)) is None:
            continue
        if "std" in key:
            off = min(abs(claimed - each) for each in spreads)
            minor = abs(claimed - spreads[0]) < 0.2 * spreads[0]
            unit = max(10.0 ** -min(decimals_of(claimed), 8), 2 * 10.0**-least)
            message, those = f"{claimed:g}", f"{spreads[0]:.8f} over its {len(rows)} seeds"
        else:
            off = min(abs(claimed - each) for each in (mean, *(rows if key == "val_bpb" else ())))
            unit, minor = 10.0 ** -min(decimals_of(claimed), least), off < UNIT
            message, those = f"{claimed:.8g}", f"{mean:.8f}, the mean of its {len(rows)} seeds"
        if off > unit:
            yield Finding("K11", FOUND, f"{claims.path.name}: {key}", message, those, minor=minor)


def readme_figures(record: Record) -> Iterator[Finding]:
    """K11: the score that a README opens with against the claims; rows of its table against the logs."""
    if not record.readme:
        yield Finding("K11", CANNOT_TELL, record.folder.name, "no README.md")
        return
    opening = "\n".join(record.readme.splitlines()[:OPENING])
    match = re.search(r"val_bpb\W{0,6}(\d\.\d{3,8})", opening)
    if record.claims and (bits := record.bits) is not None and match:
        value, decimals = float(match[1]), len(match[1]) - 2
        logged = [bits, *scores_in(record.logs)]
        logged += [each for figures in record.claims.seeds.values() for each in figures.values()]
        if not any(abs(value - each) <= 1.01 * 10.0**-decimals for each in logged):
            where = f"README.md:{opening[: match.start()].count(chr(10)) + 1}"
            those, minor = f"{bits:g}, as submission.json has it", abs(value - bits) < 0.01
            yield Finding("K11", SUSPECTED, where, f"val_bpb {match[1]}", those, minor=minor)
    yield from table_rows(record)


def table_rows(record: Record) -> Iterator[Finding]:
    """K11: rows of a table that begin with a seed, whose figures stand in no log."""
    logged = {*scores_in(record.logs)}
    header: list[str] = []
    for number, line in enumerate(record.readme.splitlines(), 1):
        cells = [cell.strip(" *`_") for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|"):
            header = []
            continue
        header = header or [cell.lower() for cell in cells]
        logs = record.logs_of(int(cells[0][:18])) if cells[0].isdigit() else []
        if not logs or not any("seed" in column for column in header):
            continue
        for column, cell in zip(header, cells):
            is_score = "bpb" in column and "gain" not in column and "delta" not in column
            if not is_score or not DECIMALS.fullmatch(cell) or not 0.5 < float(cell) < 4:
                continue
            if not any(near(float(cell), each, len(cell) - 2) for each in logged):
                message = f"{column} {cell} of seed {cells[0]}"
                those = f"a score of {', '.join(log.path.name for log in logs)}"
                yield Finding("K11", SUSPECTED, f"README.md:{number}", message, those, minor=True)


def seeds_tried(record: Record) -> Iterator[Finding]:
    """K14: a README that tells of more seeds, of which the best are reported."""
    reported = max(len(record.claims.seeds) if record.claims else 0, len({log.seed for log in record.logs}))
    text = re.sub(r"```.*?```", lambda code: "\n" * code[0].count("\n"), record.readme, flags=re.DOTALL)
    sentences = [each for each in re.split(r"(?<=[.!?;])\s+|\n\s*\n", text) if each]
    for said, more in zip(sentences, [*sentences[1:], ""]):
        words = f"{said} {more}".lower()
        counts = [number_of(each["count"] or each["last"]) for each in SEEDS.finditer(words)]
        picked = "seed" in words and CHOSEN.search(words) and not NEVER.search(words)
        if picked and max(counts, default=0) > max(reported, 1):
            where = f"README.md:{text[: text.index(said)].count(chr(10)) + 1}"
            message = " ".join(f"{said} {more}".split())[:120]
            yield Finding("K14", SUSPECTED, where, message, "all seeds that were run, or their mean")
            return


NUMBERS = dict(zip("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13)))
NUMBERS |= {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "hundred": 100, "dozen": 12}
NUMBERS |= {"dozens": 24, "hundreds": 200, "many": 99}
A_NUMBER = rf"\d+|{'|'.join(NUMBERS)}"
CHOSEN = re.compile(
    r"\b(?:best|top|lowest|luckiest|lucky|picked|chose|chosen|selected|kept|winning|winners?)\b"
)
NEVER = re.compile(r"\b(?:not|no|never|without|learning rates?|configurations?|fixed before\w*|before)\b")
SEEDS = re.compile(
    rf"\b(?P<count>{A_NUMBER})(?: \w+)? ?(?:random )?(?:seeds?|runs|tries|attempts|that i ran|tried)\b"
    rf"|\bseeds? (?:0|1) ?(?:to|-|\u2013|through) ?(?P<last>\d+)"
)


def number_of(word: str) -> int:
    """A number in digits or in a word."""
    return int(word[:6]) if word.isdigit() else NUMBERS[word]
