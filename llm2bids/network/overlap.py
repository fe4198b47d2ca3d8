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

from llm2bids.inference.effects import Effects
from llm2bids.network.options import FindingsOptions
from llm2bids.network.similarity import (
    ARCSINE,
    CONFIDENCE,
    FISHER,
    Floats,
    Signs,
    angle,
    dice_matrix,
    dice_of_counts,
    fisher_z,
    gram_matrix,
    jackknife_interval,
    student_interval,
    top_units,
    weighted_correlation,
)

Ints = npt.NDArray[np.int64]

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


def measure_overlap(effects: Effects, options: FindingsOptions, sites: npt.NDArray[Any]) -> Overlap:
    """Measure how much the tasks' networks have in common; `sites` labels each unit's site."""
    n_participants, _, n_units = effects.values.shape
    rng = np.random.default_rng(options.seed)
    networks = top_units(effects.values.mean(axis=0), options.share)
    common = dice_matrix(networks)
    gram = gram_matrix(effects.values)
    r, r_without = _correlate(gram, n_participants)
    r_boot, dice_boot = _bootstrap(effects, gram, options, rng)
    within = permuted_dice(networks, sites, options.n_perm, rng)
    dof = n_participants - 1
    dice_error = np.sqrt(n_participants / dof) * angle(dice_boot).std(axis=0, ddof=1)
    r_low, r_high = jackknife_interval(r, r_without, FISHER)
    dice_low, dice_high = student_interval(common, dice_error, dof, ARCSINE)
    return Overlap(
        tasks=effects.tasks,
        correlation=r,
        correlation_low=r_low,
        correlation_high=r_high,
        dice=common,
        dice_low=dice_low,
        dice_high=dice_high,
        chance=chance_dice(networks, np.zeros(n_units)),
        chance_within_site=chance_dice(networks, sites),
        chance_within_site_high=np.quantile(within, CONFIDENCE, axis=0),
        first=_count_first(r_boot),
        share=options.share,
        n_participants=n_participants,
        n_boot=options.n_boot,
        confidence=CONFIDENCE,
        warnings=shared_between_tasks(effects),
    )


def chance_dice(networks: Signs, sites: npt.NDArray[Any]) -> Floats:
    """Give the expected Dice of random sets with as many units of either sign, in each site."""
    positive, negative, widths = _count_by_site(networks, sites)
    common = (positive / widths) @ positive.T + (negative / widths) @ negative.T
    return dice_of_counts(common, (positive + negative).sum(axis=1))


def permuted_dice(
    networks: Signs, sites: npt.NDArray[Any], n_perm: int, rng: np.random.Generator
) -> Floats:
    """Draw the Dice of networks whose units are permuted in their sites, (n_perm, n, n)."""
    positive, negative, widths = _count_by_site(networks, sites)
    n = len(networks)
    common = np.zeros((n_perm, n, n))
    for i, j in (*combinations(range(n), 2), *((i, i) for i in range(n))):
        drawn = _draw_common(positive[[i, j]], negative[[i, j]], widths, n_perm, rng)
        common[:, i, j] = common[:, j, i] = drawn
    return dice_of_counts(common, (positive + negative).sum(axis=1))


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


def _correlate(gram: Floats, n_participants: int) -> tuple[Floats, Floats]:
    """Correlate the group maps; give r, and Fisher's z without one participant each."""
    n_tasks = len(gram) // n_participants
    kept = np.vstack([np.ones(n_participants), 1 - np.eye(n_participants)])
    weights = _group_weights(kept / kept.sum(axis=1, keepdims=True), n_tasks)
    r = weighted_correlation(gram, weights, weights)
    return r[0], fisher_z(r[1:])


def _group_weights(participants: Floats, n_tasks: int) -> Floats:
    """Spread weights of participants, (n, n_participants), over maps: (n, n_tasks, n_maps)."""
    return np.asarray(np.kron(participants[:, np.newaxis], np.eye(n_tasks)), dtype=np.float64)


def _bootstrap(
    effects: Effects, gram: Floats, options: FindingsOptions, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Resample participants; give r and Dice, each of shape (n_boot, n_tasks, n_tasks)."""
    n_participants, n_tasks, n_units = effects.values.shape
    size = (options.n_boot, n_participants)
    drawn = np.sort(rng.integers(n_participants, size=size), axis=1)
    counts = np.stack([np.bincount(who, minlength=n_participants) for who in drawn])
    shares = counts / n_participants
    weights = _group_weights(shares, n_tasks)
    flat = effects.values.reshape(n_participants, -1)
    groups = (
        (share @ flat).reshape(n_tasks, n_units) for share in shares.astype(effects.values.dtype)
    )
    common = np.stack([dice_matrix(top_units(group, options.share)) for group in groups])
    return weighted_correlation(gram, weights, weights), common


def _count_first(r: Floats) -> Floats:
    """Say how often each pair has the highest correlation; shape (n_tasks, n_tasks)."""
    n_tasks = r.shape[1]
    rows, columns = np.triu_indices(n_tasks, k=1)
    best = r[:, rows, columns].argmax(axis=1)
    first = np.zeros((n_tasks, n_tasks))
    first[rows, columns] = np.bincount(best, minlength=rows.size) / len(r)
    return first + first.T


def _count_by_site(networks: Signs, sites: npt.NDArray[Any]) -> tuple[Ints, Ints, Ints]:
    """Count marked units of either sign, shape (n_networks, n_sites), and the sites' widths."""
    index = np.unique(sites, return_inverse=True)[1]
    widths = np.bincount(index)
    positive, negative = (
        np.stack([np.bincount(index[marked == sign], minlength=widths.size) for marked in networks])
        for sign in (1, -1)
    )
    return positive, negative, widths


def _draw_common(
    positive: Ints, negative: Ints, widths: Ints, n_perm: int, rng: np.random.Generator
) -> Ints:
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
    return np.asarray((both_up + both_down).sum(axis=1))
