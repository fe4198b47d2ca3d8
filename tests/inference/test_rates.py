"""Estimates, intervals and verdicts."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from llm2bids.exceptions import InferenceError
from llm2bids.inference.rates import (
    LEVELS,
    binomial_interval,
    estimate_rate,
    family_verdict,
    mean_interval,
    overall_verdict,
    roc_area,
    unit_verdict,
    widening_of,
)


def unit_rate(nominal, hits, n_tests, **options):
    return estimate_rate("prompt_ols", "unit", nominal, hits, n_tests, **options)


def family_rate(detections):
    return estimate_rate("prompt_ols", "fdr", 0.05, detections, [1] * len(detections))


@pytest.mark.parametrize(("hits", "n"), [(0, 60), (3, 60), (60, 60), (17, 200)])
def test_binomial_interval_is_that_of_clopper_and_pearson(hits, n):
    low, high = binomial_interval(hits, n, method="exact")
    if hits:
        assert stats.binom.sf(hits - 1, n, low) == pytest.approx(0.025)
    else:
        assert low == 0
    if hits < n:
        assert stats.binom.cdf(hits, n, high) == pytest.approx(0.025)
    else:
        assert high == 1


def test_interval_over_runs_is_wider_than_the_binomial_one_where_units_are_correlated():
    rng = np.random.default_rng(0)
    exceed = [1000 * share for share in rng.uniform(0.02, 0.13, 60)]
    rate = unit_rate(0.05, [int(x) for x in exceed], [1000] * 60)
    assert rate.low < rate.binomial_low < rate.measured < rate.binomial_high < rate.high


def test_interval_of_the_mean_covers():
    rng = np.random.default_rng(1)
    covered = 0
    for simulation in range(300):
        low, high = mean_interval(rng.gamma(4, 0.0125, 60), random_state=simulation)
        covered += low <= 0.05 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_widening_covers_groups_that_share_participants():
    """Rates of groups from pools of 24 participants of their own effects, true mean 0.05."""
    rng = np.random.default_rng(2)
    covered = {1.0: 0, widening_of(100, 4, 24): 0}
    for simulation in range(120):
        effect = rng.gamma(4, 0.0125, 24)
        shares = [effect[rng.choice(24, 4, replace=False)].mean() for _ in range(100)]
        for widening in covered:
            hits = [round(1e6 * share) for share in shares]
            options = {"widening": widening, "random_state": simulation}
            rate = unit_rate(0.05, hits, [10**6] * 100, **options)
            covered[widening] += rate.low <= 0.05 <= rate.high
    narrow, wide = (count / 120 for count in covered.values())
    assert narrow < 0.6
    assert wide >= 0.88


def test_runs_weigh_the_same_however_many_units_vary():
    assert unit_rate(0.05, [10, 0], [100, 900]).measured == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("nominal", "measured", "low", "high", "expected"),
    [
        (0.05, 0.05, 0.045, 0.055, "inside"),
        (0.05, 0.22, 0.2, 0.24, "inflated"),
        (0.05, 0.07, 0.03, 0.11, "undecided"),
        (0.01, 0.002, 0.001, 0.003, "conservative"),
        (0.01, 0.0069, 0.003, 0.012, "undecided"),
        (0.001, 0.0016, 0.0011, 0.002, "inflated"),
    ],
)
def test_unit_verdicts(nominal, measured, low, high, expected):
    assert unit_verdict(nominal, measured, low, high) == expected


def test_family_verdicts():
    assert family_verdict(200, 0.0, 0.018) == "conservative"
    assert family_rate([True] * 7 + [False] * 53).verdict == "inside"
    assert family_rate([True] * 9 + [False] * 51).verdict == "inflated"


def test_overall_verdict_is_inflated_if_anything_is_and_else_that_of_single_units():
    units = [unit_rate(level, [round(level * 10000)] * 60, [10000] * 60) for level in LEVELS]
    never = family_rate([False] * 200)
    often = family_rate([True] * 90 + [False] * 110)
    assert overall_verdict([*units, never]) == "inside"
    assert overall_verdict([*units, often]) == "inflated"
    assert overall_verdict([never]) == "conservative"


def test_nothing_to_count_is_refused():
    with pytest.raises(InferenceError, match="1 of 2 runs tested a unit"):
        unit_rate(0.05, [0, 0], [10, 0])


def test_areas_are_scikit_learns():
    rng = np.random.default_rng(3)
    on, off = rng.normal(0.6, 1, 17).round(1), rng.normal(0, 1, 23).round(1)
    area, low, high = roc_area(on, off)
    truth = [1] * 17 + [0] * 23
    assert area == pytest.approx(roc_auc_score(truth, np.concatenate([on, off])))
    assert low < area < high
