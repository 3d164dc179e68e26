"""The command line: its verbs. The module of a verb is imported when that verb is asked for."""

import atexit
import gc
import importlib
import importlib.metadata
import inspect
import io
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from bitgolf import yield_cores
from bitgolf.base.errors import BitgolfError, nearest
from bitgolf.base.events import is_first_process
from bitgolf.cli.faults import ended

# In the order of a first day. The line of a verb is the first of its docstring.
VERBS = {
    "make": "Make a packed model from text: chosen for these bytes and minutes, trained, scored, compared.",
    "demo": "The whole story on real text, in about five minutes on two cores.",
    "run": "Train, squeeze, reload and score a recipe; all results go into a run folder.",
    "show": "Show a recipe at a glance, or as a single script.",
    "data": "Tokenize a text and print its passport, or check every hash of a dataset.",
    "pack": "Pack a trained run again by other rules, without training, or compare several rules.",
    "score": "Measure bits per byte of a packed model, on its own validation text or on any other.",
    "prove": "Prove a score: code the text with the packed model, and decode it.",
    "probe": "Test whether a scorer keeps the rules: of a run, of your file, or of anyone's program.",
    "compress": "Compress any file with a packed model.",
    "decompress": "Restore a file that `bitgolf compress` wrote.",
    "sample": "Write text with a packed model.",
    "serve": "Serve a packed model by the OpenAI completions protocol, on this machine.",
    "export": "Export a packed model: a Hugging Face folder, ONNX or safetensors.",
    "share": "Write a packed model as one HTML file that runs it in the browser.",
    "compare": "Show where two recipes differ, or what can be claimed of runs, in a sentence.",
    "forecast": "Forecast bytes, memory and time of a recipe before training, and what fills its budget.",
    "techniques": "List all techniques with source, bytes and public variables, or show all about one.",
    "check": "Check whether the techniques in your file behave as ours must; failures are said in words.",
    "study": "Change one thing at a time, over several seeds, with intervals and verdicts.",
    "watch": "Send the metrics of a run, also while it runs, to TensorBoard, Weights & Biases or trackio.",
    "board": "Show all runs below a folder on one page: sortable table, curves, scores against costs.",
    "submit": "Write the record folder of finished runs, one per seed: script, claims, README, logs, hashes.",
    "audit": "Find what is wrong with anyone's folder, script, log or artifact; executes it only with --run.",
    "log": "Show any public training log as a table and curves, and the differences of two.",
    "findings": "Show what all studies found, null results included, and separately what others published.",
}
PATHS = ("--out", "-o", "--data", "--text", "--in", "--html", "--report", "--import", "--cited", "--check")
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
    sys.exit(ended(lambda: _on_named_paths(own), as_json="--json" in own))


def _on_named_paths(arguments: Sequence[str]) -> None:
    """The command line, unless a path in it is empty: that is a variable of the shell which nobody set.

    It would mean the current folder, whose files a result could replace.
    """
    where = "".join(arguments[:1]) if arguments[1:2] == [""] else ""
    for before, each in zip(arguments, arguments[1:]):
        option = before if not each else each.removesuffix("=")
        where = option if option in PATHS and (not each or each.endswith("=")) else where
    if where:
        way_out = "name one; . is the current folder"
        raise BitgolfError("an empty path or name", where=where, way_out=way_out)
    app()
