"""N-gram caches by dictionaries of tuples: the plain twin of those that ship, which keep a tree in arrays."""

from bitgolf.mix.trust import Trust, odds_level
from bitgolf.score.mixer import Memory


class Followers:
    """How often each token followed one context, and the most frequent one."""

    def __init__(self):
        self.counts, self.total, self.top = {}, 0, -1

    def add(self, token):
        before = self.counts.get(token, 0)
        self.counts[token], self.total = before + 1, self.total + 1
        if before >= self.counts.get(self.top, 0):
            self.top = token

    def add_to(self, weights, factor):
        for token, count in self.counts.items():
            weights[token] += factor * count


class PlainNgrams(Memory):
    """`InterpolatedNgrams` as its card says it."""

    def __init__(self, order, start, bos=-1):
        self.order, self.bos, self.trust = order, bos, Trust(start)
        self.history, self.followers, self.known = (), {}, []

    def contexts(self):
        lengths = range(min(self.order - 1, len(self.history)) + 1)
        return [self.history[len(self.history) - length :] for length in lengths]

    def mix(self, own, state):
        self.own, self.known = own, []
        for length, context in enumerate(self.contexts()):
            if context not in self.followers:
                break
            seen = self.followers[context]
            kinds, likely = len(seen.counts).bit_length(), odds_level(float(own[seen.top]))
            self.known.append(((length, seen.total.bit_length(), kinds, likely), seen))
        left, shares = 1.0, []
        for situation, seen in reversed(self.known):
            weight = self.trust.of(situation)
            shares.append((seen, left * weight / seen.total))
            left *= 1 - weight
        mixed = left * own
        for seen, share in shares:
            seen.add_to(mixed, share)
        return mixed

    def observe(self, token):
        probability = float(self.own[token])
        for situation, seen in self.known:
            share = seen.counts.get(token, 0) / seen.total
            probability = self.trust.learn(situation, probability, share)
        for context in self.contexts():
            self.followers.setdefault(context, Followers()).add(token)
        self.history = (*self.history, token)[-(self.order - 1) :] if self.order > 1 else ()
        if token == self.bos:
            self.followers, self.history = {}, (token,) if self.order > 1 else ()
