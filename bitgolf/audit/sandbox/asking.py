"""All probes of one scorer, one after the other, so that what was told stays told when time is over."""

import numpy as np

from bitgolf.audit.sandbox.lines import Report
from bitgolf.audit.sandbox.scorers import Evaluation, Told
from bitgolf.audit.sandbox.text import BOS, BYTES, CONTROLS, VOCABULARY, text_bytes
from bitgolf.probe.probes import Text, probing
from bitgolf.probe.scorer import Scorer

PROBED = ("once", "causal", "target unseen", "sums to one", "same again", "bytes counted")
AHEAD = ("causal", "target unseen")
POSITIONS = 2


def probe(evaluation: Evaluation, report: Report, tokens: np.ndarray) -> None:
    """All probes of one scorer. What is seen of one that reports more is asked whether it looks ahead."""
    tokens = least(evaluation, tokens)
    evaluation.rows(tokens)
    seen = evaluation.is_seen()
    report("seen", name=evaluation.name, seen=seen, early=evaluation.early, learnt=evaluation.learnt)
    text = Text(tokens, BOS, None, (tokens, text_bytes(tokens)))
    _put(evaluation, text, PROBED if seen else AHEAD, "seen" if seen else "part", report)
    phrases = np.random.default_rng(9).integers(CONTROLS + BYTES, VOCABULARY, (4, 5))
    again = phrases[np.random.default_rng(10).integers(0, 4, 16)].reshape(-1)
    again[0] = BOS
    _put(Told(evaluation), Text(again, BOS), ("sums to one",), "told", report)


def least(evaluation: Evaluation, tokens: np.ndarray) -> np.ndarray:
    """The text that a scorer is probed on: of one that adapts the first half, if it learns in that too.

    Each of some hundred questions is a whole evaluation; chunks are a quarter of the text.
    """
    half, before = tokens[: len(tokens) // 2 + 1], evaluation.watch.steps
    try:
        evaluation.rows(half)
    except Exception:  # of a script that takes no other length
        return tokens
    return half if evaluation.learnt or evaluation.watch.steps > before else tokens


def _put(scorer: Scorer, text: Text, names: tuple[str, ...], how: str, report: Report) -> None:
    """One probe after the other, so that what was told stays told when time is over."""
    for name in names:
        asking = probing(scorer, text, POSITIONS, "it does not claim it", (name,))
        try:
            while True:
                next(asking)
        except StopIteration as end:
            for each in (one for one in end.value if one.probe == name or one.ended != "passed"):
                facts = {"probe": each.probe, "ended": each.ended, "why": each.why, "token": each.token}
                report("probe", name=scorer.name, how=how, **facts)
