"""Files of a run, a dataset and a study that hold odd JSON: one line that names the file, or right use."""

import json
import shutil
import struct
import time

import pytest

from bitgolf.study.design import Study, add_one
from bitgolf.study.report import write_report
from tests.cli.test_cli import bitgolf, finished, recipe_file  # noqa: F401
from tests.fake_study import fake_study

DEEP = b"[" * 100_000 + b"]" * 100_000


def replaced(data, change):
    """The data with every value in it that is no object changed."""
    if isinstance(data, dict):
        return {key: replaced(value, change) for key, value in data.items()}
    return change(data)


def other_type(value):
    return 3 if isinstance(value, str) else "x" if isinstance(value, (int, float)) else {"a": 1}


def odd_documents(good: bytes):
    """Name and bytes of documents that no writer of ours leaves."""
    data = json.loads(good)
    first = next(iter(data))
    yield "null", b"null"
    yield "list", b"[1, [2], {}]"
    yield "text", b'"x"'
    yield "empty", b""
    yield "no keys", b"{}"
    yield "deep", DEEP
    yield "deep inside", b'{"' + first.encode() + b'": ' + DEEP + b"}"
    yield "latin-1", b'{"' + first.encode() + b'": "\xe9"}'
    yield "cut", good[: len(good) // 2]
    yield "bytes", bytes(range(256))
    yield "twice", b'{"' + first.encode() + b'": 1, ' + good.lstrip()[1:]
    yield "nulls", json.dumps(replaced(data, lambda _: None)).encode()
    yield "lists", json.dumps(replaced(data, lambda value: [value])).encode()
    yield "objects", json.dumps(replaced(data, lambda value: {"a": value})).encode()
    yield "other types", json.dumps(replaced(data, other_type)).encode()
    yield "negative", json.dumps(replaced(data, lambda v: -7 if isinstance(v, (int, float)) else v)).encode()
    yield "huge", json.dumps(replaced(data, lambda v: 10**400 if isinstance(v, (int, float)) else v)).encode()
    yield (
        "nan",
        json.dumps(replaced(data, lambda v: float("nan") if isinstance(v, (int, float)) else v)).encode(),
    )
    for key in data:
        yield f"no {key}", json.dumps({k: v for k, v in data.items() if k != key}).encode()
    yield "BOM", b"\xef\xbb\xbf" + good


def a_few(documents):
    """Those that another reader than the first may stumble over, for commands that take seconds."""
    return [each for each in documents if each[0] in ("deep", "latin-1", "twice", "lists", "huge", "nan")]


def tried(bitgolf, path, documents, *commands, restore=lambda: None):  # noqa: F811
    """What is wrong with the answers of these commands to these documents."""
    good, found = path.read_bytes(), []
    for name, document in documents:
        for words in commands:
            path.write_bytes(document)
            started = time.process_time()
            code, out, err = bitgolf(*words)
            seconds = time.process_time() - started
            wrong = [f"exit code {code}"] * (code not in (0, 1, 2)) + ["a traceback"] * ("Traceback" in err)
            if code == 2:
                wrong += ["stdout"] * bool(out) + [f"names no {path.name}"] * (path.name not in err)
                wrong += ["endless"] * (len(err) > 20_000)
            wrong += [f"{seconds:.0f} s"] * (seconds > 10)
            if wrong:
                found.append(f"{path.name} {name}: {words[0]}: {', '.join(wrong)}: {err[-300:]}")
            restore()
    path.write_bytes(good)
    return found


@pytest.mark.parametrize("name", ["result.json", "environment.json", "recipe.json"])
def test_files_of_a_run(bitgolf, finished, recipe_file, dataset, tmp_path, name):  # noqa: F811
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "other")
    shutil.copytree(folder, tmp_path / "kept")

    def restore():
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder)

    commands = {
        "result.json": [("compare", folder, tmp_path / "other")],
        "environment.json": [("run", recipe_file, "--data", dataset.folder, "--out", folder, "--resume")],
        "recipe.json": [("compare", folder, tmp_path / "other")],
    }[name]
    documents = [*odd_documents((folder / name).read_bytes())]
    documents = a_few(documents) if name == "environment.json" else documents
    assert tried(bitgolf, folder / name, documents, *commands, restore=restore) == []


def test_metrics_of_a_run(bitgolf, finished, recipe_file, dataset, tmp_path):  # noqa: F811
    folder, _ = finished
    path = folder / "metrics.jsonl"
    good = path.read_bytes()
    lines = good.splitlines()
    documents = [
        (name, b"\n".join([lines[0], text, lines[-1], b""])) for name, text in a_few(odd_documents(lines[0]))
    ]
    shutil.copytree(folder, tmp_path / "kept")

    def restore():
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder)

    words = ("run", recipe_file, "--data", dataset.folder, "--out", folder, "--resume")
    assert tried(bitgolf, path, documents, words, restore=restore) == []


def test_passports(bitgolf, dataset, recipe_file, tmp_path):  # noqa: F811
    folder = tmp_path / "data"
    shutil.copytree(dataset.folder, folder)
    path = folder / "passport.json"
    documents = [*odd_documents(path.read_bytes())]
    whole = json.loads(path.read_bytes())
    for key in whole["splits"]["val"]:
        splits = whole["splits"] | {"val": {k: v for k, v in whole["splits"]["val"].items() if k != key}}
        documents.append((f"no val {key}", json.dumps(whole | {"splits": splits}).encode()))
    assert tried(bitgolf, path, documents, ("data", folder)) == []


@pytest.mark.parametrize("name", ["study.json", "plan.json"])
def test_files_of_a_study(bitgolf, recipe, tmp_path, name):  # noqa: F811
    made = Study(name="c", baseline=recipe, arms=add_one(recipe, {"deeper": {"model.layers": 3}}))
    folder = fake_study(tmp_path, made, {"baseline": [2.0, 2.1, 2.2], "deeper": [1.9, 1.8, 1.7]})
    write_report(folder)
    documents = odd_documents((folder / name).read_bytes())
    assert tried(bitgolf, folder / name, documents, ("findings", "--in", tmp_path)) == []


def test_headers_of_weights(bitgolf, finished, dataset, tmp_path):  # noqa: F811
    folder, _ = finished
    data = (folder / "weights.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    documents = [
        (name, struct.pack("<Q", len(text)) + text + data[8 + size :])
        for name, text in odd_documents(data[8 : 8 + size])
        if not name.startswith("no ") or name == "no keys"
    ]
    assert tried(bitgolf, path, documents, ("score", path, "--data", dataset.folder)) == []
    weights = folder / "weights.safetensors"
    assert tried(bitgolf, weights, a_few(documents), ("pack", folder)) == []


def test_tables_of_cited_figures(bitgolf, tmp_path):  # noqa: F811
    path = tmp_path / "cited.json"
    row = {"source": "a", "technique": "b", "metric": "c", "value": 1.0, "reference": 2.0}
    path.write_text(json.dumps([row]))
    documents = [(name, b"[" + text + b"]") for name, text in odd_documents(json.dumps(row).encode())]
    assert tried(bitgolf, path, documents, ("findings", "--cited", path)) == []
