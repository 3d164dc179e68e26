"""Text sources: split by a rule, built whole or not at all, refused in one sentence."""

import gzip
import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.base.errors import BitgolfError, DataError, ShardError, TokenizerError
from bitgolf.base.events import finish
from bitgolf.corpus import sources, texts
from bitgolf.corpus.blocks import blocks_of, joined
from bitgolf.corpus.build import build_dataset, dataset_name
from bitgolf.corpus.overlap import scan_overlap, word_grams
from bitgolf.corpus.sources import Challenge, Files, Hub, Shards, Sotu, source_from
from bitgolf.inputs.resolve import find_dataset
from bitgolf.public.case import CONTROLS, tokenize_public_case, write_sidecar
from bitgolf.text.encoder import Encoder, train_tokenizer
from bitgolf.text.shards import Dataset, write_shard
from bitgolf.text.tokenizer import Tokenizer

SYLLABLES = "ba ce di fo gu ha ke li mo nu pra ste tri".split()


def words(count: int, seed: int) -> str:
    chosen = random.Random(seed)
    return " ".join("".join(chosen.choices(SYLLABLES, k=chosen.randint(1, 3))) for _ in range(count))


def build(source, folder, **settings) -> Dataset:
    steps = build_dataset(source, folder, **{"vocabulary_size": 300, **settings})
    stages = []
    try:
        while True:
            stage, done, total = next(steps)
            assert 0 <= done <= total or total == 0
            stages.append(stage)
    except StopIteration as end:
        assert stages[-1] == "dataset"
        return end.value


def text_folder(folder: Path, documents: int = 60) -> Path:
    folder.mkdir(exist_ok=True)
    for place in range(documents):
        (folder / f"{place:03}.txt").write_text(words(60, place) + "\n")
    return folder


def texts_of(dataset: Dataset, split: str) -> list[bytes]:
    stream = getattr(dataset, split)
    edges = [*stream.documents(dataset.tokenizer.bos), stream.tokens]
    return [dataset.tokenizer.decode(stream.read(a, b - a)) for a, b in zip(edges[:-1], edges[1:])]


def test_what_is_typed_is_understood(tmp_path):
    assert source_from("sotu") == Sotu()
    assert source_from("sotu:paragraphs") == Sotu(paragraphs=True)
    assert source_from("hf:roneneldan/TinyStories") == Hub("roneneldan/TinyStories")
    assert source_from("hf:a/b/sample/10BT") == Hub("a/b", "sample/10BT")
    assert source_from("challenge:sp1024") == Challenge("sp1024", 1)
    assert source_from("challenge:sp8192/10") == Challenge("sp8192", 10)
    assert source_from(str(tmp_path)) == Files(tmp_path)
    write_shard(tmp_path / "fineweb_train_000000.bin", [1, 2])
    assert source_from(str(tmp_path)) == Shards(tmp_path)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("sotuu", "did you mean 'sotu'"),
        ("no/such/file.txt", "no such text source or path"),
        ("hf:alone", "hf:OWNER/NAME"),
        ("challenge:bpe", "challenge:sp1024"),
        ("challenge:sp1024/0", "challenge:sp1024"),
    ],
)
def test_what_is_not_understood_is_refused(typed, message):
    with pytest.raises(DataError, match=message):
        source_from(typed)


def test_the_default_corpus_is_split_by_its_documented_rule():
    documents = list(Sotu().documents())
    split = Sotu().split(documents, 0.5)
    assert (len(documents), len(split.train), len(split.val)) == (249, 224, 25)
    assert sum(map(len, split.val)) == 1_129_563
    assert split.val[0] == documents[5]
    assert "index % 10 == 5" in split.rule


def test_the_default_corpus_can_be_cut_into_its_paragraphs():
    documents = list(Sotu().documents())
    whole, cut = (Sotu(paragraphs=each).split(documents, 0.5) for each in (False, True))
    for speeches, parts in ((whole.train, cut.train), (whole.val, cut.val)):
        found = [part for speech in speeches for part in speech.replace(b"\n\n", b"\n\n\0").split(b"\0")]
        assert sorted(parts) == sorted(part for part in found if part.strip(b"\n"))
        assert sum(map(len, parts)) == sum(map(len, speeches))  # no byte is lost
        assert not any(b"\n\n" in part.rstrip(b"\n") for part in parts)
    assert cut.val[0] not in whole.val[0]  # strangers stand side by side
    assert len(cut.train) + len(cut.val) > 25_000
    assert Sotu(paragraphs=True).key != Sotu().key


def test_a_folder_becomes_a_dataset(tmp_path):
    source = source_from(str(text_folder(tmp_path / "texts")))
    dataset = build(source, tmp_path / "data")
    dataset.verify()
    facts = dataset.passport["splits"]
    documents = {path.read_bytes() for path in (tmp_path / "texts").iterdir()}
    train, val = texts_of(dataset, "train"), texts_of(dataset, "val")
    assert set(train) | set(val) == documents and len(train) + len(val) == 60 and val
    assert facts["val"]["text_bytes"] == facts["val"]["token_bytes"] == sum(map(len, val))
    assert facts["train"]["documents"] == len(train)
    assert facts["val"]["text_sha256"] == hashlib.sha256(b"".join(val)).hexdigest()
    assert train != sorted(train, key=[path.read_bytes() for path in source.paths()].index)
    assert dataset.passport["overlap"]["exact_documents"] == 0
    assert dataset.passport["overlap"]["checked_13grams"] > 100
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    again = build(source, tmp_path / "again")
    for name in ("tokenizer.bin", "train_000000.bin", "val_000000.bin", "passport.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "data" / name).read_bytes()
    assert again.tokenizer.identity == train_tokenizer(train, 300).identity  # learnt from training text alone


def test_knobs_bite(tmp_path):
    source = source_from(str(text_folder(tmp_path / "texts")))
    plain = build(source, tmp_path / "a")
    half = build(source, tmp_path / "b", validation_fraction=0.5)
    assert len(texts_of(half, "val")) > 2 * len(texts_of(plain, "val"))
    assert set(texts_of(plain, "val")) < set(texts_of(half, "val"))
    cut = build(source, tmp_path / "c", shard_tokens=1000)
    assert len(cut.train.paths) > 2 and (cut.train.all() == plain.train.all()).all()
    apart = build(source, tmp_path / "d", across_words=False)
    assert apart.tokenizer.identity != plain.tokenizer.identity
    other = build(source, tmp_path / "e", tokenizer=tmp_path / "d" / "tokenizer.bin", vocabulary_size=999)
    assert other.tokenizer.identity == apart.tokenizer.identity
    assert dataset_name(source, 300) != dataset_name(source, 301)
    before = dataset_name(source, 300)
    (tmp_path / "texts" / "000.txt").write_text("changed")
    assert dataset_name(source, 300) != before


def capitals_folder(folder: Path) -> Path:
    text_folder(folder)
    for place, path in enumerate(sorted(folder.iterdir())):
        path.write_text(path.read_text().title().replace("Ba", "BA") if place % 2 else "the END OF IT")
    return folder


def test_case_operators_make_another_dataset_that_says_so_and_counts_the_same_bytes(tmp_path):
    source = source_from(str(capitals_folder(tmp_path / "texts")))
    plain = build(source, tmp_path / "plain")
    folded = build(source, tmp_path / "folded", case_ops=True)
    folded.verify()
    assert folded.passport["case_ops"] is True and folded.tokenizer.case_ops
    assert "case_ops" not in plain.passport and not plain.tokenizer.case_ops
    for split in ("train", "val"):
        assert texts_of(folded, split) == texts_of(plain, split)
        facts, other = folded.passport["splits"][split], plain.passport["splits"][split]
        assert facts["token_bytes"] == facts["text_bytes"] == other["text_bytes"]
        assert facts["text_sha256"] == other["text_sha256"] and facts["tokens"] != other["tokens"]
    again = build(source, tmp_path / "off", case_ops=False)
    assert again.tokenizer.to_bytes() == plain.tokenizer.to_bytes()
    assert [path.name for path in sorted((tmp_path / "off").iterdir())] == [
        path.name for path in sorted((tmp_path / "plain").iterdir())
    ]
    for path in (tmp_path / "off").iterdir():
        assert path.read_bytes() == (tmp_path / "plain" / path.name).read_bytes()


def test_case_operators_need_text_and_a_tokenizer_of_ones_own(tmp_path):
    source = source_from(str(capitals_folder(tmp_path / "texts")))
    made = build(source, tmp_path / "plain").folder / "tokenizer.bin"
    public_shards(tmp_path / "datasets" / "fineweb10B_sp1024", tmp_path / "tokenizers")
    shards = source_from(str(tmp_path / "datasets" / "fineweb10B_sp1024"))
    for wrong, settings_ in ((source, {"tokenizer": made}), (shards, {})):
        with pytest.raises(DataError, match="case operators are for a tokenizer trained here"):
            build(wrong, tmp_path / "none", case_ops=True, **settings_)


def test_operators_counted_as_bytes_stop_the_build(tmp_path, monkeypatch):
    source = source_from(str(capitals_folder(tmp_path / "texts")))
    monkeypatch.setattr(Tokenizer, "piece", lambda tokenizer, token: tokenizer.pieces[token])
    with pytest.raises(DataError, match="bytes of the tokens are not the"):
        build(source, tmp_path / "data", case_ops=True)


def test_a_dataset_is_found_by_its_kind(tmp_path, monkeypatch):
    digest = hashlib.sha256(b"bitgolf dataset 1 sotu 0.1.2 1024").hexdigest()[:12]
    assert dataset_name(Sotu(), 1024) == f"sotu-1024-{digest}"  # as it always was
    assert re.fullmatch("sotu-1024-case-ops-[0-9a-f]{12}", dataset_name(Sotu(), 1024, case_ops=True))
    monkeypatch.setenv("BITGOLF_CACHE", str(tmp_path / "cache"))
    texts_here = str(capitals_folder(tmp_path / "texts"))

    def found(text: str, *kind: bool) -> Dataset:
        return finish(find_dataset(text, 300, *kind))

    plain, folded = found(texts_here), found(texts_here, True)
    assert (plain.tokenizer.case_ops, folded.tokenizer.case_ops) == (False, True)
    assert found(texts_here, False).folder == plain.folder != folded.folder == found(texts_here, True).folder
    assert found(str(plain.folder), True).folder == plain.folder  # a dataset is taken as it is


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=1), min_size=2, unique=True), st.randoms(), st.floats(0.05, 0.9))
def test_the_split_depends_on_neither_order_nor_neighbours(documents, shuffler, fraction):
    split = Files(Path("x")).split(documents, fraction)
    assert split.train and split.val and sorted(split.train + split.val) == sorted(documents)
    mixed = shuffler.sample(documents, len(documents))
    assert set(Files(Path("x")).split(mixed, fraction).val) == set(split.val)
    doubled = Files(Path("x")).split(documents * 2, fraction)
    assert not set(doubled.train) & set(doubled.val)


def test_every_text_format_is_read(tmp_path):
    documents = [words(40, place) + f" ünï {place}" for place in range(12)] + ["", "\ud800 broken"]
    rows = "".join(json.dumps({"text": text, "source": "x"}) + "\n" for text in documents)
    (tmp_path / "a.jsonl").write_text(rows + "\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    expected = [text.encode("utf-8", "surrogatepass") for text in documents]
    assert list(texts.read_documents(tmp_path / "a.jsonl")) == expected
    assert list(texts.read_documents(tmp_path / "b.jsonl.gz")) == expected
    pyarrow.parquet.write_table(
        pyarrow.table({"text": documents[:12], "id": range(12)}), tmp_path / "c.parquet"
    )
    assert list(texts.read_documents(tmp_path / "c.parquet")) == expected[:12]
    dataset = build(source_from(str(tmp_path)), tmp_path / "data", vocabulary_size=280)
    assert {*texts_of(dataset, "train"), *texts_of(dataset, "val")} == {*expected} - {b""}


def test_a_single_text_file_is_cut_at_blank_lines(tmp_path):
    text = "".join(words(100, place) + ("\n\n" if place % 3 else "\n") for place in range(80)).encode()
    (tmp_path / "book.txt").write_bytes(text)
    parts = list(source_from(str(tmp_path / "book.txt")).documents())
    assert b"".join(parts) == text and len(parts) > 4
    assert all(part.endswith(b"\n\n") and len(part) >= 4096 for part in parts[:-1])
    assert build(source_from(str(tmp_path / "book.txt")), tmp_path / "data").val.tokens > 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "no text in this source"),
        ("a.txt", b"lone document", "one document cannot be split"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl, line 2: not readable as JSON"),
        ("a.jsonl", b'{"text": "x"}\n\xff\xfe\n', r"a\.jsonl, line 2: not readable as JSON"),
        ("a.jsonl", b'{"content": "x"}\n', r"line 1: no string under \"text\" \(found \['content'\]\)"),
        ("a.jsonl", b"[1]\n", "line 1: no string under"),
        ("a.jsonl.gz", b"not gzip", r"a\.jsonl\.gz: cannot read"),
        ("a.parquet", b"PAR1 not parquet", r"a\.parquet: not readable as parquet"),
        ("a.docx", b"zip", "no text files in this folder"),
    ],
)
def test_bad_text_is_one_clear_error_and_leaves_nothing(tmp_path, name, content, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        build(source_from(str(tmp_path / "in")), tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_text_too_small_for_the_vocabulary_names_the_largest(tmp_path):
    text_folder(tmp_path / "in", 3)
    with pytest.raises(TokenizerError, match="choose at most"):
        build(source_from(str(tmp_path / "in")), tmp_path / "data", vocabulary_size=20000)
    with pytest.raises(DataError, match="fraction"):
        build(source_from(str(tmp_path / "in")), tmp_path / "data", validation_fraction=1.0)


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"needs pyarrow\.parquet.*pip install 'bitgolf\[parquet\]'"):
        build(source_from(str(tmp_path / "a.parquet")), tmp_path / "data")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match=r"needs huggingface_hub.*pip install 'bitgolf\[hub\]'"):
        build(source_from("hf:a/b"), tmp_path / "data")


def test_a_build_never_overwrites_and_restarts_after_a_kill(tmp_path):
    source = source_from(str(text_folder(tmp_path / "texts")))
    steps = build_dataset(source, tmp_path / "data", vocabulary_size=300)
    while next(steps).stage != "encode val":
        assert not (tmp_path / "data").exists()
    steps.close()
    assert not list(tmp_path.glob(".*"))
    code = (
        "import os\nfrom pathlib import Path\nfrom bitgolf.corpus.build import build_dataset\n"
        "from bitgolf.corpus.sources import source_from\n"
        f"steps = build_dataset(source_from({str(tmp_path / 'texts')!r}),"
        f" Path({str(tmp_path / 'data')!r}), vocabulary_size=300)\n"
        "for step in steps:\n    if step.stage == 'overlap': os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert len(list(tmp_path.glob(".data.*.partial"))) == 1
    with pytest.raises(BitgolfError, match="no data passport"):
        Dataset.open(tmp_path / "data")
    build(source, tmp_path / "data").verify()
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(DataError, match="something is there already"):
        build(source, tmp_path / "data")


def test_the_disk_being_full_is_a_clear_error(tmp_path, monkeypatch):
    source = source_from(str(text_folder(tmp_path / "texts")))

    def full(_descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BitgolfError, match="no space left"):
        build(source, tmp_path / "data")
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".*"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for Hugging Face: a folder of repositories behind the two calls that are used."""

    class Api:
        def list_repo_files(self, repository, repo_type):
            assert repo_type == "dataset"
            root = tmp_path / "hub" / repository
            if not root.is_dir():
                raise OSError("404 Client Error\nmore words")
            return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]

    def fetch(repo_id, filename, repo_type):
        assert repo_type == "dataset"
        fetched.append(filename)
        return str(tmp_path / "hub" / repo_id / filename)

    fetched: list[str] = []
    module = types.SimpleNamespace(HfApi=Api, hf_hub_download=fetch, fetched=fetched, root=tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_a_hugging_face_dataset_is_fetched_as_far_as_needed(hub, tmp_path, monkeypatch):
    folder = hub.root / "some" / "stories" / "data"
    folder.mkdir(parents=True)
    for part in range(3):
        rows = [json.dumps({"text": words(60, 100 * part + place)}) for place in range(20)]
        (folder / f"train-{part}.jsonl").write_text("\n".join(rows))
    (folder / "test-0.jsonl").write_text('{"text": "never read"}')
    (folder.parent / "README.md").write_text("never read")
    (folder / "train-info.json").write_text('{"never": "read"}')
    dataset = build(source_from("hf:some/stories"), tmp_path / "all")
    assert hub.fetched == [f"data/train-{part}.jsonl" for part in range(3)]
    assert dataset.passport["splits"]["train"]["documents"] > 40
    hub.fetched.clear()
    monkeypatch.setattr(sources, "HUB_TEXT_BYTES", 3000)
    build(source_from("hf:some/stories/data"), tmp_path / "some")
    assert hub.fetched == ["data/train-0.jsonl"]
    for typed, message in (("hf:some/stories/absent", "no text files"), ("hf:no/one", "404 Client Error;")):
        with pytest.raises(DataError, match=message):
            build(source_from(typed), tmp_path / "none")


def public_shards(folder: Path, models: Path) -> Tokenizer:
    """Shards as the challenge publishes them, with a small model file of its kind."""
    folder.mkdir(parents=True)
    models.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words(50, seed) for seed in range(50)),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=3,
    )
    path = models / "fineweb_1024_bpe.model"
    path.write_bytes(model.getvalue())
    tokenizer = Tokenizer.load(path)
    for place in range(3):
        texts_here = [words(50, 10 * place + i).encode() for i in range(5)]
        name = "fineweb_val_000000.bin" if place == 2 else f"fineweb_train_{place:06}.bin"
        write_shard(folder / name, np.concatenate(list(Encoder(tokenizer).encode_documents(texts_here))))
    return tokenizer


def test_published_challenge_shards_keep_their_bytes(hub, tmp_path):
    root = hub.root / "willdepueoai" / "parameter-golf" / "datasets"
    tokenizer = public_shards(root / "datasets" / "fineweb10B_sp1024", root / "tokenizers")
    dataset = build(source_from("challenge:sp1024"), tmp_path / "one")
    dataset.verify()
    assert len(dataset.train.paths) == 1
    assert dataset.tokenizer.identity == tokenizer.identity and not dataset.tokenizer.lossless
    published = (root / "datasets" / "fineweb10B_sp1024" / "fineweb_val_000000.bin").read_bytes()
    assert (tmp_path / "one" / "val_000000.bin").read_bytes() == published
    facts = dataset.passport["splits"]["val"]
    assert facts["documents"] == 5
    assert facts["text_bytes"] == sum(len(words(50, 20 + i)) for i in range(5))
    both = build(source_from("challenge:sp1024/2"), tmp_path / "two")
    assert len(both.train.paths) == 2
    (hub.root / "kevclark" / "parameter-golf").mkdir(parents=True)
    with pytest.raises(DataError, match="not published there"):
        build(source_from("challenge:sp512"), tmp_path / "none")


def test_a_local_folder_of_public_shards_is_taken_as_it_is(tmp_path):
    folder = tmp_path / "datasets" / "fineweb10B_sp1024"
    public_shards(folder, tmp_path / "tokenizers")
    build(source_from(str(folder)), tmp_path / "data").verify()
    (tmp_path / "tokenizers" / "fineweb_1024_bpe.model").rename(tmp_path / "elsewhere.model")
    with pytest.raises(DataError, match=r"exactly one \.model file"):
        build(source_from(str(folder)), tmp_path / "none")
    build(source_from(str(folder)), tmp_path / "given", tokenizer=tmp_path / "elsewhere.model").verify()
    Path(tmp_path / "small.bin").write_bytes(train_tokenizer([b"abc"], 258).to_bytes())
    with pytest.raises(DataError, match="a token is past the vocabulary of 258"):
        build(source_from(str(folder)), tmp_path / "none", tokenizer=tmp_path / "small.bin")
    (folder / "fineweb_val_000000.bin").write_bytes(b"short")
    with pytest.raises(ShardError, match="cut short at byte 5"):
        build(source_from(str(folder)), tmp_path / "none", tokenizer=tmp_path / "elsewhere.model")
    (folder / "fineweb_val_000000.bin").unlink()
    with pytest.raises(DataError, match="2 training, 0 validation"):
        build(source_from(str(folder)), tmp_path / "none", tokenizer=tmp_path / "elsewhere.model")


def test_sidecars_are_not_taken_for_shards(tmp_path):
    folder = tmp_path / "datasets" / "fineweb10B_sp1024"
    tokenizer = public_shards(folder, tmp_path / "tokenizers")
    plain = build(source_from(str(folder)), tmp_path / "plain")
    tokens = plain.val.all()
    counts = tokenizer.token_bytes(tokens, np.concatenate([tokens[:1], tokens[:-1]]))
    shard = folder / "fineweb_val_000000.bin"
    write_sidecar(shard, counts)
    beside = build(source_from(str(folder)), tmp_path / "rivals")
    assert (tmp_path / "rivals" / "passport.json").read_bytes() == (
        tmp_path / "plain" / "passport.json"
    ).read_bytes()
    assert len(beside.val.paths) == 1
    write_sidecar(shard, np.maximum(counts, 1))  # five documents: five starts
    with pytest.raises(DataError, match=r"does not count the bytes .* bytes, [\d,]+ in the sidecars"):
        build(source_from(str(folder)), tmp_path / "none")


def test_public_case_operators_are_refused_with_and_without_sidecars(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words(50, seed) for seed in range(50)),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        user_defined_symbols=list(CONTROLS),
        minloglevel=3,
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "case.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids, counts = tokenize_public_case(processor, words(50, 1).title())
    for split in ("train", "val"):
        write_shard(tmp_path / "in" / f"fineweb_{split}_000000.bin", ids)
    with pytest.raises(DataError, match="does not count the bytes of the original text"):
        build(source_from(str(tmp_path / "in")), tmp_path / "none")
    write_sidecar(tmp_path / "in" / "fineweb_val_000000.bin", counts)
    with pytest.raises(DataError, match="give the text itself; `bitgolf data TEXT --case-ops`"):
        build(source_from(str(tmp_path / "in")), tmp_path / "none")


def grams_by_hand(document: bytes) -> set[tuple[str, ...]]:
    found = re.findall(r"[a-z0-9\x80-\xff]+", document.decode("latin-1").lower())
    return {tuple(found[i : i + 13]) for i in range(len(found) - 12)}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "B", "b", "the ", "x9", ", ", "  ", "é", "\n"]), max_size=80),
        max_size=5,
    )
)
def test_word_grams_are_those_counted_by_hand(rows):
    documents = [" ".join(row).encode() for row in rows]
    by_hand = set().union(*map(grams_by_hand, documents)) if documents else set()
    # A byte above ASCII is not changed in case, so "É" and "é" stay two words; here only one is used.
    assert len(np.unique(word_grams(joined(documents)))) == len(by_hand)


def overlap(train: list[bytes], val: list[bytes]) -> dict[str, int]:
    return list(scan_overlap(blocks_of(train), blocks_of(val)))[-1].counts


def test_planted_overlap_is_found_and_none_is_invented():
    train = [words(300, seed).encode() for seed in range(20)]
    val = [words(300, 100 + seed).encode() for seed in range(5)]
    clean = overlap(train, val)
    assert clean == {"exact_documents": 0, "shared_13grams": 0, "checked_13grams": 5 * 288}
    assert overlap([*train, val[3]], val) == {**clean, "exact_documents": 1, "shared_13grams": 288}
    quoted = val[0].split()[50:65]
    sentence = b"So he said: " + b", ".join(quoted).upper() + b"!"
    assert overlap([*train, sentence], val) == {**clean, "shared_13grams": 3}
    halves = [b" ".join(quoted[:12]), b" ".join(quoted[12:])]
    assert overlap([*train, *halves], val) == clean  # no gram runs from one document into the next
    assert overlap(train, [b"short"]) == {"exact_documents": 0, "shared_13grams": 0, "checked_13grams": 0}
