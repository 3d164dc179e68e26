"""Settings: checked whole, compared, changed by path, written and read."""

import dataclasses
from typing import ClassVar

import pytest

from bitgolf.base.errors import PlanError
from bitgolf.base.plan import Plan, diff, from_json, members, parse_overrides, setting, to_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape(Plan):
    abstract: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Circle(Shape):
    radius: float = setting(1.0, above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Box(Shape):
    sides: tuple[int, ...] = (1, 2)
    name: str = setting("box", one_of=("box", "cube"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene(Plan):
    shape: Shape = Circle()
    many: tuple[Shape, ...] = (Circle(), Box())
    count: int = setting(3, at_least=1)
    visible: bool = True
    note: str | None = None

    def validate(self):
        if self.count > 5 and not self.visible:
            yield "count: a hidden scene holds at most 5"


def test_round_trip_through_json():
    scene = Scene(shape=Box(sides=(4, 5)), count=2, note="x")
    assert from_json(Scene, to_json(scene)) == scene


def test_slot_members_exclude_the_abstract_class():
    assert set(members(Shape)) == {"Circle", "Box"}


def test_but_changes_one_path_and_leaves_the_original():
    scene = Scene()
    changed = scene.replace({"many.1.name": "cube"}, count=9)
    assert (changed.many[1].name, changed.count) == ("cube", 9)
    assert scene == Scene()


def test_diff_names_paths_and_treats_another_class_as_one_difference():
    left, right = Scene(), Scene(shape=Box(), many=(Circle(radius=2), Box()))
    assert [path for path, _, _ in diff(left, right)] == ["shape", "many.0.radius"]
    assert [path for path, _, _ in diff(left, Scene(many=()))] == ["many"]
    assert diff(left, left.replace(count=4)) == [("count", 3, 4)]
    assert diff(left, Scene()) == []


def test_identity_is_stable_and_sees_every_setting():
    assert Scene().identity() == Scene().identity()
    assert Scene(shape=Circle(radius=2)).identity() == Scene(shape=Circle(radius=2.0)).identity()
    changed = [Scene(count=4), Scene(visible=False), Scene(shape=Box()), Scene(note="n")]
    assert len({scene.identity() for scene in [Scene(), *changed]}) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scene(count=0), "Scene.count: must be at least 1, found 0"),
        (lambda: Scene(count="3"), "Scene.count: expected int, found '3'"),
        (lambda: Scene(count=True), "Scene.count: expected int, found True"),
        (
            lambda: Circle(radius=float("nan")),
            "Circle.radius: expected a finite number below 2**63, found nan",
        ),
        (lambda: Box(name="cub"), "unknown value 'cub'; did you mean 'cube'?"),
        (lambda: Scene(count=6, visible=False), "a hidden scene holds at most 5"),
        (lambda: Scene().replace({"cuont": 1}), "unknown setting 'cuont'; did you mean 'count'?"),
        (lambda: Scene().replace({"many.7.radius": 1}), "many.7: unknown setting '7'"),
        (lambda: parse_overrides(Scene(), ["shape.radius=big"]), "shape.radius: expected float, found"),
        (lambda: parse_overrides(Scene(), ["count"]), "expected PATH=VALUE"),
        (lambda: parse_overrides(Scene(), ["shape=Cricle(radius=2)"]), "did you mean 'Circle'?"),
        (lambda: parse_overrides(Scene(), ["shape=Circle(raduis=2)"]), "shape.raduis: unknown setting"),
        (lambda: parse_overrides(Scene(), ["count=__import__('os').getpid()"]), "cannot read"),
        (lambda: from_json(Scene, {"class": "Scene", "shape": 3}), "shape: expected one of Box, Circle"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(PlanError) as caught:
        make()
    assert message in str(caught.value)


def test_changes_are_checked_together_not_one_by_one():
    assert Scene().replace({"visible": False, "count": 4}).count == 4
    hidden = parse_overrides(Scene(count=9), ["visible=no", "count=2", "shape=Circle", "shape.radius=3"])
    assert (hidden.visible, hidden.count, hidden.shape) == (False, 2, Circle(radius=3))
    with pytest.raises(PlanError, match="at most 5"):
        parse_overrides(Scene(), ["count=9", "visible=no"])


def test_problems_of_several_parts_come_in_one_error():
    with pytest.raises(PlanError) as caught:
        Scene().replace({"shape.radius": -1.0, "many.0.radius": -2.0, "many.1.nmae": "cube", "cuont": 1})
    assert len(caught.value.problems) == 4
    for words in ("-1.0", "-2.0", "many.1.nmae: unknown setting", "did you mean 'count'?"):
        assert words in str(caught.value)


def test_all_problems_come_in_one_error():
    with pytest.raises(PlanError) as caught:
        from_json(Scene, {"class": "Scene", "cont": 1, "shape": {"class": "Circle", "radius": -1}, "note": 2})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("count=7", "count", 7),
        ("visible=false", "visible", False),
        ("shape.radius=2", "shape", Circle(radius=2.0)),
        ("shape=Box(sides=[3], name='cube')", "shape", Box(sides=(3,), name="cube")),
        ("shape=Box", "shape", Box()),
        ("many=[Circle(radius=3)]", "many", (Circle(radius=3),)),
        ("many.0=Box()", "many", (Box(), Box())),
        ("note='hi'", "note", "hi"),
        ("note=None", "note", None),
    ],
)
def test_changes_from_text(text, path, value):
    assert getattr(parse_overrides(Scene(), [text]), path) == value


def test_lists_have_a_largest_length():
    with pytest.raises(PlanError, match=r"Box\.sides: at most 10,000 items in a list, found 10,001"):
        Box(sides=(1,) * 10_001)
    assert Box(sides=(1,) * 10_000).sides[-1] == 1
    data = to_json(Scene()) | {"many": [{"class": "Nobody", "radius": "x"}] * 1_000_000}
    with pytest.raises(PlanError, match="many: at most 10,000 items in a list, found 1,000,000") as refused:
        from_json(Scene, data)
    assert len(refused.value.problems) == 1


def test_a_message_shows_some_of_many_problems():
    error = PlanError(f"problem {i}" for i in range(31))
    assert len(error.problems) == 31 and str(error).endswith("problem 19\n  and 11 more")
