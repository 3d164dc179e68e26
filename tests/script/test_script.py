"""The script of a recipe as it is counted: exact sizes, what they are for, and both ways to unpack it."""

import json
import subprocess
import sys

import pytest

from bitgolf.base.errors import ArtifactError, PlanError
from bitgolf.base.files import read_json
from bitgolf.net.model import build_model
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.demo import demo
from bitgolf.script.counted import plainly_packed, script_of, whole_ledger
from bitgolf.script.flatten import flatten, pack_script
from bitgolf.script.proofs import run_alone
from bitgolf.squeeze.artifact import Artifact, pack
from bitgolf.squeeze.codec import Deflate, RowColumn, Smallest
from bitgolf.squeeze.gptq import Gptq
from bitgolf.squeeze.presets import rate_aware
from bitgolf.squeeze.quantize import AbsMax, Keep, QuantizePlan, quantize_weights
from bitgolf.squeeze.rate import RateAware
from tests.cli.test_cli import bitgolf, finished, recipe_file  # noqa: F401
from tests.script.test_flatten import script_named

BROTLI = {"budget.code_codec": "brotli"}
BASE, OWN = "code with plain packing", "code for quantizers and codecs"


@pytest.fixture
def artifact(recipe, dataset):
    weights = {name: tensor.detach() for name, tensor in build_model(recipe.model).named_parameters()}
    tensors, _ = quantize_weights(recipe.quantize, weights)
    return pack(recipe.model, tensors, dataset.tokenizer.to_bytes())


def test_the_smaller_form_is_taken_and_brotli_only_where_it_was_chosen():
    script = script_named("baseline")
    standard, brotli = pack_script(script), pack_script(script, "brotli")
    assert b"import lzma" in standard[:40]
    assert b"import brotli" in brotli[:40] and len(brotli) < 0.98 * len(standard)
    assert len(pack_script("x = 1\n", "brotli")) <= len(pack_script("x = 1\n"))
    for form in (standard, brotli):
        assert run_alone(form).stdout.startswith("usage: train_gpt.py")
    with pytest.raises(PlanError, match="zstd"):
        baseline().replace({"budget.code_codec": "zstd"})


@pytest.mark.parametrize(("changes", "missed"), [({}, "numpy"), (BROTLI, "brotli")])
def test_what_a_script_misses_first_where_no_package_is_installed(tmp_path, changes, missed):
    (tmp_path / "train_gpt.py").write_bytes(script_of(baseline().replace(changes)))
    command = [sys.executable, "-I", "-S", str(tmp_path / "train_gpt.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert f"No module named '{missed}'" in ended.stderr


@pytest.mark.parametrize(
    ("quantize", "codec"),
    [
        (QuantizePlan(), Deflate()),
        (rate_aware(), Smallest(among=(Deflate(), RowColumn()))),
    ],
    ids=["floats", "rate-aware"],
)
def test_the_lines_of_the_code_add_up_exactly(artifact, quantize, codec):
    recipe = demo().replace({"quantize": quantize, "pack.codec": codec})
    code = script_of(recipe)
    ledger = whole_ledger(recipe, code, artifact)
    assert [name for name, _ in ledger[:2]] == [BASE, OWN] and ledger[2:] == [*map(list, artifact.ledger)]
    base, own = (size for _, size in ledger[:2])
    assert base + own == len(code) and own >= 0
    assert sum(size for _, size in ledger) == len(code) + len(artifact.data)
    if quantize == rate_aware():
        assert base == len(script_of(plainly_packed(recipe))) and 4_000 < own < 8_000
    if quantize == QuantizePlan():
        assert own == 0


def test_plain_packing_is_rounding_by_rows_and_deflate_and_nothing_else_changes():
    recipe = demo().replace({"quantize": rate_aware(), "pack.codec": RowColumn()})
    plain = plainly_packed(recipe)
    kinds = [type(rule.quantizer) for rule in plain.quantize.rules]
    assert kinds == [AbsMax, AbsMax, Keep] and plain.pack.codec == Deflate()
    script = flatten(plain)
    for name in (RateAware, Gptq, RowColumn):
        assert f"class {name.__name__}(" not in script
    changes = {"quantize": recipe.quantize, "pack": recipe.pack}
    assert plain.replace(changes) == recipe


@pytest.mark.slow
def test_the_forecast_says_exactly_what_show_would_print(bitgolf):  # noqa: F811
    code, out, err = bitgolf("forecast", "demo", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["code_bytes"] == len(script_of(demo()))
    assert facts["code_bytes_with_brotli"] == len(script_of(demo().replace(BROTLI)))
    _, out, _ = bitgolf("forecast", "demo")
    assert f"{facts['code_bytes']:,}" in out and f"{facts['code_bytes_with_brotli']:,}" in out


def test_a_run_counts_what_it_wrote_by_line(finished):  # noqa: F811
    folder, result = finished
    lines = dict(map(tuple, result["ledger"]))
    assert lines[BASE] + lines[OWN] == result["code_bytes"] == (folder / "train_gpt.py").stat().st_size
    assert sum(lines.values()) == result["code_bytes"] + result["artifact_bytes"]
    assert result == {**read_json(folder / "result.json"), "next": result["next"]}
    rows = result["quantization"]
    assert {"bytes", "coded_bits", "relative_error", "alarm", "seconds"} <= set(rows[0])
    scores = {row["name"]: row["bits_per_byte"] for row in result["variants"][:3]}
    assert result["gap"] == pytest.approx(scores["quantized"] - scores["averaged"], abs=1e-6)
    assert result["gap_error"] > 0 and result["predicted_gap"] is None and result["alarms"] == 0


def test_a_ledger_that_does_not_add_up_is_refused(artifact):
    with pytest.raises(ArtifactError, match="adds up"):
        Artifact(artifact.data, artifact.ledger[1:])
