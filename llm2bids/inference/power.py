"""Power of a design: how many participants, prompts and tokens an effect takes.

A volume is what its condition does, plus what its participant, its prompt and its token add. The
effect of one participant (on minus off) then varies by

    var = participant + (prompt + token * g(n_tokens)) * (1 / n_on + 1 / n_off)

where g is the variance of the mean of so many correlated tokens of variance 1 (autocorrelation
that falls by a constant factor). Prompts are nested in participants: none is shown twice. The
group's test is Student's t over participants, so its power follows the noncentral t distribution.

References: Clark (1973), Journal of Verbal Learning and Verbal Behavior 12; Westfall, Kenny and
Judd (2014), Journal of Experimental Psychology: General 143.
"""

import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from llm2bids.exceptions import InferenceError, UsageError

Correction = Literal["none", "bonferroni", "fdr"]


@dataclass(frozen=True, kw_only=True)
class VarianceComponents:
    """Variances of one unit, in any one unit of measurement."""

    participant: float  # of the true effect, between participants
    prompt: float  # of prompts' true means, within a condition of a participant
    token: float  # of volumes about their prompt's true mean
    # of volumes of a prompt that follow one another, in [0, 1); it falls by this factor with each
    # further volume
    autocorrelation: float
    source: str = ""  # what they were estimated from

    def __post_init__(self) -> None:
        variances = (self.participant, self.prompt, self.token)
        if min(variances) < 0 or self.volume <= 0 or not 0 <= self.autocorrelation < 1:
            raise InferenceError(
                f"variance components {variances}, autocorrelation {self.autocorrelation}: "
                "expected variances from 0, not all 0, and an autocorrelation in [0, 1)"
            )

    @property
    def volume(self) -> float:
        """Variance of single volumes about the mean of their condition."""
        return self.prompt + self.token

    def effect_variance(self, *, n_prompts: int, n_tokens: int, off_per_on: float = 2.0) -> float:
        """Give the variance of one participant's effect."""
        mean = self.prompt + self.token * mean_variance(n_tokens, self.autocorrelation)
        return self.participant + mean * (1 + 1 / off_per_on) / n_prompts


def mean_variance(n_tokens: int, autocorrelation: float) -> float:
    """Give the variance of the mean of correlated tokens of variance 1.

    >>> mean_variance(4, 0.0), mean_variance(2, 0.5)
    (0.25, 0.75)
    """
    lags = np.arange(1, n_tokens)
    extra = 2 * ((1 - lags / n_tokens) * autocorrelation**lags).sum()
    return float((1 + extra) / n_tokens)


def shipped_components() -> VarianceComponents:
    """Read the components that were measured for the embedded model."""
    # scripts/power_figure.py writes them
    file = importlib.resources.files("llm2bids.inference") / "variance_components.json"
    return read_components(json.loads(file.read_text(encoding="utf-8")))


def read_components(values: Mapping[str, Any]) -> VarianceComponents:
    """Read components from what `VarianceComponents` holds."""
    names = ("participant", "prompt", "token", "autocorrelation")
    try:
        numbers = {name: float(values[name]) for name in names}
    except (KeyError, TypeError, ValueError) as error:
        raise InferenceError(
            f"variance components: {error} is missing or no number; expected {', '.join(names)}, "
            "as scripts/power_figure.py writes"
        ) from None
    return VarianceComponents(**numbers, source=str(values.get("source", "")))


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
    alpha: float, correction: Correction, *, n_units: int, share: float = 0.05, power: float = 0.8
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
    n_participants: int | npt.NDArray[np.int64],
    n_prompts: int,
    n_tokens: int,
    alpha: float = 0.05,
    off_per_on: float = 2.0,
) -> Any:
    """Give the power of the two-sided t test over participants at one unit."""
    if np.min(n_participants) < 2 or min(n_prompts, n_tokens) < 1:
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
    return np.clip(np.nan_to_num(upper, nan=1.0) + np.nan_to_num(lower), 0, 1)


def recommend_designs(
    components: VarianceComponents,
    effect_size: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    max_prompts: int | None = None,
    off_per_on: float = 2.0,
) -> tuple[Design, ...]:
    """Recommend designs that reach a power, the cheapest first."""
    if not effect_size > 0 or not np.isfinite(effect_size):
        raise UsageError(f"effect size: found {effect_size:g}; expected a number above 0")
    if not 0 < power < 1:
        raise UsageError(f"power: found {power:g}; expected a number between 0 and 1")
    best: dict[int, Design] = {}
    for tokens, prompts in product((1, 2, 4, 8, 12, 16, 24), (4, 6, 8, 10, 12, 14, 16, 20, 24, 32)):
        counts = np.arange(8, 65)
        if max_prompts is not None:
            counts = counts[counts * prompts <= max_prompts]
        if not counts.size:
            continue
        reached = design_power(
            components, effect_size, n_participants=counts, n_prompts=prompts, n_tokens=tokens,
            alpha=alpha, off_per_on=off_per_on,
        )  # fmt: skip
        fewest = int(np.argmax(reached >= power))
        count = int(counts[fewest])
        design = Design(
            n_participants=count,
            n_prompts=prompts,
            n_tokens=tokens,
            power=float(reached[fewest]),
            alpha=alpha,
            cost=round(count * prompts * (1 + off_per_on)) * (tokens + 1),
        )
        if design.power >= power and (tokens not in best or design.cost < best[tokens].cost):
            best[tokens] = design
    return tuple(sorted(best.values(), key=lambda design: (design.cost, design.n_participants)))
