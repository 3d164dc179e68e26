"""Products by oneDNN against torch's own, and where torch's own are taken."""

import pytest
import torch
import torch.nn.functional as F

from bitgolf.catalog.probes import perturbed
from bitgolf.net import native
from bitgolf.net import products as module
from bitgolf.net.backend import Backend
from bitgolf.net.model import Model, ModelPlan
from bitgolf.net.native import NativeKernels
from bitgolf.net.parts import Linear
from bitgolf.net.products import ENOUGH_ROWS, product, with_fast_products

PLAN = ModelPlan(vocabulary_size=64, layers=2, width=16, heads=4, kv_heads=2)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", [(16, 24), (3, 7, 40), (2, 300, 96)])
def test_a_product_is_that_of_torch(shape):
    x, weight = drawn(*shape), drawn(33, shape[-1])
    exact = F.linear(x.double(), weight.double())
    with torch.inference_mode():
        found, plain = product(x, weight), F.linear(x, weight)
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-5)
    assert float((found - exact).abs().max()) <= 3 * float((plain - exact).abs().max())


def test_few_rows_other_numbers_and_gradients_are_torchs_own(monkeypatch):
    taken = []
    monkeypatch.setattr(module.F, "linear", lambda *given: taken.append(given) or F.relu(given[0]))
    weight = drawn(5, 8)
    product(drawn(ENOUGH_ROWS, 8), weight)
    assert len(taken) == 1, "gradients are wanted"
    with torch.inference_mode():
        product(drawn(ENOUGH_ROWS - 1, 8), weight)
        product(drawn(ENOUGH_ROWS, 8).double(), weight.double())
        assert len(taken) == 3
        product(drawn(ENOUGH_ROWS, 8), weight)
        assert len(taken) == 3 or not torch.backends.mkldnn.is_available()


def test_every_matrix_of_a_model_multiplies_so(monkeypatch):
    rows = torch.arange(40).view(2, 20) % 7
    plain, fast = (
        perturbed(PLAN).use(Backend()).eval(),
        with_fast_products(perturbed(PLAN).use(Backend()).eval()),
    )
    matrices = [each for each in fast.modules() if isinstance(each, Linear)]
    assert {each.multiply for each in matrices} == {product} and len(matrices) == 6 * PLAN.layers
    counted = []
    for each in matrices:
        monkeypatch.setitem(
            vars(each), "multiply", lambda x, weight: counted.append(x) or F.linear(x, weight)
        )
    with torch.inference_mode():
        hidden = fast.hidden(rows)
        assert torch.equal(hidden, plain.hidden(rows))
        assert len(counted) == 4 * PLAN.layers  # queries, keys and values are one
        monkeypatch.setattr(native, "product", lambda x, weight: counted.append(x) or F.linear(x, weight))
        fast.kernels = NativeKernels()
        fast.logits_of(hidden)
    assert len(counted) == 4 * PLAN.layers + 1
    monkeypatch.undo()
    with torch.inference_mode():
        torch.testing.assert_close(fast.logits(rows), plain.logits(rows), rtol=1e-5, atol=1e-5)
    assert isinstance(fast, Model)
