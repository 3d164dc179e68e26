"""Nats per token on a model, window by window, with the bytes that each token stands for."""

import time

import numpy as np
import torch

from bitgolf.net.model import Model
from bitgolf.score.exam import Exam
from bitgolf.score.mixer import Mixture, mixture_of
from bitgolf.score.score import ScorePlan, _exam_taken, _laid_out, document_starts
from bitgolf.score.windows import Chunked, States, Window
from bitgolf.script.lean.text.tokenizer import Tokenizer
from bitgolf.train.world import World


def score(
    model: Model, tokens: np.ndarray, tokenizer: Tokenizer, plan: ScorePlan, world: World, seconds: float
) -> tuple[dict[str, np.ndarray], float]:
    """A row per target, as columns, for every window of the plan, and the share scored in the time given.

    document, position: where a target stands. bytes: of its text. context: how many tokens the model saw
    before it. The processes share the work. seconds: after which no batch is begun; 0 sets no limit.
    """
    if plan.limit_tokens:
        tokens = tokens[: plan.limit_tokens + 1]
    started, starts = time.perf_counter(), document_starts(tokens, tokenizer.bos)
    windows = list(plan.windows.windows(len(tokens), starts.tolist()))
    inputs = np.concatenate([np.arange(window.first_scored, window.end) for window in windows])
    nats, done = np.zeros(len(inputs), np.float32), 0
    model.window = plan.windows.longest()
    places = np.cumsum([0, *(window.end - window.first_scored for window in windows)])
    states = plan.windows.states(  # of chunks, all positions are scored
        lambda _, inputs, scored: model.hidden(inputs, 0 if isinstance(plan.windows, Chunked) else scored),
        model,
        windows,
    )
    batches = list(plan.windows.batches(windows, range(len(windows)), plan.batch_tokens))
    batches = batches[world.rank :: world.size] if plan.windows.alone else batches * (world.rank == 0)
    if plan.mixers:  # they read the stream in its order, so one process reads all of it
        mixture = mixture_of(plan.mixers, model.plan.vocabulary_size, tokenizer)  # type: ignore[arg-type]
        order = mixture is not None
        batches = list(plan.windows.batches(windows, range(len(windows)), plan.batch_tokens, order))
        batches *= world.rank == 0
    for batch in batches:
        if seconds and time.perf_counter() - started > seconds:
            break
        batch_nats = (
            _mixed_nats(model, states, tokens, windows, batch, mixture)
            if plan.mixers
            else _scored_nats(model, states, tokens, windows, batch)
        )
        nats[places[batch][:, None] + np.arange(batch_nats.shape[1])] = batch_nats
        done += batch_nats.size
    model.window = 0
    device = model.backend.device
    nats = world.sum(torch.from_numpy(nats).to(device)).cpu().numpy()
    share = world.sum(torch.tensor(done, device=device)).item() / len(inputs)
    target, document = tokens[inputs + 1], np.searchsorted(starts, inputs, side="right") - 1
    firsts = np.repeat([window.start for window in windows], [w.end - w.first_scored for w in windows])
    columns = {
        "bytes": tokenizer.token_bytes(target, tokens[inputs]),
        "document": document,
        "position": inputs - starts[document],
        "context": inputs - firsts + 1,
    }
    whole = {name: column.astype(np.int32) for name, column in columns.items()}
    return {"target": target, "nats": nats, **whole}, share


def _mixed_nats(
    model: Model,
    states: States,
    tokens: np.ndarray,
    windows: list[Window],
    batch: list[int],
    mixture: Mixture | None,
) -> np.ndarray:
    """(windows, scored) nats of the model with what is mixed in."""
    if mixture is None:
        return _scored_nats(model, states, tokens, windows, batch)
    rows = np.stack([tokens[windows[i].start : windows[i].end + 1] for i in batch]).astype(np.int64)
    scored = windows[batch[0]].end - windows[batch[0]].first_scored
    with torch.inference_mode():
        inputs = torch.from_numpy(rows[:, :-1]).to(model.backend.device)
        given = zip(states(batch, inputs, scored), rows[:, -scored:], strict=True)
        return np.stack([mixture.nats(model.logits_of(h), h, targets) for h, targets in given])


def adapted_nats(
    model: Model, tokens: np.ndarray, tokenizer: Tokenizer, plan: ScorePlan, world: World, seconds: float
) -> tuple[np.ndarray, float]:
    """The nats of `score` where the model adapts, part after part on each process, and their share."""
    if plan.limit_tokens:
        tokens = tokens[: plan.limit_tokens + 1]
    started, starts = time.perf_counter(), document_starts(tokens, tokenizer.bos)
    windows, parts = _laid_out(plan, len(tokens), starts, 0)
    exam = Exam(tokens, windows, again=plan.windows.counts_again)
    model.window = plan.windows.longest()
    for _ in _exam_taken(model, exam, tokenizer, plan, starts, parts, world):  # type: ignore[arg-type]
        if seconds and time.perf_counter() - started > seconds:
            break
    model.window = 0
    return exam.nats, world.from_first(float(np.isfinite(exam.nats).mean()))


def _scored_nats(
    model: Model, states: States, tokens: np.ndarray, windows: list[Window], batch: list[int]
) -> np.ndarray:
    """(windows, scored) nats; the head is computed only where it is asked for."""
    rows = np.stack([tokens[windows[i].start : windows[i].end + 1] for i in batch]).astype(np.int64)
    scored = windows[batch[0]].end - windows[batch[0]].first_scored
    with torch.inference_mode():
        stream = torch.from_numpy(rows).to(model.backend.device)
        hidden = states(batch, stream[:, :-1], scored)
        return model.nats_of(hidden, stream[:, -scored:]).float().cpu().numpy()
