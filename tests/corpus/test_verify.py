"""Data that lies there: every check holds on a sound folder, and finds what was planted in another."""

import hashlib
import io
import json
import shutil

import numpy as np
import pytest
import sentencepiece

from bitgolf.base.errors import DataError
from bitgolf.base.events import finish
from bitgolf.base.files import read_json, write_json
from bitgolf.corpus.blocks import Digests, decoded
from bitgolf.corpus.overlap import Wanted
from bitgolf.corpus.passport import shard_documents
from bitgolf.corpus.verify import FAILS, HOLDS, OPEN, verify
from bitgolf.text.encoder import Encoder, train_tokenizer
from bitgolf.text.shards import TokenStream, read_shard, write_shard
from bitgolf.text.tokenizer import MODEL_FILE_KIND, Tokenizer
from tests.cli.test_cli import bitgolf, refused  # noqa: F401

NAMES = (
    "counts and hashes",
    "files of both splits",
    "ids",
    "BOS",
    "prefix",
    "runs of tokens",
    "tokenizer",
    "bytes",
    "losslessness",
    "exact documents",
    "13-grams",
)


def checked(folder):
    return {each.name: each for each in finish(verify(folder)).checks}


def failed(folder):
    return {name for name, each in checked(folder).items() if each.sure == FAILS}


@pytest.fixture
def folder(dataset, tmp_path):
    return shutil.copytree(dataset.folder, tmp_path / "data")


@pytest.fixture
def bare(folder):
    """The same as someone else would have it: without a passport."""
    (folder / "passport.json").unlink()
    return folder


def changed(path, change):
    tokens = np.array(read_shard(path))
    write_shard(path, change(tokens))


def only(folder, split):
    (path,) = folder.glob(f"{split}_*.bin")
    return path


def test_a_sound_dataset_holds_and_says_what_it_cannot_see(folder, dataset):
    found = finish(verify(folder))
    assert tuple(each.name for each in found.checks) == NAMES
    assert {each.sure for each in found.checks} == {HOLDS} and not found.failed
    assert all(each.unseen for each in found.checks)
    val, facts = found.facts["splits"]["val"], dataset.passport["splits"]["val"]
    for name in ("documents", "tokens", "token_bytes", "text_bytes", "text_sha256"):
        assert val[name] == facts[name]
    assert found.facts["overlap"] == dataset.passport["overlap"]
    rate = found.facts["bytes_per_token"]
    assert found.facts["uniform_bits_per_byte"] == pytest.approx(np.log2(320) / rate)
    assert found.facts["tokenizer_identity"] == dataset.tokenizer.identity


def test_without_a_passport_nothing_is_said_of_hashes(bare):
    found = checked(bare)
    assert found["counts and hashes"].sure == OPEN and failed(bare) == set()


def test_without_a_tokenizer_tokens_are_still_compared(bare):
    (bare / "tokenizer.bin").unlink()
    found = checked(bare)
    assert found["13-grams"].sure == found["losslessness"].sure == found["BOS"].sure == OPEN
    assert found["prefix"].sure == found["exact documents"].sure == HOLDS
    assert {*found} == {*NAMES}
    changed(only(bare, "train"), lambda tokens: np.concatenate([tokens, read_shard(only(bare, "val"))]))
    assert failed(bare) == {"runs of tokens", "exact documents"}
    changed(only(bare, "train"), lambda tokens: tokens[1:])
    assert failed(bare) == {"runs of tokens", "exact documents", "BOS"}


def in_single_bytes(folder, tokens):
    """The same text in tokens that this tokenizer would not choose."""
    tokenizer = Tokenizer.load(folder / "tokenizer.bin")
    ids = {tokenizer.piece(token): token for token in range(tokenizer.vocabulary_size)}
    part = tokens[:5000]
    pieces = [
        [token] if token == tokenizer.bos else [ids[bytes([b])] for b in tokenizer.piece(token)]
        for token in part
    ]
    return np.concatenate(pieces)


PLANTS = {
    "validation copied into training": (
        lambda folder, val: changed(only(folder, "train"), lambda t: np.concatenate([t, val])),
        {"exact documents", "runs of tokens", "13-grams"},
    ),
    "validation as a prefix of training": (
        lambda folder, val: changed(only(folder, "train"), lambda t: np.concatenate([val, t])),
        {"exact documents", "runs of tokens", "prefix", "13-grams"},
    ),
    "one shard under both names": (
        lambda folder, val: shutil.copy(only(folder, "val"), folder / "train_000001.bin"),
        {"exact documents", "runs of tokens", "files of both splits", "13-grams"},
    ),
    "no BOS": (
        lambda folder, val: changed(only(folder, "train"), lambda t: t[t != 1]),
        {"BOS"},
    ),
    "begins inside a document": (lambda folder, val: changed(only(folder, "val"), lambda t: t[5:]), {"BOS"}),
    "an empty document": (
        lambda folder, val: changed(only(folder, "val"), lambda t: np.concatenate([t[:1], t])),
        {"BOS"},
    ),
    "tokens of another tokenizer": (
        lambda folder, val: changed(only(folder, "train"), lambda t: in_single_bytes(folder, t)),
        {"tokenizer"},
    ),
}


@pytest.mark.parametrize("name", PLANTS)
def test_what_was_planted_is_found(bare, dataset, name):
    plant, expected = PLANTS[name]
    assert dataset.tokenizer.bos == 1
    plant(bare, np.array(dataset.val.all()))
    assert failed(bare) == expected


def test_against_a_passport(folder, dataset):
    changed(only(folder, "val"), lambda tokens: np.concatenate([tokens[:200], tokens[220:]]))
    assert {"counts and hashes", "losslessness"} <= failed(folder)
    shutil.copy(only(dataset.folder, "val"), only(folder, "val"))
    passport = read_json(folder / "passport.json")
    passport["splits"]["train"]["documents"] += 1
    passport["splits"]["val"]["token_bytes"] += 1
    write_json(folder / "passport.json", passport)
    assert failed(folder) == {"BOS", "bytes"}


def test_what_cannot_be_looked_into_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        finish(verify(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="shards for training and validation are needed"):
        finish(verify(tmp_path / "empty"))
    only(folder, "val").write_bytes(b"x" * 3000)
    with pytest.raises(DataError, match="not a token shard"):
        finish(verify(folder))


def test_ids_past_the_vocabulary_are_refused(bare):
    changed(only(bare, "val"), lambda tokens: np.where(tokens == tokens.max(), 999, tokens))
    with pytest.raises(DataError, match="past the vocabulary of 320"):
        finish(verify(bare))


def test_a_sample_finds_what_was_planted_and_nothing_beside_it(bare, dataset):
    clean = {each.name: each for each in finish(verify(bare, most_kept=3000)).checks}
    whole = checked(bare)
    assert {each.sure for each in clean.values()} == {each.sure for each in whole.values()}
    assert "1 of " in clean["13-grams"].found and "looked at, chosen by hash" in clean["runs of tokens"].found
    assert "looked at" not in whole["13-grams"].found + whole["runs of tokens"].found
    plant, expected = PLANTS["validation copied into training"]
    plant(bare, np.array(dataset.val.all()))
    assert {each.name for each in finish(verify(bare, most_kept=3000)).failed} == expected


@pytest.mark.parametrize("block", [7, 300, 5000])
@pytest.mark.parametrize("case_ops", [False, True])
def test_blocks_hold_what_documents_hold_one_by_one(monkeypatch, tmp_path, block, case_ops):
    """Against the slow way: each document whole, its text decoded by itself, digests in a set."""
    monkeypatch.setattr("bitgolf.corpus.blocks.BLOCK_TOKENS", block)
    texts = [f"the Cat number {n} sat ON the mat of NASA {n % 7}. ".encode() * (1 + n % 9) for n in range(60)]
    tokenizer = train_tokenizer(texts, 320, case_ops=case_ops)
    encoded = list(Encoder(tokenizer).encode_documents([*texts, texts[3]]))
    paths = [tmp_path / f"train_{n}.bin" for n in range(2)]
    tokens = np.concatenate(encoded)
    write_shard(paths[0], tokens[:1000])  # a document goes on in the next shard
    write_shard(paths[1], tokens[1000:])
    stream = TokenStream(paths)
    blocks = list(decoded(stream, tokenizer))
    assert max(len(each.values) for each in blocks) <= 40 * block  # a longer document is cut
    assert b"".join(each.values.tobytes() for each in blocks) == b"".join([*texts, texts[3]])
    digests = Digests()
    found = np.concatenate([*map(digests.update, blocks), digests.last()])
    assert found.tolist() == [
        int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in [*texts, texts[3]]
    ]
    assert b"".join(shard_documents(paths, tokenizer)) == b"".join([*texts, texts[3]])


def test_validation_is_added_before_training_is_looked_at():
    """Later numbers would be counted without those that were counted before."""
    wanted = Wanted()
    wanted.add(np.array([3, 3, 5], np.uint64))
    wanted.look(np.array([3, 4], np.uint64))
    with pytest.raises(RuntimeError, match="before training"):
        wanted.add(np.array([4], np.uint64))
    assert (wanted.different, wanted.seen, wanted.seen_with_copies) == (2, 1, 2)
    asked = Wanted()
    assert asked.different == 0
    with pytest.raises(RuntimeError):
        asked.add(np.array([4], np.uint64))


def test_blocks_of_a_public_model_drop_the_space_after_a_start(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"the cat {n} sat on the mat" for n in range(50)]),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        minloglevel=3,
    )
    tokenizer = Tokenizer(MODEL_FILE_KIND, model.getvalue())
    assert tokenizer.leading_space.any()
    ids = np.random.default_rng(0).integers(0, tokenizer.vocabulary_size, 4000)
    write_shard(tmp_path / "train_0.bin", ids)
    stream = TokenStream([tmp_path / "train_0.bin"])
    text = b"".join(each.values.tobytes() for each in decoded(stream, tokenizer))
    assert text == b"".join(shard_documents(stream.paths, tokenizer))


def test_a_document_across_blocks_is_found_without_a_tokenizer(monkeypatch, bare, dataset):
    (bare / "tokenizer.bin").unlink()
    monkeypatch.setattr("bitgolf.corpus.blocks.BLOCK_TOKENS", 50)
    assert failed(bare) == set()
    first = dataset.val.documents(1)[:2]
    one = dataset.val.read(int(first[0]), int(first[1] - first[0]))
    assert len(one) > 50
    changed(only(bare, "train"), lambda tokens: np.concatenate([tokens, one]))
    assert checked(bare)["exact documents"].sure == FAILS


def test_the_verb(bitgolf, folder, dataset):  # noqa: F811
    code, out, _ = bitgolf("data", "--verify", folder, "--json")
    found = json.loads(out)
    assert code == 0 and found["verified"] and [each["name"] for each in found["checks"]] == [*NAMES]
    changed(only(folder, "train"), lambda tokens: np.concatenate([tokens, dataset.val.all()]))
    (folder / "passport.json").unlink()
    code, out, _ = bitgolf("data", "--verify", folder)
    assert code == 1 and "failed:" in out and "validation_tokens_sha256:" in out
    refused(bitgolf("data", "--verify", folder / "none"), "no such folder")
