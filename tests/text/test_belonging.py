"""Public shards become a dataset only if they are what they say: whose tokens, which split, which order."""

import io
import os
import random

import numpy as np
import pytest
import sentencepiece

from bitgolf.base.errors import DataError, ShardError, TokenizerError
from bitgolf.corpus.belonging import share_returned
from bitgolf.corpus.build import build_dataset
from bitgolf.corpus.passport import differing_bytes
from bitgolf.corpus.sources import by_number, source_from
from bitgolf.text.encoder import Encoder, train_tokenizer
from bitgolf.text.shards import Dataset, read_shard, write_shard
from bitgolf.text.tokenizer import Tokenizer

WORDS = "the people of this nation and their government shall keep peace with all for many years".split()


def document(seed: int, count: int = 300) -> bytes:
    draw = random.Random(seed)
    chosen = (word.title() if draw.random() < 0.1 else word for word in draw.choices(WORDS, k=count))
    return " ".join(chosen).encode()


def model(seed: int, **settings) -> bytes:
    """A model file in the manner of the challenge, of 300 pieces."""
    made = io.BytesIO()
    texts = (" ".join(map(bytes.decode, [document(100 * seed + i)])) for i in range(30))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text[seed:] for text in texts),
        model_writer=made,
        vocab_size=settings.pop("vocab_size", 330),
        hard_vocab_limit=False,
        minloglevel=3,
        **{
            "model_type": "bpe",
            "byte_fallback": True,
            "pad_id": 0,
            "bos_id": 1,
            "eos_id": 2,
            "unk_id": 3,
            **settings,
        },
    )
    return made.getvalue()


def put(folder, proto: bytes, splits: dict[str, list[bytes]]) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    (folder / "tok.model").write_bytes(proto)
    tokenizer = Tokenizer.load(folder / "tok.model")
    for name, documents in splits.items():
        write_shard(
            folder / name, np.concatenate([[], *Encoder(tokenizer).encode_documents(documents)]).astype(int)
        )
    return tokenizer


def build(folder) -> Dataset:
    for _ in build_dataset(source_from(str(folder)), folder.with_name(folder.name + "-data")):
        pass
    return Dataset.open(folder.with_name(folder.name + "-data"))


DOCUMENTS = [document(seed) for seed in range(12)]
SPLITS = {"train_0.bin": DOCUMENTS[:6], "val_0.bin": DOCUMENTS[6:]}


def test_empty_shards_among_others_add_nothing(tmp_path):
    put(tmp_path / "a", model(1), {**SPLITS, "val_1.bin": [], "val_2.bin": DOCUMENTS[:2], "train_7.bin": []})
    dataset = build(tmp_path / "a")
    dataset.verify()
    parts = [read_shard(tmp_path / "a" / f"val_{place}.bin") for place in (0, 2)]
    assert (dataset.scored_tokens() == np.concatenate(parts)).all()
    assert [shard["tokens"] for shard in dataset.passport["splits"]["val"]["shards"]][1] == 0
    put(tmp_path / "b", model(1), {**SPLITS, "val_0.bin": []})
    with pytest.raises(ShardError, match=r"b/val_0\.bin: no tokens"):
        build(tmp_path / "b")


def test_shards_are_taken_by_number_whatever_its_width(tmp_path):
    names = [f"fineweb_TRAIN_{number}.bin" for number in ("2", "010", "9", "00000011")]
    put(tmp_path / "a", model(1), {n: [d] for n, d in zip(names, DOCUMENTS)} | {"val_0.bin": DOCUMENTS[6:]})
    tokenizer = build(tmp_path / "a").tokenizer
    train = build_again(tmp_path / "a").train
    order = [DOCUMENTS[0], DOCUMENTS[2], DOCUMENTS[1], DOCUMENTS[3]]
    assert (train.all() == np.concatenate(list(Encoder(tokenizer).encode_documents(order)))).all()
    assert sorted(map(type(tmp_path), ["a10", "a9", "a", "b1"]), key=by_number) == [
        type(tmp_path)(name) for name in ("a", "a9", "a10", "b1")
    ]


def build_again(folder) -> Dataset:
    return Dataset.open(folder.with_name(folder.name + "-data"))


def test_a_name_that_says_both_splits_is_refused_and_one_that_says_neither_is_named(tmp_path):
    put(tmp_path / "a", model(1), {**SPLITS, "other.bin": DOCUMENTS[:1]})
    assert build(tmp_path / "a").passport["notes"] == [
        "1 of the files in a are left out: other.bin (neither train nor val in its name)"
    ]
    put(tmp_path / "b", model(1), {**SPLITS, "interval_train_1.bin": DOCUMENTS[:1]})
    with pytest.raises(DataError, match="says both train and val .*interval_train_1"):
        build(tmp_path / "b")


def test_shards_of_another_tokenizer_are_refused_whatever_its_size(tmp_path):
    made = put(tmp_path / "a", model(1), SPLITS)
    others = [
        model(2),
        model(1, normalization_rule_name="identity", split_by_number=False, max_sentencepiece_length=4),
        train_tokenizer(DOCUMENTS, made.vocabulary_size).to_bytes(),
    ]
    assert "notes" not in build(tmp_path / "a").passport
    for place, other in enumerate(others):
        folder = tmp_path / f"other-{place}"
        put(folder, model(1), SPLITS)
        (folder / "tok.model").write_bytes(other)
        with pytest.raises(TokenizerError, match="this tokenizer did not make these shards .*% of sampled"):
            build(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"add_dummy_prefix": False},
        {"byte_fallback": False, "character_coverage": 0.99, "vocab_size": 120},
        {"bos_id": -1},
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        {"normalization_rule_name": "nfkc_cf"},
    ],
)
def test_normalising_tokenizers_get_their_own_shards_back(tmp_path, settings):
    odd = "  double  spaces, \ufb01ve \u2460 \u2581 n\u0308 \U0001f600 \u200b\n\n tabs\t\u00a0 end "
    documents = [each + odd.encode() * (place % 9 == 0) for place, each in enumerate(DOCUMENTS * 3)]
    tokenizer = put(tmp_path / "a", model(1, **settings), {"x.bin": documents})
    assert share_returned([tmp_path / "a" / "x.bin"], tokenizer) > 0.97


def test_a_pipe_for_a_shard_or_a_model_is_not_waited_for(tmp_path):
    for name, message in (("val_0.bin", "not a regular file"), ("tok.model", "tok.model: not a file")):
        folder = tmp_path / name[:3]
        put(folder, model(1), SPLITS)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(DataError, match=message):
            build(folder)


def test_unknown_tokens_are_counted_before_training(tmp_path):
    emoji = "\U0001f600\U0001f601 \U0001f602".encode()
    known = {**SPLITS, "val_0.bin": [DOCUMENTS[7] + b" " + emoji, DOCUMENTS[8]]}
    proto = model(1, byte_fallback=False, vocab_size=120)
    tokenizer = put(tmp_path / "a", proto, known)
    passport = build(tmp_path / "a").passport
    unknown = int((read_shard(tmp_path / "a" / "val_0.bin") == tokenizer.unknown).sum())
    assert unknown and passport["splits"]["val"]["unknown_tokens"] == unknown
    assert "unknown_tokens" not in passport["splits"]["train"]
    assert passport["notes"][-1].startswith(f"val: {unknown} tokens (") and "lost" in passport["notes"][-1]
    put(tmp_path / "b", proto, {**SPLITS, "val_0.bin": [emoji.replace(b" ", b"")] * 50})
    with pytest.raises(
        DataError, match="stand for no bytes, so nothing can be scored .*50 of 150 tokens are unk"
    ):
        build(tmp_path / "b")


def test_a_token_past_the_vocabulary_is_named_with_its_shard_and_place(tmp_path):
    put(tmp_path / "a", model(1), {**SPLITS, "val_3.bin": DOCUMENTS[:1]})
    tokens = read_shard(tmp_path / "a" / "val_3.bin").copy()
    tokens[17] = 9999
    write_shard(tmp_path / "a" / "val_3.bin", tokens)
    with pytest.raises(DataError, match=r"a/val_3\.bin, token 17: a token is past the vocabulary .*9999"):
        build(tmp_path / "a")


def test_a_lossy_tokenizer_on_a_known_text_says_how_many_bytes_differ(tmp_path):
    (tmp_path / "texts").mkdir()
    for place, each in enumerate(DOCUMENTS):
        (tmp_path / "texts" / f"{place}.txt").write_bytes(each + "  \U0001f600\u2460".encode())
    (tmp_path / "m.model").write_bytes(model(1))
    source = source_from(str(tmp_path / "texts"))
    for _ in build_dataset(source, tmp_path / "data", tokenizer=tmp_path / "m.model"):
        pass
    passport = Dataset.open(tmp_path / "data").passport
    facts = passport["splits"]["val"]
    assert facts["differing_bytes"] == facts["documents"] * 4  # a space, and three bytes that became one
    assert passport["notes"][-1] == (
        f"val: lossy: {facts['differing_bytes']} of {facts['text_bytes']:,} bytes differ"
    )


def test_differing_bytes_by_hand():
    assert differing_bytes(b"same", b"same") == differing_bytes(b"", b"") == 0
    assert differing_bytes(b"abc", b"") == differing_bytes(b"", b"abc") == 3
    assert differing_bytes("a\u2581b".encode(), b"a b") == 3
    assert differing_bytes(b"a  b", b"a b") == 1
    assert differing_bytes(b"ab", b"ba") == 1
