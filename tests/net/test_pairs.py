"""PR #212's smear with a bias and sum of a pair: against loops over places, and read from its files."""

import math

import pytest
import torch

from bitgolf.base.errors import PlanError
from bitgolf.net.embed import BigramSum, SmearBias
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.public.checkpoints import as_weights, infer_model_plan

BASE = ModelPlan(vocabulary_size=96, layers=2, width=24, heads=2, kv_heads=1)
BOTH = BASE.replace(embed=(BigramSum(buckets=19, dimension=5), SmearBias(channels=7)))
IDS = torch.randint(0, 96, (2, 13), generator=torch.Generator().manual_seed(3))


def shaken(plan):
    model, draw = build_model(plan), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.3 * torch.randn(tensor.shape, generator=draw)
    return model.eval()


def by_hand(model, multiplier, factor):
    """What enters the first layer, place by place in float64."""
    tensors = {name: tensor.detach().double() for name, tensor in model.named_parameters()}
    table, proj = tensors["bigram.embed.weight"], tensors["bigram.proj.weight"]
    gate, bias = tensors["smear_gate.weight"][0], tensors["smear_gate.bias"][0]
    rows = []
    for row in IDS.tolist():
        plain = []
        for t, one in enumerate(row):
            before = row[t - 1] if t else 0
            x = tensors["tok_emb.weight"][one] + proj @ table[(multiplier * before + one) % len(table)]
            plain.append(x / math.sqrt(float(x.square().mean()) + 1.1920929e-07))
        mixed = [plain[0]]
        for before, x in zip(plain, plain[1:]):
            share = 1 / (1 + math.exp(-float(gate @ x[:7] + bias)))
            mixed.append(x + factor * share * before)
        rows.append(torch.stack(mixed))
    return torch.stack(rows)


@pytest.mark.parametrize(("multiplier", "factor"), [(31, 0.07), (92_821, 0.9)])
def test_pairs_and_smear_are_those_of_a_loop(multiplier, factor):
    parts = BOTH.embed[0].replace(multiplier=multiplier), BOTH.embed[1].replace(factor=factor)
    model = shaken(BOTH.replace(embed=parts))
    with torch.no_grad():
        found = model.embedded(IDS).double()
    torch.testing.assert_close(found, by_hand(model, multiplier, factor), rtol=1e-5, atol=1e-5)


def test_at_their_start_they_are_as_the_script_left_them():
    """No gain of a pair, and 0.07 sigmoid(-2) of the token before."""
    model, plain = build_model(BOTH).eval(), build_model(BASE).eval()
    with torch.no_grad():
        x = plain.embedded(IDS)
        share = 0.07 / (1 + math.exp(2))
        expected = x + share * torch.nn.functional.pad(x[:, :-1], (0, 0, 1, 0))
        torch.testing.assert_close(model.embedded(IDS), expected, rtol=1e-5, atol=1e-6)
    assert float(model.bigram.embed.weight.detach().std()) == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("table", ["embed", "table"])
def test_files_of_its_script_are_read(table):
    model = shaken(BOTH)
    public = {
        name.replace("bigram.embed.", f"bigram_hash.{table}.")
        .replace("bigram.", "bigram_hash.")
        .replace("smear_gate.", "smear_gate.gate."): tensor.detach()
        for name, tensor in model.named_parameters()
    }
    assert not any(name.startswith("bigram.") for name in public)
    weights = as_weights(public)
    plan = infer_model_plan(weights, position=BASE.position)
    assert plan.embed == BOTH.embed
    read = build_model(plan)
    read.load_state_dict(weights)
    with torch.no_grad():
        assert torch.equal(read.eval().embedded(IDS), model.embedded(IDS))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(PlanError, match="BigramSum.dimension: it has a projection"):
        BASE.replace(embed=(BigramSum(dimension=24),))
    with pytest.raises(PlanError, match="SmearBias.channels: at most the width 24, found 25"):
        BASE.replace(embed=(SmearBias(channels=25),))
