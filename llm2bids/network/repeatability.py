"""Repeatability of effect maps: split halves of participants or prompts.

Halves of participants say how well another cohort would give the same map; halves of prompts how
well other prompts would, for the same participants.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import PromptMeans, TaskEffects, combine, effect_weights
from llm2bids.network.provenance import Provenance, require_apart
from llm2bids.network.similarity import (
    Floats,
    Maps,
    angle,
    dice,
    fisher_mean,
    fisher_z,
    jackknife_error,
    share_of_angle,
    student_interval,
    top_units,
)

Halves = Literal["participants", "prompts"]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitHalf:
    """Likeness of each task's group maps from two halves of the data.

    Parameters
    ----------
    over : {"participants", "prompts"}
        What was halved.
    tasks : tuple of str
        Labels of the tasks.
    r, dice : ndarray of float64, shape (n_splits, n_tasks)
        Correlation over the units, and Dice of the units with the largest effects.
    mean_r, r_low, r_high : ndarray of float64, shape (n_tasks,)
        Mean over the splits (Fisher's z) and its interval over participants.
    mean_dice, dice_low, dice_high : ndarray of float64, shape (n_tasks,)
        Mean over the splits and its interval over participants.
    share : float
        Share of the units that Dice compares.
    n_participants : int
        Participants of both halves together.
    shared : Provenance
        Prompts that participants share (with ``allow_circular``), empty where none.
    provenance : Provenance
        What the maps were made from.
    """

    over: Halves
    tasks: tuple[str, ...]
    r: Floats
    dice: Floats
    mean_r: Floats
    r_low: Floats
    r_high: Floats
    mean_dice: Floats
    dice_low: Floats
    dice_high: Floats
    share: float
    n_participants: int
    shared: Provenance
    provenance: Provenance

    @property
    def full_r(self) -> Floats:
        """Reliability of the map of all data, after Spearman and Brown, shape (n_tasks,)."""
        return np.asarray(2 * self.mean_r / (1 + self.mean_r))

    def table(self) -> pd.DataFrame:
        """Give one row for each task.

        Returns
        -------
        DataFrame
            Columns ``task``, ``r``, ``r_low``, ``r_high``, ``full_r``, ``dice``, ``dice_low``,
            ``dice_high``, ``n_splits``.
        """
        return pd.DataFrame(
            {
                "task": self.tasks,
                "r": self.mean_r,
                "r_low": self.r_low,
                "r_high": self.r_high,
                "full_r": self.full_r,
                "dice": self.mean_dice,
                "dice_low": self.dice_low,
                "dice_high": self.dice_high,
                "n_splits": len(self.r),
            }
        )


def split_participants(
    effects: TaskEffects,
    *,
    share: float = 0.05,
    two_sided: bool = True,
    n_splits: int = 35,
    confidence: float = 0.95,
    seed: int = 0,
    allow_circular: bool = False,
) -> SplitHalf:
    """Compare the group maps of two halves of the participants.

    Parameters
    ----------
    effects : TaskEffects
        Effect maps of at least two participants.
    share : float, default=0.05
        Share of the units that Dice compares.
    two_sided : bool, default=True
        As in `top_units`.
    n_splits : int, default=35
        Number of random halves; all halves where there are no more (35 for 8 participants).
    confidence : float, default=0.95
        Coverage of the intervals, which are jackknifed over participants (NaN below three).
    seed : int, default=0
        Seed of the halves.
    allow_circular : bool, default=False
        Go on where participants share prompts, and say so on the result.

    Returns
    -------
    SplitHalf
        With an odd number one half has a participant more.

    Raises
    ------
    NetworkError
        If there is one participant only, or two participants share prompts.
    """
    n_participants = len(effects.participants)
    shared = require_apart(
        [effects.provenance_of([index]) for index in range(n_participants)],
        what="split halves of participants",
        allow_circular=allow_circular,
    )
    deleted = [None, *range(n_participants)] if n_participants > 2 else [None]
    measured = []
    for left_out in deleted:
        kept = np.array([index for index in range(n_participants) if index != left_out])
        splits = half_splits(kept.size, n_splits, seed=seed)
        pairs = (
            (_mean_of(effects.effects, kept[half]), _mean_of(effects.effects, kept[~half]))
            for half in splits
        )
        measured.append([_compare(*pair, share=share, two_sided=two_sided) for pair in pairs])
    r, common = (
        [np.array([one[part] for one in splits]) for splits in measured] for part in (0, 1)
    )
    return SplitHalf(
        over="participants",
        tasks=effects.tasks,
        share=share,
        n_participants=n_participants,
        shared=shared,
        provenance=effects.provenance,
        **_summarise(r, common, confidence),
    )


def split_prompts(
    means: PromptMeans,
    *,
    share: float = 0.05,
    two_sided: bool = True,
    n_splits: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
    allow_circular: bool = False,
) -> SplitHalf:
    """Compare the group maps of two halves of every participant's prompts.

    On and off prompts of every run are halved at random, so that the halves share no prompt and
    have as many of each kind.

    Parameters
    ----------
    means : PromptMeans
        Maps of the prompts, of at least two participants.
    share, two_sided, confidence, seed, allow_circular
        As in `split_participants`.
    n_splits : int, default=20
        Number of random halves.

    Returns
    -------
    SplitHalf
        Group maps of all participants in either half.

    Raises
    ------
    NetworkError
        If there is one participant only, a prompt comes twice, or a run has fewer than two
        prompts of a kind.
    """
    rng = np.random.default_rng(seed)
    shown = pd.DataFrame({"who": means.participants, "prompt": means.prompt_ids})
    twice = shown[shown.duplicated()]
    if len(twice) and not allow_circular:
        raise NetworkError(
            f"split halves of prompts: sub-{twice['who'].iloc[0]} saw prompt "
            f"{twice['prompt'].iloc[0]} more than once ({len(twice)} such cases), so that halves "
            "would share it; expected every prompt once; record without --allow-shared-prompts, or "
            "ask for it with allow_circular (--allow-circular), which is then said on the result"
        )
    _, participants, tasks = effect_weights(means)
    shared = require_apart(
        [means.provenance(means.participants == name) for name in participants],
        what="split halves of prompts",
        allow_circular=allow_circular,
    )
    deleted = [None, *range(len(participants))] if len(participants) > 2 else [None]
    r = [np.empty((n_splits, len(tasks))) for _ in deleted]
    common = [np.empty((n_splits, len(tasks))) for _ in deleted]
    for split in range(n_splits):
        half = _halve_prompts(means, rng)
        first, second = (
            combine(means.values, effect_weights(means, rows)[0]) for rows in (half, ~half)
        )
        for place, left_out in enumerate(deleted):
            kept = np.array([i for i in range(len(participants)) if i != left_out])
            r[place][split], common[place][split] = _compare(
                _mean_of(first, kept), _mean_of(second, kept), share=share, two_sided=two_sided
            )
    return SplitHalf(
        over="prompts",
        tasks=tasks,
        share=share,
        n_participants=len(participants),
        shared=shared | Provenance.of(prompts=twice["prompt"]),
        provenance=means.provenance(),
        **_summarise(r, common, confidence),
    )


def half_splits(n: int, n_splits: int, *, seed: int = 0) -> Bools:
    """List ways to part ``n`` things into two halves.

    Parameters
    ----------
    n : int
        Number of things, at least 2.
    n_splits : int
        Number of ways wanted.
    seed : int, default=0
        Seed of the choice.

    Returns
    -------
    ndarray of bool, shape (at most n_splits, n)
        True for the first half, which has ``n // 2``. All distinct ways if there are no more than
        `n_splits`, else that many of them, distinct and at random.

    Examples
    --------
    >>> half_splits(4, 10).astype(int)
    array([[1, 1, 0, 0],
           [1, 0, 1, 0],
           [1, 0, 0, 1]])
    """
    ways = comb(n, n // 2) // (2 if n % 2 == 0 else 1)
    if ways <= n_splits:
        chosen = list(combinations(range(n), n // 2))[:ways]
    else:
        rng = np.random.default_rng(seed)
        drawn: dict[tuple[int, ...], None] = {}
        while len(drawn) < n_splits:
            half = np.sort(rng.permutation(n)[: n // 2])
            if n % 2 == 0 and half[0] != 0:
                half = np.setdiff1d(np.arange(n), half)
            drawn[tuple(half.tolist())] = None
        chosen = list(drawn)
    splits = np.zeros((len(chosen), n), dtype=bool)
    for row, members in zip(splits, chosen, strict=True):
        row[list(members)] = True
    return splits


def _mean_of(maps: Maps, participants: npt.NDArray[np.intp]) -> Maps:
    """Average the maps of some participants without copying them, shape (n_tasks, n_units)."""
    weights = np.zeros(len(maps), dtype=maps.dtype)
    weights[participants] = 1 / participants.size
    return np.asarray((weights @ maps.reshape(len(maps), -1)).reshape(maps.shape[1:]))


def _compare(first: Maps, second: Maps, *, share: float, two_sided: bool) -> tuple[Floats, Floats]:
    """Correlate maps row by row, and give the Dice of their strongest units."""
    one, two = (maps - maps.mean(axis=1, keepdims=True) for maps in (first, second))
    products = np.einsum("tu,tu->t", one, two)
    norms = np.sqrt(np.einsum("tu,tu->t", one, one) * np.einsum("tu,tu->t", two, two))
    r = np.divide(products, norms, out=np.zeros(len(norms)), where=norms > 0)
    marked = (top_units(maps, share, two_sided=two_sided) for maps in (first, second))
    return r, dice(*marked)


def _summarise(r: Sequence[Floats], common: Sequence[Floats], confidence: float) -> dict[str, Any]:
    """Average over splits; the first entry has everybody, the others lack one participant each."""
    dof = max(len(r) - 2, 1)
    r_error = jackknife_error([fisher_z(one).mean(axis=0) for one in r[1:]], r[0].shape[1])
    dice_error = jackknife_error([angle(one).mean(axis=0) for one in common[1:]], r[0].shape[1])
    mean_r = fisher_mean(r[0], axis=0)
    mean_dice = common[0].mean(axis=0)
    r_low, r_high = student_interval(
        mean_r, r_error, dof, forth=fisher_z, back=np.tanh, confidence=confidence
    )
    dice_low, dice_high = student_interval(
        mean_dice, dice_error, dof, forth=angle, back=share_of_angle, confidence=confidence
    )
    return {
        "r": r[0],
        "mean_r": mean_r,
        "r_low": r_low,
        "r_high": r_high,
        "dice": common[0],
        "mean_dice": mean_dice,
        "dice_low": dice_low,
        "dice_high": dice_high,
    }


def _halve_prompts(means: PromptMeans, rng: np.random.Generator) -> Bools:
    """Mark a random half of the prompts of each kind in each run."""
    half = np.zeros(len(means.values), dtype=bool)
    kinds = list(
        zip(
            means.participants.tolist(),
            means.runs.tolist(),
            means.trial_types.tolist(),
            strict=True,
        )
    )
    for kind in dict.fromkeys(kinds):
        rows = np.array([row for row, one in enumerate(kinds) if one == kind])
        if rows.size < 2:
            who, run, trial_type = kind
            raise NetworkError(
                f"split halves of prompts: sub-{who} {run} has one prompt of "
                f"{trial_type or 'the off condition'}; expected two or more of each kind; record "
                "more prompts per block"
            )
        n_first = rows.size // 2 + (rng.integers(2) if rows.size % 2 else 0)
        half[rng.permutation(rows)[:n_first]] = True
    return half
