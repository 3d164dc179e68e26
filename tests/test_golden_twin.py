"""The cases of the twin are what it computes, and the golden test leaves no fact of a case unused."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.golden_cases.case import Case, Fields, NotCoveredError
from tests.golden_cases.hyperparameters import concerns
from tests.golden_twin.__main__ import write
from tests.golden_twin.cases import CASES
from tests.golden_twin.kinds import KINDS

FOLDER = Path(__file__).parent / "golden"


def golden(path: Path) -> list[str]:
    """Check a case as the golden test does; the facts that were left unused."""
    case = Case(path)
    importlib.import_module(f"tests.golden_cases.kinds.{case.kind}").check(case)
    return case.unused()


@pytest.fixture
def changed(tmp_path):
    """Write a case with some facts set otherwise, and give its path."""

    def change(name: str, group: str, facts: dict[str, object]) -> Path:
        case = json.loads((FOLDER / f"{name}.json").read_text())
        case[group] = case[group] | facts
        (tmp_path / f"{name}.json").write_text(json.dumps(case))
        shutil.copy(FOLDER / f"{name}.safetensors", tmp_path)
        return tmp_path / f"{name}.json"

    return change


@pytest.mark.parametrize("name", CASES)
def test_the_twin_computes_its_cases_again(name):
    facts = json.loads((FOLDER / f"{name}.json").read_text())
    tensors = load_file(FOLDER / f"{name}.safetensors")
    given = {key: t for key, t in tensors.items() if not key.startswith("out.")}
    expected, outputs = KINDS[facts["kind"]](facts | {"twin": facts["source"]["twin"]}, given)
    assert json.loads(json.dumps(expected)).keys() == facts["expected"].keys()
    stored = {key for key in tensors if key.startswith("out.")}
    assert {key for key in outputs if key.startswith("out.")} == stored
    for key in stored:
        found = outputs[key].to(tensors[key].dtype)
        torch.testing.assert_close(found, tensors[key], rtol=1e-5, atol=1e-6)


def test_the_twin_has_odd_cases_of_every_kind_it_knows():
    kinds = {json.loads((FOLDER / f"{name}.json").read_text())["kind"] for name in CASES}
    assert kinds | {"quant_state_dict"} == set(KINDS) and len(CASES) >= 10
    assert "bitgolf" not in {
        line.split()[1].split(".")[0]
        for path in (Path(__file__).parent / "golden_twin").glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("import ", "from "))
    }


@pytest.mark.parametrize(
    ("name", "group", "facts", "place"),
    [
        ("own_model_values", "arguments", {"temperature": 2}, "arguments.temperature"),
        ("own_model_values", "knobs", {"GOLDEN_RATIO": "1"}, "knobs.GOLDEN_RATIO"),
        ("own_model_values", "knobs", {"MATRIX_LR": "1"}, "knobs.MATRIX_LR"),
        ("own_model_values", "expected", {"variance": 1.0}, "expected.variance"),
        ("own_model_values", "effective_hyperparameters", {"canon_ac_layers": "1"}, "canon_ac_layers = '1'"),
        ("own_model_values", "effective_hyperparameters", {"no_one_knows": 3}, "no_one_knows = 3"),
        ("own_gptq_damping", "arguments", {"sort": False}, "arguments.sort"),
        ("own_documents_in_rows", "effective_hyperparameters", {"caseops_enabled": True}, "caseops_enabled"),
        (
            "own_steps_by_the_clock",
            "effective_hyperparameters",
            {"block_lars_trust": 0.1},
            "block_lars_trust",
        ),
        ("own_schedule_floor", "tolerance", {"momentum": {"rel": 0.5}}, "tolerance.momentum"),
    ],
)
def test_a_fact_that_no_handler_uses_is_named(changed, name, group, facts, place):
    assert any(place in unused for unused in golden(changed(name, group, facts)))


@pytest.mark.parametrize("name", ["gates_with_bias", "passes_with_scales_of_their_own"])
def test_models_of_the_twin_that_are_not_kept(tmp_path, name):
    write(tmp_path, name)
    path = tmp_path / f"{name}.json"
    assert golden(path) == []
    case = json.loads(path.read_text())
    settings = case["effective_hyperparameters"]
    for switched in ("gated_attention", "dtg_enabled", "ln_scale"):
        if settings.get(switched):
            changed = case | {"effective_hyperparameters": settings | {switched: False}}
            path.write_text(json.dumps(changed))
            with pytest.raises((AssertionError, NotCoveredError)):
                golden(path)


def test_a_whole_state_dict_in_steps_of_four(tmp_path):
    """Too large to be kept."""
    write(tmp_path, "state_in_fours")
    path = tmp_path / "state_in_fours.json"
    assert golden(path) == []
    case = json.loads(path.read_text())
    for changed in ({"int6_layer_end": 1}, {"fp16_embed": False}, {"int6_layer_start": 3}):
        options = case["arguments"]["kwargs"] | changed
        path.write_text(json.dumps(case | {"arguments": case["arguments"] | {"kwargs": options}}))
        with pytest.raises((AssertionError, KeyError)):
            golden(path)


def test_a_tensor_that_no_handler_uses_is_named(changed, tmp_path):
    path = changed("own_int6_floored", "arguments", {})
    tensors = load_file(path.with_suffix(".safetensors"))
    save_file(tensors | {"out.zero_point.0": torch.zeros(7)}, path.with_suffix(".safetensors"))
    assert golden(path) == ["tensors.out.zero_point.0"]


def test_what_is_off_or_touches_another_kind_needs_no_use(changed):
    off = {"dtg_enabled": False, "canon_ac_layers": "", "repeat_untie_mlp": "none", "matrix_lr": 0.02}
    assert golden(changed("own_model_values", "effective_hyperparameters", off)) == []
    assert concerns("training_steps", "matrix_lr") and not concerns("model_forward", "matrix_lr")


# What a handler ignored once: each of these says something else than the outputs beside it.
@pytest.mark.parametrize(
    ("name", "group", "facts"),
    [
        ("own_block_parallel", "arguments", {"parallel": False}),
        ("own_block_parallel", "arguments", {"train_seq_len": 64}),
        ("own_attention_documents", "arguments", {"cu_seqlens": [0, 23], "max_seqlen": 23}),
        ("own_attention_documents", "arguments", {"extra": {"sparse_attn_gate": True, "gate_window": 4}}),
        ("own_sliding_odd_stride", "arguments", {"stride": 3}),
        ("own_documents_in_rows", "effective_hyperparameters", {"val_batch_tokens": 8 * 13}),
        ("own_gptq_damping", "arguments", {"kwargs": {"clip_range": 15, "block_size": 16}}),
        ("own_hessian_damped", "arguments", {"n_batches": 2}),
        ("own_hessian_of_a_loop", "arguments", {"looping_active": False}),
        ("own_groups_forgotten", "effective_hyperparameters", {"embed_wd": 0.0}),
        ("own_steps_by_the_clock", "effective_hyperparameters", {"gptq_reserve_seconds": 0.0}),
        ("own_steps_by_the_clock", "effective_hyperparameters", {"muon_row_normalize": False}),
        ("own_schedule_floor", "effective_hyperparameters", {"min_lr": 0.0}),
        ("own_model_lanes_in_loop", "effective_hyperparameters", {"sparse_attn_gate_scale": 1.0}),
        ("own_int6_in_fours", "arguments", {"function": "quantize_float_tensor"}),
        ("own_fake_int6_in_fours", "arguments", {"qat_int6": False}),
        ("own_mlp_gated", "arguments", {"neg_slope": 0.3}),
        ("own_model_gated_mlp", "effective_hyperparameters", {"gate_width": 4}),
        ("own_model_parallel_factored", "effective_hyperparameters", {"parallel_residual_start": 4}),
        ("own_model_merged_lanes", "effective_hyperparameters", {"parallel_start_layer": 4}),
        ("own_model_merged_lanes", "source", {"record": "2026-04-04_SP4096"}),
        ("own_model_recurring", "effective_hyperparameters", {"recur_layers": "2,3"}),
        ("own_model_recurring", "source", {"record": "2026-04-04_SP4096"}),
        ("own_model_recurring_lanes", "arguments", {"recurrence_active": False}),
        ("own_model_recurring_lanes", "source", {"record": "2026-04-08_SP8192"}),
        ("own_model_lanes_in_turn", "effective_hyperparameters", {"parallel_start_layer": 4}),
        ("own_fake_soft_int6", "arguments", {"alpha": 3.0}),
        ("own_model_values", "effective_hyperparameters", {"dtg_enabled": True}),
        ("own_model_values", "effective_hyperparameters", {"gated_attention": True}),
        ("own_ttt_odd_chunks", "effective_hyperparameters", {"ttt_chunk_tokens": 36}),
        ("own_ttt_odd_chunks", "effective_hyperparameters", {"ttt_grad_clip": 1.0}),
        ("own_ttt_odd_chunks", "effective_hyperparameters", {"ttt_momentum": 0.9}),
        ("own_ttt_frozen_block", "effective_hyperparameters", {"ttt_freeze_blocks": 0}),
        ("own_ttt_last_target", "effective_hyperparameters", {"ttt_epochs": 1}),
        ("own_lora_odd_batches", "effective_hyperparameters", {"ttt_batch_size": 3}),
        ("own_lora_whole_windows", "effective_hyperparameters", {"ttt_lora_lr": 0.05}),
    ],
)
def test_a_case_that_says_otherwise_fails(changed, name, group, facts):
    with pytest.raises((AssertionError, NotCoveredError)):
        golden(changed(name, group, facts))


@pytest.mark.parametrize("record", ["2026-03-20_Int6_MLP3x", "2026-03-22_11L_EMA"])
def test_the_record_of_a_case_decides_whether_rope_is_rescaled(changed, record):
    path = changed("own_rope_never_rescaled", "source", {"record": record})
    if "Int6" in record:
        assert golden(path) == []
    else:
        with pytest.raises(AssertionError, match="out.cos"):
            golden(path)


def test_facts_remember_what_was_read():
    fields = Fields("arguments", {"seq": 7, "kwargs": {"bits": 6, "block": 4}})
    assert "seq" in fields and fields.unseen() == ["arguments.seq", "arguments.kwargs"]
    assert fields["kwargs"]["bits"] == 6 and fields.get("nothing") is None
    assert fields.unseen() == ["arguments.seq", "arguments.kwargs.block"]
    assert fields["kwargs"] == {"bits": 6, "block": 4} and fields.unseen() == ["arguments.seq"]
