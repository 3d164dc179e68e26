"""The tests of studies against scipy's, and against simulated studies: false positives and coverage."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower, TTestPower

from bitgolf.study.stats import (
    contrast,
    corrected,
    detectable,
    over_documents,
    pairs,
    pooled_deviation,
    seeds_needed,
    subset_mean_interval,
)

TESTS, CORRECTIONS = ("welch", "paired", "sign-flip"), ("holm", "benjamini-hochberg")
SEEDS = {"welch": 3, "paired": 5, "sign-flip": 8}  # sign-flip needs eight for three comparisons
ALPHA = 0.05


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def correlated(seed: int, arms: int, seeds: int, share: float) -> np.ndarray:
    """Values of variance 1 with this correlation between arms."""
    return math.sqrt(share) * draw(seed, 1, seeds) + math.sqrt(1 - share) * draw(seed + 1, arms, seeds)


def test_welch_is_scipys():
    values = draw(0, 2, 5) * [[1.0], [3.0]]
    found = contrast(values, (-1, 1))
    known = stats.ttest_ind(values[1], values[0], equal_var=False)
    interval = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.freedom == pytest.approx(known.df)


def test_paired_is_scipys():
    values = correlated(0, 2, 8, 0.99)
    found = contrast(values, (-1, 1), test="paired")
    known = stats.ttest_rel(values[1], values[0])
    assert found.test == "paired" and found.p == pytest.approx(known.pvalue)
    assert found.low == pytest.approx(known.confidence_interval(0.95).low)


def test_sign_flip_counts_every_way_to_flip():
    shared, shift = 10 * draw(3, 1, 7), np.array([0.2, 0.5, 0.1, 0.4, 0.3, 0.9, 0.6])
    values = np.concatenate([shared, shared + shift])
    found = contrast(values, (-1, 1), test="sign-flip")
    assert found.test == "sign-flip" and found.p == pytest.approx(2 / 2**7)
    mixed = np.concatenate([shared, shared + shift * [1, 1, -1, 1, 1, 1, 1]])
    flipped = contrast(mixed, (-1, 1), test="sign-flip")
    assert flipped.p == pytest.approx(4 / 2**7)  # only the smallest is negative: one other way is as far out


def test_the_interval_of_sign_flips_is_that_of_subset_means():
    low, high = subset_mean_interval(np.arange(1.0, 7.0))
    assert (low, high) == (1.0, 6.0)  # six seeds: the most extreme of 63 means on either side
    assert subset_mean_interval(np.arange(5.0)) == (-np.inf, np.inf)


def test_a_single_arm_of_a_contrast_is_its_difference_of_differences():
    values = np.array([[1.0, 1.1, 0.9], [2.0, 2.1, 1.9], [1.5, 1.6, 1.4], [4.0, 4.1, 3.9]])
    found = contrast(values, (1, -1, -1, 1))
    assert found.effect == pytest.approx(1.5)
    assert found.error == pytest.approx(math.sqrt(4 * 0.01 / 3))
    assert found.freedom == pytest.approx(8)


def test_the_margin_is_subtracted():
    values = np.array([[1.000, 1.001, 0.999], [0.994, 0.995, 0.993]])  # 0.006 better, hardly any noise
    assert contrast(values, (-1, 1)).p < 0.01
    assert contrast(values, (-1, 1), margin=0.005).p > contrast(values, (-1, 1)).p
    assert contrast(values, (-1, 1), margin=0.010).p == 1.0


def test_equivalence_needs_both_sides():
    near = np.array([[1.0000, 1.0001, 0.9999, 1.0], [1.0001, 1.0002, 1.0, 1.0001]])
    assert contrast(near, (-1, 1), within=0.001).p_within < 0.01
    far = near + [[0.0], [0.002]]
    assert contrast(far, (-1, 1), within=0.001).p_within > 0.9
    assert contrast(-far, (-1, 1), within=0.001).p_within > 0.9
    assert contrast(near, (-1, 1)).p_within is None


def test_pairing_needs_a_measured_correlation():
    weights = np.array([-1.0, 1.0])
    assert pairs(correlated(1, 2, 6, 0.99), weights)
    assert not pairs(draw(1, 2, 6), weights)
    assert contrast(draw(1, 2, 6), (-1, 1), test="paired").test == "welch"
    assert contrast(draw(1, 2, 6), (-1, 1), test="paired").correlation is not None


def test_missing_runs_are_left_out_and_too_few_are_said():
    values = np.array([[1.0, 1.1, np.nan], [2.0, np.nan, 2.2]])
    found = contrast(values, (-1, 1))
    assert found.n == 2 and found.effect == pytest.approx(1.05)
    assert contrast(np.array([[1.0, np.nan], [2.0, 2.1]]), (-1, 1)) is None


def test_runs_without_any_noise_do_not_divide_by_it():
    same = contrast(np.array([[5.0, 5.0, 5.0], [5.0, 5.0, 5.0]]), (-1, 1))
    assert same.p == 1.0 and (same.low, same.high) == (0.0, 0.0)
    apart = contrast(np.array([[5.0, 5.0, 5.0], [4.0, 4.0, 4.0]]), (-1, 1))
    assert apart.p == 0.0 and apart.effect == -1.0


def test_detectable_and_seeds_agree_with_simulated_power():
    n = 6
    size = detectable(1.0, n, 1, ALPHA)
    draws = draw(5, 4000, 2, n) + np.array([0.0, size])[:, None]
    found = stats.ttest_ind(draws[:, 1], draws[:, 0], axis=1)
    assert np.mean(found.pvalue < ALPHA) == pytest.approx(0.8, abs=0.03)
    assert seeds_needed(1.0, size * 1.001, 1, ALPHA) == n
    assert detectable(1.0, n, 5, ALPHA) > size
    assert detectable(1.0, 1, 1, ALPHA) == np.inf


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("n", [3, 5, 10, 40])
def test_detectable_has_statsmodels_power(n, paired):
    size = detectable(1.0, n, 4, ALPHA, paired=paired)
    one_side = {"alpha": ALPHA / 4 / 2, "alternative": "larger"}
    found = TTestPower().power(size, n, **one_side) if paired else TTestIndPower().power(size, n, **one_side)
    assert found == pytest.approx(0.8, abs=1e-6)


def test_many_seeds_are_counted_whatever_the_noise():
    """scipy's noncentral t is nan here and there among these."""
    needed = [seeds_needed(0.001 * 1.13**i, 0.005, m, ALPHA) for i in range(45) for m in (1, 7, 13)]
    assert all(left <= right for left, right in zip(needed, needed[3:])) and needed[-1] > 1000


def test_noise_is_pooled_around_each_arms_own_mean():
    deviation, freedom = pooled_deviation(
        np.array([[1.0, 3.0, np.nan], [11.0, 13.0, 12.0], [7.0, np.nan, np.nan]])
    )
    assert freedom == 3 and deviation == pytest.approx(math.sqrt((2.0 + 2.0) / 3))


def test_documents_bootstrap_sees_a_shift_that_every_document_has():
    size = np.full(25, 3000.0)
    nats = 3000 + 300 * draw(7, 25)
    found = over_documents(nats + 3 + draw(8, 25), nats, size)
    assert 0 < found.low < found.effect < found.high
    assert found.effect == pytest.approx(3 / math.log(2) / 3000, rel=0.2)
    assert over_documents(nats, nats, size).high == 0.0
    assert over_documents(nats[:4], nats[:4], size[:4]) is None


def test_documents_bootstrap_covers():
    """Mean difference 0.5 nats a document over 200 simulated texts: the interval holds the truth."""
    truth, size = 0.5 / math.log(2) / 1000, np.full(40, 1000.0)
    hits = 0
    for seed in range(200):
        nats = 700 + 70 * draw(seed, 40)
        found = over_documents(nats + 0.5 + draw(1000 + seed, 40), nats, size)
        hits += found.low <= truth <= found.high
    assert 0.89 <= hits / 200 <= 0.99


class Rates(NamedTuple):
    """Of simulated studies: those with a false claim, their mean share, and intervals that hold the truth."""

    any_false: float
    false_share: float
    coverage: float


def simulated(test: str, correction: str, share: float, margin: float, studies: int, real: int = 0) -> Rates:
    """Three arms whose effects are just the margin, but for `real` ones whose effect is far larger."""
    truth = np.array([0.0, *[-margin - 20.0] * real, *[-margin] * (3 - real)])
    any_false, false_share, covered = [], [], []
    for seed in range(studies):
        values = correlated(2 * seed, 4, SEEDS[test], share) + truth[:, None]
        found = [
            contrast(values, np.eye(4)[arm] - np.eye(4)[0], test=test, margin=margin) for arm in (1, 2, 3)
        ]
        claimed = [p < ALPHA for p in corrected([each.p for each in found], correction)]
        any_false.append(any(claimed[real:]))
        false_share.append(sum(claimed[real:]) / max(1, sum(claimed)))
        covered += [each.low <= effect <= each.high for each, effect in zip(found, truth[1:])]
    return Rates(*(float(np.mean(each)) for each in (any_false, false_share, covered)))


def check_simulated(
    test: str, correction: str, share: float, margin: float, studies: int, real: int = 0
) -> Rates:
    rates = simulated(test, correction, share, margin, studies, real)
    slack = 3 * math.sqrt(ALPHA * (1 - ALPHA) / studies)
    assert rates.false_share <= ALPHA + slack
    assert correction != "holm" or rates.any_false <= ALPHA + slack
    assert rates.coverage >= 1 - ALPHA - slack
    return rates


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("share", [0.0, 0.95], ids=["independent", "seeds correlated"])
@pytest.mark.parametrize("test", TESTS)
def test_false_claims_stay_rare_and_intervals_hold_the_truth(test, correction, share):
    check_simulated(test, correction, share, margin=0.0, studies=200)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_beside_real_effects_the_false_ones_stay_rare(correction):
    rates = check_simulated("welch", correction, 0.0, margin=0.0, studies=400, real=2)
    assert rates.any_false > 0  # it is a limit, not an absence


@pytest.mark.parametrize("test", TESTS)
def test_a_margin_is_not_claimed_by_effects_of_just_its_size(test):
    check_simulated(test, "holm", 0.5, margin=0.7, studies=200)


def test_without_correction_the_simulation_catches_it(monkeypatch):
    """The planted bug: p-values of three arms as if each were alone, at 20 seeds."""
    monkeypatch.setitem(SEEDS, "welch", 20)
    monkeypatch.setitem(globals(), "corrected", lambda p, correction: p)
    with pytest.raises(AssertionError):
        check_simulated("welch", "holm", 0.0, margin=0.0, studies=600)


def test_without_the_margin_the_simulation_catches_it(monkeypatch):
    plain = contrast
    monkeypatch.setitem(globals(), "contrast", lambda *a, margin, **k: plain(*a, **k))
    with pytest.raises(AssertionError):
        check_simulated("paired", "holm", 0.9, margin=1.0, studies=200)


@pytest.mark.parametrize(("ours", "theirs"), [("holm", "holm"), ("benjamini-hochberg", "fdr_bh")])
def test_corrections_are_statsmodels(ours, theirs):
    p = np.random.default_rng(0).uniform(0, 0.1, 9)
    assert corrected([*p], ours) == pytest.approx([*multipletests(p, method=theirs)[1]])


def test_corrections_are_the_named_ones():
    p = [0.01, 0.02, 0.04]
    assert corrected(p, "holm") == pytest.approx([0.03, 0.04, 0.04])
    assert corrected(p, "benjamini-hochberg") == pytest.approx([0.03, 0.03, 0.04])
    assert corrected([], "holm") == []


@pytest.mark.slow
@pytest.mark.parametrize("real", [0, 2])
@pytest.mark.parametrize("margin", [0.0, 0.7])
@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("test", TESTS)
def test_many_simulated_studies(test, correction, share, margin, real):
    studies = 500 if test == "sign-flip" else 2000
    rates = check_simulated(test, correction, share, margin, studies, real)
    print(
        f"\n{test:9} {correction:18} correlation {share:.2f} margin {margin:.1f} real {real} of 3: "
        f"any false {rates.any_false:.4f}, false share {rates.false_share:.4f}, coverage {rates.coverage:.4f}"
    )
