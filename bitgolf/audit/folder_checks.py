"""What does not fit together in a folder: files, sizes and claims; its figures and its logs besides."""

import ast
import statistics
from collections.abc import Iterator

from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding
from bitgolf.audit.folder import ARTIFACTS, Claims, Record
from bitgolf.audit.folder_figures import headline, means, readme_figures, seeds_and_logs
from bitgolf.audit.folder_logs import configurations, copies, script_of_log, throttled
from bitgolf.audit.rules import Rules
from bitgolf.audit.script import Script
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
        claimed = record.claims is not None and record.claims.number("val_bpb") is not None
        sure = CANNOT_TELL if not claimed else FOUND if record.is_timed else SUSPECTED
        yield Finding("K13", sure, record.folder.name, "no log")
    if record.entry is None:
        yield Finding("K03", CANNOT_TELL, record.folder.name, "no script")
    elif record.entry.stat().st_size == 0:
        yield Finding("K03", FOUND, record.entry.name, "the script is empty")
    for link in record.outside:
        yield Finding("K03", SUSPECTED, link, "a link, or no plain file")


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
            "K02", SUSPECTED, f"{claims.path.name}: bytes_total", f"{total:g}", "bytes, a whole number"
        )
        return
    if total > rules.budget_bytes:
        yield Finding(
            "K02" if total <= 16 * 2**20 and rules.budget_bytes == 16_000_000 else "K01",
            FOUND,
            f"{claims.path.name}: bytes_total",
            f"{total:,.0f} bytes",
            f"at most {rules.budget_bytes:,} decimal bytes; 16 MiB would be 16,777,216",
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
                minor=max(last) <= rules.budget_bytes,
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
            minor=max(last) <= rules.budget_bytes,
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
        )
    elif packed and max(packed) + whole > rules.budget_bytes and max(packed) <= rules.budget_bytes:
        yield Finding(
            "K03",
            SUSPECTED,
            entry.name,
            f"{max(packed) + whole:,} bytes with the script as it is: model {max(packed):,}, code {whole:,}",
            f"at most {rules.budget_bytes:,}",
            way_out="ship the packed script whose bytes were counted",
            minor=not rules.disputed_counts and whole < 200_000 + sum(more.values()),
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
            minor=True,
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
            yield Finding("K11", FOUND, name, found[:16], f"SHA-256 {expected[:16]}, as {path.name} says")


COVERED = frozenset("K01 K02 K03 K04 K05 K11 K12 K13 K14".split())
