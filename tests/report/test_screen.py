"""Values as people read them."""

import pytest

from bitgolf.base.events import Event
from bitgolf.net.model import ModelPlan
from bitgolf.report import screen
from bitgolf.score.windows import Sliding


def test_a_seed_is_a_name_and_zero_has_no_sign(capsys):
    screen.close({"seed": 1337, "steps": 1337, "gap": -0.0}, as_json=False)
    assert capsys.readouterr().out.split() == ["seed:", "1337", "steps:", "1,337", "gap:", "0"]
    screen.table("Runs", ("", "seed", "steps"), [("a", 1337, 1337), ("seed", 1, 4242)], as_json=False)
    out = capsys.readouterr().out.split()
    assert out[-6:] == ["a", "1337", "1,337", "seed", "1", "4242"]


def test_numbers_under_a_name_keep_their_digits():
    assert screen.named("data.order.seed", 12345) == "12345"
    assert screen.named("bos_id", 50256) == "50256"
    assert screen.named("seeds", (1337, 42000)) == "1337, 42000"
    assert screen.named("idle", 1337) == "1,337"


def test_settings_are_written_as_they_are_typed():
    assert screen.number(Sliding(length=2048, stride=1024)) == "Sliding(length=2048, stride=1024)"
    assert "vocabulary_size=8192" in screen.number(ModelPlan(vocabulary_size=8192))


def test_a_piped_table_is_not_wrapped_nor_padded(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    long = "word " * 60
    columns = (screen.Column("name", 8), screen.Column("what"), screen.Column("wide", 9, at_least=150))
    screen.grouped_table(columns, [("One", [("a", long, "b")]), ("Two", [("c", "d", "e")])], as_json=False)
    screen.table("Three", ("", "x"), [("a", long)], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * 4  # heading, header, row, nothing
    assert all(line == line.rstrip() for line in lines)
    assert sum(long.strip() in line for line in lines) == 2
    monkeypatch.setenv("COLUMNS", "60")
    screen.table("Three", ("", "x"), [("a", long)], as_json=False)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_what_is_not_known_is_a_question_mark(capsys, monkeypatch):
    clock = iter([0.0, 18.0])
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(clock))
    lines = screen.Lines()
    for done in (0, 6):
        lines(Event("pack", done, 7, {}))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "pack              0%     0 s gone, ? s left"
    assert said[1] == "pack             86%    18 s gone, 3 s left"


def test_what_was_done_before_a_stop_does_not_count_as_pace(capsys, monkeypatch):
    clock = iter([0.0, 12.0])
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(clock))
    lines = screen.Lines()
    for done in (5, 6):  # a training that goes on
        lines(Event("train", done, 10, {}))
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith(" 50%     0 s gone, ? s left") and said[1].endswith(
        " 60%    12 s gone, 48 s left"
    )


WIDE = ("technique", "effect, 95% interval", "scale")
ROWS = [("EMA 0.9", "-0.0553\n[-0.0825, -0.0282]", "707,348 parameters, 30 steps, 122,880 tokens of texts")]


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_a_table_of_any_width_breaks_no_number(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    screen.table("Measured", WIDE, ROWS, as_json=False)
    grouped = (screen.Column("comparison"), screen.Column("interval", 18, right=True), screen.Column("p", 12))
    screen.grouped_table(grouped, [("A study", [("EMA 0.9", "-0.0825 to -0.0282", "0.017")])], as_json=False)
    out = capsys.readouterr().out
    assert "[-0.0825, -0.0282]" in out and "-0.0825 to -0.0282" in out and "EMA 0.9" in out
    assert max(map(len, out.splitlines())) <= columns


def test_many_rows_stay_a_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    rows = [(f"blocks.{i}.attention.weight", "192x192", "RateAware") for i in range(20)]
    screen.table("Tensors", ("tensor", "shape", "rule"), rows, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["tensor", "shape", "rule"] and max(map(len, lines)) <= 40
    assert lines[2].split() == ["blocks.0.attention.w", "192x192", "RateAware"]


def test_a_table_that_just_fits_is_not_cut(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = [("MUON_MOMENTUM_WARMUP_START", "0.85", "optim.rows, matrices: warmup_start", 0.85, 0.85)] * 11
    rows += [("WARMDOWN_ITERS", "1200", "optim.schedule: WarmdownClock.warmdown_steps", 1200, 1200)] * 3
    header = ("public variable", "value", "setting", "before", "after")
    screen.table("What the public variables change", header, rows, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and lines[1].endswith("after")
    assert lines[2].endswith("0.8500  0.8500") and "1,200   1,200" in "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seconds_to_do", 25_083.4, " (6 h 58 min)"),
        ("seconds", 599.9, ""),
        ("train_seconds", 600, " (10 min)"),
        ("seconds", 90_000, " (1 d 1 h)"),
        ("seconds_per_step", 899.9, ""),
        ("disk_bytes", 950_675_712, " (951 MB)"),
        ("text_bytes", 1_073_741_824, " (1.07 GB)"),
        ("total_bytes", 999_628, ""),
        ("bits_per_byte", 1e9, ""),
        ("bytes", None, ""),
        ("seconds", float("inf"), ""),
    ],
)
def test_many_seconds_and_bytes_are_said_in_larger_units_too(name, value, said, capsys):
    screen.close({name: value}, as_json=False)
    out = capsys.readouterr().out
    assert out == f"{name}: {screen.named(name, value)}{said}\n"


def test_the_end_of_a_stage_is_told_once_and_again_with_what_it_found(capsys):
    lines = screen.Lines()
    lines(Event("score", 0, 5, {}))
    for facts in ({}, {}, {"part": 0.1}, {"part": 0.2}, {"bits": 1.5}):
        lines(Event("score", 5, 5, facts))
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in told] == ["0%", "100%", "100%", "100%"] and "bits 1.5" in told[-1]
