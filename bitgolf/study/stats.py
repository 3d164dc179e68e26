"""What numbers of runs can say: tests of contrasts between arms, corrections, power, documents drawn again.

Values are (arms, seeds) float64 with nan where a run is missing. A contrast is one weight per arm; its
effect is the weighted sum of the arms' means. Tests are two-sided and ask for more than a margin in either
direction. `scipy.stats` takes half a second to import, so only the rarer tests do; `special` has the rest.
"""

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np

from bitgolf.base.errors import BitgolfError

try:
    from scipy import special
except ImportError:
    raise BitgolfError(
        "the statistics of studies are an extra", way_out="pip install 'bitgolf[study]'"
    ) from None

POWER = 0.8  # of the smallest difference that a table is said to show
PAIRING_P = 0.05  # pair only if seeds move arms together by this test
BOOTSTRAPS = 4000
MOST_SEEDS = 10_000


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A measured difference.

    test: the one that was used. effect, low, high: with its 95% interval. p: two-sided, that the effect does
    not exceed the margin either way. p_better, p_worse: each side alone. p_within: that it is not within the
    bound of equivalence (None without one). error, freedom: standard error and degrees of freedom.
    correlation: between arms over seeds, where two can be paired.
    """

    test: str
    n: int
    effect: float
    low: float
    high: float
    p: float
    p_better: float
    p_worse: float
    p_within: float | None
    error: float
    freedom: float
    correlation: float | None = None


def contrast(
    values: np.ndarray,
    weights: Sequence[float],
    *,
    test: str = "welch",
    margin: float = 0.0,
    within: float = 0.0,
) -> Contrast | None:
    """The effect of a contrast by the declared test; None where too few runs are left to test anything.

    Paired tests need that the same seeds move both sides together (`pairs`); else Welch's takes their place.
    """
    chosen = np.asarray(weights, float)
    used = chosen != 0
    cells, chosen = values[used], chosen[used]
    complete = cells[:, ~np.isnan(cells).any(axis=0)]
    correlation = seed_correlation(complete, chosen)
    result: Contrast | None
    if test != "welch" and complete.shape[1] >= 2 and pairs(complete, chosen):
        result = (_paired if test == "paired" else _flipped)(chosen @ complete, margin, within)
    else:
        result = _welch([row[~np.isnan(row)] for row in cells], chosen, margin, within)
    return None if result is None else dataclasses.replace(result, correlation=correlation)


def seed_correlation(complete: np.ndarray, weights: np.ndarray) -> float | None:
    """How far the two sides of a contrast move together from seed to seed."""
    sides = _sides(complete, weights)
    if complete.shape[1] < 3 or min(side.std() for side in sides) == 0:
        return None
    return float(np.corrcoef(*sides)[0, 1])


def pairs(complete: np.ndarray, weights: np.ndarray) -> bool:
    """Whether seeds move both sides together: is the variance of their sum above that of their difference?"""
    left, right = _sides(complete, weights)
    n = complete.shape[1]
    if n < 3 or left.std() == 0 or right.std() == 0:
        return False
    apart = float(np.var(left - right))
    if apart == 0:
        return True
    return float(special.fdtrc(n - 1, n - 1, np.var(left + right) / apart)) < PAIRING_P


def _sides(complete: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ups, downs = np.clip(weights, 0, None), np.clip(-weights, 0, None)
    return ups @ complete, downs @ complete


def _welch(cells: list[np.ndarray], weights: np.ndarray, margin: float, within: float) -> Contrast | None:
    """Welch and Satterthwaite for any contrast; for two arms it is Welch's t test."""
    if min(map(len, cells)) < 2:
        return None
    effect = float(sum(w * cell.mean() for w, cell in zip(weights, cells)))
    parts = np.array([w**2 * cell.var(ddof=1) / len(cell) for w, cell in zip(weights, cells)])
    error = float(np.sqrt(parts.sum()))
    sizes = np.array([len(cell) for cell in cells])
    freedom = float(parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum()) if error else float(sizes.min() - 1)
    return _by_t("welch", int(sizes.min()), effect, error, freedom, margin, within)


def _paired(differences: np.ndarray, margin: float, within: float) -> Contrast:
    n = len(differences)
    error = float(differences.std(ddof=1) / np.sqrt(n))
    return _by_t("paired", n, float(differences.mean()), error, n - 1.0, margin, within)


def _by_t(
    test: str, n: int, effect: float, error: float, freedom: float, margin: float, within: float
) -> Contrast:
    def above(bound: float) -> float:
        """One-sided p that the effect is above the bound."""
        if error == 0:
            return 0.0 if effect > bound else 1.0
        return float(special.stdtr(freedom, -(effect - bound) / error))

    def below(bound: float) -> float:
        if error == 0:
            return 0.0 if effect < bound else 1.0
        return float(special.stdtr(freedom, (effect - bound) / error))

    reach = float(special.stdtrit(freedom, 0.975)) * error
    better, worse = below(-margin), above(margin)
    return Contrast(
        test=test,
        n=n,
        effect=effect,
        low=effect - reach,
        high=effect + reach,
        p=min(1.0, 2 * min(better, worse)),
        p_better=better,
        p_worse=worse,
        p_within=max(above(-within), below(within)) if within else None,
        error=error,
        freedom=freedom,
    )


def _flipped(differences: np.ndarray, margin: float, within: float) -> Contrast:
    """Exact sign-flip test; the interval holds the means of all subsets (Hartigan 1969), all but 5% of them.

    Fewer than six seeds have no 95% interval of this kind: it is then unbounded.
    """
    from scipy import stats

    n = len(differences)

    def p_of(values: np.ndarray, alternative: str) -> float:
        test = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=np.inf
        )
        return float(test.pvalue)

    better, worse = p_of(differences + margin, "less"), p_of(differences - margin, "greater")
    low, high = subset_mean_interval(differences)
    bounds = (p_of(differences + within, "greater"), p_of(differences - within, "less"))
    error = float(differences.std(ddof=1) / np.sqrt(n))
    effect = float(differences.mean())
    two_sided = min(1.0, 2 * min(better, worse))
    p_within = max(bounds) if within else None
    return Contrast("sign-flip", n, effect, low, high, two_sided, better, worse, p_within, error, n - 1.0)


def subset_mean_interval(differences: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The exact interval that belongs to the sign-flip test, of at least this level."""
    n = len(differences)
    subsets = chain.from_iterable(combinations(range(n), count) for count in range(1, n + 1))
    means = np.sort([differences[list(chosen)].mean() for chosen in subsets])
    cut = int(np.floor((1 - level) / 2 * (len(means) + 1)))
    return (float(means[cut - 1]), float(means[-cut])) if cut else (-np.inf, np.inf)


@dataclasses.dataclass(frozen=True)
class OneSample:
    """Runs against a constant: the mean's difference from it with its 95% interval, and Student's t.

    p: two-sided. p_lower, p_higher: that the mean is not below, not above the constant.
    """

    n: int
    mean: float
    deviation: float
    effect: float
    low: float
    high: float
    t: float
    freedom: int
    p: float
    p_lower: float
    p_higher: float


def one_sample(values: Sequence[float], constant: float) -> OneSample:
    """Student's one-sample t test of two or more values that are not all equal."""
    n, mean, deviation = len(values), float(np.mean(values)), float(np.std(values, ddof=1))
    error = deviation / math.sqrt(n)
    test = _by_t("one-sample", n, mean - constant, error, n - 1.0, 0.0, 0.0)
    return OneSample(
        n=n,
        mean=mean,
        deviation=deviation,
        effect=test.effect,
        low=test.low,
        high=test.high,
        t=test.effect / error,
        freedom=n - 1,
        p=test.p,
        p_lower=test.p_better,
        p_higher=test.p_worse,
    )


def corrected(p_values: Sequence[float], correction: str) -> list[float]:
    """The p-values of one table, corrected for how many they are: `holm` or `benjamini-hochberg`."""
    if not p_values:
        return []
    p = np.asarray(p_values, float)
    if correction == "benjamini-hochberg":
        from scipy import stats

        return [float(each) for each in stats.false_discovery_control(p)]
    # Holm's here: statsmodels' collects garbage at every call, 80 ms in a process that holds torch.
    order, adjusted = np.argsort(p), np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(each) for each in adjusted]


def detectable(deviation: float, n: int, comparisons: int, alpha: float, *, paired: bool = False) -> float:
    """The smallest difference that n seeds an arm find with 80% power, at alpha shared by all comparisons.

    deviation: of one run; of a difference between two runs of one seed, where they are paired.
    """
    if n < 2 or deviation == 0:
        return np.inf if n < 2 else 0.0
    freedom, root_n = (n - 1, math.sqrt(n)) if paired else (2 * n - 2, math.sqrt(n / 2))
    from scipy import optimize, stats

    needed = float(stats.t.isf(alpha / comparisons / 2, freedom))

    def power(effect: float) -> float:
        """Of a t test against this many deviations; a claim on the wrong side has no part in it."""
        probability = float(stats.nct.sf(needed, freedom, effect * root_n))
        # scipy's noncentral t is nan for some large ones, where the normal is as good.
        return float(stats.norm.sf(needed - effect * root_n)) if math.isnan(probability) else probability

    most = 1.0
    while power(most) < POWER:
        most *= 2
    return deviation * float(optimize.brentq(lambda effect: power(effect) - POWER, 0.0, most))


def seeds_needed(deviation: float, difference: float, comparisons: int, alpha: float) -> int:
    """Seeds an arm that find this difference with 80% power by Welch's test; at most MOST_SEEDS."""
    counts = range(2, MOST_SEEDS)
    return counts[0] + bisect_left(
        counts, -difference, key=lambda n: -detectable(deviation, n, comparisons, alpha)
    )


def pooled_deviation(values: np.ndarray) -> tuple[float, int]:
    """The standard deviation of one run, over all arms around their own means, and its degrees of freedom."""
    rows = [row[~np.isnan(row)] for row in values]
    freedom = sum(len(row) - 1 for row in rows if len(row) > 1)
    if not freedom:
        return float("nan"), 0
    return float(
        np.sqrt(sum(((row - row.mean()) ** 2).sum() for row in rows if len(row) > 1) / freedom)
    ), freedom


@dataclasses.dataclass(frozen=True)
class OverDocuments:
    """A difference in bits per byte of the same weights, with its 95% interval over documents."""

    documents: int
    effect: float
    low: float
    high: float


def over_documents(nats: np.ndarray, reference: np.ndarray, text_bytes: np.ndarray) -> OverDocuments | None:
    """Paired bootstrap over documents, all (documents,): both sides score the same, drawn again together.

    None for fewer than five documents: nothing can be said about others from so few.
    """
    if len(text_bytes) < 5:
        return None

    def difference(left: np.ndarray, right: np.ndarray, num_bytes: np.ndarray, axis: int = -1) -> np.ndarray:
        return (left.sum(axis) - right.sum(axis)) / np.log(2) / num_bytes.sum(axis)

    data = (np.asarray(nats, float), np.asarray(reference, float), np.asarray(text_bytes, float))
    effect = float(difference(*data))
    if np.array_equal(data[0], data[1]):
        return OverDocuments(len(text_bytes), 0.0, 0.0, 0.0)
    from scipy import stats

    interval = stats.bootstrap(
        data, difference, paired=True, vectorized=True, n_resamples=BOOTSTRAPS, rng=np.random.default_rng(0)
    ).confidence_interval
    return OverDocuments(len(text_bytes), effect, float(interval.low), float(interval.high))
