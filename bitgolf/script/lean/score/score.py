"""Nats per token on a model, window by window, with the bytes that each token stands for."""

import time

import numpy as np
import torch

from bitgolf.net.model import Model
from bitgolf.score.exam import Exam
from bitgolf.score.score import ScorePlan, _exam_taken, _laid_out, document_starts
from bitgolf.score.windows import Chunked
from bitgolf.script.lean.text.tokenizer import Tokenizer
from bitgolf.train.world import World


def score(
    model: Model, tokens: np.ndarray, tokenizer: Tokenizer, plan: ScorePlan, world: World, until: float
) -> tuple[dict[str, np.ndarray], float]:
    """A row per target, as columns, for every window of the plan, and the share scored in the time given.

    By the model as it is packed: nothing adapts, nothing is mixed in.

    document, position: where a target stands. bytes: of its text. context: how many tokens the model saw
    before it. The processes share the work. until: the clock after which no batch is begun.
    """
    if plan.limit_tokens:
        tokens = tokens[: plan.limit_tokens + 1]
    device, starts = model.backend.device, document_starts(tokens, tokenizer.bos)
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
    for batch in batches[world.rank :: world.size] if plan.windows.alone else batches * (world.rank == 0):
        if time.perf_counter() > until:
            break
        rows = np.stack([tokens[windows[i].start : windows[i].end + 1] for i in batch]).astype(np.int64)
        scored = windows[batch[0]].end - windows[batch[0]].first_scored
        with torch.inference_mode():
            stream = torch.from_numpy(rows).to(device)
            hidden = states(batch, stream[:, :-1], scored)
            batch_nats = model.nats_of(hidden, stream[:, -scored:]).float().cpu().numpy()
        nats[places[batch][:, None] + np.arange(scored)] = batch_nats
        done += batch_nats.size
    model.window = 0
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


def adapted_nats(
    model: Model, tokens: np.ndarray, tokenizer: Tokenizer, plan: ScorePlan, world: World, until: float
) -> tuple[np.ndarray, float]:
    """The nats of `score` where the model adapts or something is mixed in, and their share.

    The processes share the work where it can be shared, else each does all of it. The first decides when the
    time has come; its end ends the others.
    """
    if plan.limit_tokens:
        tokens = tokens[: plan.limit_tokens + 1]
    starts = document_starts(tokens, tokenizer.bos)
    windows, parts = _laid_out(plan, len(tokens), starts, 0)
    exam = Exam(tokens, windows, again=plan.windows.counts_again)
    model.window = plan.windows.longest()
    for _ in _exam_taken(model, exam, tokenizer, plan, starts, parts, world):  # type: ignore[arg-type]
        if world.rank == 0 and time.perf_counter() > until:
            break
    model.window = 0
    return exam.nats, np.isfinite(exam.nats).mean()
