"""Where results go is looked at before work begins; bytes and JSON stay apart; NO_COLOR; texts trained on."""

import json
from pathlib import Path

import numpy as np
import pytest

from bitgolf.base.events import Event
from bitgolf.inputs.resolve import SHIPPED_MODEL
from bitgolf.inputs.writable import refuse_file, refuse_folder
from bitgolf.report.screen import Lines
from tests.cli.test_cli import bitgolf, refused  # noqa: F401

FOLDERS = (
    "make {text} --out {file}",
    "run demo --data {text} --out {file}",
    "demo --out {file}",
    "prove {model} --text {text} --out {file}",
    "export {model} --to hf --out {file}",
    "submit runs/none --out {file}",
    "study {study} --out {file}",
)
FILES = (
    "export {model} --to safetensors --out {folder}",
    "export {model} --to safetensors --out {file}/below",
    "compress {text} -m {model} --force -o {folder}",
    "compress {text} -m {model} -o {file}/below",
    "board {folder} --out {folder}",
)


@pytest.fixture
def places(tmp_path):
    """What commands are told, by name."""
    folder, file, text = tmp_path / "a_folder", tmp_path / "a_file", tmp_path / "text.txt"
    folder.mkdir()
    file.write_text("kept")
    text.write_text("The state of the Union is strong. " * 20)
    study = Path(__file__).parents[2] / "studies/pr682.py"
    return {"folder": folder, "file": file, "text": text, "study": study, "model": SHIPPED_MODEL}


@pytest.mark.parametrize("words", FOLDERS)
def test_a_file_where_a_folder_is_to_be_written_is_refused_at_once(bitgolf, places, words, monkeypatch):  # noqa: F811
    monkeypatch.setattr("bitgolf.train.loop.train", None)  # no work begins
    refused(bitgolf(*words.format(**places).split()), str(places["file"]))
    assert places["file"].read_text() == "kept"


@pytest.mark.parametrize("words", ["run demo --data {text}", "make {text}"])
def test_a_folder_that_holds_a_run_is_refused_before_its_text_is_read(bitgolf, places, words, monkeypatch):  # noqa: F811
    monkeypatch.setattr("bitgolf.pipeline.work.find_dataset", None)
    (places["folder"] / "recipe.json").write_text("{}")
    command = f"{words} --out {{folder}}".format(**places)
    refused(bitgolf(*command.split()), "this folder holds a run already", "--resume")


@pytest.mark.parametrize("words", FILES)
def test_a_folder_where_a_file_is_to_be_written_is_refused_at_once(bitgolf, places, words):  # noqa: F811
    refused(bitgolf(*words.format(**places).split()), "a f")
    assert places["file"].read_text() == "kept" and not [*places["folder"].iterdir()]


def test_a_page_replaces_pages_alone(bitgolf, places, tmp_path):  # noqa: F811
    log = tmp_path / "train.log"
    log.write_text("step:1/1 val_loss:4.2 val_bpb:2.5 train_time:9ms\n")
    for words in (f"log {log} --report {log}", "board . --out {file}", "share {model} --out {file}"):
        refused(
            bitgolf(*words.format(**places).split()), "a page is to be written, and another file is there"
        )
    page = tmp_path / "logs.html"
    page.touch()
    for _ in range(2):
        assert bitgolf("log", log, "--report", page)[0] == 0
    assert page.read_bytes().startswith(b"<!doctype html") and places["file"].read_text() == "kept"


def test_what_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("bitgolf.inputs.writable.os.access", lambda path, mode: False)
    for refuse in (refuse_file, refuse_folder):
        with pytest.raises(Exception, match="nothing can be written in"):
            refuse(tmp_path / "new" / "deep")


@pytest.mark.parametrize("words", ["compress {text} -c --json", "compress - --json", "decompress - --json"])
def test_bytes_and_an_object_do_not_share_stdout(bitgolf, places, words):  # noqa: F811
    code, out, err = bitgolf(*words.format(**places).split())
    assert code == 2 and json.loads(out)["exit_code"] == 2 and "-o" in err


def test_no_colour_where_none_is_wanted(monkeypatch):
    from rich.console import Console

    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(force_terminal=True, record=True)
    with console.capture() as said:
        console.print("[red]plain[/red]")
    assert "\x1b[31" not in said.get()


def test_of_a_stage_that_has_just_begun_nothing_is_told(capsys):
    Lines()(Event("train", 0, 10, {}))
    Lines()(Event("train", 0.001, 10, {}))
    assert capsys.readouterr().err.count("? s left") == 2


def test_a_text_that_was_trained_on_is_named(monkeypatch):
    from types import SimpleNamespace

    from bitgolf.pipeline import seen

    draw = np.random.default_rng(1)
    stream, new = draw.integers(0, 4096, (2, 1000)).astype(np.uint16)
    train = SimpleNamespace(tokens=1000, read=lambda start, count: stream[start : start + count])
    tokenizer = SimpleNamespace(identity="same")
    monkeypatch.setattr(seen, "_training_of", lambda path: SimpleNamespace(train=train, tokenizer=tokenizer))
    monkeypatch.setattr(seen, "BLOCK", 100)  # runs that lie across the end of one are seen

    def found(target, tokenizer=tokenizer):
        return seen.tokens_trained_on(SimpleNamespace(target=target), Path("model.bin"), tokenizer)

    assert found(np.concatenate([new[:320], stream[77:397], stream[968:]])) == (352, 672)
    assert found(new) == (0, 992)
    nearly = stream[77:397].copy()
    nearly[16::32] += 1  # a token of each run
    assert found(nearly) == (0, 320)
    assert found(stream[:31]) == (0, 0)
    assert found(stream, SimpleNamespace(identity="other")) == (0, 0)
