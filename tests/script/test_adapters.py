"""A recipe that adapts or mixes carries that into the script; one that does not carries none of it."""

import pytest

from bitgolf.adapt.documents import PhasedLora
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.mix.match import LongestMatch
from bitgolf.mix.ngram import InterpolatedNgrams
from bitgolf.recipes.baseline import baseline
from bitgolf.score.windows import Growing, PerDocument, Sliding
from bitgolf.script.flatten import flatten, pack_script, undefined_names
from bitgolf.script.proofs import prove_scripts
from bitgolf.train.optim import AdamRule, SgdRule
from tests.script.test_flatten import TINY, script_named
from tests.script.test_flatten import data as data

SLIDING = Sliding(length=32, stride=16)
GLOBALLY = ScoreFirst(chunk_tokens=64, epochs=1, rule=SgdRule(lr=0.05))
PHASED = PhasedLora(
    prefix_documents=1, batch_documents=1, longest_first=True, globally=GLOBALLY, rule=AdamRule(lr=0.01)
)
SCORED = {
    "ScoreFirst": {"score.windows": SLIDING, "score.adapter": GLOBALLY},
    "PhasedLora": {
        "score.windows": PerDocument(within=Growing(length=32, stride=8)),
        "score.adapter": PHASED,
    },
    "LongestMatch": {"score.windows": SLIDING, "score.mixers": (InterpolatedNgrams(), LongestMatch())},
    "both": {"score.windows": SLIDING, "score.adapter": GLOBALLY, "score.mixers": (InterpolatedNgrams(),)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORED)
def test_a_script_that_adapts_or_mixes_scores_as_the_package_bit_for_bit(data, name):
    recipe = baseline().replace(TINY).replace(SCORED[name]).replace({"train.validate_steps": 10})
    script = flatten(recipe)
    prove_scripts(recipe, data, {"readable": script, "packed": pack_script(script)})


@pytest.mark.parametrize("name", ["PhasedLora", "LongestMatch"])
def test_what_a_recipe_scores_with_is_in_its_script(name):
    script = flatten(baseline().replace(TINY).replace(SCORED[name]))
    assert f"class {name}" in script and "adapted_nats(" in script
    assert undefined_names(script) == []


def test_a_script_that_is_fixed_carries_nothing_of_it():
    script = script_named("baseline")
    for name in (
        "class Adapter",
        "class Exam",
        "class ScoreFirst",
        "class Lora",
        "class Mix",
        "adapted_nats",
    ):
        assert name not in script
    assert "SgdRule" not in script
