"""Options that several verbs take."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.recipes import recipe_names

BITS = "bits_per_byte"
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one setting, e.g. --set train.steps=100."),
]
Variables = Annotated[
    list[str] | None,
    typer.Option(
        "--env", metavar="NAME=VALUE", help="A variable of the public scripts, e.g. --env EMA_DECAY=0.997."
    ),
]
RulesName = Annotated[
    str, typer.Option("--rules", help="march-2026, april-2026, final, or strict: everything counts.")
]
LARGEST_SEED = 2**63 - 1
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the initial weights.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder to write.")]
Data = Annotated[
    str, typer.Option("--data", help="Dataset folder, text file or folder, hf:OWNER/NAME, sotu.")
]
OnData = Annotated[
    Path | None,
    typer.Option(
        "--data", help="On its validation text: dataset folder, text file or folder, hf:OWNER/NAME, sotu."
    ),
]
RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Name, file.py:function, or recipe.json.",
        autocompletion=lambda incomplete: [name for name in recipe_names() if name.startswith(incomplete)],
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        "--processes", min=0, max=4096, help="Processes, one frame each at a time; 0: one per core."
    ),
]
Portable = Annotated[
    bool, typer.Option("--portable", help="The same bits on every processor; slower, another score.")
]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="[RUN|ARTIFACT]", help="A run folder or a model.bin; demo is the model that ships."
    ),
]
