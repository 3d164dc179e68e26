"""The training loop: a generator of step reports; its caller prints, saves or stops."""

import bisect
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from bitgolf.base.errors import CheckpointError, DataError, PlanError
from bitgolf.base.plan import Plan, setting
from bitgolf.base.tensors import read_tensors, write_tensors
from bitgolf.net.model import Model
from bitgolf.squeeze.quantize import QuantizePlan
from bitgolf.text.batches import Order
from bitgolf.text.shards import TokenStream
from bitgolf.train.average import Averager
from bitgolf.train.optim import Optimizers
from bitgolf.train.qat import CustomGradient, Noise, NoNoise
from bitgolf.train.schedule import Progress
from bitgolf.train.world import World

CPU_FORWARD_TOKENS = 8192  # more costs memory and is no faster
PUBLIC_MICRO_BATCHES = 8  # per step and over all processes, in the public scripts
CLIP_EPSILON = 1e-6
STATE_PARTS = ("weights", "optimizer", "averaged", "random")
STATE_FACTS = {"identity": str, "step": int, "seconds": float, "position": int, "tokens": int, "dtype": str}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Plan):
    """A part of the training with its own batch or sequence length; 0 keeps the recipe's."""

    until: float = setting(0.5, above=0.0, at_most=1.0)
    batch_tokens: int = setting(0, at_least=0)
    sequence_length: int = setting(0, at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainPlan(Plan):
    """How long to train, and with which batches.

    train_seconds: the clock; 0 sets none. The training ends at `steps` or at the clock, whichever is first.
    step_seconds: the time that a step counts on that clock; 0 measures it. With the step time of a published
    run, any machine has that run's rates and number of steps.
    tokens: to be trained on; 0 sets no such end. The first step that reaches them is the last, unless `steps`
    or the clock ends the training before. Schedules follow, as if `steps` were the steps of these tokens.
    expected_steps: about how many steps fit into the clock on the machine that a recipe was made for; only
    forecasts and laptop forms use it. 0: `steps`.
    batch_tokens: of one step, over all processes and micro-batches.
    accumulation: micro-batches per step and process; 0 makes them 8 over all processes, as in public.
    forward_tokens: most tokens in one pass through the model. A larger micro-batch is cut by sequences, which
    gives the same gradient with less memory. 0 cuts at 8,192 on a CPU and never on a GPU.
    priming_steps: steps on synthetic batches before the clock starts, then undone.
    grad_clip_norm: largest norm of the gradient of all parameters together; 0 clips nothing.
    stages: parts of the training, in order, whose batches differ (a schedule of batch or sequence length).
    checkpoint_seconds, log_steps: how often the caller saves the state and a line of metrics.
    validate_steps: every so many steps, and after the last, the current weights score the validation text,
    with the clock stopped; 0 never. No bit of the training depends on it.
    """

    steps: int = setting(20000, at_least=1)
    train_seconds: float = setting(600.0, at_least=0.0)
    step_seconds: float = setting(0.0, at_least=0.0)
    tokens: int = setting(0, at_least=0)
    expected_steps: int = setting(0, at_least=0)
    batch_tokens: int = setting(524288, at_least=1)
    accumulation: int = setting(0, at_least=0)
    forward_tokens: int = setting(0, at_least=0)
    priming_steps: int = setting(0, at_least=0)
    grad_clip_norm: float = setting(0.0, at_least=0.0)
    stages: tuple[Stage, ...] = ()
    checkpoint_seconds: float = setting(60.0, at_least=0.0)
    log_steps: int = setting(1, at_least=1)
    validate_steps: int = setting(0, at_least=0)

    def validate(self) -> Iterator[str]:
        ends = [stage.until for stage in self.stages]
        if ends != sorted(set(ends)):
            yield f"stages: each must end later than the one before, found {ends}"
        elif self.tokens:
            yield from self._token_problems()

    def _token_problems(self) -> Iterator[str]:
        first, seen = self.staged(0.0, 0)[0], self.seen_tokens(self.steps)
        if self.tokens < first:
            yield f"tokens: one step sees {first:,}, found {self.tokens:,}; 0 sets no such end"
        elif self.tokens > seen:
            yield (
                f"tokens: {self.steps:,} steps see {seen:,}, found {self.tokens:,}; raise train.steps, "
                "or train.tokens=0"
            )
        if self.train_seconds and {stage.batch_tokens for stage in self.stages} - {0, self.batch_tokens}:
            yield (
                "tokens: where stages change batch_tokens, a clock leaves open what a step sees; "
                "set train.train_seconds=0, or train.tokens=0"
            )

    def seen_tokens(self, steps: int) -> int:
        """The tokens of a training of this many steps that no clock ends."""
        steps_at = partial(bisect.bisect_left, range(steps), key=lambda step: step / steps)
        starts = [0, *(steps_at(stage.until) for stage in self.stages), steps]
        batches = [*(stage.batch_tokens or self.batch_tokens for stage in self.stages), self.batch_tokens]
        return sum((end - start) * tokens for start, end, tokens in zip(starts, starts[1:], batches))

    def in_steps(self) -> Self:
        """The plan with `steps` at the fewest that reach `tokens`, if tokens end the training."""
        if self.tokens == 0:
            return self
        steps = bisect.bisect_left(range(self.steps), self.tokens, key=self.seen_tokens)
        return self.replace(steps=steps, tokens=0)

    def validates(self, step: int, ended: bool) -> bool:
        """Whether the validation text is scored after this step; ended: whether it is the last."""
        return self.validate_steps > 0 and (ended or step % self.validate_steps == 0)

    def staged(self, progress: float, length: int) -> tuple[int, int]:
        """Batch tokens and sequence length at this progress; length: the recipe's."""
        for stage in self.stages:
            if progress < stage.until:
                return stage.batch_tokens or self.batch_tokens, stage.sequence_length or length
        return self.batch_tokens, length

    def micro_batches(self, world_size: int) -> int:
        """Micro-batches per step on each process. Raises PlanError if eight cannot be divided among them."""
        if self.accumulation:
            return self.accumulation
        if PUBLIC_MICRO_BATCHES % world_size:
            raise PlanError(
                [f"train.accumulation: 0 needs a number of processes that divides 8, found {world_size}"]
            )
        return PUBLIC_MICRO_BATCHES // world_size

    def rows(self, length: int, world_size: int, batch_tokens: int = 0) -> int:
        """Sequences in each micro-batch. Raises PlanError when batch_tokens does not divide."""
        tokens = batch_tokens or self.batch_tokens
        parts = self.micro_batches(world_size) * world_size
        if tokens % (parts * length):
            raise PlanError(
                [
                    f"train.batch_tokens: {tokens} must be a multiple of {parts * length} "
                    f"({parts} micro-batches of sequences of {length} tokens)"
                ]
            )
        return tokens // (parts * length)

    def forward_rows(self, length: int, device: torch.device) -> int:
        """The largest number of sequences in one pass through the model."""
        whole = self.batch_tokens if device.type == "cuda" else CPU_FORWARD_TOKENS
        return max(1, (self.forward_tokens or whole) // length)


class BatchSource(Protocol):
    """A source of batches; its only state between two batches is the position."""

    @property
    def length(self) -> int:
        """Tokens in one sequence."""

    def next_batch(self, position: int, rows: int, world: World, length: int) -> tuple[Tensor, Tensor, int]:
        """Inputs and targets (rows, length) of this process, and the position after all processes' rows."""

    def synthetic(self, rows: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the same shape without data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardBatches:
    """Batches of a token stream, in the order of an `Order`.

    Each micro-batch moves the position past the rows of all processes, so W processes with A micro-batches
    each train on exactly the rows of one process with W * A.
    """

    stream: TokenStream
    order: Order
    length: int
    vocabulary_size: int
    bos: int = -1

    def next_batch(self, position: int, rows: int, world: World, length: int) -> tuple[Tensor, Tensor, int]:
        batch, position = self.order.next_batch(
            self.stream, position, rows, length, world.size, world.rank, self.bos
        )
        inputs, targets = torch.as_tensor(batch.inputs), torch.as_tensor(batch.targets)
        if (largest := max(int(inputs.max()), int(targets.max()))) >= self.vocabulary_size:
            raise DataError(
                f"a training token is past the vocabulary of {self.vocabulary_size}",
                where=str(self.stream.paths[0].parent),
                value=largest,
                way_out="the shards were changed; check them with `bitgolf data FOLDER`",
            )
        return inputs, targets, position

    def synthetic(self, rows: int) -> tuple[Tensor, Tensor]:
        ids = torch.arange(rows * (self.length + 1)).view(rows, -1) % self.vocabulary_size
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


@dataclasses.dataclass(kw_only=True)
class State:
    """The complete state of a training between two steps. Reports have the live tensors, no copies."""

    identity: str = ""
    step: int = 0
    seconds: float = 0.0
    position: int = 0
    tokens: int = 0
    dtype: str = ""  # number type of the steps; empty in files of older versions
    weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    optimizer: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    averaged: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    random: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def copy(self) -> Self:
        """A copy of all values."""
        copied = dataclasses.replace(self)
        for part in STATE_PARTS:
            tensors = {name: tensor.detach().clone() for name, tensor in getattr(self, part).items()}
            setattr(copied, part, tensors)
        return copied

    def save(self, path: Path) -> None:
        """Write one file, whole or not at all. With several processes only the first one should."""
        tensors = {f"{part}/{k}": v for part in STATE_PARTS for k, v in getattr(self, part).items()}
        write_tensors(path, tensors, {name: getattr(self, name) for name in STATE_FACTS})

    @classmethod
    def load(cls, path: Path, identity: str) -> Self:
        """Read a file of `save`. Raises CheckpointError for a damaged file or another recipe."""
        tensors, facts = read_tensors(path)
        facts = {"dtype": "", **facts}
        odd = [
            name for name in {**facts, **STATE_FACTS} if type(facts.get(name)) is not STATE_FACTS.get(name)
        ]
        numbers = [name for name in facts if not odd and STATE_FACTS[name] is not str]
        odd += [name for name in numbers if not 0 <= facts[name] < math.inf]
        odd += [key for key in tensors if key.partition("/")[0] not in STATE_PARTS]
        if odd:
            raise CheckpointError("not a training state", where=str(path), value=odd[0])
        if facts["identity"] != identity:
            raise CheckpointError(
                f"state of another recipe than {identity!r}",
                where=str(path),
                value=facts["identity"],
                way_out="resume with the recipe, seed and data of that run, or train into another folder",
            )
        state = cls(**facts)
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            getattr(state, part)[name] = tensor
        return state

    def restore(self, model: nn.Module, optimizers: Optimizers) -> None:
        """Set a model and its optimizers to this state. Raises CheckpointError for another model."""
        live = model.state_dict()
        if {k: v.shape for k, v in live.items()} != {k: v.shape for k, v in self.weights.items()}:
            odd = sorted(set(live) ^ set(self.weights)) or ["shapes differ"]
            raise CheckpointError("state of another model", value=odd[0])
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(self.weights[name])
        optimizers.restore(self.optimizer)
        torch.set_rng_state(self.random["cpu"].cpu())
        if "cuda" in self.random and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.random["cuda"].cpu())


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepReport:
    """The result of one step.

    status: running, finished (the last one), or diverged (also the last; weights as before the bad step).
    nats_per_token: loss of the global batch before the step. gradient_norm: before clipping.
    seconds: of training so far, without the caller's work between two reports.
    """

    step: int
    steps: int
    seconds: float
    progress: float
    nats_per_token: float
    scale: float
    momentum: float
    gradient_norm: float
    tokens: int
    tokens_per_second: float
    status: str
    state: State

    def row(self) -> dict[str, Any]:
        """The report as one line of metrics."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "state"}


def train(
    model: Model,
    plan: TrainPlan,
    optimizers: Optimizers,
    averager: Averager,
    batches: BatchSource,
    *,
    clock: Callable[[], float] = time.perf_counter,
    world: World = World(),
    state: State | None = None,
    identity: str = "",
    noise: Noise = NoNoise(),
    quantize: QuantizePlan = QuantizePlan(),
) -> Iterator[StepReport]:
    """Train, yielding a report after every step; the clock is stopped while the caller has the report.

    noise, quantize: quantization noise on the weights while a loss is computed, and its rules.
    state: from `State.load`, to continue from there; if nothing is left to do, no report is yielded.
    Each report carries the whole state: save or copy it before asking for the next report.
    """
    device, plan = next(model.parameters()).device, plan.in_steps()
    for start in (0.0, *(stage.until for stage in plan.stages)):
        _sizes(plan, batches, world, start)  # a stage that does not divide fails now
    state = _begin(model, optimizers, averager, state, identity)
    _prime(model, plan, optimizers, batches, world, state)
    model.train()
    diverged, started = False, clock()
    while not diverged and (before := _progress(plan, state)).fraction < 1.0:
        lr_scale, momentum = optimizers.plan.schedule.lr_scale(before), optimizers.momentum(before)
        tokens, length, rows = _sizes(plan, batches, world, before.fraction)
        pairs, position = _pairs(plan, batches, world, state.position, rows, length)
        model.at(before.fraction)
        noisy = noise.fake_quantized(optimizers.parameters, quantize, before, lr_scale)
        with swapped_weights(optimizers, noisy):
            loss, norm = gradients_of(model, optimizers, cut(pairs, plan.forward_rows(length, device)), world)
        diverged = not (math.isfinite(loss) and math.isfinite(norm))
        if not diverged:
            clipped_step(plan, optimizers, lr_scale, before, norm)
            state.step, state.position, state.tokens = state.step + 1, position, state.tokens + tokens
            state.averaged = averager.update(state.averaged, state.weights, _progress(plan, state), lr_scale)
            state.optimizer, state.random = optimizers.state(), _random_state()
        _wait(state.weights)
        spent = world.broadcast(clock() - started)
        state.seconds += spent
        fraction = _progress(plan, state).fraction
        yield StepReport(
            step=state.step,
            steps=plan.steps,
            seconds=state.seconds,
            progress=min(fraction, 1.0),
            nats_per_token=loss,
            scale=lr_scale,
            momentum=momentum,
            gradient_norm=norm,
            tokens=state.tokens,
            tokens_per_second=tokens / spent if spent > 0 else 0.0,
            status="diverged" if diverged else "finished" if fraction >= 1.0 else "running",
            state=state,
        )
        started = clock()


def _sizes(plan: TrainPlan, batches: BatchSource, world: World, progress: float) -> tuple[int, int, int]:
    """Tokens of a step, length of a sequence, and rows of a micro-batch at this progress."""
    tokens, length = plan.staged(progress, batches.length)
    return tokens, length, plan.rows(length, world.size, tokens)


def _pairs(
    plan: TrainPlan, batches: BatchSource, world: World, position: int, rows: int, length: int
) -> tuple[list[tuple[Tensor, Tensor]], int]:
    """Inputs and targets of each micro-batch of a step, and the position after them."""
    pairs = []
    for _ in range(plan.micro_batches(world.size)):
        inputs, targets, position = batches.next_batch(position, rows, world, length)
        pairs.append((inputs, targets))
    return pairs, position


def _begin(
    model: nn.Module, optimizers: Optimizers, averager: Averager, saved: State | None, identity: str
) -> State:
    """A state with the live tensors, at the start or at a saved state."""
    if saved is not None:
        saved.restore(model, optimizers)
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    device = next(iter(weights.values())).device
    state = State(identity=identity) if saved is None else saved.copy()
    state.weights, state.optimizer, state.random = weights, optimizers.state(), _random_state()
    if saved is None:
        state.averaged = averager.start(weights)
    else:
        state.averaged = {  # counts stay on the host, which reads them
            name: tensor.to(device) if tensor.is_floating_point() else tensor
            for name, tensor in state.averaged.items()
        }
    return state


def _prime(
    model: nn.Module,
    plan: TrainPlan,
    optimizers: Optimizers,
    batches: BatchSource,
    world: World,
    state: State,
) -> None:
    """Take real steps on synthetic batches, for compilation and first allocations, then undo them."""
    if plan.priming_steps == 0:
        return
    synthetic = [batches.synthetic(plan.rows(batches.length, world.size))] * plan.micro_batches(world.size)
    pieces = cut(synthetic, plan.forward_rows(batches.length, next(model.parameters()).device))
    before = state.copy()
    model.train()
    for step in range(plan.priming_steps):
        _, norm = gradients_of(model, optimizers, pieces, world)
        clipped_step(plan, optimizers, 1.0, Progress(step, plan.steps), norm)
    optimizers.zero()
    before.restore(model, optimizers)
    state.optimizer = optimizers.state()
    _wait(state.weights)


def cut(pairs: list[tuple[Tensor, Tensor]], rows: int) -> list[tuple[Tensor, Tensor]]:
    """The same sequences in the same order, at most `rows` of them at a time."""
    return [piece for pair in pairs for piece in zip(*(tensor.split(rows) for tensor in pair))]


@contextmanager
def swapped_weights(
    optimizers: Optimizers, stand_ins: Mapping[str, Tensor | CustomGradient]
) -> Iterator[None]:
    """Parameters with other values inside the context. Only the values are swapped, so gradients go to the
    parameters and a compiled step sees ordinary inputs."""
    masters = {name: optimizers.parameters[name].data for name in stand_ins}
    hooks = []
    for name, given in stand_ins.items():
        parameter = optimizers.parameters[name]
        parameter.data, backward = given if isinstance(given, CustomGradient) else (given, None)
        if backward is not None and parameter.requires_grad:  # frozen ones have no gradient
            hooks.append(parameter.register_hook(backward))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, values in masters.items():
            optimizers.parameters[name].data = values


def gradients_of(
    model: nn.Module, optimizers: Optimizers, pieces: list[tuple[Tensor, Tensor]], world: World
) -> tuple[float, float]:
    """Compute the gradient of the global batch in the parameters; returns mean loss and gradient norm."""
    optimizers.zero()
    device = next(model.parameters()).device
    rows = sum(len(inputs) for inputs, _ in pieces)
    losses = []
    for inputs, targets in pieces:
        loss = model(inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True))
        share = loss * (len(inputs) / rows)
        share.backward()
        losses.append(share.detach().float())
    gradients = optimizers.gradients()
    mean = torch.stack(losses).sum()
    world.average([*gradients, mean])
    norm = torch.stack([part.float() for part in torch._foreach_norm(gradients)]).norm()
    loss, length = torch.stack([mean, norm]).tolist()  # the only wait for the device before the update
    return loss, length


def clipped_step(plan: TrainPlan, optimizers: Optimizers, lr_scale: float, at: Progress, norm: float) -> None:
    """Take a step of the optimizers, with gradients of this norm clipped as the plan says."""
    if plan.grad_clip_norm > 0:
        factor = plan.grad_clip_norm / (norm + CLIP_EPSILON)
        if factor < 1.0:
            torch._foreach_mul_(optimizers.gradients(), factor)
    optimizers.step(lr_scale, at)


def _progress(plan: TrainPlan, state: State) -> Progress:
    seconds = state.step * plan.step_seconds if plan.step_seconds else state.seconds
    return Progress(state.step, plan.steps, seconds, plan.train_seconds)


def _random_state() -> dict[str, Tensor]:
    """The state of torch's random generators, by name."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _wait(weights: dict[str, Tensor]) -> None:
    """Wait for the device, so that the clock measures finished work."""
    if next(iter(weights.values())).is_cuda:
        torch.cuda.synchronize()
