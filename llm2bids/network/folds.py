"""Folds of identification: groups of participants, and so of prompts."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import TaskEffects
from llm2bids.network.provenance import Provenance, require_disjoint
from llm2bids.network.similarity import Floats, weighted_correlation

Folds = Sequence[Sequence[int]]
Splits = Sequence[tuple[Sequence[int], Sequence[int]]]


def split_folds(
    n_participants: int, folds: Folds | None = None
) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Give the defining and the tested participants of each fold.

    Parameters
    ----------
    n_participants : int
        Number of participants.
    folds : sequence of sequences of int, optional
        As in `identify_left_out`.

    Returns
    -------
    list of (sequence of int, sequence of int)
        Defining and tested participants.

    Raises
    ------
    NetworkError
        If a participant is in no fold or in several, or a fold leaves nobody to define.

    Examples
    --------
    >>> split_folds(3)
    [([1, 2], [0]), ([0, 2], [1]), ([0, 1], [2])]
    """
    tested = [[index] for index in range(n_participants)] if folds is None else folds
    if sorted(index for fold in tested for index in fold) != list(range(n_participants)):
        raise NetworkError(
            f"folds: found {[list(fold) for fold in tested]}; expected each of the participants "
            f"0 to {n_participants - 1} once"
        )
    if len(tested) < 2:
        raise NetworkError(
            f"identification: {n_participants} participants in {len(tested)} fold leave nobody to "
            "define the templates; expected two folds or more; record more participants"
        )
    return [
        ([index for index in range(n_participants) if index not in fold], list(fold))
        for fold in tested
    ]


def check_folds(
    effects: TaskEffects,
    splits: Splits,
    *,
    units_from: Provenance | None = None,
    allow_circular: bool = False,
) -> Provenance:
    """Refuse folds that share data.

    Parameters
    ----------
    effects : TaskEffects
        The maps.
    splits : sequence of (sequence of int, sequence of int)
        From `split_folds`.
    units_from, allow_circular
        As in `identify`.

    Returns
    -------
    Provenance
        What is shared, empty where all is well.

    Raises
    ------
    NetworkError
        If a fold's participants or prompts also define its templates or units.
    """
    return Provenance.union(
        require_disjoint(
            effects.provenance_of(defining) | (units_from or Provenance()),
            effects.provenance_of(tested),
            what=f"identification of {', '.join(effects.participants[i] for i in tested)}",
            allow_circular=allow_circular,
        )
        for defining, tested in splits
    )


def score_folds(
    gram: Floats,
    n_tasks: int,
    splits: Splits,
    *,
    centre: bool = True,
    labels: npt.NDArray[np.int64] | None = None,
) -> Floats:
    """Correlate tested maps with the templates of their fold, from the maps' Gram matrix.

    Parameters
    ----------
    gram : ndarray of float64, shape (n_participants * n_tasks, n_participants * n_tasks)
        Of the effect maps, from `gram_matrix`.
    n_tasks : int
        Number of tasks.
    splits : sequence of (sequence of int, sequence of int)
        From `split_folds`.
    centre : bool, default=True
        As in `identify`.
    labels : ndarray of int64, shape (n_participants, n_tasks), optional
        Which of a participant's maps counts as which task; as they stand by default.

    Returns
    -------
    ndarray of float64, shape (n_tests, n_tasks)
        Scores; tests in the order of the splits, each participant's tasks in order.
    """
    n_participants = len(gram) // n_tasks
    if labels is None:
        labels = np.tile(np.arange(n_tasks), (n_participants, 1))
    own = np.eye(n_tasks)[labels]
    if centre:
        own = own - 1 / n_tasks
    blocks = np.zeros((n_participants, n_tasks, n_participants, n_tasks))
    everybody = np.arange(n_participants)
    blocks[everybody, :, everybody] = own
    maps = blocks.reshape(n_participants, n_tasks, -1)
    scores = [
        weighted_correlation(
            gram,
            maps[list(tested)].reshape(-1, len(gram)),
            maps[list(defining)].mean(axis=0),
        )
        for defining, tested in splits
    ]
    return np.concatenate(scores)
