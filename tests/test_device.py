"""Paths of a GPU, checked without one: host and device do not mix, and a step waits for the device once."""

import sys
from collections import Counter

import pytest
import torch

import bitgolf.score.score as scorer
from bitgolf.adapt.documents import LoraDocuments
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.events import finish
from bitgolf.forecast.laptop import laptop
from bitgolf.forecast.speed import RandomBatches
from bitgolf.inputs.resolve import find_recipe
from bitgolf.mix.match import LongestMatch
from bitgolf.mix.nearest import NearestStates
from bitgolf.net.kernels import PlainKernels
from bitgolf.net.model import build_model
from bitgolf.recipes import recipe_names
from bitgolf.score.chained import Chained
from bitgolf.score.score import ScorePlan, scoring
from bitgolf.score.windows import Chunked, Growing, PerDocument, Sliding
from bitgolf.squeeze.hessian import TrainText
from bitgolf.squeeze.quantize import TuningTask
from bitgolf.squeeze.tune import TuneControls
from bitgolf.train.average import Ema, Swa
from bitgolf.train.loop import State, train
from bitgolf.train.optim import make_optimizers
from bitgolf.train.qat import LateNoise
from tests.pretend_device import DEVICE, MixedError, ShapeByValueError, Watch, on_device

LOSS = "train/loop.py:gradients_of"  # loss and length of the gradient decide whether there is an update
LEARNT = "adapt/learner.py:shared_gradients"  # the length of the gradient does, when scored text is learnt


@pytest.fixture(autouse=True)
def fused_adam(monkeypatch):
    """Torch has fused Adam for devices that it knows by name; the operation itself is there."""
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *_: None)


def small(name):
    """A shipped recipe at the size of a laptop, all that comes late in its training at once."""
    recipe = find_recipe(name)
    recipe = recipe if name == "demo" else laptop(recipe)
    if isinstance(recipe.noise, LateNoise):
        recipe = recipe.replace(noise=recipe.noise.replace(from_progress=0.0, under_scale=0.0))
    return recipe


def steps_of(recipe, watch, average=None, state=None, steps=1):
    """The last state after so many steps on the device, each of one sequence a micro-batch."""
    length = recipe.data.sequence_length
    ends = {"steps": steps, "train_seconds": 0.0, "tokens": 0, "priming_steps": 0, "stages": ()}
    plan = recipe.train.replace(**ends, batch_tokens=recipe.train.micro_batches(1) * length)
    model = build_model(recipe.network()).use(on_device())
    with watch:
        reports = train(
            model,
            plan,
            make_optimizers(recipe.optim, model, None, torch.bfloat16),
            average or recipe.average,
            RandomBatches(recipe.model.vocabulary_size, length),
            state=state,
            noise=recipe.noise,
            quantize=recipe.quantize,
        )
        return list(reports)[-1].state


QUICK = ("baseline", "frontier", "pr543")  # these have nearly all parts; the others take half a minute


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in recipe_names()]
)
def test_the_step_of_every_recipe_stays_on_the_device_and_waits_once(name):
    watch = Watch()
    state = steps_of(small(name), watch)
    assert watch.waits == [LOSS]
    assert watch.operations > 500
    assert {tensor.device for tensor in state.weights.values()} == {DEVICE}


@pytest.mark.parametrize("average", [Ema(decay=0.9), Swa(every=1, start_scale=1.0)])
def test_a_training_that_goes_on_waits_no_more_often(average, recipe, tmp_path):
    recipe = recipe.replace({"train.steps": 2})
    path, watch = tmp_path / "state", Watch()
    state = steps_of(recipe, Watch(), average, steps=4)
    assert state.averaged
    with Watch():
        state.save(path)
    steps_of(recipe, watch, average, State.load(path, ""), steps=8)
    assert watch.waits == [LOSS] * 4


def score_on_device(recipe, dataset, plan, monkeypatch):
    """Where scoring waits for the device; the referee, who compares what he read, is not asked."""
    monkeypatch.setattr(scorer, "COARSE_TOLERANCE", float("inf"))
    model, watch = build_model(recipe.network()).use(on_device()).eval(), Watch()
    tokens = dataset.scored_tokens()[:700]
    with watch:
        finish(scoring(model, tokens, dataset.tokenizer, plan))
    return Counter(watch.waits)


GLOBALLY = ScoreFirst(chunk_tokens=256, epochs=1)
APART = PerDocument(within=Growing(length=256, stride=128))
SLIDING = Sliding(length=32, stride=16)
READ = "score/score.py:_answer"  # the scores of a batch, and what is asked of one of them
REFEREE = "score/score.py:_check_distribution"
MIXED = "score/mixer.py:nats"  # mixers count on the host


@pytest.mark.parametrize(
    ("plan", "waits"),
    [
        (ScorePlan(windows=Chunked(length=32)), {READ, REFEREE}),
        (ScorePlan(windows=SLIDING), {READ, REFEREE}),
        (ScorePlan(windows=Chained()), {READ, REFEREE}),
        (ScorePlan(windows=SLIDING, adapter=GLOBALLY), {READ, REFEREE, LEARNT}),
        pytest.param(
            ScorePlan(windows=APART, adapter=LoraDocuments()),
            {READ, REFEREE, "adapt/documents.py:pull"},
            marks=pytest.mark.slow,
        ),
        (ScorePlan(windows=SLIDING, mixers=(LongestMatch(), NearestStates())), {MIXED}),
    ],
    ids=lambda value: value.label() if isinstance(value, ScorePlan) else "",
)
def test_scoring_waits_only_where_it_reads(plan, waits, recipe, dataset, monkeypatch):
    found = score_on_device(recipe, dataset, plan, monkeypatch)
    assert set(found) == waits


@pytest.mark.parametrize("name", ["demo", "pr488"])
def test_calibration_ends_on_the_cpu(name, recipe, dataset):
    recipe = recipe.replace({"model": small(name).model.replace(vocabulary_size=320)})
    model, watch = build_model(recipe.network()).use(on_device()).eval(), Watch()
    names = [name for name, tensor in model.named_parameters() if tensor.ndim == 2 and "mix" not in name]
    names = [name for name in names if name.endswith("weight") and "gate" not in name]
    with watch:
        found = TrainText(outputs=True).gather(names, model, dataset.train, 32, trial=True)
    tensors = [part for each in found.values() for part in each if isinstance(part, torch.Tensor)]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_tuning_stays_on_the_device_until_its_end(recipe, dataset):
    models = [build_model(recipe.network()).use(on_device()).eval() for _ in range(2)]
    names = [name for name, tensor in models[0].named_parameters() if tensor.ndim == 1]
    watch = Watch()
    with watch:
        task = TuningTask(*models, names, lambda *_: models[1].state_dict(), dataset.train, 32)
        finish(TuneControls(steps=2).tune(task))
    assert watch.waits == ["squeeze/tune.py:<dictcomp>"] * len(names)


def test_a_table_of_the_host_in_the_step_is_found(recipe, monkeypatch):
    norm = PlainKernels.norm
    monkeypatch.setattr(
        "bitgolf.net.kernels.FusedKernels.norm",
        lambda self, x, factor=1.0: norm(self, x, factor) * torch.ones(x.shape[-1]),
    )
    with pytest.raises(MixedError, match="cpu"):
        steps_of(recipe, Watch())


def test_a_loss_that_is_read_in_between_is_found(recipe, monkeypatch):
    nats = PlainKernels.nats

    def read(self, hidden, weight, targets, cap):
        found = nats(self, hidden, weight, targets, cap)
        return found if found.sum().item() else found

    monkeypatch.setattr("bitgolf.net.kernels.FusedKernels.nats", read)
    watch = Watch()
    steps_of(recipe, watch)
    assert len(watch.waits) > 1


def test_a_shape_that_hangs_on_values_is_found(recipe, monkeypatch):
    relu = PlainKernels.relu_squared
    monkeypatch.setattr(
        "bitgolf.net.kernels.FusedKernels.relu_squared",
        lambda self, x: relu(self, x) + x[x > 0].sum(),
    )
    with pytest.raises(ShapeByValueError, match=r"index"):
        steps_of(recipe, Watch())
