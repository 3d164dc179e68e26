"""What does not fit together in a folder: files, sizes and claims; its figures and its logs besides."""

import ast
import statistics
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch

from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding
from bitgolf.audit.folder import ARTIFACTS, Claims, Record
from bitgolf.audit.folder_figures import headline, means, readme_figures, seeds_and_logs
from bitgolf.audit.folder_logs import configurations, copies, script_of_log, throttled
from bitgolf.audit.folder_shell import launchers, shell_scripts
from bitgolf.audit.rules import Rules
from bitgolf.audit.script import Script
from bitgolf.audit.tree import imported, nodes
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
    yield from shipped_sizes(record, script, rules)
    yield from manifest(record)
    yield from shell_scripts(record, script)
    yield from launchers(record, script)
    yield from copies(record)
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
    for link in record.outside:
        yield Finding("K03", SUSPECTED, link, "a link, or no plain file")


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
        code = "K02" if total <= 16 * 2**20 and budget == 16_000_000 else "K01"
        those = f"at most {budget:,} decimal bytes; 16 MiB would be 16,777,216"
        yield Finding(code, FOUND, where, message, those)
    logs = [log for log in record.logs if log.seed in claims.seeds] or record.logs
    sizes = [line.bytes for log in logs for line in log.sizes_of("total")]
    if not sizes:
        return
    last = [log.sizes_of("total")[-1].bytes for log in logs if log.sizes_of("total")]
    minor = max(last) <= budget
    if min(last) <= budget < max(last):
        message = f"{min(last):,} to {max(last):,} bytes, by seed"
        yield Finding("K05", FOUND, claims.path.name, message, f"at most {budget:,} in each")
        return
    if total in sizes:
        if total < max(last) and len(last) > 2 and len({*last}) > 1:
            those = f"{max(last):,}, the largest over the seeds"
            yield Finding("K05", SUSPECTED, where, message, those, minor=minor)
        return
    code_sizes = [line.bytes for log in logs for line in log.sizes_of("code")]
    models = [line.bytes for log in logs for line in log.sizes_of("model")]
    shipped = [record.entry.stat().st_size] if record.entry else []
    sums = [a + b for a in models for b in (*code_sizes, *shipped)]
    if abs(total - statistics.mean(last)) > 1 and total not in (*sums, *models):
        those = f"a size of the logs: {', '.join(f'{each:,}' for each in sorted({*last}))}"
        yield Finding("K11", SUSPECTED, where, message, those, minor=minor)


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
            message = f"the code is in {name}, of {more.get(name, 0):,} bytes; the script has {entry_bytes:,}"
            yield Finding("K03", FOUND, f"{layer.name}:{line}", message)
    texts = (each.value for each in nodes(script.tree, ast.Constant) if isinstance(each.value, str))
    told = {text for text in texts if text.endswith(".py") and len(text) < 200}
    counted_too = {name for name in more for each in told if fnmatch(name, each)}  # read by its name
    if helpers := sorted(more.keys() - executed - counted_too):
        message = f"imports {', '.join(helpers)}: {sum(more[name] for name in helpers):,} bytes more"
        yield Finding("K03", SUSPECTED, entry.name, message)
    beside = [each for name, each in record.files.items() if name.endswith(ARTIFACTS) and "/" not in name]
    models = [each for each in beside if each > 10_000]
    whole = entry_bytes + sum(more.values())
    packed = max((each.bytes for log in record.logs for each in log.sizes_of("model")), default=0)
    if len(models) == 1 and models[0] + whole > budget:
        message = f"{models[0] + whole:,} bytes: model {models[0]:,}, code {whole:,}"
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
                names += modules_of(ast.parse(path.read_bytes()))
    return helpers


def modules_of(tree: ast.Module) -> list[str]:
    """The files that a file would import, were they beside it."""
    return [f"{name.replace('.', '/')}.py" for node in ast.walk(tree) for name in imported(node)]


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
