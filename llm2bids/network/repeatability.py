"""Repeatability of effect maps: single maps, split halves, and the agreement at each unit.

Split-half reliability r is of half of the data; of all data it is ``2 r / (1 + r)`` (Spearman and
Brown). Intervals are jackknifed over participants.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import NetworkError
from llm2bids.inference.effects import Effects, condition_names
from llm2bids.inference.prompts import Prompts, combine
from llm2bids.inference.provenance import Provenance, require_apart
from llm2bids.network.options import FindingsOptions
from llm2bids.network.similarity import (
    ARCSINE,
    FISHER,
    Floats,
    Maps,
    angle,
    correlations,
    dice,
    fisher_mean,
    fisher_z,
    gram_matrix,
    intraclass_correlation,
    jackknife_interval,
    top_units,
)

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

N_SPLITS = 35  # halves of the participants that are compared, at most


@dataclass(frozen=True, kw_only=True, eq=False)
class SingleRun:
    """Correlation of single maps of different participants, arrays of shape (n_tasks,).

    `other_tasks_r`: with other participants' maps of the other tasks, what of `mean_r` is not
    specific to the task.
    """

    tasks: tuple[str, ...]
    mean_r: Floats
    r_low: Floats
    r_high: Floats
    other_tasks_r: Floats
    shared: Provenance

    def table(self) -> pd.DataFrame:
        """Give one row for each task: ``r`` and its interval, ``other_tasks_r``."""
        return _by_task(self, "mean_r", "r_low", "r_high", "other_tasks_r")


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitHalf:
    """Likeness of group maps from two halves of the data.

    `r`, `dice`: correlation over units, and Dice of the strongest `share` of them, of each split,
    shape (n_splits, n_tasks); means (r on Fisher's z) and intervals have shape (n_tasks,).
    """

    over: Literal["participants", "prompts"]
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
        measures = ("mean_r", "r_low", "r_high", "full_r", "mean_dice", "dice_low", "dice_high")
        return _by_task(self, *measures).assign(n_splits=len(self.r))


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
        single = self.single_run.table().set_index("task").add_prefix("single_run_")
        parts = [single.rename(columns={"single_run_other_tasks_r": "other_tasks_r"})]
        for halves in (self.participants, self.prompts):
            if halves is not None:
                part = halves.table().set_index("task").drop(columns="n_splits")
                parts.append(part.add_prefix(f"{halves.over}_"))
        return pd.concat(parts, axis=1).reset_index()


def _by_task(part: SingleRun | SplitHalf, *measures: str) -> pd.DataFrame:
    """Put measures of shape (n_tasks,) side by side, ``mean_r`` as ``r``."""
    columns = {name.removeprefix("mean_"): getattr(part, name) for name in measures}
    return pd.DataFrame({"task": part.tasks, **columns})


def compare_single_maps(effects: Effects, options: FindingsOptions) -> SingleRun:
    """Correlate the single maps of different participants."""
    n_participants, n_tasks, _ = effects.values.shape
    shared = _require_apart(effects, "correlation between participants", options)
    every = correlations(gram_matrix(effects.values), n_tasks)
    rows, columns = np.triu_indices(n_participants, k=1)
    pairs = np.einsum("ptqt->tpq", every)[:, rows, columns]
    mean_r = fisher_mean(pairs, axis=1)
    without = [
        fisher_z(pairs)[:, (rows != who) & (columns != who)].mean(axis=1)
        for who in range(n_participants)
    ]
    low, high = jackknife_interval(mean_r, without, FISHER)
    other_people = ~np.eye(n_participants, dtype=bool)[:, :, np.newaxis]
    other_tasks = ~np.eye(n_tasks, dtype=bool)
    other_tasks_r = [
        fisher_mean(every[:, task][other_people & other_tasks[task]]) for task in range(n_tasks)
    ]
    return SingleRun(
        tasks=effects.tasks,
        mean_r=mean_r,
        r_low=low,
        r_high=high,
        other_tasks_r=np.array(other_tasks_r),
        shared=shared,
    )


def split_participants(
    effects: Effects, options: FindingsOptions, *, n_splits: int = N_SPLITS
) -> SplitHalf:
    """Compare the group maps of two halves of the participants."""
    shared = _require_apart(effects, "split halves of participants", options)
    compared = [
        split_maps(effects.values, kept, options.share, n_splits, options.seed)
        for kept in _leaving_out(len(effects.participants))
    ]
    return _split_half("participants", effects.tasks, options, shared, compared)


def split_maps(
    maps: Maps, kept: Ints, share: float, n_splits: int, seed: int
) -> tuple[Floats, Floats]:
    """Compare the mean maps of halves of the participants kept: r, Dice, (n_splits, n_tasks)."""
    halves = half_splits(kept.size, n_splits, seed=seed)
    compared = [
        _compare(_mean_of(maps, kept[half]), _mean_of(maps, kept[~half]), share) for half in halves
    ]
    r, common = zip(*compared, strict=True)
    return np.array(r), np.array(common)


def split_prompts(prompts: Prompts, options: FindingsOptions, *, n_splits: int = 20) -> SplitHalf:
    """Compare the group maps of two halves of every participant's prompts."""
    rng = np.random.default_rng(options.seed)
    shown = pd.DataFrame({"who": prompts.participants, "prompt": prompts.prompt_ids})
    twice = shown[shown.duplicated()]
    if len(twice) and not options.allow_circular:
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
        allow_circular=options.allow_circular,
    )
    groups = _leaving_out(len(people))
    compared = np.empty((len(groups), 2, n_splits, n_tasks))
    for split in range(n_splits):
        half = _halve_prompts(prompts, rng)
        first, second = (combine(prompts.values, prompts.weights(rows)) for rows in (half, ~half))
        for index, kept in enumerate(groups):
            means = _mean_of(first, kept), _mean_of(second, kept)
            compared[index, :, split] = _compare(*means, options.share)
    return _split_half(
        "prompts",
        condition_names(prompts.conditions),
        options,
        shared | Provenance.of(prompts=twice["prompt"]),
        [(r, common) for r, common in compared],
    )


def agreement(effects: Effects) -> Agreement:
    """Say how well participants agree, at each unit, on the differences between tasks."""
    values = intraclass_correlation(effects.values.swapaxes(0, 1))
    at = (0.05, 0.25, 0.5, 0.75, 0.95)
    quantiles = np.nanquantile(values, at)
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
    np.put_along_axis(splits, np.array(chosen), True, axis=1)
    return splits


def _leaving_out(n_participants: int) -> list[Ints]:
    """List everybody, then all but one participant at a time."""
    everybody = np.arange(n_participants)
    return [everybody, *(np.delete(everybody, who) for who in everybody)]


def _mean_of(maps: Maps, participants: Ints) -> Maps:
    """Average the maps of some participants without copying them, shape (n_tasks, n_units)."""
    weights = np.zeros(len(maps), dtype=maps.dtype)
    weights[participants] = 1 / participants.size
    return np.asarray((weights @ maps.reshape(len(maps), -1)).reshape(maps.shape[1:]))


def _compare(first: Maps, second: Maps, share: float) -> tuple[Floats, Floats]:
    """Correlate maps row by row, and give the Dice of their strongest units."""
    left, right = (maps - maps.mean(axis=1, keepdims=True) for maps in (first, second))
    products = np.einsum("tu,tu->t", left, right)
    norms = np.sqrt(np.einsum("tu,tu->t", left, left) * np.einsum("tu,tu->t", right, right))
    r = np.divide(products, norms, out=np.zeros(len(norms)), where=norms > 0)
    marked = (top_units(maps, share) for maps in (first, second))
    return r, dice(*marked)


def _split_half(
    over: Literal["participants", "prompts"],
    tasks: tuple[str, ...],
    options: FindingsOptions,
    shared: Provenance,
    compared: Sequence[tuple[Floats, Floats]],
) -> SplitHalf:
    """Average r and Dice over splits: of everybody first, then lacking one participant each."""
    (r, common), *without = compared
    mean_r, mean_dice = fisher_mean(r, axis=0), common.mean(axis=0)
    r_without = [fisher_z(part).mean(axis=0) for part, _ in without]
    dice_without = [angle(part).mean(axis=0) for _, part in without]
    r_low, r_high = jackknife_interval(mean_r, r_without, FISHER)
    dice_low, dice_high = jackknife_interval(mean_dice, dice_without, ARCSINE)
    return SplitHalf(
        over=over,
        tasks=tasks,
        r=r,
        dice=common,
        mean_r=mean_r,
        r_low=r_low,
        r_high=r_high,
        mean_dice=mean_dice,
        dice_low=dice_low,
        dice_high=dice_high,
        share=options.share,
        n_participants=len(without),
        shared=shared,
    )


def rows_by_kind(prompts: Prompts) -> dict[tuple[str, str], Ints]:
    """List the prompts of each trial type of each run."""
    shown = pd.DataFrame({"run": prompts.run_names, "kind": prompts.trial_types})
    kinds = shown.groupby(["run", "kind"], sort=False)
    return {(str(run), str(kind)): rows.index.to_numpy() for (run, kind), rows in kinds}


def _halve_prompts(prompts: Prompts, rng: np.random.Generator) -> Bools:
    """Mark a random half of the prompts of each kind in each run."""
    half = np.zeros(len(prompts.values), dtype=bool)
    for (run, trial_type), rows in rows_by_kind(prompts).items():
        if rows.size < 2:
            raise NetworkError(
                f"split halves of prompts: {run} has one prompt of "
                f"{trial_type or 'the off condition'}; expected two or more of each kind; record "
                "more prompts per block"
            )
        n_first = rows.size // 2 + (rng.integers(2) if rows.size % 2 else 0)
        half[rng.permutation(rows)[:n_first]] = True
    return half


def _require_apart(effects: Effects, what: str, options: FindingsOptions) -> Provenance:
    parts = [effects.provenance_of([index]) for index in range(len(effects.participants))]
    return require_apart(parts, what=what, allow_circular=options.allow_circular)
