"""Odd files in the place of those that a verb reads: one clear error that names the file, or right use."""

import json
import os
import random
import re
import shutil
import signal
import time

import pytest

from tests.cli.test_cli import bitgolf, finished, recipe_file  # noqa: F401
from tests.cli.test_odd_documents import odd_documents
from tests.fuzz_data import changed
from tests.squeeze.test_fuzz import FUZZ_SECONDS

CPU_SECONDS = 20
# What each verb does with a finished run; RUN and OTHER are its folder and a copy of it.
VERBS = {
    "show": ("show", "RUN"),
    "watch": ("watch", "RUN", "--to", "tensorboard", "--once"),
    "share": ("share", "RUN", "--out", "shared.html"),
    "pack": ("pack", "RUN", "--out", "packed"),
    "compare": ("compare", "RUN", "OTHER"),
    "board": ("board", "."),
    "export": ("export", "RUN", "--to", "safetensors", "--out", "exported"),
    "sample": ("sample", "RUN", "--tokens", "2"),
    "score": ("score", "RUN"),
    "long": ("score", "RUN", "--text", "RUN/metrics.jsonl"),
    "log": ("log", "RUN/metrics.jsonl"),
    "like": ("run", "baseline", "--like", "RUN/metrics.jsonl", "--out", "like"),
    "import": ("findings", "--import", "RUN"),
    "audit": ("audit", "RUN"),
    "serve": ("serve", "RUN", "--port", "0"),
    "verify": ("data", "--verify", "RUN/dataset"),
    "data": ("data", "RUN/dataset"),
    "compress": ("compress", "RUN/text", "-m", "RUN", "-o", "text.golf", "--processes", "1"),
    "decompress": ("decompress", "RUN/text.golf", "-m", "RUN", "-o", "text", "--processes", "1"),
    "list": ("compress", "--list", "RUN/text.golf", "RUN/text.golf"),
    "check": ("prove", "RUN", "--check", "RUN/proof/certificate.json", "--processes", "1"),
}
QUICK = ("show", "watch", "share", "pack", "compare", "board", "export", "sample", "log", "like", "serve")
QUICK += ("verify", "data", "compress", "decompress", "list", "check")
SHARDS = ("passport.json", "tokenizer.bin", "val_000000.bin")
READS = {
    "show": ("recipe.json",),
    "watch": ("metrics.jsonl",),
    "share": ("model.bin",),
    "pack": ("recipe.json", "result.json", "weights.safetensors", "environment.json"),
    "compare": ("recipe.json", "result.json"),
    "board": ("recipe.json", "result.json", "metrics.jsonl"),
    "export": ("model.bin",),
    "sample": ("model.bin",),
    "log": ("metrics.jsonl",),
    "like": ("metrics.jsonl",),
    "serve": ("model.bin", "recipe.json"),
    "verify": tuple(f"dataset/{name}" for name in SHARDS),
    "data": tuple(f"dataset/{name}" for name in SHARDS),
    "compress": ("text", "model.bin"),
    "decompress": ("text.golf", "model.bin"),
    "list": ("text.golf",),
    "check": ("proof/certificate.json", "proof/coded.bin"),
}
FILES = (
    *READS["verify"],
    *READS["check"],
    "text",
    "text.golf",
    "recipe.json",
    "result.json",
    "environment.json",
    "metrics.jsonl",
    "weights.safetensors",
    "model.bin",
)


def a_folder(path):
    path.mkdir()


def a_pipe(path):
    os.mkfifo(path)


def a_loop(path):
    path.symlink_to(path.name)


def a_device(path):
    path.symlink_to("/dev/zero")


def nothing(path):
    pass


def empty(path):
    path.write_bytes(b"")


def zeros(path):
    path.write_bytes(b"")
    os.truncate(path, 20_000_000)


def huge(path):
    path.write_bytes(b"")
    os.truncate(path, 1 << 30)


PLACES = (a_folder, a_pipe, a_loop, a_device, nothing, empty)


def faults(answer, seconds, as_json):
    """What is wrong with the answer to a command."""
    code, out, err = answer
    yield from [f"exit code {code}"] * (code not in (0, 1, 2))
    yield from ["a traceback"] * ("Traceback" in err)
    yield from ["an endless message"] * (len(err) > 20_000)
    yield from ["an escape on the screen"] * ("\x1b" in out + err)
    yield from [f"{seconds:.0f} s"] * (seconds > CPU_SECONDS)
    if code == 2:
        told = re.findall(r"^error: (.*)", err, re.MULTILINE)
        yield from ["no error"] * (not told) + ["an empty error"] * any(line.endswith(":") for line in told)
        yield from ["stdout"] * bool(out and not as_json)
    if as_json:
        try:
            json.loads(out, parse_constant=lambda name: 1 / 0)
        except (ValueError, ZeroDivisionError):
            yield "no JSON"


def worthless(text):
    """LZMA that needs so many bytes that the model is taken."""
    yield 0, 1
    return bytes(10**6)


@pytest.fixture
def asked(bitgolf, finished, dataset, tmp_path, monkeypatch):  # noqa: F811
    """Ask a verb about the run after a file of it was changed; what is wrong with the answer."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("wsgiref.simple_server.WSGIServer.serve_forever", lambda _: None)
    run, _ = finished
    shutil.copytree(dataset.folder, run / "dataset")
    (run / "text").write_bytes(b"the people of this nation shall keep peace with all. \xff")
    with monkeypatch.context() as patch:
        patch.setattr("bitgolf.proof.file._stored", lambda text: bytes(10**6))
        patch.setattr("bitgolf.proof.file._lzma", worthless)
        assert bitgolf("compress", run / "text", "-m", run)[0] == 0
    assert bitgolf("prove", run, "--text", run / "text")[0] == 0
    kept = tmp_path.with_name(tmp_path.name + "-kept")
    shutil.copytree(run, kept)
    shutil.copytree(run, tmp_path / "other")
    there = {*tmp_path.iterdir()}

    def ask(verb, name, change, as_json=False, answers=None):
        path = run / name
        path.unlink()
        change(path)
        words = [word.replace("RUN", str(run)).replace("OTHER", "other") for word in VERBS[verb]]
        started = time.process_time()
        signal.alarm(120)  # what hangs ends the test with a trace
        answer = bitgolf(*words, *["--json"] * as_json)
        signal.alarm(0)
        if answers is not None:
            answers.append(answer)
        found = [*faults(answer, time.process_time() - started, as_json)]
        shutil.rmtree(run)
        for made in {*tmp_path.iterdir()} - there:
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        shutil.copytree(kept, run)
        return [f"{verb}, {name} {change.__name__}: {', '.join(found)}: {answer[2][-300:]}"] if found else []

    return ask


@pytest.mark.parametrize("verb", QUICK)
def test_what_is_no_file(asked, verb):
    found = [asked(verb, name, place) for name in READS[verb] for place in PLACES]
    assert sum(found, []) == []


def changes_of(file, data, draw):
    """Odd contents of a file without end."""

    def writing(name, content):
        def change(path):
            path.write_bytes(content)

        change.__name__ = name
        return change

    documents = []
    if file.endswith(".jsonl"):
        first, *lines = data.splitlines(keepends=True)
        documents = [(name, b"".join([text, b"\n", *lines])) for name, text in odd_documents(first)]
    elif file.endswith(".json"):
        documents = [*odd_documents(data)]
        documents += [("surrogates", data.replace(b'": "', b'": "\\ud800'))]
        documents += [("CRLF", data.replace(b"\n", b"\r\n"))]
    while True:
        if documents and draw.random() < 0.7:
            yield writing(*draw.choice(documents))
        else:
            content = changed(data, draw)
            yield writing(f"changed {content[:2000].hex()}", content)


def odd_answers(asked, run, verbs, seconds, seed=0):
    """What is wrong with the answers to random changes, for so many seconds."""
    draw, end = random.Random(seed), time.monotonic() + seconds
    changes = {name: changes_of(name, (run / name).read_bytes(), draw) for name in FILES}
    while time.monotonic() < end:
        name = draw.choice(FILES)
        verb = draw.choice(verbs)
        as_json = draw.random() < 0.3
        yield from asked(verb, name, next(changes[name]), as_json)


@pytest.mark.slow
def test_random_changes(asked, finished):  # noqa: F811
    assert [*odd_answers(asked, finished[0], [*VERBS], min(FUZZ_SECONDS, 1200))] == []


@pytest.mark.slow
@pytest.mark.parametrize("verb", ("show", "watch", "log", "like", "sample", "compare"))
def test_a_gigabyte_of_nothing(asked, verb):
    assert sum([asked(verb, name, huge) for name in READS[verb]], []) == []


def test_a_script_without_variables_is_told_so(bitgolf, tmp_path):  # noqa: F811
    (tmp_path / "train_gpt.py").write_bytes(b"")
    code, out, err = bitgolf("run", "baseline", "--like", "train_gpt.py", "--out", "run")
    assert (code, out) == (2, "") and "train_gpt.py: no defaults of variables in it; give" in err


def test_a_text_that_is_too_long_is_refused_on_the_way(asked, monkeypatch):
    monkeypatch.setattr("bitgolf.pipeline.work.memory_of_machine", lambda: 64 * 5_000_000)
    answers = []
    asked("long", "metrics.jsonl", zeros, answers=answers)
    code, out, err = answers[0]
    assert (code, out) == (
        2,
        "",
    ) and "too long to be scored at once (found 'more than 8,388,608 tokens" in err
    assert "tokenize" in err  # a long text does not go by in silence


def test_a_planted_fault_is_found(asked, monkeypatch):
    monkeypatch.setattr("bitgolf.cli.watch.follow", lambda *rest: 1 / 0)
    assert "exit code 3" in asked("watch", "metrics.jsonl", empty)[0]
