"""Text from a model, token by token: same seed, same text."""

import codecs
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import numpy as np
import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.net.model import Model
from bitgolf.proof.lanes import Lanes
from bitgolf.text.encoder import Encoder
from bitgolf.text.tokenizer import Tokenizer


def sample(
    model: Model,
    tokenizer: Tokenizer,
    prompt: bytes = b"",
    *,
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 0.95,
    min_p: float = 0.0,
    stop: Sequence[str] = (),
    seed: int = 1337,
    window: int = 256,
) -> Iterator[str]:
    """Continue the prompt; yields pieces of text that together are valid Unicode, without the prompt.

    temperature 0 takes the likeliest token each time. Of the tokens are kept: the top_k likeliest (0: all),
    of those the fewest that together have the probability top_p, of those what is at least min_p times as
    likely as the likeliest. stop: texts before the first of which it ends. window: the tokens of context at
    most; more than the model was trained on does not help. Ends early when the model starts another document.
    Leave the model in float32: one row at a time, bfloat16 is slower on a CPU, and rounds.
    """
    if temperature < 0 or not 0 < top_p <= 1 or window < 1 or top_k < 0 or not 0 <= min_p <= 1:
        raise BitgolfError(
            "cannot sample like this",
            value={
                "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "window": window,
            },
            way_out="temperature, top_k at least 0, top_p in (0, 1], min_p in [0, 1], window at least 1",
        )  # fmt: skip
    ids = [tokenizer.bos] * (tokenizer.bos >= 0) + [int(i) for i in Encoder(tokenizer).encode(prompt)]
    if not ids:
        raise BitgolfError("this tokenizer has no document start", way_out="give a prompt")
    kept = (temperature, top_k, top_p, min_p)
    yield from until(written(model, tokenizer, ids, tokens, kept, np.random.default_rng(seed), window), stop)


def written(
    model: Model,
    tokenizer: Tokenizer,
    ids: list[int],
    tokens: int,
    kept: tuple[float, int, float, float],
    draws: np.random.Generator,
    window: int,
    tell: Callable[[int, np.ndarray], None] | None = None,
) -> Iterator[str]:
    """The pieces of a continuation; ids: what it continues, added to in place. kept: see `choose`.

    tell: is called with each token and the logits that it was drawn from.
    """
    temperature, top_k, top_p, min_p = kept
    text = codecs.getincrementaldecoder("utf-8")("replace")
    done, steps = len(tokenizer.decode(ids)), logits_of(model, ids, window)
    for _ in range(tokens):
        logits = next(steps)
        following = choose(logits, temperature, top_p, draws.random(), top_k, min_p)
        if following == tokenizer.bos:
            break
        if tell:
            tell(following, logits)
        ids.append(following)
        # Decoding from the start keeps the tokenizer's rules about leading spaces in the tokenizer.
        decoded = tokenizer.decode(ids)
        yield text.decode(decoded[done:])
        done = len(decoded)
    yield text.decode(b"", final=True)


def logits_of(model: Model, ids: list[int], window: int) -> Iterator[np.ndarray]:
    """What comes after these tokens, float64 logits, again and again as the list grows by a token.

    Keys and values of tokens in the window are kept. Once it is full it begins again with its second half,
    as windows of sliding scoring do.
    """
    plan = getattr(model, "plan", None)
    model.window = window  # places turn alike however much of it is filled
    if plan is None or plan.looks_back:  # what looks back but by attention keeps no state
        while True:
            yield next_logits(model, ids[-window:])
    lanes = Lanes(model, 1, window, max(1, window // 2), ids[0])
    lanes.prefill(torch.tensor([ids]))
    while True:
        yield lanes.logits()[0].double().cpu().numpy()
        lanes.follow(torch.tensor([ids[-1]]))


def next_logits(model: Model, ids: list[int]) -> np.ndarray:
    """What the model expects after these tokens, as float64 logits; nothing is kept."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        return model.logits(torch.tensor([ids], device=device))[0, -1].double().cpu().numpy()


def choose(
    logits: np.ndarray, temperature: float, top_p: float, draw: float, top_k: int = 0, min_p: float = 0.0
) -> int:
    """The token that `draw`, uniform in [0, 1), picks; see `sample`."""
    if temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    with np.errstate(over="ignore"):  # next to none: all but the first are too far off to be drawn
        weights = np.exp((logits[order] - logits[order[0]]) / temperature)
    cumulative = np.cumsum(weights) / weights.sum()
    kept = min(int(np.searchsorted(cumulative, top_p)) + 1, int((weights >= min_p).sum()))
    rank = np.searchsorted(cumulative[:kept], draw * cumulative[kept - 1], side="right")
    return int(order[min(int(rank), kept - 1)])


def until(pieces: Iterable[str], stop: Sequence[str]) -> Generator[str, None, bool]:
    """The pieces before the first of some texts, and whether there was one; what may begin one waits."""
    ends, waiting = [end for end in stop if end], ""
    for piece in pieces:
        if not ends:
            yield piece
            continue
        waiting += piece
        if starts := [start for end in ends if (start := waiting.find(end)) >= 0]:
            yield waiting[: min(starts)]
            return True
        held = max((n for end in ends for n in range(len(end)) if waiting.endswith(end[:n])), default=0)
        yield waiting[: len(waiting) - held]
        waiting = waiting[len(waiting) - held :]
    if waiting:
        yield waiting
    return False
