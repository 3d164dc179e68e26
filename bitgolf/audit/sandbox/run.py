"""A script runs in the sandbox; what was seen of it, for people and programs."""

import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bitgolf
from bitgolf.audit.sandbox import box
from bitgolf.audit.sandbox.lines import SIZES, STAGES, TINY, UNTRAINED, Line, Task, parsed
from bitgolf.audit.unwrap import unwrapped

INSIDE = "import sys; sys.path.insert(0, '/lent'); from bitgolf.audit.sandbox.stages import main; main()"
SENT = (".py", ".json", ".txt", ".cpp", ".cu", ".h", ".model", ".vocab", ".toml", ".yaml")
MOST_SENT_BYTES, MOST_SENT = 2**21, 60
MOST_LETTERS = 240
HOW = {"told": " by what it reports", "part": " by a part of it"}


class Run(NamedTuple):
    """A script that ran in a sandbox. stopped: the limit that ended it; lines: what was seen."""

    script: str
    code_bytes: int
    way: str
    seconds: float
    stopped: str
    lines: list[Line]

    def of(self, event: str, *stages: str) -> list[Line]:
        """What was seen of a kind."""
        return [
            each for each in self.lines if each["event"] == event and (not stages or each["stage"] in stages)
        ]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return self._asdict()

    def summary(self) -> Iterator[str]:
        """For people, a line each."""
        yield f"run in a sandbox ({self.way}), {self.seconds:.0f} s" + (
            f", ended at {self.stopped}" if self.stopped else ""
        )
        for each in self.of("sizes", SIZES)[:1]:
            shape = f"{each.get('layers', 0)} layers, width {each.get('width', 0)}"
            shape += f", vocabulary {each.get('vocabulary', 0):,}, {self.code_bytes:,} bytes of code"
            yield f"as written: {each.get('parameters', 0):,} parameters, {shape}"
        for each in self.of("ran"):
            if each["rank"] == 0 or each.get("ended") != "passed":
                yield f"{each['stage']}: {each.get('ended', '')} {short(each.get('why', ''))}".rstrip()
        for each in self.of("evaluated", TINY, UNTRAINED):
            loss_text = f"reports {each.get('loss', 0):.5f} nats a token"
            yield f"{each['stage']}: {short(each.get('name', ''))} {loss_text}"
        for each in self.of("probe"):
            how = HOW.get(each.get("how", ""), "")
            why = f": {short(each['why'])}" if each.get("why") else ""
            name, ended = short(each.get("name", "")), short(each.get("ended", ""))
            yield f"{name}, {short(each.get('probe', ''))}{how}: {ended}{why}"


def short(text: str) -> str:
    """Words from inside, on one line and not too many."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return plain if len(plain) <= MOST_LETTERS else plain[:MOST_LETTERS] + "..."


def run(script: Path, way: str, limits: box.Limits, stages: Sequence[str] = STAGES) -> Run:
    """Run a script; it is read here and executed there. stages: what is tried with it."""
    data = script.read_bytes()
    text = unwrapped(script.name, data)[-1].text
    match = re.search(r"""VOCAB_SIZE["'][^0-9\n]{1,9}(\d{2,6})""", text)
    vocabulary = int(match[1]) if match else 1024
    task = Task(text, f"/in/folder/{script.name}", limits.seconds - 3, vocabulary, tuple(stages))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as outside:
        Path(outside).chmod(0o755)
        folder = Path(outside, "folder")
        folder.mkdir()
        Path(outside, "task.json").write_text(json.dumps(task._asdict()), encoding="utf-8")
        for each in [script, *sorted(script.parent.iterdir())[: 10 * MOST_SENT]][: MOST_SENT + 1]:
            sent = each.suffix in SENT and each.is_file() and not each.is_symlink()
            if each == script or (sent and each.stat().st_size <= MOST_SENT_BYTES):
                (folder / each.name).write_bytes(each.read_bytes())
        lent = [(outside, "/in"), (str(Path(bitgolf.__file__).resolve().parent), "/lent/bitgolf")]
        ended = box.run([sys.executable, "-I", "-c", INSIDE, "/in/task.json"], lent, limits, way)
    stopped = ended.stopped or (f"code {ended.code}: {short(ended.stderr)[-200:]}" if ended.code else "")
    lines = list(parsed(ended.output))
    return Run(script.name, len(data), way, time.monotonic() - started, stopped, lines)
