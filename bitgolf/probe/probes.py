"""The probes: each tests one rule of a scorer from outside, and says where and by how much it is broken."""

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import numpy as np

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event
from bitgolf.probe.scorer import Rows, Scorer
from bitgolf.score.exam import RuleError
from bitgolf.text.tokenizer import Tokenizer

PROCESSES = 2
OTHERS = 3  # other targets that are tried at a position
MOST_TARGETS = 4096  # of a vocabulary that is tried whole where a scorer gives no distributions


class Finding(NamedTuple):
    """How a probe ended: passed, failed, or left out; why. token: where in the stream. by: how much."""

    probe: str
    ended: str
    why: str = ""
    token: int | None = None
    by: float | None = None


class BrokenRuleError(Exception):
    """A scorer does not keep what a probe asks."""

    def __init__(self, why: str, token: int | None = None, by: float | None = None) -> None:
        super().__init__(why)
        self.why, self.token, self.by = why, token, by


class NotAskedError(Exception):
    """A probe asks nothing of this scorer."""


class Text(NamedTuple):
    """What a scorer is probed on.

    tokens: int64 (n). bos: the token that opens a document, -1 if none. tokenizer: what ids stand for, where
    known. whole: all tokens of the text that these are the first of, and how many bytes the text has.
    """

    tokens: np.ndarray
    bos: int = -1
    tokenizer: Tokenizer | None = None
    whole: tuple[np.ndarray, int] | None = None


class Case:
    """A scorer on a text, and its first scores, which several probes compare with."""

    def __init__(self, scorer: Scorer, text: Text, positions: int, not_apart: str) -> None:
        """positions: how many are probed. not_apart: why documents need not be apart; '' if they must."""
        self.scorer, self.text, self.not_apart = scorer, text, not_apart
        self.tokens, last = text.tokens, len(text.tokens) - 3
        # Half of them where a text is well under way: caches have seen something, adapters have learnt.
        spread = np.linspace(last / 8, last, positions).round().astype(int)
        self.before = scorer.state()
        self.rows = scorer.rows(self.tokens)
        self.after = scorer.state()
        scored = self.rows.times[spread] > 0
        self.probed = sorted({*(spread[scored] if scored.any() else spread).tolist()})
        self.rng = np.random.default_rng(17)
        sizes = None if text.tokenizer is None else text.tokenizer.base_bytes[: scorer.vocabulary_size]
        kept = np.arange(scorer.vocabulary_size) if sizes is None else np.flatnonzero(sizes)
        self.ordinary = kept[kept != text.bos]

    def changed(self, tokens: np.ndarray, where: slice) -> np.ndarray:
        """Tokens with others in a part; documents start where they did."""
        tokens, here = tokens.copy(), tokens[where]
        drawn = self.rng.choice(self.ordinary, len(here))
        again = self.ordinary[(np.searchsorted(self.ordinary, drawn) + 1) % len(self.ordinary)]
        tokens[where] = np.where(here == self.text.bos, here, np.where(drawn == here, again, drawn))
        return tokens

    def others(self, position: int) -> list[int]:
        """Targets that could have come after a position: one that opens a word, one that does not, any."""
        own, others = int(self.tokens[position + 1]), []
        spaced = self._opens_word()
        for kind in (spaced[self.ordinary], ~spaced[self.ordinary]):
            here = self.ordinary[kind]
            others += [int(token) for token in self.rng.permutation(here)[:2] if token != own][:1]
        others += [int(token) for token in self.rng.permutation(self.ordinary)[: 2 * OTHERS] if token != own]
        return list(dict.fromkeys(others))[:OTHERS]

    def _opens_word(self) -> np.ndarray:
        """By id, whether what it stands for starts with a space; by parity where nobody knows."""
        vocabulary_size, tokenizer = self.scorer.vocabulary_size, self.text.tokenizer
        if tokenizer is None:
            return np.arange(vocabulary_size) % 2 == 0
        return np.array([tokenizer.pieces[token].startswith(b" ") for token in range(vocabulary_size)])

    def with_target(self, position: int, token: int) -> np.ndarray:
        """The tokens with another one after a position."""
        tokens = self.tokens.copy()
        tokens[position + 1] = token
        return tokens

    def moved(self, rows: Rows, first: int, end: int, tolerance: float) -> tuple[int, float] | None:
        """As `first_moved`, from the first scores."""
        return first_moved(self.rows, rows, first, end, tolerance)


def first_moved(
    before: Rows, after: Rows, first: int, end: int, tolerance: float
) -> tuple[int, float] | None:
    """The first of the rows from `first` to `end` that is not as before, by its token, and the most by
    which any is."""
    old, new = before.nats[first:end], after.nats[first:end]
    apart = np.where(np.isnan(old) & np.isnan(new), 0.0, np.nan_to_num(np.abs(new - old), nan=np.inf))
    moved = np.flatnonzero(apart > tolerance)
    return (first + int(moved[0]) + 1, float(apart.max())) if len(moved) else None


# ---- the probes ----


def probe_once(case: Case) -> None:
    """Each target is scored once, in order, by a number that depends on it."""
    rows = case.rows
    for what, wrong in (("has no score", rows.times == 0), ("is scored again", rows.times > 1)):
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0]) + 1
            raise BrokenRuleError(
                f"{int(wrong.sum()):,} of {len(wrong):,} targets: the first {what}", first, float(wrong.sum())
            )
    odd = np.flatnonzero(~(rows.nats >= 0) | ~np.isfinite(rows.nats))
    if len(odd):
        raise BrokenRuleError("a score is no number of at least 0", int(odd[0]) + 1, float(rows.nats[odd[0]]))
    uniform = np.allclose(rows.nats[case.probed], np.log(case.scorer.vocabulary_size))
    if not uniform and not any(_depends(case, position) for position in case.probed):
        raise BrokenRuleError("its score is the same whatever token stands there", case.probed[0] + 1, 0.0)


def _depends(case: Case, position: int) -> bool:
    """Whether the score of the token after a position is another where another token stands."""
    swapped = (
        case.scorer.nats_after(case.with_target(position, token), position) for token in case.others(position)
    )
    return any(nats != case.rows.nats[position] for nats in swapped)


def probe_causal(case: Case) -> None:
    """Tokens after t change; scores up to t hold."""
    for position in case.probed:
        changed = case.scorer.rows(case.changed(case.tokens, slice(position + 2, None)))
        if moved := case.moved(changed, 0, position + 1, case.scorer.tolerance):
            raise BrokenRuleError(f"its score moves with the tokens after token {position + 1:,}", *moved)


def probe_target(case: Case) -> None:
    """The target is swapped; the distribution holds."""
    expected = _distributions(case)
    for row, position in enumerate(case.probed):
        for token in case.others(position):
            swapped = case.scorer.distributions(case.with_target(position, token), [position])
            assert swapped is not None
            apart = float(np.abs(swapped[0] - expected[row]).sum() / 2)
            if apart > case.scorer.tolerance:
                raise BrokenRuleError("its distribution moves with the token that comes", position + 1, apart)


def probe_sum(case: Case) -> None:
    """Every distribution sums to one, and scores are those of their targets in it."""
    if case.scorer.distributions(case.tokens, case.probed[:1]) is None:
        _sum_of_every_target(case)
        return
    expected = _distributions(case)
    for row, position in enumerate(case.probed):
        total = float(expected[row].sum())
        if expected[row].min() < 0 or abs(total - 1) > case.scorer.sum_tolerance:
            raise BrokenRuleError(f"its distribution sums to {total:.6g}", position + 1, abs(total - 1))
        for token in [int(case.tokens[position + 1]), *case.others(position), int(expected[row].argmax())]:
            nats = case.scorer.nats_after(case.with_target(position, token), position)
            stated = -float(np.log(max(expected[row][token], 1e-300)))
            if not abs(nats - stated) <= max(case.scorer.shape_tolerance, case.scorer.tolerance) * max(
                1, stated
            ):
                raise BrokenRuleError(
                    f"scored {nats:.6g} nats where its distribution gives {stated:.6g}",
                    position + 1,
                    abs(nats - stated),
                )


def _sum_of_every_target(case: Case) -> None:
    """Without distributions: each token in turn is the target, and their probabilities must sum to one."""
    if case.scorer.vocabulary_size > MOST_TARGETS:
        raise NotAskedError(
            f"it gives no distributions, and {case.scorer.vocabulary_size:,} targets are many"
        )
    for position in sorted({case.probed[len(case.probed) // 2], case.probed[-1]}):
        total = float(np.exp(-case.scorer.every_target(case.tokens, position)).sum())
        if not abs(total - 1) <= max(case.scorer.shape_tolerance, case.scorer.tolerance):
            raise BrokenRuleError(
                f"the probabilities of all tokens sum to {total:.6g}", position + 1, abs(total - 1)
            )


def probe_byte_sum(case: Case) -> None:
    """The distribution over the next bytes sums to one, and a token's nats are those of its bytes."""
    tokenizer = case.text.tokenizer
    if tokenizer is None:
        raise NotAskedError("what its ids stand for is not known; give --data")
    rows = _distributions(case)
    pieces = [*tokenizer.pieces, *[b""] * rows.shape[1]][: rows.shape[1]]
    for row, position in zip(rows, case.probed, strict=True):
        token = int(case.tokens[position + 1])
        total = float(next_bytes(row, pieces).sum())
        if abs(total - 1) > case.scorer.sum_tolerance:
            raise BrokenRuleError(
                f"the next byte's distribution sums to {total:.6g}", position + 1, abs(total - 1)
            )
        nats, stated = case.rows.nats[position], nats_of_bytes(row, pieces, token)
        if not abs(nats - stated) <= max(case.scorer.shape_tolerance, case.scorer.tolerance) * max(1, stated):
            raise BrokenRuleError(
                f"scored {nats:.6g} nats where its bytes cost {stated:.6g}", position + 1, abs(nats - stated)
            )


def next_bytes(distribution: np.ndarray, pieces: Sequence[bytes]) -> np.ndarray:
    """The share of each first byte, float64 (257); the last is that of tokens without bytes."""
    shares = np.zeros(257)
    np.add.at(shares, [piece[0] if piece else 256 for piece in pieces], distribution)
    return shares


def nats_of_bytes(distribution: np.ndarray, pieces: Sequence[bytes], token: int) -> float:
    """Nats of a token byte by byte: of each byte after those before it, then of the end among its equals."""
    left, piece, nats = list(range(len(pieces))), pieces[token], 0.0
    for length in range(1, len(piece) + 1):
        kept = [each for each in left if pieces[each][:length] == piece[:length]]
        nats -= float(np.log(distribution[kept].sum() / distribution[left].sum()))
        left = kept
    return nats - float(np.log(distribution[token] / distribution[left].sum()))


def probe_documents(case: Case) -> None:
    """A document changes; scores of the next one hold."""
    if case.not_apart:
        raise NotAskedError(case.not_apart)
    middle, tokens = len(case.tokens) // 2, case.tokens.copy()
    tokens[middle] = case.text.bos
    before = case.scorer.rows(tokens)
    after = case.scorer.rows(case.changed(tokens, slice(1, middle)))
    if moved := first_moved(before, after, middle, len(tokens) - 1, case.scorer.tolerance):
        raise BrokenRuleError(
            f"its document opens at token {middle:,}, yet it moves with the one before", *moved
        )


def probe_batch(case: Case) -> None:
    """Work done one piece at a time gives the scores of work done together."""
    alone = case.scorer.rows_one_by_one(case.tokens)
    if alone is None:
        raise NotAskedError("it takes one question at a time")
    tolerance = max(case.scorer.shape_tolerance, case.scorer.tolerance)
    if moved := case.moved(alone, 0, len(case.tokens) - 1, tolerance):
        raise BrokenRuleError("its score depends on what is scored beside it", *moved)


def probe_processes(case: Case) -> None:
    """Processes that share the work come to the scores of one."""
    shared = case.scorer.rows_shared(case.tokens, PROCESSES)
    if shared is None:
        raise NotAskedError("it has no work that processes could share")
    tolerance = max(case.scorer.shape_tolerance, case.scorer.tolerance)
    if moved := case.moved(shared, 0, len(case.tokens) - 1, tolerance):
        raise BrokenRuleError(f"{PROCESSES} processes score it otherwise than one", *moved)


def probe_state(case: Case) -> None:
    """What the scorer is made of is the same after it has scored."""
    if case.before is None or case.after is None:
        raise NotAskedError("its state cannot be seen from outside; the second pass stands for it")
    names = case.before.keys() | case.after.keys()
    moved = sorted(name for name in names if case.before.get(name) != case.after.get(name))
    if moved:
        raise BrokenRuleError(f"{moved[0]} is not as before the evaluation", None, float(len(moved)))


def probe_again(case: Case) -> None:
    """A second pass over the text gives the same scores."""
    second = case.scorer.rows(case.tokens)
    if moved := case.moved(second, 0, len(case.tokens) - 1, case.scorer.tolerance):
        raise BrokenRuleError("another score in a second pass", *moved)


def probe_bytes(case: Case) -> None:
    """The bytes that scores are divided by are those of the text."""
    if case.text.whole is None:
        raise NotAskedError("how many bytes the text has is not known")
    tokens, text_bytes = case.text.whole
    counted = case.scorer.counted_bytes(tokens)
    if counted is None:
        raise NotAskedError("it counts no bytes")
    lossless = case.text.tokenizer is None or case.text.tokenizer.lossless
    if counted > text_bytes or (lossless and counted != text_bytes):
        raise BrokenRuleError(
            f"{counted:,} bytes are counted of a text of {text_bytes:,}", None, float(counted - text_bytes)
        )


def _distributions(case: Case) -> np.ndarray:
    distributions = case.scorer.distributions(case.tokens, case.probed)
    if distributions is None:
        raise NotAskedError("it gives no distributions; `sums to one` tries every target in their place")
    return distributions


PROBES: dict[str, Callable[[Case], None]] = {
    "once": probe_once,
    "causal": probe_causal,
    "target unseen": probe_target,
    "sums to one": probe_sum,
    "bytes sum to one": probe_byte_sum,
    "documents apart": probe_documents,
    "batch equal": probe_batch,
    "processes equal": probe_processes,
    "state restored": probe_state,
    "same again": probe_again,
    "bytes counted": probe_bytes,
}
EXAM = "exam"  # the first finding: whether the text can be scored at all


def probing(
    scorer: Scorer, text: Text, positions: int, not_apart: str, names: Sequence[str] = tuple(PROBES)
) -> Generator[Event, None, list[Finding]]:
    """Put the probes of these names to a scorer; yields progress, returns a finding for each.

    Raises BitgolfError where it cannot be asked: a program that ends, a text too short.
    """
    yield Event("probe", 0, len(names), {})
    case: list[Case] = []
    findings = [finding(EXAM, lambda: case.append(Case(scorer, text, positions, not_apart)))]
    for number, name in enumerate(names, 1):
        if case:
            findings.append(finding(name, lambda name=name: PROBES[name](case[0])))  # type: ignore[misc]
        else:
            findings.append(Finding(name, "left out", "the text could not be scored"))
        yield Event("probe", number, len(names), {name: findings[-1].ended})
    return findings


def finding(name: str, probe: Callable[[], None]) -> Finding:
    """How a probe ends."""
    try:
        probe()
    except NotAskedError as reason:
        return Finding(name, "left out", str(reason))
    except BrokenRuleError as broken:
        return Finding(name, "failed", broken.why, broken.token, broken.by)
    except RuleError as error:
        return Finding(name, "failed", " ".join(str(error).split()))
    except BitgolfError:
        raise
    except Exception as error:  # a user's class may fail in any way
        message = " ".join(str(error).split())
        return Finding(name, "failed", f"it raises {type(error).__name__}: {message}")
    return Finding(name, "passed")
