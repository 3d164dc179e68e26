"""Positions: angles that do not depend on how full a window is, buckets of distances, two lanes."""

import math

import numpy as np
import pytest
import torch

from bitgolf.net.backend import Backend
from bitgolf.net.kernels import AttentionMask, chunk_attend, math_attend, sdpa_attend
from bitgolf.net.layers import TwoLanes
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.net.parts import Module
from bitgolf.net.position import Alibi, NoPosition, RelativeBuckets, Rope, distance_buckets
from bitgolf.net.route import GatedSkips, USkips
from bitgolf.recipe import DataPlan, Recipe
from bitgolf.report.sample import logits_of, next_logits
from bitgolf.score.score import ScorePlan, score
from bitgolf.score.windows import Chunked, PerDocument, Sliding
from bitgolf.text.batches import PublicOrder
from bitgolf.train.loop import Stage, TrainPlan
from tests.score.test_score import Bytes


@pytest.fixture(autouse=True)
def encoded_by_the_tokenizer_itself(monkeypatch):
    monkeypatch.setattr("bitgolf.report.sample.Encoder", lambda tokenizer: tokenizer)


class Prompted(Bytes):
    """Single bytes that a prompt can be made of."""

    vocabulary_size = 257

    def encode(self, text):
        return list(text)


TOKENIZER = Prompted()
TINY = ModelPlan(vocabulary_size=257, layers=2, width=32, heads=2, kv_heads=1)
NTK = Rope(reference_length=16)
POSITIONS = (Rope(), NTK, Rope(dims=8, reference_length=8), NoPosition(), Alibi(), RelativeBuckets(buckets=8))
WINDOWS = (Chunked(length=32), Sliding(length=32, stride=12), PerDocument(within=Chunked(length=32)))


def model_of(position, seed=3, **changes):
    """A small model whose every tensor is drawn, so that nothing is zero."""
    model = build_model(TINY.replace(position=position, **changes), seed).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=draw))
    return model


def stream(count, seed=0):
    ids = np.random.default_rng(seed).integers(0, 256, count).astype(np.uint16)
    ids[0] = TOKENIZER.bos
    return ids


@pytest.mark.parametrize("windows", WINDOWS, ids=lambda each: each.label())
@pytest.mark.parametrize("position", POSITIONS, ids=repr)
def test_a_short_text_scores_alone_as_at_the_start_of_a_longer_one(position, windows):
    model, tokens = model_of(position), stream(100)
    whole = score(model, tokens, TOKENIZER, ScorePlan(windows=windows))
    for count in (2, 7, 20, 32):
        alone = score(model, tokens[:count], TOKENIZER, ScorePlan(windows=windows))
        assert np.allclose(alone.nats, whole.nats[: count - 1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("position", POSITIONS, ids=repr)
def test_the_last_window_scores_as_if_it_were_full(position):
    model, tokens = model_of(position), stream(75)
    padded = np.concatenate([tokens, stream(21, seed=1)])
    plan = ScorePlan(windows=Chunked(length=32))
    short, full = (score(model, ids, TOKENIZER, plan).nats for ids in (tokens, padded))
    assert np.allclose(short[64:], full[64:74], rtol=0, atol=2e-5)


def test_the_base_is_that_of_the_windows_not_of_the_text():
    model, tokens = model_of(NTK), stream(20)
    nats = [
        score(model, tokens, TOKENIZER, ScorePlan(windows=Chunked(length=length))).nats for length in (32, 64)
    ]
    assert np.abs(nats[0] - nats[1]).max() > 1e-3
    assert model.window == 0, "nothing of a score is left in the model"


def test_shorter_windows_keep_the_angles_of_the_training():
    trained = NTK.trained_at(64)
    short, whole = (trained.tables(time, 0, 16, torch.device("cpu"))[0] for time in (20, 64))
    assert torch.equal(short, whole[:20])
    longer = trained.tables(20, 128, 16, torch.device("cpu"))[0]
    assert not torch.allclose(longer, short)
    base = 10000 * (128 / 16) ** (16 / 14)
    expected = torch.outer(torch.arange(20.0), base ** (-torch.arange(0, 16, 2) / 16)).cos()
    assert torch.allclose(longer, expected, atol=1e-6)


def test_a_recipe_tells_its_positions_what_it_trains_on():
    recipe = Recipe(data=DataPlan(sequence_length=64), model=TINY.replace(position=NTK))
    assert recipe.network().position == NTK.replace(trained_length=64)
    staged = recipe.replace(
        train=TrainPlan(batch_tokens=512, stages=(Stage(until=0.5, sequence_length=128),))
    )
    assert staged.network().position == NTK.replace(trained_length=128)
    plain = recipe.replace({"model.position": Rope()})
    assert plain.network() == plain.model, "what does not stretch is packed as before"
    assert recipe.data.order == PublicOrder()


@pytest.mark.parametrize("position", POSITIONS, ids=repr)
def test_samples_see_the_angles_of_scores(position):
    model, tokens = model_of(position), stream(24)
    plan = ScorePlan(windows=Chunked(length=32))
    scored = score(model, tokens, TOKENIZER, plan).nats
    model.window = 32
    logits = torch.as_tensor(next_logits(model, tokens[:-1].tolist()))
    assert -float(logits.log_softmax(-1)[int(tokens[-1])]) == pytest.approx(float(scored[-1]), abs=1e-4)
    assert next(logits_of(model, tokens[:-1].tolist(), 32)) == pytest.approx(logits.numpy(), abs=1e-4)


def test_buckets_are_those_of_the_paper():
    def plainly(distance, buckets, longest):
        exact = buckets // 2
        if distance < exact:
            return distance
        far = exact + int(math.log(distance / exact) / math.log(longest / exact) * (buckets - exact))
        return min(far, buckets - 1)

    back = torch.arange(0, 3000)
    for buckets, longest in ((32, 128), (8, 20), (5, 9), (2, 3)):
        found = distance_buckets(back, buckets, longest)
        expected = [plainly(distance, buckets, longest) for distance in back.tolist()]
        wrong = [d for d, (x, y) in enumerate(zip(found.tolist(), expected)) if x != y]
        assert len(wrong) <= 1, wrong  # a logarithm that is whole may round either way
        assert found.max() == buckets - 1 and (found.diff() >= 0).all()


@pytest.mark.parametrize("attend", [chunk_attend, sdpa_attend, math_attend])
def test_bucket_biases_are_added_and_learned_by_every_kernel(attend):
    draw = torch.Generator().manual_seed(1)
    position, time = RelativeBuckets(buckets=6, longest=10), 17
    heads = torch.randn(4 + 2 + 2, 2, time, 8, generator=draw)
    root = Module()
    root.relative_bias = torch.nn.Parameter(torch.randn(6, 4, generator=draw))
    mask = position.limit(AttentionMask(), 4, root)
    out = attend(heads, 4, mask)
    queries, keys, values = heads.transpose(0, 1).split((4, 2, 2), 1)
    keys, values = (x.repeat_interleave(2, 1) for x in (keys, values))
    places = torch.arange(time)
    back = places[:, None] - places
    bias = root.relative_bias[distance_buckets(back.clamp_min(0), 6, 10)].permute(2, 0, 1)
    scores = (queries @ keys.transpose(-1, -2) + bias).masked_fill(back < 0, -math.inf)
    expected = (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)
    assert torch.allclose(out, expected, atol=1e-5)
    weight = torch.randn(out.shape, generator=draw)
    (found,) = torch.autograd.grad((out * weight).sum(), root.relative_bias)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), root.relative_bias)
    assert torch.allclose(found, wanted, atol=1e-4) and wanted.abs().min() > 0


@pytest.mark.parametrize("leaves", ["mean", "attn", "mlp"])
@pytest.mark.parametrize("route", [USkips(), GatedSkips()], ids=["added", "gated"])
@pytest.mark.parametrize("first", [2, 3, 4])
def test_skips_join_one_lane_from_the_first_layer_with_two(route, first, leaves):
    """Written out: where lanes begin they are equal, and the skip of that layer reaches the first alone."""
    model = model_of(Rope(), layers=5, residual=TwoLanes(first=first, leaves=leaves), route=route)
    model.use(Backend())
    inputs = torch.as_tensor(stream(12).astype(np.int64))[None]
    with torch.no_grad():
        start = model.embedded(inputs)
        context = model.context(inputs, start)
        x, lanes, outputs = start, None, []
        for at, visit in enumerate(model.scoring_calls):
            if visit.layer >= first and lanes is None:
                lanes = [x, x]
            if visit.source >= 0:
                skip = model.skip_weights[visit.skip] * outputs[visit.source]
                share = 0.5
                if isinstance(route, GatedSkips):
                    share = model.skip_gates[visit.skip].sigmoid()
                    skip, own = (1 - share) * skip, share
                else:
                    own = 1.0
                if lanes is None:
                    x = own * x + skip
                else:
                    lanes[0] = own * lanes[0] + skip
            block = model.blocks[visit.layer]
            if lanes is None:
                x = block(x, context)
            else:
                a = block.attn_scale * block.attended(block.mixed_with_start(lanes[0], context), context)
                m = block.mlp_scale * block.transformed(lanes[1], context)
                keep, post = (
                    model.parallel_resid_lambdas[visit.layer],
                    model.parallel_post_lambdas[visit.layer],
                )
                lanes = [keep[i] * lanes[i] + post[0, i] * a + post[1, i] * m for i in (0, 1)]
            outputs.append(lanes[0] if lanes else x)
            assert at < 5
        end = {"mean": (lanes[0] + lanes[1]) / 2, "attn": lanes[0], "mlp": lanes[1]}[leaves]
        expected = model.kernels.norm(end)
        assert torch.allclose(model.hidden(inputs), expected, atol=1e-4)
