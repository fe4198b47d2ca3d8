"""The findings beside controls: the same measures where there is less, or nothing, to find."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import NetworkError
from llm2bids.inference.effects import Effects
from llm2bids.inference.prompts import Prompts, effects_of
from llm2bids.inference.rates import percentile_interval
from llm2bids.inference.second_level import group_statistics
from llm2bids.network.identification import accuracy_of, check_left_out, gram_scores, network_scores
from llm2bids.network.options import ControlName, FindingsOptions
from llm2bids.network.overlap import permuted_dice
from llm2bids.network.repeatability import N_SPLITS, half_splits, split_maps
from llm2bids.network.similarity import (
    Floats,
    Maps,
    Signs,
    correlations,
    dice_matrix,
    fisher_mean,
    gram_matrix,
    top_units,
)

# What each control does
ABOUT: dict[ControlName, str] = {
    "shuffled-labels": "on and off labels shuffled over the prompts of each run",
    "shuffled-tasks": "task labels shuffled over the maps of each participant",
    "random-networks": "random units in place of the networks, as many in each site",
}

# What is measured, as tables call it
MEASURES = {
    "identification": "identification, accuracy",
    "network_identification": "identification by networks, accuracy",
    "single_run_r": "single-run r",
    "split_half_r": "split-half r, participants",
    "split_half_dice": "split-half Dice, participants",
    "overlap_r": "most overlap of two tasks, r",
    "overlap_contrast": "most overlap above the mean of all pairs, r",
    "overlap_dice": "most overlap of two tasks, Dice",
    "fdr_share": "share of units past false discovery rate {alpha:g}",
}

# What the p value of a control is
P_VALUE = "share of draws, the data counted in, that reach the data's value"

Measured = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure of the data (`real`) and under a control: mean, and where 95 % of draws lie.

    `p_value` is the `P_VALUE`; interval and p are NaN where there is one draw.
    """

    measure: str
    text: str
    real: float
    value: float
    low: float
    high: float
    p_value: float
    n_draws: int

    @classmethod
    def of(cls, measure: str, real: float, draws: Floats, alpha: float = 0.05) -> "Measure":
        """Sum up draws, shape (n_draws,)."""
        low, high, p_value = np.nan, np.nan, np.nan
        if draws.size > 1:
            low, high = percentile_interval(draws)
            p_value = float((1 + (draws >= real - 1e-9).sum()) / (1 + draws.size))
        return cls(
            measure=measure,
            text=MEASURES[measure].format(alpha=alpha),
            real=real,
            value=float(draws.mean()),
            low=low,
            high=high,
            p_value=p_value,
            n_draws=draws.size,
        )


@dataclass(frozen=True, kw_only=True)
class Control:
    """The measures under one control.

    `name`: of the control, or of the model of another dataset; `about`: what was done. A measure
    that the control does not touch is not there. `warnings`: in what the control differs from the
    data, besides what it is made for.
    """

    name: str
    about: str
    measures: tuple[Measure, ...]
    warnings: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Give one row for each measure."""
        table = pd.DataFrame(self.measures)
        table.insert(0, "control", self.name)
        return table


def random_units(
    effects: Effects, options: FindingsOptions, *, n_units: int, n_draws: int = 100
) -> Control:
    """Identify with a few units, drawn at random from those that the maps have."""
    maps, rng = effects.values, np.random.default_rng(options.seed)
    _, n_tasks, n_all = maps.shape
    some = (maps[..., rng.choice(n_all, n_units, replace=False)] for _ in range(n_draws))
    return _identified(
        f"{n_units} random units",
        f"identification with {n_units} of {n_all:,} units, drawn at random",
        gram_scores(gram_matrix(maps), n_tasks),
        [accuracy_of(gram_scores(gram_matrix(part), n_tasks)) for part in some],
    )


def shuffled_labels(effects: Effects, options: FindingsOptions) -> Control:
    """Identify with each participant's task labels shuffled."""
    n_participants, n_tasks, _ = effects.values.shape
    gram = gram_matrix(effects.values)
    rng = np.random.default_rng(options.seed)
    plain = np.tile(np.arange(n_tasks), (n_participants, 1))
    shuffled = (rng.permuted(plain, axis=1) for _ in range(options.n_perm))
    return _identified(
        "shuffled labels",
        "identification with the task labels of each participant shuffled",
        gram_scores(gram, n_tasks),
        [accuracy_of(gram_scores(gram, n_tasks, labels=labels)) for labels in shuffled],
    )


def _identified(name: str, what: str, scores: Floats, draws: Sequence[float]) -> Control:
    measure = Measure.of("identification", accuracy_of(scores), np.array(draws))
    return Control(name=name, about=what, measures=(measure,))


def measure_maps(effects: Maps, options: FindingsOptions) -> Measured:
    """Measure what controls are compared on, of maps (n_participants, n_tasks, n_units)."""
    n_participants, n_tasks, _ = effects.shape
    gram = gram_matrix(effects)
    rows, columns = np.triu_indices(n_participants, k=1)
    same = np.einsum("ptqt->tpq", correlations(gram, n_tasks))[:, rows, columns]
    group = effects.mean(axis=0)
    pairs = np.triu_indices(n_tasks, k=1)
    alike = np.corrcoef(group)[pairs]
    share = options.share
    r, common = split_maps(effects, np.arange(n_participants), share, N_SPLITS, options.seed)
    survive = [
        (group_statistics(effects[:, task]).pfdr < options.alpha).mean() for task in range(n_tasks)
    ]
    return {
        "identification": accuracy_of(gram_scores(gram, n_tasks)),
        "network_identification": accuracy_of(network_scores(effects, share)),
        "single_run_r": float(fisher_mean(same, axis=1).mean()),
        "split_half_r": float(fisher_mean(r, axis=0).mean()),
        "split_half_dice": float(common.mean()),
        "overlap_r": float(alike.max()),
        "overlap_contrast": float(alike.max() - alike.mean()),
        "overlap_dice": float(dice_matrix(top_units(group, share))[pairs].max()),
        "fdr_share": float(np.mean(survive)),
    }


def shuffled_effects(prompts: Prompts, *, seed: int) -> Effects:
    """Fit the effects with on and off labels shuffled over the prompts of each run."""
    rng = np.random.default_rng(seed)
    names = prompts.run_names
    order = np.arange(names.size)
    for run in np.unique(names):
        rows = np.flatnonzero(names == run)
        order[rows] = rng.permutation(rows)
    return effects_of(prompts, labels=order)


def compare_control(
    name: ControlName,
    effects: Effects,
    prompts: Prompts | None,
    options: FindingsOptions,
    *,
    real: Measured,
    sites: npt.NDArray[Any],
) -> Control:
    """Measure a control beside the data, whose measures are `real`.

    Shuffled labels take the prompts' images; `sites` labels the site of each unit of the maps.
    """
    maps = effects.values
    plain = np.tile(np.arange(maps.shape[1]), (len(maps), 1))
    seeds = np.random.default_rng(options.seed).integers(2**31, size=options.n_control_draws)
    draws = []
    for seed in seeds.tolist():
        if name == "random-networks":
            draws.append(_random_networks(maps, sites, options.share, seed))
        elif name == "shuffled-tasks":
            order = np.random.default_rng(seed).permuted(plain, axis=1)
            shuffled = np.take_along_axis(maps, order[..., np.newaxis], axis=1)
            draws.append(measure_maps(shuffled, options))
        elif prompts is not None:
            draws.append(measure_maps(shuffled_effects(prompts, seed=seed).values, options))
    return Control(name=name, about=ABOUT[name], measures=_measures(real, draws, options.alpha))


def compare_dataset(
    effects: Effects,
    control: Effects,
    options: FindingsOptions,
    *,
    name: str,
    about: str,
    warnings: Sequence[str] = (),
) -> Control:
    """Measure the data beside another dataset, e.g. of the model with random weights."""
    lacking = [task for task in effects.tasks if task not in control.tasks]
    n_participants = min(len(effects.participants), len(control.participants))
    if lacking or n_participants < 3:
        raise NetworkError(
            f"control dataset ({name}): {len(control.participants)} participants"
            f"{', without task ' + ', '.join(lacking) if lacking else ''}; expected three or more, "
            f"and the tasks {', '.join(effects.tasks)}; record them"
        )
    if len(effects.participants) != len(control.participants):
        warnings = [*warnings, f"{name}: both over {n_participants} participants"]
    order = [control.tasks.index(task) for task in effects.tasks]
    control = control.take(range(n_participants), order)
    check_left_out(control, options)
    real, drawn = (
        measure_maps(maps.values[:n_participants], options) for maps in (effects, control)
    )
    measures = _measures(real, [drawn], options.alpha)
    return Control(name=name, about=about, measures=measures, warnings=tuple(warnings))


def _measures(real: Measured, draws: Sequence[Measured], alpha: float) -> tuple[Measure, ...]:
    """Sum up the draws of each measure that a control touches."""
    return tuple(
        Measure.of(measure, real[measure], np.array([draw[measure] for draw in draws]), alpha)
        for measure in MEASURES
        if measure in draws[0]
    )


def _random_networks(maps: Maps, sites: npt.NDArray[Any], share: float, seed: int) -> Measured:
    """Move the networks' units to others of their site."""
    rng = np.random.default_rng(seed)
    home, there = np.argsort(sites, kind="stable"), np.lexsort((rng.random(sites.size), sites))
    order = np.empty(sites.size, dtype=np.intp)
    order[home] = there
    n_tasks = maps.shape[1]
    pairs = np.triu_indices(n_tasks, k=1)
    networks = top_units(maps.mean(axis=0), share)
    between = permuted_dice(networks, sites, 1, rng)[0]
    half = half_splits(len(maps), 1, seed=seed)[0]
    marked: list[Signs] = [top_units(maps[part].mean(axis=0), share) for part in (half, ~half)]
    halves = permuted_dice(np.concatenate(marked), sites, 1, rng)[0]
    return {
        "network_identification": accuracy_of(network_scores(maps, share, moved=order)),
        "split_half_dice": float(np.diag(halves[:n_tasks, n_tasks:]).mean()),
        "overlap_dice": float(between[pairs].max()),
    }
