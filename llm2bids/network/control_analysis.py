"""The findings beside controls: the same measures where there is less, or nothing, to find."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import PromptMeans, TaskEffects, combine, effect_weights
from llm2bids.network.folds import check_folds, score_folds, split_folds
from llm2bids.network.overlap import permuted_dice
from llm2bids.network.repeatability import half_splits
from llm2bids.network.similarity import (
    Floats,
    Maps,
    Signs,
    dice,
    dice_matrix,
    fisher_mean,
    gram_matrix,
    top_units,
    weighted_correlation,
)
from llm2bids.network.task_networks import group_statistics

ControlName = Literal["shuffled-labels", "shuffled-tasks", "random-networks"]

ABOUT: dict[ControlName, str] = {
    "shuffled-labels": "on and off labels shuffled over the prompts of each run",
    "shuffled-tasks": "task labels shuffled over the maps of each participant",
    "random-networks": "random units in place of the networks, as many in each site",
}
"""What each control does."""

MEASURES = {
    "identification": "identification, accuracy",
    "network_identification": "identification by networks, accuracy",
    "single_run_r": "single-run r",
    "split_half_r": "split-half r, participants",
    "split_half_dice": "split-half Dice, participants",
    "overlap_r": "most overlap of two tasks, r",
    "overlap_contrast": "most overlap above the mean of all pairs, r",
    "overlap_dice": "most overlap of two tasks, Dice",
    "fdr_share": "share of units past the false discovery rate",
}
"""What is measured, as tables call it."""

Measured = dict[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlAnalysis:
    """The measures under one control.

    Parameters
    ----------
    name : str
        ``"shuffled-labels"``, ``"shuffled-tasks"``, ``"random-networks"``, or the name of the
        model of another dataset.
    about : str
        What was done.
    real : dict of str to float
        The measures (keys of `MEASURES`) of the data, over as many participants as the control's.
    draws : dict of str to ndarray of float64, shape (n_draws,)
        The measures of each draw; one draw for another dataset. A measure that the control does
        not touch is not there.
    warnings : tuple of str
        In what the control differs from the data, besides what it is made for.
    """

    name: str
    about: str
    real: Measured
    draws: dict[str, Floats]
    warnings: tuple[str, ...] = field(default=())

    def table(self, confidence: float = 0.95) -> pd.DataFrame:
        """Give one row for each measure.

        Parameters
        ----------
        confidence : float, default=0.95
            Share of the draws between ``low`` and ``high``.

        Returns
        -------
        DataFrame
            Columns ``control``, ``measure``, ``text``, ``real``, ``value`` (mean over the draws),
            ``low``, ``high`` and ``p_value`` (share of the draws, the data included, that reach
            the data; NaN with one draw), ``n_draws``.
        """
        at = [(1 - confidence) / 2, (1 + confidence) / 2]
        rows = []
        for measure, text in MEASURES.items():
            if measure not in self.draws:
                continue
            draws, real = self.draws[measure], self.real[measure]
            low, high, p_value = np.nan, np.nan, np.nan
            if draws.size > 1:
                low, high = np.quantile(draws, at)
                p_value = (1 + (draws >= real - 1e-9).sum()) / (1 + draws.size)
            rows.append(
                (self.name, measure, text, real, draws.mean(), low, high, p_value, draws.size)
            )
        names = ("control", "measure", "text", "real", "value", "low", "high", "p_value", "n_draws")
        return pd.DataFrame(rows, columns=list(names))


def measure_maps(
    effects: Maps, *, share: float = 0.05, alpha: float = 0.05, n_splits: int = 35, seed: int = 0
) -> Measured:
    """Measure what controls are compared on.

    Parameters
    ----------
    effects : ndarray of float, shape (n_participants, n_tasks, n_units)
        Effect maps of three participants and two tasks at least.
    share : float, default=0.05
        Share of the units in a network.
    alpha : float, default=0.05
        False discovery rate.
    n_splits : int, default=35
        Halves of the participants, as in `llm2bids.network.repeatability.split_participants`.
    seed : int, default=0
        Seed of the halves.

    Returns
    -------
    dict of str to float
        Keys as in `MEASURES`. The same numbers as the findings: means over tasks, and the largest
        correlation and Dice of any two tasks.
    """
    n_participants, n_tasks, n_units = effects.shape
    gram = gram_matrix(effects.reshape(-1, n_units))
    splits = split_folds(n_participants, None)
    single = weighted_correlation(gram, np.eye(len(gram)), np.eye(len(gram)))
    single = single.reshape(n_participants, n_tasks, n_participants, n_tasks)
    rows, columns = np.triu_indices(n_participants, k=1)
    same = np.einsum("ptqt->tpq", single)[:, rows, columns]
    group = effects.mean(axis=0)
    pairs = np.triu_indices(n_tasks, k=1)
    alike = np.corrcoef(group)[pairs]
    r, common = _halve(effects, gram, share=share, n_splits=n_splits, seed=seed)
    found = [(group_statistics(effects[:, task])["pfdr"] < alpha).mean() for task in range(n_tasks)]
    return {
        "identification": _accuracy(score_folds(gram, n_tasks, splits)),
        "network_identification": _identify_by_networks(effects, share),
        "single_run_r": float(fisher_mean(same, axis=1).mean()),
        "split_half_r": float(fisher_mean(r, axis=0).mean()),
        "split_half_dice": float(common.mean()),
        "overlap_r": float(alike.max()),
        "overlap_contrast": float(alike.max() - alike.mean()),
        "overlap_dice": float(dice_matrix(top_units(group, share))[pairs].max()),
        "fdr_share": float(np.mean(found)),
    }


def shuffled_labels_maps(means: PromptMeans, *, seed: int) -> npt.NDArray[np.float32]:
    """Make effect maps with on and off shuffled over the prompts of each run.

    Parameters
    ----------
    means : PromptMeans
        One map per prompt.
    seed : int
        Seed of the shuffle.

    Returns
    -------
    ndarray of float32, shape (n_participants, n_tasks, n_units)
        Maps of what no task made.
    """
    rng = np.random.default_rng(seed)
    names = np.char.add(np.char.add(means.participants, " "), means.runs)
    order = np.arange(names.size)
    for run in np.unique(names):
        places = np.flatnonzero(names == run)
        order[places] = rng.permutation(places)
    # A prompt takes another one's place: its weight is that of the label it is given.
    weights = effect_weights(means)[0]
    return combine(means.values, weights[..., order])


def compare_controls(
    means: PromptMeans,
    effects: TaskEffects,
    names: Sequence[ControlName],
    *,
    sites: npt.NDArray[Any],
    share: float = 0.05,
    alpha: float = 0.05,
    n_draws: int = 20,
    seed: int = 0,
) -> tuple[ControlAnalysis, ...]:
    """Measure the data and their controls.

    Parameters
    ----------
    means : PromptMeans
        One map per prompt.
    effects : TaskEffects
        Their effects, of three participants and two tasks at least.
    names : sequence of {"shuffled-labels", "shuffled-tasks", "random-networks"}
        The controls.
    sites : ndarray, shape (n_units,)
        Site of each unit.
    share, alpha : float
        As for `measure_maps`.
    n_draws : int, default=20
        Draws of each control.
    seed : int, default=0
        Seed of the draws.

    Returns
    -------
    tuple of ControlAnalysis
        One for each name.

    Raises
    ------
    NetworkError
        If `n_draws` is below 2, or a control is unknown.
    """
    unknown = [name for name in names if name not in ABOUT]
    if unknown or n_draws < 2:
        raise NetworkError(
            f"controls: found {', '.join(unknown) or n_draws}; expected two draws or more of "
            f"{', '.join(ABOUT)}"
        )
    maps = effects.effects
    real = measure_maps(maps, share=share, alpha=alpha, seed=seed) if names else {}

    def shuffled_labels(draw: int) -> Measured:
        shuffled = shuffled_labels_maps(means, seed=draw)
        return measure_maps(shuffled, share=share, alpha=alpha, seed=seed)

    def shuffled_tasks(draw: int) -> Measured:
        order = np.random.default_rng(draw).permuted(
            np.tile(np.arange(maps.shape[1]), (len(maps), 1)), axis=1
        )
        shuffled = np.take_along_axis(maps, order[..., np.newaxis], axis=1)
        return measure_maps(shuffled, share=share, alpha=alpha, seed=seed)

    def random_networks(draw: int) -> Measured:
        return _random_networks(maps, sites, share=share, seed=draw)

    makers: dict[ControlName, Callable[[int], Measured]] = {
        "shuffled-labels": shuffled_labels,
        "shuffled-tasks": shuffled_tasks,
        "random-networks": random_networks,
    }
    seeds = np.random.default_rng(seed).integers(2**31, size=n_draws)
    return tuple(
        ControlAnalysis(
            name=name,
            about=ABOUT[name],
            real=real,
            draws=_stack([makers[name](int(draw)) for draw in seeds]),
        )
        for name in dict.fromkeys(names)
    )


def compare_dataset(
    effects: TaskEffects,
    control: TaskEffects,
    *,
    name: str,
    about: str,
    share: float = 0.05,
    alpha: float = 0.05,
    seed: int = 0,
    allow_circular: bool = False,
    warnings: Sequence[str] = (),
) -> ControlAnalysis:
    """Measure the data beside another dataset, e.g. of the model with random weights.

    Parameters
    ----------
    effects, control : TaskEffects
        Effects of the data and of the control; both are cut to as many participants as the
        smaller one has.
    name, about : str
        What the control is.
    share, alpha, seed
        As for `measure_maps`.
    allow_circular : bool, default=False
        Go on where participants of the control share prompts.
    warnings : sequence of str
        In what else the control differs.

    Returns
    -------
    ControlAnalysis
        With one draw.

    Raises
    ------
    NetworkError
        If the control lacks a task, has fewer than three participants, or these share prompts.
    """
    lacking = [task for task in effects.tasks if task not in control.tasks]
    n_participants = min(len(effects.participants), len(control.participants))
    if lacking or n_participants < 3:
        raise NetworkError(
            f"control dataset ({name}): {len(control.participants)} participants"
            f"{', without task ' + ', '.join(lacking) if lacking else ''}; expected three or more, "
            f"and the tasks {', '.join(effects.tasks)}; record them"
        )
    order = [control.tasks.index(task) for task in effects.tasks]
    some = list(range(n_participants))
    control = control.take(some)
    check_folds(control, split_folds(n_participants, None), allow_circular=allow_circular)
    real = measure_maps(effects.effects[some], share=share, alpha=alpha, seed=seed)
    drawn = measure_maps(control.effects[:, order], share=share, alpha=alpha, seed=seed)
    said = list(warnings)
    if len(effects.participants) != len(control.participants) or n_participants < len(
        effects.participants
    ):
        said.append(f"{name}: both over {n_participants} participants")
    return ControlAnalysis(
        name=name, about=about, real=real, draws=_stack([drawn]), warnings=tuple(said)
    )


def _halve(
    effects: Maps, gram: Floats, *, share: float, n_splits: int, seed: int
) -> tuple[Floats, Floats]:
    """Compare halves of the participants: r and Dice, shape (n_splits, n_tasks) each."""
    n_participants, n_tasks, _ = effects.shape
    r, common = [], []
    for half in half_splits(n_participants, n_splits, seed=seed):
        first, second = half / half.sum(), ~half / (~half).sum()
        weights = [np.kron(part, np.eye(n_tasks)) for part in (first, second)]
        r.append(np.diag(weighted_correlation(gram, *weights)))
        flat = effects.reshape(n_participants, -1)
        marked = [
            top_units(
                (part.astype(effects.dtype) @ flat).reshape(effects.shape[1:]),
                share,
            )
            for part in (first, second)
        ]
        common.append(dice(*marked))
    return np.array(r), np.array(common)


def _identify_by_networks(
    effects: Maps, share: float, order: npt.NDArray[np.intp] | None = None
) -> float:
    """Identify with templates that keep their networks, or the units that these are moved to."""
    n_tasks = effects.shape[1]
    centred = effects - effects.mean(axis=1, keepdims=True)
    scores = []
    for defining, tested in split_folds(len(effects), None):
        templates = centred[list(defining)].mean(axis=0)
        kept = top_units(templates, share) != 0
        templates = templates * (kept if order is None else kept[:, order])
        tests = centred[list(tested)].reshape(len(tested) * n_tasks, -1)
        gram = gram_matrix(np.concatenate([tests, templates]))
        eye = np.eye(len(gram))
        scores.append(weighted_correlation(gram, eye[: len(tests)], eye[len(tests) :]))
    return _accuracy(np.concatenate(scores))


def _random_networks(maps: Maps, sites: npt.NDArray[Any], *, share: float, seed: int) -> Measured:
    """Move the networks' units to others of their site."""
    rng = np.random.default_rng(seed)
    home, there = np.argsort(sites, kind="stable"), np.lexsort((rng.random(sites.size), sites))
    order = np.empty(sites.size, dtype=np.intp)
    order[home] = there
    n_tasks = maps.shape[1]
    pairs = np.triu_indices(n_tasks, k=1)
    networks = top_units(maps.mean(axis=0), share)
    between = permuted_dice(networks, sites, n_perm=1, seed=rng)[0]
    half = half_splits(len(maps), 1, seed=seed)[0]
    marked: list[Signs] = [top_units(maps[part].mean(axis=0), share) for part in (half, ~half)]
    halves = permuted_dice(np.concatenate(marked), sites, n_perm=1, seed=rng)[0]
    return {
        "network_identification": _identify_by_networks(maps, share, order),
        "split_half_dice": float(np.diag(halves[:n_tasks, n_tasks:]).mean()),
        "overlap_dice": float(between[pairs].max()),
    }


def _accuracy(scores: Floats) -> float:
    n_tasks = scores.shape[1]
    true = np.tile(np.arange(n_tasks), len(scores) // n_tasks)
    return float((scores.argmax(axis=1) == true).mean())


def _stack(measured: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    return {name: np.array([one[name] for one in measured]) for name in measured[0]}
