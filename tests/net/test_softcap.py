"""Softcapped logits as machine code against torch's."""

import numpy as np
import torch

from bitgolf.net.softcap import cap_rows, cap_rows_plainly, softcap_


def test_logits_are_capped_as_torch_does():
    draw = torch.Generator().manual_seed(1)
    x = torch.cat([size * torch.randn(5, 333, generator=draw) for size in (1e-6, 0.1, 10.0, 1e3)], 1)
    x[0, :5] = torch.tensor([0.0, -0.0, 1e30, -1e30, 1e-30])
    exact, plain = (30 * torch.tanh(each / 30) for each in (x.double(), x))
    found = softcap_(x.clone(), 30.0)
    torch.testing.assert_close(found.double(), exact, rtol=4e-7, atol=1e-30)
    torch.testing.assert_close(found, plain, rtol=6e-7, atol=1e-30)
    by_hand = x.numpy().copy()
    cap_rows_plainly(by_hand, np.float32(30))
    np.testing.assert_allclose(by_hand, found.numpy(), rtol=4e-7)
    assert cap_rows is not cap_rows_plainly


def test_it_takes_the_place_of_what_is_given():
    x = torch.linspace(-9, 9, 40).view(4, 10)
    given = x.clone()
    assert softcap_(given, 5.0).data_ptr() == given.data_ptr()
    for other in (x.double(), x.T):
        torch.testing.assert_close(softcap_(other.clone(), 5.0), 5 * torch.tanh(other / 5))
