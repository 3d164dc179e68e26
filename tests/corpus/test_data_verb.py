"""What the user sees of odd data, through the verbs: one line and code 2, or a note beside the result."""

import gzip
import json
import os
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from bitgolf.base.plan import to_json
from bitgolf.cli import main as cli
from bitgolf.text.encoder import Encoder
from bitgolf.text.shards import read_shard, write_shard
from tests.text.test_belonging import DOCUMENTS, SPLITS, model, put

pytestmark = pytest.mark.usefixtures("any_script")

EMOJI = "\U0001f600\U0001f601\U0001f602".encode()


@pytest.fixture
def bitgolf(monkeypatch, capsys, tmp_path):
    """Type a command with --json; get code, the object or None, and stderr."""
    monkeypatch.setenv("BITGOLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def typed(*words):
        monkeypatch.setattr(sys, "argv", ["bitgolf", *map(str, words), "--json"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code, json.loads(out) if out else None, err

    return typed


def refusal(answer) -> str:
    code, facts, err = answer
    assert (code, facts["status"], facts["exit_code"]) == (2, "error", 2) and "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert err.rstrip().endswith(line)
    return line


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for place, each in enumerate(DOCUMENTS):
        (folder / f"{place}.txt").write_bytes(each)
    return folder


def test_a_packed_book_is_unpacked(bitgolf, tmp_path):
    book = b"\n\n".join(DOCUMENTS * 2)
    (tmp_path / "book.txt").write_bytes(book)
    (tmp_path / "book.txt.gz").write_bytes(gzip.compress(book))
    answers = [bitgolf("data", name, "--vocabulary-size", 270)[1] for name in ("book.txt", "book.txt.gz")]
    for facts in answers:
        assert facts["splits"]["train"]["text_bytes"] + facts["splits"]["val"]["text_bytes"] == len(book)
        facts.pop("folder"), facts.pop("name")
    assert answers[0] == answers[1]


def test_files_left_out_are_said_each_time(bitgolf, texts):
    (texts / "1.txt").rename(texts / "1.TXT")
    (texts / "2.txt").rename(texts / "2.doc")
    for _ in range(2):
        code, facts, err = bitgolf("data", texts, "--vocabulary-size", 270)
        documents = sum(split["documents"] for split in facts["splits"].values())
        assert (code, documents) == (0, len(DOCUMENTS) - 1)
        assert facts["notes"] == ["1 of the files in texts are left out: 2.doc (unknown ending)"]
        assert f"note: {facts['notes'][0]}\n" in err


def test_a_dataset_keeps_its_tokenizer_and_says_so(bitgolf, texts):
    folder = bitgolf("data", texts, "--vocabulary-size", 270)[1]["folder"]
    assert "already" not in bitgolf("data", folder)[2]
    for words in (("--vocabulary-size", 300), ("--case-ops",)):
        code, _, err = bitgolf("data", folder, *words)
        assert code == 0 and "is a dataset already, with its own tokenizer of 270 pieces" in err


def test_null_is_the_same_in_every_form(bitgolf, tmp_path):
    rows = [None, *(document.decode() for document in DOCUMENTS), None]
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "a.parquet")
    lines = [json.dumps({"text": row}) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.json").write_text(f"[{','.join(lines)}]")
    answers = [
        bitgolf("data", f"a.{kind}", "--vocabulary-size", 270)[1] for kind in ("parquet", "jsonl", "json")
    ]
    for facts in answers:
        facts.pop("folder"), facts.pop("name")
        assert facts["notes"] == ["2 documents without text (empty or null) are left out"]
    assert answers[0] == answers[1] == answers[2]


def test_one_line_for_each_odd_source(bitgolf, tmp_path, texts):
    (tmp_path / "deep.jsonl").write_text("".join('{"text": "x"}\n' for _ in range(12)) + "[" * 100_000)
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    for source, words in (
        ("deep.jsonl", "deep.jsonl, line 13: not readable as JSON"),
        ("empty", "no text files in this folder"),
        ("pipe.txt", "not a regular file (found 'a pipe')"),
        ("/dev/zero", "not a regular file (found 'a device')"),
        ("", "an empty path or name"),
    ):
        assert words in refusal(bitgolf("data", source))


def run_folder(bitgolf, recipe, tmp_path, tokenizer):
    recipe = recipe.replace({"model.vocabulary_size": tokenizer.vocabulary_size})
    (tmp_path / "tiny.json").write_text(json.dumps(to_json(recipe)))
    return bitgolf("run", "tiny.json", "--data", "shards", "--out", "run")


def test_shards_of_another_tokenizer_or_of_nothing_are_refused_before_training(bitgolf, recipe, tmp_path):
    tokenizer = put(tmp_path / "shards", model(1), SPLITS)
    (tmp_path / "shards" / "tok.model").write_bytes(model(2))
    assert "did not make these shards" in refusal(run_folder(bitgolf, recipe, tmp_path, tokenizer))
    nothing = {**SPLITS, "val_0.bin": [EMOJI] * 50}
    tokenizer = put(tmp_path / "shards", model(1, byte_fallback=False, vocab_size=120), nothing)
    line = refusal(run_folder(bitgolf, recipe, tmp_path, tokenizer))
    assert "stand for no bytes" in line and "50 of 150 tokens are unknown" in line
    assert not (tmp_path / "run").exists()


def test_what_a_tokenizer_loses_is_said_and_has_no_figure_per_file_byte(bitgolf, recipe, tmp_path):
    known = {**SPLITS, "val_0.bin": [*DOCUMENTS[6:], DOCUMENTS[0] + EMOJI]}
    tokenizer = put(tmp_path / "shards", model(1, byte_fallback=False, vocab_size=120), known)
    code, result, err = run_folder(bitgolf, recipe, tmp_path, tokenizer)
    assert code == 0 and result["lossy"].endswith(" tokens are unknown") and "their text is lost" in err
    assert f'<dd class="warn">{result["lossy"]}</dd>' in (tmp_path / "run" / "report.html").read_text()
    spaced = "the\u2581people  of   this nation".encode()
    for name, content, differing in (
        ("emoji.txt", b"the people " + EMOJI * 30, 360),
        ("mark.txt", spaced, 5),  # three of the mark, three spaces less, one space more
        ("space.txt", b"the people ", 1),
        ("ligature.txt", "the o\ufb03".encode(), 3),  # three bytes for three others
        ("plain.txt", b"the people of this nation", 0),
        ("plain.txt.gz", gzip.compress(b"the people of this nation", mtime=0), 0),
    ):
        (tmp_path / name).write_bytes(content)
        code, facts, _ = bitgolf("score", "run", "--text", name)
        size = len(content) if not name.endswith("gz") else len(b"the people of this nation")
        assert code == 0 and facts["text_bytes"] <= size and "bits_per_file_byte" not in facts
        words = facts.get("lossy", "0 of").split()
        assert words[0] == str(differing), (name, facts)
    assert "nothing was scored" in refusal(bitgolf("score", "run", "--text", _written(tmp_path, EMOJI)))


def _written(folder, content):
    (folder / "only.txt").write_bytes(content)
    return "only.txt"


def test_changed_tokens_are_not_scored(bitgolf, recipe, tmp_path):
    tokenizer = put(tmp_path / "shards", model(1), SPLITS)
    code, result, _ = run_folder(bitgolf, recipe, tmp_path, tokenizer)
    assert code == 0 and "lossy" not in result
    folder = next((tmp_path / "cache").glob("shards-*"))
    assert bitgolf("score", "run", "--data", folder)[0] == 0
    tokens = read_shard(folder / "val_000000.bin").copy()
    for changed in (tokens[::-1], np.where(tokens > 300, 9999, tokens)):
        write_shard(folder / "val_000000.bin", changed)
        for words in (("score", "run"), ("score", "run", "--data", folder), ("pack", "run")):
            assert "hash of the shard is not what the passport says" in refusal(bitgolf(*words))
        assert "hash of the shard" in refusal(
            bitgolf("run", "tiny.json", "--data", folder, "--out", tmp_path / "again")
        )
        assert "hash of the shard" in refusal(bitgolf("data", folder))


def test_a_pipe_or_device_is_not_waited_for_when_scoring(bitgolf, recipe, tmp_path):
    tokenizer = put(tmp_path / "shards", model(1), SPLITS)
    assert run_folder(bitgolf, recipe, tmp_path, tokenizer)[0] == 0
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "packed.txt").write_bytes(gzip.compress(b"the people"))
    for name, words in (
        ("pipe.txt", "a pipe"),
        ("/dev/zero", "a device"),
        (tmp_path, "a folder"),
        ("packed.txt", "gzip data"),
        ("absent.txt", "No such file"),
    ):
        assert words in refusal(bitgolf("score", "run", "--text", name))


def test_a_validation_text_of_nothing_but_unknown_tokens_is_refused_before_training(
    bitgolf, recipe, tmp_path
):
    tokenizer = put(tmp_path / "shards", model(1, byte_fallback=False, vocab_size=120), SPLITS)
    write_shard(tmp_path / "shards" / "val_0.bin", [tokenizer.unknown] * 4000)
    line = refusal(run_folder(bitgolf, recipe, tmp_path, tokenizer))
    assert "stand for no bytes" in line and "4,000 of 4,000 tokens are unknown" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("opening", ["words", "spaces", "unknown"])
def test_a_tokenizer_without_document_start_runs_to_its_report(bitgolf, recipe, tmp_path, opening):
    proto = model(1, byte_fallback=False, bos_id=-1, pad_id=-1, eos_id=1, unk_id=0, vocab_size=120)
    tokenizer = put(tmp_path / "shards", proto, SPLITS)
    space = Encoder(tokenizer).encode(b"a b")[1:2]
    start = {"words": [], "spaces": [*space] * 12, "unknown": [tokenizer.unknown] * 12}[opening]
    place = tmp_path / "shards" / "val_0.bin"
    write_shard(place, [*start, *read_shard(place).tolist()])
    code, out, err = run_folder(bitgolf, recipe.replace({"model.bos_id": -1}), tmp_path, tokenizer)
    assert code == 0, err
    assert (tmp_path / "run" / "report.html").is_file()
