"""Logs of a folder against each other and the script: copies, settings, speeds, lines nobody prints."""

import ast
import hashlib
import re
import statistics
from collections.abc import Iterator

from bitgolf.audit.finding import FOUND, SUSPECTED, Finding
from bitgolf.audit.folder import MOST_TEXT_BYTES, Record, bits_of
from bitgolf.audit.folder_figures import decimals_of, near
from bitgolf.audit.logs import Log
from bitgolf.audit.rules import known_script
from bitgolf.audit.script import Script
from bitgolf.audit.unwrap import parsed
from bitgolf.base.files import sha256_of

# Lines of a log that say something of its machine or its name, not of its settings.
OF_THE_RUN = re.compile(
    r"seed|run_id|log|path|dir|rank|time|date|device|artifact|file|host|port|pid|uuid|name|peak|memory|gpu|"
    r"driver|python|torch|cuda|wandb|world|^PR$",
    re.IGNORECASE,
)


ITS_SEED = re.compile(r"\bseed ?[:=] ?\d+")  # may stand behind another setting


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
                SUSPECTED,
                f"{other.path.name}:{line}",
                f"{name} is {right[:80]}",
                f"{left[:80]}, as in {first.path.name}: one configuration over all seeds",
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
            )
    if others:
        yield Finding("K11", SUSPECTED, ", ".join(others), f"begins with another source than {entry.name}")
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
            )


def _same_program(source: str, script: Script) -> bool:
    """Whether two texts are one program: comments and spaces do not count."""
    try:
        return ast.dump(parsed(source)) == ast.dump(script.inner.tree)
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
    texts = [node for node in ast.walk(script.inner.tree) if isinstance(node, ast.JoinedStr)]
    behind = {
        id(part) for node in texts for part in node.values[1:]
    }  # another text may be filled to the same
    words = [
        part.value.strip()
        for node in ast.walk(script.inner.tree)
        if isinstance(node, ast.JoinedStr | ast.Constant) and lines[0] <= node.lineno <= lines[1]
        for part in (node.values[:1] if isinstance(node, ast.JoinedStr) else [node])
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and len(part.value.strip()) > 7
        if id(part) not in behind
    ]
    text = script.inner.text
    own = [word for word in words if text.count(word) == 1]
    source = {line.strip() for line in text.splitlines()}  # a log may hold it, in whatever frame
    return any(
        word in line
        for log in record.logs
        for _, line in log.lines
        for word in own
        if line.strip() not in source
    )


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
