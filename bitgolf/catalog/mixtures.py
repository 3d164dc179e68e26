"""The rules that every mixer must keep: a distribution, from the prefix alone, from an empty start."""

from collections.abc import Iterator

import numpy as np

from bitgolf.score.mixer import Memory, Mixer, normalised
from bitgolf.text.tokenizer import Tokenizer

TOKENS, WIDTH = 240, 12  # of the probe
LANES = 3
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
    yield from lane_faults(mixer, vocabulary_size, tokenizer)
    memory, other = (mixer.memory(vocabulary_size, tokenizer) for _ in range(2))
    for position, (token, own, state) in enumerate(zip(tokens.tolist(), owns, states, strict=True)):
        other.mix(owns[-position], states[-position])
        other.observe(int(tokens[-position]))
        memory.mix(own, state)
        if not np.array_equal(normalised(memory.mix(own, state), len(own)), given[position]):
            yield f"asked twice, or with another stream beside, it moves at token {position}"
            break
        memory.observe(token)


def lane_faults(mixer: Mixer, vocabulary_size: int, tokenizer: Tokenizer) -> Iterator[str]:
    """Each rule that the lanes of a mixer break (`Memory.beside`), as a sentence. It need not have any."""
    tokens, owns, states = probe(vocabulary_size)
    steps = TOKENS // LANES

    def lanes(count: int = LANES) -> list[Memory]:
        memory = mixer.memory(vocabulary_size, tokenizer)
        return [each for _ in range(count) if (each := memory.beside()) is not None]

    def asked(rows: np.ndarray, own: np.ndarray, state: np.ndarray, order: int = 1) -> np.ndarray:
        """What lanes give (steps, lanes, vocabulary) on tokens (lanes, steps), asked in this order."""
        memories, given = lanes(), np.zeros((steps, LANES, vocabulary_size))
        for step in range(steps):
            for lane in range(LANES)[::order]:
                index = lane * steps + step
                weights = memories[lane].mix(own[index], state[index])
                given[step, lane] = normalised(weights, vocabulary_size)
            for memory, token in zip(memories, rows[:, step].tolist(), strict=True):
                memory.observe(token)
        return given

    if not (made := lanes()):
        return
    if len(made) < LANES:
        yield f"it makes {len(made)} lanes and then no more"
        return
    if len({id(each) for each in made}) < LANES:
        yield "two lanes are the same object"
    rows, kept = tokens.reshape(LANES, steps), (owns.copy(), states.copy())
    given = asked(rows, owns, states)
    if not (np.array_equal(owns, kept[0]) and np.array_equal(states, kept[1])):
        yield "a lane writes into what it is given"
    for lane in range(LANES):
        for step in (1, steps // 2):
            changed = rows.copy()
            changed[lane, step:] = (changed[lane, step:] + 1) % vocabulary_size
            if not np.array_equal(given[: step + 1], asked(changed, owns, states)[: step + 1]):
                yield f"lanes know tokens of lane {lane} at step {step} or later before they came"
                break
    if not np.array_equal(given, asked(rows, owns, states)):
        yield "a second stream in lanes is scored otherwise: something is left of the first"
    if not np.array_equal(given, asked(rows, owns, states, -1)):
        yield "what a lane gives depends on which lanes were asked before it at the same step"
    alone = distributions(mixer.memory(vocabulary_size, tokenizer), tokens, owns, states)
    if not np.array_equal(alone, distributions(lanes()[0], tokens, owns, states)):
        yield "one lane of its own gives other than the stream without lanes"
