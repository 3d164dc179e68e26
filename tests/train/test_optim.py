"""The parameter table: who is updated by what, and what is refused."""

import pytest
import torch

from bitgolf.base.errors import CheckpointError, PlanError
from bitgolf.base.plan import from_json, members, to_json
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.train.muon import NEWTON_SCHULZ, POLAR_EXPRESS, Muon
from bitgolf.train.optim import (
    AdamRule,
    MuonRule,
    OptimPlan,
    ParameterRow,
    Rule,
    assign_parameters,
    baseline_rows,
    make_optimizers,
    public_rows,
)
from bitgolf.train.schedule import Progress

PLAN = ModelPlan(vocabulary_size=32, layers=2, width=16, heads=2, kv_heads=1)


def model_with_gradients(tied=True, seed=0):
    model = build_model(PLAN.replace(tied=tied), seed=1)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return model


def at(step, steps=1000):
    return Progress(step, steps)


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
def test_baseline_groups(tied):
    model = build_model(PLAN.replace(tied=tied))
    table = make_optimizers(OptimPlan(rows=baseline_rows(tied)), model).parameter_table()
    names = {row["pattern"]: row["names"] for row in table}
    assert names["tok_emb.weight"] == ["tok_emb.weight"]
    assert ("lm_head.weight" in names) == (not tied)
    assert len(names["blocks.*.weight"]) == 2 * 6
    kinds = ("attn_scale", "mlp_scale", "resid_mix", "attn.q_gain")
    assert set(names["*"]) == {f"blocks.{i}.{kind}" for i in (0, 1) for kind in kinds} | {"skip_weights"}
    assert [row["lr"] for row in table] == ([0.05, 0.04, 0.04] if tied else [0.6, 0.008, 0.04, 0.04])
    assert sum(row["elements"] for row in table) == sum(p.numel() for p in model.parameters())


def test_every_parameter_needs_a_row():
    rows = baseline_rows()[:2]
    with pytest.raises(PlanError, match=r"no row matches parameter 'blocks\.1\.resid_mix' with 2 dimensions"):
        make_optimizers(OptimPlan(rows=rows), build_model(PLAN))


def test_every_row_needs_a_parameter():
    model = build_model(PLAN)
    with pytest.raises(PlanError, match=r"rows\.1: pattern 'lm_head\.weight'.*names are like"):
        make_optimizers(OptimPlan(rows=baseline_rows(tied=False)), model)
    shadowed = (*baseline_rows(), ParameterRow(pattern="skip_weights"))
    with pytest.raises(PlanError, match=r"rows\.3.*rows before it already take skip_weights"):
        make_optimizers(OptimPlan(rows=shadowed), model)


def test_a_row_may_be_idle_where_it_says_so():
    idle = ParameterRow(pattern="bigram.*", rule=AdamRule(lr=0.7), may_be_idle=True)
    model, twin = model_with_gradients(), model_with_gradients()
    with_idle = make_optimizers(OptimPlan(rows=(idle, *baseline_rows())), model)
    without = make_optimizers(OptimPlan(), twin)
    assert with_idle.parameter_table() == without.parameter_table()
    for optimizers in (with_idle, without):
        optimizers.step(1.0, at(0))
    assert with_idle.momentum(at(0)) == without.momentum(at(0)) == 0.85
    assert with_idle.state().keys() == without.state().keys()
    for a, b in zip(model.parameters(), twin.parameters()):
        assert torch.equal(a, b)


def test_the_table_that_a_public_script_forgot_is_refused_by_name():
    """PR #1716: its BigramHash table was in no optimizer and stayed zero to the end."""
    parts = ("tok_emb.weight", "blocks.0.mlp.fc.weight", "bigram.embed.weight", "bigram.proj.weight")
    parameters = dict.fromkeys(parts, torch.zeros(2, 2)) | {"bigram.scale": torch.zeros(())}
    rows = (
        ParameterRow(pattern="tok_emb.weight"),
        ParameterRow(pattern="blocks.*"),
        ParameterRow(pattern="bigram.proj.weight", rule=MuonRule()),
        ParameterRow(maximum_ndim=1),
    )
    with pytest.raises(PlanError, match="no row matches parameter 'bigram.embed.weight'") as caught:
        assign_parameters(OptimPlan(rows=rows), parameters)
    assert len(caught.value.problems) == 1
    everyone = public_rows(embedding=AdamRule(), matrices=MuonRule(), rest=AdamRule())
    assert sum(map(len, assign_parameters(OptimPlan(rows=everyone), parameters))) == len(parameters)


# Every kind of parameter of the public scripts: its shape (only the number of dimensions counts) and group.
PUBLIC_PARAMETERS = {
    "embedding": {"tok_emb.weight": 2, "bigram.embed.weight": 2, "ve_shared.embed.weight": 2},
    "head": {"lm_head.weight": 2},
    "matrices": {
        **{f"blocks.1.attn.{name}.weight": 2 for name in ("c_q", "c_k", "c_v", "proj")},
        **{f"blocks.1.mlp.{name}.weight": 2 for name in ("fc", "proj")},
        **{f"{name}.weight": 2 for name in ("bigram.proj", "ve_shared.proj", "mtp_heads.0", "embed_proj")},
        "head_proj.weight": 2,
    },
    "rest": {
        **{f"blocks.1.{name}": 1 for name in ("attn_scale", "mlp_scale", "attn.q_gain", "attn.vr_lambda")},
        **{f"blocks.1.attn.{name}.weight": 2 for name in ("attn_gate_proj", "attn_gate_w")},
        **dict.fromkeys(("blocks.1.dtg_gate.weight", "smear_gate.weight", "skip_gates", "skip_weights"), 2),
        **dict.fromkeys(("blocks.1.dtg_gate.bias", "smear.gate", "bigram.scale", "ve_shared.scale"), 1),
        **dict.fromkeys(("blocks.1.resid_mix", "parallel_resid_lambdas"), 2),
        "ve_layer_scales.0": 1,
        "smear_lambda": 0,
        "parallel_post_lambdas": 3,
    },
}


def test_public_groups():
    rules = {
        "embedding": AdamRule(lr=0.1),
        "head": AdamRule(lr=0.2),
        "matrices": MuonRule(lr=0.3),
        "rest": AdamRule(lr=0.4),
    }
    expected = {name: group for group, names in PUBLIC_PARAMETERS.items() for name in names}
    parameters = {
        name: torch.zeros([1] * ndim) for names in PUBLIC_PARAMETERS.values() for name, ndim in names.items()
    }
    rows = public_rows(**rules)
    taken = assign_parameters(OptimPlan(rows=rows), parameters)
    found = {name: row.rule for row, names in zip(rows, taken) for name in names}
    assert found == {name: rules[group] for name, group in expected.items()}


@pytest.mark.parametrize("tied", [True, False])
def test_public_groups_of_the_baseline_are_its_groups(tied):
    model = build_model(PLAN.replace(tied=tied))
    rows = public_rows(
        embedding=AdamRule(lr=0.05 if tied else 0.6), matrices=MuonRule(), rest=AdamRule(lr=0.04)
    )
    tables = [make_optimizers(OptimPlan(rows=table), model) for table in (rows, baseline_rows(tied))]
    assert [row.rule for row in tables[0].rows] == [row.rule for row in tables[1].rows]
    assert tables[0].names == tables[1].names


def test_all_problems_at_once():
    rows = (ParameterRow(pattern="nothing"), ParameterRow(pattern="also_nothing"))
    with pytest.raises(PlanError) as caught:
        assign_parameters(OptimPlan(rows=rows), {"a": torch.zeros(2), "b": torch.zeros(2)})
    assert len(caught.value.problems) == 4


def test_first_match_wins_and_dimensions_count():
    rows = (
        ParameterRow(pattern="a*", minimum_ndim=2, maximum_ndim=2),
        ParameterRow(pattern="a*"),
        ParameterRow(pattern="*"),
    )
    tensors = {"a1": torch.zeros(2, 2), "a2": torch.zeros(2), "a3": torch.zeros(1, 1, 1), "b": torch.zeros(1)}
    assert assign_parameters(OptimPlan(rows=rows), tensors) == [["a1"], ["a2", "a3"], ["b"]]


def test_adam_is_torchs_adam():
    model, twin = model_with_gradients(), model_with_gradients()
    optimizers = make_optimizers(OptimPlan(rows=(ParameterRow(rule=AdamRule(lr=0.1)),)), model)
    reference = torch.optim.Adam(twin.parameters(), lr=0.05, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    for step in range(3):
        optimizers.step(0.5, at(step))
        reference.step()
    for found, wanted in zip(model.parameters(), twin.parameters()):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_decay_is_decoupled_and_follows_the_schedule():
    for rule in (AdamRule(lr=0.1, weight_decay=0.5), MuonRule(lr=0.1, weight_decay=0.5)):
        parameter = torch.nn.Parameter(torch.ones(2, 2))
        module = torch.nn.Module()
        module.register_parameter("w", parameter)
        parameter.grad = torch.zeros(2, 2)
        optimizers = make_optimizers(OptimPlan(rows=(ParameterRow(rule=rule),)), module)
        optimizers.step(1.0, at(0))
        optimizers.step(0.25, at(1))
        assert torch.allclose(parameter, torch.full((2, 2), (1 - 0.05) * (1 - 0.0125)))


@pytest.mark.parametrize(
    "path, value",
    [
        (f"rows.0.rule.{name}", value)
        for name, value in (("lr", 0.1), ("beta1", 0.5), ("beta2", 0.5), ("eps", 0.1))
    ]
    + [
        (f"rows.1.rule.{name}", value)
        for name, value in (
            ("lr", 0.1),
            ("momentum", 0.5),
            ("warmup_start", 0.5),
            ("warmup_steps", 2),
            ("backend_steps", 3),
            ("nesterov", False),
            ("weight_decay", 0.5),
            ("row_normalize", True),
            ("polar_express", True),
        )
    ]
    + [("rows.0.rule.weight_decay", 0.5)],
)
def test_every_setting_bites(path, value):
    after = []
    for plan in (OptimPlan(), OptimPlan().replace({path: value})):
        model = model_with_gradients()
        optimizers = make_optimizers(plan, model)
        for step in range(3):
            for parameter in model.parameters():
                parameter.grad = parameter.grad * 0.7 + 0.1
            optimizers.step(1.0, at(step))
        after.append(weights_of(model))
    assert any(not torch.equal(after[0][name], after[1][name]) for name in after[0])


def test_the_decay_tapers():
    """PR #1729: from 70% of the training on, linearly to half of it."""
    rule = MuonRule(weight_decay=0.1, taper_start=0.7, taper_final=0.5)
    decays = [rule.rates(1.0, at(step))["weight_decay"] for step in (0, 700, 850, 1000, 1001)]
    assert decays == pytest.approx([0.1, 0.1, 0.075, 0.05, 0.05])
    by_clock = rule.rates(1.0, Progress(1, 1000, 85.0, 100.0))["weight_decay"]
    assert by_clock == pytest.approx(0.075)
    for neutral in (rule.replace(taper_start=1.0), rule.replace(taper_final=1.0)):
        assert {neutral.rates(1.0, at(step))["weight_decay"] for step in range(1002)} == {0.1}


def test_the_taper_reaches_the_weights():
    rule = MuonRule(lr=0.1, weight_decay=0.5, taper_start=0.0, taper_final=0.0)
    module = torch.nn.Module()
    module.register_parameter("w", torch.nn.Parameter(torch.ones(2, 2)))
    module.w.grad = torch.zeros(2, 2)
    optimizers = make_optimizers(OptimPlan(rows=(ParameterRow(rule=rule),)), module)
    for step in (0, 500):
        optimizers.step(1.0, at(step))
    assert torch.allclose(module.w, torch.full((2, 2), (1 - 0.05) * (1 - 0.025)))


def test_the_iteration_that_a_rule_asks_for():
    assert MuonRule().coefficients() == (NEWTON_SCHULZ,) * 5
    assert MuonRule(backend_steps=3).coefficients() == (NEWTON_SCHULZ,) * 3
    assert MuonRule(polar_express=True, backend_steps=3).coefficients() == POLAR_EXPRESS[:3]
    assert MuonRule(polar_express=True, backend_steps=9).coefficients() == POLAR_EXPRESS


def test_momentum_of_the_step():
    optimizers = make_optimizers(OptimPlan(), build_model(PLAN))
    assert optimizers.momentum(at(250)) == pytest.approx(0.9)
    optimizers.step(1.0, at(250))  # no gradients yet: the rates are set all the same
    muon = next(o for o in optimizers.optimizers if isinstance(o, Muon))
    assert muon.param_groups[0]["momentum"] == pytest.approx(0.9)
    only_adam = make_optimizers(OptimPlan(rows=(ParameterRow(),)), build_model(PLAN))
    assert only_adam.momentum(at(250)) == 0.0


class TestState:
    def test_goes_on_where_it_was(self):
        first, second = model_with_gradients(), model_with_gradients()
        left, right = make_optimizers(OptimPlan(), first), make_optimizers(OptimPlan(), second)
        left.step(1.0, at(0))
        saved = {name: tensor.clone() for name, tensor in left.state().items()}
        assert {"tok_emb.weight/exp_avg", "blocks.0.mlp.fc.weight/momentum", "skip_weights/step"} <= set(
            saved
        )
        with torch.no_grad():
            for name, parameter in second.named_parameters():
                parameter.copy_(first.get_parameter(name))
        right.restore(saved)
        left.step(1.0, at(1))
        right.step(1.0, at(1))
        for a, b in zip(first.parameters(), second.parameters()):
            assert torch.equal(a, b)

    def test_empty_state_is_a_fresh_start(self):
        model = model_with_gradients()
        optimizers = make_optimizers(OptimPlan(), model)
        optimizers.step(1.0, at(0))
        optimizers.restore({})
        assert optimizers.state() == {}

    def test_refuses_unknown_parameters(self):
        optimizers = make_optimizers(OptimPlan(), build_model(PLAN))
        with pytest.raises(CheckpointError, match="unknown parameter"):
            optimizers.restore({"blocks.7.mlp.fc.weight/momentum": torch.zeros(1)})


def test_tables_are_settings():
    plan = OptimPlan(rows=baseline_rows(tied=False))
    assert from_json(OptimPlan, to_json(plan)) == plan
    assert plan.replace({"rows.2.rule.lr": 0.02}).identity() != plan.identity()


@pytest.mark.parametrize("member", members(Rule).values())
def test_members_have_a_card(member):
    for label in ("What:", "Source:", "Cost:", "Not for:", "Neutral:"):
        assert label in member.__doc__
