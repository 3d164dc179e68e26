"""Tuning after rounding: gains and mixes are trained to recover a part of what the matrices lost."""

import dataclasses
from collections.abc import Generator

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.base.plan import setting
from bitgolf.net.model import Model, keyed_generator
from bitgolf.squeeze.hessian import drawn_text
from bitgolf.squeeze.quantize import Tuning
from bitgolf.text.shards import TokenStream

MOMENTS = (0.9, 0.95)  # of Adam


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneControls(Tuning):
    """Small tensors are trained for some steps, so that the rounded model predicts what the float model does.

    What: Adam on gains, mixes and other small tensors minimises the KL divergence between the predictions of
        both models on training text. Then they are rounded by their own rules.
    Source: none; measured here (docs/packing.md)
    Cost: no bytes; `steps` passes, forward with one model, forward and backward with the other: some 20
        seconds of one core for a million weights. 4 to 9% of the gap at four bits a weight.
    Not for: rules under which no training text may be read after training; barely trained models, where
        nothing was gained
    Neutral: use NoTuning
    """

    steps: int = setting(30, at_least=1)
    step_tokens: int = setting(2048, at_least=1)  # at least one sequence
    lr: float = setting(0.002, above=0)  # falls linearly to zero
    seed: int = setting(0, at_least=0)

    def tune(
        self, exact: Model, rounded: Model, names: list[str], stream: TokenStream, length: int, trial: bool
    ) -> Generator[tuple[int, int], None, dict[str, Tensor]]:
        generator, steps = keyed_generator(self.seed, "tune"), 1 if trial else self.steps
        parameters = dict(rounded.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in names)
        rows = 1 if trial else max(1, self.step_tokens // length)
        adam = torch.optim.Adam([parameters[name] for name in names], lr=self.lr, betas=MOMENTS)
        for step in range(steps):
            yield step, steps
            ids = drawn_text(stream, rows, length, generator).to(rounded.backend.device)
            with torch.no_grad():
                target = F.log_softmax(exact.logits(ids).flatten(0, 1), dim=-1)
            predicted = F.log_softmax(rounded.logits(ids).flatten(0, 1), dim=-1)
            adam.param_groups[0]["lr"] = self.lr * (1 - step / steps)
            adam.zero_grad()
            F.kl_div(predicted, target, reduction="batchmean", log_target=True).backward()
            adam.step()
        yield steps, steps
        return {name: parameters[name].detach().float().cpu() for name in names}
