"""The network: parity of every fast operation with its plain twin, and the properties of the forward pass."""

import math

import pytest
import torch

from bitgolf.base.errors import PlanError
from bitgolf.net.backend import Backend
from bitgolf.net.kernels import (
    CHUNK_SHORT,
    AttentionMask,
    FusedKernels,
    PlainKernels,
    chunk_attend,
    math_attend,
    sdpa_attend,
)
from bitgolf.net.model import (
    Model,
    ModelPlan,
    build_model,
    count_parameters,
    keyed_generator,
    parameter_shapes,
)
from bitgolf.net.position import Rope
from bitgolf.net.route import Huginn, Plain, USkips
from bitgolf.train.optim import OptimPlan, make_optimizers
from bitgolf.train.schedule import Progress

SMALL = ModelPlan(vocabulary_size=96, layers=5, width=48, heads=4, kv_heads=2)
EXACT = Backend(dtype=torch.float64, attention="math")
FAST = {
    "float32 chunk": Backend(attention="chunk", fused=True),
    "float32 sdpa": Backend(attention="sdpa", fused=True),
    "float32 math": Backend(attention="math", fused=True),
}


def shaken(plan: ModelPlan, seed: int = 1) -> Model:
    """A model none of whose tensors is at a special value."""
    model = build_model(plan, seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=keyed_generator(seed, "shake " + name))
            tensor += noise * (0.05 if name.endswith("weight") else 0.1)
    return model


def tokens(plan: ModelPlan, rows: int, time: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    stream = torch.randint(plan.vocabulary_size, (rows, time + 1), generator=draw)
    return stream[:, :-1], stream[:, 1:]


def gradients(
    plan: ModelPlan, backend: Backend, time: int, seed: int = 1
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Per-token nats and the gradients of their randomly weighted mean, in float64."""
    model = shaken(plan, seed)
    model = (model.double() if backend.dtype == torch.float64 else model).use(backend)
    inputs, targets = tokens(plan, 3, time, seed)
    nats = model.nats(inputs, targets)
    importance = torch.rand(nats.shape, generator=torch.Generator().manual_seed(seed))
    (nats * importance).mean().backward()
    return nats.detach().double(), {name: p.grad.double() for name, p in model.named_parameters()}


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Relative distance of all gradients together."""
    wrong = sum((found[name] - tensor).square().sum() for name, tensor in expected.items())
    return float((wrong / sum(tensor.square().sum() for tensor in expected.values())).sqrt())


def test_baseline_has_the_public_parameter_count():
    assert count_parameters(ModelPlan()) == 17_059_912
    assert count_parameters(ModelPlan(mlp_multiplier=3.0)) == 21_778_504
    assert count_parameters(ModelPlan(layers=11, mlp_hidden=1408)) == 25_059_928


def test_shapes_are_those_of_the_built_model():
    for plan in (SMALL, SMALL.replace(tied=False, layers=1), SMALL.replace(route=Plain())):
        built = {name: tuple(value.shape) for name, value in build_model(plan).state_dict().items()}
        assert parameter_shapes(plan) == built


@pytest.mark.parametrize("time", [1, 40, CHUNK_SHORT + 9])
@pytest.mark.parametrize("backend", FAST.values(), ids=FAST.keys())
def test_fast_float32_step_equals_the_plain_one(backend, time):
    exact_nats, exact = gradients(SMALL, EXACT, time)
    _, plain = gradients(SMALL, Backend(attention="math"), time)
    nats, fast = gradients(SMALL, backend, time)
    assert (nats - exact_nats).abs().max() < 2e-5
    assert distance(fast, plain) < 1e-5
    for name, gradient in exact.items():
        assert (fast[name] - gradient).norm() < 1e-5 * max(gradient.norm(), exact["tok_emb.weight"].norm())


def test_fast_bfloat16_step_is_no_further_from_exact_than_the_plain_one():
    plan = SMALL.replace(width=64, vocabulary_size=256)
    ratios = []
    for seed in range(4):
        exact = gradients(plan, EXACT, 150, seed)[1]
        plain = Backend(dtype=torch.bfloat16, attention="math")
        fast = Backend(dtype=torch.bfloat16, attention="chunk", fused=True)
        plain_error = distance(gradients(plan, plain, 150, seed)[1], exact)
        ratios.append(distance(gradients(plan, fast, 150, seed)[1], exact) / plain_error)
    assert sum(ratios) / len(ratios) < 1.03  # equal within what four draws can tell


def test_each_fast_kernel_alone_equals_its_twin():
    draw = torch.Generator().manual_seed(3)
    plain, fast = PlainKernels(), FusedKernels()

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    tables = [table.double() for table in Rope(base=100.0).tables(7, 0, 6, torch.device("cpu"))]
    gain = torch.tensor([1.5, 0.0, -2.0], dtype=torch.float64)
    cases = {  # operation: what it is differentiated by, and the rest
        "norm": ([numbers(3, 7, 8)], []),
        "mix": ([numbers(3, 7, 8), numbers(3, 7, 8), numbers(2, 8)], []),
        "add_scaled": ([numbers(3, 7, 8), numbers(3, 7, 8), numbers(8)], []),
        "relu_squared": ([numbers(3, 7, 8)], []),
        "qk_norm_rope": ([numbers(3, 7, 5, 6), gain], tables),
        "nats": ([3 * numbers(9, 8), numbers(11, 8)], [torch.arange(9), 4.0]),
    }
    for name, (variables, rest) in cases.items():
        results = []
        for kernels in (plain, fast):
            leaves = [value.clone().requires_grad_() for value in variables]
            out = getattr(kernels, name)(*leaves, *rest)
            weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
            (out * weight).sum().backward()
            results.append([out.detach(), *(leaf.grad for leaf in leaves)])
        for expected, found in zip(*results):
            assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6), name  # tables are float32


@pytest.mark.parametrize("time", [5, CHUNK_SHORT, 2 * CHUNK_SHORT + 3, 600])
def test_attention_kinds_agree(time):
    draw = torch.Generator().manual_seed(time)
    heads = torch.randn(4 + 2 * 2, 2, time, 8, generator=draw, dtype=torch.float64)
    upstream = torch.randn(2, time, 4 * 8, generator=draw, dtype=torch.float64)
    results = {}
    for attend in (math_attend, sdpa_attend, chunk_attend):
        leaf = heads.clone().requires_grad_()
        out = attend(leaf, 4, AttentionMask())
        out.backward(upstream)
        results[attend] = out.detach(), leaf.grad
    for attend in (sdpa_attend, chunk_attend):
        torch.testing.assert_close(results[attend], results[math_attend], rtol=1e-9, atol=1e-9)


def test_attention_weights_made_again_give_the_same_gradients(monkeypatch):
    kept = gradients(SMALL, FAST["float32 chunk"], 140)[1]
    monkeypatch.setattr("bitgolf.net.kernels.KEEP_BYTES", 0)
    assert distance(gradients(SMALL, FAST["float32 chunk"], 140)[1], kept) == 0


@pytest.mark.parametrize("backend", FAST.values(), ids=FAST.keys())
def test_no_token_sees_the_future(backend):
    model = shaken(SMALL).use(backend)
    inputs, _ = tokens(SMALL, 1, 150)
    changed = inputs.clone()
    changed[:, 100:] = (changed[:, 100:] + 1) % SMALL.vocabulary_size
    with torch.no_grad():
        before, after = model.logits(inputs), model.logits(changed)
    torch.testing.assert_close(before[:, :100], after[:, :100], rtol=0, atol=1e-6)
    assert (before[:, 100:] - after[:, 100:]).abs().max() > 1e-3


def test_rows_of_a_batch_do_not_meet():
    model = shaken(SMALL).use(FAST["float32 chunk"])
    inputs, targets = tokens(SMALL, 3, 33)
    with torch.no_grad():
        together = model.nats(inputs, targets)
        alone = torch.cat([model.nats(inputs[i : i + 1], targets[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_first_loss_is_that_of_a_uniform_guess_and_depth_is_inert():
    inputs, targets = tokens(SMALL, 4, 64)
    model = build_model(SMALL)
    loss = model.loss(inputs, targets)
    loss.backward()
    assert abs(loss.item() - math.log(SMALL.vocabulary_size)) < 0.01
    silent = ("c_q.weight", "c_k.weight", "c_v.weight", "fc.weight")
    for name, tensor in model.named_parameters():
        assert tensor.grad is not None, name  # distributed training needs every one
        if name.endswith(silent):
            assert not tensor.grad.any(), name
        elif name.endswith("proj.weight"):
            assert tensor.grad.any(), name


def test_initial_values_have_the_public_distributions():
    model = build_model(SMALL.replace(tied=False, width=96, vocabulary_size=500))
    tied = build_model(SMALL.replace(width=96, vocabulary_size=500))
    assert abs(tied.tok_emb.weight.std() - 0.005) < 1e-4
    assert abs(model.tok_emb.weight.std() - 1) < 0.02
    assert not model.lm_head.weight.any()
    bound = 1 / math.sqrt(96)
    for part in (model.blocks[1].attn.c_q, model.blocks[1].attn.c_v, model.blocks[1].mlp.fc):
        assert 0.98 * bound < part.weight.abs().max() <= bound
        assert abs(part.weight.std() - bound / math.sqrt(3)) < 0.03 * bound
    assert not model.blocks[0].attn.proj.weight.any() and not model.blocks[0].mlp.proj.weight.any()
    assert model.blocks[0].attn.q_gain.tolist() == [1.5] * 4
    assert model.blocks[0].resid_mix[0].eq(1).all() and not model.blocks[0].resid_mix[1].any()


def test_initial_values_are_keyed_by_seed_and_name():
    first, deeper = build_model(SMALL).state_dict(), build_model(SMALL.replace(layers=7)).state_dict()
    for name, value in first.items():
        if name != "skip_weights":
            assert torch.equal(value, deeper[name]), name
    assert torch.equal(first["tok_emb.weight"], build_model(SMALL).state_dict()["tok_emb.weight"])
    assert not torch.equal(first["tok_emb.weight"], build_model(SMALL, 2).state_dict()["tok_emb.weight"])
    assert not torch.equal(first["blocks.0.attn.c_q.weight"], first["blocks.1.attn.c_q.weight"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("logit_softcap", 2.0),
        ("position", Rope(base=50.0)),
        ("position", Rope(frequencies="bfloat16")),
        ("mlp_multiplier", 1.5),
        ("mlp_hidden", 33),
        ("qk_gain", 3.0),
        ("kv_heads", 4),
        ("heads", 2),
        ("layers", 4),
        ("tied", False),
        ("route", Plain()),
        ("embed_std", 0.5),
    ],
)
def test_every_setting_changes_the_result(path, value):
    inputs, targets = tokens(SMALL, 2, 30)
    changed = SMALL.replace({path: value})
    with torch.no_grad():
        assert not torch.equal(shaken(SMALL).nats(inputs, targets), shaken(changed).nats(inputs, targets)), (
            path
        )


def test_skip_weights_of_zero_equal_the_plain_route():
    inputs, targets = tokens(SMALL, 2, 30)
    skipping, plain = shaken(SMALL), shaken(SMALL.replace(route=Plain()))
    with torch.no_grad():
        skipping.skip_weights.zero_()
        torch.testing.assert_close(skipping.nats(inputs, targets), plain.nats(inputs, targets))


def test_skips_are_last_in_first_out():
    visits = USkips().layer_calls(tuple(range(9)))
    assert [visit.layer for visit in visits] == list(range(9))
    assert [(visit.source, visit.skip) for visit in visits[4:]] == [(3, 0), (2, 1), (1, 2), (0, 3), (-1, -1)]
    assert all(visit.source == -1 for visit in visits[:4])


@pytest.mark.parametrize("skips", [True, False])
def test_loops_beyond_the_trained_ones_have_no_skips(skips):
    """Against a plain loop: PR #212's three shared blocks, three loops in training and six outside it."""
    route = USkips(paired_stops=9) if skips else Plain()
    recurrence = Huginn(first=0, last=2, loops=3, evaluation_loops=6)
    model = shaken(SMALL.replace(layers=3, recurrence=recurrence, route=route))
    inputs, _ = tokens(SMALL, 2, 12)
    for loops, training in ((3, True), (6, False)):
        model.train(training)
        start = model.embedded(inputs)
        context, x, earlier = model.context(inputs, start), start, []
        for stop in range(3 * loops):
            if skips and stop >= 4 and earlier:
                x = x + model.skip_weights[stop - 4] * earlier.pop()
            x = model.blocks[stop % 3](x, context)
            if stop < 4:
                earlier.append(x)
        expected = torch.nn.functional.rms_norm(x, x.shape[-1:])
        torch.testing.assert_close(model.hidden(inputs), expected)
    assert skips == ("skip_weights" in dict(model.named_parameters()))
    assert not skips or len(model.skip_weights) == 4  # as many as are trained


def test_all_stops_are_paired_where_no_number_is_given():
    order = (0, 1, 2) * 6
    assert (
        USkips().layer_calls(order)
        == USkips(paired_stops=18).layer_calls(order)
        == USkips(paired_stops=99).layer_calls(order)
    )


def test_a_cap_too_large_for_exp_is_still_exact():
    plan = SMALL.replace(logit_softcap=1e4)
    fast = shaken(plan).use(FAST["float32 chunk"])
    with torch.no_grad():
        fast.tok_emb.weight.mul_(300)  # logits far beyond what float32 can exponentiate
        plain = Model(plan)
        plain.load_state_dict(fast.state_dict())
        inputs, targets = torch.arange(12).view(2, 6), torch.arange(1, 13).view(2, 6)
        nats = fast.nats(inputs, targets)
        assert nats.max() > 100
        assert torch.allclose(nats, plain.use(Backend()).nats(inputs, targets), rtol=1e-4)


def test_logits_stay_under_the_cap_and_agree_with_nats():
    model = shaken(SMALL.replace(logit_softcap=3.0)).use(FAST["float32 chunk"])
    with torch.no_grad():
        model.tok_emb.weight.mul_(50)
        inputs, targets = tokens(SMALL, 2, 20)
        logits = model.logits(inputs)
        nats = -logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
    assert logits.dtype == torch.float32 and logits.abs().max() <= 3
    assert logits.abs().max() > 2.5
    torch.testing.assert_close(model.nats(inputs, targets), nats, rtol=1e-5, atol=1e-5)


def test_rotation_depends_on_distance_alone():
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, 1, 16, generator=draw)
    cos, sin = Rope().tables(40, 0, 16, torch.device("cpu"))
    ones = torch.ones(2)

    def product(first: int, second: int) -> float:
        heads = [
            PlainKernels().qk_norm_rope(vectors[None], ones[:1], cos[t : t + 1], sin[t : t + 1])[0]
            for t in (first, second)
        ]
        return float(heads[0].flatten() @ heads[1].flatten())

    assert abs(product(3, 9) - product(20, 26)) < 1e-4
    assert abs(product(3, 9) - product(3, 10)) > 1e-4


def test_impossible_shapes_are_refused_all_at_once():
    with pytest.raises(PlanError) as refusal:
        ModelPlan(width=50, heads=4, kv_heads=3)
    assert "heads" in str(refusal.value) and "kv_heads" in str(refusal.value)
    with pytest.raises(PlanError, match="even"):
        ModelPlan(width=12, heads=4, kv_heads=4)
    with pytest.raises(PlanError, match="mlp_multiplier"):
        ModelPlan(mlp_multiplier=0.001)


@pytest.mark.slow
def test_the_compiled_step_equals_the_eager_one():
    eager = gradients(SMALL, FAST["float32 chunk"], 140)
    compiled = gradients(SMALL, Backend(attention="chunk", fused=True, compile=True), 140)
    torch.testing.assert_close(compiled[0], eager[0], rtol=1e-4, atol=1e-4)
    assert distance(compiled[1], eager[1]) < 1e-4


@pytest.mark.slow
def test_loss_curves_of_200_steps_coincide():
    """Fast bfloat16 beside plain float32, on text of a random grammar: equal within what seeds change."""
    plan = SMALL.replace(width=64, layers=3)
    plain = curve(plan, Backend(attention="math"), 1)
    fast = curve(plan, Backend(dtype=torch.bfloat16, attention="chunk", fused=True), 1)
    other = curve(plan, Backend(attention="math"), 2)
    assert plain[0] - plain[-1] > 1
    assert abs(fast[-1] - plain[-1]) < max(abs(other[-1] - plain[-1]), 0.01)


def curve(plan: ModelPlan, backend: Backend, seed: int) -> list[float]:
    """Mean losses of ten steps each, over 200 steps of the baseline optimizers."""
    successors = torch.randint(
        plan.vocabulary_size, (plan.vocabulary_size, 3), generator=keyed_generator(0, "s")
    )
    model = build_model(plan, seed).use(backend)
    optimizers = make_optimizers(OptimPlan(), model)
    draw, losses = keyed_generator(0, "text"), []
    for step in range(200):
        rows = [torch.randint(plan.vocabulary_size, (16,), generator=draw)]
        for _ in range(64):
            rows.append(successors[rows[-1], torch.randint(3, (16,), generator=draw)])
        text = torch.stack(rows, 1)
        optimizers.zero()
        loss = model.loss(text[:, :-1], text[:, 1:])
        loss.backward()
        optimizers.step(1.0, Progress(step, 200))
        losses.append(loss.item())
    return [sum(losses[i : i + 10]) / 10 for i in range(0, 200, 10)]
