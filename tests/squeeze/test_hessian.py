"""What calibration gathers, against hooks on the modules and against gradients taken by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.base.plan import from_json, to_json
from bitgolf.net.backend import Backend
from bitgolf.net.embed import BigramHash
from bitgolf.net.heads import SparseGate
from bitgolf.net.model import ModelPlan, build_model, keyed_generator
from bitgolf.net.parts import Linear
from bitgolf.net.route import Looped
from bitgolf.net.values import ValueEmbedding
from bitgolf.run.stages import run
from bitgolf.squeeze.gptq import Gptq, squared_error
from bitgolf.squeeze.hessian import (
    OwnText,
    TrainText,
    both_uses,
    drawn_labels,
    drawn_text,
    gather_curvatures,
    looked_up_rows,
    lookup_moments,
    row_frequencies,
    written_text,
)
from bitgolf.squeeze.presets import feedback_deviations, feedback_rows
from bitgolf.squeeze.quantize import (
    AbsMax,
    Calibration,
    Curvature,
    Keep,
    NoCalibration,
    QuantizePlan,
    QuantRule,
    int6_rows,
    quantize_weights,
)
from bitgolf.squeeze.rate import RateAware
from tests.run.test_run import CODE, result_of

PLAN = ModelPlan(vocabulary_size=90, layers=3, width=24, heads=2, kv_heads=1)
TEXT = torch.randint(90, (6, 20), generator=torch.Generator().manual_seed(0))
MODELS = {
    "plain": PLAN,
    "untied": PLAN.replace(tied=False),
    "looped": PLAN.replace(recurrence=Looped(first=1, last=1, loops=2)),
    "factored": PLAN.replace(embedding_width=16),
    "bigram": PLAN.replace(embed=(BigramHash(buckets=40, dimension=8),), heads_out=(SparseGate(),)),
}


def moved(plan, seed=1):
    """A model whose projections and head are not zero."""
    model = build_model(plan, seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 2:
                draw = torch.Generator().manual_seed(len(name) + seed)
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=draw))
    return model.eval()


def products(model):
    """Matrices of the model that are modules of their own."""
    names = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Linear)]
    return [name for name in names if name != "lm_head.weight"]


def by_attention(model, text):
    """Inputs by hooks: of attention's three matrices what it reads, of other modules their own."""
    seen = {}

    def add(name):
        def hook(module, arguments):
            x = arguments[0].detach().flatten(0, -2)
            seen[name] = seen.get(name, 0) + x.T @ x

        return hook

    handles = []
    for name, module in model.named_modules():
        if hasattr(module, "c_q"):
            for part in ("c_q", "c_k", "c_v"):
                handles.append(module.register_forward_pre_hook(add(f"{name}.{part}.weight")))
        elif isinstance(module, Linear):
            handles.append(module.register_forward_pre_hook(add(f"{name}.weight")))
    with torch.no_grad():
        hidden = model.hidden(text).flatten(0, 1)
    for handle in handles:
        handle.remove()
    head = "tok_emb.weight" if model.lm_head is None else "lm_head.weight"
    return seen | {head: hidden.T @ hidden}


@pytest.mark.parametrize("name", MODELS)
def test_inputs_are_those_that_hooks_see(name):
    model = moved(MODELS[name])
    expected = by_attention(model, TEXT)
    found = gather_curvatures(model, TEXT, expected, False, torch.Generator())
    assert found.keys() == expected.keys()
    for key, each in found.items():
        assert each.tokens == TEXT.numel() and each.outputs is None
        torch.testing.assert_close(each.inputs * each.tokens, expected[key], rtol=1e-4, atol=1e-4)


def test_products_outside_modules_are_seen_too():
    model = moved(MODELS["bigram"])
    names = ["bigram.proj.weight", "blocks.1.attn.attn_gate_w"]
    found = gather_curvatures(model, TEXT, names, False, torch.Generator())
    assert found[names[0]].inputs.shape == (8, 8) and found[names[1]].inputs.shape == (12, 12)
    for name, outputs in (("bigram.embed.weight", False), ("blocks.0.attn.q_gain", True)):
        with pytest.raises(PlanError, match=f"nothing is multiplied with {name}"):
            gather_curvatures(model, TEXT, [name], outputs, torch.Generator())
    table = gather_curvatures(model, TEXT, ["bigram.embed.weight"], True, torch.Generator())
    assert table["bigram.embed.weight"].inputs.shape == (8, 8)
    assert bool(table["bigram.embed.weight"].outputs.any())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_model_is_left_as_it_was():
    model = moved(PLAN).use(Backend(dtype=torch.bfloat16, attention="chunk", fused=True))
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    backend, kernels = model.backend, type(model.kernels)
    gather_curvatures(model, TEXT, products(model), True, torch.Generator())
    assert model.backend == backend and type(model.kernels) is kernels
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name]) and tensor.grad is None


def test_a_loop_adds_the_inputs_of_its_passes():
    looped, once = moved(MODELS["looped"]), moved(PLAN)
    found = [gather_curvatures(model, TEXT, products(model), True, seeded()) for model in (looped, once)]
    trace = [math.log(float(each["blocks.1.mlp.fc.weight"].inputs.trace())) for each in found]
    # Normalised inputs have mean square one, so their trace counts the passes.
    assert trace[0] - trace[1] == pytest.approx(math.log(3), abs=0.01)


def seeded():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("name", ["plain", "untied"])
def test_outputs_are_gradients_at_labels_from_the_model(name):
    model = moved(MODELS[name])
    head = "lm_head.weight" if name == "untied" else "tok_emb.weight"
    names = ["blocks.0.attn.c_k.weight", "blocks.1.mlp.fc.weight", "blocks.2.mlp.proj.weight", head]
    found = gather_curvatures(model, TEXT, names, True, seeded())
    with torch.no_grad():
        labels = drawn_labels(model.logits(TEXT).flatten(0, 1), seeded()).view(TEXT.shape)
    kept = {}

    def keep(key):
        def hook(module, arguments, output):
            output.retain_grad()
            kept[key] = output

        return hook

    handles = [
        dict(model.named_modules())[key.removesuffix(".weight")].register_forward_hook(keep(key))
        for key in names[1:3]
    ]
    model.nats(TEXT, labels).sum().backward()
    for handle in handles:
        handle.remove()
    for key in names[1:3]:
        g = kept[key].grad.flatten(0, 1)
        torch.testing.assert_close(found[key].outputs, g.T @ g / TEXT.numel(), rtol=1e-3, atol=1e-6)
    assert found[names[0]].outputs.shape == (12, 12)
    hidden = model.hidden(TEXT).detach().flatten(0, 1)
    raw = F.linear(hidden, model.head().detach()).requires_grad_()
    cap = model.plan.logit_softcap
    F.cross_entropy(cap * torch.tanh(raw / cap), labels.flatten(), reduction="sum").backward()
    squares = raw.grad.square().mean(0)
    if name == "untied":
        torch.testing.assert_close(found[head].outputs, squares, rtol=1e-3, atol=1e-8)
        return
    # A tied table is looked up too, and that adds to both sides.
    table = lookups_of(model, TEXT, labels)
    both = both_uses(Curvature(hidden.T @ hidden / TEXT.numel(), squares, TEXT.numel()), table)
    torch.testing.assert_close(found[head].outputs, both.outputs, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found[head].inputs, both.inputs, rtol=1e-3, atol=1e-6)


def lookups_of(model, text, labels):
    """The moments of gradients at the rows that were looked up, from autograd on a table of its own."""
    rows = model.tok_emb.weight.detach()[text].requires_grad_()
    kept = F.embedding
    try:
        F.embedding = lambda ids, table, *rest: rows if ids.shape == text.shape else kept(ids, table, *rest)
        model.nats(text, labels).sum().backward()
    finally:
        F.embedding = kept
    g = rows.grad.flatten(0, 1)
    by_row = {
        row: [float(each @ each) for each in g[text.flatten() == row]]
        for row in range(len(model.tok_emb.weight))
    }
    average = sum(sum(each) for each in by_row.values()) / text.numel()
    sensitive = torch.tensor([(sum(each) + 2 * average) / (len(each) + 2) for each in by_row.values()])
    often = torch.tensor([len(each) + 0.5 for each in by_row.values()])
    return Curvature(g.T @ g / g.square().sum(), sensitive * often / often.sum(), text.numel())


def test_a_table_that_is_only_looked_up_has_a_curvature_too():
    model = moved(MODELS["untied"])
    found = gather_curvatures(model, TEXT, ["tok_emb.weight"], True, seeded())["tok_emb.weight"]
    with torch.no_grad():
        labels = drawn_labels(model.logits(TEXT).flatten(0, 1), seeded()).view(TEXT.shape)
    expected = lookups_of(model, TEXT, labels)
    torch.testing.assert_close(found.inputs, expected.inputs, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.outputs, expected.outputs, rtol=1e-3, atol=1e-6)
    never = torch.bincount(TEXT.flatten(), minlength=90) == 0
    assert bool(never.any()) and bool((found.outputs[never] > 0).all()), "a row that is not seen still counts"


def test_labels_are_as_likely_as_the_logits_say():
    logits = torch.tensor([math.log(0.5), -math.inf, math.log(0.2), math.log(0.3), -math.inf])
    labels = drawn_labels(logits.expand(40_000, -1), seeded())
    shares = labels.bincount(minlength=5) / len(labels)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.0, 0.2, 0.3, 0.0]), rtol=0, atol=0.01)
    assert torch.equal(labels[:9], drawn_labels(logits.expand(9, -1), seeded()))


class Stream:
    """Tokens as a dataset gives them."""

    def __init__(self, ids):
        self.ids, self.tokens = np.asarray(ids, np.uint16), len(ids)

    def read(self, start, count):
        return self.ids[start : start + count]


@pytest.mark.parametrize("most", [10**6, 300])
def test_rows_count_as_often_as_the_whole_stream_looks_them_up(most):
    plan = PLAN.replace(embed=(BigramHash(buckets=31, dimension=8, boundary=True),), bos_id=1)
    plan = plan.replace(values=(ValueEmbedding(dimension=8, layers=(1,)),))
    ids = np.random.default_rng(0).integers(0, 40, 500)
    found = row_frequencies(plan, Stream(ids), most)
    assert set(found) == {"tok_emb.weight", "bigram.embed.weight", "ve_shared.embed.weight"}
    for name, rows in found.items():
        assert float(rows.sum()) == pytest.approx(1) and bool((rows > 0).all()), name
    if most > 500:
        counts = np.bincount(ids, minlength=plan.vocabulary_size) + 0.5
        assert np.allclose(found["tok_emb.weight"], counts / counts.sum())
        assert torch.equal(found["tok_emb.weight"], found["ve_shared.embed.weight"])
        pairs = [30] + [int((36313 * b) ^ (27191 * a)) % 30 for a, b in zip(ids, ids[1:])]
        pairs = [30 if token == 1 else pair for token, pair in zip(ids, pairs)]
        counts = np.bincount(pairs, minlength=31) + 0.5
        assert np.allclose(found["bigram.embed.weight"], counts / counts.sum())


def test_a_rare_row_is_as_sensitive_as_rows_are_on_average():
    sums, seen = torch.tensor([8.0, 0.0, 300.0]), torch.tensor([2, 0, 98])
    often = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    mean = 308 / 100
    expected = [0.5 * (8 + 2 * mean) / 4, 0.25 * mean, 0.25 * (300 + 2 * mean) / 100]
    assert torch.allclose(lookup_moments(sums, seen, often), torch.tensor(expected))
    assert not bool(lookup_moments(torch.zeros(3), seen, often).any()), (
        "what the loss does not see stays unseen"
    )


@pytest.mark.parametrize("embed", [(), (BigramHash(buckets=64, dimension=8),)])
def test_tokens_that_calibration_never_shows_are_not_given_up(embed, dataset, recipe):
    """Planted: with the moments of the calibration text alone, rows that are not in it were destroyed."""
    model = moved(recipe.model.replace(embed=embed))
    name = "bigram.embed.weight" if embed else "tok_emb.weight"
    weight = dict(model.named_parameters())[name].detach()
    calibration = TrainText(sequences=2, outputs=True)
    found = calibration.gather([name], model, dataset.train, 32, False)[name]
    text = drawn_text(dataset.train, 2, 32, keyed_generator(0, "calibration"))
    silent = torch.ones(len(weight), dtype=torch.bool)
    silent[looked_up_rows(model.plan, text)[name].unique()] = False
    assert bool(silent.any())
    often = row_frequencies(model.plan, dataset.train, 10**9)[name]
    used = silent & (often > 1.4 * often.min())
    assert bool(used.any())
    assert found.silent_rows == int(silent.sum())
    assert found.silent_share == pytest.approx(float(often[silent].sum()))
    blind = found._replace(outputs=found.outputs * ~silent)
    error = {}
    for key, curvature in (("mended", found), ("blind", blind)):
        tensor = RateAware(step=0.002).quantize(weight, curvature)
        error[key] = float((tensor.dequantize() - weight)[used].norm() / weight[used].norm())
    assert error["mended"] < 0.7 * error["blind"]


def test_the_model_of_damage_is_about_right():
    """A small random change of one matrix costs about half of tr(G E H E^T) nats a token.

    Labels are the model's own, so the first order is zero on average; KL says it without drawing them.
    """
    model = moved(PLAN)
    text = torch.randint(90, (60, 20), generator=torch.Generator().manual_seed(1))
    name = "blocks.2.mlp.proj.weight"
    each = gather_curvatures(model, text, [name], True, seeded())[name]
    weight = dict(model.named_parameters())[name]
    change = 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = model.logits(text).log_softmax(-1)
        weight.add_(change)
        after = model.logits(text).log_softmax(-1)
    damage = float((before.exp() * (before - after)).sum(-1).mean())
    predicted = 0.5 * float(torch.trace(each.outputs @ change @ each.inputs @ change.T))
    assert damage == pytest.approx(predicted, rel=0.3)


def test_text_that_the_model_writes():
    model = moved(PLAN)
    one, two, other = (written_text(model, 3, 12, 0.8, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert one.shape == (3, 12) and torch.equal(one, two) and not torch.equal(one, other)
    assert int(one.min()) >= 0 and int(one.max()) < 90
    cold = written_text(model, 40, 4, 0.01, torch.Generator().manual_seed(1))
    with torch.no_grad():
        likeliest = model.logits(cold[:, :-1]).argmax(-1)
    assert float((likeliest[:, -1] == cold[:, -1]).float().mean()) > 0.9


@pytest.mark.parametrize("calibration", [TrainText(sequences=3, outputs=True), OwnText(sequences=2)])
def test_slots_of_calibration(calibration, dataset, recipe):
    model = moved(recipe.model)
    assert from_json(Calibration, to_json(calibration)) == calibration
    names = ["blocks.0.mlp.fc.weight"]
    found, again = (calibration.gather(names, model, dataset.train, 32, False)[names[0]] for _ in range(2))
    assert torch.equal(found.inputs, again.inputs) and found.tokens == 32 * calibration.sequences
    other = calibration.replace(seed=9).gather(names, model, dataset.train, 32, False)[names[0]]
    assert not torch.equal(found.inputs, other.inputs)
    assert (found.outputs is None) is not calibration.outputs
    assert calibration.gather(names, model, dataset.train, 32, True)[names[0]].tokens < found.tokens


def test_gptq_on_calibration_beats_rounding_on_every_matrix(dataset, recipe):
    model = moved(recipe.model)
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    plan = feedback_deviations().replace(calibration=TrainText(sequences=40))
    curvatures = plan.curvatures(model, dataset.train, 32)
    assert "tok_emb.weight" in curvatures and "blocks.1.attn.c_v.weight" in curvatures
    tensors, report = quantize_weights(plan, weights, curvatures)
    for row in report:
        if row["name"] in curvatures:
            assert row["calibration_tokens"] == 40 * 32
            rule = plan.rule_of(row["name"], weights[row["name"]]).quantizer.scales[0]
            inputs, weight = curvatures[row["name"]].inputs, weights[row["name"]]
            errors = [
                squared_error(weight, t.dequantize(), inputs)
                for t in (tensors[row["name"]], rule.quantize(weight))
            ]
            assert errors[0] < errors[1]


def test_who_asks_without_calibration_is_refused_before_training(recipe, dataset, tmp_path):
    rules = QuantizePlan(rules=feedback_rows().rules)
    assert rules.calibration == NoCalibration()
    lost = QuantizePlan(
        rules=(
            QuantRule(patterns=("skip_weights",), quantizer=Gptq(scales=(AbsMax(),))),
            QuantRule(quantizer=Keep()),
        ),
        calibration=TrainText(),
    )
    for plan, message in (
        (rules, "needs one; nearest: TrainText"),
        (lost, "nothing is multiplied with skip"),
    ):
        with pytest.raises(BitgolfError, match=message):
            result_of(run(recipe.replace(quantize=plan), dataset, tmp_path / "r", 1, code=CODE))
        assert not (tmp_path / "r").exists()


def test_a_run_calibrates_and_says_so(recipe, dataset, tmp_path):
    plan = feedback_rows(4).replace(calibration=TrainText(sequences=8))
    result = result_of(run(recipe.replace(quantize=plan), dataset, tmp_path / "r", 1, code=CODE))
    rows = {row["name"]: row for row in result["quantization"]}
    assert rows["blocks.0.mlp.fc.weight"]["calibration_tokens"] == 8 * 32
    assert "calibration_tokens" not in rows["tok_emb.weight"]
    assert result["seconds"]["calibrate"] > 0
    plain = result_of(run(recipe.replace(quantize=int6_rows()), dataset, tmp_path / "p", 1, code=CODE))
    assert not any("calibration_tokens" in row for row in plain["quantization"])
