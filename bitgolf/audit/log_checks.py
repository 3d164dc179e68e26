"""What one log shows by itself: budgets, plausibility, bytes per token, lines that contradict each other."""

import itertools
import math
import re
import statistics
from collections.abc import Callable, Iterator

from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding
from bitgolf.audit.log_lines import Score
from bitgolf.audit.logs import NUMBER, Log
from bitgolf.audit.rules import KnownText, Rules, known_texts

SAME_RATIO = 1e-3  # of bytes per token between windows that end in different places
# By which factor a known fault makes the bytes of a text more than they are.
FACTORS = (
    ("B01", 1.160, 1.180, "the space before a word is counted twice (16.7% to 17.5% more bytes)"),
    ("B02", 1.038, 1.044, "byte tokens are counted as three bytes (4.1% more)"),
    ("B03", 1.19, 1.28, "a lone space becomes three byte tokens (some 20% more bytes)"),
    ("B05", 1.085, 1.0899, "pieces are counted instead of the sidecar's original bytes (9.0% more)"),
    ("B06", 1.08991, 1.094, "capital markers are counted as text (164.6 of 151.07 MB)"),
    ("B10", 1.43, 1.455, "not divided by ln 2"),
)


def check_log(log: Log, rules: Rules, timed: bool = True) -> Iterator[Finding]:
    """All findings of a log. timed: whether the time budgets hold for it (not in tracks without a limit)."""
    if log.cut:
        yield Finding("K13", CANNOT_TELL, str(log.path), "only the first and last part of this log was read")
    for check in (*CHECKS, *TIMED) if timed else CHECKS:
        yield from check(log, rules)


def at(log: Log, line: int) -> str:
    """A line of a log, for people."""
    return f"{log.path.name}:{line}"


def over_budget(log: Log, rules: Rules) -> Iterator[Finding]:
    """K01."""
    sizes = log.sizes_of("total")
    for total in sizes:
        if total.bytes > rules.budget_bytes:
            message, those = f"{total.bytes:,} bytes in all", f"at most {rules.budget_bytes:,}"
            yield Finding("K01", FOUND, at(log, total.line), message, those)
    if not sizes:
        yield Finding("K01", CANNOT_TELL, log.path.name, "no line says the size of the packed submission")


def not_a_score(log: Log, rules: Rules) -> Iterator[Finding]:
    """V14, V19, T13, T21."""
    final = log.final
    if final is None:
        yield Finding("T21", CANNOT_TELL, log.path.name, "no line has a score")
        return
    for score in log.scores:
        if not math.isfinite(score.bits) or score.bits <= 0:
            yield Finding("V19", FOUND, at(log, score.line), f"{score.bits:g} bits per byte")
            break
    if 0 < final.bits < (least := rules.least_bits_per_byte):
        message = f"{final.bits:g} bits per byte"
        those = f"no small model of text is honestly below {least:g}"
        yield Finding("V14", FOUND, at(log, final.line), message, those)
    if final.step is not None:
        message = "no score of what was packed and loaded again"
        yield Finding("T13", CANNOT_TELL, at(log, final.line), message, "a score after the round trip")


def miscounted_bytes(log: Log, rules: Rules) -> Iterator[Finding]:
    """B01, B02, B05, B06, B10 by what a token weighs; V11 and V12 by how many there are."""
    exact = [score for score in log.scores if score.decimals >= 4 and score.nats > 0 and score.bits > 0]
    if not exact:
        return
    yield from contradictions(log, exact)
    best = max(exact, key=lambda score: (score.decimals, score.line))
    ratio = best.nats / math.log(2) / best.bits
    text = text_of(log)
    if text is None:
        message = f"{ratio:.4f} bytes per token, and no line says of which tokenizer or text"
        wanted = "tokenizer_path or vocab_size in the log, or val_loader with tokens and text_bytes"
        yield Finding("B01", CANNOT_TELL, at(log, best.line), message, wanted)
        return
    yield from wrong_ratio(at(log, best.line), ratio, text)
    if log.tokens and log.tokens[1] < 0.995 * text.tokens:
        line, tokens = log.tokens
        code = "V11" if tokens < 0.6 * text.tokens else "V12"
        message, those = f"{tokens:,} validation tokens", f"{text.tokens:,} with {text.name}"
        yield Finding(code, SUSPECTED, at(log, line), message, those)


def wrong_ratio(where: str, ratio: float, text: KnownText) -> Iterator[Finding]:
    """What the bytes per token of a score say, where the tokenizer is known."""
    factor, message = ratio / text.bytes_per_token, f"{ratio:.4f} bytes per token"
    those = f"{text.bytes_per_token:.4f} with {text.name}"
    for code, low, high, cause in FACTORS:
        if low <= factor <= high and (code not in ("B05", "B06") or text.case_operators):
            those += f"; the score is {factor:.4f} times as large"
            yield Finding(code, FOUND, where, f"{message}: {cause}", those)
            return
    if abs(factor - 1) > 5e-3:
        message += f", {100 * (factor - 1):+.1f}% against its text"
        way_out = "say which text was scored, and sum the bytes of its tokens"
        yield Finding("B01", SUSPECTED, where, message, those, way_out)


def text_of(log: Log) -> KnownText | None:
    """The scored text: a known one by its tokenizer, else as the log itself counts its tokens and bytes."""
    naming = " ".join(line for _, line in log.lines if "tokenizer" in line or "fineweb" in line)
    sized = log.settings.get("vocab_size")
    number = re.search(r"(?:fineweb_|_sp|_byte)(\d{3,5})(?:_bpe|_bytes|\b)", naming)
    vocabulary = int(sized[1]) if sized and sized[1].isdigit() and len(sized[1]) < 9 else 0
    if number:
        vocabulary = int(number[1])
    case = "caseops" in naming.lower()
    for text in known_texts():
        if text.vocabulary == vocabulary and text.case_operators == case:
            return text
    if log.text and all(log.text):
        tokens, text_bytes = log.text
        return KnownText("the text that the log names", vocabulary, text_bytes / tokens, tokens)
    return None


def contradictions(log: Log, exact: list[Score]) -> Iterator[Finding]:
    """K11: a loss and its bits per byte that do not belong together as those of the other lines do."""
    fine = [score for score in exact if score.decimals >= 6]
    ratios = sorted(score.nats / score.bits for score in fine)
    for score in fine if len(ratios) > 2 else ():
        middle = ratios[len(ratios) // 2]
        if abs(score.nats / score.bits / middle - 1) > 10 * SAME_RATIO:
            message = f"val_loss {score.nats:g} with val_bpb {score.bits:g}"
            those = f"one nat is {1 / middle:.5f} bits per byte on the other lines"
            yield Finding("K11", SUSPECTED, at(log, score.line), message, those)


def edited_times(log: Log, rules: Rules) -> Iterator[Finding]:
    """K08: a clock that goes back. K11: an average that is not the time by the steps; sums that are none."""
    before, clock = 0, 0.0
    for step in log.steps:
        if step.seconds is None:
            continue
        if step.step > before and step.seconds < clock - 0.5 * (1 + 59 * step.coarse):
            message = f"{step.seconds:.1f} s at step {step.step}"
            those = f"more than the {clock:.1f} s of step {before}"
            yield Finding("K08", FOUND, at(log, step.line), message, those)
        if step.average_ms is not None and step.step > 0 and not step.coarse:
            computed = 1000 * step.seconds / step.step
            if abs(computed - step.average_ms) > 0.02 * computed + 0.6 / step.step + 0.01:
                message = f"step_avg {step.average_ms:g} ms"
                those = f"{computed:.2f} ms: {step.seconds:.3f} s by {step.step} steps"
                yield Finding("K11", FOUND, at(log, step.line), message, those)
        before, clock = step.step, step.seconds
    yield from wrong_sums(log)


def wrong_sums(log: Log) -> Iterator[Finding]:
    """K11: model and code that do not add up to the total."""
    codes = {line.bytes for line in log.sizes_of("code")}
    for total in log.sizes_of("total"):
        models = {line.bytes for line in log.sizes_of("model") if line.form.split(" ")[0] == total.form}
        if models and codes and not any(a + b == total.bytes for a in models for b in codes):
            sums = [" or ".join(f"{count:,}" for count in sorted(each)) for each in (models, codes)]
            message, those = f"{total.bytes:,} bytes in all", f"{sums[0]} of the model and {sums[1]} of code"
            yield Finding("K11", SUSPECTED, at(log, total.line), message, those)


def late_training(log: Log, rules: Rules) -> Iterator[Finding]:
    """K07, K09."""
    end = log.end
    if end is None or end.seconds is None:
        yield Finding("K07", CANNOT_TELL, log.path.name, "no line says how long training took")
        return
    slack = rules.overshoot_steps * end.seconds / end.step + 0.05 + (3.0 if end.coarse else 0)
    those = f"at most {rules.train_seconds:g} s"
    if end.seconds > rules.train_seconds + slack:
        message = f"{end.seconds:.3f} s after {end.step:,} steps"
        yield Finding("K07", FOUND, at(log, end.line), message, those)
        return
    for line, seconds in log.calibration if rules.calibration_counts or not log.own_text else ():
        over = end.seconds + seconds - rules.train_seconds
        if over > slack:
            sure = FOUND if over > rules.calibration_slack_seconds else SUSPECTED
            message = f"{seconds:.1f} s of calibration after {end.seconds:.1f} s of training"
            yield Finding("K09", sure, at(log, line), message, f"{those} together: it reads training data")


def slower_midway(log: Log, rules: Rules) -> Iterator[Finding]:
    """K12: steps that take half as long again from some place on, where no line tells of a change."""
    timed = [step for step in log.steps if step.seconds is not None and not step.coarse and step.step > 10]
    speeds = [
        (1000 * ((after.seconds or 0) - (before.seconds or 0)) / (after.step - before.step), before, after)
        for before, after in itertools.pairwise(timed)
        if after.step > before.step
    ]
    usual = statistics.median(speed for speed, *_ in speeds[:3]) if len(speeds) > 5 else math.inf
    slow = [(before, after) for speed, before, after in speeds if speed > MIDWAY * usual]
    if len(slow) < len(speeds) // 5 + 1 or slow[-1][1] is not speeds[-1][2]:
        return
    told = {step.line for step in log.steps} | {score.line for score in log.scores}
    begin, end = timed[0].line, slow[0][1].line
    if not any(begin < number < end and number not in told and line.strip() for number, line in log.lines):
        message = f"{MIDWAY * usual:.0f} ms a step and more from step {slow[0][0].step} on"
        yield Finding("K12", SUSPECTED, at(log, end), message, f"some {usual:.1f} ms, as at the start")


def late_evaluation(log: Log, rules: Rules) -> Iterator[Finding]:
    """K10."""
    for line, seconds in log.evaluations:
        if seconds > rules.evaluation_seconds:
            message, those = f"{seconds:.1f} s of evaluation", f"at most {rules.evaluation_seconds:g} s"
            yield Finding("K10", FOUND, at(log, line), message, those)


# The number of training shards that a preparation with 10,000 validation documents leaves (#2127).
OVERLAPPING_SHARDS = re.compile(r"\btrain_shards ?[:=] ?1499\b")
NOTHING_ROUNDED = re.compile(
    r"\b(?:quantized|calibrated|collected|hessians?|statistics)\b[^\n]{0,40}?[ :=]0 "
    r"(?:layers|hessians|matrices|tensors|modules)\b"
    r"|\b0 (?:layers|hessians|matrices|tensors|modules) (?:were )?(?:quantized|calibrated|collected)\b"
    r"|\b(?:hessians|quantized_layers|calibrated_layers) ?[:=] ?0\b",
    re.IGNORECASE,
)
WORSE = re.compile(
    rf"\bgptq\w*[^\n]{{0,40}}?[:=] ?(?P<own>{NUMBER})[^\n]{{0,40}}?"
    rf"\b(?:rtn|round[- ]to[- ]nearest|naive)\w*[^\n]{{0,20}}?[:=] ?(?P<plain>{NUMBER})",
    re.IGNORECASE,
)
PLAIN = re.compile(r"(?:\b|_)(?:rtn|naive|round_to_nearest)", re.IGNORECASE)
FAILED = re.compile(
    r"unrecognized arguments|^Traceback \(most recent call last\)|CUDA out of memory|ChildFailedError"
)
AVERAGED = re.compile(r"\b(?:ema|swa|averag)", re.IGNORECASE)
MIDWAY = 1.5  # how much slower a machine must become in a run for a word
MOST_LOSS_IN_PACKING = 0.1  # bits per byte; packing costs some 0.01


def spoilt_before_packing(log: Log, rules: Rules) -> Iterator[Finding]:
    """V13, T02, T11, T12, T21: lines that say by themselves that something went wrong."""
    steps = [score for score in log.scores if score.step is not None]
    final = log.final
    for number, line in log.lines:
        if OVERLAPPING_SHARDS.search(line):
            message = "1,499 training shards: what a preparation with 10,000 validation documents leaves"
            those = "80 shards, and 50,000 documents held out (#2127)"
            yield Finding("V13", SUSPECTED, at(log, number), message, those)
        if NOTHING_ROUNDED.search(line):
            yield Finding("T11", FOUND, at(log, number), line.strip()[:120])
        if (match := WORSE.search(line)) and float(match["own"]) > float(match["plain"]) > 0:
            message = f"an error of {match['own']}"
            those = f"less than {match['plain']}, that of plain rounding"
            yield Finding("T12", FOUND, at(log, number), message, those)
        if FAILED.search(line) and (final is None or number > final.line):
            yield Finding("T21", FOUND, at(log, number), line.strip()[:120])
    plain = [score for score in log.scores if PLAIN.search(score.tag)]
    if final and plain and final.bits > plain[-1].bits + MOST_LOSS_IN_PACKING / 2:
        message, those = (
            f"{final.bits:.4f} bits per byte",
            f"less than {plain[-1].bits:.4f} of plain rounding",
        )
        yield Finding("T12", SUSPECTED, at(log, final.line), message, those)
    earlier = [*steps, *(score for score in log.scores if final and score.line < final.line)]
    if not earlier or final is None or final.step is not None:
        return
    before = max(earlier, key=lambda score: score.line)
    if steps and abs(before.bits - final.bits) < 1e-3:  # the same score, told in fewer decimals
        before = steps[-1]
    lost = final.bits - before.bits
    between = [line for number, line in log.lines if before.line < number < final.line]
    if lost > MOST_LOSS_IN_PACKING and any(AVERAGED.search(line) for line in between):
        message = f"{final.bits:.4f} after averaging, {before.bits:.4f} before it"
        yield Finding("T02", SUSPECTED, at(log, final.line), message)
    elif lost > MOST_LOSS_IN_PACKING:
        yield Finding("T12", SUSPECTED, at(log, final.line), f"{lost:.4f} bits per byte lost in packing")


Check = Callable[[Log, Rules], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (over_budget, not_a_score, miscounted_bytes, edited_times, spoilt_before_packing)
TIMED: tuple[Check, ...] = (late_training, late_evaluation, slower_midway)
COVERED = frozenset(
    "K01 B03 V13 T02 T11 T12 V14 V19 T13 T21 V11 V12 B01 B02 B05 B06 B10 K08 K11 K07 K09 K10 K12".split()
)
