"""Forward and backward pass of a whole model."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from bitgolf.net.backend import Backend
from bitgolf.net.model import Model
from bitgolf.public.checkpoints import renamed
from bitgolf.squeeze.quantize import QuantizePlan, QuantRule
from bitgolf.train.qat import CustomGradient, FakeQuantize, Noise, SigmoidRound
from bitgolf.train.schedule import Progress
from tests.golden_cases.case import Case, NotCoveredError
from tests.golden_cases.compare import close, close_figure, limits
from tests.golden_cases.documents import given_documents
from tests.golden_cases.fakes import fake_quantizer, soft_quantizer, soft_sharpness, trains_on_codes
from tests.golden_cases.network import bank_members, by_public_layers, looping, public_model


def check(case: Case) -> None:
    inputs, targets = (case.tensors[name].long() for name in ("input_ids", "target_ids"))
    shape = tuple(case.arguments[name] for name in ("batch", "seq"))
    assert tuple(inputs.shape) == tuple(targets.shape) == shape
    active, trains = looping(case), case.arguments.get("train_mode", False)
    for backend in (Backend(), Backend(attention="chunk", fused=True)):
        model = public_model(case, *given_documents(case, inputs.shape[1])).use(backend)
        model.train(trains or not active).at(1.0 if active else 0.0)
        check_outputs(case, model, fake_weights(case, model), inputs, targets)
        check_further_heads(case, model, inputs, targets)
    for name in case.arguments.get("grad_tensors", ()):
        assert f"out.grad.{name}" in case.tensors
    # What the script itself differs by in float64 must leave room within the tolerance.
    for name, gap in (("mean_loss", "fp64_run_loss_gap"), ("out.logits", "fp64_run_max_abs_logit_gap")):
        assert case.expected.get(gap, 0.0) < limits(case, name)["abs"]


def check_further_heads(case: Case, model: Model, inputs: Tensor, targets: Tensor) -> None:
    """The losses behind that of a model with further heads."""
    if "main_loss" not in case.expected:
        return
    hidden, allowed = model.hidden(inputs), limits(case, "mean_loss")["abs"]
    losses = [model.nats_of(hidden, targets).mean()]
    for k in range(len(case.expected["extra_cross_entropies"])):
        head = getattr(model.mtp_heads, str(k)).weight
        losses.append(model.nats_of(hidden[:, : -k - 1], targets[:, k + 1 :], head).mean())
    expected = [case.expected["main_loss"], *case.expected["extra_cross_entropies"]]
    assert torch.stack(losses).tolist() == pytest.approx(expected, abs=allowed)


class Forward(torch.nn.Module):
    """Every output of a model in one call, so that other weights can stand in for its own."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        return model.logits(inputs), model.nats(inputs, targets), model.loss(inputs, targets)


def fake_weights(case: Case, model: Model) -> Mapping[str, Tensor | CustomGradient]:
    """What stands in for the weights of a case that trains on quantized ones: its single linear layers."""
    always = case.arguments.get("train_mode", False) and trains_on_codes(case)
    if not (case.arguments.get("qat") or always):
        return {}
    own = {*renamed(case.tensors.starting("weights."))}  # a matrix in a bank is no layer
    linears = [
        name
        for name, tensor in model.named_parameters()
        if tensor.ndim == 2 and name in own and name.endswith(".weight") and not name.endswith("emb.weight")
    ]
    linears = [name for name in linears if not name.endswith("embed.weight")]
    sharpness, patterns = soft_sharpness(case), tuple(linears)
    quantizer = soft_quantizer() if sharpness else fake_quantizer(case)
    rules = QuantizePlan(rules=(QuantRule(quantizer=quantizer),))
    noise: Noise = FakeQuantize(patterns=patterns)
    if sharpness:
        noise = SigmoidRound(softest=sharpness, hardest=sharpness, patterns=patterns)
    return noise.fake_quantized(dict(model.named_parameters()), rules, Progress(1, 2), 1.0)


def check_outputs(
    case: Case, model: Model, fakes: Mapping[str, Tensor | CustomGradient], inputs: Tensor, targets: Tensor
) -> None:
    values = {name: fake.values if isinstance(fake, CustomGradient) else fake for name, fake in fakes.items()}
    leaves = {f"model.{name}": tensor.clone().requires_grad_() for name, tensor in values.items()}
    logits, nats, loss = functional_call(Forward(model), leaves, (inputs, targets))
    close(case, "out.logits", logits)
    close(case, "out.nll", nats)
    close_figure(case, "mean_loss", loss.item())
    loss.backward()
    gradients = {name: tensor.grad for name, tensor in model.named_parameters()}
    for name, fake in fakes.items():
        gradient = leaves[f"model.{name}"].grad
        gradients[name] = fake.backward(gradient) if isinstance(fake, CustomGradient) else gradient
    check_gradients(case, by_public_layers(case, gradients))


def check_gradients(case: Case, gradients: dict[str, Tensor | None]) -> None:
    """Lengths of gradients by public names: a bank's is that of all its matrices together."""
    allowed = limits(case, "grad_l2_norms")
    for name, norm in case.expected["grad_l2_norms"].items():
        members = [name] if name in gradients else bank_members(case, name)
        found = [gradient for member in members if (gradient := gradients.get(member)) is not None]
        if norm is None:
            assert not any(bool(gradient.any()) for gradient in found), f"{name} has a gradient"
            continue
        assert found, f"{name} has no gradient"
        length = torch.stack([gradient.norm() for gradient in found]).norm().item()
        assert abs(length - norm) <= allowed["rel"] * norm + allowed["abs"], name
    for name in [name for name in case.tensors if name.startswith("out.grad.")]:
        public = name.removeprefix("out.grad.")
        members = [public] if public in gradients else bank_members(case, public)
        if not members:
            raise NotCoveredError(f"the gradient of {public}")
        found = torch.stack([gradients[member] for member in members])
        close(case, name, found.view_as(case.tensors[name]))
