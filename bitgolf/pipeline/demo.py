"""The end of `make` and `demo`: a run compared with compressors, with a part of its score proven."""

import time
from collections.abc import Generator, Sequence
from pathlib import Path

from bitgolf.base.events import Event, is_first_process
from bitgolf.base.files import write_json
from bitgolf.pipeline.beside import measuring, stood_beside
from bitgolf.pipeline.coding import prove_artifact
from bitgolf.pipeline.work import work
from bitgolf.recipe import Recipe
from bitgolf.report.report import write_report
from bitgolf.run.result import RunResult
from bitgolf.run.start import Start
from bitgolf.score.adapter import NoAdapter
from bitgolf.text.shards import Dataset

DEMO_TEXT = "sotu"
PROVEN_BYTES = 100_000
UNADAPTED = ("score.adapter=NoAdapter()",)
SHOWN = ("text_bytes", "coded_bytes", "bits_per_byte", "stepwise_bits_per_byte", "certificate")


def demonstrate(
    recipe: Recipe,
    data: str,
    folder: Path,
    seed: int,
    proven_bytes: int = PROVEN_BYTES,
    *,
    start: Start | None = None,
    chosen: Sequence[str] = (),
) -> Generator[Event, None, RunResult]:
    """Run a recipe on a text, against compressors; then code some of that text and read it back.

    What adapts reads one token after another, which takes minutes: it is proven without that.
    start, chosen: see `work`.
    """
    result = yield from work(recipe, data, folder, seed, start=start, chosen=chosen)
    if not is_first_process():
        return result
    started, dataset = time.perf_counter(), Dataset.open(Path(result["dataset"]))
    if result["status"] == "ok":
        adapts = recipe.score.adapter != NoAdapter()
        fixed = UNADAPTED if adapts else ()
        with measuring(dataset.folder, recipe.budget.budget_bytes):
            certificate = yield from prove_artifact(
                str(folder), None, None, proven_bytes, None, overrides=fixed
            )
            yield Event("rivals", 0, 1, {})
        result["proof"] = {name: certificate[name] for name in SHOWN} | {"unadapted": adapts}
    result |= yield from stood_beside(dataset, recipe.budget.budget_bytes)
    result["seconds"]["prove and rivals"] = time.perf_counter() - started
    write_json(folder / "result.json", result)
    write_report(folder)
    yield Event("report", 1, 1, {})
    return result
