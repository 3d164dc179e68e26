"""Fine-tuning while packing: tensors that are not rounded recover a part of what the rounded ones lost."""

import dataclasses
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.base.plan import setting
from bitgolf.net.model import Model, keyed_generator
from bitgolf.squeeze.hessian import drawn_text
from bitgolf.squeeze.quantize import Tuning, TuningTask

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

    def tune(self, task: TuningTask) -> Generator[tuple[int, int], None, dict[str, Tensor]]:
        generator, steps = keyed_generator(self.seed, "tune"), 1 if task.trial else self.steps
        rows = 1 if task.trial else max(1, self.step_tokens // task.length)
        task.student.load_state_dict(task.rounded(dict(task.student.named_parameters()), {}))
        fitting = Fitting(task.exact, task.student, dict.fromkeys(task.small, self.lr))
        for done, share in enumerate(falling(steps)):
            yield done, steps
            fitting.distill(drawn_text(task.stream, rows, task.length, generator), share)
        yield steps, steps
        return weights_of(task.student, task.small)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneByTensor(Tuning):
    """Tensors rounded one after another; after each, all that are not rounded yet are fine-tuned.

    What: tables are rounded first, then the matrices of each layer. After each of them Adam trains all
        tensors that are still unrounded for `steps` steps, against the KL divergence between the predictions
        of the unrounded and the partly rounded model on training text. So later tensors make good what
        earlier ones lost. At the end small tensors alone are trained for `small_steps`, then rounded by their
        own rules.
    Source: QuIP# (arXiv:2402.04396, section 4) and AQLM (arXiv:2401.06118), which fit outputs of layers;
        measured here (docs/packing.md)
    Cost: no bytes; so many passes, forward with one model, forward and backward with the other; twice as many
        where the first result does not fit a budget.
    Not for: rules under which no training text may be read after training; packing within seconds
    Neutral: use NoTuning
    """

    one_rate: ClassVar[bool] = True

    steps: int = setting(10, at_least=1)
    small_steps: int = setting(40, at_least=1)
    step_tokens: int = setting(2048, at_least=1)  # at least one sequence
    lr: float = setting(0.002, above=0)  # of matrices and tables, times the root mean square of the weights
    small_lr: float = setting(0.002, above=0)  # of small tensors
    seed: int = setting(0, at_least=0)

    def tune(self, task: TuningTask) -> Generator[tuple[int, int], None, dict[str, Tensor]]:
        generator, student = keyed_generator(self.seed, "tune"), task.student
        rows = 1 if task.trial else max(1, self.step_tokens // task.length)
        parameters, found = dict(student.named_parameters()), dict[str, Tensor]()
        rates = {name: self.lr * root_mean_square(parameters[name]) for name in parameters}
        fitting = Fitting(task.exact, student, rates | dict.fromkeys(task.small, self.small_lr))
        stages = [[name] for name in in_order(name for name in parameters if name not in task.small)] or [[]]
        counts = [self.steps] * (len(stages) - 1) + [self.small_steps]
        counts = [1] * len(stages) if task.trial else counts
        done = 0
        for names, steps in zip(stages, counts):
            found |= (unrounded := weights_of(student, names))
            student.load_state_dict(task.rounded(names, unrounded), strict=False)
            fitting.freeze(names)
            for share in falling(steps):
                yield done, sum(counts)
                fitting.distill(drawn_text(task.stream, rows, task.length, generator), share)
                done += 1
        yield done, done
        return found | weights_of(student, task.small)


class Fitting:
    """Adam on tensors of a student, so that it predicts what the exact model does.

    rates: of Adam, by name, before they fall; a tensor without one keeps its values.
    """

    def __init__(self, exact: Model, student: Model, rates: Mapping[str, float]) -> None:
        self.exact, self.student, self.parameters = exact, student, dict(student.named_parameters())
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in rates)
        groups = [{"params": [self.parameters[name]], "first": rate} for name, rate in rates.items()]
        self.adam = torch.optim.Adam(groups, betas=MOMENTS)

    def freeze(self, names: Iterable[str]) -> None:
        """These tensors keep their values from now on."""
        for name in names:
            self.parameters[name].requires_grad_(False)

    def distill(self, text: Tensor, share: float) -> None:
        """One step towards the exact model, on token ids (sequences, length), at this share of the rates."""
        ids = text.to(self.student.backend.device)
        with torch.no_grad():
            target = F.log_softmax(self.exact.logits(ids).flatten(0, 1), dim=-1)
        predicted = F.log_softmax(self.student.logits(ids).flatten(0, 1), dim=-1)
        for group in self.adam.param_groups:
            group["lr"] = group["first"] * share
        self.adam.zero_grad()
        F.kl_div(predicted, target, reduction="batchmean", log_target=True).backward()
        self.adam.step()


def falling(steps: int) -> Iterator[float]:
    """Shares of a rate that falls to zero in a line, for so many steps."""
    return (1 - step / steps for step in range(steps))


def in_order(names: Iterable[str]) -> list[str]:
    """Names of tensors as the model uses them: those of no layer first, then layer by layer."""
    return sorted(names, key=lambda name: int(name.split(".")[1]) if name.startswith("blocks.") else -1)


def root_mean_square(weight: Tensor) -> float:
    """Of all its numbers."""
    return float(weight.detach().float().square().mean().sqrt())


def weights_of(model: Model, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of tensors of a model, float32 on the CPU, by name."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().float().cpu().clone() for name in names}
