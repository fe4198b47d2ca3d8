"""Overlap of the tasks' networks: Dice and correlation with chance level and interval.

A network is the units with the largest effects, with their signs. Two tasks of one participant
that were compared with the same off prompts share those prompts' errors, which fakes overlap: the
result says so.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import NetworkError
from llm2bids.inference.effects import Effects
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

_MATRICES = (
    *("correlation", "correlation_low", "correlation_high", "dice", "dice_low", "dice_high"),
    *("chance", "chance_within_site", "chance_within_site_high", "first"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlap:
    """Overlap between the tasks, arrays of shape (n_tasks, n_tasks), intervals at `confidence`.

    `correlation`: Pearson's r over the units between group effect maps. `dice`: of the `share` of
    units with the largest effects, signs agreeing. `chance`: expected Dice of random sets with as
    many units of either sign; `chance_within_site` (and its quantile at `confidence`): when units
    are permuted within their sites. `first`: share of the bootstrap samples in which this pair has
    the highest correlation.
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

    def pairs(self) -> pd.DataFrame:
        """List the pairs of tasks, the most alike first: ``task_a``, ``task_b`` and each matrix."""
        rows, columns = np.triu_indices(len(self.tasks), k=1)
        measures = {name: getattr(self, name)[rows, columns] for name in _MATRICES}
        names = np.asarray(self.tasks, dtype=object)
        table = pd.DataFrame({"task_a": names[rows], "task_b": names[columns], **measures})
        return table.sort_values("correlation", ascending=False, ignore_index=True)


def measure_overlap(
    effects: Effects,
    *,
    share: float = 0.05,
    sites: npt.NDArray[Any] | None = None,
    n_boot: int = 200,
    n_perm: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Overlap:
    """Measure how much the tasks' networks have in common; `sites` labels each unit's site."""
    n_participants, n_tasks, n_units = effects.values.shape
    if n_participants < 2 or n_tasks < 2:
        raise NetworkError(
            f"overlap: found {n_participants} participants and {n_tasks} tasks; expected two or "
            "more of each; record more participants or tasks"
        )
    groups = np.zeros(n_units, dtype=np.int64) if sites is None else np.asarray(sites)
    if groups.shape != (n_units,):
        raise NetworkError(f"sites: found {groups.size} labels for {n_units} units; give one each")
    rng = np.random.default_rng(seed)
    group = effects.values.mean(axis=0)
    networks = top_units(group, share)
    common = dice_matrix(networks)
    r, r_error = _correlate(effects)
    r_boot, dice_boot = _bootstrap(effects, n_boot, share=share, rng=rng)
    within = permuted_dice(networks, groups, n_perm=n_perm, seed=rng)
    grow = float(np.sqrt(n_participants / (n_participants - 1)))
    dof, dice_error = n_participants - 1, grow * angle(dice_boot).std(axis=0, ddof=1)
    r_low, r_high = student_interval(
        r, r_error, dof, forth=fisher_z, back=np.tanh, confidence=confidence
    )
    dice_low, dice_high = student_interval(
        common, dice_error, dof, forth=angle, back=share_of_angle, confidence=confidence
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
    )


def chance_dice(networks: Signs, sites: npt.NDArray[Any] | None = None) -> Floats:
    """Give the expected Dice of random sets with as many units of either sign, in each site."""
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
    """Draw the Dice of networks whose units are permuted in their sites, (n_perm, n, n)."""
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


def shared_between_tasks(effects: Effects) -> tuple[str, ...]:
    """Say which tasks of one participant used the same prompts."""
    warnings = []
    for (i, first), (j, second) in combinations(enumerate(effects.tasks), 2):
        count = sum(len(row[i].overlap(row[j]).prompts) for row in effects.made_from)
        if count:
            warnings.append(
                f"tasks {first} and {second} share {count} prompts within participants: a shared "
                "baseline makes their maps alike"
            )
    return tuple(warnings)


def _correlate(effects: Effects) -> tuple[Floats, Floats]:
    """Correlate the group maps; give r, and its jackknifed standard error on Fisher's z scale."""
    n_participants, n_tasks, _ = effects.values.shape
    gram = gram_matrix(effects.values.reshape(n_participants * n_tasks, -1))
    kept = np.vstack([np.ones(n_participants), 1 - np.eye(n_participants)])
    weights = _group_weights(kept / kept.sum(axis=1, keepdims=True), n_tasks)
    r = weighted_correlation(gram, weights, weights)
    without = [fisher_z(part).ravel() for part in r[1:]]
    return r[0], jackknife_error(without, n_tasks**2).reshape(n_tasks, n_tasks)


def _group_weights(participants: Floats, n_tasks: int) -> Floats:
    """Spread weights of participants over their maps, shape (n, n_tasks, n_maps)."""
    weights = np.einsum("bp,tu->btpu", participants, np.eye(n_tasks))
    return np.asarray(weights.reshape(len(participants), n_tasks, -1), dtype=np.float64)


def _bootstrap(
    effects: Effects, n_boot: int, *, share: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Resample participants; give r and Dice, each of shape (n_boot, n_tasks, n_tasks)."""
    n_participants, n_tasks, _ = effects.values.shape
    maps = effects.values.reshape(n_participants * n_tasks, -1)
    drawn = np.sort(rng.integers(n_participants, size=(n_boot, n_participants)), axis=1)
    counts = np.stack([np.bincount(sample, minlength=n_participants) for sample in drawn])
    weights = _group_weights(counts / n_participants, n_tasks)
    r = weighted_correlation(gram_matrix(maps), weights, weights)
    common = np.empty((n_boot, n_tasks, n_tasks))
    for index, weight in enumerate((counts / n_participants).astype(maps.dtype)):
        group = (weight @ maps.reshape(n_participants, -1)).reshape(n_tasks, -1)
        common[index] = dice_matrix(top_units(group, share))
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
        np.stack([np.bincount(index[marked == sign], minlength=widths.size) for marked in networks])
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
