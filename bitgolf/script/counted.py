"""The script of a recipe, its counted bytes, and what they are used for."""

from bitgolf.recipe import Recipe
from bitgolf.script.flatten import packed_source
from bitgolf.script.kept import minified
from bitgolf.squeeze.artifact import Artifact
from bitgolf.squeeze.codec import Deflate
from bitgolf.squeeze.quantize import AbsMax, Keep, QuantizePlan


def script_of(recipe: Recipe) -> bytes:
    """The self-extracting script, packed as the recipe's budget says."""
    return packed_source(minified(recipe), recipe.budget.code_codec)


def whole_ledger(recipe: Recipe, code: bytes, artifact: Artifact) -> list[list[str | int]]:
    """Every byte of script and artifact by its line.

    Of the script: what it would weigh with plain packing, and what the recipe's own packing adds to that,
    be it needed to write an artifact or to read one.
    """
    base = min(len(code), len(script_of(plainly_packed(recipe))))
    lines = [("code with plain packing", base), ("code for quantizers and codecs", len(code) - base)]
    ledger = [*lines, *artifact.ledger]
    total = sum(num_bytes for _, num_bytes in ledger)
    assert total == len(code) + len(artifact.data), "every byte has its line"
    return [[name, num_bytes] for name, num_bytes in ledger]


def plainly_packed(recipe: Recipe) -> Recipe:
    """The recipe with rounding to the nearest by rows wherever it quantizes, and DEFLATE."""
    rules = tuple(
        rule if isinstance(rule.quantizer, Keep) else rule.replace(quantizer=AbsMax())
        for rule in recipe.quantize.rules
    )
    return recipe.replace({"quantize": QuantizePlan(rules=rules), "pack.codec": Deflate()})
