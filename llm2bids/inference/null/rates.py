"""False-positive rates: estimates, intervals and verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from llm2bids.exceptions import InferenceError

Verdict = Literal["inside", "inflated", "conservative", "undecided"]

LEVELS = (0.05, 0.01, 0.001)
"""Nominal rates at which single units are counted."""

BANDS = {0.05: (0.04, 0.06), 0.01: (0.007, 0.013), 0.001: (0.0005, 0.0015)}
"""Where the rate of single units has to lie for a pipeline to be inside."""

FAMILY_ALPHA = 0.05
"""Nominal rate of runs or groups with any detection."""

FAMILY_MINIMUM = 60
"""Runs or groups below which a share of them with a detection gets no verdict but 'inflated'."""

CONFIDENCE = 0.95
N_BOOTSTRAP = 2000


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One measured rate.

    Parameters
    ----------
    pipeline : str
        Key of the pipeline.
    kind : str
        ``"unit"`` for the share of units beyond an uncorrected threshold; otherwise the correction
        (``"bonferroni"``, ``"fdr"``, ``"max_t"``, ...), for the share of runs or groups in which
        it detects anything.
    nominal : float
        The rate that the pipeline promises.
    n : int
        Runs or groups.
    measured : float
        The rate.
    low, high : float
        95 % interval: of the mean over runs or groups by bootstrap (units are correlated, runs are
        not; groups share participants, and get a wider one) for ``"unit"``, of Clopper and Pearson
        otherwise.
    binomial_low, binomial_high : float
        95 % interval of Clopper and Pearson; for ``"unit"`` as if all units were independent.
    verdict : {"inside", "inflated", "conservative", "undecided"}
        See `unit_verdict` and `family_verdict`.
    """

    pipeline: str
    kind: str
    nominal: float
    n: int
    measured: float
    low: float
    high: float
    binomial_low: float
    binomial_high: float
    verdict: Verdict

    @property
    def factor(self) -> float:
        """Measured over nominal rate."""
        return self.measured / self.nominal


def unit_rate(
    pipeline: str,
    nominal: float,
    exceed: Sequence[int],
    n_tests: Sequence[int],
    *,
    widening: float = 1.0,
    random_state: int = 0,
) -> Rate:
    """Estimate the share of units that are called significant.

    Parameters
    ----------
    pipeline : str
        Key of the pipeline.
    nominal : float
        One of `LEVELS`.
    exceed : sequence of int
        Units beyond the threshold in each run or group.
    n_tests : sequence of int
        Units that were tested in each.
    widening : float
        Factor by which the interval of the mean is widened, as `widening_of` gives it.
    random_state : int
        Seed of the bootstrap.

    Returns
    -------
    Rate
        Mean over runs or groups, with its intervals.

    Raises
    ------
    InferenceError
        If there is no run, or a run tested no unit.

    Examples
    --------
    >>> rate = unit_rate("prompt_ols", 0.05, [4, 6, 5, 5], [100, 100, 100, 100])
    >>> rate.measured, rate.verdict
    (0.05, 'inside')
    """
    tests = np.asarray(n_tests)
    if not tests.size or not (tests > 0).all():
        raise InferenceError(
            f"false positives of {pipeline}: {int((tests > 0).sum())} of {tests.size} runs "
            "tested a unit; expected all of one or more; record units that vary"
        )
    shares = np.asarray(exceed) / tests
    low, high = mean_interval(shares, random_state=random_state)
    binomial = binomial_interval(int(np.sum(exceed)), int(tests.sum()))
    measured = float(shares.mean())
    low = max(0.0, measured - widening * (measured - low))
    high = min(1.0, measured + widening * (high - measured))
    return Rate(
        pipeline=pipeline,
        kind="unit",
        nominal=nominal,
        n=shares.size,
        measured=measured,
        low=low,
        high=high,
        binomial_low=binomial[0],
        binomial_high=binomial[1],
        verdict=unit_verdict(nominal, measured, low, high),
    )


def family_rate(pipeline: str, kind: str, detections: Sequence[bool]) -> Rate:
    """Estimate the share of runs or groups in which anything is detected.

    Parameters
    ----------
    pipeline : str
        Key of the pipeline.
    kind : str
        The correction.
    detections : sequence of bool
        Whether there was a detection, for each run or group.

    Returns
    -------
    Rate
        Share, with the interval of Clopper and Pearson.

    Raises
    ------
    InferenceError
        If there is no run.

    Examples
    --------
    >>> family_rate("prompt_ols", "fdr", [True, False, False, True]).measured
    0.5
    """
    n, hits = len(detections), int(np.sum(detections))
    if not n:
        raise InferenceError(f"false positives of {pipeline}: no run; expected one or more")
    low, high = binomial_interval(hits, n)
    return Rate(
        pipeline=pipeline,
        kind=kind,
        nominal=FAMILY_ALPHA,
        n=n,
        measured=hits / n,
        low=low,
        high=high,
        binomial_low=low,
        binomial_high=high,
        verdict=family_verdict(n, low, high),
    )


def binomial_interval(hits: int, n: int) -> tuple[float, float]:
    """Give the exact interval of a share (Clopper and Pearson 1934, Biometrika 26:404).

    Parameters
    ----------
    hits, n : int
        Successes and trials.

    Returns
    -------
    tuple of float
        95 % interval.

    Examples
    --------
    >>> [round(bound, 3) for bound in binomial_interval(3, 60)]
    [0.01, 0.139]
    """
    interval = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


def mean_interval(
    shares: npt.NDArray[np.floating[Any]], *, random_state: int = 0
) -> tuple[float, float]:
    """Give the interval of a mean over runs: percentiles of the bootstrap.

    Parameters
    ----------
    shares : ndarray of float, shape (n_runs,)
        Rate in each run.
    random_state : int
        Seed.

    Returns
    -------
    tuple of float
        95 % interval.

    Examples
    --------
    >>> mean_interval(np.array([0.5, 0.5, 0.5]))
    (0.5, 0.5)
    """
    rng = np.random.default_rng(random_state)
    means = shares[rng.integers(shares.size, size=(N_BOOTSTRAP, shares.size))].mean(axis=1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def widening_of(n_groups: int, group_size: int, n_participants: int) -> float:
    """Give the factor by which groups that share participants widen the interval of their mean.

    The mean over all groups of a pool varies at most as the mean of pool over group size
    independent ones (Hoeffding 1948, Annals of Mathematical Statistics 19:293); the groups that
    were drawn add their own share, and differ less than independent ones as they are drawn without
    replacement.

    Parameters
    ----------
    n_groups, group_size : int
        Groups, and participants in each.
    n_participants : int
        Participants in the pool.

    Returns
    -------
    float
        Above 1.

    Examples
    --------
    >>> round(widening_of(200, 8, 60), 2)
    5.65
    """
    share = group_size / n_participants
    return float(np.sqrt((1 + n_groups * share) / max(1 - share, 1 / n_participants)))


def unit_verdict(nominal: float, measured: float, low: float, high: float) -> Verdict:
    """Judge a rate of single units.

    Parameters
    ----------
    nominal : float
        One of `LEVELS`.
    measured, low, high : float
        Rate and its interval over runs.

    Returns
    -------
    {"inside", "inflated", "conservative", "undecided"}
        Inside the band of `BANDS`; inflated or conservative where rate and interval lie beyond it
        on one side; undecided where the rate lies outside but the runs are too few to tell.

    Examples
    --------
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

    Parameters
    ----------
    n : int
        Runs or groups.
    low, high : float
        Its interval.

    Returns
    -------
    {"inside", "inflated", "conservative", "undecided"}
        Whether the interval lies around, above or below `FAMILY_ALPHA`; undecided where there are
        too few to tell an inflation.

    Examples
    --------
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

    Parameters
    ----------
    rates : sequence of Rate
        Rates of one pipeline.

    Returns
    -------
    {"inside", "inflated", "conservative", "undecided"}
        Inflated if any rate is. Otherwise the single units decide where there are any (a correction
        for many correlated units may well be conservative).

    Raises
    ------
    InferenceError
        If there is no rate.

    Examples
    --------
    >>> overall_verdict([family_rate("tfce", "tfce", [True] * 20)])
    'inflated'
    """
    if not rates:
        raise InferenceError("verdict: no rate; expected one or more of a pipeline")
    if any(rate.verdict == "inflated" for rate in rates):
        return "inflated"
    deciding = [rate for rate in rates if rate.kind == "unit"] or list(rates)
    found = {rate.verdict for rate in deciding}
    if "undecided" in found:
        return "undecided"
    return "conservative" if "conservative" in found else "inside"
