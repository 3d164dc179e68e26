"""Public records stand in the ledger as cited figures with their conditions, apart from what was measured."""

import json

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import read_json
from bitgolf.net.heads import Xsa
from bitgolf.published.records import imported
from bitgolf.recipe import Recipe
from bitgolf.study.cited import IMPORTED, Cited, cited
from bitgolf.study.design import Study, add_one
from bitgolf.study.findings import novelty, tried_in_public
from tests.cli.test_cli import bitgolf, refused  # noqa: F401
from tests.published.test_log import MARCH

SCRIPT = """
import os
class Hyperparameters:
    xsa_last_n = int(os.environ.get("XSA_LAST_N", 4))
    ema_decay = float(os.environ.get('EMA_DECAY', "0.997"))
    bigram = int(os.environ.get("BIGRAM_VOCAB_SIZE", 0))
"""
CLAIMS = {
    "author": "somebody",
    "name": "EMA and XSA",
    "track": "10min_16mb",
    "hardware": "8xH100",
    "val_bpb": 1.2437,
    "pre_quant_val_bpb": 1.2400,
    "seed_results": {"42": {"val_bpb": 1.2437}},
    "bytes_total": 15863489,
    "delta_vs_pr99_bpb": -0.0125,
}


def record(folder, claims=CLAIMS, log=MARCH, script=SCRIPT):
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(claims if isinstance(claims, str) else json.dumps(claims))
    (folder / "train_seed42.log").write_text(log)
    (folder / "train_gpt.py").write_text(script)
    return folder


@pytest.fixture
def records(tmp_path):
    record(tmp_path / "records" / "one")
    other = CLAIMS | {"name": "plain", "author": "another", "val_bpb": 1.3}
    del other["delta_vs_pr99_bpb"]
    off = SCRIPT.replace("4)", "0)").replace("0.997", "0")
    record(tmp_path / "records" / "deeper" / "two", other, MARCH + "xsa_last_n: False\n", off)
    return tmp_path / "records"


def test_a_record_gives_its_score_its_conditions_and_the_differences_that_it_states(records):
    rows, problems = imported(records / "one")
    assert problems == [] and [row.metric for row in rows] == [
        "bits per byte",
        "pre-quant bits per byte",
        "bits per byte",
    ]
    first, _, stated = rows
    assert (first.value, first.author, first.seeds) == (1.2437, "somebody", 1)
    assert first.conditions == "10min_16mb, 8xH100, 2,000 steps, 88 s"
    assert first.artifact_bytes == 15863489 and first.source == "one"
    assert (stated.effect, stated.against, stated.verdict) == (-0.0125, "pr99", "better")


def test_techniques_are_what_the_settings_switch_on(records):
    uses = {row.source: row.uses for row in imported(records)[0]}
    assert uses == {"one": "Ema, Xsa", "deeper/two": ""}


def test_claims_that_are_not_those_of_the_logs_are_said(tmp_path):
    rows, _ = imported(record(tmp_path / "r", CLAIMS | {"val_bpb": 1.1}))
    assert rows[0].value == 1.1 and "its logs end at 1.2437" in rows[0].note
    (tmp_path / "r" / "submission.json").write_text(json.dumps({"name": "no score"}))
    rows, _ = imported(tmp_path / "r")
    assert rows[0].value == pytest.approx(1.2437) and "mean of its logs" in rows[0].note


BROKEN = {
    "twice": ('{"val_bpb": 1.0, "val_bpb": 1.1}', "stands twice"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "binary": ("\x00\x01", "not readable as JSON"),
    "list": ("[1]", "is no object"),
    "endless": ('{"val_bpb": 1' + "0" * 400 + "}", "`val_bpb` is no figure"),
    "zero": ('{"val_bpb": 0}', "a score above zero"),
    "negative": ('{"val_bpb": -1.2}', "a score above zero"),
    "no number": ('{"val_bpb": NaN}', "`val_bpb` is no figure"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_one_line_and_keeps_no_other_out(records, name):
    text, words = BROKEN[name]
    record(records / "zbroken", text)
    rows, problems = imported(records)
    assert {row.source for row in rows} == {"one", "deeper/two"}
    (problem,) = problems
    assert words in problem and "zbroken" in problem and "\n" not in problem


def test_what_holds_no_record_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BitgolfError, match="no record in it"):
        imported(tmp_path / "empty")
    with pytest.raises(BitgolfError, match="no such folder"):
        imported(tmp_path / "none")


def test_novelty_names_entries_the_best_and_its_conditions():
    common = {"metric": "bits per byte", "conditions": "8xH100"}
    rows = [
        Cited(source="A", technique="Xsa on all", effect=-0.002, value=1.2, against="B", **common),
        Cited(source="C", technique="everything", effect=-0.03, value=1.1, uses="Xsa, Ema", **common),
        Cited(source="D", technique="nothing", value=1.3, **common),
        Cited(source="E", technique="Xsa + Ema", effect=-0.04, value=1.2, **common),
    ]
    said = novelty(rows, ["xsa"])
    assert said.startswith("xsa: tried in 3 of 4 public entries; best -0.0020 bits per byte (A: Xsa on all")
    assert "8xH100" in said and "lowest score 1.1 (C" in said
    assert "of all that this entry changes together" in novelty(rows, ["ema"])
    assert "best -0.0400" in novelty(rows, ["ema"])
    assert novelty(rows, ["muon"]) == "muon: tried in none of the 4 public entries that are known here"
    assert "no entry states a difference" in novelty(rows, ["nothing"])


def test_a_planned_study_is_told_what_public_entries_tried():
    rows = [Cited(source="A", technique="all", effect=-0.002, metric="bits per byte", uses="Xsa, Ema")]
    changes = {"xsa": {"model.heads_out": (Xsa(last=4),)}, "gain": {"model.qk_gain": 5.0}}
    study = Study(name="s", baseline=Recipe(), arms=add_one(Recipe(), changes))
    (said,) = tried_in_public(study, rows)
    assert said.startswith("xsa: Xsa: tried in 1 of 1 public entries; best -0.0020")
    assert tried_in_public(study, rows[:0]) == []


def test_the_verb_keeps_them_apart_from_what_was_measured(bitgolf, records, tmp_path):  # noqa: F811
    shipped = len(cited())
    code, out, _ = bitgolf("findings", "--import", records, "--in", ".", "Xsa", "--json")
    found = json.loads(out)
    assert code == 0 and found["imported"] == 2 and found["measured"] == []
    assert "tried in" in found["novelty"] and {"one"} <= {row["source"] for row in found["cited"]}
    assert len(read_json(tmp_path / IMPORTED)) == found["rows"] == 5
    bitgolf("findings", "--import", records, "--json")  # again: nothing stands twice
    assert len(read_json(tmp_path / IMPORTED)) == 5
    assert len(cited(tmp_path / IMPORTED)) == shipped + 5
    code, out, _ = bitgolf("findings", "Xsa")
    assert code == 0 and "Xsa: tried in" in out and out.index("Measured, here") < out.index("Cited")
    refused(bitgolf("findings", "--import", tmp_path / "none"), "no such folder")
    (tmp_path / IMPORTED).write_text("{}")
    refused(bitgolf("findings", "Xsa"), "not a table")
