"""What is claimed rests on information: copies, silent seeds, other texts and odd results claim nothing."""

import json
import math
import shutil
import time

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import read_json, write_json
from bitgolf.study.compare import against_constant, compare_runs, read_run_set
from bitgolf.study.design import Study, add_one
from bitgolf.study.receipt import receipt_of
from bitgolf.study.report import write_report
from bitgolf.study.stats import one_sample
from bitgolf.study.status import run_status
from bitgolf.study.verdicts import analyse
from tests.fake_study import fake_study

PR212 = {31337: 1.17031614, 1337: 1.17075317, 2024: 1.17124182, 42: 1.17320677, 7: 1.17670448}
BASE = [2.000, 2.002, 1.999]
NAIVE_BASELINE = 1.2243657
BAD = {
    "list": "[]", "object": "{}", "null": "null", "text": '"ok"', "nested": "[" * 100_000,
    "half": '{"status": "o', "status": '{"status": 3}', "bytes": "\\xff",
}  # fmt: skip
CHANGES = [
    {"bits_per_byte": None}, {"bits_per_byte": "1.2"}, {"bits_per_byte": [1]}, {"bits_per_byte": -1.0},
    {"seed": "1"}, {"seed": None}, {"seed": 1.5}, {"tokens": 0}, {"text_bytes": "many"}, {"variants": {}},
    {"variants": [{"name": "live"}]}, {"seconds": [1]}, {"seconds": {"train": "1"}}, {"data": []},
    {"data": {"splits": 3}}, {"environment": 3}, {"recipe_identity": None}, {"steps": True},
]  # fmt: skip


@pytest.fixture
def pair(tmp_path, recipe):
    """A study of two arms and the words that name their runs; values by arm."""

    def made(base=BASE, deeper=(1.9, 1.903, 1.899), seeds=(1, 2, 3)):
        study = Study(
            name="c", baseline=recipe, arms=add_one(recipe, {"deeper": {"model.layers": 3}}), seeds=seeds
        )
        folder = fake_study(tmp_path, study, {"baseline": [*base], "deeper": [*deeper]})
        runs = {arm: [tmp_path / "runs" / f"c-{arm}-{s}" for s in seeds] for arm in ("baseline", "deeper")}
        return folder, runs

    return made


def words(folders):
    return ",".join(map(str, folders))


def change(folder, **changes):
    path = folder / "result.json"
    path.write_text(json.dumps({**read_json(path), **changes}))


def compared(runs):
    return compare_runs([read_run_set(words(each)) for each in runs.values()])["comparisons"][0]


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_result_of_another_shape_is_no_result(pair, text):
    folder, runs = pair()
    (runs["deeper"][0] / "result.json").write_text(text)
    with pytest.raises(BitgolfError, match="this run has no score") as raised:
        read_run_set(words(runs["deeper"]))
    assert str(runs["deeper"][0]) in str(raised.value) and "\n" not in str(raised.value)
    found = write_report(folder, "")
    (row,) = found["comparisons"]
    assert row["verdict"] == "invalid" and row["why"] == "deeper: 1 of 3 runs left no readable result"
    (bad,) = [run for arm in found["arms"] for run in arm["runs"] if run["state"] == "failed"]
    assert "result.json" in bad["error"] and bad["status"] == "unreadable"


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_results_with_odd_values_are_refused_by_name(pair, changes):
    folder, runs = pair()
    change(runs["deeper"][1], **changes)
    with pytest.raises(BitgolfError, match=next(iter(changes))):
        read_run_set(words(runs["deeper"]))
    analyse(folder)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_score_that_is_not_a_number_is_no_score(pair, value):
    _, runs = pair()
    path = runs["deeper"][2] / "result.json"
    path.write_text(path.read_text().replace('"bits_per_byte": 1.899', f'"bits_per_byte": {value}', 1))
    with pytest.raises(BitgolfError, match="no score.*bits_per_byte.*finite"):
        read_run_set(words(runs["deeper"]))
    assert math.isnan(float(run_status(runs["deeper"][2]).result.get("bits_per_byte", "nan")))


@pytest.mark.parametrize(
    "name", ["status", "bits_per_byte", "seed", "recipe_identity", "tokens", "text_bytes"]
)
def test_a_missing_key_is_named(pair, name):
    _, runs = pair()
    result = read_json(runs["deeper"][0] / "result.json")
    del result[name]
    write_json(runs["deeper"][0] / "result.json", result)
    with pytest.raises(BitgolfError, match=f"{name}: is missing"):
        read_run_set(words(runs["deeper"]))


def test_seeds_that_change_no_bit_claim_nothing(pair):
    folder, runs = pair(deeper=[1.9, 1.9, 1.9])
    row = compared(runs)
    assert (
        row["p"] is None
        and "seeds 1, 2, 3" in row["claim"]
        and row["claim"].endswith("nothing can be claimed.")
    )
    (found,) = analyse(folder)["comparisons"]
    assert found["verdict"] == "invalid" and "alike to the last bit" in found["why"]
    with pytest.raises(BitgolfError, match="as one run would"):
        against_constant(read_run_set(words(runs["deeper"])), 2.0)


def test_a_copied_run_under_another_seed_is_found(pair):
    folder, runs = pair(deeper=[1.9, 1.9, 1.903])
    assert "can be claimed" in compared(runs)["claim"]  # equal only as printed
    for each, data in zip(runs["deeper"], (b"same", b"same", b"other")):
        (each / "scores.npz").write_bytes(data)
    assert "seeds 1, 2 of" in compared(runs)["claim"]
    assert "seeds 1, 2 scored alike" in analyse(folder)["comparisons"][0]["why"]


def test_a_run_is_not_compared_with_itself(pair):
    _, runs = pair()
    with pytest.raises(BitgolfError, match="on both sides"):
        compared({"a": runs["baseline"], "b": runs["baseline"]})


TEXTS = [
    ({"data": {"splits": {"val": {"text_bytes": 3000, "text_sha256": "b" * 64}}}}, "different content"),
    ({"data": {"splits": {"val": {"text_bytes": 4000, "text_sha256": None}}}}, "3,000 and 4,000"),
    ({"text_bytes": 2000}, "parts of the text"),
    ({"variants": [{"name": "a", "bits_per_byte": 1.9, "tokens_sha256": "c" * 64}]}, "different tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), TEXTS, ids=lambda x: x if isinstance(x, str) else "")
def test_other_texts_are_told_by_their_hash(pair, changes, said):
    folder, runs = pair()
    same = {"data": {"splits": {"val": {"text_bytes": 3000, "text_sha256": "a" * 64}}}}
    for arm in runs.values():
        for run in arm:
            bits = read_json(run / "result.json")["bits_per_byte"]
            variants = [{"name": "quantized", "bits_per_byte": bits, "tokens_sha256": "a" * 64}]
            change(run, **same, variants=variants)
    assert "can be claimed" in compared(runs)["claim"]
    change(runs["deeper"][1], **changes)
    with pytest.raises(BitgolfError, match=f"different texts.*{said}"):
        compared(runs)
    (row,) = analyse(folder)["comparisons"]
    assert row["verdict"] == "invalid" and said in row["why"]


def test_a_figure_that_runs_do_not_have_is_refused(pair):
    _, runs = pair()
    sets = [read_run_set(words(each)) for each in runs.values()]
    with pytest.raises(BitgolfError, match="no adapted_bits_per_byte"):
        compare_runs(sets, "adapted_bits_per_byte")
    (row,) = compare_runs(sets, "artifact_bytes")["comparisons"]
    assert "no seed moves it" in row["claim"]


def test_the_t_of_212_against_the_naive_baseline(pair):
    """Its 44.2 is against the exact score of the baseline; against the printed 1.2244 it is 44.3."""
    assert one_sample([*PR212.values()], NAIVE_BASELINE).t == pytest.approx(-44.226, abs=0.001)
    assert one_sample([*PR212.values()], 1.2244).t == pytest.approx(-44.255, abs=0.001)
    _, runs = pair(base=[2.0, 2.1, 2.2, 2.3, 2.4], deeper=[*PR212.values()], seeds=tuple(PR212))
    found = against_constant(read_run_set(words(runs["deeper"])), 1.2244)
    assert found["mean"] == pytest.approx(1.172444, abs=1e-6) and found["deviation"] == pytest.approx(
        0.002625, abs=1e-6
    )
    assert found["freedom"] == 4 and found["p"] == pytest.approx(1.559e-6, rel=1e-3)
    assert found["p_lower"] == pytest.approx(found["p"] / 2) and found["p_higher"] > 0.99
    assert found["nats_per_byte"] == pytest.approx(-0.036013, abs=1e-6)  # what it calls 0.036 nats
    assert found["nats_per_token"] == pytest.approx(3 * found["nats_per_byte"])
    assert found["margin"] == pytest.approx(
        {
            "bits per byte": 0.005,
            "nats per byte": 0.005 / math.log(2),
            "nats per token": 0.005 / math.log(2) / 3,
        }
    )
    assert found["p_lower"] < min(found["p_beyond_margin"].values())
    assert "nats per byte" in found["units"] and "a factor of 3.0" in found["units"]
    assert found["low"] == pytest.approx(-0.0552, abs=1e-4) and found["high"] == pytest.approx(
        -0.0487, abs=1e-4
    )


def test_one_run_against_a_constant_shows_no_noise(pair):
    _, runs = pair()
    with pytest.raises(BitgolfError, match="no noise"):
        against_constant(read_run_set(str(runs["deeper"][0])), 2.0)


RECEIPTS = [
    "[]", "{}", "null", "3", "[" * 100_000, '{"written": 3}',
    '{"plan": [], "runs": [], "amendments": [], "written": ""}',
    '{"plan": {}, "runs": [], "amendments": [], "written": ""}',
    '{"plan": {}, "runs": [{"arm": "baseline"}], "amendments": [], "written": ""}',
]  # fmt: skip


@pytest.mark.parametrize("text", RECEIPTS, ids=lambda text: text[:30])
def test_a_plan_of_another_shape_is_refused(pair, text):
    folder, _ = pair()
    (folder / "plan.json").write_text(text)
    with pytest.raises(BitgolfError, match=r"plan\.json"):
        analyse(folder)


@pytest.mark.parametrize(
    "place", ["/tmp/x", "../../x", "../runs/../../x", "../runs/", "../runs/..", "x", "../runs/a/b"]
)
def test_runs_of_a_plan_lie_in_their_folder(pair, place):
    folder, _ = pair()
    receipt = read_json(folder / "plan.json")
    receipt["runs"][0]["folder"] = place
    write_json(folder / "plan.json", receipt)
    with pytest.raises(BitgolfError, match=r"plan\.json: a run of a study lies in \.\./runs/NAME"):
        receipt_of(folder)


def test_a_plan_without_one_of_its_runs_is_refused(pair):
    folder, _ = pair()
    receipt = read_json(folder / "plan.json")
    receipt["runs"].pop()
    write_json(folder / "plan.json", receipt)
    with pytest.raises(BitgolfError, match="names no run of arm 'deeper', seed 3"):
        analyse(folder)


def test_odd_lines_of_metrics_and_progress_are_left_out(pair):
    folder, runs = pair()
    lines = [
        "[]",
        "null",
        "3",
        "{}",
        '{"progress": "x", "nats_per_token": 1.0}',
        "[" * 100_000,
        '{"progress": 0.5,',
        "\\xff",
    ]
    lines += ['{"progress": 0.5, "nats_per_token": null}', '{"progress": 0.5, "nats_per_token": 4.0}']
    (runs["deeper"][0] / "metrics.jsonl").write_text("\n".join(lines))
    shutil.rmtree(runs["baseline"][0])
    runs["baseline"][0].mkdir()
    now, good = time.time(), {"time": time.time(), "stage": "train", "share": 0.5}
    progress = runs["baseline"][0] / "progress.json"
    progress.write_text(json.dumps(good))
    assert run_status(runs["baseline"][0]).state == "running"
    odd: list[dict[str, object]] = [{"time": value} for value in ("x", None, math.nan, -1e300, True, 10**400)]
    odd += [{"stage": value} for value in ("", "  ", "\x1b[2J", "tr\u202eain", "x" * 10**6, None, ["train"])]
    odd += [{"share": value} for value in (math.nan, math.inf, -0.5, 1e300, 10**30, "0.5", None)]
    texts = [json.dumps(good | change) for change in odd] + ["[]", "{", "null", "[" * 100_000, "", "\0"]
    for text in [*texts, json.dumps(good)[:-3], json.dumps([good])]:
        progress.write_text(text)
        assert run_status(runs["baseline"][0]).state == "waiting", text[:80]
    for other in (now + 1e6, 1e300, 0.0):  # another clock: nobody is behind it
        progress.write_text(json.dumps(good | {"time": other}))
        assert run_status(runs["baseline"][0]).state == "stopped"
    progress.unlink()
    progress.mkdir()
    assert run_status(runs["baseline"][0]).state == "waiting"
    write_report(folder, "")
