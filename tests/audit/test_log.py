"""Each fault planted in a log is named with its line; clean logs of every public form have no finding."""

import time
from pathlib import Path

import pytest

from bitgolf.audit.audit import audit
from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED
from bitgolf.audit.log_checks import check_log
from bitgolf.audit.logs import parse_log
from bitgolf.audit.rules import rules_named
from bitgolf.base.errors import BitgolfError
from tests.audit.planted import RATIO, SCRIPT, log_text

CODE = 50_000
RULES = rules_named()


def findings(text, rules=RULES):
    return [*check_log(parse_log(Path("train_seed1.log"), text), rules)]


def test_a_clean_log_has_no_finding():
    assert findings(log_text(1, 1.2, CODE)) == []


PLANTS = {
    "K01 over": ("K01", FOUND, {"model": 15_960_000}),
    "K07 over time": ("K07", FOUND, {"seconds": 615.0}),
    "K10 evaluation": ("K10", FOUND, {"evaluation": 688}),
    "B01 twice": ("B01", FOUND, {"ratio": RATIO * 1.17}),
    "B02 byte tokens": ("B02", FOUND, {"ratio": RATIO * 1.041}),
    "B10 no ln 2": ("B10", FOUND, {"ratio": RATIO * 1.4427}),
    "B01 some other text": ("B01", SUSPECTED, {"ratio": RATIO * 1.0628}),
    "V11 a part": ("V11", SUSPECTED, {"tokens": 3_000_000}),
    "V12 another split": ("V12", SUSPECTED, {"tokens": 52_000_000}),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_named(name):
    code, sure, changes = PLANTS[name]
    found = findings(log_text(1, 1.2, CODE, **changes))
    assert [(each.code, each.sure) for each in found] == [(code, sure)]
    assert found[0].where.startswith("train_seed1.log:")


def test_scores_that_are_none():
    assert [each.code for each in findings(log_text(1, 0.31, CODE))] == ["V14"]
    assert [each.code for each in findings(log_text(1, 0.0, CODE))] == ["V19"]
    assert [each.code for each in findings(log_text(1, 1.2, CODE).replace("1.20000000", "nan"))] == ["V19"]


CASES = ("fineweb_1024_bpe.model", "fineweb_8192_bpe_caseops.model")


@pytest.mark.parametrize(
    ("ratio", "codes"), [(3.15715, []), (3.44, ["B05"]), (3.15715 * 164.6 / 151.07 + 0.003, ["B06"])]
)
def test_bytes_of_the_tokenizer_with_case_operators(ratio, codes):
    text = log_text(1, 1.07, CODE, ratio=ratio * RATIO / 2.43593, tokens=47_851_520)
    assert [each.code for each in findings(text.replace(*CASES))] == codes


def test_the_clock():
    text = log_text(1, 1.2, CODE)
    assert [each.code for each in findings(text.replace("train_time:354000ms", "train_time:100000ms"))] == [
        "K08",
        "K11",
    ]
    edited = text.replace("step_avg:5900.00ms", "step_avg:4900.00ms", 1)
    assert [(each.code, each.where) for each in findings(edited)] == [("K11", "train_seed1.log:5")]


def test_sums_and_contradictions():
    text = log_text(1, 1.2, CODE)
    wrong = text.replace("Code size: 50000", "Code size: 40000")
    assert [(each.code, each.sure) for each in findings(wrong)] == [("K11", SUSPECTED)]
    more = "".join(f"mid{i} val_loss:{RATIO * 1.3:.8f} val_bpb:1.30000000\n" for i in range(3))
    assert findings(more + text) == []
    edited = more + text.replace("val_bpb:1.20000000", "val_bpb:1.15000000")
    assert {each.code for each in findings(edited)} == {"K11", "B02"} or "K11" in {
        each.code for each in findings(edited)
    }


def test_calibration_after_the_clock():
    line = "GPTQ:collected 67 Hessians in {}s\n"
    text = log_text(1, 1.2, CODE, seconds=599.6)
    assert [(f.code, f.sure) for f in findings(text + line.format(13.5))] == [("K09", SUSPECTED)]
    assert [(f.code, f.sure) for f in findings(text + line.format(150.0))] == [("K09", FOUND)]
    own = "gptq:generating autoregressive calibration data\n" + text + line.format(150.0)
    assert findings(own) == []
    assert [f.code for f in findings(own, rules_named("strict"))] == ["K09"]
    in_time = log_text(1, 1.2, CODE, seconds=580.0) + line.format(13.5)
    assert findings(in_time) == []


FORMS = [
    ("10/20 val_loss: 2.3000 val_bpb: 1.3600", 1.36),
    (
        "1776144156.999 quantized_ttt_phased val_loss:2.76951521 val_bpb:1.07216564 eval_time:329031ms",
        1.07216564,
    ),
    ("step:10/20 val_loss:2.3000 val_bpb:1.3600 train_time:10ms step_avg:1.00ms", 1.36),
    ("ttt_sliding:done val_loss=2.796503 val_bpb=1.082613 elapsed=343.2s", 1.082613),
    ("final_int6_sliding_window_exact val_loss:1.90915845 val_bpb:1.13071416", 1.13071416),
]


@pytest.mark.parametrize(("line", "bits"), FORMS)
def test_public_forms_of_a_score(line, bits):
    assert parse_log(Path("x.log"), line).scores[0].bits == bits


def test_minutes_stamps_and_sources():
    log = parse_log(Path("x.log"), "2000/20000 train_loss: 3.9 train_time: 3.2m tok/s: 8208701")
    assert log.steps[0].seconds == pytest.approx(192)
    source = f"{SCRIPT}\n{'=' * 100}\nseed:7\nfinal val_loss:2.0 val_bpb:1.2\n"
    log = parse_log(Path("x.log"), source)
    assert log.seed == 7 and "class Settings" in log.source and len(log.scores) == 1
    assert log.scores[0].line == source.count("\n")


def test_rules_switch():
    text = log_text(1, 1.2, CODE, seconds=606.0)  # one step is 6 s
    assert findings(text) == []
    assert [each.code for each in findings(text, rules_named("strict"))] == ["K07"]
    with pytest.raises(BitgolfError, match="did you mean 'final'"):
        rules_named("finale")
    early, late = rules_named("march-2026"), rules_named("april-2026")
    assert early.ruling("V06").word == "disputed" and late.ruling("V06").word == "violation"


def test_bad_logs_are_bounded_and_refused(tmp_path):
    (tmp_path / "a.log").write_bytes(b"\xff\0" * 1000 + b"x" * 3_000_000)
    with pytest.raises(BitgolfError, match="no line of a training log"):
        audit(tmp_path / "a.log", RULES)
    lines = "step:1/2 train_loss:" + "9" * 900 + "\n"
    started = time.process_time()
    text = lines * 2000 + ("=" * 100 + "\n") * 300 + log_text(1, 1.2, CODE)
    (tmp_path / "b.log").write_text(text)
    audit(tmp_path / "b.log", RULES)
    assert time.process_time() - started < 10


def test_a_log_without_figures_is_no_pass(tmp_path):
    (tmp_path / "a.log").write_text("step:1/2 train_loss:3.0\n")
    found = audit(tmp_path / "a.log", RULES)
    assert {each.sure for each in found.findings} == {CANNOT_TELL} and found.verdict == CANNOT_TELL
    assert {"K01", "K07", "T21"} <= {each.code for each in found.findings}


def test_encodings_and_short_lines_are_read(tmp_path):
    path, text = tmp_path / "train_seed1.log", log_text(1, 1.2, CODE, tokens=3_000_000)
    found = []
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(text, encoding=encoding)
        found.append([each.code for each in audit(path, RULES).real])
    assert found == [["V11"]] * 3
    [step] = parse_log(path, "step:5/9 loss:2.5 lr:0.1 t:700ms").steps
    assert (step.step, step.of, step.nats, round(step.seconds, 6)) == (5, 9, 2.5, 0.7)


def steps_of(slow_from):
    """A log whose steps take 72 ms from one of them on, and 44 ms before."""
    lines, clock = [], 0
    for step in range(500, 10_001, 500):
        clock += 500 * (72 if step > slow_from else 44)
        lines.append(f"step:{step}/20000 train_loss:2.1 train_time:{clock}ms step_avg:{clock / step:.2f}ms")
    return "\n".join(lines) + "\n"


def test_a_machine_that_slows_down_is_named():
    assert ("K12", SUSPECTED) in {(each.code, each.sure) for each in findings(steps_of(4000))}
    assert "K12" not in {each.code for each in findings(steps_of(20_000))}


def test_a_change_that_a_line_tells_of_is_no_slow_machine():
    told = steps_of(4000).replace("step:4500/", "loops:enabled\nstep:4500/")
    assert "K12" not in {each.code for each in findings(told)}


def test_plain_rounding_that_was_better_is_named():
    text = log_text(1, 1.4, CODE)
    plain = f"rtn_roundtrip val_loss:{1.22 * RATIO:.4f} val_bpb:1.2200\nSerialized"
    assert "T12" in {each.code for each in findings(text.replace("Serialized", plain, 1))}
