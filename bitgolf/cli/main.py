"""The command line: its verbs. The module of a verb is imported when that verb is asked for."""

import atexit
import gc
import importlib
import importlib.metadata
import inspect
import io
import sys
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from bitgolf import yield_cores
from bitgolf.base.errors import nearest
from bitgolf.base.events import is_first_process
from bitgolf.cli.faults import ended

# In the order of a first day. The line of a verb is the first of its docstring.
VERBS = {
    "make": "From text to a packed model: chosen for these bytes and minutes, trained, scored, compared.",
    "demo": "The whole story on real text, in some five minutes on two cores.",
    "run": "Train, squeeze, reload and score a recipe; everything lands in a run folder.",
    "show": "A recipe at a glance, or the one file that it becomes.",
    "data": "Tokenize a text once and print its passport; of a dataset, check every hash.",
    "pack": "Pack a trained run again by other rules, without training; or see what several would give.",
    "score": "Bits per byte of a packed model, from its bytes alone; on its own validation text if not told.",
    "prove": "A score proven: the text written as bits by the packed model, and read back.",
    "probe": "Whether a scorer keeps the rules: that of a run, of a file of yours, or anyone's program.",
    "compress": "Any file, compressed by a packed model.",
    "decompress": "The bytes of a file that `bitgolf compress` wrote.",
    "sample": "Text from a packed model.",
    "serve": "A packed model behind the OpenAI completions protocol, on this machine.",
    "export": "A packed model for other programs: a Hugging Face folder, ONNX or safetensors.",
    "share": "A packed model as one HTML file that runs it in the browser: type, and watch it write.",
    "compare": "Where two recipes differ, setting by setting; of runs, what can be claimed, in a sentence.",
    "forecast": "What a recipe will weigh and cost, before any training, and what would fill its budget.",
    "techniques": "Every technique: its source, what it weighs, its public variables; or all about one.",
    "check": "Whether the techniques in a file of yours keep what ours keep; each failure in words.",
    "study": "One change at a time, over several seeds, with intervals and verdicts.",
    "watch": "The metrics of a run, also while it goes on, in TensorBoard, Weights & Biases or trackio.",
    "board": "All runs below a folder on one page: a table that sorts, curves, scores against costs.",
    "submit": "The record folder of finished runs, one a seed: script, claims, README, logs, hashes.",
    "audit": "What is wrong with anyone's folder, script, log or artifact; executed with --run alone.",
    "log": "Any public training log as a table and curves; of two, where they differ.",
    "findings": "What all studies found, null results too; beside it, apart, what others published.",
}
AT_ONCE = ("show", "compare", "techniques", "findings")  # verbs that only look, and end at once


class Completion(NamedTuple):
    """A word that the shell can complete."""

    value: str
    help: str
    type: str = "plain"


class Verbs(TyperGroup):
    """Commands that are known by name and line, and imported one by one."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in their order."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The function of that name in the module of that name."""
        if cmd_name not in VERBS:
            ctx.fail(f"no such command: {cmd_name}; {nearest(cmd_name, VERBS)}")
        one = typer.Typer(add_completion=False, rich_markup_mode=None)
        verb = getattr(importlib.import_module(f"bitgolf.cli.{cmd_name}"), cmd_name)
        # The mark keeps each example on a line of its own.
        text = inspect.cleandoc(verb.__doc__).replace("\n\nExample: ", "\n\n\b\nExample: ", 1)
        one.command(cmd_name, context_settings=HELP, help=text)(verb)
        return typer.main.get_command(one)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """The verbs that begin so, without importing any; options as ever."""
        verbs = [Completion(name, line) for name, line in VERBS.items() if name.startswith(incomplete)]
        return verbs if incomplete.isalpha() or not incomplete else super().shell_complete(ctx, incomplete)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of verbs in `bitgolf --help`, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
    context_settings=HELP,
    help="Train, squeeze and prove the best language model that fits in N bytes. Start with: bitgolf demo",
)


def _version(requested: bool) -> None:
    if requested:
        print(f"bitgolf {importlib.metadata.version('bitgolf')}")
        raise typer.Exit


@app.callback()
def bitgolf(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before a verb."""


def _leave_all_as_it_is() -> None:
    """At the end. Triton, which comes with torch for GPUs, would complain of all that is never collected."""
    if "triton" not in sys.modules:
        gc.freeze()


def main() -> None:
    """The console script: whatever happens ends in one line and an exit code, see `faults`.

    Under torchrun the first process speaks for all.
    """
    # torch is half a million objects, and none of them is garbage. To look through them while they are made,
    # and once more at the end of the process, takes a third of the time of a verb that only looks.
    atexit.register(_leave_all_as_it_is)
    if sys.argv[1:2] and sys.argv[1] in AT_ONCE:
        gc.disable()
    yield_cores()
    if not is_first_process():
        sys.stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")
    arguments = sys.argv[1:]
    # What follows -- is another program's.
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    sys.exit(ended(app, as_json="--json" in own))
