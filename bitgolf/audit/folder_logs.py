"""Logs of a folder against each other and the script: copies, settings, speeds, lines nobody prints."""

import ast
import itertools
import math
import re
import statistics
from collections.abc import Iterator

from bitgolf.audit.bounded import text_at
from bitgolf.audit.finding import FOUND, SUSPECTED, Finding
from bitgolf.audit.folder import Record, bits_of
from bitgolf.audit.folder_figures import scores_in, stated
from bitgolf.audit.logs import Log
from bitgolf.audit.rules import Rules, known_script
from bitgolf.audit.script import Script
from bitgolf.audit.tree import nodes
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
        seeds = {_named_seed(log), _named_seed(other)}
        if len(seeds) == 2 and None not in seeds:
            where = f"{log.path.name}, {other.path.name}"
            message = f"{len(curve)} losses and scores are equal to the last digit"
            yield Finding("K11", FOUND, where, message, "another seed trains otherwise")


def gaps(record: Record) -> Iterator[Finding]:
    """K13: a log without a stretch of steps that all others of its kind have."""
    logs = [log for log in record.logs if log.final]
    for log in logs:
        least = min((len(each.steps) for each in logs if each is not log), default=0)
        if len(log.steps) < least // FEWER and log.seed is not None:
            message, those = f"{len(log.steps)} lines of training", f"{least} and more, as in all other logs"
            yield Finding("K13", SUSPECTED, log.path.name, message, those)
    logs = [log for log in logs if len(log.steps) > LEAST_GAP]
    told = {log.path: {each.step for each in log.steps} for log in logs}
    for log in logs:
        last, others = max(told[log.path]), [told[each.path] for each in logs if each is not log]
        common = sorted(each for each in set[int].intersection(*others) if each < last) if others else []
        there = told[log.path].__contains__
        runs = [[*steps] for is_there, steps in itertools.groupby(common, there) if not is_there]
        longest = max(runs, key=len, default=[])
        own = sorted(told[log.path])
        apart = {after - before for before, after in itertools.pairwise(own)} - {1}
        regular = any(told[log.path] >= {*range(each, own[-1], each)} for each in apart)  # printed less often
        if LEAST_GAP <= len(longest) < len(common) and (len(runs) == 1 or not regular):
            message = f"no line of the steps {longest[0]:,} to {longest[-1]:,}"
            those = f"{len(longest)} lines, as in all other logs"
            yield Finding("K13", SUSPECTED, log.path.name, message, those)


LEAST_GAP = 3  # lines
FEWER = 8  # times


def _named_seed(log: Log) -> int | None:
    match = re.search(r"seed[-_ ]?(\d+)", log.path.stem, re.IGNORECASE)
    return int(match[1][:18]) if match else None


def configurations(record: Record) -> Iterator[Finding]:
    """K11: seeds that were run under different settings."""
    seeds = record.claims.seeds if record.claims else {}
    chosen: dict[int, Log] = {}
    for log in record.logs:
        if log.seed is not None and log.end and (not seeds or log.seed in seeds):
            chosen.setdefault(log.seed, log)
            bits = bits_of(seeds.get(log.seed, {}))
            if bits is not None and log.final and stated(bits, [log.final.bits]):
                chosen[log.seed] = log
    logs = [*chosen.values()]
    for other in logs[1:]:
        first = logs[0]
        differing = [
            (name, first.settings[name][1], *other.settings[name])
            for name in first.settings.keys() & other.settings.keys()
            if not OF_THE_RUN.search(name)
            and ITS_SEED.sub("", first.settings[name][1]) != ITS_SEED.sub("", other.settings[name][1])
        ]
        for name, left, line, right in sorted(differing)[:5]:
            where, message = f"{other.path.name}:{line}", f"{name} is {right[:80]}"
            those = f"{left[:80]}, as in {first.path.name}: one configuration over all seeds"
            yield Finding("K11", SUSPECTED, where, message, those)


def throttled(record: Record) -> Iterator[Finding]:
    """K12."""
    seeds = {*record.claims.seeds} if record.claims else {log.seed for log in record.logs}
    told = [(log, log.end or log.steps[-1]) for log in record.logs if log.steps and log.seed in seeds]
    ends = [(log, end) for log, end in told if log.seed is not None and end.milliseconds]
    speeds = [(end.milliseconds, f"{log.path.name}:{end.line}") for log, end in ends]
    middle = statistics.median(speed for speed, _ in speeds) if len(speeds) > 2 else math.inf
    for speed, where in speeds:
        if speed > 1.15 * middle:
            those = f"some {middle:.1f} ms, as the other seeds"
            yield Finding("K12", FOUND, where, f"{speed:.1f} ms a step", those)


def script_of_log(record: Record, script: Script | None) -> Iterator[Finding]:
    """K11: a known script, one that is not the source in a log, or one that cannot print a log's lines."""
    if record.entry is None or script is None:
        return
    entry = record.entry
    published = known_script(sha256_of(entry))
    text = "\n".join(layer.text for layer in script.layers)
    text += "\n".join(map(text_at, record.scripts))
    others: list[str] = []
    printed = printed_patterns(script)
    for log in record.logs:
        final = log.final
        if final is None or final.step is not None:
            continue
        if log.source:
            if log.source.strip() != script.inner.text.strip() and not _same_program(log.source, script):
                others.append(log.path.name)
            continue
        word = final.tag.split(" ")[0].split(":")[0]
        if len(word) > 3 and word not in text and not any(each.search(final.tag) for each in printed):
            message = f"`{final.tag}` is no line that {entry.name} can print"
            yield Finding("K11", FOUND, f"{log.path.name}:{final.line}", message)
    if others:
        yield Finding("K11", SUSPECTED, ", ".join(others), f"begins with another source than {entry.name}")
    for log in record.logs if published and any(log.scores for log in record.logs) else ():
        for number, line in log.lines if not log.source else ():
            if TECHNIQUE.match(line) and not any(each.search(line) for each in printed):
                message = (
                    f"{entry.name} is {published}, to the byte; it has nothing that prints `{line[:60]}`"
                )
                yield Finding("K11", FOUND, f"{log.path.name}:{number}", message)
                return


TECHNIQUE = re.compile(r"(?:ema|swa|qat|late_qat|gptq|ttt|int6|slot)\w*[:_]", re.IGNORECASE)


def _same_program(source: str, script: Script) -> bool:
    """Whether two texts are one program: comments and spaces do not count."""
    try:
        return ast.dump(parsed(source)) == ast.dump(script.tree)
    except (SyntaxError, ValueError, RecursionError):
        return True  # nothing to be told


def printed_patterns(script: Script) -> list[re.Pattern[str]]:
    """What each text of a script can look like when it is printed, its parts filled in."""
    regexes = set()
    for node in nodes(script.tree, ast.JoinedStr):
        fixed = [each.value if isinstance(each, ast.Constant) else None for each in node.values]
        parts = [re.escape(each) if isinstance(each, str) else "[^\n]{0,80}" for each in fixed]
        if len(parts) < 12 and sum(len(str(each)) for each in fixed if each is not None) > 6:
            ends = itertools.accumulate(map(len, parts))
            begun = [part for part, end in zip(parts, ends) if end <= 200 or part is parts[0]]
            filled = parts[0].startswith("[^")
            regexes.add("".join(parts).split(re.escape(" val_loss"))[0] if filled else "".join(begun))
    for word in nodes(script.tree, ast.Constant):
        if isinstance(word.value, str) and 6 < len(word.value) < 200:
            regexes.add(re.escape(word.value))
    return [*map(re.compile, regexes)]


def branch_ran(record: Record, script: Script, lines: tuple[int, int]) -> bool:
    """Whether a log has a line that only this branch of the script prints."""
    texts = [*nodes(script.tree, ast.JoinedStr)]
    behind = {id(part) for node in texts for part in node.values[1:]}  # another may be filled to the same
    firsts = [part for node in texts for part in node.values[:1] if isinstance(part, ast.Constant)]
    text = script.inner.text
    own = {
        word
        for part in (*firsts, *nodes(script.tree, ast.Constant))
        if lines[0] <= part.lineno <= lines[1] and id(part) not in behind and isinstance(part.value, str)
        if len(word := part.value.strip()) > 7 and text.count(word) == 1
    }
    source = {line.strip() for line in text.splitlines()}  # a log may hold it, in whatever frame
    printed = (line for log in record.logs for _, line in log.lines if line.strip() not in source)
    return any(word in line for line in printed for word in own)


def weighed(record: Record, finding: Finding, rules: Rules) -> Finding | None:
    """A finding of the script by what the logs say of the time that it took, or of its packer."""
    if finding.code == "K07":
        times = [log.end.seconds for log in record.logs if log.end and log.end.seconds]
        return None if times and max(times) <= rules.train_seconds else finding
    return _takes_fallback(record, finding) if finding.code == "K04" else finding


def _takes_fallback(record: Record, finding: Finding) -> Finding | None:
    """A finding of a silent fallback, weighed by what the logs say was used."""
    wanted = re.search(r"without (\w+)", finding.found)
    form = {"zstandard": "zstd", "brotli": "brotli"}.get(wanted[1] if wanted else "", "")
    forms = {line.form for log in record.logs for line in log.sizes_of("model")}
    if not forms or not form:
        return finding
    if not any("zlib" in each for each in forms):
        return None  # what was wanted was there, or is not used at all
    if any(form in each for each in forms):
        return finding
    message = f"{finding.found}; the logs say {', '.join(sorted(forms))}"
    return finding._replace(sure=SUSPECTED, found=message)


def of_no_claim(record: Record, log: Log) -> bool:
    """Whether no claimed figure stands on a log: a run beside the reported ones."""
    claims = record.claims
    if claims is None or log.final is None:
        return False
    claimed = [*claims.scores, *([] if record.bits is None else [record.bits])]
    if not claimed or any(stated(each, scores_in([log])) for each in claimed):
        return False
    return log.seed not in claims.seeds
