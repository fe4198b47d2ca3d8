"""Overlap of the tasks' networks: Dice and correlation with chance level and interval.

A network is the units with the largest effects, with their signs. Two tasks of one participant
that were compared with the same off prompts share those prompts' errors, which fakes overlap: the
result says so.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import TaskEffects
from llm2bids.network.provenance import Provenance
from llm2bids.network.similarity import (
    Floats,
    Signs,
    angle,
    dice_matrix,
    fisher_z,
    gram_matrix,
    jackknife_error,
    share_of_angle,
    student_interval,
    top_units,
    weighted_correlation,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlap:
    """Overlap between the tasks, all arrays of float64 and shape (n_tasks, n_tasks).

    Parameters
    ----------
    tasks : tuple of str
        Labels of both axes.
    correlation, correlation_low, correlation_high : ndarray
        Pearson's r over the units between group effect maps, and its interval.
    dice, dice_low, dice_high : ndarray
        Dice of the networks (units with the largest effects, signs agreeing), and its interval.
    chance : ndarray
        Expected Dice of random sets with as many units of either sign.
    chance_within_site, chance_within_site_high : ndarray
        Expected Dice, and its quantile at `confidence`, when a network's units are permuted within
        their sites.
    share : float
        Share of the units in a network.
    first : ndarray
        Share of the bootstrap samples in which this pair has the highest correlation.
    n_participants, n_boot : int
        Participants, and bootstrap samples of them.
    confidence : float
        Coverage of the intervals.
    warnings : tuple of str
        What makes the overlap doubtful, such as a shared baseline.
    provenance : Provenance
        What the maps were made from.
    """

    tasks: tuple[str, ...]
    correlation: Floats
    correlation_low: Floats
    correlation_high: Floats
    dice: Floats
    dice_low: Floats
    dice_high: Floats
    chance: Floats
    chance_within_site: Floats
    chance_within_site_high: Floats
    first: Floats
    share: float
    n_participants: int
    n_boot: int
    confidence: float
    warnings: tuple[str, ...]
    provenance: Provenance

    def pairs(self) -> pd.DataFrame:
        """List the pairs of tasks, the most alike first.

        Returns
        -------
        DataFrame
            Columns ``task_a``, ``task_b`` and each measure of the class, sorted by correlation.
        """
        rows, columns = np.triu_indices(len(self.tasks), k=1)
        measures = {
            name: getattr(self, name)[rows, columns]
            for name in (
                *("correlation", "correlation_low", "correlation_high"),
                *("dice", "dice_low", "dice_high"),
                *("chance", "chance_within_site", "chance_within_site_high", "first"),
            )
        }
        names = np.asarray(self.tasks, dtype=object)
        table = pd.DataFrame({"task_a": names[rows], "task_b": names[columns], **measures})
        return table.sort_values("correlation", ascending=False, ignore_index=True)


def measure_overlap(
    effects: TaskEffects,
    *,
    share: float = 0.05,
    two_sided: bool = True,
    sites: npt.NDArray[Any] | None = None,
    n_boot: int = 200,
    n_perm: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Overlap:
    """Measure how much the networks of the tasks have in common.

    The intervals are for another cohort of as many participants: the estimate, plus and minus
    Student's t times its standard error over participants, on Fisher's z scale for correlations
    (jackknife) and on the arcsine scale for Dice (bootstrap). Percentiles of the bootstrap are not
    used: a bootstrap sample repeats participants, so its maps are noisier than the cohort's and
    less correlated. In simulations with 8 participants they cover 21 to 62 % where 95 % is asked
    for, the bootstrap's standard error 96 to 100 %, the jackknife's 95 to 97 %; for Dice, which is
    not smooth, the bootstrap's standard error covers 98 to 100 % and the jackknife's is larger.

    Parameters
    ----------
    effects : TaskEffects
        Effect maps of at least two participants and two tasks.
    share : float, default=0.05
        Share of the units in a network.
    two_sided : bool, default=True
        As in `top_units`.
    sites : ndarray, shape (n_units,), optional
        Site of each unit, for the chance level within sites; one site by default.
    n_boot : int, default=200
        Bootstrap samples of participants (for Dice, and for which pair is first).
    n_perm : int, default=1000
        Permutations of the units within sites.
    confidence : float, default=0.95
        Coverage of the intervals and quantile of the chance level.
    seed : int, default=0
        Seed of bootstrap and permutations.

    Returns
    -------
    Overlap
        Matrices between the tasks.

    Raises
    ------
    NetworkError
        If there are fewer than two participants or tasks, or `sites` has another length.
    """
    n_participants, n_tasks, n_units = effects.effects.shape
    if n_participants < 2 or n_tasks < 2:
        raise NetworkError(
            f"overlap: found {n_participants} participants and {n_tasks} tasks; expected two or "
            "more of each; record more participants or tasks"
        )
    groups = np.zeros(n_units, dtype=np.int64) if sites is None else np.asarray(sites)
    if groups.shape != (n_units,):
        raise NetworkError(f"sites: found {groups.size} labels for {n_units} units; give one each")
    rng = np.random.default_rng(seed)
    group = effects.effects.mean(axis=0)
    networks = top_units(group, share, two_sided=two_sided)
    common = dice_matrix(networks)
    r, r_error = _correlate(effects)
    r_boot, dice_boot = _bootstrap(effects, n_boot, share=share, two_sided=two_sided, rng=rng)
    within = permuted_dice(networks, groups, n_perm=n_perm, seed=rng)
    grow = float(np.sqrt(n_participants / (n_participants - 1)))
    r_low, r_high = student_interval(
        r,
        r_error,
        n_participants - 1,
        forth=fisher_z,
        back=np.tanh,
        confidence=confidence,
    )
    dice_low, dice_high = student_interval(
        common,
        grow * angle(dice_boot).std(axis=0, ddof=1),
        n_participants - 1,
        forth=angle,
        back=share_of_angle,
        confidence=confidence,
    )
    return Overlap(
        tasks=effects.tasks,
        correlation=r,
        correlation_low=r_low,
        correlation_high=r_high,
        dice=common,
        dice_low=dice_low,
        dice_high=dice_high,
        chance=chance_dice(networks),
        chance_within_site=chance_dice(networks, groups),
        chance_within_site_high=np.quantile(within, confidence, axis=0),
        first=_count_first(r_boot),
        share=share,
        n_participants=n_participants,
        n_boot=n_boot,
        confidence=confidence,
        warnings=shared_between_tasks(effects),
        provenance=effects.provenance,
    )


def chance_dice(networks: Signs, sites: npt.NDArray[Any] | None = None) -> Floats:
    """Give the expected Dice of random sets of the same sizes.

    Parameters
    ----------
    networks : ndarray of int8, shape (n_networks, n_units)
        Marked units with their signs.
    sites : ndarray, shape (n_units,), optional
        Site of each unit; random sets then have as many units in each site.

    Returns
    -------
    ndarray of float64, shape (n_networks, n_networks)
        Expectation over all permutations of the units (within sites): for each sign the product
        of both counts over the number of units, summed, over the mean size.

    Examples
    --------
    >>> one = np.array([[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1]], dtype=np.int8)
    >>> float(chance_dice(one)[0, 1])
    0.25
    """
    positive, negative, widths = _count_by_site(networks, sites)
    common = (positive / widths) @ positive.T + (negative / widths) @ negative.T
    return _dice_of_counts(common, positive, negative)


def permuted_dice(
    networks: Signs,
    sites: npt.NDArray[Any] | None = None,
    *,
    n_perm: int = 1000,
    seed: int | np.random.Generator = 0,
) -> Floats:
    """Draw the Dice of networks whose units are permuted within their sites.

    The number of common units after a random permutation follows hypergeometric distributions,
    one for each site and sign: they are drawn, the units themselves need not be moved.

    Parameters
    ----------
    networks : ndarray of int8, shape (n_networks, n_units)
        Marked units with their signs.
    sites : ndarray, shape (n_units,), optional
        Site of each unit; one site by default.
    n_perm : int, default=1000
        Number of permutations.
    seed : int or Generator, default=0
        Seed or source of the draws.

    Returns
    -------
    ndarray of float64, shape (n_perm, n_networks, n_networks)
        Dice of each pair in each permutation; 1 for a network with itself is not permuted, it is
        drawn like the others.
    """
    rng = np.random.default_rng(seed)
    positive, negative, widths = (part.astype(np.int64) for part in _count_by_site(networks, sites))
    n_networks = len(networks)
    common = np.zeros((n_perm, n_networks, n_networks))
    for i, j in combinations(range(n_networks), 2):
        drawn = _draw_common(positive[[i, j]], negative[[i, j]], widths, n_perm, rng)
        common[:, i, j] = common[:, j, i] = drawn
    for i in range(n_networks):
        common[:, i, i] = _draw_common(positive[[i, i]], negative[[i, i]], widths, n_perm, rng)
    return _dice_of_counts(common, positive, negative)


def shared_between_tasks(effects: TaskEffects) -> tuple[str, ...]:
    """Find the tasks of one participant that used the same prompts.

    Parameters
    ----------
    effects : TaskEffects
        Effect maps with their provenance.

    Returns
    -------
    tuple of str
        A warning for each pair of tasks that shares off prompts or on prompts; empty if none does.
    """
    found: Counter[tuple[str, str, str]] = Counter()
    for (i, one), (j, two) in combinations(enumerate(effects.tasks), 2):
        for kind, parts in (("off", effects.off), ("on", effects.on)):
            found[one, two, kind] += sum(len(row[i].overlap(row[j]).prompts) for row in parts)
    why = {
        "off": "a shared baseline makes their maps alike",
        "on": "their maps are alike because they are made from the same prompts",
    }
    return tuple(
        f"tasks {one} and {two} share {count} {kind} prompts within participants: {why[kind]}"
        for (one, two, kind), count in found.items()
        if count
    )


def _correlate(effects: TaskEffects) -> tuple[Floats, Floats]:
    """Correlate the group maps; give r, and its jackknifed standard error on Fisher's z scale."""
    n_participants, n_tasks, _ = effects.effects.shape
    gram = gram_matrix(effects.effects.reshape(n_participants * n_tasks, -1))
    kept = np.vstack([np.ones(n_participants), 1 - np.eye(n_participants)])
    weights = _group_weights(kept / kept.sum(axis=1, keepdims=True), n_tasks)
    r = weighted_correlation(gram, weights, weights)
    without = [fisher_z(one).ravel() for one in r[1:]]
    return r[0], jackknife_error(without, n_tasks**2).reshape(n_tasks, n_tasks)


def _group_weights(participants: Floats, n_tasks: int) -> Floats:
    """Spread weights of participants over their maps, shape (n, n_tasks, n_maps)."""
    weights = np.einsum("bp,tu->btpu", participants, np.eye(n_tasks))
    return np.asarray(weights.reshape(len(participants), n_tasks, -1), dtype=np.float64)


def _bootstrap(
    effects: TaskEffects,
    n_boot: int,
    *,
    share: float,
    two_sided: bool,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Resample participants; give r and Dice, each of shape (n_boot, n_tasks, n_tasks)."""
    n_participants, n_tasks, _ = effects.effects.shape
    maps = effects.effects.reshape(n_participants * n_tasks, -1)
    drawn = np.sort(rng.integers(n_participants, size=(n_boot, n_participants)), axis=1)
    counts = np.stack([np.bincount(one, minlength=n_participants) for one in drawn])
    weights = _group_weights(counts / n_participants, n_tasks)
    r = weighted_correlation(gram_matrix(maps), weights, weights)
    common = np.empty((n_boot, n_tasks, n_tasks))
    for index, weight in enumerate((counts / n_participants).astype(maps.dtype)):
        group = (weight @ maps.reshape(n_participants, -1)).reshape(n_tasks, -1)
        common[index] = dice_matrix(top_units(group, share, two_sided=two_sided))
    return r, common


def _count_first(r: Floats) -> Floats:
    """Say how often each pair has the highest correlation; shape (n_tasks, n_tasks)."""
    n_tasks = r.shape[1]
    rows, columns = np.triu_indices(n_tasks, k=1)
    best = r[:, rows, columns].argmax(axis=1)
    first = np.zeros((n_tasks, n_tasks))
    first[rows, columns] = np.bincount(best, minlength=rows.size) / len(r)
    return first + first.T


def _count_by_site(
    networks: Signs, sites: npt.NDArray[Any] | None
) -> tuple[Floats, Floats, Floats]:
    """Count marked units of either sign, shape (n_networks, n_sites), and the sites' widths."""
    if sites is None:
        index = np.zeros(networks.shape[1], dtype=np.int64)
    else:
        index = np.unique(sites, return_inverse=True)[1]
    widths = np.bincount(index).astype(np.float64)
    parts = [
        np.stack([np.bincount(index[one == sign], minlength=widths.size) for one in networks])
        for sign in (1, -1)
    ]
    return parts[0].astype(np.float64), parts[1].astype(np.float64), widths


def _dice_of_counts(
    common: Floats, positive: npt.NDArray[Any], negative: npt.NDArray[Any]
) -> Floats:
    sizes = (positive + negative).sum(axis=1).astype(np.float64)
    totals = np.broadcast_to(sizes[:, np.newaxis] + sizes, common.shape)
    missing = np.full(common.shape, np.nan)
    return np.asarray(np.divide(2 * common, totals, out=missing, where=totals > 0))


def _draw_common(
    positive: npt.NDArray[np.int64],
    negative: npt.NDArray[np.int64],
    widths: npt.NDArray[np.int64],
    n_perm: int,
    rng: np.random.Generator,
) -> Floats:
    """Draw the number of common units of one network and another, permuted; shape (n_perm,)."""
    (up, up_moved), (down, down_moved) = positive, negative
    size = (n_perm, widths.size)
    both_up = rng.hypergeometric(up, widths - up, np.broadcast_to(up_moved, size))
    up_on_down = rng.hypergeometric(
        np.broadcast_to(down, size), widths - up - down, up_moved - both_up
    )
    left = down - up_on_down
    both_down = rng.hypergeometric(
        left, widths - up_moved - left, np.broadcast_to(down_moved, size)
    )
    return np.asarray((both_up + both_down).sum(axis=1), dtype=np.float64)
