"""Identification: which task was shown to a participant who defined nothing?

Templates are the tasks' mean effect maps over some participants. A held-out participant's map gets
the task whose template it correlates with best (template correlation). Identification is easy, and
no evidence of localisation: 100 random units do nearly as well (see ``controls``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import TaskEffects
from llm2bids.network.provenance import Provenance, circularity_note, require_disjoint
from llm2bids.network.similarity import (
    Floats,
    Maps,
    gram_matrix,
    top_units,
    weighted_correlation,
)

Ints = npt.NDArray[np.int64]
Folds = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Identification:
    """The task given to every tested map.

    Parameters
    ----------
    tasks : tuple of str
        Labels, in the order of the templates.
    participants : tuple of str, length n_tests
        Whose map was tested.
    true : ndarray of int64, shape (n_tests,)
        Index of the task that was shown.
    predicted : ndarray of int64, shape (n_tests,)
        Index of the task that was identified.
    scores : ndarray of float64, shape (n_tests, n_tasks)
        Correlation with each template (or the classifier's decision values).
    method : str
        What identified, in words.
    shared : Provenance
        Data that both defined and tested (with ``allow_circular``), empty where none did.
    provenance : Provenance
        All that defined or tested.
    """

    tasks: tuple[str, ...]
    participants: tuple[str, ...]
    true: Ints
    predicted: Ints
    scores: Floats
    method: str
    shared: Provenance
    provenance: Provenance

    @property
    def n_tests(self) -> int:
        """Number of tested maps."""
        return self.true.size

    @property
    def n_correct(self) -> int:
        """Number of maps whose task was identified."""
        return int((self.true == self.predicted).sum())

    @property
    def accuracy(self) -> float:
        """Share of maps whose task was identified."""
        return self.n_correct / self.n_tests

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / len(self.tasks)

    @property
    def confusion(self) -> pd.DataFrame:
        """Number of maps by task shown (rows) and task identified (columns)."""
        n_tasks = len(self.tasks)
        counts = np.bincount(self.true * n_tasks + self.predicted, minlength=n_tasks**2)
        return pd.DataFrame(
            counts.reshape(n_tasks, n_tasks),
            index=pd.Index(self.tasks, name="shown"),
            columns=pd.Index(self.tasks, name="identified"),
        )

    @property
    def p_value(self) -> float:
        """One-sided binomial p of doing no better than guessing."""
        test = stats.binomtest(self.n_correct, self.n_tests, self.chance, alternative="greater")
        return float(test.pvalue)

    def interval(
        self, confidence: float = 0.95, method: Literal["wilson", "exact"] = "wilson"
    ) -> tuple[float, float]:
        """Give the binomial interval of the accuracy.

        Parameters
        ----------
        confidence : float, default=0.95
            Coverage.
        method : {"wilson", "exact"}
            Wilson's score interval, or Clopper and Pearson's.

        Returns
        -------
        tuple of (float, float)
            Bounds. Tests count as independent, though folds share templates.
        """
        return binomial_interval(self.n_correct, self.n_tests, confidence, method)

    def table(self) -> pd.DataFrame:
        """List the tests.

        Returns
        -------
        DataFrame
            Columns ``participant``, ``shown``, ``identified``, ``correct``, ``score`` (of the task
            shown) and ``margin`` (over the best of the others).
        """
        rows = np.arange(self.n_tests)
        own = self.scores[rows, self.true]
        others = self.scores.copy()
        others[rows, self.true] = -np.inf
        names = np.asarray(self.tasks, dtype=object)
        return pd.DataFrame(
            {
                "participant": self.participants,
                "shown": names[self.true],
                "identified": names[self.predicted],
                "correct": self.true == self.predicted,
                "score": own,
                "margin": own - others.max(axis=1),
            }
        )

    def __str__(self) -> str:
        low, high = self.interval()
        said = (
            f"{self.n_correct} of {self.n_tests} maps identified by {self.method}: accuracy "
            f"{self.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}, chance {self.chance:.3f})"
        )
        return f"{said}. {circularity_note(self.shared)}".strip()


def binomial_interval(
    n_correct: int,
    n_tests: int,
    confidence: float = 0.95,
    method: Literal["wilson", "exact"] = "wilson",
) -> tuple[float, float]:
    """Give the interval of a share, with `scipy.stats.binomtest`.

    Parameters
    ----------
    n_correct, n_tests : int
        Successes and trials.
    confidence : float, default=0.95
        Coverage.
    method : {"wilson", "exact"}
        Wilson's score interval, or Clopper and Pearson's.

    Returns
    -------
    tuple of (float, float)
        Bounds.

    Examples
    --------
    >>> [round(bound, 3) for bound in binomial_interval(47, 48)]
    [0.891, 0.996]
    """
    interval = stats.binomtest(n_correct, n_tests).proportion_ci(confidence, method=method)
    return float(interval.low), float(interval.high)


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
    splits: Sequence[tuple[Sequence[int], Sequence[int]]],
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
    splits: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    centre: bool = True,
    labels: Ints | None = None,
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
    maps = np.zeros((n_participants, n_tasks, n_participants, n_tasks))
    everybody = np.arange(n_participants)
    maps[everybody, :, everybody] = own
    maps = maps.reshape(n_participants, n_tasks, -1)
    scores = [
        weighted_correlation(
            gram,
            maps[list(tested)].reshape(-1, len(gram)),
            maps[list(defining)].mean(axis=0),
        )
        for defining, tested in splits
    ]
    return np.concatenate(scores)


def _restrict(effects: TaskEffects, units: npt.NDArray[Any] | None) -> Maps:
    return effects.effects if units is None else effects.effects[..., units]


def _score(
    effects: Maps,
    splits: Sequence[tuple[Sequence[int], Sequence[int]]],
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
