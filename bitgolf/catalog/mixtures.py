"""What every mixer has to keep: a distribution, from the prefix alone, from an empty start."""

from collections.abc import Iterator

import numpy as np

from bitgolf.score.mixer import Memory, Mixer, normalised
from bitgolf.text.tokenizer import Tokenizer

TOKENS, WIDTH = 240, 12  # of the probe
CHANGED = (1, 90, 200)  # positions from which on the probe has other tokens


def probe(vocabulary_size: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens (time) that repeat themselves, distributions (time, vocabulary) and states (time, width)."""
    rng = np.random.default_rng(seed)
    phrases = [rng.integers(0, vocabulary_size, rng.integers(2, 9)) for _ in range(12)]
    tokens = np.concatenate([phrases[rng.integers(len(phrases))] for _ in range(TOKENS)])[:TOKENS]
    logits = 2 * rng.standard_normal((TOKENS, vocabulary_size))
    logits[np.arange(TOKENS), tokens] += 4
    owns = np.exp(logits)
    states = rng.standard_normal((len(phrases), WIDTH))[rng.integers(len(phrases), size=TOKENS)]
    return tokens, owns / owns.sum(1, keepdims=True), states.astype(np.float32)


def distributions(memory: Memory, tokens: np.ndarray, owns: np.ndarray, states: np.ndarray) -> np.ndarray:
    """What a memory gives at each position, float64 (time, vocabulary), before it is told the token."""
    given = []
    for token, own, state in zip(tokens.tolist(), owns, states, strict=True):
        given.append(normalised(memory.mix(own, state), len(own)))
        memory.observe(token)
    return np.array(given)


def mixture_faults(mixer: Mixer, vocabulary_size: int, tokenizer: Tokenizer) -> Iterator[str]:
    """Each rule that a mixer breaks, as a sentence. Raises RuleError where it gives no distribution."""
    tokens, owns, states = probe(vocabulary_size)
    kept = owns.copy(), states.copy()
    given = distributions(mixer.memory(vocabulary_size, tokenizer), tokens, owns, states)
    if np.abs(given.sum(1) - 1).max() > 1e-9:
        yield "its distributions do not sum to one"
    if not (np.array_equal(owns, kept[0]) and np.array_equal(states, kept[1])):
        yield "it writes into what it is given"
    for position in CHANGED:
        changed, elsewhere, moved = tokens.copy(), owns.copy(), states.copy()
        changed[position:] = (tokens[position:] + 1) % vocabulary_size
        elsewhere[position + 1 :], moved[position + 1 :] = owns[position:-1], -states[position + 1 :]
        again = distributions(mixer.memory(vocabulary_size, tokenizer), changed, elsewhere, moved)
        if not np.array_equal(given[: position + 1], again[: position + 1]):
            yield f"the distribution of token {position} moves with that token or with later ones"
    if not np.array_equal(
        given, distributions(mixer.memory(vocabulary_size, tokenizer), tokens, owns, states)
    ):
        yield "a second stream is scored otherwise: something is left of the first"
    memory, other = (mixer.memory(vocabulary_size, tokenizer) for _ in range(2))
    for position, (token, own, state) in enumerate(zip(tokens.tolist(), owns, states, strict=True)):
        other.mix(owns[-position], states[-position])
        other.observe(int(tokens[-position]))
        memory.mix(own, state)
        if not np.array_equal(normalised(memory.mix(own, state), len(own)), given[position]):
            yield f"asked twice, or with another stream beside, it moves at token {position}"
            break
        memory.observe(token)
