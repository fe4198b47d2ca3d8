"""Estimate what participants, prompts and tokens add to a volume, from volumes of some units."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize

from llm2bids.exceptions import InferenceError
from llm2bids.inference.power import VarianceComponents, mean_variance

Floats = npt.NDArray[np.float64]


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
