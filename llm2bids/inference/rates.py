"""False-positive rates: estimates, intervals and verdicts."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from llm2bids.exceptions import InferenceError

Verdict = Literal["inside", "inflated", "conservative", "undecided"]

# Nominal rates at which single units are counted.
LEVELS = (0.05, 0.01, 0.001)

# Where the rate of single units has to lie for a pipeline to be inside.
BANDS = {0.05: (0.04, 0.06), 0.01: (0.007, 0.013), 0.001: (0.0005, 0.0015)}

# Nominal rate of runs or groups with any detection.
FAMILY_ALPHA = 0.05

# Runs or groups below which a share of them with a detection gets no verdict but 'inflated'.
FAMILY_MINIMUM = 60

N_BOOTSTRAP = 2000
_N_BOOT_ROC = 1000


class Rate(NamedTuple):
    """One measured rate."""

    pipeline: str  # key of the pipeline
    # ``"unit"`` for the share of units beyond an uncorrected threshold; otherwise the correction
    # (``"bonferroni"``, ``"fdr"``, ``"max_t"``, ...), for the share of runs or groups in which it
    # detects anything
    kind: str
    nominal: float  # the rate that the pipeline promises
    n: int  # runs or groups
    measured: float  # the rate
    low: float
    high: float
    binomial_low: float
    binomial_high: float
    verdict: Verdict  # see `unit_verdict` and `family_verdict`

    @property
    def factor(self) -> float:
        """Measured over nominal rate."""
        return self.measured / self.nominal


def estimate_rate(
    pipeline: str,
    kind: str,
    nominal: float,
    hits: Sequence[int],
    n_tests: Sequence[int],
    *,
    widening: float = 1.0,
    random_state: int = 0,
) -> Rate:
    """Estimate the share of units that are called significant, or of runs with a detection.

    `hits` of `n_tests` in each run or group; `widening` is that of the interval over units.

    >>> rate = estimate_rate("prompt_ols", "unit", 0.05, [4, 6, 5, 5], [100, 100, 100, 100])
    >>> rate.measured, rate.verdict
    (0.05, 'inside')
    >>> estimate_rate("prompt_ols", "fdr", 0.05, [1, 0, 0, 1], [1, 1, 1, 1]).measured
    0.5
    """
    tests = np.asarray(n_tests)
    if not tests.size or not (tests > 0).all():
        raise InferenceError(
            f"false positives of {pipeline}: {int((tests > 0).sum())} of {tests.size} runs "
            "tested a unit; expected all of one or more; record units that vary"
        )
    shares = np.asarray(hits) / tests
    measured = float(shares.mean())
    binomial = binomial_interval(int(np.sum(hits)), int(tests.sum()), method="exact")
    low, high = binomial
    if kind == "unit":
        low, high = mean_interval(shares, random_state=random_state)
        low = max(0.0, measured - widening * (measured - low))
        high = min(1.0, measured + widening * (high - measured))
        verdict = unit_verdict(nominal, measured, low, high)
    else:
        verdict = family_verdict(shares.size, low, high)
    return Rate(pipeline, kind, nominal, shares.size, measured, low, high, *binomial, verdict)


def binomial_interval(
    n_hits: int, n: int, confidence: float = 0.95, *, method: Literal["wilson", "exact"] = "wilson"
) -> tuple[float, float]:
    """Give the binomial interval of a share: Wilson's, or Clopper and Pearson's ("exact").

    >>> [round(bound, 3) for bound in binomial_interval(47, 48)]
    [0.891, 0.996]
    """
    interval = stats.binomtest(n_hits, n).proportion_ci(confidence, method=method)
    return float(interval.low), float(interval.high)


def mean_interval(
    shares: npt.NDArray[np.floating[Any]], *, random_state: int = 0
) -> tuple[float, float]:
    """Give the interval of a mean over runs: percentiles of the bootstrap; shares (n_runs,).

    >>> mean_interval(np.array([0.5, 0.5, 0.5]))
    (0.5, 0.5)
    """
    rng = np.random.default_rng(random_state)
    drawn = shares[rng.integers(shares.size, size=(N_BOOTSTRAP, shares.size))]
    return percentile_interval(drawn.mean(axis=1))


def percentile_interval(draws: npt.NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Give where 95 % of draws lie.

    >>> percentile_interval(np.arange(101.0))
    (2.5, 97.5)
    """
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def roc_area(
    positives: npt.NDArray[np.float64], negatives: npt.NDArray[np.float64]
) -> tuple[float, float, float]:
    """Give the area under the ROC curve and its bootstrap interval over both sets of prompts.

    >>> roc_area(np.array([2.0, 3.0]), np.array([0.0, 1.0, 2.5]))[0]
    0.8333333333333334
    """
    if not positives.size or not negatives.size:
        return float("nan"), float("nan"), float("nan")
    wins = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    rng = np.random.default_rng(0)
    rows = rng.integers(positives.size, size=(_N_BOOT_ROC, positives.size))
    columns = rng.integers(negatives.size, size=(_N_BOOT_ROC, negatives.size))
    boot = [wins[np.ix_(r, c)].mean() for r, c in zip(rows, columns, strict=True)]
    return float(wins.mean()), *percentile_interval(np.array(boot))


def widening_of(n_groups: int, group_size: int, n_participants: int) -> float:
    """Give the factor by which groups that share participants widen the interval of their mean.

    The mean over all groups of a pool varies at most as the mean of pool over group size
    independent ones (Hoeffding 1948, Annals of Mathematical Statistics 19:293); the groups that
    were drawn add their own share, and differ less than independent ones as they are drawn without
    replacement.

    >>> round(widening_of(200, 8, 60), 2)
    5.65
    """
    share = group_size / n_participants
    return float(np.sqrt((1 + n_groups * share) / max(1 - share, 1 / n_participants)))


def unit_verdict(nominal: float, measured: float, low: float, high: float) -> Verdict:
    """Judge a rate of single units.

    Inside the band of `BANDS`; inflated or conservative where rate and interval lie beyond it on
    one side; undecided where the rate lies outside but the runs are too few to tell.

    >>> unit_verdict(0.05, 0.11, 0.09, 0.13), unit_verdict(0.05, 0.07, 0.03, 0.11)
    ('inflated', 'undecided')
    """
    least, most = BANDS[nominal]
    if least <= measured <= most:
        return "inside"
    if measured > most and low > nominal:
        return "inflated"
    if measured < least and high < nominal:
        return "conservative"
    return "undecided"


def family_verdict(n: int, low: float, high: float) -> Verdict:
    """Judge a share of runs or groups with a detection.

    Whether the interval lies around, above or below `FAMILY_ALPHA`; undecided where there are too
    few to tell an inflation.

    >>> family_verdict(60, 0.01, 0.14), family_verdict(60, 0.85, 1.0), family_verdict(9, 0.0, 0.3)
    ('inside', 'inflated', 'undecided')
    """
    if low > FAMILY_ALPHA:
        return "inflated"
    if n < FAMILY_MINIMUM:
        return "undecided"
    return "conservative" if high < FAMILY_ALPHA else "inside"


def overall_verdict(rates: Sequence[Rate]) -> Verdict:
    """Judge a pipeline by all its rates.

    Inflated if any rate is. Otherwise the single units decide where there are any (a correction for
    many correlated units may well be conservative).

    >>> overall_verdict([estimate_rate("tfce", "tfce", 0.05, [1] * 20, [1] * 20)])
    'inflated'
    """
    if any(rate.verdict == "inflated" for rate in rates):
        return "inflated"
    deciding = [rate for rate in rates if rate.kind == "unit"] or list(rates)
    verdicts = {rate.verdict for rate in deciding}
    if "undecided" in verdicts:
        return "undecided"
    return "conservative" if "conservative" in verdicts else "inside"
