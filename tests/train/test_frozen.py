"""Tensors that a row of the table freezes: exactly their start whatever is done, and no other bit moves."""

import pytest
import torch

from bitgolf.base.errors import PlanError
from bitgolf.forecast.budget import memory_bytes, parameter_shapes
from bitgolf.forecast.weight_model import ExpectedWeights
from bitgolf.net.embed import BigramHash
from bitgolf.net.model import build_model, keyed_generator
from bitgolf.net.values import ValueEmbedding
from bitgolf.recipe import DataPlan, Recipe
from bitgolf.squeeze.quantize import int6_rows
from bitgolf.train.average import Ema, LateEma, Latest, NoAverage, Swa, SwaCount
from bitgolf.train.loop import State
from bitgolf.train.optim import (
    AdamRule,
    Frozen,
    MuonRule,
    OptimPlan,
    ParameterRow,
    make_optimizers,
    public_rows,
)
from bitgolf.train.qat import FakeQuantize, NoNoise
from bitgolf.train.schedule import Constant
from tests.small_training import MODEL, PLAN, start, tensors_of

FROZEN = ("bigram.embed.weight", "ve_shared.embed.weight", "ve_shared.proj.weight")
PLAIN = public_rows(embedding=AdamRule(lr=0.02), matrices=MuonRule(lr=0.02), rest=AdamRule(lr=0.02))
SHAPE = MODEL.replace(
    embed=(BigramHash(buckets=40, dimension=8),),
    values=(ValueEmbedding(dimension=8, layers=(1,), std=1.0, shared_scale=False, zero_projection=False),),
)


def table(rule=None):
    """The public rows behind rows that freeze, or that have another rule."""
    rows = (ParameterRow(pattern="bigram.embed.weight", rule=rule or Frozen()),)
    rows += (ParameterRow(pattern="ve_shared.*.weight", rule=rule or Frozen()),)
    return OptimPlan(rows=(*rows, *PLAIN), schedule=Constant())


def model_with_a_table():
    """A model whose bigram table is not zero, so that something comes of it."""
    model = build_model(SHAPE, seed=1)
    with torch.no_grad():
        model.bigram.embed.weight.normal_(0, 1.0, generator=keyed_generator(1, "table"))
    return model


def trained(folder, optim, **settings):
    """The tensors before and after a training, and its last report."""
    model = model_with_a_table()
    before = tensors_of(model)
    _, optimizers, reports = start(folder, settings.pop("plan", PLAN), model=model, optim=optim, **settings)
    *_, last = reports
    return before, tensors_of(model), last, optimizers


@pytest.mark.parametrize(
    "average",
    [NoAverage(), Ema(decay=0.9), LateEma(start_fraction=0.1), Swa(every=2, start_scale=1.0),
     SwaCount(checkpoints=3, guard=0.0), Latest(snapshots=3, every=2)],
    ids=lambda average: type(average).__name__,
)  # fmt: skip
def test_they_are_their_start_to_the_bit_live_and_averaged(average, tmp_path):
    noise = FakeQuantize(patterns=("*",))
    plan = PLAN.replace(priming_steps=3, grad_clip_norm=0.3)
    before, after, last, _ = trained(
        tmp_path, table(), plan=plan, average=average, noise=noise, quantize=int6_rows()
    )
    averaged = average.weights(last.state.averaged, after)
    for name in before:
        assert torch.equal(before[name], after[name]) == (name in FROZEN or name == "ve_scales.0"), name
        assert name not in FROZEN or torch.equal(averaged[name], before[name])


@pytest.mark.parametrize("noise", [NoNoise(), FakeQuantize(patterns=("blocks.*.weight",))])
def test_all_others_are_trained_as_beside_a_rule_that_moves_nothing(noise, tmp_path):
    found = trained(tmp_path, table(), noise=noise, quantize=int6_rows())[1]
    expected = trained(tmp_path, table(AdamRule(lr=0.0)), noise=noise, quantize=int6_rows())[1]
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_they_have_no_gradient_and_no_share_in_its_length(tmp_path):
    model = model_with_a_table()
    _, optimizers, reports = start(tmp_path, PLAN, model=model, optim=table())
    first = next(iter(reports))
    gradients = {name: tensor.grad for name, tensor in model.named_parameters()}
    assert all(gradients[name] is None for name in FROZEN)
    others = torch.stack([each.norm() for each in gradients.values() if each is not None]).norm()
    assert first.gradient_norm == pytest.approx(others.item(), rel=1e-6)
    moving = next(iter(start(tmp_path, PLAN, model=model_with_a_table(), optim=table(AdamRule(lr=0.0)))[2]))
    assert moving.gradient_norm > first.gradient_norm
    assert not any(key.startswith(FROZEN) for key in optimizers.state())


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    _, expected, _, _ = trained(tmp_path, table(), plan=PLAN.replace(grad_clip_norm=0.3))
    plan = PLAN.replace(grad_clip_norm=0.3)
    _, _, reports = start(tmp_path, plan, model=model_with_a_table(), optim=table())
    for report in reports:
        if report.step == 7:
            report.state.save(tmp_path / "state")
            break
    model = build_model(SHAPE, seed=2)
    saved = State.load(tmp_path / "state", "small")
    for _ in start(tmp_path, plan, model=model, optim=table(), state=saved)[2]:
        pass
    for name, tensor in tensors_of(model).items():
        assert torch.equal(tensor, expected[name]), name


def test_only_a_row_freezes_and_the_table_says_so():
    model = build_model(SHAPE)
    with pytest.raises(PlanError) as caught:
        make_optimizers(OptimPlan(rows=PLAIN[:1]), model)
    assert any("no row matches parameter 'bigram.embed.weight'" in each for each in caught.value.problems)
    rows = make_optimizers(table(), build_model(SHAPE)).parameter_table()
    frozen = [row for row in rows if row["rule"] == "Frozen"]
    assert [name for row in frozen for name in row["names"]] == list(FROZEN)
    assert all(row["lr"] == 0.0 for row in frozen)
    with pytest.raises(PlanError, match="every parameter is frozen"):
        make_optimizers(OptimPlan(rows=(ParameterRow(rule=Frozen()),)), build_model(SHAPE))


def test_a_forecast_knows_that_they_stay():
    recipe = Recipe(model=SHAPE, optim=table(), train=PLAN, data=DataPlan(sequence_length=16))
    expected = ExpectedWeights(recipe)
    assert not expected.sample("bigram.embed.weight", 1000).any()
    assert expected.sample("ve_shared.embed.weight", 1 << 20).std().item() == pytest.approx(1.0, rel=0.05)
    shapes = parameter_shapes(SHAPE)
    freed = memory_bytes(recipe.replace(optim=table(AdamRule())), shapes) - memory_bytes(recipe, shapes)
    assert freed == 4 * 3 * (40 * 8 + 64 * 8 + 16 * 8)  # a gradient and two moments of each
