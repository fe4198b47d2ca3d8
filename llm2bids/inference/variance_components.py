"""Variance components of a unit: what participants, prompts and tokens add to a volume.

A volume is what its condition does, plus what its participant, its prompt and its token add. The
effect of one participant (on minus off) then varies by

    var = participant + (prompt + token * g(n_tokens)) * (1 / n_on + 1 / n_off)

where g is the variance of the mean of so many correlated tokens of variance 1 (autocorrelation
that falls by a constant factor). Prompts are nested in participants: none is shown twice.

References: Clark (1973), Journal of Verbal Learning and Verbal Behavior 12; Westfall, Kenny and
Judd (2014), Journal of Experimental Psychology: General 143.
"""

import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize

from llm2bids.exceptions import InferenceError

Floats = npt.NDArray[np.float64]

_MEASURED = "variance_components.json"
"""Name of the shipped components, beside this file; written by ``scripts/power_figure.py``."""


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


def estimate_components(
    values: npt.NDArray[np.floating[Any]],
    participants: npt.NDArray[Any],
    tasks: npt.NDArray[Any],
    on: npt.NDArray[np.bool_],
    *,
    source: str = "",
) -> VarianceComponents:
    """Estimate the components of the median unit.

    The variance between the prompts of a participant's condition is taken of the means of the
    first 1, 2, ... volumes; prompt, token and autocorrelation are fitted to it by least squares.
    What the participants' effects vary beyond that is the participants' own.

    Shapes: values (n_prompts, n_tokens, n_units), participants, tasks (n_prompts,), on
    (n_prompts,).
    """
    n_tokens = values.shape[1]
    cells = _cells(participants, tasks, on)
    if n_tokens < 2 or min(rows.size for rows in cells.values()) < 2 or len(set(participants)) < 2:
        raise InferenceError(
            f"variance components: found {len(set(participants))} participants, {n_tokens} volumes "
            f"per prompt and {min(rows.size for rows in cells.values())} prompts of a kind; "
            "expected two of each or more"
        )
    between = []
    for count in range(1, n_tokens + 1):
        means = values[:, :count].mean(axis=1, dtype=np.float64)
        within = [means[rows].var(axis=0, ddof=1) for rows in cells.values()]
        between.append(float(np.median(np.mean(within, axis=0))))
    prompt, token, autocorrelation = _fit(np.array(between))
    return VarianceComponents(
        participant=max(_beyond_prompts(means, cells), 0.0),
        prompt=prompt,
        token=token,
        autocorrelation=autocorrelation,
        source=source,
    )


def shipped_components() -> VarianceComponents:
    """Read the components that were measured for the embedded model."""
    file = importlib.resources.files("llm2bids.inference") / _MEASURED
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


def write_components(components: VarianceComponents) -> str:
    """Write components as JSON that `read_components` reads."""
    return json.dumps(asdict(components), indent=2) + "\n"


def _cells(
    participants: npt.NDArray[Any], tasks: npt.NDArray[Any], on: npt.NDArray[np.bool_]
) -> dict[tuple[str, str, bool], npt.NDArray[np.intp]]:
    """List the rows of each condition of each run."""
    keys = list(zip(participants.tolist(), tasks.tolist(), on.tolist(), strict=True))
    return {
        key: np.array([row for row, other in enumerate(keys) if other == key])
        for key in dict.fromkeys(keys)
    }


def _fit(between: Floats) -> tuple[float, float, float]:
    """Fit prompt + token * g(n) to the variances between prompts, all of them from 0."""

    def solve(autocorrelation: float) -> tuple[Floats, float]:
        counts = range(1, between.size + 1)
        g = [mean_variance(count, autocorrelation) for count in counts]
        weights = 1 / between  # the same relative error everywhere
        design = np.column_stack([np.ones(between.size), g]) * weights[:, np.newaxis]
        fitted, residual = optimize.nnls(design, between * weights)
        return fitted, float(residual)

    if between.size == 2:  # two points: no autocorrelation can be told
        return (*map(float, solve(0.0)[0]), 0.0)  # type: ignore[return-value]
    best = optimize.minimize_scalar(
        lambda value: solve(float(value))[1], bounds=(0.0, 0.95), method="bounded"
    )
    chosen = float(best.x) if best.fun < solve(0.0)[1] else 0.0
    prompt, token = solve(chosen)[0]
    return float(prompt), float(token), chosen


def _beyond_prompts(
    means: Floats, cells: Mapping[tuple[str, str, bool], npt.NDArray[np.intp]]
) -> float:
    """Give the median variance of the participants' effects that their prompts do not explain."""
    beyond = []
    for task in dict.fromkeys(task for _, task, _ in cells):
        people = [who for who, name, is_on in cells if name == task and is_on]
        effects, sampling = [], []
        for who in people:
            on, off = (means[cells[who, task, kind]] for kind in (True, False))
            effects.append(on.mean(axis=0) - off.mean(axis=0))
            sampling.append(on.var(axis=0, ddof=1) / len(on) + off.var(axis=0, ddof=1) / len(off))
        beyond.append(np.var(effects, axis=0, ddof=1) - np.mean(sampling, axis=0))
    return float(np.median(np.mean(beyond, axis=0)))
