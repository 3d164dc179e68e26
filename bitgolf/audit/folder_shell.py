"""What the scripts of a folder start: many seeds, options that nobody reads, lost failures."""

import ast
import re
from collections.abc import Iterator
from contextlib import suppress

from bitgolf.audit.bounded import start_of, text_at
from bitgolf.audit.finding import SUSPECTED, Finding
from bitgolf.audit.folder import Record
from bitgolf.audit.script import Script
from bitgolf.audit.tree import nodes

LOOP = re.compile(
    r"\bfor (?P<name>\w{1,30}) in (?P<over>[^;\n]{1,2000}?) *(?:;|\n)\s*do\b(?P<body>.{0,4000}?)\bdone\b",
    re.DOTALL,
)
SPAN = re.compile(r"seq (\d{1,9}) (\d{1,9})\)|\{(\d{1,9})\.\.(\d{1,9})\}")
OPTION = re.compile(r"(?<!\S)(?:--([A-Za-z][\w-]*)|([A-Za-z]\w*)=)")
PIPED = re.compile(r"(?:>&1)? *\| *tee\b")  # behind what a run is given


def shell_scripts(record: Record, script: Script | None) -> Iterator[Finding]:
    """K14, T21."""
    for name in (each for each in record.files if each.endswith(".sh")):
        text = text_at(record.folder / name)
        yield from many_seeds(record, name, text)
        if script is not None and record.entry is not None:
            yield from unread_options(script, record.entry.name, name, text)


def launchers(record: Record, script: Script | None) -> Iterator[Finding]:
    """T21: options that a Python file beside the entry hands it in a list, and that nobody reads."""
    if script is None or record.entry is None:
        return
    source = "".join(layer.text for layer in script.layers).replace("-", "_")
    for path in (each for each in record.scripts if each != record.entry):
        with suppress(SyntaxError, ValueError, RecursionError):
            for node in nodes(ast.parse(start_of(path)), ast.List, ast.Tuple):
                words = [str(each.value) for each in node.elts if isinstance(each, ast.Constant)]
                for word in words if any(each.endswith(record.entry.name) for each in words) else ():
                    if (option := OPTION.match(word)) and _name(option).replace("-", "_") not in source:
                        message = f"{option[0].rstrip('=')} is no option of {record.entry.name}"
                        yield Finding("T21", SUSPECTED, f"{path.name}:{node.lineno}", message)


def _name(option: re.Match[str]) -> str:
    return option[1] or option[2]


def many_seeds(record: Record, name: str, text: str) -> Iterator[Finding]:
    """K14: far more seeds are run than are reported."""
    reported = max(3, len(record.claims.seeds) if record.claims else 0)
    for loop in LOOP.finditer(text):
        turns = len(loop["over"].split())
        if span := SPAN.search(loop["over"]):
            first, last = (int(each) for each in span.groups() if each)
            turns = last - first + 1
        is_seed = re.search(rf"seed[ =]+[\"']?\$\{{?{loop['name']}\b", loop["body"], re.IGNORECASE)
        if is_seed and turns > 2 * reported:
            where = f"{name}:{text.count(chr(10), 0, loop.start()) + 1}"
            yield Finding("K14", SUSPECTED, where, f"{turns} seeds are run", "those that are reported")


def unread_options(script: Script, entry: str, name: str, text: str) -> Iterator[Finding]:
    """T21: options whose name is nowhere in the script; a pipe that hides a run which failed."""
    source = "".join(layer.text for layer in script.layers).replace("-", "_")
    stops = re.search(r"^set -\w*e", text, re.MULTILINE) and "pipefail" not in text
    for run in re.finditer(rf"{re.escape(entry)}((?:[^\n#|;&>\\]|\\\n)*)", text):
        where = f"{name}:{text.count(chr(10), 0, run.start()) + 1}"
        for option in OPTION.finditer(run[1]):
            if _name(option).replace("-", "_") not in source:
                message = f"{option[0].rstrip('=')} is no option of {entry}"
                yield Finding("T21", SUSPECTED, where, message)
        if stops and PIPED.match(text, run.end()):
            message = "a run that fails before `| tee` does not end the script"
            yield Finding("T21", SUSPECTED, where, message)
