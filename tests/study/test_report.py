"""The report of a study: everything named, nothing executable, places that agree with the numbers."""

import json
import unicodedata
from html import unescape
from pathlib import Path

import pytest

from bitgolf.base.errors import PlanError
from bitgolf.base.files import read_json
from bitgolf.base.plan import to_json
from bitgolf.study.design import Cell, Margin, Study, add_one, factorial
from bitgolf.study.formatting import chance, failures, original_table, shown
from bitgolf.study.markdown import markdown, plain
from bitgolf.study.plots import Axis, apart, dots, forest, interactions, learning, scatter
from bitgolf.study.report import page, write_report
from bitgolf.study.terms import BASELINE
from bitgolf.study.verdicts import analyse
from bitgolf.train.average import NoAverage
from tests.report.test_report import Page

HOSTILE = "<script>|x"
ARMS = {"deeper": {"model.layers": 3}, "longer": {"train.steps": 8}}
VALUES = {"baseline": [1.5, 1.51, 1.52], "deeper": [1.3, 1.32, 1.31], "longer": [1.7, 1.72, 1.71]}
AMENDMENT = {
    "written": "2026-01-03T09:00:00+00:00",
    "changes": [{"path": "seeds", "before": [1, 2], "after": [1, 2, 3]}],
}


def result(value: float | None, *, status: str = "ok", error: str | None = None) -> dict:
    """What a run of this value would have left; None: it failed before it was scored."""
    if value is None:
        return {"status": status, "error": error}
    return {
        "status": status,
        "error": error,
        "bits_per_byte": value,
        "variants": [{"name": "live", "bits_per_byte": value - 0.01}],
        "artifact_bytes": 90_000,
        "total_bytes": round(100_000 * value),
        "train_seconds": 60 + value,
        "steps": 4,
        "seconds": {"train": 60.0, "score": 5.0},
        "text_bytes": 4000,
        "tokens": 1000,
        "windows": "chunked 32",
        "train_tokens": 512,
        "data": {"name": "words"},
        "environment": {"processor": "one of ours", "cores": 2, "torch": "2.9"},
    }


def plant(folder: Path, study: Study, values: dict, *, amendments=()) -> Path:
    """A study's folder with a run for each value; dicts are results, and what is not there has not run."""
    runs = []
    for at, arm in enumerate(study.recipes()):
        for seed, value in zip(study.seeds, [*values.get(arm, []), *[...] * len(study.seeds)]):
            run = folder.parent / "runs" / f"run-{at}-{seed}"
            runs.append({"arm": arm, "seed": seed, "folder": f"../runs/{run.name}"})
            if value is ...:
                continue
            run.mkdir(parents=True)
            (run / "result.json").write_text(json.dumps(value if isinstance(value, dict) else result(value)))
            steps = [{"progress": step / 20, "nats_per_token": 5 - step / 10} for step in range(1, 21)]
            (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
    folder.mkdir(parents=True)
    receipt = {"written": "2026-01-02T08:00:00+00:00", "plan": to_json(study), "amendments": [*amendments]}
    (folder / "plan.json").write_text(json.dumps(receipt | {"runs": runs}))
    return folder


def three(recipe, **settings) -> Study:
    return Study(name="three", question="Deeper?", baseline=recipe, arms=add_one(recipe, ARMS), **settings)


def crossed(recipe, **settings) -> Study:
    levels = {
        "depth": {"2": {}, "3": ARMS["deeper"]},
        "average": {"ema": {}, "none": {"average": NoAverage()}},
    }
    arms, factors = factorial(recipe, levels)
    return Study(name="crossed", baseline=recipe, arms=arms, factors=factors, **settings)


def both(study: dict) -> tuple[str, str]:
    """The page and the Markdown, the page read as a browser would nest it."""
    text = page(study, {})
    Page(text)
    return text, markdown(study)


def grids(text: str) -> list[list[str]]:
    """The tables of a Markdown text, as lines."""
    blocks = [block.splitlines() for block in text.split("\n\n")]
    return [lines for lines in blocks if lines[0].startswith("| ")]


def cells(line: str) -> int:
    return line.replace("\\|", "").count("|") - 1


def test_three_files_say_the_same(recipe, tmp_path):
    reading = "Depth gains.\n\nLength\ndoes not."
    study = three(recipe, reading=reading, margin=Margin(value=0.005, unit="nats per token"))
    folder = plant(tmp_path / "three", study, VALUES)
    found = write_report(folder)
    assert read_json(folder / "study.json") == found
    text, said = (folder / "study.html").read_text(), (folder / "study.md").read_text()
    parsed = Page(text)
    assert not {tag for tag, _ in parsed.tags} & {"script", "img", "link", "iframe", "a"}
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert "default-src 'none'" in text
    for name in ("deeper", "longer", "−0.2000", "+0.2000", "−20,000", "Depth gains.", "Length does not."):
        assert name in parsed.text and name in said
    for part in (
        "better",
        "worse",
        "0.0018",
        "1.5100",
        "model.layers",
        "one of ours",
        "2026-01-02 08:00 UTC",
    ):
        assert part in parsed.text and part in said
    assert "<p>Length does not.</p>" in text
    assert parsed.text.count("against baseline") == 2 and '<path class="line"' in text


def test_a_markdown_table_has_as_many_cells_in_every_line(recipe, tmp_path):
    arms = add_one(recipe, {HOSTILE: ARMS["deeper"], "a_b *c*": ARMS["longer"]})
    study = Study(name="x", baseline=recipe, arms=arms)
    tables = grids(markdown(analyse(plant(tmp_path / "s", study, {"baseline": [1.5, 1.6, 1.4]}))))
    assert [len(lines) for lines in tables] == [4, 5]
    for lines in tables:
        assert {cells(line) for line in lines} == {cells(lines[0])}
    assert "\\*c\\*" in tables[0][3]


def test_names_cannot_be_markup(recipe, tmp_path):
    arms = add_one(recipe, {HOSTILE: ARMS["deeper"]})
    study = Study(question=HOSTILE, reading=HOSTILE, baseline=recipe, arms=arms)
    crash = result(None, status="crash", error=HOSTILE)
    values = {"baseline": VALUES["baseline"], HOSTILE: [1.3, 1.31, crash]}
    change = {"path": HOSTILE, "before": HOSTILE, "after": {"x": HOSTILE}}
    folder = plant(tmp_path / "s", study, values, amendments=[{"written": HOSTILE, "changes": [change]}])
    text, said = both(analyse(folder))
    assert "<script" not in text and "<script" not in said
    assert HOSTILE in unescape(text) and "&lt;script&gt;\\|x" in said


def test_names_move_hide_and_turn_nothing(recipe, tmp_path):
    """Controls, bidirectional marks and halves of characters are shown as their codes."""
    evil = "a\x1b[2J\u202eb\u2066c\u00ad\udce9"
    study = Study(question=evil, reading=evil, baseline=recipe, arms=add_one(recipe, {evil: ARMS["deeper"]}))
    values = {"baseline": VALUES["baseline"], evil: [1.3, 1.31, result(None, status="crash", error=evil)]}
    for text in both(analyse(plant(tmp_path / "s", study, values))):
        odd = {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs")}
        assert odd <= {"\n"}
        assert "u202eb" in text and "x1b[2J" in text and "udce9" in text


def test_a_better_arm_lies_left_of_zero(recipe, tmp_path):
    study = three(recipe, margin=Margin(value=0.03))
    view = forest(analyse(plant(tmp_path / "s", study, VALUES)))
    better, worse = view["rows"]
    assert 0 < better["low"] < better["point"] < better["high"] < view["margin"][0] < view["zero"]
    assert view["zero"] < view["margin"][1] < worse["low"] < worse["point"] < worse["high"] < 100
    assert view["zero"] == next(at for at, text in view["ticks"] if float(text.replace("−", "-")) == 0)
    assert better["point"] + worse["point"] == pytest.approx(2 * view["zero"], abs=0.02)


def test_one_arm_far_off_does_not_squeeze_the_others(recipe, tmp_path):
    values = VALUES | {"longer": [9.1, 9.2, 9.3]}
    found = analyse(plant(tmp_path / "s", three(recipe), values))
    near, far = forest(found)["rows"]
    assert far["low"] == far["point"] == far["high"] == 100 and 0 < near["low"] < near["high"] < 100
    assert near["high"] - near["low"] > 10 and far["text"].startswith("+7.6900")
    *some, last = dots(found)["rows"]
    assert last["mean"] == 100 and all(0 < row["mean"] < 100 for row in some)
    assert scatter(found, "total_bytes")["points"][2]["y"] == 100
    assert [view["beyond"] for view in (forest(found), dots(found))] == [["longer"]] * 2
    text, _ = both(found)
    assert text.count("at the edge of the frame: longer.") == 4
    values = VALUES | {"deeper": VALUES["longer"], "longer": [2.7, *[1.5] * 8]}  # one run alone is far off
    found = analyse(plant(tmp_path / "one run" / "s", three(recipe, seeds=tuple(range(1, 10))), values))
    assert dots(found)["rows"][2]["mean"] < 100 and dots(found)["beyond"] == ["longer"]
    usual, _ = both(analyse(plant(tmp_path / "other" / "s", three(recipe), VALUES)))
    assert "edge of the frame" not in usual


def test_dots_are_in_the_order_of_their_values(recipe, tmp_path):
    view = dots(analyse(plant(tmp_path / "s", three(recipe), VALUES)))
    places = {row["name"]: [at for at, _ in row["runs"]] for row in view["rows"]}
    assert places["deeper"][0] < places["deeper"][2] < places["deeper"][1] < view["level"]
    assert view["level"] == view["rows"][0]["mean"] == places["baseline"][1]
    assert view["rows"][1]["runs"][1][1] == "seed 2: 1.3200"


def test_curves_lie_over_those_they_are_compared_with(recipe, tmp_path):
    study = analyse(plant(tmp_path / "s", three(recipe), VALUES))
    pairs = [[0.05, 9.0], [0.5, 4.0], [0.9, 3.0]]
    view = learning(study, {"baseline": pairs, "deeper": [[0.5, 3.5], [0.9, float("nan")]]})
    (panel,) = view["panels"]
    assert panel["name"] == "deeper" and panel["line"] == "M500 500"
    points = [tuple(map(int, part.split())) for part in panel["reference"][1:].split("L")]
    assert [x for x, _ in points] == [50, 500, 900]
    assert points[0][1] < 0 < points[1][1] < 500 < points[2][1] < 1000  # the early loss is above the frame
    assert learning(study, {"baseline": pairs})["panels"][0]["name"] == "baseline"
    assert "missing" in learning(study, {"baseline": pairs[:1]})


def test_points_stand_at_their_cost_and_labels_apart(recipe, tmp_path):
    view = scatter(analyse(plant(tmp_path / "s", three(recipe), VALUES)), "total_bytes")
    first, deeper, longer = view["points"]
    assert deeper["x"] < first["x"] < longer["x"] and deeper["y"] < first["y"] < longer["y"]
    labels = apart([50.0, 50.0, 10.0, 99.0, 98.0], 6)
    assert sorted(labels)[0] == 10 and min(b - a for a, b in zip(sorted(labels), sorted(labels)[1:])) >= 6
    assert labels[4] < labels[3] <= 100


def test_before_the_first_run(recipe, tmp_path):
    study = three(recipe, margin=Margin(value=0.005, unit="nats per token"))
    found = write_report(plant(tmp_path / "s", study, {}))
    text, said = both(found)
    assert found["margin"]["in_metric"] is None
    for each in (text, said):
        assert "2 unfinished" in each and "deeper" in each and "0 of 9 done" in each
        assert "0.005 nats per token, here –" in each and "nan" not in each.lower()
    assert "No run is done yet." in text and "No comparison has two runs on each side yet." in text


def test_one_run_of_each(recipe, tmp_path):
    values = {name: column[:1] for name, column in VALUES.items()}
    found = analyse(plant(tmp_path / "s", three(recipe), values))
    text, said = both(found)
    assert "too few runs" in text and "too few runs" in said and "1.3000" in text and "1.3000" in said
    assert "no arm has two runs yet" in text and "missing" in forest(found) and len(dots(found)["rows"]) == 3


def test_an_arm_that_is_noisier_than_others_is_seen(recipe, tmp_path):
    values = VALUES | {"deeper": [1.2, 1.3, 1.4]}
    text, said = both(analyse(plant(tmp_path / "s", three(recipe), values)))
    for report in (text, said):
        assert "standard deviation 0.0583, 6 degrees of freedom; by arm 0.0100 to 0.1000" in report


def test_failures_are_named(recipe, tmp_path):
    diverged = result(None, status="diverged", error="the loss is nan")
    over = result(1.2, status="over budget")
    values = {"baseline": VALUES["baseline"], "deeper": [over, 1.3, 1.31], "longer": [1.7, diverged, 1.72]}
    found = analyse(plant(tmp_path / "s", three(recipe), values))
    assert failures(found) == [("deeper", 1, "over budget", ""), ("longer", 2, "diverged", "the loss is nan")]
    text, said = both(found)
    for each in (Page(text).text, said):
        assert "deeper, seed 1: over budget" in each and "longer, seed 2: diverged" in each
        assert "the loss is nan" in each and "longer: 1 of 3 runs diverged" in each and "2 invalid" in each
    assert "No run failed." in both(analyse(plant(tmp_path / "good" / "s", three(recipe), VALUES)))[1]


def test_what_was_changed_after_the_plan_is_said(recipe, tmp_path):
    text, said = both(analyse(plant(tmp_path / "a" / "s", three(recipe), VALUES, amendments=[AMENDMENT])))
    assert "2026-01-03 09:00 UTC: seeds from [1, 2] to [1, 2, 3]" in said
    assert "It was changed afterwards" in text and "[1, 2, 3]" in text and "not changed" not in said
    text, said = both(analyse(plant(tmp_path / "b" / "s", three(recipe), VALUES)))
    assert "It was not changed afterwards" in text and "The plan was not changed." in said


def test_an_interval_without_bounds_spans_the_plot(recipe, tmp_path):
    study = Study(
        baseline=recipe,
        arms=add_one(recipe, {"deeper": ARMS["deeper"]}),
        seeds=(1, 2, 3, 4, 5),
        test="sign-flip",
        alpha=0.1,
    )
    base = [1.11, 1.15, 1.12, 1.14, 1.13]
    lower = [value - 0.1 - n / 10_000 for n, value in enumerate(base)]
    found = analyse(plant(tmp_path / "s", study, {"baseline": base, "deeper": lower}))
    assert found["comparisons"][0]["test"] == "sign-flip"
    (row,) = forest(found)["rows"]
    assert (row["low"], row["high"]) == (0, 100) and 0 < row["point"] < forest(found)["zero"]
    text, said = both(found)
    assert "[−∞, ∞]" in text and "[−∞, ∞]" in said and "(sign-flip)" in said


def test_cells_and_effects_of_a_factorial(recipe, tmp_path):
    study = crossed(recipe)
    names = [*study.recipes()]
    means = dict(zip(names, (1.5, 1.4, 1.3, 1.1)))  # (2, ema), (2, none), (3, ema), (3, none)
    values = {name: [mean - 0.01, mean, mean + 0.01] for name, mean in means.items()}
    found = analyse(plant(tmp_path / "s", study, values))
    view = interactions(found)
    assert (view["down"], view["last"]["name"]) == (["depth"], "average")
    assert view["rows"] == [
        (("2",), [("1.5000", "± 0.0100"), ("1.4000", "± 0.0100")]),
        (("3",), [("1.3000", "± 0.0100"), ("1.1000", "± 0.0100")]),
    ]
    assert [row["effect"] for row in view["effects"]] == ["−0.1500", "−0.2500", "−0.1000"]
    shallow, deep = view["plot"]["lines"]
    drops = [line["points"][0][1] - line["points"][1][1] for line in (shallow, deep)]
    assert drops[1] == pytest.approx(2 * drops[0], abs=0.05) and deep["end"] < shallow["end"]
    text, said = both(found)
    for name in ("depth: 3", "average: none", "average: none x depth: 3", "depth: 3 x average: none"):
        assert (name in text) == (name in said) == (name in {row["name"] for row in found["comparisons"]})
    assert "interaction" in said and "Interactions" in text


def test_a_factorial_before_its_runs_and_one_of_three_factors(recipe, tmp_path):
    found = analyse(plant(tmp_path / "a" / "s", crossed(recipe), {}))
    assert interactions(found)["plot"] is None and "Interactions" in both(found)[0]
    levels = {
        "depth": {"2": {}, "3": ARMS["deeper"]},
        "length": {"4": {}, "8": ARMS["longer"]},
        "average": {"ema": {}, "none": {"average": NoAverage()}},
    }
    arms, factors = factorial(recipe, levels)
    found = analyse(plant(tmp_path / "b" / "s", Study(baseline=recipe, arms=arms, factors=factors), {}))
    view = interactions(found)
    assert view["plot"] is None and [row[0] for row in view["rows"]] == [
        *map(tuple, ("24", "28", "34", "38"))
    ]
    assert len(view["effects"]) == 7
    both(found)


def test_documents_are_kept_apart_from_seeds(recipe, tmp_path):
    found = analyse(plant(tmp_path / "s", three(recipe), VALUES))
    assert "ver documents" not in "".join(both(found))
    found["comparisons"][0]["documents"] = {
        "documents": 40,
        "effect": -0.0012,
        "low": -0.002,
        "high": -0.0004,
    }
    text, said = both(found)
    assert "[−0.0020, −0.0004], 40 documents" in text
    assert "Over documents, with the same weights, apart from seeds: deeper −0.0012 [−0.0020" in said


def test_numbers_as_they_are_written():
    assert shown("bits_per_byte", 0.01234, sign=True) == "+0.0123"
    assert shown("bits_per_byte", -0.00001, sign=True) == "+0.0000"
    assert shown("total_bytes", -1234.4, sign=True) == "−1,234" and shown("steps", 1e4) == "10,000"
    assert shown("train_seconds", 61.25) == "61.2" and shown("bits_per_byte", None) == "–"
    assert (chance(0.00001), chance(0.03), chance(None)) == ("< 0.0001", "0.0300", "–")
    assert [text for _, text in Axis(1_159_000, 1_160_600).ticks(3)] == ["1,159,000", "1,160,000"]
    assert [text for _, text in Axis(-0.02, 0.01).ticks(3)] == ["−0.02", "−0.01", "0.00", "0.01"]
    assert [text for _, text in Axis(575_000, 648_000).ticks(2)] == [
        "580,000",
        "600,000",
        "620,000",
        "640,000",
    ]
    assert plain("a_b _c_ [x](y)\n`d` | &") == "a_b \\_c\\_ [x\\](y) \\`d\\` \\| &amp;"


def test_the_table_of_the_original_stands_beside_ours(tmp_path, recipe):
    cells = (
        Cell(row="plain", column="score", arm=BASELINE, published=1.25),
        Cell(row="deep", column="score", arm="deeper", published=1.125),
        Cell(row="deep", column="bytes", arm="deeper", metric="artifact_bytes"),
    )
    study = three(recipe, original=cells, seeds=(1, 2))
    folder = plant(tmp_path / "three", study, {BASELINE: [1.5, 1.7], "deeper": [1.4, 1.4]})
    table = original_table(write_report(folder))
    assert table["columns"] == ["score", "bytes"]
    (plain, (first, nothing)), (deep, (second, size)) = table["rows"]
    assert (plain, first, nothing) == ("plain", ("1.6000 ± 0.1414", "published 1.2500"), ("", ""))
    assert (deep, second) == ("deep", ("1.4000 ± 0.0000", "published 1.1250"))
    assert size == ("90,000 ± 0", "")
    for name in ("study.md", "study.html"):
        assert "published 1.1250" in (folder / name).read_text()


def test_a_cell_of_an_arm_that_is_not_there_is_refused(recipe):
    with pytest.raises(PlanError, match="'deper'.*deeper"):
        three(recipe, original=(Cell(arm="deper"),))
