"""The demo: a run, and some of its score proven."""

from collections.abc import Generator
from pathlib import Path

from bitgolf.base.events import Event
from bitgolf.pipeline.coding import prove_artifact
from bitgolf.pipeline.work import work
from bitgolf.recipe import Recipe
from bitgolf.run.result import RunResult

PROVEN_BYTES = 100_000
SHOWN = ("text_bytes", "coded_bytes", "bits_per_byte", "stepwise_bits_per_byte", "certificate")


def demonstrate(recipe: Recipe, folder: Path, seed: int) -> Generator[Event, None, RunResult]:
    """Run a recipe on the addresses, against compressors; then code some of its text and read it back."""
    result = yield from work(recipe, "sotu", folder, seed, against_rivals=True)
    if result["status"] == "ok":
        certificate = yield from prove_artifact(str(folder), None, None, PROVEN_BYTES, None)
        result["proof"] = {name: certificate[name] for name in SHOWN}
    return result
