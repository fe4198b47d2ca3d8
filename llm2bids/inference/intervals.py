"""The interval of a share."""

from typing import Literal

from scipy import stats


def binomial_interval(
    n_hits: int,
    n: int,
    confidence: float = 0.95,
    *,
    method: Literal["wilson", "exact"] = "wilson",
) -> tuple[float, float]:
    """Give the binomial interval of a share: Wilson's, or Clopper and Pearson's ("exact").

    Examples
    --------
    >>> [round(bound, 3) for bound in binomial_interval(47, 48)]
    [0.891, 0.996]
    """
    interval = stats.binomtest(n_hits, n).proportion_ci(confidence, method=method)
    return float(interval.low), float(interval.high)
