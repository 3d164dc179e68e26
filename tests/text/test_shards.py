"""Shards and datasets: what is written is read, and what is damaged is refused by name."""

import hashlib
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.base.errors import DataError, ShardError
from bitgolf.corpus.build import build_dataset
from bitgolf.corpus.sources import source_from
from bitgolf.text.encoder import train_tokenizer
from bitgolf.text.shards import Dataset, TokenStream, read_shard, write_shard


def test_header_is_the_public_one(tmp_path):
    write_shard(tmp_path / "a.bin", np.array([1, 65535, 7]))
    data = (tmp_path / "a.bin").read_bytes()
    assert len(data) == 1024 + 6
    assert np.frombuffer(data[:1024], "<i4").tolist() == [20240520, 1, 3] + [0] * 253
    assert data[1024:] == b"\x01\x00\xff\xff\x07\x00"
    shard = read_shard(tmp_path / "a.bin")
    assert isinstance(shard, np.memmap) and shard.tolist() == [1, 65535, 7]


def header_with(word: int, value: int):
    def change(data: bytes) -> bytes:
        words = np.frombuffer(data[:1024], "<i4").copy()
        words[word] = value
        return words.tobytes() + data[1024:]

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d[:-1], r"cut short at byte 1029: size must be 1024 \+ 2 x 3 = 1030"),
        (lambda d: d[:-2], "cut short at byte 1028"),
        (lambda d: d + b"\0", "trailing bytes from byte 1030"),
        (lambda d: d[:700], "cut short at byte 700 inside the header"),
        (lambda d: b"", "cut short at byte 0 inside the header"),
        (header_with(0, 20240521), "magic at byte 0 must be 20240520"),
        (header_with(1, 2), "version at byte 4"),
        (header_with(2, 4), "cut short"),
        (header_with(2, 2), "trailing bytes from byte 1028"),
        (header_with(2, -5), "negative token count at byte 8"),
        (header_with(2, 2**31 - 1), "cut short"),
    ],
)
def test_damaged_shards_are_refused(tmp_path, damage, message):
    path = tmp_path / "bad.bin"
    write_shard(path, [1, 2, 3])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ShardError, match=message):
        read_shard(path)


def test_tokens_that_do_not_fit_and_missing_files_are_refused(tmp_path):
    for tokens in ([1, 65536], [-1], [[1, 2]]):
        with pytest.raises(ShardError, match="ids from 0 to 65535"):
            write_shard(tmp_path / "x.bin", tokens)
    with pytest.raises(ShardError, match=r"gone\.bin: cannot read shard"):
        read_shard(tmp_path / "gone.bin")
    write_shard(tmp_path / "empty.bin", [])
    with pytest.raises(ShardError, match="no tokens"):
        TokenStream([tmp_path / "empty.bin"])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any), st.integers(0, 200), st.integers(0, 60)
)
def test_a_stream_reads_across_shards_and_round_and_round(tmp_path_factory, sizes, start, count):
    folder = tmp_path_factory.mktemp("stream")
    paths = [folder / f"{i}.bin" for i in range(len(sizes))]
    whole = np.arange(sum(sizes)) % 4
    for path, part in zip(paths, np.split(whole, np.cumsum(sizes)[:-1])):
        write_shard(path, part)
    stream = TokenStream(paths)
    assert stream.tokens == len(whole)
    assert stream.read(start, count).tolist() == [whole[i % len(whole)] for i in range(start, start + count)]
    assert (stream.all() == whole).all()
    assert stream.documents(1).tolist() == np.flatnonzero(whole == 1).tolist()


@pytest.fixture
def folder(tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for i in range(40):
        (text / f"{i:02}.txt").write_text(f"document {i} says that {i * 7919} is a number. " * 5)
    for _ in build_dataset(source_from(str(text)), tmp_path / "data", vocabulary_size=280):
        pass
    return tmp_path / "data"


def change_passport(folder, change):
    path = folder / "passport.json"
    passport = json.loads(path.read_text())
    change(passport)
    path.write_text(json.dumps(passport))


def test_a_dataset_opens_and_verifies(folder):
    dataset = Dataset.open(folder)
    dataset.verify()
    assert dataset.train.tokens == dataset.passport["splits"]["train"]["tokens"]
    assert dataset.tokenizer.decode(dataset.val.all()).startswith(b"document ")


def test_a_changed_token_is_found_by_verify(folder):
    dataset = Dataset.open(folder)
    path = folder / "val_000000.bin"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"val_000000\.bin: hash of the shard is not what the passport says"):
        dataset.verify()


def test_only_the_tokens_of_the_passport_are_scored(folder):
    dataset = Dataset.open(folder)
    assert (dataset.scored_tokens() == dataset.val.all()).all()
    path = folder / "val_000000.bin"
    tokens = read_shard(path).copy()
    for changed in (tokens[::-1], np.where(tokens == tokens[-1], 60_000, tokens)):
        write_shard(path, changed)
        with pytest.raises(ShardError, match=r"val_000000\.bin: hash of the shard is not what the passport"):
            Dataset.open(folder).scored_tokens()
    place = int(np.flatnonzero(changed == 60_000)[0])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    change_passport(folder, lambda p: p["splits"]["val"]["shards"][0].update(sha256=digest))
    with pytest.raises(ShardError, match=rf"bin, token {place}: a token is past the vocabulary .*60000"):
        Dataset.open(folder).scored_tokens()


def test_tokens_that_stand_for_nothing_are_not_scored(folder):
    change_passport(folder, lambda passport: passport["splits"]["val"].update(token_bytes=0))
    with pytest.raises(DataError, match="the validation tokens stand for no bytes"):
        Dataset.open(folder).scored_tokens()


def test_shards_keep_the_order_of_the_passport(folder):
    tokens = Dataset.open(folder).val.all()
    names = [f"val_{number}.bin" for number in (2, 9, 10, 11)]
    shards = []
    for name, part in zip(names, np.split(tokens, [5, 5, 9])):
        write_shard(folder / name, part)
        shards.append({"name": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()})
    change_passport(folder, lambda p: p["splits"]["val"].update(shards=shards))
    assert (Dataset.open(folder).scored_tokens() == tokens).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda split: split.update(text_bytes="12"),
        lambda split: split.update(documents=None),
        lambda split: split.update(tokens=1.5),
        lambda split: split.update(differing_bytes="few"),
        lambda split: split.update(shards={}),
        lambda split: split.update(shards=[[]]),
        lambda split: split.pop("text_sha256"),
        lambda split: split["shards"][0].update(name="../secret.bin"),
        lambda split: split["shards"][0].update(name="/etc/passwd"),
        lambda split: split["shards"][0].update(name=""),
        lambda split: split["shards"][0].pop("sha256"),
        lambda split: split["shards"].append(None),
    ],
)
def test_a_passport_of_another_shape_is_one_error(folder, change):
    change_passport(folder, lambda passport: change(passport["splits"]["val"]))
    with pytest.raises(DataError, match=r"passport\.json: passport is not usable: splits\.val"):
        Dataset.open(folder)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("tokens", -1, "splits.val.tokens must be a whole number from 0 to 2**63 (found -1)"),
        ("text_bytes", 2**63, "splits.val.text_bytes must be"),
        ("documents", True, "splits.val.documents must be"),
        ("token_bytes", "x", "splits.val.token_bytes must be"),
        ("text_sha256", 3, "splits.val.text_sha256 must be a text, or null"),
        ("shards", {"a": 1}, "splits.val.shards.0.name must be a plain name"),
    ],
)
def test_a_passport_error_names_key_and_value(folder, key, value, shown):
    change_passport(folder, lambda passport: passport["splits"]["val"].update({key: value}))
    with pytest.raises(DataError) as refused:
        Dataset.open(folder)
    assert shown in str(refused.value) and "passport.json" in str(refused.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.bin")
    for path in (tmp_path / "a.bin", tmp_path):
        with pytest.raises(ShardError, match="cannot read shard: not a file"):
            read_shard(path)


def test_planted_passport_faults_are_found(folder):
    good = (folder / "passport.json").read_text()
    faults = [
        (lambda p: p["splits"]["val"].update(documents=1), "BOS count of val"),
        (lambda p: p["splits"]["val"].update(text_sha256="0" * 64), "decoded val text"),
    ]
    for change, message in faults:
        change_passport(folder, change)
        with pytest.raises(ShardError, match=message):
            Dataset.open(folder).verify()
        (folder / "passport.json").write_text(good)


def test_what_does_not_belong_is_refused_at_once(folder):
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "tokenizer.bin").write_bytes(train_tokenizer([b"some other text"], 260).to_bytes())
    with pytest.raises(DataError, match="this tokenizer did not make these shards"):
        Dataset.open(folder)
    (folder / "tokenizer.bin").write_bytes(good["tokenizer.bin"])
    (folder / "val_000000.bin").write_bytes(good["val_000000.bin"][:-4])
    with pytest.raises(ShardError, match=r"val_000000\.bin: cut short"):
        Dataset.open(folder)
    (folder / "val_000000.bin").write_bytes(good["train_000000.bin"])
    with pytest.raises(ShardError, match="tokens of val is not what the passport says"):
        Dataset.open(folder)
    for text in ("[]", "{}", '{"format": "bitgolf dataset 1", "tokenizer_identity": "", "splits": []}'):
        (folder / "passport.json").write_text(text)
        with pytest.raises(DataError, match="passport is not usable"):
            Dataset.open(folder)
    (folder / "passport.json").unlink()
    with pytest.raises(DataError, match="no data passport"):
        Dataset.open(folder)
