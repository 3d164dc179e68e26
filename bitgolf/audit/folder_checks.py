"""What does not fit together in a folder: files, sizes and claims; its figures and its logs besides."""

import ast
import re
import statistics
from collections.abc import Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatch

from bitgolf.audit import data_checks
from bitgolf.audit.artifact_checks import is_packed
from bitgolf.audit.bounded import start_of
from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding
from bitgolf.audit.folder import Claims, Record
from bitgolf.audit.folder_figures import headline, means, readme_figures, seeds_and_logs, seeds_tried
from bitgolf.audit.folder_logs import configurations, copies, gaps, script_of_log, throttled
from bitgolf.audit.folder_shell import launchers, shell_scripts
from bitgolf.audit.rules import Rules
from bitgolf.audit.script import Script
from bitgolf.audit.tree import calls, imported, names_given, names_in, nodes, walked
from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import sha256_of
from bitgolf.inputs.typed import read_outside


def check_folder(record: Record, script: Script | None, rules: Rules) -> Iterator[Finding]:
    """All findings of a folder as a whole; its logs and scripts are checked by themselves besides."""
    yield from missing(record, rules)
    if record.claims:
        yield from seeds_and_logs(record, record.claims)
        yield from headline(record, record.claims)
        yield from means(record.claims)
        yield from claimed_sizes(record, record.claims, rules)
        if record.is_timed:
            yield from claimed_times(record.claims, rules)
    yield from sizes_in_words(record, rules)
    yield from shipped_sizes(record, script, rules)
    yield from manifest(record)
    yield from shell_scripts(record, script)
    yield from launchers(record, script)
    yield from seeds_tried(record)
    yield from copies(record)
    yield from gaps(record)
    yield from configurations(record)
    yield from throttled(record)
    yield from readme_figures(record)
    yield from script_of_log(record, script)


def missing(record: Record, rules: Rules) -> Iterator[Finding]:
    """K13, K11: parts that are not there or cannot be read."""
    for problem in record.unreadable:
        yield Finding("K11", FOUND, record.folder.name, problem, "a submission.json that can be read")
    if record.claims is None and not record.unreadable:
        yield Finding("K11", CANNOT_TELL, record.folder.name, "no submission.json")
    if not record.logs:
        sure = CANNOT_TELL if record.bits is None else FOUND if record.is_timed else SUSPECTED
        yield Finding("K13", sure, record.folder.name, "no log")
    if record.entry is None:
        yield Finding("K03", CANNOT_TELL, record.folder.name, "no script")
    elif record.entry.stat().st_size == 0:
        yield Finding("K03", FOUND, record.entry.name, "the script is empty")
    yield from record.outside


def claimed_sizes(record: Record, claims: Claims, rules: Rules) -> Iterator[Finding]:
    """K01, K02, K05, K11: sizes that are claimed against the budget and the logs."""
    keys = ("bytes_total", "total_bytes", "artifact_bytes_max", "artifact_bytes", "artifact_size_bytes")
    total, where = claims.number(*keys), f"{claims.path.name}: bytes_total"
    if total is None:
        yield Finding("K01", CANNOT_TELL, claims.path.name, "no size in bytes under a usual key")
        return
    if total != int(total) or total < 1000:
        yield Finding("K02", SUSPECTED, where, f"{total:g}", "bytes, a whole number")
        return
    message, budget = f"{total:,.0f} bytes", rules.budget_bytes
    if total > budget:
        in_mib = total <= 16 * 2**20 and budget == 16_000_000
        sure = SUSPECTED if in_mib and not record.is_timed else FOUND  # where it was taken so
        yield Finding("K01", sure, where, message, f"at most {budget:,}")
        if in_mib:
            yield Finding("K02", FOUND, where, message, f"{budget:,} decimal bytes; 16 MiB are 16,777,216")
    named = {seed: size for seed, each in claims.seeds.items() if (size := of_seed(each, "bytes_total"))}
    if named and total < max(named.values()):
        over = max(named.values()) > budget >= total
        those = f"{max(named.values()):,.0f}, as it says of seed {max(named, key=lambda seed: named[seed])}"
        yield Finding("K05", FOUND if over else SUSPECTED, where, message, those, minor=not over)
        return
    logs = [log for log in record.logs if log.seed in claims.seeds] or record.logs
    last = [log.sizes_of("total")[-1].bytes for log in logs if log.sizes_of("total")]
    if not last:
        return
    minor = max(last) <= budget
    if min(last) <= budget < max(last):
        message = f"{min(last):,} to {max(last):,} bytes, by seed"
        yield Finding("K05", FOUND, claims.path.name, message, f"at most {budget:,} in each")
        return
    models = [line.bytes for log in logs for line in log.sizes_of("model")[-1:]]
    codes = {line.bytes for log in logs for line in log.sizes_of("code")}
    codes |= {0, *([record.entry.stat().st_size] if record.entry else [])}
    counts = [last, *([model + code for model in models] for code in codes if models)]
    of_one = {line.bytes for log in logs for kind in ("total", "model") for line in log.sizes_of(kind)}
    counts += [] if any(total in each for each in counts) else [[size] for size in of_one]
    own = [each for each in counts if total in each or abs(total - statistics.mean(each)) <= 1]
    unit = next(each for each in (10_000, 1_000, 1) if total % each == 0)
    if binary := [size for size in last if _in_binary(total, size, unit) and not own]:
        those = f"{binary[0]:,} bytes, as measured: this is their number of MiB"
        yield Finding("K02", SUSPECTED if minor else FOUND, where, message, those, minor=minor)
    elif not own:
        those = f"a size of the logs: {', '.join(f'{each:,}' for each in sorted({*last}))}"
        yield Finding("K11", SUSPECTED, where, message, those, minor=minor)
    elif all(total < max(each) for each in own):
        those = f"{max(own[0]):,}, the largest over the seeds"
        yield Finding("K05", SUSPECTED, where, message, those, minor=minor)


def of_seed(figures: Mapping[str, float], name: str) -> float | None:
    """A figure of a seed under one of the names that it goes by."""
    return next((figures[each] for each in NAMES_OF_SEED[name] if each in figures), None)


NAMES_OF_SEED = {
    "bytes_total": ("bytes_total", "total_bytes", "artifact_bytes", "submission_bytes", "total_size_bytes"),
    "eval_seconds": ("eval_seconds", "evaluation_seconds", "eval_time_seconds", "eval_time_s"),
}


def claimed_times(claims: Claims, rules: Rules) -> Iterator[Finding]:
    """K10: the time of an evaluation that a submission.json itself says is too long."""
    for seed, figures in claims.seeds.items():
        seconds = of_seed(figures, "eval_seconds")
        if seconds is not None and seconds > rules.evaluation_seconds:
            where, message = f"{claims.path.name}: seed {seed}", f"{seconds:.1f} s of evaluation"
            yield Finding("K10", FOUND, where, message, f"at most {rules.evaluation_seconds:g} s")


def _in_binary(stated: float, size: float, unit: float) -> bool:
    """Whether a stated size, given in steps of a unit, is a number of MiB or KiB called by decimal names."""
    factors = (1.024, 1.024**2) if unit == 1 else (1.024**2,)
    return any(abs(stated * factor - size) <= 0.53 * unit + 1 for factor in factors)


def sizes_in_words(record: Record, rules: Rules) -> Iterator[Finding]:
    """K02: a README's MB that are MiB of a size in the logs, and no MB of any."""
    sizes = {line.bytes for log in record.logs for line in log.sizes}
    for match in MEGABYTES.finditer(record.readme):
        stated, unit = float(match[1]) * 10**6, 10.0 ** (6 - len(match[1].partition(".")[2]))
        binary = [size for size in sizes if _in_binary(stated, size, unit)]
        if binary and not any(abs(stated - size) <= 1.01 * unit for size in sizes):
            over = binary[0] > rules.budget_bytes >= stated
            where = f"README.md:{record.readme[: match.start()].count(chr(10)) + 1}"
            those = f"{binary[0]:,} bytes, as measured: this is their number of MiB"
            yield Finding("K02", FOUND if over else SUSPECTED, where, match[0], those, minor=not over)
            return


MEGABYTES = re.compile(r"\b(1\d\.\d\d+) ?(?:MB|megabytes)\b")


def shipped_sizes(record: Record, script: Script | None, rules: Rules) -> Iterator[Finding]:
    """K01, K03: what lies in the folder, and what the script reads of it."""
    if record.entry is None or script is None:
        return
    entry, budget = record.entry, rules.budget_bytes
    entry_bytes = entry.stat().st_size
    more = {path: (record.folder / path).stat().st_size for path in closure(record, script)}
    executed = {name for layer in script.layers for _, name in layer.files}
    for layer in script.layers:
        for line, name in layer.files:
            name = file_run(record, name)
            if _is_measured(script, name):
                continue
            size = f"{record.files.get(name, 0):,} bytes; the script has {entry_bytes:,}"
            message = f"the code is in {name}, of {size}"
            yield Finding("K03", FOUND, f"{layer.name}:{line}", message)
    texts = (each.value for each in nodes(script.tree, ast.Constant) if isinstance(each.value, str))
    told = {text for text in texts if text.endswith(".py") and len(text) < 200}
    counted_too = {name for name in more for each in told if fnmatch(name, each)}  # read by its name
    if helpers := sorted(more.keys() - executed - counted_too):
        message = f"imports {', '.join(helpers)}: {sum(more[name] for name in helpers):,} bytes more"
        yield Finding("K03", SUSPECTED, entry.name, message)
    whole = entry_bytes + sum(more.values())
    packed = max((each.bytes for log in record.logs for each in log.sizes_of("model")), default=0)
    if (models := weights_in(record)) and max(models) + whole > budget:
        message = f"{max(models) + whole:,} bytes: model {max(models):,}, code {whole:,}"
        yield Finding("K01", FOUND, record.folder.name, message, f"at most {budget:,}")
    elif packed and packed <= budget < packed + whole:
        yield Finding(
            "K03",
            SUSPECTED,
            entry.name,
            f"{packed + whole:,} bytes with the script as it is: model {packed:,}, code {whole:,}",
            f"at most {budget:,}",
            "ship the packed script whose bytes were counted",
            minor=not rules.disputed_counts and whole < 200_000 + sum(more.values()),
        )
    claimed = record.claims.number("bytes_code", "code_bytes") if record.claims else None
    counted = [each.bytes for log in record.logs for each in log.sizes_of("code")]
    if record.claims and claimed and claimed not in (entry_bytes, *counted):
        where, those = f"{record.claims.path.name}: bytes_code", f"{entry_bytes:,}, the size of {entry.name}"
        yield Finding("K11", SUSPECTED, where, f"{claimed:,.0f} bytes of code", those, minor=True)


def file_run(record: Record, name: str) -> str:
    """The file that is executed: the only other script, where its path is not followed."""
    others = [str(path.relative_to(record.folder)) for path in record.scripts if path != record.entry]
    return others[0] if name not in record.files and len(others) == 1 else name


def _is_measured(script: Script, name: str) -> bool:
    """Whether a file that is executed is read or measured besides, as its bytes are to be counted."""
    tree = ast.Module([each for layer in script.layers for each in layer.tree.body], [])
    given = [node for node in nodes(tree, ast.Assign) if _names_file(node.value, name, set())]
    paths = {each for node in given if not _reads(node.value) for each in names_given(node)}
    runs = [*calls(tree, "exec")]
    inside = {id(each) for call in runs for each in walked(call)}
    measures = [*_reads(tree), *nodes(tree, ast.GeneratorExp, ast.ListComp, ast.For)]
    return any(
        id(each) not in inside and _reads(each) and _names_file(each, name, paths) for each in measures
    )


def _reads(node: ast.AST) -> list[ast.Call]:
    return [*calls(node, "read", "read_text", "read_bytes", "stat", "getsize")]


def _names_file(node: ast.AST, name: str, paths: set[str]) -> bool:
    """Whether an expression has a file's name, or a path of it."""
    texts = (each.value for each in nodes(node, ast.Constant) if isinstance(each.value, str))
    return bool(names_in(node) & paths) or any(text.rpartition("/")[2] == name for text in texts)


def weights_in(record: Record) -> list[int]:
    """The sizes of the packed models in a folder: large files of no text. One of much more than the smallest
    is no packed one; one that a log has measured is judged there.
    """
    logged = {each.bytes for log in record.logs for each in log.sizes}
    shards = sum(data_checks.shards_in(record.folder, [*record.files]).values(), [])
    sizes = [
        size
        for name, size in record.files.items()
        if (size > 1_000_000 or is_packed(name)) and not name.lower().endswith(NO_WEIGHTS)
        if (path := record.folder / name) not in shards and b"\0" in start_of(path, 2**16)
    ]
    return [size for size in sizes if size < 1.5 * min(sizes) and not logged & {*sizes}]


NO_WEIGHTS = (".model", ".vocab", ".png", ".jpg", ".jpeg", ".gif", ".pdf", ".mp4")


def closure(record: Record, script: Script) -> list[str]:
    """The files of the folder whose code the script runs: by import, by exec, and theirs."""
    helpers: list[str] = []
    names = [name for layer in script.layers for _, name in layer.files]
    names += [name for layer in script.layers for name in modules_of(layer.tree)]
    while names:
        name = names.pop()
        path = record.folder / name
        if name not in helpers and name in record.files and name.endswith(".py") and path != record.entry:
            helpers.append(name)
            with suppress(SyntaxError, ValueError, RecursionError):
                names += modules_of(ast.parse(start_of(path)))
    return helpers


def modules_of(tree: ast.Module) -> list[str]:
    """The files that a file would import, were they beside it."""
    return [f"{name.replace('.', '/')}.py" for node in walked(tree) for name in imported(node)]


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
        actual = sha256_of(record.folder / name) if name in record.files else "no such file"
        if actual != expected:
            yield Finding("K11", FOUND, name, actual[:16], f"SHA-256 {expected[:16]}, as {path.name} says")


COVERED = frozenset("K01 K02 K03 K04 K05 K11 K12 K13 K14 T21".split())
