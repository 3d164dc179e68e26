"""Layers passed again with MLPs of their own: against the layers written out, and when they part."""

import re

import pytest
import torch

from bitgolf.base.errors import PlanError
from bitgolf.net.layers import LnScale, TwoLanes
from bitgolf.net.mlp import GatedMlp
from bitgolf.net.model import ModelPlan, build_model, parameter_shapes
from bitgolf.net.route import GatedSkips, Looped, Plain
from bitgolf.public.checkpoints import (
    ATTENTION,
    MATRICES,
    as_weights,
    first_attention_at_rest,
    infer_model_plan,
    lacks_first_attention,
    matrix_of,
    passes_again,
    passes_apart,
)
from bitgolf.public.streams import PublicFileError
from bitgolf.recipes.baseline import baseline
from bitgolf.script.flatten import flatten
from bitgolf.squeeze.presets import MLP

BASE = ModelPlan(vocabulary_size=96, layers=4, width=48, heads=4, kv_heads=2, route=Plain())
LOOP = Looped(first=1, last=2, loops=2, untied=True)
IDS = torch.randint(2, 95, (2, 21), generator=torch.Generator().manual_seed(5))
INPUTS, TARGETS = IDS[:, :-1], IDS[:, 1:]


def shaken(plan, seed=1):
    model = build_model(plan, seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.1 * torch.randn(tensor.shape, generator=draw)
    return model


def nats(model):
    with torch.no_grad():
        return model.nats(INPUTS, TARGETS)


@pytest.mark.parametrize("changes", [{}, {"activation": GatedMlp(channels=5)}], ids=["plain", "gated"])
def test_the_layers_written_out_say_the_same(changes):
    plan = BASE.replace({"recurrence": LOOP, **changes})
    model = shaken(plan).eval()
    order = [0, 1, 2, 1, 2, 1, 2, 3]
    long = build_model(BASE.replace({"layers": len(order), **changes})).eval()
    own, found = dict(model.named_parameters()), {}
    for name in dict(long.named_parameters()):
        if not name.startswith("blocks."):
            found[name] = own[name]
            continue
        _, place, rest = name.split(".", 2)
        layer, number = order[int(place)], order[: int(place)].count(order[int(place)])
        if number and rest.startswith("mlp."):
            rest = f"mlp.again.{number - 1}.{rest.removeprefix('mlp.')}"
        found[name] = own[f"blocks.{layer}.{rest}"]
    long.load_state_dict(found)
    torch.testing.assert_close(nats(model), nats(long), rtol=1e-5, atol=1e-5)


def test_each_pass_has_its_own_and_all_are_trained():
    model = shaken(BASE.replace(recurrence=LOOP)).train()
    model.loss(INPUTS, TARGETS).backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in model.parameters())
    before = nats(model)
    for name, tensor in model.named_parameters():
        if ".again." in name:
            with torch.no_grad():
                kept = tensor.clone()
                tensor.zero_()
                assert not torch.equal(nats(model), before), name
                tensor.copy_(kept)


def test_off_is_exact():
    tied = parameter_shapes(BASE.replace(recurrence=LOOP.replace(untied=False)))
    assert tied == parameter_shapes(BASE)
    none = BASE.replace(recurrence=LOOP.replace(loops=0))
    assert parameter_shapes(none) == parameter_shapes(BASE)
    assert torch.equal(nats(shaken(none)), nats(shaken(BASE)))


@pytest.mark.parametrize("changes", [{}, {"residual": TwoLanes(first=2), "route": GatedSkips()}])
def test_they_part_when_the_training_comes_to_them(changes):
    loop = LOOP.replace(enable_at=0.4, more_at=0.7)
    model = shaken(BASE.replace({"recurrence": loop, **changes})).train()
    tied = shaken(BASE.replace({"recurrence": loop.replace(untied=False), **changes})).train()
    tied.load_state_dict({name: w for name, w in model.state_dict().items() if ".again." not in name})
    for progress in (0.0, 0.39, 0.4, 0.7, 1.0):
        for each in (model, tied):
            each.at(progress)
        assert torch.equal(nats(model), nats(tied)), progress
    again = model.blocks[1].mlp.again
    with torch.no_grad():
        again[0].fc.weight[0, 0] = 7.0
    model.at(1.0)
    assert again[0].fc.weight[0, 0] == 7.0 and not torch.equal(nats(model), nats(tied))


def test_the_second_pass_parts_later_than_the_first():
    model = shaken(BASE.replace(recurrence=LOOP.replace(enable_at=0.4, more_at=0.7))).train()
    mlp = model.blocks[2].mlp
    model.at(0.0)
    model.at(0.5)
    assert torch.equal(mlp.again[0].fc.weight, mlp.fc.weight)
    assert not torch.equal(mlp.again[1].fc.weight, mlp.fc.weight)
    with torch.no_grad():
        mlp.fc.weight += 1
    model.at(0.8)
    assert torch.equal(mlp.again[1].proj.weight, mlp.proj.weight)
    assert torch.equal(mlp.again[1].fc.weight, mlp.fc.weight)
    torch.testing.assert_close(mlp.again[0].fc.weight, mlp.fc.weight - 1)


def test_a_training_that_goes_on_does_not_part_again():
    plan = BASE.replace(recurrence=LOOP.replace(enable_at=0.4))
    trained = shaken(plan).state_dict()
    model = build_model(plan)
    model.load_state_dict(trained)
    for progress in (0.8, 1.0):
        model.at(progress)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())


def test_a_script_has_them_only_where_its_recipe_does():
    with_them = flatten(baseline().replace({"model.recurrence": LOOP}))
    assert "class UntiedMlp" in with_them and "UntiedMlp" not in flatten(baseline())
    script: dict[str, object] = {"__name__": "script"}
    exec(compile(with_them, "script", "exec"), script)
    plan = script["RECIPE"].model.replace(layers=3, width=32, heads=4)
    again = [name for name in script["parameter_shapes"](plan) if ".again." in name]
    assert again[0] == "blocks.1.mlp.again.0.fc.weight" and len(again) == 8


def test_rules_for_mlps_are_theirs_too():
    plan = BASE.replace(recurrence=LOOP, input_scale=LnScale())
    names = [name for name in parameter_shapes(plan) if ".again." in name]
    assert len(names) == 2 * 2 * 2
    assert all(name.startswith("blocks.") and ".mlp." in name for name in names)
    assert MLP == ("blocks.*.mlp.*.weight",)


def test_further_passes_may_have_the_second_matrix_alone():
    """As whole MLPs of their own whose first matrix is the layer's."""
    down = LOOP.replace(untied=False, untied_down=True)
    model = shaken(BASE.replace({"recurrence": down, "activation": GatedMlp(channels=5)}))
    whole = build_model(BASE.replace({"recurrence": LOOP, "activation": GatedMlp(channels=5)}))
    found = dict(model.named_parameters())
    own = {name for name in found if ".again." in name}
    assert own == {f"blocks.{i}.mlp.again.{n}.proj.weight" for i in (1, 2) for n in (0, 1)}
    for name in dict(whole.named_parameters()):
        layer, _, rest = name.partition(".mlp.again.")
        found.setdefault(name, found.get(f"{layer}.mlp.{rest[2:]}"))
    whole.load_state_dict(found)
    assert torch.equal(nats(model.eval()), nats(whole.eval()))
    with pytest.raises(PlanError, match="untied_down: the whole MLP is untied already"):
        LOOP.replace(untied_down=True)


@pytest.mark.parametrize("untied", ["untied", "untied_down"])
def test_public_files_with_mlps_of_their_own_are_read(untied):
    loop = Looped(first=1, last=2, loops=1, **{untied: True})
    plan = BASE.replace({"recurrence": loop, "route": GatedSkips(rows=2)})
    weights = {name: tensor.detach() for name, tensor in shaken(plan).named_parameters()}
    public = {
        re.sub(r"blocks\.(\d)\.mlp\.again\.0", lambda found: f"repeat_mlp.{int(found[1]) - 1}", name): tensor
        for name, tensor in weights.items()
    }
    assert sum(name.startswith("repeat_mlp.") for name in public) == (4 if untied == "untied" else 2)
    found = as_weights(public, again=(1, 2))
    assert {name: tensor.shape for name, tensor in found.items()} == parameter_shapes(plan)
    read = infer_model_plan(
        found, route=GatedSkips(rows=2), position=plan.position, activation=plan.activation
    )
    assert read.recurrence == loop
    model = build_model(read)
    model.load_state_dict(found)
    assert torch.equal(nats(model.eval()), nats(shaken(plan).eval()))
    with pytest.raises(PublicFileError, match="do not fit the plan|is missing"):
        infer_model_plan(as_weights(public))  # layers 4 and 5, as in the records, are not in this one


def test_passes_with_scales_of_their_own_are_read_as_layers():
    """Scales of six passes, matrices of four layers, an MLP that the script finds from the middle on."""
    order = (0, 1, 2, 1, 2, 3)
    plan = BASE.replace({"layers": len(order), "route": GatedSkips()})
    long = shaken(plan)
    own = {name: tensor.detach() for name, tensor in long.named_parameters()}
    public = {name: tensor for name, tensor in own.items() if not matrix_of(name)}
    for place, layer in enumerate(order):
        for matrix in MATRICES:
            name, first = (f"blocks.{at}.{matrix}.weight" for at in (place, order.index(layer)))
            if place in (3, 4) and matrix == "mlp.proj":
                public[f"repeat_mlp.{place - 3}.proj.weight"] = own[name]
            else:
                own[name].copy_(own[first])
                public[f"blocks.{layer}.{matrix}.weight"] = own[name]
    assert passes_again(public) and passes_apart(public) and not passes_again(own)
    found = as_weights(public, again=(1, 2))
    assert found.keys() == own.keys() and all(torch.equal(found[name], own[name]) for name in own)
    for wrong in ((), (1,), (1, 2, 3), (3, 4)):
        with pytest.raises(PublicFileError, match="6 passes through 4 layers do not fit"):
            as_weights(public, again=wrong)


@pytest.mark.parametrize("told", ["absent", "at rest", "said"])
def test_a_first_layer_without_attention_is_read_as_such(told):
    """DISABLE_LAYER0_ATTN of record 2026-03-31, against a model whose first attention is cut out."""
    plan = BASE.replace({"layers": 3})
    public = {name: tensor.detach().clone() for name, tensor in shaken(plan).named_parameters()}
    if told == "at rest":
        public["blocks.0.attn_scale"].fill_(1.0)
    cut = build_model(plan)
    cut.load_state_dict(public)
    cut.blocks[0].attn.register_forward_hook(lambda module, given, output: torch.zeros_like(output))
    if told == "absent":
        for name in ATTENTION:
            del public[f"blocks.0.{name}.weight"]
    model = build_model(plan)
    model.load_state_dict(as_weights(public, first_attention=told != "said"))
    assert torch.equal(nats(model.eval()), nats(cut.eval()))
    assert lacks_first_attention(public) == (told == "absent")
    assert first_attention_at_rest(public) == (told == "at rest")
    if told == "said":
        model.load_state_dict(as_weights(public))
        assert not torch.equal(nats(model), nats(cut))
    elif told == "absent":
        public["blocks.0.attn.c_v.weight"] = torch.zeros(1, 1)
        with pytest.raises(PublicFileError):  # some of them are no setting but damage
            infer_model_plan(as_weights(public))


def test_scales_that_rest_everywhere_say_nothing():
    public = {name: tensor.detach() for name, tensor in build_model(BASE).named_parameters()}
    assert not first_attention_at_rest(public) and not lacks_first_attention(public)


def test_further_mlps_than_layers_named_are_refused():
    public = {"repeat_mlp.2.proj.weight": torch.zeros(4, 4)}
    with pytest.raises(PublicFileError, match=r"more MLPs.*name all its RECUR_LAYERS"):
        as_weights(public)
    assert [*as_weights(public, again=(3, 1, 6))] == ["blocks.6.mlp.again.0.proj.weight"]
