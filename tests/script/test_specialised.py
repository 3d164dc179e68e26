"""What a recipe does not need goes from its script: parameters, bases, functions that only hand on."""

import ast
import textwrap

import pytest

from bitgolf.script.calls import families, fewer_parameters
from bitgolf.script.decided import decided
from bitgolf.script.inline import inlined
from bitgolf.script.kinds import Kinds
from bitgolf.script.reach import reach
from bitgolf.script.single import single, without_uncalled
from bitgolf.script.source import read_module
from bitgolf.script.trust import trusting
from bitgolf.script.unread import spelled_out, without_unread


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


def test_fields_that_nobody_gives_are_their_defaults():
    source = module("""
        class Mask(NamedTuple):
            window: int = 0
            changes: tuple = ()

        class Context(NamedTuple):
            inputs: int
            read: int | None = None

        def main(mask: Mask, context: Context, x):
            if mask.window:
                x = 1
            if context.read is None:
                x = 2
            return Mask(), Context(x), x
    """)
    changed = texts(decided([source], ()))
    assert "x = 1" not in changed and "if context" not in changed and "x = 2" in changed
    for given in ("Mask(window=3)", "mask._replace(window=x)", "Mask(*x)", "[Mask]"):
        other = module(texts([source]).replace("Mask(), ", f"{given}, "))
        assert "x = 1" in texts(decided([other], ())), given


def test_settings_from_the_environment_decide_nothing():
    from bitgolf.score.windows import Chunked

    source = module("""
        class Chunked(Plan):
            length: int = 1024
            tail: bool = True

        def main(windows: Chunked):
            return (1 if windows.length else 2), (1 if windows.tail else 2)
    """)
    assert "(1), (1)" in texts(decided([source], [Chunked(length=8)]))
    assert "(1), (1)" in texts(decided([source], [Chunked(length=8)], {("Sliding", "length")}))
    changed = texts(decided([source], [Chunked(length=8)], {("Chunked", "length")}))
    assert "1 if windows.length else 2" in changed and "if windows.tail" not in changed


def test_the_class_of_a_value_is_read_from_annotations():
    source = module("""
        class Base: ...

        class Left(Base): ...

        class Owner:
            left: Left

            def __init__(self, many: tuple[Left, ...], other) -> None:
                self.many, self.other = many, other

            def made(self) -> Base: ...
    """)
    kinds = Kinds([source])
    function = ast.parse("def f(owner: Owner):\n    for each in owner.many: x = owner.made()\n").body[0]
    local = kinds.local(function, "")
    assert (local["owner"], local["each"], local["x"]) == ("Owner", "Left", "Base")
    assert kinds.field("Owner", "left") == "Left" and kinds.field("Owner", "other") == ""
    assert kinds.root("Left") == "Base" and kinds.below("Base") == ["Base", "Left"]


def test_a_method_that_nobody_calls_goes_though_another_of_its_name_is_called():
    source = module("""
        class Part:
            def size(self):
                return 1

        class Other:
            def size(self):
                return 2

        def main(part: Part, other: Other):
            return part.size(), other
    """)
    changed = texts(without_uncalled([source], {"main"}))
    assert "return 1" in changed and "return 2" not in changed
    unsure = module(texts([source]).replace("other: Other", "other"))
    unsure = module(texts([unsure]).replace("size(), other", "size(), other.size()"))
    assert "return 2" in texts(without_uncalled([unsure], {"main"}))


def test_locals_that_nobody_reads_go_wherever_they_are():
    source = module("""
        def main(x):
            a, b = x.a, len(x)
            c, d = x.c, x.made()
            x.e = x.e
            total, part = 0, x.rows
            part += 1  # the rows of x
            number = 0
            number += 1

            def count(y):
                nonlocal total
                total = y

            def unread():
                z = 1

            return b, d, count
    """)
    assert same(
        trusting([source]),
        """
        def main(x):
            b = len(x)
            d = x.made()
            total, part = 0, x.rows
            part += 1

            def count(y):
                nonlocal total
                total = y

            return b, d, count
    """,
    )


def test_a_field_that_all_settings_of_a_class_hold_alike_is_known():
    from bitgolf.squeeze.grid import Grid

    source = module("""
        class Grid(Plan):
            bits: int = 8
            symmetric: bool = True

        def main(grid: Grid):
            return made(grid.symmetric), (1 if grid.symmetric else 2), (1 if grid.bits > 4 else 2)
    """)
    two = [Grid(bits=4), Grid(bits=8)]
    assert "made(True), (1), (1 if grid.bits > 4 else 2)" in texts(decided([source], two))
    two = [Grid(symmetric=False), Grid()]
    assert "made(grid.symmetric), (1 if" in texts(decided([source], two))


def test_class_variables_of_settings_are_known_where_all_members_agree():
    source = module("""
        class Plan: ...

        class Slot(Plan):
            alone: ClassVar[bool] = False

        class One(Slot):
            alone: ClassVar[bool] = True

        def main(slot: Slot):
            return 1 if slot.alone else 2
    """)
    assert "return 1 if" not in texts(decided([source], ()))
    other = module(texts([source]) + "\n\nclass Two(Slot):\n    pass\n")
    assert "1 if slot.alone else 2" in texts(decided([other], ()))


def test_rows_of_nothing_and_copies_without_a_change_go():
    source = module("""
        class Owner:
            rows: tuple

            def __init__(self):
                self.rows = ()
                self.is_late = False

        def main(owner: Owner, x):
            if owner.is_late:
                x = 1
            return [x, *owner.rows], {"x": x, **{}}, x.replace(size=x.size), x.replace(size=x.sizes)
    """)
    changed = texts(decided([source], ()))
    assert "[x], {'x': x}, x, x.replace(size=x.sizes)" in changed and "x = 1" not in changed


def test_a_function_that_passes_its_parameters_on_is_left_out_where_the_order_stays():
    source = module("""
        class Kernels:
            def mix(self, x, y):
                return FusedMix.apply(x, y)

            def turned(self, x, y):
                return FusedMix.apply(y, x)

        def step(optimizer, scale):
            optimizer.step(scale)

        def main(kernels: Kernels, x):
            step(x.made(), 1)
            return kernels.mix(x.a(), x.b()), kernels.turned(x.a(), x.b())
    """)
    changed = texts(inlined([source], {"main"}))
    assert "    x.made().step(1)\n" in changed
    assert "FusedMix.apply(x.a(), x.b()), kernels.turned(x.a(), x.b())" in changed
    value = module(texts([source]).replace("    step(x.made(), 1)", "    x = step(x.made(), 1)"))
    assert "x = step(x.made(), 1)" in texts(inlined([value], {"main"}))


def test_what_is_set_to_be_returned_and_loops_over_nothing_go():
    source = module("""
        class Module:
            def adopt(self, starts):
                for name, start in starts.items():
                    self.take(name, start)

        def main(module, x):
            module.adopt({})
            if x.a:
                y = made(
                    x
                )
                return y
            x.y = 2
            z = y = x.y
            return z

        def seen(x):
            y = x.made()
            x.seen = lambda: y
            y = x.made()
            return y
    """)
    assert same(
        trusting([source]),
        """
        class Module:
            def adopt(self, starts):
                for name, start in starts.items():
                    self.take(name, start)

        def main(module, x):
            if x.a:
                return made(x)
            x.y = 2
            z = y = x.y
            return z

        def seen(x):
            y = x.made()
            x.seen = lambda: y
            y = x.made()
            return y
    """,
    )


def test_settings_that_nobody_reads_go_unless_an_artifact_names_them():
    from bitgolf.net.model import ModelPlan
    from bitgolf.net.position import AttentionWindow, Rope
    from bitgolf.squeeze.grid import Grid
    from bitgolf.squeeze.quantize import AbsMax, QuantizePlan, QuantRule

    source = module("""
        class Rope(Plan):
            # Why.
            dims: int = 0
            base: float = 10000.0

        class ModelPlan(Plan):
            layers: int = 9
            average: int = 0
            position: Rope = Rope()

        class World:
            def average(self):
                return 1

        def main(plan: ModelPlan, world: World):
            return plan.position.base * world.average()
    """)
    spelled = set(spelled_out(ModelPlan(position=Rope(dims=4)), {("ModelPlan", "layers")}))
    changed, gone = without_unread([source], spelled)
    assert gone == {("ModelPlan", "average")} and "dims" in texts(changed) and "layers" in texts(changed)
    changed, gone = without_unread([source], set(spelled_out(ModelPlan(), set())))
    assert gone == {("ModelPlan", "average"), ("ModelPlan", "layers"), ("Rope", "dims")}
    assert "Why" not in texts(changed)
    inside = {name for name, _ in spelled_out(ModelPlan(scope=(AttentionWindow(),)), set())}
    assert inside == {"ModelPlan", "AttentionWindow"}  # of settings in a row an artifact names all
    rules = QuantizePlan(rules=(QuantRule(quantizer=AbsMax(grid=Grid(bits=5))),))
    assert {field for name, field in spelled_out(rules, set()) if name == "Grid"} == {"bits"}  # no row of it
