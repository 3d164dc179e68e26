"""Whatever an audit is given ends soon, in little memory, and in one clear line or a verdict."""

import json
import os
import time
import zlib

import pytest

from bitgolf.audit import artifact_checks, folder, logs, unwrap
from bitgolf.audit.audit import audit
from bitgolf.audit.rules import rules_named
from bitgolf.audit.unwrap import MOST_SCRIPT_BYTES
from bitgolf.base.errors import BitgolfError

RULES = rules_named()
LINES = "".join(f"step:{i}/400 train_loss:3.{i} train_time:{i}ms\n" for i in range(1, 400))
LOG = f"seed:1\n{LINES}final val_loss:2.0 val_bpb:1.2000\n"


@pytest.fixture
def record(tmp_path):
    """A folder with a script, a log and claims."""
    (tmp_path / "train_gpt.py").write_text("import os\n")
    (tmp_path / "seed1.log").write_text(LOG)
    (tmp_path / "submission.json").write_text('{"val_bpb": 1.2}')
    return tmp_path


def refused(path):
    """The line that an audit refuses something with."""
    with pytest.raises(BitgolfError) as caught:
        audit(path, RULES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.py", "a.log", "a"])
def test_pipes_and_devices_are_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (tmp_path / f"zero{name}").symlink_to("/dev/zero")
    assert "a pipe" in refused(tmp_path / name)
    assert "not a regular file" in refused(tmp_path / f"zero{name}")


def test_links_and_pipes_in_a_folder_are_left_out(record):
    before = len(audit(record, RULES).findings)
    for name, to in [("up", ".."), ("loop", "loop"), ("z.py", "/dev/zero"), ("z.ptz", "/dev/zero")]:
        (record / name).symlink_to(to)
    os.mkfifo(record / "f.log")
    found = audit(record, RULES).findings
    assert len(found) == before + 1 and any("f.log" in each.found + each.where for each in found)


def test_sizes_are_known_before_anything_is_read(record, monkeypatch):
    for name in ("huge.py", "m.ptz"):
        with (record / name).open("wb") as file:
            file.truncate(2**33)
    assert "bytes of script" in refused(record / "huge.py")
    assert "bytes of scripts" in refused(record)
    assert any(each.code == "K01" for each in audit(record / "m.ptz", RULES).findings)


def test_logs_share_what_is_read(record, monkeypatch):
    assert not any(each.code == "K13" and "read" in each.found for each in audit(record, RULES).findings)
    monkeypatch.setattr(logs, "MOST_BYTES", 2 * len(LOG) - 10)
    (record / "seed2.log").write_text(LOG)
    assert sum("only the first and last part" in each.found for each in audit(record, RULES).findings) == 2
    assert folder.read_record(record).logs[0].final.bits == 1.2


def test_lines_of_a_log_are_bounded(record, monkeypatch):
    monkeypatch.setattr(logs, "MOST_LINES", 100)
    log = logs.read_log(record / "seed1.log")
    assert log.cut and len(log.lines) == 100 and log.final.bits == 1.2


def test_a_readme_of_one_line_takes_no_time(record):
    (record / "README.md").write_text("[ A=1 " * 2**17)
    started = time.process_time()
    assert folder.read_record(record).settings == {}
    assert time.process_time() - started < 5


@pytest.mark.parametrize("step", ["a + a", "a.replace('1', a)", "a.join([a, a, a])"])
def test_texts_that_are_put_into_texts_end(tmp_path, step):
    (tmp_path / "a.py").write_text("a = '1 or 11'\n" + f"a = {step}\n" * 60 + "exec(a)\n")
    found = audit(tmp_path / "a.py", RULES).findings
    assert any(each.code == "K03" and "not in the script" in each.found for each in found)


def test_indices_that_are_put_into_indices_end(tmp_path):
    steps = "".join(f"a{i + 1} = a{i} + a{i}\n" for i in range(60))
    (tmp_path / "a.py").write_text(f"import sys\na0 = sys.argv[1] + b\n{steps}x = b[a60]\n")
    started = time.process_time()
    audit(tmp_path / "a.py", RULES)
    assert time.process_time() - started < 5


def test_bombs_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(unwrap, "MOST_MADE_BYTES", 3 * MOST_SCRIPT_BYTES)
    bomb = zlib.compress(bytes(MOST_SCRIPT_BYTES))
    text = "".join(f"a{i} = zlib.decompress({bomb!r})\n" for i in range(5))
    (tmp_path / "a.py").write_text(f"import zlib\n{text}exec(a4)\n")
    assert any(each.code == "K03" for each in audit(tmp_path / "a.py", RULES).findings)


def test_statements_are_counted(tmp_path):
    (tmp_path / "a.py").write_text("x = f'" + "{a}" * 100_000 + "'\n")
    assert "more than 250,000 statements and expressions" in refused(tmp_path / "a.py")


def test_what_is_nested_too_deeply_is_said(record):
    (record / "train_gpt.py").write_text("x = " + "1 + " * 700 + "1\n")
    assert "train_gpt.py: nested too deeply" in refused(record / "train_gpt.py")
    assert any("nested too deeply" in each.found for each in audit(record, RULES).findings)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", "9" * 400])
def test_claims_that_are_no_numbers(record, text):
    (record / "submission.json").write_text(f'{{"val_bpb": {text}}}')
    assert any("`val_bpb` is no figure" in each.found for each in audit(record, RULES).findings)
    seeds = f'{{"1": {{"val_bpb": {text}, "seed": {text}}}}}'
    rows = f'{{"val_bpb": 1.2, "seeds": [{text}], "seed_results": {seeds}}}'
    (record / "submission.json").write_text(rows)
    audit(record, RULES)


def test_what_an_artifact_unpacks_to_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact_checks, "MOST_BYTES", 2**20)
    (tmp_path / "model.ptz").write_bytes(zlib.compress(bytes(2**21)))
    assert "more than 1,048,576 bytes" in refused(tmp_path / "model.ptz")


def test_encodings_that_cannot_decode_are_read_anyhow(tmp_path):
    (tmp_path / "a.py").write_bytes(b"# coding: idna\nimport os\n" + b"# \xff" * 1000)
    assert audit(tmp_path / "a.py", RULES).unchecked


def test_archives_are_said_and_not_opened(record):
    (record / "code.zip").write_bytes(b"PK")
    (record / "train_gpt.py.gz").write_bytes(zlib.compress(bytes(2**20)))
    found = [each for each in audit(record, RULES).findings if "not opened" in each.found]
    assert [each.where for each in found] == ["code.zip, train_gpt.py.gz"]


def test_names_of_any_bytes(record):
    for name in ("a\nb.py", "c\x1b[31m.log", "v\udcff.txt", "submission\n.json"):
        (record / name).write_text("val_loss:1 val_bpb:1.0\n")
    json.dumps(audit(record, RULES).to_json())
