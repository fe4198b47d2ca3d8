"""Repeatability of single maps: how well one participant's map predicts another's."""

from dataclasses import dataclass

import numpy as np

from llm2bids.network.effects import TaskEffects
from llm2bids.network.provenance import Provenance, require_apart
from llm2bids.network.similarity import (
    Floats,
    fisher_mean,
    fisher_z,
    gram_matrix,
    jackknife_error,
    student_interval,
    weighted_correlation,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SingleRun:
    """Correlation between the single maps of participants.

    Parameters
    ----------
    tasks, participants : tuple of str
        Labels.
    r : ndarray of float64, shape (n_tasks, n_participants, n_participants)
        Correlation between two participants' maps of a task.
    mean_r, r_low, r_high : ndarray of float64, shape (n_tasks,)
        Mean over pairs of participants (Fisher's z), with its interval over participants.
    other_tasks_r : ndarray of float64, shape (n_tasks,)
        Mean correlation with other participants' maps of the other tasks: what of `mean_r` is not
        specific to the task. NaN with one task.
    shared : Provenance
        Prompts that participants share (with ``allow_circular``), empty where none.
    provenance : Provenance
        What the maps were made from.
    """

    tasks: tuple[str, ...]
    participants: tuple[str, ...]
    r: Floats
    mean_r: Floats
    r_low: Floats
    r_high: Floats
    other_tasks_r: Floats
    shared: Provenance
    provenance: Provenance


def single_run(
    effects: TaskEffects, *, confidence: float = 0.95, allow_circular: bool = False
) -> SingleRun:
    """Correlate the single maps of different participants.

    Parameters
    ----------
    effects : TaskEffects
        Effect maps of at least two participants.
    confidence : float, default=0.95
        Coverage of the intervals, which are jackknifed over participants (NaN below three).
    allow_circular : bool, default=False
        Go on where participants share prompts, and say so on the result.

    Returns
    -------
    SingleRun
        Correlations of each task.

    Raises
    ------
    NetworkError
        If there is one participant only, or two participants share prompts.
    """
    n_participants, n_tasks, n_units = effects.effects.shape
    shared = require_apart(
        [effects.provenance_of([index]) for index in range(n_participants)],
        what="correlation between participants",
        allow_circular=allow_circular,
    )
    n_maps = n_participants * n_tasks
    gram = gram_matrix(effects.effects.reshape(n_maps, n_units))
    every = weighted_correlation(gram, np.eye(n_maps), np.eye(n_maps))
    every = every.reshape(n_participants, n_tasks, n_participants, n_tasks)
    r = np.einsum("ptqt->tpq", every)
    rows, columns = np.triu_indices(n_participants, k=1)
    mean_r = fisher_mean(r[:, rows, columns], axis=1)
    without = [
        fisher_z(r[:, rows, columns])[:, (rows != i) & (columns != i)].mean(axis=1)
        for i in range(n_participants if n_participants > 2 else 0)
    ]
    low, high = student_interval(
        mean_r,
        jackknife_error(without, n_tasks),
        max(n_participants - 1, 1),
        forth=fisher_z,
        back=np.tanh,
        confidence=confidence,
    )
    apart = ~np.eye(n_participants, dtype=bool)[:, np.newaxis, :, np.newaxis]
    other = apart & ~np.eye(n_tasks, dtype=bool)[:, np.newaxis, :]  # person, task, person, task
    others = [
        float(fisher_mean(every[:, task][other[:, task]])) if n_tasks > 1 else np.nan
        for task in range(n_tasks)
    ]
    return SingleRun(
        tasks=effects.tasks,
        participants=effects.participants,
        r=r,
        mean_r=mean_r,
        r_low=low,
        r_high=high,
        other_tasks_r=np.array(others, dtype=np.float64),
        shared=shared,
        provenance=effects.provenance,
    )
