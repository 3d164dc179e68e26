"""The ledger of findings: what was measured here, what others published, and what need not be run again."""

import dataclasses
import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from bitgolf.base.errors import BitgolfError
from bitgolf.net.model import ModelPlan
from bitgolf.recipe import Recipe
from bitgolf.report import screen
from bitgolf.study.cited import Cited, cited
from bitgolf.study.design import Study, add_one, changed, factorial
from bitgolf.study.findings import Finding, already_tested, cited_rows, matching, measured, measured_rows
from bitgolf.train.average import Ema, Swa

EMA = ("average", "Ema(decay=0.9700)")  # as tables show it
SCALE = {"parameters": 1_462_820, "steps": 400, "train_tokens": 1_638_400, "data": "sotu", "runs": 6}
BASE = Recipe(model=ModelPlan(vocabulary_size=64, layers=2, width=32, heads=2, kv_heads=1))
FIVE = ("PR #682", "PR #212", "PR #543", "PR #488", "PR #1718")

# Every figure of the five tables, as printed; in the rows of a source, or in their notes.
PUBLISHED = {
    "PR #682": "2.6964 2.6333 2.4661 0.167 2.6845 2.5273 0.005 1.1233 1.1248 11.1 7 11.2 6.7 11 200",
    "PR #212": "1.1929 1.1933 0.0004 1.2015 0.0086 1.1942 0.0013 1.1947 0.0018 1.1708 0.0221 1.1739 0.019 "
    "0.0031 4.34 5.58 7.6 1.2052 0.012 21.8 15175136 12507 48 599.98 80 1.1703 1.1712 1.1732 1.1767 1.1724 "
    "0.0026 0.036 1.2244 0.052 0.088 44.2 0.5",
    "PR #543": "3061 178 1.1958 18 4071 137 1.1804 1.1770 0.0034 15949473 25224291 615 85 7,100 1.1228 "
    "25,059,928 163,843 25,223,771 520 512 0.35",
    "PR #488": "1.3761 14 1.3796 14.4 1.3874 11.6 1.3267 13.3 1.3436 13.2 26.5 2,048 524,288 0.025 0.035 "
    "0.92 0.99 1,500 0.04 0.02 0.3 85% 64053 93784",
    "PR #1718": "1.08584 1.09678 1.08014 1.07886 1.07882 0.000143 1.07877614 390 336 1.08075 0.00509 1.09344 "
    "0.00334 1.08569 0.00555 1.07919 0.00033 1.08737 1.09829 1.08491 1.08321 0.00435 1.08602 1.09704 1.08293 "
    "1.08163 0.00277 1.08239 1.0948 1.0883 1.08341 0.00455 1.08388 0.00196 1.09439 0.00239 1.08449 1.08314 "
    "0.00428 3837 4393 0.0001 0.023 0.0074 0.015 0.014 1.48169 0.0002 40000 16.06 15.99 3.4871 3.4873 3.6843 "
    "5.6% 0.387159",
    "PR #1716": "1.07886574 1.07892882 1.07865582 1.08015 1.08024 1.07998 15991203 15994170 15996103 4393 "
    "4403 588 478 480 36486278",
}


def line(name="EMA", verdict="no evidence", **more):
    known = {"name": name, "kind": "arm", "against": "baseline", "verdict": verdict, "why": "", "n": 3}
    known |= {"effect": -0.0012, "low": -0.0100, "high": 0.0076, "p_corrected": 0.7, "detectable": 0.011}
    return known | more


def arm(name="EMA", changes=(EMA,), levels=()):
    rows = [{"path": path, "before": "-", "after": after} for path, after in changes]
    return {"name": name, "changes": rows, "levels": [*levels]}


def write(folder, lines=None, arms=None, **more):
    study = {"study": "first", "metric": "bits_per_byte", "scale": SCALE, "factors": []}
    study |= {"comparisons": lines or [line()], "arms": arms or [arm("baseline", ()), arm()]} | more
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(study))
    return folder


def wrong(**more):
    """A study.json with something in it that no study writes."""
    known = {"study": "x", "metric": "m", "scale": SCALE, "arms": [arm()], "comparisons": [line()]}
    return json.dumps(known | more).encode()


def plan(changes=None, **more):
    settings = {"name": "second", "baseline": BASE}
    settings["arms"] = add_one(BASE, changes or {"mine": {"average": Ema(decay=0.97)}})
    return Study(**(settings | more))


def shown(rows):
    """A table on a terminal of 100 columns."""
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screen, "Console", lambda **settings: console)
        screen.table("title", *rows, as_json=False)
    return console.file.getvalue()


def row_of(source, technique, metric="sliding bits per byte", against=None):
    found = [r for r in cited() if (r.source, r.technique, r.metric) == (source, technique, metric)]
    return next(r for r in found if against in (None, r.against))


# Measured here


def test_every_verdict_is_in_the_ledger(tmp_path):
    verdicts = ("better", "worse", "equivalent", "no evidence")
    write(tmp_path / "a" / "deep", [line(verdict, verdict) for verdict in verdicts])
    write(
        tmp_path / "b",
        [line("crashing", "invalid", effect=None, low=None, high=None, n=None, why="1 of 3 runs crashed")],
        study="other",
    )
    found, problems = measured(tmp_path)
    assert [each.verdict for each in found] == [*verdicts, "invalid"]
    assert [each.study for each in found] == ["first"] * 4 + ["other"]
    assert not problems
    assert (found[4].effect, found[4].n, found[4].why) == (None, 0, "1 of 3 runs crashed")


def test_a_finding_has_the_figures_and_the_change_of_its_line(tmp_path):
    found = measured(write(tmp_path / "here"))[0][0]
    assert (found.effect, found.low, found.high, found.n) == (-0.0012, -0.01, 0.0076, 3)
    assert (found.p_corrected, found.detectable, found.metric) == (0.7, 0.011, "bits_per_byte")
    assert found.paths == (EMA,)
    assert found.scale == "1.46 M parameters, 400 steps, 1.64 M tokens of sotu"
    assert found.file == str(tmp_path / "here" / "study.json")


def test_an_effect_of_factors_has_the_change_of_the_arm_that_makes_it(tmp_path):
    factors = [{"name": "depth", "levels": ["9", "11"]}, {"name": "average", "levels": ["no", "EMA"]}]
    deeper = ("model.layers", "11")
    arms = [
        arm("baseline", ()),
        arm("depth 9, average EMA", (EMA,), ("9", "EMA")),
        arm("depth 11, average no", (deeper,), ("11", "no")),
        arm("depth 11, average EMA", (deeper, EMA), ("11", "EMA")),
    ]
    lines = [
        line("depth: 11", kind="main effect", against=None),
        line("average: EMA", kind="main effect", against=None),
        line("depth: 11 x average: EMA", kind="interaction", against=None),
    ]
    found, _ = measured(write(tmp_path, lines, arms, factors=factors))
    assert [each.paths for each in found] == [(deeper,), (EMA,), (deeper, EMA)]
    assert already_tested(plan(), found)[0].startswith("mine: tested in the study first as 'average: EMA'")
    both = {"average": Ema(decay=0.97), "model.layers": 11}
    together = plan(arms=(changed(BASE, "both", both, bundle="all"),))
    assert not already_tested(together, found)  # an interaction is no test of both


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'{"comparisons": [], "arms": []}',
        b'{"comparisons": 3, "arms": 4, "scale": {}, "study": "x"}',
        b'{"comparisons": [{}], "arms": [], "scale": {}, "study": "x", "metric": "steps"}',
        b"[" * 100_000,
        wrong(comparisons=[line(n="3")]),
        wrong(comparisons=[line(effect=True)]),
        wrong(comparisons=[line(low=float("nan"))]),
        wrong(comparisons=[line(n=10**400)]),
        wrong(comparisons=[line(verdict="best")]),
        wrong(comparisons=[line(name=["EMA"])]),
        wrong(study=[]),
        wrong(scale={"steps": "many"}),
        wrong(arms=[arm() | {"changes": [{"path": "average"}]}]),
    ],
    ids=range(18),
)
def test_a_broken_file_is_named_and_others_are_read(tmp_path, content):
    write(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "study.json").write_bytes(content)
    found, problems = measured(tmp_path)
    assert [Path(each.file).parent.name for each in found] == ["good"]
    assert len(problems) == 1
    assert problems[0].startswith(str(tmp_path / "bad" / "study.json"))


def test_a_study_is_one_by_its_content_whatever_its_name(tmp_path):
    content = (write(tmp_path / "made") / "study.json").read_bytes()
    (tmp_path / "made" / "study.json").unlink()
    for name in ("pr682.json", "Long Name.JSON", "made/x.json"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "pr682.json").write_bytes(content)
    (tmp_path / "pr682.json.txt").write_bytes(content)
    found, problems = measured(tmp_path)
    assert sorted(Path(each.file).name for each in found) == ["Long Name.JSON", "pr682.json", "x.json"]
    assert not problems


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff", b'{"arms": 3}', b'{"study": "x", "arms": []}', b"[" * 100_000,
     b'[{"study": 1, "arms": 2, "comparisons": 3}]', b'"comparisons"'],
    ids=range(10),
)  # fmt: skip
def test_another_json_file_is_left_alone(tmp_path, content):
    write(tmp_path / "good")
    (tmp_path / "other.json").write_bytes(content)
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    found, problems = measured(tmp_path)
    assert len(found) == 1
    assert not problems


@pytest.mark.parametrize("cut", [0.5, 0.99])
def test_a_study_of_any_name_that_is_cut_short_is_named(tmp_path, cut):
    content = (write(tmp_path / "good") / "study.json").read_bytes()
    (tmp_path / "pr1.json").write_bytes(content[: int(cut * len(content))])
    found, problems = measured(tmp_path)
    assert len(found) == len(problems) == 1
    assert problems[0].startswith(str(tmp_path / "pr1.json"))
    assert "\n" not in problems[0]


def test_a_pipe_in_place_of_a_study_is_named(tmp_path):
    os.mkfifo(tmp_path / "study.json")
    assert "not a regular file" in measured(tmp_path)[1][0]


def test_the_shipped_studies_are_found():
    found, problems = measured(Path(__file__).parents[2] / "docs")
    assert {Path(each.file).stem for each in found} >= {"pr682", "pr212", "pr543", "pr488", "pr1718"}
    assert not problems


def test_what_is_broken_there_is_nothing_else(tmp_path):
    (tmp_path / "study.json").write_bytes(wrong())
    assert len(measured(tmp_path)[0]) == 1


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "study.json").mkdir()
    found, problems = measured(tmp_path)
    assert not found
    assert len(problems) == 1


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BitgolfError, match="no such folder"):
        measured(tmp_path / "nowhere")


# Cited


def test_cited_and_measured_are_never_mixed(tmp_path):
    write(tmp_path)
    table = tmp_path / "cited.json"
    table.write_text(json.dumps([{"source": "S", "technique": "EMA", "metric": "bpb", "value": 1.0}]))
    found, problems = measured(tmp_path)
    figures = cited(table)
    assert {type(each) for each in found} == {Finding}
    assert len(found) == 1
    assert not problems
    assert {type(each) for each in figures} == {Cited}
    assert not any(each.source == "first" for each in figures)
    assert measured_rows(found)[0] != cited_rows(figures)[0]
    assert "cited from" in cited_rows(figures)[0]


@pytest.mark.parametrize("source", PUBLISHED)
def test_every_published_figure_is_shipped(source):
    rows = [row for row in cited() if row.source == source]
    assert {row.author for row in rows} and all(row.author for row in rows)
    numbers = {
        abs(x) for row in rows for x in (row.value, row.reference, row.effect, row.artifact_bytes) if x
    }
    numbers |= {round(x / 1e6, 2) for x in numbers}
    words = " ".join(f"{row.technique} {row.note} {row.conditions}".replace(",", "") for row in rows)
    said = {word.strip("+-.:;()") for word in words.split()}
    for figure in PUBLISHED[source].split():
        plain = figure.replace(",", "")
        near = not plain.endswith("%") and any(float(plain) == pytest.approx(x, rel=1e-9) for x in numbers)
        assert near or plain in said, figure


def test_the_figures_that_people_ask_for_first():
    best = row_of("PR #212", "int6 + MLP 3x")
    assert (best.value, best.reference, best.effect, best.seeds) == (1.1708, 1.1929, -0.0221, 1)
    assert best.artifact_bytes == 15_175_136
    assert row_of("PR #488", "warm-down + SWA").value == 1.3267
    assert row_of("PR #488", "warm-down + SWA").effect == -0.0494
    narrow = row_of("PR #543", "MLP 1408", "roundtrip bits per byte")
    assert (narrow.value, narrow.artifact_bytes) == (1.1804, 15_949_473)
    longer = row_of("PR #1718", "EVAL_SEQ_LEN 4096, stride 128")
    assert longer.effect == 0.00555
    assert row_of("PR #682", "EMA 0.97", "averaged bits per byte").effect == -0.1672


def test_caveats_travel_with_the_figures():
    metric = "pre-quant bits per byte"
    assert "absent branches" in row_of("PR #1718", "BIGRAM_DIM 32", metric).note
    assert "2.6845" in row_of("PR #682", "all features", "live bits per byte").note
    assert "one step" in row_of("PR #543", "MLP 1408", "roundtrip bits per byte").note
    assert "bfloat16" in row_of("PR #488", "warm-down + late EMA").note


def test_several_metrics_of_one_lever_are_several_rows():
    metrics = {row.metric for row in cited() if row.technique == "TRAIN_SEQ_LEN 4096"}
    assert {m.split(" bits")[0] for m in metrics if "bits" in m} == {
        "pre-quant",
        "roundtrip",
        "sliding",
        "bits per byte with test-time training",
    }
    seeds = [r.value for r in cited() if r.source == "PR #212" and r.verdict == "one of five seeds"]
    assert sum(seeds) / 5 == pytest.approx(1.1724, abs=5e-5)


def test_effects_are_differences():
    both = [row for row in cited() if row.value is not None and row.reference is not None]
    assert len(both) > 50
    for row in both:
        assert row.effect == pytest.approx(row.value - row.reference, abs=1e-9), row


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_a_table_of_other_people_is_merged(tmp_path, suffix):
    row = {
        "source": "ours, 2026",
        "technique": "SWA",
        "metric": "bpb",
        "value": 1.5,
        "reference": 1.6,
        "seeds": 3,
    }
    path = tmp_path / f"more{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps([row, row | {"effect": -0.1, "note": None}]))
    else:
        header = "source,technique,metric,value,reference,seeds,effect,artifact_bytes"
        cells = '"ours, 2026",SWA,bpb,1.5,1.6,3'
        path.write_text(f"\ufeff{header}\n{cells},,\n{cells},-0.1,+15949473\n")
    merged = cited(path)
    assert merged[:-2] == cited()
    assert [row.effect for row in merged[-2:]] == [pytest.approx(-0.1)] * 2
    assert merged[-1].seeds == 3
    assert merged[-1].artifact_bytes == (15_949_473 if suffix == ".csv" else None)
    assert matching(merged, ["OURS", "swa"]) == merged[-2:]


GOOD = {"source": "S", "technique": "T", "metric": "M", "value": 1.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": ""}, "has no source"),
        ({"metric": None}, "has no metric"),
        ({"tecnique": "T"}, "did you mean 'technique'"),
        ({"value": "1.5"}, "value is not a number"),
        ({"value": True}, "value is not a number"),
        ({"value": float("nan")}, "value is not a number"),
        ({"value": 10**400}, "value is not a number"),
        ({"value": None}, "says nothing"),
        ({"seeds": 1.5}, "seeds is not a count"),
        ({"artifact_bytes": -1}, "artifact_bytes is not a count"),
        ({"technique": ["T"]}, "technique is not a text"),
        ({"reference": 1.4, "effect": -0.1}, "effect is not value - reference"),
        ({"value": 1.5123, "reference": 1.4123, "effect": 0.12}, r"= 0.1000; leave effect out"),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused(tmp_path, change, message):
    path = tmp_path / "table.json"
    path.write_text(json.dumps([GOOD, GOOD | change]))
    with pytest.raises(BitgolfError, match=message) as caught:
        cited(path)
    assert "table.json, row 2" in str(caught.value)


def test_a_published_effect_may_be_rounded(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps([GOOD | {"value": 1.1739, "reference": 1.1929, "effect": -0.02}]))
    assert cited(path)[-1].effect == -0.02


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"{}"),
        ("a.json", b"[1]"),
        ("a.json", b"["),
        ("a.json", b"[" * 100_000),
        ("a.csv", b""),
        ("a.csv", b"\xff\xfe"),
        ("a.csv", b"source;technique;metric\nS;T;M\n"),
        ("a.csv", b"source,technique,metric,value\nS,T,M,1,234\n"),
        ("a.csv", b"source,technique,metric,value\nS,T\n"),
        ("a.csv", b"source,technique,metric,value\nS,T,M,nan\n"),
        ("a.csv", b"source,technique,metric,value\nS,T,M,1.2 bpb\n"),
        ("a.csv", b'source,technique,metric,value\nS,T,"M,1\n'),
        ("a.txt", b"source,technique,metric\n"),
    ],
    ids=range(13),
)
def test_a_file_that_is_no_table_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BitgolfError) as caught:
        cited(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["none.json", "none.csv"])
def test_a_missing_table_is_refused(tmp_path, name):
    with pytest.raises(BitgolfError, match=name):
        cited(tmp_path / name)


# Searching


def test_all_words_must_occur_in_either_case(tmp_path):
    write(tmp_path / "a", [line("weights averaged"), line("worse one", "worse")], [arm("weights averaged")])
    write(tmp_path / "b", [line("wider")], [arm("wider", (("model.width", "640"),))], study="pr543")
    found, _ = measured(tmp_path)
    assert [each.technique for each in matching(found, ["ema"])] == ["weights averaged"]
    assert [each.technique for each in matching(found, ["MODEL.width", "PR543"])] == ["wider"]
    assert not matching(found, ["ema", "width"])
    assert matching(found, []) == found
    assert {each.source for each in matching(cited(), ["pr #543"])} == {"PR #543"}
    assert {each.technique for each in matching(cited(), ["mrdavtan", "swa"])} == {
        "SWA",
        "SWA summed in bf16",
    }


# Planning


@pytest.mark.parametrize("verdict", ["no evidence", "equivalent"])
def test_an_arm_that_was_inside_the_noise_is_named(tmp_path, verdict):
    found, _ = measured(write(tmp_path, [line(verdict=verdict)]))
    said = already_tested(plan({"mine": {"average": Ema(decay=0.97)}, "other": {"average": Swa()}}), found)
    assert len(said) == 1
    for words in (
        "mine",
        "first",
        "'EMA'",
        "-0.0012 [-0.0100, +0.0076]",
        "n=3",
        verdict,
        "0.011",
        "400 steps",
    ):
        assert words in said[0]


@pytest.mark.parametrize("verdict", ["better", "worse", "invalid", "unfinished"])
def test_an_arm_with_another_verdict_is_not(tmp_path, verdict):
    found, _ = measured(write(tmp_path, [line(verdict=verdict)]))
    assert not already_tested(plan(), found)


@pytest.mark.parametrize(
    "change",
    [{"average": Ema(decay=0.98)}, {"average": Swa()}, {"model.layers": 3}],
)
def test_another_value_is_another_change(tmp_path, change):
    found, _ = measured(write(tmp_path))
    assert not already_tested(plan({"EMA": change}), found)


def test_part_of_a_change_is_another_change(tmp_path):
    both = (EMA, ("model.layers", "11"))
    found, _ = measured(write(tmp_path, arms=[arm("EMA", both)]))
    assert not already_tested(plan(), found)
    together = {"model.layers": 11, "average": Ema(decay=0.97)}
    arms = (changed(BASE, "both", together, bundle="for a test"),)
    assert len(already_tested(plan(arms=arms), found)) == 1  # whatever the order


def test_a_line_without_known_settings_equals_nothing(tmp_path):
    found, _ = measured(write(tmp_path, arms=[arm("another", ())]))
    assert found[0].paths == ()
    assert not already_tested(plan(), found)


def test_the_study_itself_and_other_metrics_do_not_count(tmp_path):
    found, _ = measured(write(tmp_path))
    assert not already_tested(plan(name="first"), found)
    assert not already_tested(plan(metric="train_seconds"), found)
    assert already_tested(plan(metric="float_bits_per_byte"), found)
    seconds = [dataclasses.replace(found[0], metric="train_seconds")]
    assert not already_tested(plan(), seconds)
    assert already_tested(plan(metric="train_seconds"), seconds)


def test_a_cell_of_a_planned_factorial_is_recognised(tmp_path):
    found, _ = measured(write(tmp_path))
    levels = {
        "average": {"no": {}, "EMA": {"average": Ema(decay=0.97)}},
        "depth": {"2": {}, "3": {"model.layers": 3}},
    }
    arms, factors = factorial(BASE, levels)
    said = already_tested(plan(arms=arms, factors=factors), found)
    assert [words.partition(":")[0] for words in said] == ["average EMA, depth 2"]


# Tables


def test_tables_fit_a_terminal(tmp_path):
    write(
        tmp_path,
        [
            line("int6 quantization with a wide multilayer perceptron", verdict="no evidence"),
            line("EMA", effect=-123456.0, low=-234567.0, high=-12345.0),
            line("broken", "invalid", effect=None, low=None, high=None, n=None),
        ],
        metric="quantized_bits_per_byte",
    )
    text = shown(measured_rows(measured(tmp_path)[0]))
    assert max(map(len, text.splitlines())) <= 100
    for words in ("-0.0012", "-123,456", "no evidence", "invalid", "EMA"):
        assert words in text
    text = shown(cited_rows(cited()))
    assert max(map(len, text.splitlines())) <= 100
    for words in ("-0.0221", "+0.00555", "-0.0000896", "15,949,473", "PR #1718", "1.1804"):
        assert words in text


def test_foreign_texts_are_shown_as_they_are(tmp_path):
    odd = "[/red] [bold]x\x1b[31m\ny"
    path = tmp_path / "odd.json"
    path.write_text(json.dumps([GOOD | {"technique": odd, "verdict": odd, "against": odd}]))
    text = shown(cited_rows(cited(path)[-1:]))
    assert "[/red]" in text
    assert "\x1b" not in text
    write(tmp_path, [line(odd)], [arm(odd)])
    found, _ = measured(tmp_path)
    assert found[0].paths == (EMA,)
    assert "[/red]" in shown(measured_rows(found))
