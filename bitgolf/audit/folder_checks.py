"""What does not fit together in a folder: claims, logs, README, script and files against each other."""

import ast
import hashlib
import re
import statistics
from collections.abc import Iterator

from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding
from bitgolf.audit.folder import ARTIFACTS, MOST_TEXT_BYTES, Claims, Record, bits_of
from bitgolf.audit.logs import Log
from bitgolf.audit.rules import Rules, known_script
from bitgolf.audit.script_checks import Script
from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import sha256_of
from bitgolf.inputs.typed import read_outside

# Lines of a log that say something of its machine or its name, not of its settings.
OF_THE_RUN = re.compile(
    r"seed|run_id|log|path|dir|rank|time|date|device|artifact|file|host|port|pid|uuid|name|peak|memory|gpu|"
    r"driver|python|torch|cuda|wandb|world|^PR$",
    re.IGNORECASE,
)
ITS_SEED = re.compile(r"\bseed ?[:=] ?\d+")  # may stand behind another setting
OPENING = 8  # lines of a README that say what it reports
DECIMALS = re.compile(r"(?<![\w.])\d\.\d{3,}(?![\w.%])")


def check_folder(record: Record, script: Script | None, rules: Rules) -> Iterator[Finding]:
    """All findings of a folder as a whole; its logs and scripts are checked by themselves besides."""
    yield from missing(record, rules)
    if record.claims:
        yield from seeds_and_logs(record, record.claims)
        yield from headline(record, record.claims)
        yield from means(record.claims)
        yield from claimed_sizes(record, record.claims, rules)
    yield from shipped_sizes(record, script, rules)
    yield from manifest(record)
    yield from copies(record)
    yield from configurations(record)
    yield from throttled(record)
    yield from readme_figures(record)
    yield from script_of_log(record, script)


def missing(record: Record, rules: Rules) -> Iterator[Finding]:
    """K13, K11: parts that are not there or cannot be read."""
    for said in record.unreadable:
        yield Finding("K11", FOUND, record.folder.name, said, "a submission.json that can be read")
    if record.claims is None and not record.unreadable:
        yield Finding("K11", CANNOT_TELL, record.folder.name, "no submission.json")
    if not record.logs:
        sure = FOUND if record.claims and record.claims.number("val_bpb") is not None else CANNOT_TELL
        yield Finding("K13", sure, record.folder.name, "no log", "a log of every run that is reported")
    if record.entry is None:
        yield Finding("K03", CANNOT_TELL, record.folder.name, "no script")
    elif record.entry.stat().st_size == 0:
        yield Finding("K03", FOUND, record.entry.name, "the script is empty", "the script that ran")
    for link in record.outside:
        yield Finding("K03", SUSPECTED, link, "a link, or no plain file", "files that are in the folder")


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
                    yield Finding("K13", FOUND, where, "no log of this seed", "a log of every seed", "add it")
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
                "take figures from the log of the run",
            )
        steps = figures.get("steps", figures.get("train_steps"))
        ends = [log.end.step for log in logs if log.end]
        if steps is not None and ends and not any(abs(steps - end) <= 1 for end in ends):
            yield Finding("K11", FOUND, where, f"{steps:g} steps", f"{ends[0]} in the log", slip=True)


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
                "report the mean, and every seed beside it",
            )
        return
    if stands_in(bits, by_log):
        return
    finals = [log.final.bits for log in by_log if log.final]
    yield Finding(
        "K11",
        FOUND,
        f"{claims.path.name}: val_bpb",
        f"{bits:g}",
        f"a score of the logs, or a mean: they end with {', '.join(f'{each:g}' for each in finals[:5])}, "
        f"mean {statistics.mean(finals):.6f}",
        "compute it from the logs again",
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
                f"{said:g}",
                f"{statistics.mean(rows):.8f}, the mean of its {len(rows)} seeds",
                "compute it again",
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
                "compute it again",
                slip=abs(said - fits[0]) < 0.2 * fits[0],
            )


def claimed_sizes(record: Record, claims: Claims, rules: Rules) -> Iterator[Finding]:
    """K01, K02, K05, K11: sizes that are claimed against the budget and the logs."""
    total = claims.number(
        "bytes_total", "total_bytes", "artifact_bytes_max", "artifact_bytes", "artifact_size_bytes"
    )
    if total is None:
        yield Finding("K01", CANNOT_TELL, claims.path.name, "no size in bytes under a usual key")
        return
    if total != int(total) or total < 1000:
        yield Finding(
            "K02",
            SUSPECTED,
            f"{claims.path.name}: bytes_total",
            f"{total:g}",
            "bytes, a whole number",
            "no MB",
        )
        return
    if total > rules.budget_bytes:
        yield Finding(
            "K02" if total <= 16 * 2**20 and rules.budget_bytes == 16_000_000 else "K01",
            FOUND,
            f"{claims.path.name}: bytes_total",
            f"{total:,.0f} bytes",
            f"at most {rules.budget_bytes:,} decimal bytes; 16 MiB would be 16,777,216",
            f"take {total - rules.budget_bytes:,.0f} bytes off",
        )
    logs = [log for log in record.logs if log.seed in claims.seeds] or record.logs
    sizes = [size.bytes for log in logs for size in log.sizes_of("total")]
    last = [log.sizes_of("total")[-1].bytes for log in logs if log.sizes_of("total")]
    if not sizes or total in sizes:
        if last and total < max(last) and len(last) > 2 and len(set(last)) > 1:
            yield Finding(
                "K05",
                SUSPECTED,
                f"{claims.path.name}: bytes_total",
                f"{total:,.0f} bytes",
                f"{max(last):,}, the largest over the seeds",
                "report the largest",
                slip=max(last) <= rules.budget_bytes,
            )
        return
    mean = statistics.mean(last) if last else total
    code = [size.bytes for log in logs for size in log.sizes_of("code")]
    models = [size.bytes for log in logs for size in log.sizes_of("model")]
    shipped = [record.entry.stat().st_size] if record.entry else []
    sums = [a + b for a in models for b in (*code, *shipped)]
    if abs(total - mean) > 1 and total not in sums and total not in models:
        yield Finding(
            "K11",
            SUSPECTED,
            f"{claims.path.name}: bytes_total",
            f"{total:,.0f} bytes",
            f"a size of the logs: {', '.join(f'{each:,}' for each in sorted(set(last)))}",
            "count what ships: model and script",
            slip=max(last) <= rules.budget_bytes,
        )


def shipped_sizes(record: Record, script: Script | None, rules: Rules) -> Iterator[Finding]:
    """K01, K03: what lies in the folder, and what the script reads of it."""
    if record.entry is None or script is None:
        return
    entry = record.entry
    helpers = closure(record, script)
    size = entry.stat().st_size
    more = {path: (record.folder / path).stat().st_size for path in helpers}
    for layer in script.layers:
        for line, name in layer.files:
            yield Finding(
                "K03",
                FOUND,
                f"{layer.name}:{line}",
                f"the code is in {name}, of {more.get(name, 0):,} bytes; the script has {size:,}",
                "one file, and its bytes counted",
                "ship the script that runs, packed if it must be small",
            )
    imported = sorted(
        name for name in helpers if name not in {each for layer in script.layers for _, each in layer.files}
    )
    if imported:
        yield Finding(
            "K03",
            SUSPECTED,
            entry.name,
            f"imports {', '.join(imported)}: {sum(more[name] for name in imported):,} bytes more",
            "all code that runs is counted",
            "put it into the script",
        )
    models = [size for name, size in record.files.items() if name.endswith(ARTIFACTS[:3]) and "/" not in name]
    models = [each for each in models if each > 10_000]
    whole = size + sum(more.values())
    packed = [size.bytes for log in record.logs for size in log.sizes_of("model")]
    claimed = record.claims and record.claims.number("bytes_code", "code_bytes")
    if len(models) == 1 and models[0] + whole > rules.budget_bytes:
        yield Finding(
            "K01",
            FOUND,
            record.folder.name,
            f"{models[0] + whole:,} bytes: model {models[0]:,}, code {whole:,}",
            f"at most {rules.budget_bytes:,}",
            "count the files that ship",
        )
    elif packed and max(packed) + whole > rules.budget_bytes and max(packed) <= rules.budget_bytes:
        yield Finding(
            "K03",
            SUSPECTED,
            entry.name,
            f"{max(packed) + whole:,} bytes with the script as it is: model {max(packed):,}, code {whole:,}",
            f"at most {rules.budget_bytes:,}",
            "ship the packed script whose bytes were counted",
            slip=not rules.disputed_counts and whole < 200_000 + sum(more.values()),
        )
    if (
        claimed
        and claimed != size
        and claimed not in [s.bytes for log in record.logs for s in log.sizes_of("code")]
    ):
        yield Finding(
            "K11",
            SUSPECTED,
            f"{record.claims.path.name}: bytes_code" if record.claims else entry.name,
            f"{claimed:,.0f} bytes of code",
            f"{size:,}, the size of {entry.name}",
            "count the file that ships",
            slip=True,
        )


def closure(record: Record, script: Script) -> list[str]:
    """The files of the folder whose code the script runs: by import, by exec, and theirs."""
    found: list[str] = []
    waiting = [layer.tree for layer in script.layers]
    names = [name for layer in script.layers for _, name in layer.files]
    while waiting or names:
        if names:
            name = names.pop()
            path = record.folder / name
            if name in found or name not in record.files or not name.endswith(".py") or path == record.entry:
                continue
            found.append(name)
            try:
                waiting.append(ast.parse(path.read_bytes()))
            except (SyntaxError, ValueError, RecursionError):
                continue
            continue
        names += [f"{module.replace('.', '/')}.py" for module in imported(waiting.pop())]
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def manifest(record: Record) -> Iterator[Finding]:
    """K11: files that are not as a manifest.json, as `bitgolf submit` writes it, says of them."""
    path = record.folder / "manifest.json"
    if path.name not in record.files:
        return
    try:
        listed = read_outside(path)
    except BitgolfError as error:
        yield Finding("K11", SUSPECTED, path.name, str(error), "a manifest that can be read")
        return
    for name, facts in listed.items() if isinstance(listed, dict) else ():
        expected = facts.get("sha256") if isinstance(facts, dict) else None
        if not isinstance(expected, str):
            continue  # another form than ours
        found = sha256_of(record.folder / name) if name in record.files else "no such file"
        if found != expected:
            yield Finding(
                "K11",
                FOUND,
                name,
                found[:16],
                f"SHA-256 {expected[:16]}, as {path.name} says",
                "ship the files as they were written",
            )


def copies(record: Record) -> Iterator[Finding]:
    """K11: two seeds with one log."""
    curves: dict[tuple[float, ...], Log] = {}
    for log in record.logs:
        curve = tuple(step.nats for step in log.steps if step.nats is not None)
        curve += tuple(score.bits for score in log.scores)
        if len(curve) < 5:
            continue
        other = curves.setdefault(curve, log)
        if (
            other is log
            or _named_seed(log) == _named_seed(other)
            or None in (_named_seed(log), _named_seed(other))
        ):
            continue
        yield Finding(
            "K11",
            FOUND,
            f"{log.path.name}, {other.path.name}",
            f"{len(curve)} losses and scores are equal to the last digit",
            "another seed trains otherwise",
            "run the seed, or say that it is the same run",
        )


def _named_seed(log: Log) -> int | None:
    found = re.search(r"seed[-_ ]?(\d+)", log.path.stem, re.IGNORECASE)
    return int(found[1][:18]) if found else None


def configurations(record: Record) -> Iterator[Finding]:
    """K11: seeds that were run under different settings."""
    seeds = record.claims.seeds if record.claims else {}
    chosen: dict[int, Log] = {}
    for log in record.logs:
        if log.seed is not None and log.end and (not seeds or log.seed in seeds):
            chosen.setdefault(log.seed, log)
            bits = bits_of(seeds.get(log.seed, {}))
            if bits is not None and log.final and near(bits, log.final.bits, min(decimals_of(bits), 8)):
                chosen[log.seed] = log
    logs = [*chosen.values()]
    if len(logs) < 2:
        return
    first = logs[0]
    for other in logs[1:]:
        differing = [
            (name, first.settings[name], other.settings[name])
            for name in first.settings.keys() & other.settings.keys()
            if not OF_THE_RUN.search(name)
            and ITS_SEED.sub("", first.settings[name][1]) != ITS_SEED.sub("", other.settings[name][1])
        ]
        for name, (_, left), (line, right) in sorted(differing)[:5]:
            yield Finding(
                "K11",
                FOUND,
                f"{other.path.name}:{line}",
                f"{name} is {right[:80]}",
                f"{left[:80]}, as in {first.path.name}: one configuration over all seeds",
                "run every seed with the same settings",
            )


def throttled(record: Record) -> Iterator[Finding]:
    """K12."""
    seeds = record.claims.seeds if record.claims else {}
    ends = [(log, log.end) for log in record.logs if log.end and log.seed is not None and log.seed in seeds]
    speeds = [(log, 1000 * (end.seconds or 0) / end.step, end.line) for log, end in ends if end]
    if len(speeds) < 3:
        return
    middle = statistics.median(speed for _, speed, _ in speeds)
    for log, speed, line in speeds:
        if speed > 1.15 * middle:
            yield Finding(
                "K12",
                FOUND,
                f"{log.path.name}:{line}",
                f"{speed:.1f} ms a step",
                f"some {middle:.1f} ms, as the other seeds",
                "run it again on a machine as fast, or say so",
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
                FOUND if record.logs else SUSPECTED,
                f"README.md:{line}",
                f"val_bpb {said[1]}",
                f"{bits:g}, as submission.json has it",
                "take both from the logs",
                slip=abs(value - bits) < 0.01,
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
                        "take figures from the logs",
                        slip=True,
                    )


def script_of_log(record: Record, script: Script | None) -> Iterator[Finding]:
    """K11: a known script, one that is not the source in a log, or one that cannot print a log's lines."""
    if record.entry is None or script is None:
        return
    entry = record.entry
    known = known_script(sha256_of(entry))
    text = "\n".join(layer.text for layer in script.layers)
    text += "\n".join(
        path.read_bytes()[:MOST_TEXT_BYTES].decode("utf-8", "replace") for path in record.scripts
    )
    others: list[str] = []
    runs = hashlib.sha256(script.inner.text.strip().encode()).hexdigest()
    for log in record.logs:
        final = log.final
        if final is None or final.step is not None:
            continue
        own = hashlib.sha256(log.source.strip().encode()).hexdigest()
        if log.source and own != runs and not _same_program(log.source, script):
            others.append(log.path.name)
            continue
        word = final.tag.split(" ")[0].split(":")[0]
        if not log.source and len(word) > 3 and not can_print(script, final.tag) and word not in text:
            yield Finding(
                "K11",
                FOUND,
                f"{log.path.name}:{final.line}",
                f"`{final.tag}` is no line that {entry.name} can print",
                "a log of this script",
                "ship the script that ran",
            )
    if others:
        yield Finding(
            "K11",
            SUSPECTED,
            ", ".join(others),
            f"begins with another source than {entry.name}",
            "the script that ran",
            "ship the script that the logs begin with",
        )
    if known and any(log.scores for log in record.logs):
        events = [
            (log, number, line)
            for log in record.logs
            if not log.source
            for number, line in log.lines
            if re.match(r"(?:ema|swa|qat|late_qat|gptq|ttt|int6|slot)\w*[:_]", line, re.IGNORECASE)
        ]
        for log, number, line in [each for each in events if not can_print(script, each[2])][:1]:
            yield Finding(
                "K11",
                FOUND,
                f"{log.path.name}:{number}",
                f"{entry.name} is {known}, to the byte; it has nothing that prints `{line[:60]}`",
                "the script that ran",
                "ship the script that ran",
            )


def _same_program(source: str, script: Script) -> bool:
    """Whether two texts are one program: comments and spaces do not count."""
    try:
        return ast.dump(ast.parse(source)) == ast.dump(script.inner.tree)
    except (SyntaxError, ValueError, RecursionError):
        return True  # nothing to be told


def can_print(script: Script, line: str) -> bool:
    """Whether some text in a script, its parts filled in, begins or holds this line."""
    return any(pattern.search(line) for pattern in printed_patterns(script))


def printed_patterns(script: Script) -> list[re.Pattern[str]]:
    """What each text of a script can look like when it is printed."""
    found = set()
    for node in ast.walk(script.inner.tree):
        if isinstance(node, ast.JoinedStr):
            parts = [
                re.escape(each.value)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
                else "[^\n]{0,80}"
                for each in node.values
            ]
            text = "".join(parts)
            fixed = "".join(str(each.value) for each in node.values if isinstance(each, ast.Constant))
            if len(fixed) > 6 and len(parts) < 12:
                found.add(text.split(re.escape(" val_loss"))[0] if text.startswith("[^") else text[:200])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and 6 < len(node.value) < 200:
            found.add(re.escape(node.value))
    patterns = []
    for each in found:
        try:
            patterns.append(re.compile(each))
        except re.error:
            continue
    return patterns


def branch_ran(record: Record, script: Script, lines: tuple[int, int]) -> bool:
    """Whether a log has a line that only this branch of the script prints."""
    words = [
        part.value.strip()
        for node in ast.walk(script.inner.tree)
        if isinstance(node, ast.JoinedStr | ast.Constant) and lines[0] <= node.lineno <= lines[1]
        for part in (node.values if isinstance(node, ast.JoinedStr) else [node])
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and len(part.value.strip()) > 7
    ]
    text = script.inner.text
    own = [word for word in words if text.count(word) == 1]
    return any(word in line for log in record.logs for _, line in log.lines for word in own)


def takes_fallback(record: Record, finding: Finding) -> Finding | None:
    """A finding of a silent fallback, weighed by what the logs say was used."""
    wanted = re.search(r"without (\w+)", finding.found)
    form = {"zstandard": "zstd", "brotli": "brotli"}.get(wanted[1] if wanted else "", "")
    forms = {size.form for log in record.logs for size in log.sizes_of("model")}
    if forms and form and not any("zlib" in each for each in forms):
        return None  # what was wanted was there, or is not used at all
    if forms and form and not any(form in each for each in forms) and any("zlib" in each for each in forms):
        return finding._replace(
            sure=SUSPECTED, found=f"{finding.found}; the logs say {', '.join(sorted(forms))}"
        )
    return finding


def of_no_claim(record: Record, log: Log) -> bool:
    """Whether no claimed figure stands on a log: a run beside the reported ones."""
    claims = record.claims
    if claims is None or log.final is None:
        return False
    figures = [claims.number("val_bpb"), *map(bits_of, claims.seeds.values())]
    known = [each for each in figures if each is not None]
    if not known or any(
        near(each, score.bits, min(decimals_of(each), 8)) for each in known for score in log.scores
    ):
        return False
    return log.seed not in claims.seeds


COVERED = frozenset("K01 K02 K03 K04 K05 K11 K12 K13 K14".split())
