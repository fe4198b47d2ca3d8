"""Intraclass correlation of every unit, over tasks or runs.

References
----------
Shrout and Fleiss (1979), Intraclass correlations: uses in assessing rater reliability,
Psychological Bulletin 86, 420. None of the libraries that llm2bids depends on has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import TaskEffects
from llm2bids.network.provenance import Provenance
from llm2bids.network.similarity import CHUNK, Floats, Maps

Kind = Literal["ICC(1,1)", "ICC(3,1)"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """Intraclass correlation of every unit.

    Parameters
    ----------
    kind : {"ICC(1,1)", "ICC(3,1)"}
        Which one, in the names of Shrout and Fleiss.
    targets, measurements : str
        What was measured, and what repeats it, e.g. ``"tasks"`` by ``"participants"``.
    values : ndarray of float64, shape (n_units,)
        Intraclass correlation, NaN for a unit that never varies.
    provenance : Provenance
        What the maps were made from.
    """

    kind: Kind
    targets: str
    measurements: str
    values: Floats
    provenance: Provenance

    def quantiles(self, at: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> pd.Series:
        """Summarise over the units.

        Parameters
        ----------
        at : tuple of float
            Quantiles.

        Returns
        -------
        Series of float64
            Indexed by quantile, over the units that vary.
        """
        return pd.Series(np.nanquantile(self.values, at), index=list(at), name=self.kind)


def intraclass_correlation(ratings: Maps, kind: Kind = "ICC(3,1)") -> Floats:
    """Compute the intraclass correlation of single measurements, unit by unit.

    Parameters
    ----------
    ratings : ndarray of float, shape (n_targets, n_measurements, n_units)
        Every target measured equally often.
    kind : {"ICC(1,1)", "ICC(3,1)"}
        ``ICC(1,1)``, from the one-way analysis of variance: agreement, where the measurements of
        one target have nothing to do with those of another. ``ICC(3,1)``, from the two-way
        analysis: consistency, after differences between the measurements are taken off.

    Returns
    -------
    ndarray of float64, shape (n_units,)
        Intraclass correlations, from -1 / (n_measurements - 1) to 1; NaN for a unit that never
        varies.

    Raises
    ------
    NetworkError
        If there are fewer than two targets or measurements, or another kind is asked for.

    Examples
    --------
    The example of Shrout and Fleiss (table 2): six targets, four judges.

    >>> judges = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8],
    ...                    [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)
    >>> intraclass_correlation(judges[..., np.newaxis], "ICC(1,1)").round(2)
    array([0.17])
    >>> intraclass_correlation(judges[..., np.newaxis], "ICC(3,1)").round(2)
    array([0.71])
    """
    if kind not in ("ICC(1,1)", "ICC(3,1)"):
        raise NetworkError(f"kind: found {kind!r}; expected 'ICC(1,1)' or 'ICC(3,1)'")
    if ratings.ndim != 3 or min(ratings.shape[:2]) < 2:
        raise NetworkError(
            f"intraclass correlation: found ratings of shape {ratings.shape}; expected (n_targets, "
            "n_measurements, n_units) with two targets and two measurements at least"
        )
    values = np.empty(ratings.shape[2])
    for start in range(0, values.size, CHUNK):
        values[start : start + CHUNK] = _correlate(ratings[..., start : start + CHUNK], kind)
    return values


def icc_over_tasks(effects: TaskEffects, *, kind: Kind = "ICC(3,1)") -> Reliability:
    """Say how well participants agree, at each unit, on the differences between tasks.

    Parameters
    ----------
    effects : TaskEffects
        Effect maps of two participants and two tasks at least.
    kind : {"ICC(1,1)", "ICC(3,1)"}
        As in `intraclass_correlation`.

    Returns
    -------
    Reliability
        Tasks are the targets, participants the measurements.

    Raises
    ------
    NetworkError
        As `intraclass_correlation`.
    """
    return Reliability(
        kind=kind,
        targets="tasks",
        measurements="participants",
        values=intraclass_correlation(effects.effects.swapaxes(0, 1), kind),
        provenance=effects.provenance,
    )


def icc_over_runs(runs: Sequence[TaskEffects], *, kind: Kind = "ICC(3,1)") -> Reliability:
    """Say how well runs agree, at each unit, on the differences between participants and tasks.

    Parameters
    ----------
    runs : sequence of TaskEffects
        The effect maps of one run each, of the same participants and tasks.
    kind : {"ICC(1,1)", "ICC(3,1)"}
        As in `intraclass_correlation`.

    Returns
    -------
    Reliability
        Every participant in every task is a target, runs are the measurements.

    Raises
    ------
    NetworkError
        If the runs differ in participants or tasks, or as `intraclass_correlation`.
    """
    labels = {(one.participants, one.tasks) for one in runs}
    if len(labels) != 1:
        raise NetworkError(
            f"runs: found {len(labels)} different lists of participants and tasks in {len(runs)} "
            "runs; expected the same in two runs or more; leave out what is not in every run"
        )
    n_units = runs[0].effects.shape[-1]
    ratings = np.stack([one.effects.reshape(-1, n_units) for one in runs], axis=1)
    return Reliability(
        kind=kind,
        targets="participants and tasks",
        measurements="runs",
        values=intraclass_correlation(ratings, kind),
        provenance=Provenance.union(one.provenance for one in runs),
    )


def _correlate(ratings: Maps, kind: Kind) -> Floats:
    n_targets, n_measurements, _ = ratings.shape
    data = np.asarray(ratings, dtype=np.float64)
    data = data - data.mean(axis=(0, 1))
    targets = n_measurements * (data.mean(axis=1) ** 2).sum(axis=0)
    between = targets / (n_targets - 1)
    total = np.einsum("tmu,tmu->u", data, data)
    rest = total - targets
    dof = n_targets * (n_measurements - 1)
    if kind == "ICC(3,1)":
        rest -= n_targets * (data.mean(axis=0) ** 2).sum(axis=0)
        dof -= n_measurements - 1
    error = np.maximum(rest, 0) / dof
    spread = between + (n_measurements - 1) * error
    floor = 1e-12 * np.square(np.abs(ratings).max(axis=(0, 1)), dtype=np.float64)
    return np.asarray(
        np.divide(between - error, spread, out=np.full(total.shape, np.nan), where=spread > floor)
    )
