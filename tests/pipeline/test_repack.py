"""Packing a finished run again: nothing is trained, everything scored comes from reloaded bytes."""

import json
import re

import numpy as np
import pytest

from bitgolf.base.events import finish
from bitgolf.base.files import read_json, write_json
from bitgolf.base.tensors import read_tensors
from bitgolf.net.model import parameter_shapes
from bitgolf.pipeline import repack
from bitgolf.pipeline.repack import (
    OWN,
    TABLES,
    Sums,
    by_sequence,
    compare_tables,
    open_run,
    pack_again,
    packed_by,
    paired_gap,
)
from bitgolf.run.stages import run
from bitgolf.score.metric import bits_per_byte
from bitgolf.squeeze.artifact import unpack
from bitgolf.squeeze.fill import FillBudget
from bitgolf.squeeze.hessian import TrainText
from bitgolf.squeeze.presets import deviations, feedback_rows
from bitgolf.train.average import Ema, NoAverage
from bitgolf.train.qat import FakeQuantize
from tests.cli.test_cli import bitgolf, refused  # noqa: F401
from tests.run.test_run import CODE, result_of

pytestmark = pytest.mark.usefixtures("any_script")


@pytest.fixture
def folder(recipe, dataset, tmp_path):
    result_of(run(recipe, dataset, tmp_path / "run", 1, code=CODE))
    return tmp_path / "run"


def test_the_own_rules_give_the_same_bytes(folder, dataset):
    trained = open_run(folder, data=dataset.folder)
    packing, scores = finish(packed_by(trained, trained.recipe.quantize, OWN))
    assert packing.artifact.data == (folder / "model.bin").read_bytes()
    variant = next(row for row in read_json(folder / "result.json")["variants"] if row["name"] == "quantized")
    assert bits_per_byte(scores) == variant["bits_per_byte"]


def test_a_table_that_fills_a_budget_is_compared_at_that_rate(folder, dataset):
    trained = open_run(folder, data=dataset.folder)
    filled = deviations().replace(rate=FillBudget(least_share=0.3))
    trained = trained._replace(
        recipe=trained.recipe.replace({"quantize": filled, "budget.budget_bytes": 22_000})
    )
    lines = finish(compare_tables(trained, [OWN]))
    result = finish(pack_again(trained, folder / "packed"))
    fixed = finish(compare_tables(trained, ["sdclip"]))
    assert lines[1]["artifact_bytes"] == result["artifact_bytes"] < fixed[1]["artifact_bytes"]
    assert lines[1]["bits_per_byte"] == result["bits_per_byte"]


def test_a_packing_that_is_killed_leaves_no_result_of_an_earlier_one(folder, dataset, monkeypatch):
    trained = open_run(folder, data=dataset.folder)
    finish(pack_again(trained, folder / "packed"))
    monkeypatch.setattr(repack, "record", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finish(pack_again(trained, folder / "packed"))
    assert not (folder / "packed" / "result.json").exists()


def test_every_ready_table_can_be_compared(folder, dataset):
    trained = open_run(folder, data=dataset.folder)
    lines = finish(compare_tables(trained, [OWN, *TABLES]))
    assert [line["name"] for line in lines] == ["float", OWN, *TABLES]
    by_name = {line["name"]: line for line in lines}
    assert by_name["rate-0"]["predicted_gap"] > 0
    for name, line in by_name.items():
        assert line["bits_per_byte"] > 0
        if name != "float":
            assert line["alarms"] == 0, (name, line)
            expected = line["bits_per_byte"] - by_name["float"]["bits_per_byte"]
            assert line["gap"] == pytest.approx(expected, abs=1e-6)
            assert line["gap_error"] > 0 and line["seconds"] > 0
    assert by_name["int4"]["artifact_bytes"] < by_name["int6"]["artifact_bytes"]


def test_a_gap_is_predicted_where_the_curvature_of_all_is_known(folder, dataset):
    trained = open_run(folder, data=dataset.folder)

    def predicted(*names):
        return {line["name"]: line["predicted_gap"] for line in finish(compare_tables(trained, names))[1:]}

    assert predicted("int4", "gptq-int4") == {"int4": None, "gptq-int4": None}  # without gradients
    known = predicted("int4", "gptq-int4", "int6", "rate-4")
    assert 0 < known["gptq-int4"] < known["int4"] and 0 < known["int6"] < known["int4"]


def test_a_gap_is_paired(folder, dataset):
    trained = open_run(folder, data=dataset.folder)
    _, scores = finish(packed_by(trained, TABLES["int4"](), "int4"))
    sums = by_sequence(scores)
    assert paired_gap(sums, sums) == (0.0, 0.0)
    assert paired_gap(*[Sums(*(part[:1] for part in sums))] * 2) == (0.0, None)
    nats = scores.nats + np.float32(0.01)
    moved = type(scores)(**{**vars(scores), "nats": nats})
    gap, error = paired_gap(by_sequence(moved), sums)
    assert gap == pytest.approx(0.01 / np.log(2) * len(nats) / scores.bytes.sum(), rel=1e-3)
    assert error < 0.1 * gap  # the same change everywhere: only the bytes of a token differ


def test_other_rules_into_a_folder_of_their_own(folder, dataset, tmp_path):
    rules = "quantize.rules.1.quantizer=Gptq(scales=(AbsMax(grid=Grid(bits=4)),))"
    changes = [rules, "quantize.calibration=TrainText(sequences=4)", "budget.budget_bytes=9000000"]
    trained = open_run(folder, changes, dataset.folder)
    assert trained.recipe.quantize.calibration == TrainText(sequences=4)
    assert trained.recipe.quantize.rules[1].quantizer == feedback_rows(4).rules[1].quantizer
    result = finish(pack_again(trained, tmp_path / "other"))
    assert result == read_json(tmp_path / "other" / "result.json")
    assert result["status"] == "ok" and result["budget_bytes"] == 9_000_000
    assert sum(size for _, size in result["ledger"]) == result["code_bytes"] + result["artifact_bytes"]
    assert result["predicted_gap"] is None and (tmp_path / "other" / "report.html").is_file()
    rows = {row["name"]: row for row in result["quantization"]}
    assert sum(row["bytes"] for row in rows.values()) < result["artifact_bytes"]
    assert (
        rows["blocks.0.mlp.fc.weight"]["output_error"] < rows["blocks.0.mlp.fc.weight"]["output_error_plain"]
    )
    data = (tmp_path / "other" / "model.bin").read_bytes()
    assert len(data) == result["artifact_bytes"] < len((folder / "model.bin").read_bytes())
    assert unpack(data).tensors["blocks.0.mlp.fc.weight"].form.bits == 4
    assert any(row.get("calibration_tokens") == 4 * 32 for row in result["quantization"])


def test_another_grid_than_that_of_the_training_noise_is_an_alarm(recipe, dataset, tmp_path):
    noisy = recipe.replace(noise=FakeQuantize(patterns=("blocks.*.weight",)))
    result_of(run(noisy, dataset, tmp_path / "run", 1, code=CODE))
    matrices = len([name for name in parameter_shapes(recipe.model) if re.match(r"blocks.*\.weight", name)])
    bits = "quantize.rules.1.quantizer.grid.bits=4"
    for changes, expected in (([], 0), ([bits], matrices)):
        result = finish(pack_again(open_run(tmp_path / "run", changes, dataset.folder), tmp_path / "packed"))
        alarms = [row["alarm"] for row in result["quantization"] if row["alarm"]]
        assert len(alarms) == result["alarms"] == expected
        assert set(alarms) <= {"not on the grid it was trained on, that of AbsMax() without calibration"}


def test_the_verb(bitgolf, folder, dataset, tmp_path):  # noqa: F811
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = ("pack", folder, "--data", dataset.folder)
    code, out, _ = bitgolf(*words, "--compare", "int8, gptq-int4", "--json")
    facts = json.loads(out)
    assert code == 0 and [line["name"] for line in facts["tables"]] == ["float", "int8", "gptq-int4"]
    code, out, _ = bitgolf(*words, "--compare", "int6")
    assert code == 0 and "(bpb)" in out and "KL" in out and "chunked 32" in out and "status:" in out
    assert "predicted" in out
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, _ = bitgolf(*words, "--set", "quantize.rules.1.quantizer.grid.bits=4", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["packed"] == str(folder / "packed") and facts["gap"] != 0
    code, out, _ = bitgolf(*words, "--set", "quantize.rules.1.quantizer=Percentile(percentile=0.5)")
    assert code == 0 and "1: Percentile" in out and "worse than plain rounding" in out and "as floats" in out
    facts = json.loads(bitgolf(*words, "--set", "quantize.rules.1.quantizer.grid.bits=4", "--json")[1])
    code, out, _ = bitgolf("score", folder / "packed", "--json")
    assert code == 0 and json.loads(out)["artifact_bytes"] == facts["artifact_bytes"]
    code, _, _ = bitgolf(*words, "--set", "budget.budget_bytes=1000", "--out", tmp_path / "small")
    assert code == 1
    assert all(path.read_bytes() == data for path, data in before.items())


def test_what_packing_cannot_do_is_refused(bitgolf, folder, dataset, tmp_path):  # noqa: F811
    words = ("pack", folder, "--data", dataset.folder)
    refused(bitgolf(*words, "--set", "model.layers=3"), "trained without this", "model.layers=3")
    refused(bitgolf(*words, "--compare", "int7"), "no such table", "int")
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text("{}")
    for run_folder in (folder, other):
        refused(bitgolf(*words, "--out", run_folder), "trained in this folder")
    result = read_json(folder / "result.json")
    write_json(folder / "result.json", {name: value for name, value in result.items() if name != "dataset"})
    refused(bitgolf("pack", folder), "--data")
    refused(bitgolf("pack", tmp_path / "nothing"), "no such file")
    (folder / "weights.safetensors").unlink()
    refused(bitgolf(*words), "no weights", "--resume")


@pytest.mark.parametrize(("average", "kind"), [(Ema(decay=0.5), "averaged"), (NoAverage(), "live")])
def test_averaged_weights_where_there_are_some(average, kind, recipe, dataset, tmp_path):
    result_of(run(recipe.replace(average=average), dataset, tmp_path / "run", 1, code=CODE))
    stored, _ = read_tensors(tmp_path / "run" / "weights.safetensors")
    trained = open_run(tmp_path / "run", data=dataset.folder)
    expected = stored[f"{kind}/tok_emb.weight"]
    assert np.array_equal(trained.weights["tok_emb.weight"].numpy(), expected.numpy())
