import json

import numpy as np
import pytest
import torch

from bitgolf.base.errors import DataError
from bitgolf.net.backend import Backend
from bitgolf.net.model import Model, ModelPlan, build_model
from bitgolf.score.metric import summary
from bitgolf.score.score import ScorePlan, Scores, score, scoring
from bitgolf.score.windows import Chunked, PerDocument, Sliding
from bitgolf.text.encoder import Encoder, train_tokenizer

BOS = 256


class Bytes:
    """A tokenizer of single bytes, with a document start."""

    bos = BOS
    lossless = True

    def token_bytes(self, targets, previous):
        return (np.asarray(targets) < BOS).astype(np.int64)

    def decode(self, ids):
        return bytes(int(i) for i in ids if i < BOS)


def make_model() -> Model:
    """Small, and far from its quiet initial state, so that context matters."""
    plan = ModelPlan(vocabulary_size=257, layers=2, width=32, heads=4, kv_heads=2)
    model = build_model(plan)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return model


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    stream = np.random.default_rng(3).integers(0, 256, 230).astype(np.uint16)
    stream[[0, 40, 41, 170]] = BOS
    return stream


def plan(windows, **fields) -> ScorePlan:
    return ScorePlan(windows=windows, **fields)


SLIDING = Sliding(length=32, stride=8)


@pytest.mark.parametrize("windows", [Chunked(length=32), SLIDING, PerDocument(within=SLIDING)])
def test_equals_scoring_each_window_alone(model, tokens, windows):
    nats = []
    for window in windows.windows(len(tokens), np.flatnonzero(tokens == BOS)):
        row = torch.from_numpy(tokens[window.start : window.end + 1].astype(np.int64))[None]
        with torch.no_grad():
            nats += model.nats(row[:, :-1], row[:, 1:])[0, window.first_scored - window.start :].tolist()
    scores = score(model, tokens, Bytes(), plan(windows, batch_tokens=100))
    np.testing.assert_allclose(scores.nats, nats, rtol=1e-5, atol=1e-5)
    assert scores.complete
    assert (scores.target == tokens[1:]).all()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_batch_size_does_not_change_the_score(tokens, dtype, tolerance):
    model = make_model().use(Backend(dtype=dtype))
    one, many, uneven = (
        score(model, tokens, Bytes(), plan(SLIDING, batch_tokens=size)).nats for size in (1, 16 * 32, 7 * 32)
    )
    np.testing.assert_allclose(one, many, rtol=0, atol=tolerance)
    np.testing.assert_allclose(uneven, many, rtol=0, atol=tolerance)
    assert one.mean() == pytest.approx(many.mean(), rel=tolerance / 50)


def test_columns(model, tokens):
    scores = score(model, tokens, Bytes(), plan(SLIDING), file_bytes=226)
    starts = [0, 40, 41, 170, 230]
    document = np.repeat(np.arange(4), np.diff(starts))[:-1]
    assert (scores.document == document).all()
    assert (scores.position == np.arange(229) - np.array(starts)[document]).all()
    assert (scores.bytes == (tokens[1:] < BOS)).all()
    assert scores.context[:32].tolist() == list(range(1, 33))
    assert scores.context[32:].tolist() == (list(range(25, 33)) * 25)[: 229 - 32]
    assert scores.file_bytes == 226


def test_context_bites(model, tokens):
    chunked = score(model, tokens, Bytes(), plan(Chunked(length=32)))
    sliding = score(model, tokens, Bytes(), plan(SLIDING))
    assert sliding.context.mean() > chunked.context.mean()
    assert (sliding.nats[32:] != chunked.nats[32:]).mean() > 0.7
    same = score(model, tokens, Bytes(), plan(Sliding(length=32, stride=32)))
    assert (same.nats == chunked.nats).all()


def test_no_score_sees_what_comes_later(model, tokens):
    before = score(model, tokens, Bytes(), plan(SLIDING)).nats
    for place in (1, 33, 100, 229):
        changed = tokens.copy()
        changed[place:] = (changed[place:] + 7) % 256
        after = score(model, changed, Bytes(), plan(SLIDING)).nats
        np.testing.assert_allclose(after[: place - 1], before[: place - 1], rtol=0, atol=1e-5)
        assert abs(after[place - 1] - before[place - 1]) > 1e-3


def test_documents_alone_do_not_leak(model, tokens):
    isolated = plan(PerDocument(within=SLIDING))
    changed = tokens.copy()
    changed[100:170] = (changed[100:170] + 7) % 256
    before, after = (score(model, stream, Bytes(), isolated) for stream in (tokens, changed))
    third = before.document == 3
    assert (before.nats[third] == after.nats[third]).all()
    flat = [score(model, stream, Bytes(), plan(SLIDING)).nats[third] for stream in (tokens, changed)]
    assert (flat[0] != flat[1]).any()


def test_bytes_that_are_unaccounted_for_are_refused(model, tokens):
    with pytest.raises(DataError, match="do not account for the bytes.*226 of 227 bytes"):
        score(model, tokens, Bytes(), plan(SLIDING), file_bytes=227)


def test_every_byte_of_a_real_text_is_accounted_for():
    documents = [b"one  two\n\nthree " * 20, "naïve \u2581 €\0".encode() * 9, b"\xff\xfe\x80", b""]
    tokenizer = train_tokenizer(documents, 290)
    stream = np.concatenate(list(Encoder(tokenizer).encode_documents(documents)))
    model = build_model(ModelPlan(vocabulary_size=290, layers=2, width=16, heads=2, kv_heads=1))
    size = sum(map(len, documents))
    scores = score(model, stream, tokenizer, plan(SLIDING), file_bytes=size)
    assert scores.bytes.sum() == size
    assert summary(scores)["bits_per_byte"] == pytest.approx(
        np.log2(290) * (len(stream) - 1) / size, rel=0.02
    )
    with pytest.raises(DataError, match="do not account"):
        score(model, stream[1:], tokenizer, plan(SLIDING), file_bytes=size + 1)


def lossy_bytes(bos: int = BOS) -> Bytes:
    tokenizer = Bytes()
    tokenizer.lossless, tokenizer.bos, tokenizer.unknown = False, bos, -1
    return tokenizer


def test_a_text_given_back_but_counted_otherwise_keeps_both_denominators(model, tokens):
    scores = score(model, tokens, lossy_bytes(), plan(SLIDING), file_bytes=240, differing_bytes=0)
    assert (scores.file_bytes, scores.bytes.sum(), scores.loss) == (240, 226, "")
    figures = summary(scores)
    assert (figures["text_bytes"], figures["file_bytes"]) == (226, 240) and "lossy" not in figures
    bits = figures["bits_per_byte"] * 226 / 240
    assert figures["bits_per_file_byte"] == pytest.approx(bits)


@pytest.mark.parametrize(
    ("file_bytes", "differing", "counted", "words"),
    [
        (240, None, 226, "14 of 240 bytes differ"),
        (240, 20, 226, "20 of 240 bytes differ"),
        (226, 9, 226, "9 of 226 bytes differ"),
        (200, None, 200, "26 of 200 bytes differ"),
        (200, 0, 200, None),
        (226, None, 226, None),
    ],
)
def test_lost_bytes_are_said_and_never_counted(model, tokens, file_bytes, differing, counted, words):
    """The headline counts at most the bytes of the file; no figure for a byte of a file that was changed."""
    scores = score(model, tokens, lossy_bytes(), plan(SLIDING), file_bytes, differing)
    figures = summary(scores)
    assert figures.get("lossy") == words and figures["text_bytes"] == counted
    assert figures["bits_per_byte"] == pytest.approx(scores.nats.sum() / np.log(2) / counted)
    assert "bits_per_file_byte" not in figures
    assert figures.get("file_bytes") == (file_bytes if file_bytes != counted else None)


def test_unknown_tokens_are_said_of_a_part_too(model, tokens):
    tokenizer = lossy_bytes()
    tokenizer.unknown = int(tokens[5])
    for limit, count in (
        (0, int((tokens[1:] == tokens[5]).sum())),
        (9, int((tokens[1:10] == tokens[5]).sum())),
    ):
        scores = score(model, tokens, tokenizer, plan(SLIDING, limit_tokens=limit), file_bytes=226)
        assert summary(scores)["lossy"] == f"{count} of {len(scores.nats)} tokens are unknown"


def test_the_first_token_of_a_text_without_a_document_start_has_no_figure_per_file_byte(model, tokens):
    bare = tokens[tokens != BOS]
    for tokenizer in (lossy_bytes(-1), Bytes()):
        scores = score(model, bare, tokenizer, plan(SLIDING), file_bytes=226, differing_bytes=0)
        figures = summary(scores)
        assert figures["lossy"] == "the first token, 1 of 226 bytes, has no score"
        assert (figures["text_bytes"], figures["file_bytes"]) == (225, 226)
        assert "bits_per_file_byte" not in figures


def test_limit_names_the_score_partial(model, tokens):
    whole = score(model, tokens, Bytes(), plan(SLIDING))
    part = score(model, tokens, Bytes(), plan(SLIDING, limit_tokens=48), file_bytes=226)
    assert part.windows == "sliding 32/8, first 48 tokens only (partial)"
    assert (whole.complete, part.complete, part.file_bytes) == (True, False, None)
    np.testing.assert_allclose(part.nats, whole.nats[: 32 + 16], rtol=1e-5)
    unlimited = score(model, tokens, Bytes(), plan(SLIDING, limit_tokens=10**6))
    assert (unlimited.windows, unlimited.complete) == ("sliding 32/8", True)


@pytest.mark.parametrize("limit", [1, 7, 48, 51, 228])
def test_a_limit_is_the_same_text_whatever_the_windows(model, tokens, limit):
    cuts = (SLIDING, Chunked(length=16), Sliding(length=64, stride=64), PerDocument(within=SLIDING))
    parts = [score(model, tokens, Bytes(), plan(cut, limit_tokens=limit)) for cut in cuts]
    assert {len(part.nats) for part in parts} == {limit}
    assert {part.tokens_sha256 for part in parts} == {parts[0].tokens_sha256}
    assert not any(part.complete for part in parts)


def test_dropped_tail_is_not_complete(model, tokens):
    scores = score(model, tokens, Bytes(), plan(Chunked(length=32, tail=False)))
    assert (len(scores.nats), scores.complete) == (229 // 32 * 32, False)


def test_progress_adds_up(model, tokens):
    steps = list(scoring(model, tokens, Bytes(), plan(SLIDING, batch_tokens=64)))
    done = [scored for scored, _ in steps]
    assert done == sorted(set(done))
    assert steps[-1] == (229, 229)


@pytest.mark.parametrize("stream", [[], [BOS]])
def test_too_few_tokens(model, stream):
    with pytest.raises(DataError, match="too few tokens"):
        score(model, np.array(stream, np.uint16), Bytes(), plan(SLIDING))


def test_save_and_load(model, tokens, tmp_path):
    path = tmp_path / "scores.npz"
    scores = score(model, tokens, Bytes(), plan(SLIDING), file_bytes=226)
    scores.save(path)
    loaded = Scores.load(path, scores.tokens_sha256)
    for field in vars(scores):
        np.testing.assert_array_equal(getattr(loaded, field), getattr(scores, field), strict=True)
    with pytest.raises(DataError, match="other tokens"):
        Scores.load(path, "0" * 64)


def test_damaged_files_are_refused(model, tokens, tmp_path):
    path = tmp_path / "scores.npz"
    score(model, tokens, Bytes(), plan(SLIDING)).save(path)
    with np.load(path) as file:
        columns = dict(file)
    older = {key: fact for key, fact in json.loads(str(columns["facts"])).items() if key != "loss"}
    np.savez(path, **{**columns, "facts": np.array(json.dumps(older))})
    assert Scores.load(path).loss == ""
    damages = {
        "other tokens": {"target": columns["target"][::-1]},
        "column 'bytes'": {"bytes": columns["bytes"][:-1]},
        "column 'nats'": {"nats": columns["nats"].astype(np.float64)},
        "not a scores file": {"document": np.array([{}], dtype=object)},
        "not a scores file: 'windows'": {"facts": np.array("{}")},
    }
    for message, damage in damages.items():
        np.savez(path, **{**columns, **damage})
        with pytest.raises(DataError, match=message):
            Scores.load(path)
    for data in (b"", b"PK\x03\x04", b"hello"):
        path.write_bytes(data)
        with pytest.raises(DataError, match="not a scores file"):
            Scores.load(path)
    with pytest.raises(DataError, match="no such file"):
        Scores.load(tmp_path / "none.npz")
