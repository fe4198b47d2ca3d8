"""Controls of identification: random units, and shuffled labels."""

from dataclasses import dataclass

import numpy as np

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import TaskEffects
from llm2bids.network.folds import Folds, check_folds, score_folds, split_folds
from llm2bids.network.provenance import Provenance
from llm2bids.network.similarity import Floats, gram_matrix


@dataclass(frozen=True, kw_only=True, eq=False)
class Control:
    """Accuracies of identification under a control.

    Parameters
    ----------
    name : str
        What was done, in words.
    accuracies : ndarray of float64, shape (n_draws,)
        Accuracy of each draw.
    observed : float
        Accuracy with all units and the true labels.
    shared : Provenance
        Data that both defined and tested (with ``allow_circular``), empty where none did.
    provenance : Provenance
        What the maps were made from.
    """

    name: str
    accuracies: Floats
    observed: float
    shared: Provenance
    provenance: Provenance

    @property
    def mean(self) -> float:
        """Mean accuracy of the draws."""
        return float(self.accuracies.mean())

    @property
    def p_value(self) -> float:
        """Share of draws, the observed one included, that do as well as the observed."""
        as_good = int((self.accuracies >= self.observed - 1e-9).sum())
        return (1 + as_good) / (1 + self.accuracies.size)

    def quantiles(self, confidence: float = 0.95) -> tuple[float, float]:
        """Give the range in which that share of the draws lies.

        Parameters
        ----------
        confidence : float, default=0.95
            Share of the draws.

        Returns
        -------
        tuple of (float, float)
            Lower and upper quantile.
        """
        low, high = np.quantile(self.accuracies, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)


def random_units(
    effects: TaskEffects,
    *,
    n_units: int = 100,
    n_draws: int = 100,
    folds: Folds | None = None,
    centre: bool = True,
    seed: int = 0,
    allow_circular: bool = False,
) -> Control:
    """Identify with a few units drawn at random, as many as a network has.

    Parameters
    ----------
    effects : TaskEffects
        Maps of two participants at least.
    n_units : int, default=100
        Units in each draw.
    n_draws : int, default=100
        Number of draws.
    folds, centre, allow_circular
        As in `identify_left_out`.
    seed : int, default=0
        Seed of the draws.

    Returns
    -------
    Control
        Where the accuracies are near the observed one, identification says nothing about where in
        the model a task is.

    Raises
    ------
    NetworkError
        As `identify_left_out`, or if fewer than two or more than all units are asked for.
    """
    n_all = effects.effects.shape[2]
    if not 2 <= n_units <= n_all:
        raise NetworkError(f"random units: found {n_units}, expected 2 to {n_all}")
    splits = split_folds(len(effects.participants), folds)
    shared = check_folds(effects, splits, allow_circular=allow_circular)
    n_tasks = len(effects.tasks)
    maps = effects.effects.reshape(-1, n_all)
    rng = np.random.default_rng(seed)
    draws = [
        gram_matrix(maps[:, rng.choice(n_all, n_units, replace=False)]) for _ in range(n_draws)
    ]
    return Control(
        name=f"{n_units} random units",
        accuracies=np.array(
            [_accuracy(score_folds(gram, n_tasks, splits, centre=centre)) for gram in draws]
        ),
        observed=_accuracy(score_folds(gram_matrix(maps), n_tasks, splits, centre=centre)),
        shared=shared,
        provenance=effects.provenance,
    )


def shuffled_labels(
    effects: TaskEffects,
    *,
    n_perm: int = 1000,
    folds: Folds | None = None,
    centre: bool = True,
    seed: int = 0,
    allow_circular: bool = False,
) -> Control:
    """Identify with each participant's task labels shuffled.

    Parameters
    ----------
    effects : TaskEffects
        Maps of two participants at least.
    n_perm : int, default=1000
        Number of shuffles.
    folds, centre, allow_circular
        As in `identify_left_out`.
    seed : int, default=0
        Seed of the shuffles.

    Returns
    -------
    Control
        Accuracies when labels mean nothing; `Control.p_value` is the permutation p of the observed
        accuracy.

    Raises
    ------
    NetworkError
        As `identify_left_out`.
    """
    splits = split_folds(len(effects.participants), folds)
    shared = check_folds(effects, splits, allow_circular=allow_circular)
    n_participants, n_tasks, n_all = effects.effects.shape
    gram = gram_matrix(effects.effects.reshape(-1, n_all))
    rng = np.random.default_rng(seed)
    plain = np.tile(np.arange(n_tasks), (n_participants, 1))
    accuracies = [
        _accuracy(
            score_folds(gram, n_tasks, splits, centre=centre, labels=rng.permuted(plain, axis=1))
        )
        for _ in range(n_perm)
    ]
    return Control(
        name="shuffled labels",
        accuracies=np.array(accuracies),
        observed=_accuracy(score_folds(gram, n_tasks, splits, centre=centre)),
        shared=shared,
        provenance=effects.provenance,
    )


def _accuracy(scores: Floats) -> float:
    n_tasks = scores.shape[1]
    true = np.tile(np.arange(n_tasks), len(scores) // n_tasks)
    return float((scores.argmax(axis=1) == true).mean())
