"""A recipe that adapts carries its adapter into the script; one that does not carries none of it."""

import pytest

from bitgolf.adapt.documents import PhasedLora
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.recipes.baseline import baseline
from bitgolf.score.windows import Growing, PerDocument, Sliding
from bitgolf.script.flatten import flatten, prove_scripts
from bitgolf.train.optim import AdamRule, SgdRule
from tests.script.test_flatten import TINY
from tests.script.test_flatten import data as data

DOCUMENTS = PerDocument(within=Growing(length=32, stride=8))
GLOBALLY = ScoreFirst(chunk_tokens=64, epochs=1, rule=SgdRule(lr=0.05))
ADAPTERS = {
    "ScoreFirst": {
        "score.windows": Sliding(length=32, stride=16),
        "score.adapter": ScoreFirst(chunk_tokens=128, epochs=1, rule=SgdRule(lr=0.05)),
    },
    "PhasedLora": {
        "score.windows": DOCUMENTS,
        "score.adapter": PhasedLora(
            prefix_documents=1,
            batch_documents=1,
            longest_first=True,
            globally=GLOBALLY,
            rule=AdamRule(lr=0.01),
        ),
    },
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_script_that_adapts_scores_as_the_package_bit_for_bit(data, name):
    recipe = baseline().replace(TINY).replace(ADAPTERS[name])
    script = flatten(recipe)
    assert f"class {name}" in script
    prove_scripts(recipe, data, {"readable": script})


def test_a_script_that_is_fixed_carries_nothing_of_it():
    script = flatten(baseline())
    for name in ("class Adapter", "class Exam", "class ScoreFirst", "class Lora", "adapted_nats", "SgdRule"):
        assert name not in script
