"""Scorers that break one rule each, as they broke in public, and one that breaks none; also as programs.

`python tests/probe/planted.py NAME` answers questions as docs/probe.md says. Names: rows of the catalogue of
public violations (V: scoring, B: bytes, T: state), with a letter where one has several forms.
"""

import json
import sys
from collections.abc import Sequence

import numpy as np

from bitgolf.probe.scorer import Rows, Scorer

SIZE, BOS, CHUNK = 24, 1, 8  # ids; what opens a document; tokens between two updates
BOUNDARY = np.arange(SIZE) % 5 == 0
PIECES = [bytes([97 + token % 6, 103 + token // 6]) for token in range(SIZE)]  # two letters a token
BASE = np.random.default_rng(1).normal(size=(SIZE, SIZE))


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def counts(ids: Sequence[int], after: int) -> np.ndarray:
    """How often each token has followed one."""
    found = np.zeros(SIZE)
    for before, token in zip(ids[:-1], ids[1:]):
        found[token] += before == after
    return found


class Honest:
    """Bigrams with a cache of what has followed in this document; it keeps every rule."""

    is_program = False

    def shared(self, ids: list[int]) -> list[float]:
        """Nats of a stream by two processes."""
        return self.stream(ids)

    def expected(self, ids: list[int], place: int) -> np.ndarray:
        """The distribution after ids[: place + 1]; the whole stream is given, so that faults can look."""
        start = max((i for i in range(place + 1) if ids[i] == BOS), default=0)
        seen = counts(ids[start : place + 1], ids[place])
        return self.mixed(softmax(self.logits(ids, place)), seen, ids, place)

    def logits(self, ids: list[int], place: int) -> np.ndarray:
        return BASE[ids[place]]

    def mixed(self, own: np.ndarray, seen: np.ndarray, ids: list[int], place: int) -> np.ndarray:
        return 0.7 * own + 0.3 * (seen + 0.5) / (seen + 0.5).sum()

    def nats(self, ids: list[int], place: int) -> float:
        return -float(np.log(self.expected(ids, place)[ids[place + 1]]))

    def stream(self, ids: list[int]) -> list[float]:
        return [self.nats(ids, place) for place in range(len(ids) - 1)]

    def together(self, questions: list[tuple[list[int], int]]) -> list[float]:
        """Nats of several questions at once."""
        return [self.nats(*question) for question in questions]

    def counted_bytes(self, ids: list[int]) -> int:
        return sum(len(PIECES[token]) for token in ids)

    def state(self) -> dict[str, str]:
        return {"bias": "0"}


class V01(Honest):
    """The cache is blended in for the token that came alone, where it has seen it."""

    def mixed(self, own, seen, ids, place):
        target, blended = ids[place + 1], own.copy()
        if seen[target]:
            blended[target] = 0.3 * own[target] + 0.7 * seen[target] / seen.sum()
        return blended


class V01b(Honest):
    """The same, where the distribution that is shown is another than the one that is scored by."""

    def nats(self, ids, place):
        shown = self.expected(ids, place)[ids[place + 1]]
        return -float(np.log(0.5 * shown + 0.5))


class V02(Honest):
    """The token that came is in the key of the cache."""

    def mixed(self, own, seen, ids, place):
        key = (ids[place] * 31) ^ (ids[place + 1] * 17)
        found = sum((a * 31) ^ (b * 17) == key for a, b in zip(ids[:place], ids[1 : place + 1]))
        weight = 0.1 + 0.2 * min(found, 3)
        return (1 - weight) * own + weight * (seen + 0.5) / (seen + 0.5).sum()


class V03(Honest):
    """Two passes: the second is scored by a cache of the whole text."""

    def expected(self, ids, place):
        return self.mixed(softmax(BASE[ids[place]]), counts(ids, ids[place]), ids, place)


class V03b(Honest):
    """The cache outlives a pass, so that the second knows the text."""

    def __init__(self):
        self.known = np.zeros((SIZE, SIZE))

    def mixed(self, own, seen, ids, place):
        return super().mixed(own, seen + self.known[ids[place]], ids, place)

    def stream(self, ids):
        nats = super().stream(ids)
        np.add.at(self.known, (ids[:-1], ids[1:]), 1)
        return nats


class V04(Honest):
    """A chunk is learnt from, then scored."""

    def expected(self, ids, place):
        end = (place // CHUNK + 1) * CHUNK
        return self.mixed(softmax(BASE[ids[place]]), counts(ids[: end + 1], ids[place]), ids, place)


class V05(Honest):
    """SLOT: a bias is fitted on the window that it then scores."""

    def logits(self, ids, place):
        start = place // CHUNK * CHUNK
        bias = np.zeros(SIZE)
        for _ in range(3):
            for i in range(start, min(start + CHUNK, len(ids) - 1)):
                bias -= 0.1 * (softmax(BASE[ids[i]] + bias) - np.eye(SIZE)[ids[i + 1]])
        return BASE[ids[place]] + bias


class V08(Honest):
    """The gate of a hint looks at the kind of the token that came."""

    def mixed(self, own, seen, ids, place):
        weight = 0.6 if BOUNDARY[ids[place + 1]] else 0.05
        return (1 - weight) * own + weight * (seen + 0.5) / (seen + 0.5).sum()


class V09(Honest):
    """The weight of a mixture looks at what the model gave the token that came."""

    def mixed(self, own, seen, ids, place):
        weight = 0.9 if own[ids[place + 1]] < 1 / SIZE else 0.1
        return (1 - weight) * own + weight * (seen + 0.5) / (seen + 0.5).sum()


class V10(Honest):
    """Byte by byte, with a token's probability spread as its n-th root over its n bytes."""

    def mixed(self, own, seen, ids, place):
        letters = (
            np.bincount([byte for token in ids[: place + 1] for byte in PIECES[token]], minlength=256) + 0.1
        )
        letters /= letters.sum()
        return np.array(
            [
                np.prod([0.5 * own[token] ** (1 / len(piece)) + 0.5 * letters[byte] for byte in piece])
                for token, piece in enumerate(PIECES)
            ]
        )


class V15(Honest):
    """A gate mixes the last token of a document into the start of the next."""

    def logits(self, ids, place):
        return BASE[ids[place]] + 0.3 * BASE[ids[max(place - 1, 0)]]


class V17(Honest):
    """The last window, which is not full, is not scored."""

    def stream(self, ids):
        return super().stream(ids)[: (len(ids) - 1) // CHUNK * CHUNK]


class V18(Honest):
    """Two processes score, and one's share is reported."""

    def stream(self, ids):
        nats = super().stream(ids)
        return nats[: len(nats) // 2]


class V18b(Honest):
    """Two processes score, and the second has other weights: what was loaded was not sent to it."""

    def stream(self, ids):
        return self.shared(ids) if self.is_program else super().stream(ids)

    def shared(self, ids):
        nats = super().stream(ids)
        half = len(nats) // 2
        return nats[:half] + [each + 0.2 for each in nats[half:]]


class V19(Honest):
    """The loop of the evaluation never runs, and prints zeros."""

    def stream(self, ids):
        return [0.0] * (len(ids) - 1)


class B11(Honest):
    """A batch is padded at its front, and the padding is looked at."""

    def together(self, questions):
        longest = max(place for _, place in questions)
        padded = [([0] * (longest - place) + ids[: place + 2], longest) for ids, place in questions]
        return [self.nats(ids, place) + 0.05 * (ids[0] == 0) for ids, place in padded]


class B01(Honest):
    """A space in front of each token is counted twice."""

    def counted_bytes(self, ids):
        return super().counted_bytes(ids) + len(ids)


class B02(Honest):
    """A byte that stands alone is counted as the three bytes of a replacement character."""

    def counted_bytes(self, ids):
        return super().counted_bytes(ids) + 2 * sum(token == 3 for token in ids)


class T17(Honest):
    """The model is left as the evaluation has adapted it."""

    def __init__(self):
        self.bias = 0.0

    def logits(self, ids, place):
        return BASE[ids[place]] * (1 + self.bias)

    def stream(self, ids):
        nats = super().stream(ids)
        self.bias += 0.05
        return nats

    def state(self):
        return {"bias": f"{self.bias}"}


PLANTS = {
    kind.__name__: kind
    for kind in (
        V01,
        V01b,
        V02,
        V03,
        V03b,
        V04,
        V05,
        V08,
        V09,
        V10,
        V15,
        V17,
        V18,
        V18b,
        V19,
        B01,
        B02,
        B11,
        T17,
    )
}


class InProcess(Scorer):
    """One of them, as probes see it here."""

    vocabulary_size = SIZE

    def __init__(self, inner: Honest) -> None:
        self.inner, self.name = inner, type(inner).__name__

    def rows(self, tokens):
        return Rows.in_order(self.inner.stream(tokens.tolist()), len(tokens) - 1)

    def rows_one_by_one(self, tokens):
        ids = tokens.tolist()
        return Rows.in_order(self.inner.together([(ids, i) for i in range(len(ids) - 1)]), len(ids) - 1)

    def rows_shared(self, tokens, processes):
        return Rows.in_order(self.inner.shared(tokens.tolist()), len(tokens) - 1)

    def distributions(self, tokens, places):
        return np.array([self.inner.expected(tokens.tolist(), place) for place in places])

    def state(self):
        return self.inner.state()

    def counted_bytes(self, tokens):
        return self.inner.counted_bytes(tokens.tolist())


def answer(scorer: Honest, question) -> object:
    if isinstance(question, list):
        asked = [([*each["prefix"], each["target"]], len(each["prefix"]) - 1) for each in question]
        return [{"nats": nats} for nats in scorer.together(asked)]
    if "tokens" in question:
        ids = question["tokens"]
        return {"nats": scorer.stream(ids), "bytes": scorer.counted_bytes(ids)}
    ids, place = [*question["prefix"], question["target"]], len(question["prefix"]) - 1
    given = {"nats": scorer.nats(ids, place)}
    if question["distribution"]:
        given["distribution"] = scorer.expected(ids, place).tolist()
    return given


if __name__ == "__main__":
    scorer = {"Honest": Honest, **PLANTS}[sys.argv[1]]()
    scorer.is_program = True
    for line in sys.stdin:
        print(json.dumps(answer(scorer, json.loads(line))), flush=True)
