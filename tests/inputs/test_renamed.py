"""What slots called their methods once is refused in the class of a user, who is told the name of today."""

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import Plan, members
from bitgolf.catalog.techniques import slots
from bitgolf.inputs.renamed import RENAMED, refuse_old_names

KINDS = [kind for slot in slots() for member in members(slot).values() for kind in member.__mro__]
SLOTS = {kind.__name__: kind for kind in KINDS if issubclass(kind, Plan)}
PAIRS = [(slot, old, new) for slot, names in RENAMED.items() for old, new in names.items()]


@pytest.mark.parametrize(("slot", "old", "new"), PAIRS)
def test_an_old_name_is_refused_and_says_the_new_one(slot, old, new):
    base = SLOTS[slot]
    assert hasattr(base, new) and not hasattr(base, old)

    def method(self):
        return ["never"]

    def kind(parent, *names):
        return type("Mine", (parent,), {**dict.fromkeys(names, method), "abstract": True})

    with pytest.raises(BitgolfError, match=f"Mine defines {old}.*call it {new}"):
        refuse_old_names([kind(base, old)])
    with pytest.raises(BitgolfError, match=f"Mine defines {old}"):
        refuse_old_names([kind(kind(base, old))])
    refuse_old_names([kind(base, new), kind(base, old, new)])
