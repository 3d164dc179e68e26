"""What several verbs show alike."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import parse_overrides
from bitgolf.corpus.textfile import refuse_special
from bitgolf.inputs.resolve import find_recipe
from bitgolf.public.defaults import read_defaults, taken
from bitgolf.public.variables import apply_variables, variable_rows
from bitgolf.recipe import Recipe
from bitgolf.report import screen
from bitgolf.rivals.compressors import better_ones
from bitgolf.run.positions import positions_in_words
from bitgolf.run.result import RunResult

TEXT = "\n\t"  # what stays as it is where a terminal shows text of a model


def changed_recipe(
    name: str, variables: dict[str, str], overrides: list[str] | None, *, quiet: bool
) -> Recipe:
    """A recipe with public variables, which are shown, and then with single settings changed."""
    recipe = find_recipe(name)
    changed = apply_variables(recipe, variables)
    if variables:
        header = ("public variable", "value", "setting", "before", "after")
        rows = variable_rows(recipe, changed, variables)
        screen.table("What the public variables change", header, rows, as_json=quiet)
    return parse_overrides(changed, overrides or [])


def like_script(name: str, script: Path, given: dict[str, str], *, quiet: bool) -> dict[str, str]:
    """The variables given, and a script's defaults that a recipe takes; the others are shown.

    Raises BitgolfError for a script that has none: it is then not what was meant.
    """
    refuse_special(script)
    defaults, unread = read_defaults(script)
    if not (defaults or unread):
        raise BitgolfError(
            "no defaults of variables in it",
            where=str(script),
            way_out='give a script with os.environ.get("NAME", default) or a class of hyperparameters, '
            "or name settings with --env and --set",
        )
    rest = {variable: text for variable, text in defaults.items() if variable not in given}
    kept, left = taken(find_recipe(name), rest)
    if left := [*unread, *left]:
        rows = [(one.name, one.default[:40], one.why) for one in left]
        screen.table(f"Not taken from {script.name}", ("variable", "default", "why"), rows, as_json=quiet)
    return kept | given


def free_folder(path: Path) -> Path:
    """The path, or the first of path-2, path-3 ... that holds no run yet."""
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 1000))]
    return next(folder for folder in candidates if not (folder / "recipe.json").exists())


def meaning_of(result: RunResult) -> str:
    """What its score means, in a sentence."""
    bits = result["bits_per_byte"]
    text = f"{bits:.4f} bits per byte: text that it has not seen becomes {8 / bits:.2f} times smaller"
    rows = [row for row in result.get("rivals", []) if row.get("primed_bits_per_byte")]
    if not rows:
        return text + "."
    best = min(rows, key=lambda row: row["primed_bits_per_byte"])
    other = best["primed_bits_per_byte"]
    return (
        f"{text}; {best['name']}, given the same training text, makes it {8 / other:.2f} times smaller "
        f"({other:.4f})."
    )


def show_result(result: RunResult, as_json: bool, following: str, leave_out: Container[str] = ()) -> None:
    """A result as tables and lines. Exit code 1 where it is not ok.

    leave_out: figures that stand in the report and are not shown to people here.
    """
    if "bits_per_byte" in result and not as_json:
        print(f"{screen.escaped(meaning_of(result))}\n")
    header = ("weights", "windows", "bits per byte", "nats per token", "seconds")
    keys = ("name", "windows", "bits_per_byte", "nats_per_token", "seconds")
    rows = [[variant.get(key) for key in keys] for variant in result.get("variants", [])]
    if rows:
        screen.table("Live, averaged and quantized weights, side by side", header, rows, as_json=as_json)
    if "rivals" in result:
        bits = result.get("bits_per_byte")
        parts = ("budget", "primed", "alone")
        compared = [
            (row["name"], *(row.get(f"{part}_bits_per_byte") for part in parts)) for row in result["rivals"]
        ]
        title = "The same text by general compressors, in bits per byte"
        columns = ("", "within the budget", "with the training text", "alone")
        screen.table(title, columns, [("this model", bits, bits, None), *compared], as_json=as_json)
        if bits is not None and not as_json:
            better = ", ".join(better_ones(result["rivals"], bits))
            print(f"Better than this model: {better}\n" if better else "No compressor is better.\n")
    if result.get("public_models"):
        size = result.get("total_bytes") or result.get("artifact_bytes")
        show_public_models(result["public_models"], result.get("bits_per_byte"), size, as_json)
    if "proof" in result:
        proof = result["proof"]
        lines = [
            ("coded, and read back", proof["bits_per_byte"], proof["coded_bytes"]),
            ("scored, same windows", proof["stepwise_bits_per_byte"], None),
        ]
        title = f"A score proven: {proof['text_bytes']:,} bytes of the validation text"
        if proof.get("unadapted"):
            title += ", by the model as it is packed"
        screen.table(title, ("", "bits per byte", "bytes"), lines, as_json=as_json)
    show_alarms(result, as_json)
    if "sample" in result and not as_json:
        print(f"A sample\n{screen.escaped(result.pop('sample').strip(), keep=TEXT)}\n")
    scored = "bits_per_byte" in result  # else there is nothing to go on with
    positions = {"query_positions": positions_in_words(result)} if scored and not as_json else {}
    facts = {**result, **positions, **({"next": following} if scored else {})}
    shown = facts if as_json else {name: value for name, value in facts.items() if name not in leave_out}
    screen.close(shown, as_json=as_json)
    if result["status"] != "ok":
        raise typer.Exit(1)


def show_public_models(
    rows: Sequence[Mapping[str, Any]], bits: float | None, own_bytes: int | None, as_json: bool
) -> None:
    """What public models make of the same text, beside this one; their weights are counted alone."""
    others = [
        (row["name"], row["bits_per_byte"], row["model_bytes"] or None, row["parameters"]) for row in rows
    ]
    title = "The same text by public models, which are of any size and have read other texts"
    columns = ("", "bits per byte", "bytes", "parameters")
    screen.table(title, columns, [("this model", bits, own_bytes, None), *others], as_json=as_json)


class Verdict(Protocol):
    """How one of many checks ended: passed, failed or left out."""

    @property
    def ended(self) -> str: ...

    def _asdict(self) -> dict[str, Any]: ...


def close_verdicts(
    name: str,
    verdicts: Sequence[Verdict],
    subject: Mapping[str, Any],
    amount: Mapping[str, Any],
    *,
    as_json: bool,
) -> None:
    """The last words on many checks: how many ended how. Exit code 1 where one failed.

    name: of their list in JSON. subject, amount: what was checked and how much, around the status.
    """
    ended = Counter(each.ended for each in verdicts)
    status = {"status": "failed" if ended["failed"] else "ok"}
    counts = {"passed": ended["passed"], "failed": ended["failed"], "left_out": ended["left out"]}
    whole = {name: [each._asdict() for each in verdicts]} if as_json else {}
    screen.close({**subject, **status, **amount, **counts, **whole}, as_json=as_json)
    if ended["failed"]:
        raise typer.Exit(1)


def show_alarms(result: Mapping[str, Any], as_json: bool) -> None:
    rows = [(row["name"], row["alarm"]) for row in result.get("quantization", []) if row.get("alarm")]
    if rows:
        screen.table("Alarms", ("tensor", ""), rows, as_json=as_json)
