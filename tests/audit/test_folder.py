"""Faults between the parts of a folder are named; a folder that fits together has no finding."""

import errno
import hashlib
import io
import json
import os
import shutil
import textwrap
import tomllib

import pytest
import torch
from safetensors.torch import save_file

from bitgolf.audit import rules, tokenizer_checks
from bitgolf.audit.audit import audit
from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED
from bitgolf.audit.page import markdown, severity
from bitgolf.audit.rules import FILE, rules_named
from bitgolf.audit.violations import UNSEEN, VIOLATIONS
from bitgolf.base.errors import BitgolfError
from bitgolf.base.tensors import write_tensors
from tests.audit.planted import SCORES, SCRIPT, changed, log_text, write_claims, write_folder
from tests.audit.rows import SCRIPT_ROWS
from tests.audit.rows.made import PACK
from tests.audit.rows.v import EPOCHS

RULES = rules_named()
CODE = len(SCRIPT.encode())
LAYERS = {"folder", "script", "log", "artifact", "data"}


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "record")
    return tmp_path / "record"


def claims_of(folder):
    return json.loads((folder / "submission.json").read_text())


def codes(folder, rules=RULES):
    return sorted(
        (each.code, each.sure) for each in audit(folder, rules).findings if each.sure != CANNOT_TELL
    )


def test_a_folder_that_fits_together_has_no_finding(folder):
    found = audit(folder, RULES)
    assert found.findings == [] and found.verdict == "clean"
    assert {"V14", "T09"} - found.looked <= {*found.untold()}


def test_it_is_clean_under_every_rule_set_too(folder):
    assert codes(folder, rules_named("march-2026")) == codes(folder, rules_named("strict")) == []


CLAIMS = {
    "mean": {"val_bpb": 1.1983},
    "the best seed for the mean": {"val_bpb": SCORES[1]},
    "deviation": {"val_bpb_std": 0.0001},
    "size": {"bytes_total": 14_000_000},
    "code": {"bytes_code": 12},
    "over": {"bytes_total": 16_500_000},
}
NAMED = {"the best seed for the mean": "K14", "over": "K02"}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_against_logs(folder, name):
    write_claims(folder, claims_of(folder) | CLAIMS[name])
    assert NAMED.get(name, "K11") in {code for code, _ in codes(folder)}


@pytest.mark.parametrize("key", ["val_bpb", "steps"])
def test_figures_of_a_seed_against_its_log(folder, key):
    claims = claims_of(folder)
    claims["seed_results"]["2"][key] *= 1.05
    write_claims(folder, claims)
    assert ("K11", FOUND) in codes(folder)


def test_a_score_in_a_form_that_is_not_known_is_no_fault(folder):
    write_claims(folder, claims_of(folder) | {"val_bpb": 0.98765, "seed_results": {}})
    assert ("K11", FOUND) in codes(folder)
    log = folder / "train_seed1.log"
    log.write_text(log.read_text() + "mixture of three experts: 0.98765\n")
    assert "submission.json: val_bpb" not in {each.where for each in audit(folder, RULES).findings}


def test_a_seed_without_a_log(folder):
    (folder / "train_seed3.log").unlink()
    assert ("K13", SUSPECTED) in codes(folder)


def test_no_log_at_all(folder):
    for path in folder.glob("*.log"):
        path.unlink()
    assert ("K13", FOUND) in codes(folder)


def test_a_log_that_is_a_copy_under_another_seed(folder):
    text = (folder / "train_seed1.log").read_text()
    (folder / "train_seed2.log").write_text(text.replace("seed:1", "seed:2"))
    assert any("equal to the last digit" in each.found for each in audit(folder, RULES).findings)


def test_a_copy_under_no_seed_is_no_fault(folder):
    shutil.copy(folder / "train_seed1.log", folder / "train.log")
    assert codes(folder) == []


def test_a_seed_of_another_configuration(folder):
    text = (folder / "train_seed3.log").read_text()
    (folder / "train_seed3.log").write_text(text.replace("matrix_lr: 0.02", "matrix_lr: 0.03"))
    found = [each for each in audit(folder, RULES).findings if each.code == "K11"]
    assert "matrix_lr is 0.03" in found[0].found and found[0].where == "train_seed3.log:3"


def test_a_slow_seed(folder):
    (folder / "train_seed3.log").write_text(log_text(3, SCORES[3], CODE))
    for seed in (1, 2):
        (folder / f"train_seed{seed}.log").write_text(log_text(seed, SCORES[seed], CODE, seconds=450.0))
    assert codes(folder) == [("K12", FOUND)]


def test_readme_against_claims(folder):
    page = folder / "README.md"
    text = page.read_text()
    page.write_text(text.replace("val_bpb: 1.2016", "val_bpb: 1.1816"))
    assert codes(folder) == [("K11", SUSPECTED)]
    page.write_text(text.replace("| 1.20230 |", "| 1.20130 |"))
    (found,) = audit(folder, RULES).findings
    assert found.minor and found.where.startswith("README.md:")


def test_code_in_a_second_file(folder):
    (folder / "train_gpt.py").rename(folder / "model.py")
    (folder / "train_gpt.py").write_text("exec(open('model.py').read())\n")
    found = [each for each in audit(folder, RULES).findings if each.code == "K03"]
    assert found[0].sure == FOUND and f"{CODE:,}" in found[0].found


def test_helpers_that_are_imported(folder):
    (folder / "helper.py").write_text("import other\n")
    (folder / "other.py").write_text("x = 1\n")
    (folder / "unused.py").write_text("x = 1\n")
    (folder / "train_gpt.py").write_text("import helper\n" + SCRIPT)
    found = [each for each in audit(folder, RULES).findings if each.code == "K03"]
    assert "imports helper.py, other.py" in found[0].found


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('print("*")\n', True),  # a text that matches every name says nothing of the files
        ('shards = sorted(glob.glob("fineweb_val_*"))\n', True),
        ('code = sum(len(open(each).read()) for each in glob.glob("*.py"))\n', False),
    ],
)
def test_texts_that_match_any_name_count_no_helper(folder, line, named):
    (folder / "helper.py").write_text("x = 1\n")
    (folder / "train_gpt.py").write_text("import glob\nimport helper\n" + line + SCRIPT)
    assert any("imports helper.py" in each.found for each in audit(folder, RULES).findings) == named


def test_a_known_script_cannot_have_made_the_log(folder, monkeypatch):
    log = folder / "train_seed1.log"
    log.write_text(log.read_text() + "ema:applying EMA weights\n")
    assert codes(folder) == []
    monkeypatch.setattr("bitgolf.audit.folder_logs.known_script", lambda sha256: "the baseline")
    (found,) = audit(folder, RULES).findings
    assert (found.code, found.sure) == ("K11", FOUND) and "ema:applying" in found.found


def test_a_log_of_another_script(folder):
    for path in folder.glob("*.log"):
        path.write_text(path.read_text().replace("final_int8_lzma_roundtrip_exact", "legal_ttt_exact"))
    assert ("K11", FOUND) in codes(folder)


def test_a_log_that_begins_with_another_source(folder):
    log = folder / "train_seed1.log"
    log.write_text(f"{SCRIPT}\n{'=' * 100}\n{log.read_text()}")
    assert codes(folder) == []
    log.write_text(
        log.read_text().replace("range(3):\n                learner", "range(9):\n                learner")
    )
    assert [code for code, _ in codes(folder)] == ["K11"]


def test_a_branch_that_ran_although_it_is_off(folder):
    branch = (
        '    early = bool(int(os.environ.get("EARLY", "0")))\n    rank = int',
        "    if settings.early:\n        print('early:adapting first')\n"
        "        tuner = torch.optim.AdamW(net.parameters(), lr=0.001)\n"
        "        for at in range(0, 6400, 640):\n"
        "            piece = stream[at : at + 641].to(torch.int64)\n"
        "            F.cross_entropy(net(piece[:-1]), piece[1:]).backward()\n            tuner.step()\n",
    )
    start = "    val_loss, val_bpb = evaluate("
    shutil.rmtree(folder)
    write_folder(folder, changed(("    rank = int", branch[0]), (start, branch[1] + start)))
    assert codes(folder) == []
    for path in folder.glob("*.log"):
        path.write_text("7 early:adapting first\n" + path.read_text())
    assert codes(folder) == [("V04", FOUND)]
    script = (folder / "train_gpt.py").read_text()  # what stands behind a value others may print too
    (folder / "train_gpt.py").write_text(
        script.replace("'early:adapting first'", "f'{1} early:adapting first'")
    )
    assert "V04" not in {code for code, _ in codes(folder)}


def test_time_does_not_count_without_a_limit(folder):
    for seed in SCORES:
        (folder / f"train_seed{seed}.log").write_text(log_text(seed, SCORES[seed], CODE, seconds=4000.0))
    assert {code for code, _ in codes(folder)} == {"K07"}
    write_claims(folder, claims_of(folder) | {"track": "non_record_16mb"})
    assert codes(folder) == []


def test_a_run_beside_the_reported_ones_cannot_be_held_against_them(folder):
    (folder / "train_v1.log").write_text(log_text(9, 1.1, CODE, seconds=2400.0))
    found = audit(folder, RULES).findings
    assert [(each.code, each.sure) for each in found] == [("K07", CANNOT_TELL)]


def test_artifacts(folder):
    state = {"mtp_heads.0.weight": torch.randn(8, 8), "a.weight": torch.randn(64, 64)}
    state["b.weight"] = state["a.weight"].clone()
    state["c.weight"] = torch.randn(64, 64)
    state["c.weight"][:10] = 0
    torch.save(state, folder / "final_model.ptz")
    found = audit(folder / "final_model.ptz", RULES).findings
    assert [each.code for each in found] == ["K06", "K06", "T08"]
    assert "b.weight and a.weight are equal" in found[1].found


def test_what_a_run_keeps_beside_its_artifact_is_none(folder):
    moments = {"optimizer/a.weight/exp_avg": torch.randn(64, 64)}
    state = folder / "checkpoint" / "state.safetensors"
    write_tensors(state, moments, {"step": 1})
    assert codes(folder) == []
    save_file(moments, state)  # of somebody, and nothing is packed beside it
    assert codes(folder) == [("K06", FOUND)]
    torch.save({"a.weight": torch.randn(64, 64)}, folder / "final_model.ptz")
    assert codes(folder) == []


def test_large_files_beside_a_small_packed_model_are_none(folder):
    (folder / "model.bin").write_bytes(bytes(200_000))
    (folder / "scores.npz").write_bytes(bytes(17_000_000))
    assert codes(folder) == []
    (folder / "model.bin").unlink()
    assert codes(folder) == [("K01", FOUND)]


@pytest.mark.parametrize(
    "name", ["train_seed1.log", "README.md", "submission.json", "tok.model", "final_model.ptz"]
)
def test_a_file_that_cannot_be_read_ends_no_audit(folder, name, monkeypatch):
    (folder / name).touch()
    (folder / "notes").mkdir()
    (folder / "train_gpt.py").write_text(changed((PACK, EPOCHS + PACK)))
    opened, listed = io.open, os.scandir

    def refuse(real):
        def opening(path, *given, **named):
            if str(path) in (str(folder / name), str(folder / "notes")):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *given, **named)

        return opening

    monkeypatch.setattr(io, "open", refuse(opened))
    monkeypatch.setattr(os, "scandir", refuse(listed))
    found = audit(folder, RULES).findings
    unread = {(each.code, each.sure, each.where) for each in found if "cannot read" in each.found}
    assert unread == {("K03", CANNOT_TELL, "notes"), ("K03", CANNOT_TELL, name)}
    assert any(each.code == "V06" for each in found)


def test_many_tensors_of_one_fault_are_one_finding(tmp_path):
    state = {f"exp_avg.{layer}.weight": torch.randn(8, 8) for layer in range(60)}
    state |= {"exp_avg.head.weight": torch.randn(40, 8), "a.weight": torch.randn(64, 64)}
    for layer in range(12):
        state[f"mlp.{layer}.weight"] = torch.randn(32, 32)
        state[f"mlp.{layer}.weight"][:8] = 0
    torch.save(state, tmp_path / "final_model.ptz")
    trained, rows = audit(tmp_path / "final_model.ptz", RULES).findings
    assert (trained.code, trained.where) == ("K06", "final_model.ptz: exp_avg.head.weight")
    assert "320 numbers; with 60 more such tensors 4,160" in trained.found
    assert rows.code == "T08" and "so in 11 more places: final_model.ptz: mlp.1.weight" in rows.found


@pytest.mark.parametrize(
    "text", ["[]", "null", "{", '{"val_bpb": "1.2", "seeds": 3, "seed_results": [[[1]]]}', '{"a": 1, "a": 2}']
)
def test_claims_of_any_shape(folder, text):
    (folder / "submission.json").write_text(text)
    assert any(each.code == "K11" for each in audit(folder, RULES).findings)


def test_odd_folders(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BitgolfError, match="an empty folder"):
        audit(tmp_path / "empty", RULES)
    with pytest.raises(BitgolfError, match="no such file"):
        audit(tmp_path / "none", RULES)
    (folder / "loop").symlink_to(folder)
    (folder / "out.log").symlink_to("/dev/zero")
    found = audit(folder, RULES).findings
    assert {each.where for each in found} == {"out.log"}


def test_a_page_for_reviewers(folder):
    write_claims(folder, claims_of(folder) | {"val_bpb": 1.1, "name": "a|b @all <b>"})
    text = markdown(audit(folder, RULES))
    assert text.startswith("**invalid** under the public challenge as it ended")
    assert "| K11 " in text and len(text.splitlines()) < 40
    assert "Not looked for" in markdown(audit(folder / "train_gpt.py", RULES))


def test_every_row_of_the_catalogue_is_looked_for_or_said_to_be_unseen():
    assert len(VIOLATIONS) == 65
    for each in VIOLATIONS.values():
        assert each.seen_by in UNSEEN or {*each.seen_by.split()} <= LAYERS
    assert all(line["code"] in VIOLATIONS for line in tomllib.loads(FILE.read_text())["rulings"])


def test_what_reviewers_took_an_entry_with_is_disputed_there(folder, monkeypatch):
    log = folder / "train_seed1.log"
    log.write_text(log_text(1, SCORES[1], CODE, seconds=650.0))
    assert audit(folder, RULES).verdict == "invalid"
    sha256 = hashlib.sha256((folder / "submission.json").read_bytes()).hexdigest()
    rows = {**rules._data(), "taken": [{"sha256": sha256, "codes": ["K07"], "source": "#1"}]}
    monkeypatch.setattr(rules, "_data", lambda: rows)
    found = audit(folder, RULES)
    assert {each.code for each in found.disputed} == {"K07"} and found.verdict != "invalid"
    assert "disputed: disqualifies, taken with it: #1" in severity(found, found.disputed[0])
    assert audit(folder, rules_named("strict")).verdict == "invalid"


HASHED = next(row for row in SCRIPT_ROWS if row.code == "V02").text


def test_an_analysis_without_a_score_is_not_held_to_one(folder):
    """A paper about a fault ships the script that has it, and reports nothing."""
    (folder / "train_gpt.py").write_text(HASHED)
    assert ("V02", FOUND) in codes(folder)
    for path in [*folder.glob("*.log"), folder / "submission.json"]:
        path.unlink()
    assert ("V02", SUSPECTED) in codes(folder) and ("V02", FOUND) not in codes(folder)


def test_a_mean_that_is_off_in_the_sixth_decimal_decides_nothing(folder):
    claims = claims_of(folder)
    write_claims(folder, claims | {"val_bpb": round(claims["val_bpb"] + 4e-6, 8)})
    found = audit(folder, RULES)
    assert {each.code for each in found.real} == {"K11"} and found.verdict == "flawed"
    write_claims(folder, claims | {"val_bpb": round(claims["val_bpb"] - 4e-4, 8)})
    assert audit(folder, RULES).verdict == "invalid"


EARLY = changed(
    (PACK, "    if settings.adapt:\n" + textwrap.indent(EPOCHS, "    ") + PACK),
    ('"ADAPT", "1"', '"ADAPT", "0"'),
)


def test_the_settings_of_the_command_in_a_readme_hold(folder):
    (folder / "train_gpt.py").write_text(EARLY)
    readme = (folder / "README.md").read_text()
    (folder / "README.md").write_text(f"{readme}\n```\nSEED=1 ADAPT=0 torchrun train_gpt.py\n```\n")
    assert "V06" not in {code for code, _ in codes(folder)}
    (folder / "README.md").write_text(
        f"{readme}\n```\nSEED=1 \\\n  ADAPT=1 \\\n  torchrun train_gpt.py\n```\n"
    )
    assert ("V06", FOUND) in codes(folder)
    (folder / "README.md").write_text(
        f"{readme}\n```\nADAPT=1 torchrun train_gpt.py\nADAPT=0 torchrun train_gpt.py\n```\n"
    )
    assert "V06" not in {code for code, _ in codes(folder)}


def test_a_claim_that_nothing_shows_is_not_clean(folder, tmp_path):
    """#2003 has a README with a score, no script and no log."""
    path = tmp_path / "words"
    path.mkdir()
    (path / "README.md").write_text("# Mine\nval_bpb 1.1234 over three seeds\n")
    (path / "ledger.sql.gz").write_bytes(b"\x1f\x8b")
    found = audit(path, RULES)
    assert found.verdict == CANNOT_TELL and not found.real
    assert found.unchecked == "no script that can be read; no log with a score, though one is claimed"
    assert found.to_json()["unchecked"] == found.unchecked
    assert "Not checked: no script" in markdown(found)
    (folder / "train_gpt.py").write_text("print('trained elsewhere')\n")
    for log in folder.glob("*.log"):
        log.unlink()
    (folder / "submission.json").unlink()
    assert audit(folder, RULES).unchecked == (
        "no score of validation tokens was found in the flow; no log with a score, though one is claimed"
    )


def test_a_tokenizer_is_looked_at_wherever_it_is_shipped(folder):
    assert "B03" not in tokenizer_checks.check_tokenizers(folder, ["README.md"])[1]
    pieces = ["<unk>", "\u2581", *(f"\u2581word{each}" for each in range(200))]
    (folder / "own.vocab").write_text("".join(f"{piece}\t-1.0\n" for piece in pieces))
    found, looked = tokenizer_checks.check_tokenizers(folder, ["own.vocab"])
    assert (found, looked) == ([], {"B03"})
    assert "B03" in audit(folder, RULES).looked
    (folder / "own.vocab").write_text("".join(f"{piece}\t-1.0\n" for piece in pieces if piece != "\u2581"))
    assert ("B03", FOUND) in codes(folder)
    (folder / "own.model").write_bytes(b"no model")
    assert tokenizer_checks.check_tokenizers(folder, ["own.model"]) == ([], frozenset())


def test_bytes_are_counted_where_the_entry_runs_them(folder):
    """#1698: a wrapper imports the module whose table counts the space twice."""
    (folder / "train_gpt.py").write_text("from inner import main\n\nmain()\n")
    twice = changed(("count[i] = len(piece.encode(", "count[i] = 1 + len(piece.encode("))
    twice = twice.replace('1 + len(piece.encode("utf-8"))', 'len(piece.encode("utf-8")) + 1')
    (folder / "inner.py").write_text(twice)
    where = [each.where for each in audit(folder, RULES).findings if each.code == "B01"]
    assert len(where) == 1 and where[0].startswith("inner.py:")
    assert ("B01", FOUND) in codes(folder)
    (folder / "train_gpt.py").write_text(SCRIPT)
    assert not [each for each in audit(folder, RULES).findings if each.code == "B01"]


SHELL = {
    "forty seeds": ("K14", "for s in $(seq 1 40); do\n  SEED=$s torchrun train_gpt.py\ndone\n"),
    "an unknown option": ("T21", "torchrun --standalone train_gpt.py --muon-speed 0.03\n"),
    "a pipe that hides a failure": ("T21", "set -e\ntorchrun train_gpt.py 2>&1 | tee seed1.log\n"),
}


@pytest.mark.parametrize("case", SHELL)
def test_what_a_shell_script_runs(folder, case):
    code, text = SHELL[case]
    (folder / "run.sh").write_text(text)
    assert codes(folder) == [(code, SUSPECTED)]


def test_a_shell_script_of_the_reported_seeds_is_clean(folder):
    text = (
        "set -euo pipefail\nfor s in 1 2 3; do\n  SEED=$s torchrun train_gpt.py 2>&1 | tee seed$s.log\ndone\n"
    )
    (folder / "run.sh").write_text(text)
    assert codes(folder) == []


def test_a_log_that_ends_in_training_is_no_log_of_its_score(folder):
    lines = log_text(2, SCORES[2], CODE).splitlines()[:8]
    lines.append("step:40/100 val_loss:2.8000 val_bpb:1.6600 train_time:236000ms step_avg:5900.00ms")
    (folder / "train_seed2.log").write_text("\n".join(lines) + "\n")
    assert ("K13", FOUND) in codes(folder)


RUNS = {
    "read and run": "exec(open('core.py').read())",
    "compiled and run": "exec(compile(open('core.py').read(), 'core.py', 'exec'))",
    "by its path": "CORE = Path('core.py')\nexec(CORE.read_text())",
}


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize(
    ("size", "named"),
    [
        ("len(Path(__file__).read_bytes())", True),
        ("sum(len(Path(each).read_bytes()) for each in ('train_gpt.py', 'core.py'))", False),
        ("len(Path(__file__).read_bytes()) + Path('core.py').stat().st_size", False),
    ],
)
def test_a_second_file_of_code_that_is_counted_is_no_fault(folder, runs, size, named):
    (folder / "core.py").write_text(SCRIPT)
    text = f"from pathlib import Path\n{RUNS[runs]}\nprint('Code size:', {size})\n"
    (folder / "train_gpt.py").write_text(text)
    assert (("K03", FOUND) in codes(folder)) == named
