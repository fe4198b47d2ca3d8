"""Identification of the task that was shown to participants who defined nothing.

Templates are the tasks' mean effect maps over some participants. A held-out participant's map gets
the task whose template it correlates with best (template correlation). Identification is easy, and
no evidence of localisation: 100 random units do nearly as well (see ``controls``).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import TaskEffects
from llm2bids.network.folds import Folds, Splits, check_folds, score_folds, split_folds
from llm2bids.network.identification import Identification
from llm2bids.network.provenance import Provenance, require_disjoint
from llm2bids.network.similarity import (
    Floats,
    Maps,
    gram_matrix,
    top_units,
    weighted_correlation,
)


def identify(
    testing: TaskEffects,
    *,
    defining: TaskEffects,
    centre: bool = True,
    share: float | None = None,
    units: npt.NDArray[Any] | None = None,
    units_from: Provenance | None = None,
    allow_circular: bool = False,
) -> Identification:
    """Identify the tasks of one cohort with templates of another.

    Parameters
    ----------
    testing : TaskEffects
        Maps whose tasks are to be identified.
    defining : TaskEffects
        Maps that give the templates: other participants, other prompts, the same tasks.
    centre : bool, default=True
        Take each participant's mean map over the tasks off first, in templates and tests. It uses
        all maps of a tested participant, but not their labels.
    share : float, optional
        Templates keep this share of their units, the strongest of either sign (the networks), and
        are 0 elsewhere; whole maps by default.
    units : ndarray of int or bool, optional
        Units to use; all by default.
    units_from : Provenance, optional
        The data that `units` were chosen on; None says that they were chosen without data (by
        layer, at random).
    allow_circular : bool, default=False
        Go on where what defines and what tests overlap, and say so on the result.

    Returns
    -------
    Identification
        One test for each participant and task of `testing`.

    Raises
    ------
    NetworkError
        If the data that define and the data that test overlap, tasks or units differ, there is
        one task only, or nothing can be correlated.
    """
    if testing.tasks != defining.tasks:
        raise NetworkError(
            f"identification: tasks {', '.join(testing.tasks)} are tested with templates of "
            f"{', '.join(defining.tasks)}; expected the same tasks in the same order"
        )
    if testing.effects.shape[2] != defining.effects.shape[2]:
        raise NetworkError(
            f"identification: maps of {testing.effects.shape[2]} units are tested with templates "
            f"of {defining.effects.shape[2]}; expected maps of one space"
        )
    chosen = defining.provenance | (units_from or Provenance())
    shared = require_disjoint(
        chosen, testing.provenance, what="identification", allow_circular=allow_circular
    )
    both = np.concatenate([_restrict(defining, units), _restrict(testing, units)])
    n_defining = len(defining.participants)
    tested = list(range(n_defining, len(both)))
    scores = _score(both, [(range(n_defining), tested)], centre=centre, share=share)
    return _judge(
        scores,
        testing.participants,
        testing.tasks,
        shared=shared,
        provenance=chosen | testing.provenance,
    )


def identify_left_out(
    effects: TaskEffects,
    *,
    folds: Folds | None = None,
    centre: bool = True,
    share: float | None = None,
    units: npt.NDArray[Any] | None = None,
    units_from: Provenance | None = None,
    allow_circular: bool = False,
) -> Identification:
    """Identify the tasks of each participant with templates of the others.

    Parameters
    ----------
    effects : TaskEffects
        Maps of two participants at least.
    folds : sequence of sequences of int, optional
        Indices of the participants that are left out together, each participant once; one
        participant at a time by default.
    centre, share, units, units_from, allow_circular
        As in `identify`.

    Returns
    -------
    Identification
        One test for each participant and task.

    Raises
    ------
    NetworkError
        As `identify`; and if `folds` do not have each participant once.
    """
    splits = split_folds(len(effects.participants), folds)
    shared = check_folds(effects, splits, units_from=units_from, allow_circular=allow_circular)
    scores = _score(_restrict(effects, units), splits, centre=centre, share=share)
    order = [index for _, tested in splits for index in tested]
    return _judge(
        scores,
        tuple(effects.participants[index] for index in order),
        effects.tasks,
        shared=shared,
        provenance=effects.provenance | (units_from or Provenance()),
    )


def _restrict(effects: TaskEffects, units: npt.NDArray[Any] | None) -> Maps:
    return effects.effects if units is None else effects.effects[..., units]


def _score(
    effects: Maps,
    splits: Splits,
    *,
    centre: bool,
    share: float | None,
) -> Floats:
    n_participants, n_tasks, _ = effects.shape
    if n_tasks < 2:
        raise NetworkError("identification: found one task, expected two or more to tell apart")
    if share is None:
        gram = gram_matrix(effects.reshape(n_participants * n_tasks, -1))
        return score_folds(gram, n_tasks, splits, centre=centre)
    maps = effects - effects.mean(axis=1, keepdims=True) if centre else effects
    scores = []
    for defining, tested in splits:
        templates = maps[list(defining)].mean(axis=0)
        templates *= top_units(templates, share) != 0
        tests = maps[list(tested)].reshape(len(tested) * n_tasks, -1)
        eye = np.eye(len(tests) + n_tasks)
        gram = gram_matrix(np.concatenate([tests, templates]))
        scores.append(weighted_correlation(gram, eye[: len(tests)], eye[len(tests) :]))
    return np.concatenate(scores)


def _judge(
    scores: Floats,
    participants: Sequence[str],
    tasks: tuple[str, ...],
    *,
    shared: Provenance,
    provenance: Provenance,
) -> Identification:
    n_tasks = len(tasks)
    blank = np.flatnonzero(~scores.any(axis=1))
    if blank.size:
        who, task = participants[blank[0] // n_tasks], tasks[blank[0] % n_tasks]
        raise NetworkError(
            f"identification: the map of task {task} of sub-{who} is constant over the units used "
            f"({blank.size} such maps); expected values that differ; use more units"
        )
    return Identification(
        tasks=tasks,
        participants=tuple(np.repeat(participants, n_tasks).tolist()),
        true=np.tile(np.arange(n_tasks), len(participants)),
        predicted=scores.argmax(axis=1),
        scores=scores,
        method="template correlation",
        shared=shared,
        provenance=provenance,
    )
