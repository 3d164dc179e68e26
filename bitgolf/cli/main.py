"""The verbs of the command line. Each ends with a block of `name: value` lines, or one JSON object."""

import io
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import diff, parse_changes, to_json
from bitgolf.catalog.techniques import (
    by_slot,
    find_technique,
    path_in_words,
    record,
    table_row,
    techniques,
)
from bitgolf.cli.faults import ended
from bitgolf.cli.repack import OWN, TABLES, chunked, compare_tables, filling, open_run, pack_again
from bitgolf.cli.work import sample_text, score_artifact, work
from bitgolf.corpus.belonging import check_belonging
from bitgolf.forecast.budget import expected_tokenizer_bytes, forecast_seconds
from bitgolf.forecast.budget import forecast as forecast_recipe
from bitgolf.forecast.room import room
from bitgolf.inputs.find import find_artifact, find_dataset, find_recipe
from bitgolf.net.model import parameter_shapes
from bitgolf.public.byte_counts import public_rule
from bitgolf.public.variables import apply_variables, parse_variables, seed_of, variable_rows
from bitgolf.recipe import Recipe
from bitgolf.report import screen
from bitgolf.report.charts import sparkline, trimmed
from bitgolf.report.tensors import GAPS, bits_per_byte_of, nominal_bits, shown_error
from bitgolf.score.metric import summary
from bitgolf.script.counted import script_of
from bitgolf.script.flatten import flatten
from bitgolf.script.optional import is_installed
from bitgolf.squeeze.quantize import Quantizer
from bitgolf.study.cli import findings, show_against, show_comparison, study
from bitgolf.study.runs import run_folders
from bitgolf.train.optim import assign_parameters
from bitgolf.train.schedule import Progress
from bitgolf.train.world import is_first_process

BITS = "bits_per_byte"
TEXT = "\n\t"  # what stays as it is where a terminal shows text of a model
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, squeeze and prove the best language model that fits in N bytes. Start with: bitgolf demo",
)

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one setting, e.g. --set train.steps=100."),
]
Variables = Annotated[
    list[str] | None,
    typer.Option(
        "--env", metavar="NAME=VALUE", help="A variable of the public scripts, e.g. --env EMA_DECAY=0.997."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the initial weights.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder to write.")]
Data = Annotated[
    str, typer.Option("--data", help="Dataset folder, text file or folder, hf:OWNER/NAME, sotu.")
]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Name, file.py:function, or recipe.json.")]
ModelName = Annotated[str, typer.Argument(metavar="RUN|ARTIFACT", help="A run folder or a model.bin.")]


@app.command()
def demo(
    out: Out = None,
    train_seconds: Annotated[
        float | None, typer.Option(help="Seconds of training; 180 if not given.")
    ] = None,
    seed: Seed = 1337,
    as_json: Json = False,
) -> None:
    """The whole story on real text, in under five minutes on two cores.

    Trains a small model on two centuries of State of the Union addresses, packs it under 1,000,000 bytes,
    reloads the packed bytes, scores them beside xz, zstd and brotli, and writes report.html.

    Example: bitgolf demo --train-seconds 60
    """
    changes = [] if train_seconds is None else [f"train.train_seconds={train_seconds}"]
    folder = out or _free_folder(Path("runs/demo"))
    steps = work(find_recipe("demo", changes), "sotu", folder, seed, against_rivals=True)
    _finish(screen.follow(steps), as_json, f"bitgolf sample {folder} --prompt 'My fellow citizens'")


@app.command()
def run(
    recipe: RecipeName,
    changes: Changes = None,
    variables: Variables = None,
    data: Data = "sotu",
    out: Out = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the initial weights; 1337 if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Train, squeeze, reload and score a recipe; everything lands in a run folder.

    Example: bitgolf run demo --set train.train_seconds=60 --out runs/short
    """
    given = parse_variables(variables or [])
    seed = seed_of(given, seed)
    chosen = _changed(recipe, given, changes, quiet=as_json)
    folder = out or Path("runs") / f"{chosen.name}-{chosen.identity()[:8]}-{seed}"
    result = screen.follow(work(chosen, data, folder, seed, resume=resume, variables=given))
    _finish(result, as_json, f"bitgolf score {folder}")


def _changed(name: str, variables: dict[str, str], changes: list[str] | None, *, quiet: bool) -> Recipe:
    """A recipe with public variables, which are shown, and then with single settings changed."""
    recipe = find_recipe(name)
    changed = apply_variables(recipe, variables)
    if variables:
        header = ("public variable", "value", "setting", "before", "after")
        rows = variable_rows(recipe, changed, variables)
        screen.table("What the public variables change", header, rows, as_json=quiet)
    return parse_changes(changed, changes or [])


def _free_folder(path: Path) -> Path:
    """The path, or the first of path-2, path-3 ... that holds no run yet."""
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 1000))]
    return next(folder for folder in candidates if not (folder / "recipe.json").exists())


def _finish(result: dict[str, Any], as_json: bool, following: str) -> None:
    header = ("weights", "windows", "bits per byte", "nats per token", "seconds")
    keys = ("name", "windows", "bits_per_byte", "nats_per_token", "seconds")
    rows = [[variant.get(key) for key in keys] for variant in result.get("variants", [])]
    if rows:
        screen.table("Live, averaged and quantized weights, side by side", header, rows, as_json=as_json)
    if "rivals" in result:
        rivals = [
            (row["name"], row["primed_bits_per_byte"], row["alone_bits_per_byte"]) for row in result["rivals"]
        ]
        ours = ("this model", result.get("bits_per_byte"), None)
        title = "The same text by general compressors, in bits per byte"
        columns = ("", "with the training text", "alone")
        screen.table(title, columns, [ours, *rivals], as_json=as_json)
    _show_alarms(result, as_json)
    if "sample" in result and not as_json:
        print(f"A sample\n{screen.escaped(result.pop('sample').strip(), keep=TEXT)}\n")
    scored = "bits_per_byte" in result  # else there is nothing to go on with
    screen.close(result | ({"next": following} if scored else {}), as_json=as_json)
    if result["status"] != "ok":
        raise typer.Exit(1)


@app.command()
def show(
    recipe: RecipeName,
    changes: Changes = None,
    variables: Variables = None,
    script: Annotated[bool, typer.Option("--script", help="Print the single file that it becomes.")] = False,
    packed: Annotated[bool, typer.Option("--packed", help="With --script: self-extracting.")] = False,
    as_json: Json = False,
) -> None:
    """A recipe at a glance, or the one file that it becomes.

    Example: bitgolf show demo --script > train_gpt.py
    """
    given = parse_variables(variables or [])
    chosen = _changed(recipe, given, changes, quiet=as_json or script)
    if script:
        sys.stdout.buffer.write(script_of(chosen) if packed else flatten(chosen).encode())
        return
    tables = ("optim.rows", "quantize.rules")
    changes_made = [(path, right) for path, _, right in diff(Recipe(), chosen) if not path.startswith(tables)]
    title = f"{chosen.name}: what differs from the defaults"
    screen.table(title, ("setting", "value"), changes_made, as_json=as_json)
    header = ("who", "update rule", "rate", "tensors", "parameters")
    screen.table("Parameters, first match wins", header, parameter_table(chosen), as_json=as_json)
    header = ("who", "quantizer", "bits", "tensors", "parameters")
    screen.table("Quantization, first match wins", header, quantization_table(chosen), as_json=as_json)
    brotli = chosen.but({"budget.code_codec": "brotli"})
    facts = {
        "recipe": chosen.name,
        "recipe_identity": chosen.identity(),
        "code_bytes": len(script_of(chosen)),
        "code_bytes_with_brotli": len(script_of(brotli)) if is_installed("brotli") else None,
        "settings": to_json(chosen),
    }
    screen.close(facts | ({"public_variables": given} if given else {}), as_json=as_json)


def parameter_table(recipe: Recipe) -> list[tuple[Any, ...]]:
    """Pattern, rule, rate, and how much of the model each row of the parameter table takes."""
    shapes = parameter_shapes(recipe.model)
    taken = assign_parameters(recipe.optim, {n: torch.empty(s, device="meta") for n, s in shapes.items()})
    return [
        (
            row.pattern,
            type(row.rule).__name__,
            row.rule.rates(1.0, Progress(0, 1))["lr"],
            len(names),
            sum(math.prod(shapes[name]) for name in names),
        )
        for row, names in zip(recipe.optim.rows, taken)
    ]


def quantization_table(recipe: Recipe) -> list[tuple[Any, ...]]:
    """Patterns, quantizer, bits, and how much of the model each quantization rule takes."""
    shapes = parameter_shapes(recipe.model)
    chosen = recipe.quantize.assign({n: torch.empty(s, device="meta") for n, s in shapes.items()})
    return [
        (
            rule.patterns,
            type(rule.quantizer).__name__,
            bits_of(rule.quantizer),
            len(names),
            sum(math.prod(shapes[name]) for name in names),
        )
        for i, rule in enumerate(recipe.quantize.rules)
        for names in [[name for name, place in chosen.items() if place == i]]
    ]


def bits_of(quantizer: Quantizer) -> float:
    """Bits of each number, before any entropy coding."""
    one = torch.ones(1, 1)
    return nominal_bits(quantizer, one, quantizer.quantize(one))


@app.command()
def data(
    source: Annotated[
        str, typer.Argument(help="sotu, text file or folder, hf:OWNER/NAME, a dataset.")
    ] = "sotu",
    vocabulary_size: Annotated[int, typer.Option(help="Pieces of the tokenizer trained on it.")] = 1024,
    case_ops: Annotated[
        bool, typer.Option("--case-ops", help="Capitals as operators before lower-case letters.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tokenize a text once and print its passport; of a dataset, check every hash.

    Example: bitgolf data my_texts/ --vocabulary-size 2048
    """
    dataset = screen.follow(find_dataset(source, vocabulary_size, case_ops))
    dataset.verify()
    for stream in (dataset.train, dataset.val):
        check_belonging(stream.paths, dataset.tokenizer)
    passport = dataset.passport
    header = ("split", "documents", "text bytes", "tokens", "bytes per token")
    rows = [
        (name, part["documents"], part["text_bytes"], part["tokens"], part["text_bytes"] / part["tokens"])
        for name, part in passport["splits"].items()
    ]
    screen.table(str(passport.get("name")), header, rows, as_json=as_json)
    screen.close({"folder": str(dataset.folder), "verified": True, **passport}, as_json=as_json)


@app.command()
def pack(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    changes: Changes = None,
    tables: Annotated[
        str | None,
        typer.Option("--compare", metavar="NAMES", help="Ready tables with commas between them, or `all`."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; RUN/packed if not given.")
    ] = None,
    budget_bytes: Annotated[
        int | None, typer.Option("--budget-bytes", min=1, help="Fill so many bytes, code included.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option("--data", help="Its dataset, if not where it was.")] = None,
    as_json: Json = False,
) -> None:
    """Pack a trained run again by other rules, without training; or see what several would give.

    Every figure comes from reloaded bytes. Gaps are to the float weights on the same tokens, with a standard
    error over sequences; predicted is what curvature lets expect, where it is known of every tensor. With
    --compare nothing is written; `recipe` is the run's own table. With --budget-bytes the rate-aware rounding
    is used (unless the run's own table has it), at the rate that fills the budget to the last tenth of a
    percent.

    Example: bitgolf pack runs/demo --compare int8,int6,gptq,gptq-sdclip
    """
    trained = open_run(folder, changes or [], dataset)
    if budget_bytes is not None:
        trained = filling(trained, budget_bytes)
    if tables is None:
        place = out or folder / "packed"
        result = screen.follow(pack_again(trained, place))
        _show_tensors(result, as_json)
        following = f"bitgolf score {place}"
        screen.close({**result, "packed": str(place), "next": following}, as_json=as_json)
        if result["status"] != "ok":
            raise typer.Exit(1)
        return
    names = [OWN, *TABLES] if tables == "all" else [name.strip() for name in tables.split(",")]
    lines = screen.follow(compare_tables(trained, names))
    header = ("table", "bytes", "bpb", "gap", "+-", "KL", "predicted", "seconds", "alarms")
    rows = [
        (
            *(line.get(key) for key in ("name", "artifact_bytes", "bits_per_byte")),
            *(_five(line.get(key)) for key in GAPS if key != "kl_gap_error"),
            *(line.get(key) for key in ("seconds", "alarms")),
        )
        for line in lines
    ]
    title = (
        f"{trained.recipe.name}: packed again; bits per byte (bpb), {chunked(trained.recipe).windows.label()}"
    )
    screen.table(title, header, rows, as_json=as_json)
    screen.close({"run": str(folder), "status": "ok", "tables": lines}, as_json=as_json)


def _show_tensors(result: dict[str, Any], as_json: bool) -> None:
    """What each quantized tensor costs and loses; the floats in one line."""
    bytes_per_token = result["text_bytes"] / result["tokens"]
    groups: dict[str, list[tuple[str, ...]]] = {}
    for row in result["quantization"]:
        if "levels" in row:
            groups.setdefault(row["rule"], []).append(_tensor_line(row, bytes_per_token))
    kept = [row for row in result["quantization"] if "levels" not in row]
    if kept:
        size = sum(row["bytes"] for row in kept)
        groups["as floats"] = [(f"{len(kept)} tensors", "", "", f"{size:,}", *[""] * 6)]
    screen.grouped_table(TENSOR_COLUMNS, groups.items(), as_json=as_json)
    _show_alarms(result, as_json)


def _tensor_line(row: dict[str, Any], bytes_per_token: float) -> tuple[str, ...]:
    damages = (row.get(f"damage_nats{ending}") for ending in ("", "_plain"))
    seen = (row.get(f"{side}_seen") for side in ("inputs", "outputs"))
    return (
        row["name"],
        sparkline(trimmed(row["levels"]["counts"])[1]),
        f"{row['coded_bits']:.2f}",
        f"{row['bytes']:,}",
        *(_share(shown_error(row, ending)) for ending in ("", "_plain")),
        *("-" if nats is None else f"{bits_per_byte_of(nats, bytes_per_token):.6f}" for nats in damages),
        " ".join(_share(share) for share in seen if share is not None) or "-",
        f"{row['seconds']:.1f}",
    )


def _five(value: float | None) -> str | None:
    return None if value is None else f"{value:.5f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3g}%"


TENSOR_COLUMNS = (
    screen.Column("tensor"),
    screen.Column("codes", 15, at_least=76),
    screen.Column("bits each", 9, right=True),
    screen.Column("bytes", 10, right=True),
    screen.Column("error", 7, right=True),
    screen.Column("plain", 7, right=True, at_least=90),
    screen.Column("damage", 9, right=True, at_least=60),
    screen.Column("plain", 9, right=True, at_least=100),
    screen.Column("seen", 11, right=True, at_least=120),
    screen.Column("seconds", 7, right=True, at_least=128),
)


def _show_alarms(result: dict[str, Any], as_json: bool) -> None:
    rows = [(row["name"], row["alarm"]) for row in result.get("quantization", []) if row.get("alarm")]
    if rows:
        screen.table("Alarms", ("tensor", ""), rows, as_json=as_json)


@app.command()
def score(
    model: ModelName,
    text: Annotated[Path | None, typer.Option("--text", help="Score this file.")] = None,
    dataset: Annotated[Path | None, typer.Option("--data", help="Score this dataset's validation.")] = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Bits per byte of a packed model, from its bytes alone; on its own validation text if not told.

    A public checkpoint (final_model.pt, final_model.int8.ptz) is scored on a dataset given with --data; what
    has no weights is named with --set, as #543's --set "model.heads_out=(Xsa(last=4),)".

    Example: bitgolf score runs/demo --set "score.windows=Sliding(length=256, stride=32)"
    """
    path, unpacked = find_artifact(model, dataset, changes or [])
    scores, dtype = screen.follow(score_artifact(path, unpacked, text, dataset, changes or []))
    size = path.stat().st_size
    facts = {"artifact": str(path), "artifact_bytes": size, **summary(scores), "dtype": dtype}
    facts |= public_rule(unpacked.tokenizer, scores)
    screen.close(facts, as_json=as_json)


@app.command()
def sample(
    model: ModelName,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.8,
    seed: Seed = 1337,
    as_json: Json = False,
) -> None:
    """Text from a packed model.

    Example: bitgolf sample runs/demo --prompt "My fellow citizens"
    """
    path, unpacked = find_artifact(model)
    # The shell may have given any bytes; for Python they are half characters then.
    opening = os.fsencode(prompt)
    text = sample_text(unpacked, prompt=opening, tokens=tokens, temperature=temperature, seed=seed)
    if not as_json and sys.stdout.isatty():
        print(screen.escaped(prompt + text, keep=TEXT) + "\n")
    elif not as_json:
        sys.stdout.buffer.write(opening + text.encode() + b"\n\n")
    screen.close(
        {"artifact": str(path), "tokens": tokens, "temperature": temperature, "seed": seed}
        | ({"prompt": prompt, "text": text} if as_json else {}),
        as_json=as_json,
    )


@app.command()
def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="A B...", help="Two recipes; or runs, sets of runs (r1,r2), folders of them."),
    ],
    variables: Variables = None,
    metric: Annotated[str, typer.Option(help="Of runs: which figure, e.g. quantized_bits_per_byte.")] = BITS,
    against: Annotated[
        float | None, typer.Option(help="A published figure that one set of runs is tested against.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Where two recipes differ, setting by setting; of runs, what can be claimed, in a sentence.

    Runs are compared with the first: by seeds where both sides have several, by documents where the weights
    are the same. Public variables are given to the second recipe.

    Example: bitgolf compare baseline demo
    Example: bitgolf compare runs/a1,runs/a2,runs/a3 runs/b1,runs/b2,runs/b3
    Example: bitgolf compare runs/a1,runs/a2,runs/a3 --against 1.2244
    """
    if against is not None:
        if len(names) != 1:
            raise BitgolfError("expected one set of runs", where="--against", value=names)
        show_against(names[0], against, metric, as_json)
        return
    if all(run_folders(name) for name in names) and len(names) > 1:
        show_comparison(names, metric, as_json)
        return
    if len(names) != 2:
        raise BitgolfError("expected two recipes, or two or more finished runs", where="compare", value=names)
    left, right = names
    changed = apply_variables(find_recipe(right), parse_variables(variables or []))
    changes = diff(find_recipe(left), changed)
    screen.table(f"{left} against {right}", ("setting", left, right), changes, as_json=as_json)
    facts: dict[str, Any] = {"left": left, "right": right, "differences": len(changes)}
    facts["changes"] = [{"path": p, "left": to_json(a), "right": to_json(b)} for p, a, b in changes]
    screen.close(facts, as_json=as_json)


@app.command()
def forecast(
    recipe: RecipeName, changes: Changes = None, variables: Variables = None, as_json: Json = False
) -> None:
    """What a recipe will weigh and cost, before any training, and what would fill its budget.

    Bytes come within 5% of those of a trained run, within 25% where a rate-aware step sets the rate. `widest`
    and `deepest` are the largest width and number of layers that are forecast to fit, all else equal;
    `filling_bits` what a weight of this model may take.

    Example: bitgolf forecast baseline --set model.layers=11
    """
    chosen = _changed(recipe, parse_variables(variables or []), changes, quiet=as_json)
    facts = forecast_recipe(chosen, len(script_of(chosen)), expected_tokenizer_bytes(chosen))
    filling = room(chosen, facts)
    facts |= {row["name"]: row["value"] for row in filling} | {"filling": filling}
    facts |= forecast_seconds(chosen, facts["flops_per_step"])
    keys = ("name", "shape", "rule", "bits", "bytes")
    rows = [[row[key] for key in keys] for row in facts["tensors"]]
    screen.table(f"{chosen.name}: forecast", ("tensor", *keys[1:]), rows, as_json=as_json)
    title = f"What would fill the budget of {facts['budget_bytes']:,} bytes, all else equal"
    rows = [[row[key] for key in ("setting", "now", "value", "note")] for row in filling]
    screen.table(title, ("setting", "now", "fills it", "note"), rows, as_json=as_json)
    screen.close(facts, as_json=as_json)
    if facts["headroom_bytes"] < 0:
        raise typer.Exit(1)


@app.command("techniques")
def show_techniques(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A technique, or a public variable of one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Every technique with its source, what it weighs and its public variables; or all about one.

    Parameters and bytes are what the baseline at full size gains with the technique at its defaults; what it
    costs in seconds is on its card.

    Example: bitgolf techniques Xsa
    """
    if name is None:
        groups = [(heading, map(table_row, group)) for heading, group in by_slot()]
        screen.grouped_table(TECHNIQUE_COLUMNS, groups, as_json=as_json)
        facts: dict[str, Any] = {"techniques": len(techniques()), "next": "bitgolf techniques NAME"}
        screen.close({"techniques": [*map(record, techniques())]} if as_json else facts, as_json=as_json)
        return
    one = record(find_technique(name))
    lines = ("what", "source", "cost", "not_for", "neutral", "notes")
    said = {line.replace("_", " ").capitalize(): one[line] for line in lines if one[line]}
    screen.card(f"{one['name']}: {one['title']}", said, as_json=as_json)
    header = ("setting", "type", "default", "limits", "public variables")
    rows = [
        (s["name"], s["type"], s["default"], s["limits"], ", ".join(s["variables"])) for s in one["settings"]
    ]
    if rows:
        screen.table(f"Settings at {path_in_words(one['path'])}", header, rows, as_json=as_json)
    shown = {name for setting in one["settings"] for name in setting["variables"]}
    switches = [name for name in one["public_variables"] if name not in shown]
    if not as_json:
        one = {key: one[key] for key in ("name", "slot", "parameters", "bytes")} | {
            "switched_by": ", ".join(switches) or "none",
            "recipes": ", ".join(one["recipes"]) or "none",
        }
    screen.close(one, as_json=as_json)


TECHNIQUE_COLUMNS = (
    screen.Column("technique", 21),
    screen.Column("what it does"),
    screen.Column("parameters", 10, right=True),
    screen.Column("bytes", 11, right=True),
    screen.Column("neutral", 24, at_least=160),
    screen.Column("source", at_least=140),
    screen.Column("public variables", 25, at_least=90),
)


app.command()(study)
app.command()(findings)


def main() -> None:
    """The console script: whatever happens ends in one line and an exit code, see `faults`.

    Under torchrun the first process speaks for all.
    """
    if not is_first_process():
        sys.stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")
    sys.exit(ended(app))
