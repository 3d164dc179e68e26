"""What is known of settings when a script is written, and what falls away with it."""

import ast

from bitgolf.script.decided import decided
from bitgolf.script.inline import inlined
from bitgolf.script.kinds import Kinds
from bitgolf.script.single import without_uncalled
from bitgolf.script.trust import trusting
from bitgolf.script.unread import spelled_out, without_unread
from tests.script.test_specialised import module, same, texts


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
