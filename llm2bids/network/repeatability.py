"""Repeatability of effect maps: single maps, split halves, and the agreement at each unit.

Split-half reliability r is of half of the data; of all data it is ``2 r / (1 + r)`` (Spearman and
Brown). Intervals are jackknifed over participants.
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
from llm2bids.inference.effects import Effects, condition_names
from llm2bids.inference.prompts import Prompts, combine, effect_weights
from llm2bids.inference.provenance import Provenance, require_apart
from llm2bids.network.similarity import (
    Floats,
    Maps,
    angle,
    dice,
    fisher_mean,
    fisher_z,
    gram_matrix,
    intraclass_correlation,
    jackknife_error,
    share_of_angle,
    student_interval,
    top_units,
    weighted_correlation,
)

Halves = Literal["participants", "prompts"]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class SingleRun:
    """Correlation of single maps of different participants, arrays of shape (n_tasks,).

    `other_tasks_r`: with other participants' maps of the other tasks, what of `mean_r` is not
    specific to the task; NaN with one task.
    """

    tasks: tuple[str, ...]
    mean_r: Floats
    r_low: Floats
    r_high: Floats
    other_tasks_r: Floats
    shared: Provenance

    def table(self) -> pd.DataFrame:
        """Give one row for each task: ``r`` and its interval, ``other_tasks_r``."""
        return pd.DataFrame(
            {
                "task": self.tasks,
                "r": self.mean_r,
                "r_low": self.r_low,
                "r_high": self.r_high,
                "other_tasks_r": self.other_tasks_r,
            }
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitHalf:
    """Likeness of group maps from two halves of the data.

    `r`, `dice`: correlation over units, and Dice of the strongest `share` of them, of each split,
    shape (n_splits, n_tasks); means (r on Fisher's z) and intervals have shape (n_tasks,).
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

    @property
    def full_r(self) -> Floats:
        """Reliability of the map of all data, after Spearman and Brown, shape (n_tasks,)."""
        return np.asarray(2 * self.mean_r / (1 + self.mean_r))

    def table(self) -> pd.DataFrame:
        """Give one row for each task, with the number of splits."""
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


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Quantiles over the units of an intraclass correlation."""

    kind: str
    targets: str
    measurements: str
    quantiles: dict[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Repeatability:
    """How well maps come again; `prompts` is None where the model has no halves of prompts."""

    single_run: SingleRun
    participants: SplitHalf
    prompts: SplitHalf | None
    icc: Agreement

    @property
    def shared(self) -> Provenance:
        """Prompts that participants share, empty where none."""
        parts = (self.single_run, self.participants, self.prompts)
        return Provenance.union(part.shared for part in parts if part is not None)

    def table(self) -> pd.DataFrame:
        """Give one row for each task, the measures' columns named by what was compared."""
        single = self.single_run.table().rename(columns=lambda name: f"single_run_{name}")
        table = single.rename(
            columns={"single_run_task": "task", "single_run_other_tasks_r": "other_tasks_r"}
        )
        for halves in (self.participants, self.prompts):
            if halves is not None:
                part = halves.table().drop(columns=["task", "n_splits"])
                table = table.join(part.add_prefix(f"{halves.over}_"))
        return table


def compare_single_maps(effects: Effects, *, allow_circular: bool = False) -> SingleRun:
    """Correlate the single maps of different participants."""
    n_participants, n_tasks, n_units = effects.values.shape
    shared = _require_apart(effects, "correlation between participants", allow_circular)
    n_maps = n_participants * n_tasks
    gram = gram_matrix(effects.values.reshape(n_maps, n_units))
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
    )
    apart = ~np.eye(n_participants, dtype=bool)[:, np.newaxis, :, np.newaxis]
    other = apart & ~np.eye(n_tasks, dtype=bool)[:, np.newaxis, :]  # person, task, person, task
    others = [
        float(fisher_mean(every[:, task][other[:, task]])) if n_tasks > 1 else np.nan
        for task in range(n_tasks)
    ]
    return SingleRun(
        tasks=effects.tasks,
        mean_r=mean_r,
        r_low=low,
        r_high=high,
        other_tasks_r=np.array(others, dtype=np.float64),
        shared=shared,
    )


def split_participants(
    effects: Effects,
    *,
    share: float = 0.05,
    n_splits: int = 35,
    seed: int = 0,
    allow_circular: bool = False,
) -> SplitHalf:
    """Compare the group maps of two halves of the participants."""
    n_participants = len(effects.participants)
    shared = _require_apart(effects, "split halves of participants", allow_circular)
    deleted = [-1, *range(n_participants)] if n_participants > 2 else [-1]  # -1: nobody
    everybody = np.arange(n_participants)
    r, common = zip(
        *(
            split_maps(effects.values, everybody[everybody != left_out], share, n_splits, seed)
            for left_out in deleted
        ),
        strict=True,
    )
    return SplitHalf(
        over="participants",
        tasks=effects.tasks,
        share=share,
        n_participants=n_participants,
        shared=shared,
        **_summarise(r, common),
    )


def split_maps(
    maps: Maps, kept: npt.NDArray[np.intp], share: float, n_splits: int, seed: int
) -> tuple[Floats, Floats]:
    """Compare the mean maps of halves of the participants kept: r, Dice, (n_splits, n_tasks)."""
    r, common = zip(
        *(
            _compare(_mean_of(maps, kept[half]), _mean_of(maps, kept[~half]), share=share)
            for half in half_splits(kept.size, n_splits, seed=seed)
        ),
        strict=True,
    )
    return np.array(r), np.array(common)


def split_prompts(
    prompts: Prompts,
    *,
    share: float = 0.05,
    n_splits: int = 20,
    seed: int = 0,
    allow_circular: bool = False,
) -> SplitHalf:
    """Compare the group maps of two halves of every participant's prompts."""
    rng = np.random.default_rng(seed)
    shown = pd.DataFrame({"who": prompts.participants, "prompt": prompts.prompt_ids})
    twice = shown[shown.duplicated()]
    if len(twice) and not allow_circular:
        raise NetworkError(
            f"split halves of prompts: sub-{twice['who'].iloc[0]} saw prompt "
            f"{twice['prompt'].iloc[0]} more than once ({len(twice)} such cases), so that halves "
            "would share it; expected every prompt once; record without --allow-shared-prompts, or "
            "ask for it with allow_circular (--allow-circular), which is then said on the result"
        )
    people, n_tasks = prompts.people, len(prompts.conditions)
    shared = require_apart(
        [prompts.provenance(prompts.participants == name) for name in people],
        what="split halves of prompts",
        allow_circular=allow_circular,
    )
    deleted = [None, *range(len(people))] if len(people) > 2 else [None]
    r = [np.empty((n_splits, n_tasks)) for _ in deleted]
    common = [np.empty((n_splits, n_tasks)) for _ in deleted]
    for split in range(n_splits):
        half = _halve_prompts(prompts, rng)
        first, second = (
            combine(prompts.values, effect_weights(prompts.runs, prompts.conditions, rows))
            for rows in (half, ~half)
        )
        for index, left_out in enumerate(deleted):
            kept = np.array([i for i in range(len(people)) if i != left_out])
            r[index][split], common[index][split] = _compare(
                _mean_of(first, kept), _mean_of(second, kept), share=share
            )
    return SplitHalf(
        over="prompts",
        tasks=condition_names(prompts.conditions),
        share=share,
        n_participants=len(people),
        shared=shared | Provenance.of(prompts=twice["prompt"]),
        **_summarise(r, common),
    )


def agreement(effects: Effects) -> Agreement:
    """Say how well participants agree, at each unit, on the differences between tasks."""
    values = intraclass_correlation(effects.values.swapaxes(0, 1))
    at = (0.05, 0.25, 0.5, 0.75, 0.95)
    quantiles = np.nanquantile(values, at) if np.isfinite(values).any() else np.full(5, np.nan)
    return Agreement(
        kind="ICC(3,1)",
        targets="tasks",
        measurements="participants",
        quantiles={f"{q:g}": float(value) for q, value in zip(at, quantiles, strict=True)},
    )


def half_splits(n: int, n_splits: int, *, seed: int = 0) -> Bools:
    """List ways to part ``n`` things in two halves, bool (at most n_splits, n): all, or at random.

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


def _compare(first: Maps, second: Maps, *, share: float) -> tuple[Floats, Floats]:
    """Correlate maps row by row, and give the Dice of their strongest units."""
    left, right = (maps - maps.mean(axis=1, keepdims=True) for maps in (first, second))
    products = np.einsum("tu,tu->t", left, right)
    norms = np.sqrt(np.einsum("tu,tu->t", left, left) * np.einsum("tu,tu->t", right, right))
    r = np.divide(products, norms, out=np.zeros(len(norms)), where=norms > 0)
    marked = (top_units(maps, share) for maps in (first, second))
    return r, dice(*marked)


def _summarise(r: Sequence[Floats], common: Sequence[Floats]) -> dict[str, Any]:
    """Average over splits; the first entry has everybody, the others lack one participant each."""
    dof = max(len(r) - 2, 1)
    r_error = jackknife_error([fisher_z(part).mean(axis=0) for part in r[1:]], r[0].shape[1])
    dice_error = jackknife_error([angle(part).mean(axis=0) for part in common[1:]], r[0].shape[1])
    mean_r = fisher_mean(r[0], axis=0)
    mean_dice = common[0].mean(axis=0)
    r_low, r_high = student_interval(mean_r, r_error, dof, forth=fisher_z, back=np.tanh)
    dice_low, dice_high = student_interval(
        mean_dice, dice_error, dof, forth=angle, back=share_of_angle
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


def _halve_prompts(prompts: Prompts, rng: np.random.Generator) -> Bools:
    """Mark a random half of the prompts of each kind in each run."""
    half = np.zeros(len(prompts.values), dtype=bool)
    kinds = list(zip(prompts.run_names.tolist(), prompts.trial_types.tolist(), strict=True))
    for kind in dict.fromkeys(kinds):
        rows = np.array([row for row, other in enumerate(kinds) if other == kind])
        if rows.size < 2:
            run, trial_type = kind
            raise NetworkError(
                f"split halves of prompts: {run} has one prompt of "
                f"{trial_type or 'the off condition'}; expected two or more of each kind; record "
                "more prompts per block"
            )
        n_first = rows.size // 2 + (rng.integers(2) if rows.size % 2 else 0)
        half[rng.permutation(rows)[:n_first]] = True
    return half


def _require_apart(effects: Effects, what: str, allow_circular: bool) -> Provenance:
    parts = [effects.provenance_of([index]) for index in range(len(effects.participants))]
    return require_apart(parts, what=what, allow_circular=allow_circular)
