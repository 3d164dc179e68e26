"""Every line of metrics.jsonl reaches a board once, however often a watch is stopped."""

import importlib
import json
import threading
import time

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.watch import boards, follow
from bitgolf.watch.follow import lines


class Kept:
    seen: list[tuple[int, dict[str, float]]] = []

    def __init__(self, folder, settings):
        assert settings["name"] == "tiny"

    def log(self, step, metrics):
        self.seen.append((step, dict(metrics)))

    def close(self):
        pass


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "recipe.json").write_text('{"name": "tiny"}')
    monkeypatch.setitem(boards.BOARDS, "kept", boards.Kind(Kept, "json"))
    monkeypatch.setattr(follow, "PAUSE", 0.01)
    Kept.seen = []
    return tmp_path


def line(step, status="running"):
    row = {"step": step, "steps": 9, "nats_per_token": 2.0 / step, "status": status, "scale": float("nan")}
    return json.dumps(row) + "\n"


def test_lines_that_are_no_metrics_are_left_out(run):
    file = run / "metrics.jsonl"
    file.write_text(line(1) + '{"step": 2, "nats\n[3]\n{"note": 4}\n' + line(5, "finished") + "torn\n")
    assert follow.follow(run, "kept", once=True) == 2
    assert [step for step, _ in Kept.seen] == [1, 5]


def test_it_follows_a_run_and_goes_on_where_it_was(run):
    file = run / "metrics.jsonl"
    file.write_text(line(1) + line(2) + line(3)[:9])
    assert follow.follow(run, "kept", once=True) == 2
    assert Kept.seen == [(1, {"nats_per_token": 2.0}), (2, {"nats_per_token": 1.0})]
    file.write_text(line(1) + line(2) + line(3))

    def more():
        time.sleep(0.05)
        with file.open("a") as stream:
            stream.write(line(4, "finished"))

    writing = threading.Thread(target=more)
    writing.start()
    assert follow.follow(run, "kept") == 2  # and ends by itself
    writing.join()
    assert [step for step, _ in Kept.seen] == [1, 2, 3, 4]
    assert follow.follow(run, "kept") == 0
    file.write_text(line(1, "finished"))  # begun anew
    assert [row["step"] for _, row in lines(file, 999, True)] == [1]


def test_ctrl_c_ends_a_watch_that_tells_what_it_gave(run, monkeypatch):
    def stopped(_):
        raise KeyboardInterrupt

    (run / "metrics.jsonl").write_text(line(1))
    monkeypatch.setattr(follow.time, "sleep", stopped)
    assert follow.follow(run, "kept") == 1


def test_tensorboard_reads_what_is_written(run):
    pytest.importorskip("tensorboardX")
    (run / "metrics.jsonl").write_text(line(1) + line(2, "finished"))
    assert follow.follow(run, "tensorboard") == 2
    event_type = importlib.import_module("tensorboardX.proto.event_pb2").Event
    found = []
    for file in (run / "tensorboard").iterdir():
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = event_type.FromString(data[at + 12 : at + 12 + size])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            at += size + 16
    assert found == [(1, "nats_per_token", 2.0), (2, "nats_per_token", 1.0)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_boards_take_it(name, run, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(run / "trackio"))  # read when it is imported
    pytest.importorskip(name)
    (run / "metrics.jsonl").write_text(line(1) + line(2, "finished"))
    assert follow.follow(run, name) == 2
    assert any((run / name).rglob("*"))


def test_what_is_wrong_is_said(run, tmp_path):
    with pytest.raises(BitgolfError, match="no such board"):
        follow.follow(run, "tensorbord")
    with pytest.raises(BitgolfError, match="no run folder"):
        follow.follow(tmp_path / "none", "kept")
    (run / "watch-kept.json").write_text('{"byte": "all"}')
    with pytest.raises(BitgolfError, match="byte"):
        follow.follow(run, "kept")
