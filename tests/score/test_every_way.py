"""Every way of cutting a stream, on models that look differently far, against each window passed alone in
float64 with all its logits; and what a model longer windows, other bases and other sights come to."""

import numpy as np
import pytest
import torch

from bitgolf.catalog.probes import CHUNK, PLAIN, perturbed
from bitgolf.net.backend import Backend
from bitgolf.net.model import ModelPlan
from bitgolf.net.position import AttentionWindow, DocumentAttention, Rope
from bitgolf.score.score import ScorePlan, score
from bitgolf.score.windows import Chunked, PerDocument, Sliding
from tests.score.test_score import BOS, Bytes

PLAN = ModelPlan(vocabulary_size=257, layers=3, width=32, heads=4, kv_heads=2, bos_id=BOS)
EXACT = Backend(attention="math", dtype=torch.float64)
WINDOWS = {
    "chunked": Chunked(length=20),
    "sliding": Sliding(length=32, stride=8),
    "odd stride": Sliding(length=32, stride=5),
    "documents": PerDocument(within=Chunked(length=20)),
    "documents, sliding": PerDocument(within=Sliding(length=32, stride=8)),
    "documents, every token": PerDocument(within=Sliding(length=16, stride=1)),
}
MODELS = {
    "plain": PLAN,
    "window": PLAN.replace(scope=(AttentionWindow(tokens=7),)),
    "another window": PLAN.replace(scope=(AttentionWindow(tokens=7, evaluation_tokens=11),)),
    "all at evaluation": PLAN.replace(scope=(AttentionWindow(tokens=7, evaluation_tokens=0),)),
    "documents": PLAN.replace(scope=(DocumentAttention(),)),
    "rescaled base": PLAN.replace(position=Rope(reference_length=12, trained_length=16)),
    "trained at a rescaled base": PLAN.replace(position=Rope(reference_length=12, trained_length=64)),
}


def text() -> np.ndarray:
    stream = np.random.default_rng(3).integers(0, 256, 190).astype(np.uint16)
    stream[[0, 40, 41, 44, 150]] = BOS
    return stream


def each_window_alone(plan, windows) -> np.ndarray:
    model, tokens, nats = perturbed(plan).double().use(EXACT).eval(), text(), []
    model.window = windows.longest()
    for start, end, first in windows.windows(len(tokens), np.flatnonzero(tokens == BOS).tolist()):
        row = torch.from_numpy(tokens[start : end + 1].astype(np.int64))[None]
        with torch.inference_mode():
            logits = model.logits(row[:, :-1])[0].double()
        nats.append(-logits.log_softmax(1).gather(1, row[0, 1:, None])[first - start :, 0].numpy())
    return np.concatenate(nats)


def scored(plan, windows, backend=CHUNK, **settings) -> np.ndarray:
    model = perturbed(plan).use(backend).eval()
    return score(model, text(), Bytes(), ScorePlan(windows=windows, **settings)).nats


@pytest.mark.parametrize("name", MODELS)
def test_equals_each_window_alone_with_all_its_logits(name):
    for windows in WINDOWS.values():
        exact = each_window_alone(MODELS[name], windows)
        for backend in (PLAIN, CHUNK):
            np.testing.assert_allclose(
                scored(MODELS[name], windows, backend, batch_tokens=100), exact, rtol=0, atol=2e-5
            )
        model = perturbed(MODELS[name]).double().use(EXACT).eval()
        found = score(model, text(), Bytes(), ScorePlan(windows=windows)).nats
        np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_windows_beyond_the_trained_length_turn_by_another_base_if_asked_to():
    """#1718's EVAL_SEQ_LEN with and without NTK; no longer than training they are the same."""
    plain, rescaled = MODELS["plain"], MODELS["rescaled base"]
    for windows in (Sliding(length=12, stride=4), Chunked(length=9)):
        at_home = rescaled.replace(position=Rope(reference_length=12, trained_length=12))
        assert (scored(plain, windows) == scored(at_home, windows)).all()
    longer = Sliding(length=32, stride=8)
    assert (scored(plain, longer) != scored(rescaled, longer)).mean() > 0.9
    known = rescaled.replace(position=Rope(reference_length=12, trained_length=32))
    assert (scored(rescaled, longer) == scored(known, longer)).all()


def test_the_short_last_window_has_the_base_of_a_whole_one():
    rescaled = MODELS["rescaled base"]
    whole = Chunked(length=50)  # 189 targets: the last window has 39
    exact = each_window_alone(rescaled, whole)
    np.testing.assert_allclose(scored(rescaled, whole), exact, rtol=0, atol=2e-5)
    shorter = each_window_alone(rescaled, Chunked(length=39))
    assert np.abs(exact[150:154] - shorter[-4:]).max() > 1e-4


def test_the_window_of_attention_at_evaluation_is_the_one_that_scores():
    sliding = Sliding(length=32, stride=8)
    same, other, free = (scored(MODELS[name], sliding) for name in ("window", "another window", "plain"))
    eleven = scored(PLAN.replace(scope=(AttentionWindow(tokens=11),)), sliding)
    assert (other == eleven).all() and (other != same).mean() > 0.8
    assert (scored(MODELS["all at evaluation"], sliding) == free).all()
