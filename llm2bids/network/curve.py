"""Accuracy of identification as a function of the number of prompts and of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import OFF, PromptMeans, effect_weights, task_effects
from llm2bids.network.folds import Folds, check_folds, score_folds, split_folds
from llm2bids.network.identification import binomial_interval
from llm2bids.network.provenance import Provenance
from llm2bids.network.similarity import Floats, gram_matrix

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class AccuracyCurve:
    """Accuracy for each number of prompts and of tokens.

    Parameters
    ----------
    n_tokens, n_prompts : tuple of int
        Tokens per prompt, and on prompts per effect map.
    accuracies : ndarray of float64, shape (len(n_tokens), len(n_prompts), n_draws)
        Accuracy of each draw of prompts.
    n_tests : int
        Maps tested in each draw.
    chance : float
        Accuracy of guessing.
    shared : Provenance
        Data that both defined and tested (with ``allow_circular``), empty where none did.
    provenance : Provenance
        What the maps were made from.
    """

    n_tokens: tuple[int, ...]
    n_prompts: tuple[int, ...]
    accuracies: Floats
    n_tests: int
    chance: float
    shared: Provenance
    provenance: Provenance

    def table(self, confidence: float = 0.95) -> pd.DataFrame:
        """Give one row for each number of tokens and of prompts.

        Parameters
        ----------
        confidence : float, default=0.95
            Coverage of the interval and of the draws' quantiles.

        Returns
        -------
        DataFrame
            Columns ``n_tokens``, ``n_prompts``, ``accuracy`` (mean over the draws), ``low`` and
            ``high`` (Wilson's interval of one draw's tests: draws share participants, and do not
            narrow it), ``draw_low`` and ``draw_high`` (quantiles over the draws), ``n_tests``,
            ``chance``.
        """
        at = [(1 - confidence) / 2, (1 + confidence) / 2]
        rows = []
        for i, tokens in enumerate(self.n_tokens):
            for j, prompts in enumerate(self.n_prompts):
                draws = self.accuracies[i, j]
                mean = float(draws.mean())
                low, high = binomial_interval(round(mean * self.n_tests), self.n_tests, confidence)
                rows.append((tokens, prompts, mean, low, high, *np.quantile(draws, at).tolist()))
        names = ("n_tokens", "n_prompts", "accuracy", "low", "high", "draw_low", "draw_high")
        table = pd.DataFrame(rows, columns=list(names))
        return table.assign(n_tests=self.n_tests, chance=self.chance)


def accuracy_curve(
    samples: Mapping[int, PromptMeans],
    *,
    n_prompts: Sequence[int],
    n_draws: int = 20,
    folds: Folds | None = None,
    centre: bool = True,
    seed: int = 0,
    allow_circular: bool = False,
) -> AccuracyCurve:
    """Identify with fewer prompts and fewer tokens, in templates and tests alike.

    Parameters
    ----------
    samples : mapping of int to PromptMeans
        For each number of tokens the means over the prompts' first so many tokens (see
        `mean_first_tokens`), with the same prompts in the same order.
    n_prompts : sequence of int
        Numbers of on prompts per run; off prompts are drawn in proportion.
    n_draws : int, default=20
        Random draws of the prompts.
    folds, centre, allow_circular
        As in `identify_left_out`.
    seed : int, default=0
        Seed of the draws, which are the same for each number of tokens.

    Returns
    -------
    AccuracyCurve
        Accuracies of all draws.

    Raises
    ------
    NetworkError
        As `identify_left_out`; if the samples differ in their prompts, or a run has fewer prompts
        than asked for.
    """
    first = _check_samples(samples)
    full, participants, tasks = effect_weights(first)
    splits = split_folds(len(participants), folds)
    effects = task_effects(first)
    shared = check_folds(effects, splits, allow_circular=allow_circular)
    rng = np.random.default_rng(seed)
    weights = np.zeros((len(n_prompts), n_draws, len(participants) * len(tasks), full.shape[2]))
    for i, count in enumerate(n_prompts):
        for draw in range(n_draws):
            kept = _draw_prompts(first, count, rng)
            weights[i, draw] = effect_weights(first, kept)[0].reshape(-1, full.shape[2])
    accuracies = np.empty((len(samples), len(n_prompts), n_draws))
    for place, means in enumerate(samples.values()):
        gram = gram_matrix(means.values, centre_maps=True)
        for index in np.ndindex(weights.shape[:2]):
            maps = weights[index] @ gram @ weights[index].T
            scores = score_folds(maps, len(tasks), splits, centre=centre)
            true = np.tile(np.arange(len(tasks)), len(participants))
            accuracies[place, *index] = (scores.argmax(axis=1) == true).mean()
    return AccuracyCurve(
        n_tokens=tuple(samples),
        n_prompts=tuple(n_prompts),
        accuracies=accuracies,
        n_tests=len(participants) * len(tasks),
        chance=1 / len(tasks),
        shared=shared,
        provenance=first.provenance(),
    )


def mean_first_tokens(
    values: npt.NDArray[np.floating[Any]], trials: npt.NDArray[np.integer[Any]], n_tokens: int
) -> npt.NDArray[np.float32]:
    """Average the first volumes of each prompt of a run.

    Parameters
    ----------
    values : ndarray of float, shape (n_volumes, n_units)
        The run, in the order of time.
    trials : ndarray of int, shape (n_volumes,)
        Trial of each volume, from 0 without gaps.
    n_tokens : int
        Volumes of each prompt to use.

    Returns
    -------
    ndarray of float32, shape (n_trials, n_units)
        Means.

    Raises
    ------
    NetworkError
        If a prompt has fewer volumes.

    Examples
    --------
    >>> run = np.array([[1.0], [3.0], [8.0], [5.0], [7.0], [0.0]])
    >>> mean_first_tokens(run, np.array([0, 0, 0, 1, 1, 1]), 2).ravel()
    array([2., 6.], dtype=float32)
    """
    counts = np.bincount(trials)
    if not 1 <= n_tokens <= counts.min():
        raise NetworkError(
            f"tokens per prompt: found {n_tokens}, expected 1 to {counts.min()}, which the "
            "shortest prompt of the run has"
        )
    means = np.empty((counts.size, values.shape[1]), dtype=np.float32)
    for trial in range(counts.size):
        rows = np.flatnonzero(trials == trial)[:n_tokens]
        means[trial] = values[rows].mean(axis=0)
    return means


def _check_samples(samples: Mapping[int, PromptMeans]) -> PromptMeans:
    if not samples:
        raise NetworkError(
            "samples: found none; expected the prompts' means for one number or more"
        )
    first = next(iter(samples.values()))
    for n_tokens, means in samples.items():
        for name in ("prompt_ids", "participants", "runs", "trial_types"):
            if not np.array_equal(getattr(means, name), getattr(first, name)):
                raise NetworkError(
                    f"samples: the {name} for {n_tokens} tokens differ from those of the first "
                    "sample; expected the same prompts in the same order"
                )
    return first


def _draw_prompts(means: PromptMeans, count: int, rng: np.random.Generator) -> Bools:
    """Mark so many on prompts of each run and task, and off prompts in proportion."""
    kept = np.zeros(len(means.values), dtype=bool)
    runs = list(zip(means.participants.tolist(), means.runs.tolist(), strict=True))
    for run in dict.fromkeys(runs):
        mine = np.array([one == run for one in runs])
        kinds = dict.fromkeys(means.trial_types[mine].tolist())
        sizes = {kind: int((mine & (means.trial_types == kind)).sum()) for kind in kinds}
        fewest = min(size for kind, size in sizes.items() if kind != OFF)
        if not 1 <= count <= fewest:
            raise NetworkError(
                f"prompts per run: found {count}, expected 1 to {fewest}, which sub-{run[0]} "
                f"{run[1]} has"
            )
        for kind in kinds:
            rows = np.flatnonzero(mine & (means.trial_types == kind))
            size = max(1, round(sizes[OFF] * count / fewest)) if kind == OFF else count
            kept[rng.permutation(rows)[:size]] = True
    return kept
