"""Power of a design: how many participants, prompts and tokens an effect takes.

The group's test is Student's t over participants, so its power follows the noncentral t
distribution with the variance of `llm2bids.inference.variance_components`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from llm2bids.exceptions import UsageError
from llm2bids.inference.variance_components import VarianceComponents

Correction = Literal["none", "bonferroni", "fdr"]


@dataclass(frozen=True, kw_only=True)
class Design:
    """A design and its power."""

    n_participants: int
    n_prompts: int
    n_tokens: int
    power: float  # probability that a unit with the effect is found
    alpha: float  # error rate of the unit's two-sided test, after the correction
    # tokens that one task takes, over all participants: each prompt gives its volumes and the
    # first token, which is not recorded
    cost: int


def unit_alpha(
    alpha: float,
    correction: Correction,
    *,
    n_units: int,
    share: float = 0.05,
    power: float = 0.8,
) -> float:
    """Give the error rate that one unit's test is left with after a correction.

    >>> unit_alpha(0.05, "bonferroni", n_units=1000)
    5e-05
    >>> round(unit_alpha(0.05, "fdr", n_units=1000), 5)
    0.00222
    """
    for name, rate in (("alpha", alpha), ("share of units", share), ("power", power)):
        if not 0 < rate < 1:
            raise UsageError(f"{name}: found {rate:g}; expected a number between 0 and 1")
    if correction == "none":
        return alpha
    if correction == "bonferroni":
        return alpha / n_units
    if correction != "fdr":
        raise UsageError(f"correction {correction!r}; expected none, bonferroni or fdr")
    # found = share * power, false = (1 - share) * a, and false = alpha * (found + false)
    return alpha * share * power / ((1 - alpha) * (1 - share))


def design_power(
    components: VarianceComponents,
    effect_size: float,
    *,
    n_participants: int,
    n_prompts: int,
    n_tokens: int,
    alpha: float = 0.05,
    off_per_on: float = 2.0,
) -> float:
    """Give the power of the two-sided t test over participants at one unit."""
    if n_participants < 2 or min(n_prompts, n_tokens) < 1:
        raise UsageError(
            f"design: {n_participants} participants x {n_prompts} prompts x {n_tokens} tokens; "
            "expected two participants or more, and one prompt and token or more"
        )
    variance = components.effect_variance(
        n_prompts=n_prompts, n_tokens=n_tokens, off_per_on=off_per_on
    )
    delta = abs(effect_size) * np.sqrt(components.volume * n_participants / variance)
    dof = n_participants - 1
    limit = stats.t.isf(alpha / 2, dof)
    upper, lower = stats.nct.sf(limit, dof, delta), stats.nct.cdf(-limit, dof, delta)
    return float(np.clip(np.nan_to_num(upper, nan=1.0) + np.nan_to_num(lower), 0, 1))


def recommend_designs(
    components: VarianceComponents,
    effect_size: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    n_participants: Sequence[int] = tuple(range(8, 65)),
    n_prompts: Sequence[int] = (4, 6, 8, 10, 12, 14, 16, 20, 24, 32),
    n_tokens: Sequence[int] = (1, 2, 4, 8, 12, 16, 24),
    max_prompts: int | None = None,
    off_per_on: float = 2.0,
) -> tuple[Design, ...]:
    """Recommend designs that reach a power, the cheapest first."""
    if not effect_size > 0 or not np.isfinite(effect_size):
        raise UsageError(f"effect size: found {effect_size:g}; expected a number above 0")
    if not 0 < power < 1:
        raise UsageError(f"power: found {power:g}; expected a number between 0 and 1")
    best: dict[int, Design] = {}
    for tokens in n_tokens:
        for prompts in n_prompts:
            allowed = [
                count
                for count in sorted(n_participants)
                if max_prompts is None or count * prompts <= max_prompts
            ]
            design = _fewest_participants(
                components, effect_size, allowed, power=power, n_prompts=prompts, n_tokens=tokens,
                alpha=alpha, off_per_on=off_per_on,
            )  # fmt: skip
            if design and (tokens not in best or design.cost < best[tokens].cost):
                best[tokens] = design
    return tuple(sorted(best.values(), key=lambda design: (design.cost, design.n_participants)))


def _fewest_participants(
    components: VarianceComponents,
    effect_size: float,
    allowed: Sequence[int],
    *,
    power: float,
    n_prompts: int,
    n_tokens: int,
    alpha: float,
    off_per_on: float,
) -> Design | None:
    """Search by halves: power grows with the number of participants."""

    def reached(count: int) -> float:
        return design_power(
            components, effect_size, n_participants=count, n_prompts=n_prompts, n_tokens=n_tokens,
            alpha=alpha, off_per_on=off_per_on,
        )  # fmt: skip

    low, high = 0, len(allowed)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(allowed[middle]) >= power else (middle + 1, high)
    if low == len(allowed):
        return None
    count = allowed[low]
    prompts = round(count * n_prompts * (1 + off_per_on))
    return Design(
        n_participants=count,
        n_prompts=n_prompts,
        n_tokens=n_tokens,
        power=reached(count),
        alpha=alpha,
        cost=prompts * (n_tokens + 1),
    )
