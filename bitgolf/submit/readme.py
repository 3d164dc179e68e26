"""README.md of a record, the first page for reviewers, with every figure from the claims."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bitgolf.base.errors import PlanError
from bitgolf.recipe import Recipe
from bitgolf.study.findings import findings_in, measured_rows
from bitgolf.study.markdown import plain
from bitgolf.submit.claims import Entry, comparison

SEED_COLUMNS = (
    ("val_bpb", "val_bpb", ".6f"),
    ("val_loss", "val_loss", ".6f"),
    ("before packing", "pre_quant_val_bpb", ".6f"),
    ("steps", "steps", ",d"),
    ("model bytes", "artifact_bytes", ",d"),
    ("all bytes", "bytes_total", ",d"),
    ("training s", "train_time_s", ",.1f"),
    ("scoring s", "eval_time_s", ",.1f"),
)


def readme(entry: Entry, claims: dict[str, Any]) -> str:
    """The page."""
    return "\n".join(_lines(entry, claims)).rstrip() + "\n"


def _lines(entry: Entry, claims: dict[str, Any]) -> Iterator[str]:
    count = len(entry.runs)
    over = "one seed" if count == 1 else f"mean of {count} seeds"
    spread = f", standard deviation {claims['val_bpb_std']:.6f}" if "val_bpb_std" in claims else ""
    yield f"# {plain(claims['name'])}"
    yield ""
    yield plain(claims["blurb"])
    yield ""
    yield f"val_bpb: {claims['val_bpb']:.6f} ({over}{spread}), {claims['bytes_total']:,} of "
    yield f"{claims['budget_bytes']:,} bytes" + (" in the largest seed." if count > 1 else ".")
    yield ""
    yield from _seeds(claims)
    yield from _against(entry, claims)
    yield from _ablations(entry)
    yield from _commands(entry, claims)
    yield from _sizes(claims)
    yield from _proofs(claims)
    yield from ("## Checked", "")
    for name, each in claims["compliance"].items():
        yield f"- {name.replace('_', ' ')}: {'yes' if each['holds'] else 'no'} ({plain(each['how'])})"
    yield from ("", "## Techniques and where they come from", "")
    yield from (f"- {name}: {plain(source)}" for name, source in claims["attribution"].items())
    yield from ("", "`manifest.json` has the size and SHA-256 of every file here.")


def _seeds(claims: dict[str, Any]) -> Iterator[str]:
    rows = claims["seed_results"]
    columns = [each for each in SEED_COLUMNS if any(each[1] in row for row in rows.values())]
    yield from table(
        ["seed", *(head for head, _, _ in columns)],
        [
            [seed, *(format(row[key], form) if key in row else "-" for _, key, form in columns)]
            for seed, row in rows.items()
        ],
    )


def _against(entry: Entry, claims: dict[str, Any]) -> Iterator[str]:
    test = comparison(entry)
    if test is None:
        return
    beyond = claims["p_beyond_margin_if_it_is_in"]
    yield (
        f"Against {entry.metadata.against:g}: {test.effect:+.6f} bits per byte (95% {test.low:+.6f} to "
        f"{test.high:+.6f}), {claims['delta_nats_per_token']:+.6f} nats per token; Student's one-sample t "
        f"{test.t:.2f} with {test.freedom:g} degrees of freedom, one-sided p {test.p_lower:.3g}, "
        f"{test.n} seeds."
    )
    yield (
        f"That it is lower by more than {claims['margin_nats']}: "
        + ", ".join(f"p {p:.3g} if the margin is in {unit}" for unit, p in beyond.items())
        + "."
    )
    yield ""


def _ablations(entry: Entry) -> Iterator[str]:
    """The tables of the studies, each with its scale: what holds there need not hold here."""
    for path in entry.studies:
        findings = findings_in(path)
        if not findings:
            continue
        yield from (f"## Ablations: {plain(findings[0].study)}", "")
        yield f"Measured at {plain(findings[0].scale)}. Lower is better; intervals are of 95%."
        yield ""
        heads, rows = measured_rows(findings)
        kept = [heads.index(name) for name in ("technique", "metric", "effect, [95%]", "n", "verdict")]
        against = [each.against for each in findings]
        yield from table(
            ["technique", "against", *(heads[i] for i in kept[1:])],
            [[row[0], other, *(row[i] for i in kept[1:])] for row, other in zip(rows, against)],
        )


def _commands(entry: Entry, claims: dict[str, Any]) -> Iterator[str]:
    variables = f"DATA_PATH=shards TOKENIZER_PATH=sp.model SEED={claims['seeds'][0]}"
    yield from ("## Run it", "", "    pip install -r requirements.txt")
    yield f"    {variables} python train_gpt.py"
    if (processes := most_processes(entry.runs[0].recipe)) > 1:
        yield f"    {variables} torchrun --standalone --nproc_per_node={processes} train_gpt.py"
    yield ""
    yield f"Hardware: {plain(claims['hardware'])}. Training {claims['train_time_seconds']:,.1f} s" + (
        f", scoring {claims['eval_time_seconds']:,.1f} s, in the slowest seed."
        if "eval_time_seconds" in claims
        else " in the slowest seed."
    )
    yield ""
    phases = sorted({name for row in claims["seed_results"].values() for name in row["seconds"]})
    if phases:
        yield from table(
            ["seconds", *phases],
            [
                [f"seed {seed}", *(f"{row['seconds'].get(name, 0):,.2f}" for name in phases)]
                for seed, row in claims["seed_results"].items()
            ],
        )


def most_processes(recipe: Recipe) -> int:
    """How many processes can share the batches of a recipe, at most the public eight."""
    for processes in (8, 4, 2):
        try:
            recipe.train.rows(recipe.data.sequence_length, processes)
        except PlanError:
            continue
        return processes
    return 1


def _sizes(claims: dict[str, Any]) -> Iterator[str]:
    yield from ("## Sizes", "")
    yield (
        f"train_gpt.py {claims['bytes_code']:,} bytes (SHA-256 {claims['code_sha256'][:16]}...), the model "
        f"{claims['artifact_bytes_max']:,} bytes in its largest seed and {claims['artifact_bytes_mean']:,} "
        f"on average, what counts {claims['bytes_total']:,} at most: "
        f"{claims['budget_bytes'] - claims['bytes_total']:,} bytes below the budget."
    )
    yield ""


def _proofs(claims: dict[str, Any]) -> Iterator[str]:
    proven = {seed: row["proof"] for seed, row in claims["seed_results"].items() if "proof" in row}
    if not proven:
        return
    yield from (
        "## Proof",
        "",
        "The text was coded by the packed model and decoded again; the certificates are here.",
    )
    yield ""
    heads = ["seed", "text bytes", "coded bytes", "bits per byte"]
    yield from table(
        heads,
        [
            [seed, f"{each['text_bytes']:,}", f"{each['coded_bytes']:,}", f"{each['bits_per_byte']:.6f}"]
            for seed, each in proven.items()
        ],
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """A table and the empty line after it."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    yield from (f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows)
    yield ""
