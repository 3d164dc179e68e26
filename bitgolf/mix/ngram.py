"""N-gram caches: what followed the last tokens, so far in this text."""

import dataclasses

import numpy as np

from bitgolf.base.errors import DataError
from bitgolf.base.plan import setting
from bitgolf.mix.counts import ContextCounts, Followers
from bitgolf.mix.trust import Trust, odds_level
from bitgolf.score.mixer import Memory, Mixer
from bitgolf.text.tokenizer import Tokenizer


class _Fixed(ContextCounts):
    def __init__(self, plan: "NgramCache", vocabulary_size: int) -> None:
        super().__init__(vocabulary_size, plan.order - 1, plan.order - 1)
        self.plan = plan

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        seen = self.followers.get(self.history)
        share = self.plan.weight / ((seen.total if seen else 0) + self.plan.kappa * len(own))
        mixed = (1 - self.plan.weight) * own + share * self.plan.kappa
        if seen:
            seen.add_to(mixed, share)
        return mixed


@dataclasses.dataclass(frozen=True, kw_only=True)
class NgramCache(Mixer):
    """Counts of the tokens that followed the last `order` - 1 ones, mixed in with a fixed weight.

    What: p = (1 - weight) p_model + weight (n(context, y) + kappa) / (n(context) + kappa V), exact counts of
        the scored text alone
    Source: PR #1718 (bigrams, weight 0.02, kappa 0.5, never run there)
    Cost: no bytes; microseconds a token
    Not for: a strong model, or a short text: the weight is the same whether much was counted or nothing
    Neutral: weight=0
    """

    order: int = setting(2, at_least=1, at_most=64)
    weight: float = setting(0.02, at_least=0.0, below=1.0)
    kappa: float = setting(0.5, above=0.0)

    @property
    def on(self) -> bool:
        return self.weight > 0

    def memory(self, vocabulary_size: int, tokenizer: Tokenizer) -> Memory:
        return _Fixed(self, vocabulary_size)


class _Interpolated(ContextCounts):
    def __init__(self, plan: "InterpolatedNgrams", vocabulary_size: int, bos: int) -> None:
        super().__init__(vocabulary_size, 0, plan.order - 1)
        self.trust, self.own, self.bos = Trust(plan.start), np.zeros(0), bos
        self.known: list[tuple[tuple[int, ...], Followers]] = []  # levels of the coming token

    def levels(self) -> list[tuple[tuple[int, ...], Followers]]:
        """The known contexts from the shortest on, each with what its weight depends on."""
        levels: list[tuple[tuple[int, ...], Followers]] = []
        for length, context in enumerate(self.contexts()):
            if context not in self.followers:
                break  # no longer one is known either
            seen = self.followers[context]
            likely = odds_level(float(self.own[seen.top]))
            levels.append(((length, seen.total.bit_length(), seen.kinds.bit_length(), likely), seen))
        return levels

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        self.own = own
        self.known, left, shares = self.levels(), 1.0, []
        for situation, seen in reversed(self.known):
            weight = self.trust.of(situation)
            shares.append((seen, left * weight / seen.total))
            left *= 1 - weight
        mixed = left * own
        for seen, share in shares:
            seen.add_to(mixed, share)
        return mixed

    def observe(self, token: int) -> None:
        probability = float(self.own[token])
        for situation, seen in self.known:
            probability = self.trust.learn(situation, probability, seen.count(token) / seen.total)
        super().observe(token)
        if token == self.bos:
            self.followers, self.history = {}, (token,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterpolatedNgrams(Mixer):
    """Counts after the last 0 to `order` - 1 tokens, each trusted as far as it has been right before.

    What: p_n = (1 - w) p_(n-1) + w n(context, y) / n(context), from p_0 of the model up to the longest
        context that is known; w is learnt from the scored text, for each length, count, number of kinds and
        how likely the model finds the most frequent one. per_document counts each document anew
    Source: Jelinek and Mercer 1980; in place of the fixed weight of PR #1718 and the hashed tables of #779
    Cost: no bytes; some 50 microseconds and half a kB of memory a token
    Not for: texts of a few thousand tokens, where nothing repeats yet
    Neutral: start=0
    """

    order: int = setting(5, at_least=1, at_most=64)
    start: float = setting(0.02, at_least=0.0, below=1.0)
    per_document: bool = False

    @property
    def on(self) -> bool:
        return self.start > 0

    def memory(self, vocabulary_size: int, tokenizer: Tokenizer) -> Memory:
        if self.per_document and tokenizer.bos < 0:
            raise DataError(
                "this tokenizer has no BOS, so documents cannot be told apart",
                where="InterpolatedNgrams",
                value="per_document=True",
                way_out="per_document=False, which counts over the whole text",
            )
        return _Interpolated(self, vocabulary_size, tokenizer.bos if self.per_document else -1)
