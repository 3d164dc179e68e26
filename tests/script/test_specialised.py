"""What a recipe does not need goes from its script: parameters, bases, functions that only hand on."""

import ast
import textwrap

import pytest

from bitgolf.script.calls import families, fewer_parameters
from bitgolf.script.decided import decided
from bitgolf.script.inline import inlined
from bitgolf.script.reach import reach
from bitgolf.script.single import single, without_uncalled
from bitgolf.script.source import read_module


def module(text, name="one"):
    return read_module(textwrap.dedent(text).lstrip(), name)


def texts(modules):
    return "\n\n".join(d.text for m in modules for d in m.definitions)


def same(modules, text):
    return ast.dump(ast.parse(texts(modules))) == ast.dump(ast.parse(textwrap.dedent(text)))


def test_a_parameter_that_no_call_gives_is_its_default():
    source = module("""
        def scaled(x, factor=1.0, rows=()):
            return [x * factor, *rows]

        def main(x):
            return scaled(x, factor=x) + scaled(x, 2)
    """)
    assert same(
        fewer_parameters([source], {"main"}),
        """
        def scaled(x, factor=1.0):
            return [x * factor, *()]

        def main(x):
            return scaled(x, factor=x) + scaled(x, 2)
    """,
    )


def test_a_parameter_that_nothing_reads_goes_with_what_calls_give_for_it():
    source = module("""
        class Slot(Plan):
            def loss(self, nats, hidden):
                return nats

        class Member(Slot):
            def loss(self, nats, hidden):
                return nats + 1

        def main(slot: Slot, nats, hidden):
            return slot.loss(nats, hidden[0])
    """)
    changed = texts(fewer_parameters([source], {"main"}))
    assert "return slot.loss(nats)" in changed and "def loss(self, nats):" in changed


@pytest.mark.parametrize(
    "use",
    [
        "return slot.loss(nats, made())",  # what is left out would not happen
        "return [slot.loss(nats, 1), slot.loss]",  # somebody else may call it
        "return slot.loss(*nats)",
        "return getattr(slot, 'loss')(nats, 1)",
    ],
)
def test_a_parameter_stays_where_a_call_may_need_it(use):
    source = module(f"""
        class Slot(Plan):
            def loss(self, nats, hidden):
                return nats

        def main(slot: Slot, nats):
            {use}
    """)
    assert "def loss(self, nats, hidden):" in texts(fewer_parameters([source], {"main"}))


def test_methods_of_one_name_are_told_apart_by_what_they_are_called_on():
    source = module("""
        class Part(Plan):
            def start(self, layer):
                return 1

        class Clock:
            def start(self, layer):
                return layer

        def main(part: Part, clock: Clock, others):
            return part.start(3) + clock.start(4)
    """)
    changed = texts(fewer_parameters([source], {"main"}))
    assert "part.start() + clock.start(4)" in changed
    unsure = module(texts([source]).replace("clock.start(4)", "others.start(4)"))
    assert "part.start(3) + others.start(4)" in texts(fewer_parameters([unsure], {"main"}))
    assert not any(f.is_whole for f in families([unsure], {"main"}) if f.name == "start")


def test_a_method_is_written_where_the_one_that_calls_it_does_nothing_else():
    source = module("""
        class Net(Base):
            def forward(self, x):
                return self.loss(x)

            def loss(self, x):
                y = x + 1
                return y * y

        def main(net: Net):
            return net(3)
    """)
    changed = texts(inlined([source], {"main"}))
    assert "def forward(self, x):\n        y = x + 1\n        return y * y" in changed
    for other in ("self.loss(x + 1)", "self.loss(x), 1", "-self.loss(x)"):  # is not all that it does
        kept = module(texts([source]).replace("self.loss(x)", other))
        assert texts(inlined([kept], {"main"})) == texts([kept])


def test_a_call_that_a_method_cannot_take_is_not_of_it():
    source = module("""
        class Average:
            def update(self, state, weights):
                return state

            def weights(self, live):
                return live

        def main(groups, average: Average):
            groups[0].update(3)
            return average.weights(1)
    """)
    assert "update(self" not in texts(without_uncalled([source], {"main"}))
    possible = module(texts([source]).replace("update(3)", "update(3, 4)"))
    assert "update(self" in texts(without_uncalled([possible], {"main"}))


def test_a_slot_with_one_member_is_that_member():
    source = module("""
        class Slot(Plan):
            \"\"\"Any.\"\"\"

            def size(self):
                return 1

            def shape(self):
                return 2

        class Member(Slot):
            \"\"\"This.\"\"\"

            width: int = 3

            def shape(self):
                return self.width

        def main(slot: Slot) -> "Slot":
            return slot
    """)
    assert same(
        single([source], {"Member"}),
        """
        class Member(Plan):
            \"\"\"This.\"\"\"
            width: int = 3

            def size(self):
                return 1

            def shape(self):
                return self.width

        def main(slot: Member) -> "Member":
            return slot
    """,
    )


def test_what_stands_before_the_member_asks_for_it_in_quotes():
    source = module("""
        class Slot(Plan):
            def shape(self):
                return 2

        class Settings(Plan):
            slots: tuple[Slot, ...] = ()

        def first(slots: Sequence[Slot], slot: Slot | None = None) -> dict[str, Slot]:
            return slots

        class Member(Slot):
            def shape(self):
                return 3

        def main(slot: Slot):
            return slot
    """)
    assert same(
        single([source], {"Member"}),
        """
        class Settings(Plan):
            slots: "tuple[Member, ...]" = ()

        def first(slots: "Sequence[Member]", slot: "Member | None" = None) -> "dict[str, Member]":
            return slots

        class Member(Plan):

            def shape(self):
                return 3

        def main(slot: Member):
            return slot
    """,
    )


@pytest.mark.parametrize("line", ["return Slot()", "return isinstance(slot, Slot)", "return (Slot,)"])
def test_a_slot_that_is_more_than_a_base_stays(line):
    source = module(f"""
        class Slot(Plan):
            def shape(self):
                return 2

        class Member(Slot):
            def shape(self):
                return 3

        def main(slot: Slot):
            {line}
    """)
    assert texts(single([source], {"Member"})) == texts([source])


def test_a_slot_inside_a_quoted_annotation_is_that_member_too():
    source = module("""
        class Slot(Plan):
            def shape(self):
                return 2

        class Member(Slot):
            def shape(self):
                return 3

        def main(slots: "Sequence[Slot]", more: "dict[str, Slot] | Slotted") -> "list[Slot]":
            return "Slot[Slot]"
    """)
    changed = texts(single([source], {"Member"}))
    head = 'def main(slots: "Sequence[Member]", more: "dict[str, Member] | Slotted") -> "list[Member]":'
    assert head in changed
    assert '"Slot[Slot]"' in changed


def test_a_method_that_asks_above_keeps_what_it_asks():
    source = module("""
        class Slot(Plan):
            def shape(self):
                return 2

        class Member(Slot):
            def shape(self):
                return super().shape() + 1
    """)
    assert texts(single([source], {"Member"})) == texts([source])


def test_what_only_hands_on_is_written_where_it_was_called():
    source = module("""
        class Slot(Plan):
            def limit(self, sight, heads):
                return sight

        def helper(x):
            return x.flatten() + 1

        def used_twice(x):
            return x.flatten() - 1

        def main(slot: Slot, sight):
            return helper(slot.limit(sight, 4)) * 2, used_twice(sight), used_twice(sight)
    """)
    changed = [source]
    for _ in range(3):
        changed = inlined(changed, {"main"})
    assert "return (sight.flatten() + 1) * 2, used_twice(sight), used_twice(sight)" in texts(changed)


def test_a_function_is_not_moved_to_where_its_names_mean_something_else():
    source = module("""
        def scale(x):
            return x * FACTOR

        def main(x, FACTOR):
            return scale(x)
    """)
    assert texts(inlined([source], {"main"})) == texts([source])


def test_code_that_moved_brings_its_imports():
    one = module("import operator\n\ndef own(x):\n    return operator.neg(x)\n")
    two = module("def main(x):\n    return own(x)\n", "two")
    changed = inlined([one, two], {"main"})
    definitions, imports = reach(changed, ["main"])
    assert [d.names for d in definitions] == [("main",)] and [i.bound for i in imports] == ["operator"]


def test_a_property_is_known_only_where_no_class_below_has_another():
    source = module("""
        class Part(Plan):
            @property
            def after(self) -> bool:
                return False

        class Late(Part):
            @property
            def after(self) -> bool:
                return True

        def main(part: Part, late: Late, x):
            first = 1 if part.after else 2
            second = 1 if late.after else 2
            return first, second
    """)
    changed = texts(decided([source], ()))
    assert "1 if part.after else 2" in changed and "second = 1\n" in changed
