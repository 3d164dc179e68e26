"""A training log of any public format, read line by line: scores, sizes, steps, times, settings, events."""

import ast
import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bitgolf.audit import other_logs
from bitgolf.audit.log_lines import Score, Size, Step
from bitgolf.base.errors import BitgolfError

MOST_BYTES = 2**23  # of the logs of a folder that are read: half of each from its start, half from its end
MOST_LINES = 200_000  # of a log, likewise
MOST_LINE = 1000  # characters; longer lines are source or noise
MOST_SOURCE_LINES = 20_000
FEWEST = 3  # lines of training that make a text in other words a log
NUMBER = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf)"
IS = r"(?: ?[:=] ?| )"  # between a name and its number
SCORE = re.compile(rf"^(?P<tag>.*?)\bval_loss{IS}(?P<loss>{NUMBER})[ ,]+val_bpb{IS}(?P<bits>{NUMBER})")
STEP = re.compile(rf"^(?:(?:step{IS})?(?P<step>\d+) ?/ ?(?P<of>\d+)|step{IS}(?P<alone>\d+))\b")
TRAIN_LOSS = re.compile(rf"\b(?:train_|(?<!val )(?<!validation ))loss{IS}(?P<loss>{NUMBER})")
TIME = re.compile(
    rf"\b(?:train_|(?<!eval )(?<!val )(?<!evaluation ))time{IS}(?P<time>{NUMBER}) ?(?P<unit>ms|m|s)\b"
)
AVERAGE = re.compile(rf"\bstep_avg ?[:=] ?(?P<ms>{NUMBER}) ?ms")
SPEED = re.compile(r"(?<![\w.])(?P<ms>\d{1,9}(?:\.\d{1,9})?) ?ms(?:/| a | per )step\b")
EVALUATION = re.compile(
    rf"\b(?:total_)?eval(?:uation)?[_ ](?:time{IS}(?P<time>{NUMBER}) ?(?P<unit>ms|s)\b|"
    rf"seconds{IS}(?P<seconds>{NUMBER}))"
)
ELAPSED = re.compile(rf"\bdone\b.*\belapsed ?[:=] ?(?P<time>{NUMBER}) ?(?P<unit>ms|s)\b")
TOTAL = re.compile(r"Total submission size(?: (?P<form>[^:]*))?: (?P<bytes>\d+) bytes", re.IGNORECASE)
SUM = re.compile(
    rf"\b(?:bytes|model){IS}(?P<model>\d+)[ ,]+code{IS}(?P<code>\d+)[ ,]+total{IS}(?P<total>\d+)\b"
)
MODEL = re.compile(r"Serialized model(?: (?P<form>[^:]*))?: (?P<bytes>\d+) bytes", re.IGNORECASE)
CODE = re.compile(r"Code size(?: \((?P<form>\w+)\))?: (?P<bytes>\d+) bytes", re.IGNORECASE)
SETTING = re.compile(r"^ *(?P<name>[A-Za-z_]\w*) ?[:=] ?(?P<value>\S.*?) *$")
CALIBRATION = re.compile(
    rf"(?:calibrated|collected)\b.*\b(?:layers|hessians)\b.* in (?P<time>{NUMBER}) ?s\b", re.IGNORECASE
)
TOKENS = re.compile(r"(?:\bval_tokens ?[:=] ?|fineweb_val\S* tokens ?[:=] ?)(?P<tokens>\d+)")
TEXT = re.compile(r"^val_loader:.*\btokens:(?P<tokens>\d+) text_bytes:(?P<bytes>\d+)\b")
SEED = re.compile(rf"^ *seed{IS}(?P<seed>\d+)\b")
NAMED_SEED = re.compile(r"seed[-_ ]?(\d+)", re.IGNORECASE)
STAMP = re.compile(r"^(?:\d{9,}(?:\.\d+)? +|\[[^\]]*\d:\d\d[^\]]*\] *)")  # of time, before a line
RULE = re.compile(r"^[=\-*#]{40,}$")
# How the ternary and binary records tell of a step.
SHORT = re.compile(r"^(step:\d+/\d+) loss:(\S{1,20}) (?:[a-z]+:\S{1,20} ){0,5}t:(\d+)ms", re.MULTILINE)
MARKS = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))  # others are UTF-8, with a mark or without
SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0}


class Log(NamedTuple):
    """What a log says. lines: (number, text) without the sources that it begins with.

    settings: of the lines before the first step. calibration: (line, seconds) of each; own_text: whether it
    was on text that the model wrote itself. tokens: (line, count) of validation; text: (tokens, bytes) of the
    scored text, where the log says both.
    """

    path: Path
    seed: int | None
    lines: list[tuple[int, str]]
    source: str
    scores: list[Score]
    sizes: list[Size]
    steps: list[Step]
    settings: dict[str, tuple[int, str]]
    evaluations: list[tuple[int, float]]
    calibration: list[tuple[int, float]]
    own_text: bool
    tokens: tuple[int, int] | None
    text: tuple[int, int] | None
    cut: bool

    @property
    def final(self) -> Score | None:
        """The last score after training; else the last one."""
        after = [each for each in self.scores if each.step is None]
        return (after or self.scores or [None])[-1]  # type: ignore[list-item]

    @property
    def end(self) -> Step | None:
        """The last line of training that has a time."""
        timed = [each for each in self.steps if each.seconds is not None and each.step > 0]
        return max(timed, key=lambda each: each.step) if timed else None

    @property
    def interval(self) -> int:
        """Steps from one line of training to the next, at its end: so many more may have been made."""
        last = sorted({each.step for each in self.steps})[-3:]
        return min((after - before for before, after in itertools.pairwise(last)), default=0)

    def sizes_of(self, kind: str) -> list[Size]:
        """Lines with sizes of one kind, the packed ones where they are told apart: a raw checkpoint is no
        submission.
        """
        of_kind = [each for each in self.sizes if each.kind == kind]
        told = any(each.form for each in self.sizes if each.kind != "code")
        return of_kind if kind == "code" or not told else [each for each in of_kind if each.form]


def looks_like_log(text: str) -> bool:
    """Whether some text has lines of a training log."""
    lines = [STAMP.sub("", line) for line in text.splitlines() if len(line) <= MOST_LINE]
    public = any(
        SCORE.search(line) or (STEP.match(line) and (TRAIN_LOSS.search(line) or TIME.search(line)))
        for line in lines
    )
    return public or len([*other_logs.steps([*enumerate(lines)])]) >= FEWEST


def read_log(path: Path, shared_by: int = 1) -> Log:
    """A log from its file, at most MOST_BYTES of all that share them. Raises BitgolfError where it cannot be
    read.
    """
    data, cut = ends_of(path, shared_by)
    return parse_log(path, decoded(data), cut)


def ends_of(path: Path, shared_by: int = 1) -> tuple[bytes, bool]:
    """The bytes of a file, of a large one its start and its end, and whether its middle is left out."""
    try:
        file_bytes = path.stat().st_size
        most_bytes = MOST_BYTES // shared_by
        with path.open("rb") as file:
            data = file.read(most_bytes if file_bytes <= most_bytes else most_bytes // 2)
            if file_bytes > most_bytes:
                file.seek(file_bytes - most_bytes // 2)
                data += b"\n" + file.read(most_bytes // 2)
    except FileNotFoundError:
        raise BitgolfError("no such file", where=str(path)) from None
    except OSError as error:
        raise BitgolfError(f"cannot read: {error.strerror}", where=str(path)) from None
    return data, file_bytes > most_bytes


def encoding_of(data: bytes) -> str:
    """The encoding that a text's first bytes name; UTF-8 where they name none."""
    return next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")


def decoded(data: bytes) -> str:
    """A text in the encoding that its first bytes name."""
    return data.decode(encoding_of(data), errors="replace").lstrip("\ufeff")


def parse_log(path: Path, text: str, cut: bool = False) -> Log:
    """The same from its text."""
    told = SHORT.sub(r"\1 train_loss:\2 train_time:\3ms", text).splitlines()
    if len(told) > MOST_LINES:
        told, cut = told[: MOST_LINES // 2] + told[-MOST_LINES // 2 :], True
    source, lines = without_source([*map(_in_words, told)])
    log = Log(path, None, lines, source, [], [], [], {}, [], [], False, None, None, cut)
    seed, tokens, counted, own_text = None, None, None, False
    for number, line in lines:
        _read_line(log, number, line)
        if seed is None and (match := SEED.match(line)):
            seed = int(match["seed"][:18])
        if tokens is None and (match := TOKENS.search(line)):
            tokens = (number, int(match["tokens"][:18]))
        if counted is None and (match := TEXT.match(line)):
            counted = int(match["tokens"][:18]), int(match["bytes"][:18])
        own_text = own_text or bool(re.search(r"autoregressive|self-?gen", line, re.IGNORECASE))
    _in_other_words(log)
    if seed is None and (named := NAMED_SEED.search(path.stem)):
        seed = int(named[1][:18])
    return log._replace(seed=seed, tokens=tokens, text=counted, own_text=own_text)


def _in_other_words(log: Log) -> None:
    """What no public form says, from lines that say it otherwise."""
    if not log.scores:
        log.scores.extend(other_logs.scores(log.lines))
    if not any(each.seconds for each in log.steps):
        others = [*other_logs.steps(log.lines)]
        if not log.steps or any(each.seconds for each in others):
            log.steps[:] = others
    if not log.sizes_of("total"):
        log.sizes.extend(other_logs.totals(log.lines))
    if not log.evaluations:
        log.evaluations.extend(other_logs.evaluations(log.lines))


def _in_words(line: str) -> str:
    """A line of JSON, `{"val_bpb": 1.2, "step": 5}`, as others write: `step:5 val_loss:nan val_bpb:1.2`."""
    if not line.startswith("{") or len(line) > MOST_LINE:
        return line
    try:
        facts = {str(name): value for name, value in json.loads(line).items()}
    except (ValueError, RecursionError):
        return line
    loss, bits = facts.pop("val_loss", math.nan), facts.pop("val_bpb", None)
    ordered = {"step": facts.get("step"), **facts, "val_loss": loss, "val_bpb": bits}
    if bits is None:
        del ordered["val_loss"]
    return " ".join(f"{name}:{value}" for name, value in ordered.items() if value is not None)


def _read_line(log: Log, number: int, line: str) -> None:
    step = STEP.match(line)
    at = int((step["step"] or step["alone"])[:18]) if step else None
    time = TIME.search(line)
    seconds = float(time["time"]) * SECONDS[time["unit"]] if time else None
    evaluation = EVALUATION.search(line) or ELAPSED.search(line)
    took = seconds_of(evaluation) if evaluation else None
    if match := SCORE.match(line):
        decimals = len(match["bits"].partition(".")[2])
        numbers = float(match["loss"]), float(match["bits"])
        log.scores.append(Score(number, match["tag"].strip(" :"), *numbers, decimals, at, took))
    if step is None and (early := re.search(r"\bstep ?: ?(?P<step>\d+)/(?P<of>\d+)", line)):
        step, at = early, int(early["step"][:18])
    if step and at is not None and (time or TRAIN_LOSS.search(line)):
        loss, average = TRAIN_LOSS.search(line), AVERAGE.search(line) or (not time and SPEED.search(line))
        log.steps.append(
            Step(
                number,
                at,
                int((step["of"] or "0")[:18]),
                float(loss["loss"]) if loss else None,
                seconds,
                float(average["ms"]) if average else None,
                bool(time) and time["unit"] == "m",  # type: ignore[index]
            )
        )
    elif not step and not log.steps and (setting := SETTING.match(line)):
        log.settings.setdefault(setting["name"], (number, setting["value"]))
    for kind, pattern in (("total", TOTAL), ("model", MODEL), ("code", CODE)):
        if match := pattern.search(line):
            log.sizes.append(Size(number, kind, (match["form"] or "").strip(), int(match["bytes"][:18])))
    if match := SUM.search(line):
        for kind, form in (("model", "packed"), ("code", ""), ("total", "packed")):
            log.sizes.append(Size(number, kind, form, int(match[kind][:18])))
    if took is not None and at is None:
        log.evaluations.append((number, took))
    if calibration := CALIBRATION.search(line):
        log.calibration.append((number, float(calibration["time"])))


def seconds_of(match: re.Match[str]) -> float:
    """A time that stands with its unit, or after a name that has it."""
    return float(match["time"]) * SECONDS[match["unit"]] if match["time"] else float(match["seconds"])


def without_source(told: Sequence[str]) -> tuple[str, list[tuple[int, str]]]:
    """The script that a log begins with, and the other lines by number; stamps of time are taken off."""
    lines = [STAMP.sub("", line) for line in told]
    rules = [-1, *(i for i, line in enumerate(lines) if RULE.match(line.strip())), len(lines)]
    source, inside = "", set[int]()
    for start, end in zip(rules, rules[1:]):
        piece = lines[start + 1 : end]
        if len(piece) < 2 or end - start > MOST_SOURCE_LINES or not any("import " in each for each in piece):
            continue
        if is_python(body := "\n".join(piece)):
            source = source or body
            inside.update(range(start + 1, end))
    # Nothing to be told from a line of this length, and patterns would take their time.
    return source, [
        (i + 1, line) for i, line in enumerate(lines) if i not in inside and len(line) <= MOST_LINE
    ]


def is_python(text: str) -> bool:
    """Whether a text is a Python program of some size."""
    try:
        return len(ast.parse(text).body) > 10
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
