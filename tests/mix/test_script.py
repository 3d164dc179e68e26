"""A recipe that mixes carries its mixers into the generated script; one that does not carries none."""

import re

import pytest

from bitgolf.catalog.behaviour import check
from bitgolf.catalog.small import Small, small_recipe
from bitgolf.script.flatten import flatten
from tests.mix.test_members import BITING, CARDS


def code_of(mixers) -> str:
    """The script without its comments, which list every setting."""
    script = flatten(small_recipe().replace({"score.mixers": mixers}))
    return re.sub(r"^#.*$", "", script, flags=re.MULTILINE)


@pytest.mark.slow
def test_a_script_has_its_own_mixers_and_no_others():
    plain = code_of(())
    assert not re.search(r"mixture_of|class Mix|_mixed_nats|class Memory|\.mixers", plain)
    for kind, mixer in BITING.items():
        code = code_of((mixer,))
        assert f"class {kind.__name__}" in code and "class Mixture" in code
        assert not [other for other in BITING if other is not kind and f"class {other.__name__}" in code]


@pytest.mark.slow
@pytest.mark.parametrize("kind", BITING)
def test_a_script_scores_with_its_mixer_to_the_bit(kind, tmp_path):
    changes = ("order=3",) if kind.__name__ == "TokenTilt" else ()
    (verdict,) = check(CARDS[kind], Small(tmp_path), ("script equal",), changes)
    assert verdict.ended == "passed", verdict
