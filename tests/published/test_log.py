"""Logs of every public format become figures and curves; two are compared; what is no log is refused."""

import json

import pytest

from bitgolf.audit import logs
from bitgolf.base.errors import BitgolfError
from bitgolf.published.log import compared, published, read_logs
from bitgolf.published.page import page, write_page
from tests.cli.test_cli import bitgolf, refused  # noqa: F401

MARCH = """\
seed:42
model_params:17059912
world_size:8 grad_accum_steps:1
step:0/20000 val_loss:6.9357 val_bpb:4.1077 train_time:0ms step_avg:0.01ms
step:1/20000 train_loss:6.9370 train_time:45ms step_avg:45.00ms
step:1000/20000 train_loss:2.3000 train_time:44000ms step_avg:44.00ms
step:1000/20000 val_loss:2.2900 val_bpb:1.3563 train_time:44000ms step_avg:44.00ms
step:2000/20000 train_loss:2.1000 train_time:88000ms step_avg:44.00ms
step:2000/20000 val_loss:2.0900 val_bpb:1.2378 train_time:88000ms step_avg:44.00ms
stopping_early: wallclock_cap train_time:88000ms step:2000/20000
peak memory allocated: 10184 MiB reserved: 10588 MiB
Serialized model: 67224983 bytes
Code size: 47642 bytes
Serialized model int8+zlib: 15815847 bytes (payload:17178912 raw_torch:17224025 payload_ratio:3.91x)
Total submission size int8+zlib: 15863489 bytes
final_int8_zlib_roundtrip val_loss:2.1000 val_bpb:1.2437 eval_time:1401ms
final_int8_zlib_roundtrip_exact val_loss:2.09998000 val_bpb:1.24370000
"""
APRIL = """\
Hyperparameters:
  seed: 1337
  matrix_lr: 0.022
model_params:35944536
0/20000 val_loss: 9.0072 val_bpb: 3.4870
1/20000 train_loss: 9.0086 train_time: 0.0m tok/s: 8243511
1000/20000 train_loss: 3.2672 train_time: 1.0m tok/s: 7804500
1000/20000 val_loss: 3.1000 val_bpb: 1.2000
2000/20000 train_loss: 3.0897 train_time: 2.0m tok/s: 7815743
2000/20000 val_loss: 2.8072 val_bpb: 1.0868
Code size: 19387 bytes
Serialized model quantized+brotli: 15973959 bytes
Total submission size quantized+brotli: 15993346 bytes
quantized_ttt val_loss:2.78789980 val_bpb:1.07934234 eval_time:341841ms
"""
TERNARY = "step:1000/10000 loss:3.3120 t:91478ms avg:91.5ms\nstep:2000/10000 loss:3.2 jepa:0.1 t:182000ms\n"


def written(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_the_march_format(tmp_path):
    found = published(written(tmp_path, "train.log", MARCH))
    facts = found.facts
    assert (facts["bits_per_byte"], facts["nats_per_token"]) == (1.2437, 2.09998)
    assert facts["last_training_bits_per_byte"] == 1.2378
    assert (facts["seed"], facts["steps"], facts["planned_steps"]) == (42, 2000, 20000)
    assert (facts["train_seconds"], facts["step_ms"], facts["evaluation_seconds"]) == (88.0, 44.0, 1.401)
    assert (facts["total_bytes"], facts["model_bytes"], facts["code_bytes"]) == (15863489, 15815847, 47642)
    assert (facts["parameters"], facts["peak_memory_mib"], facts["processes"]) == (17059912, 10184, 8)
    curve = found.curves["val_bpb"]
    assert curve.step.tolist() == [0, 1000, 2000] and curve.seconds.tolist() == [0, 44, 88]
    assert found.curves["train_loss"].value.tolist() == [6.937, 2.3, 2.1]


def test_the_april_format_has_its_clock_from_the_same_step(tmp_path):
    found = published(written(tmp_path, "a.log", APRIL))
    assert found.facts["bits_per_byte"] == 1.07934234 and found.facts["seed"] == 1337
    assert found.facts["train_seconds"] == 120.0 and found.facts["total_bytes"] == 15993346
    assert found.curves["val_bpb"].seconds[1:].tolist() == [60.0, 120.0]


def test_the_ternary_format(tmp_path):
    found = published(written(tmp_path, "t.log", TERNARY))
    assert found.curves["train_loss"].value.tolist() == [3.312, 3.2]
    assert found.facts["step_ms"] == 91.0 and found.facts["bits_per_byte"] is None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_encodings_and_line_ends_change_nothing(tmp_path, encoding):
    text = MARCH.replace("\n", "\r\n") + "GPU: NVIDIA\N{REGISTERED SIGN}\r\n"
    found = published(written(tmp_path, "w.log", text, encoding))
    assert found.facts == published(written(tmp_path, "train.log", MARCH)).facts


def test_what_a_power_cut_leaves_at_the_end_is_no_fault(tmp_path):
    text = b"step:1/1 val_loss:4.2 val_bpb:2.5 train_time:9ms\n"
    path = tmp_path / "cut.log"
    path.write_bytes(text + b"\0" * 512 + b"\n")
    assert published(path).facts["bits_per_byte"] == 2.5
    path.write_bytes(b"\0" * 512 + text)
    with pytest.raises(BitgolfError, match="512 NUL bytes"):
        published(path)


def test_a_log_that_was_gone_on_with_tells_each_step_once(tmp_path):
    again = "step:1000/20000 train_loss:2.2500 train_time:45000ms step_avg:45.00ms\n"
    curve = published(written(tmp_path, "r.log", MARCH + again)).curves["train_loss"]
    assert curve.step.tolist() == [1, 1000, 2000] and curve.value[1] == 2.25


def test_of_a_huge_log_start_and_end_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "MOST_BYTES", 4000)
    noise = "".join(f"[rank0] some noise {n}\n" for n in range(5000))
    found = published(written(tmp_path, "h.log", MARCH.replace("stopping", noise + "stopping")))
    assert found.facts["cut"] and found.facts["bits_per_byte"] == 1.2437 and len(found.log.lines) < 300


def test_two_logs_beside_each_other(tmp_path):
    left = published(written(tmp_path, "a.log", MARCH))
    other = MARCH.replace("1.24370000", "1.24000000").replace("val_bpb:1.2378", "val_bpb:1.2300")
    right = published(written(tmp_path, "b.log", other.replace("seed:42", "seed:7\nmatrix_lr:0.04")))
    found = compared(left, right)
    assert found["bits_per_byte"] == pytest.approx(-0.0037) and not found["one_run_twice"]
    steps = {(row["figure"], row["step"]): row["difference"] for row in found["at_equal_steps"]}
    assert steps[("val_bpb", 2000)] == pytest.approx(-0.0078) and steps[("val_bpb", 1000)] == 0
    assert [row["seconds"] for row in found["at_equal_seconds"]] == [0, 44, 88]
    assert {"name": "matrix_lr", "left": "", "right": "0.04"} in found["settings"]
    assert found["total_bytes"] == 0


def test_a_copied_run_is_told(tmp_path):
    lines = "".join(
        f"step:{n}/9 train_loss:{7 / n:.4f} train_time:{50 * n}ms step_avg:50.00ms\n" for n in range(1, 8)
    )
    a, b = (published(written(tmp_path, name, f"seed:{name[0]}\n{lines}")) for name in ("1.log", "2.log"))
    assert compared(a, b)["one_run_twice"]
    c = published(written(tmp_path, "3.log", lines.replace("350ms", "351ms")))
    assert not compared(a, c)["one_run_twice"]


def test_the_page_needs_nothing_else_and_escapes_names(tmp_path):
    odd = written(tmp_path, "<b>.log", MARCH.replace("seed:42", "seed:42\nrun_id:<script>alert(1)</script>"))
    logs = read_logs([odd, written(tmp_path, "b.log", APRIL)])
    text = page(logs)
    assert (
        "<b>" not in text
        and "<script" not in text
        and "http:" not in text
        and "https:" not in text
        and "&lt;b&gt;.log" in text
    )
    assert text.count('<path class="c0"') == 4 and "At equal steps" in text
    write_page(logs[:1], tmp_path / "page.html")
    assert "1 training log<" in (tmp_path / "page.html").read_text()


def test_names_tell_equal_files_apart(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    logs = read_logs([written(tmp_path / folder, "train.log", MARCH) for folder in ("one", "two")])
    assert [each.name for each in logs] == ["one/train.log", "two/train.log"]


REFUSED = {
    "empty": (b"", "the file is empty"),
    "spaces": (b" \n\n", "the file is empty"),
    "binary": (bytes(range(256)) * 40, "not a text"),
    "other": (b"# a page\n\nwithout any step\n", "no line of a training log"),
    "json": (b'{"bits": 1.2, "bits": 1.3}\n', "no line of a training log"),
    "one line": (b"x" * 2_000_000, "no line of a training log"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_log_is_refused_in_a_line(tmp_path, name):
    data, words = REFUSED[name]
    (tmp_path / "x.log").write_bytes(data)
    with pytest.raises(BitgolfError, match=words):
        published(tmp_path / "x.log")


def test_the_verb(bitgolf, tmp_path):  # noqa: F811
    odd = MARCH.replace("train_loss:2.3000", "train_loss:nan").replace("1.2437", "nan")
    a, b = written(tmp_path, "a.log", odd), written(tmp_path, "b.log", APRIL)
    code, out, _ = bitgolf("log", a, b, "--json", "--report", tmp_path / "page.html")
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert code == 0 and len(found["logs"]) == 2 and found["comparison"]["right"] == "b.log"
    assert found["logs"][0]["curves"]["train_loss"]["step"] == [1, 2000]
    assert found["logs"][1]["curves"]["val_bpb"]["seconds"] == [None, 60.0, 120.0]
    assert (tmp_path / "page.html").is_file()
    code, out, _ = bitgolf("log", b)
    assert code == 0 and "bits_per_byte:" in out and "1.0793" in out
    assert bitgolf("log", a, b, b)[0] == 0
    refused(bitgolf("log", tmp_path / "none.log"), "no such file")
    refused(bitgolf("log", tmp_path), "not a regular file")
