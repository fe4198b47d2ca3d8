"""Which units answer to one kind of text more than to another: t maps, halves, folds, layers."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import false_discovery_control, ttest_ind

from llm2bids.comparison.means import group_sums, require_word_clock
from llm2bids.dataset.layout import Run
from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.dataset.settings import results_folder
from llm2bids.exceptions import DatasetError, UsageError
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.statmap import map_entries, write_json, write_map
from llm2bids.network.network import make_network
from llm2bids.network.similarity import dice
from llm2bids.options import Options, option, split_options, takes_options
from llm2bids.space.stat_map import select_units, summarize
from llm2bids.store.tables import write_table

Float64 = npt.NDArray[np.float64]

PERCENTS = (0.5, 1.0, 5.0)  # shares of the units whose consistency is told

N_FOLDS = 4
Q = 0.05
_UNITS = 1 << 14

_option = partial(option, group="localizer")


@dataclass(frozen=True, kw_only=True)
class LocalizerOptions(Options):
    """Which contrast, and how many units."""

    task: str | None = _option(None, "--task LABEL", "story of the localizer", shown="the only one")
    contrast: str | None = _option(
        None,
        "--contrast A-B",
        "trial types, as S-N: units that answer more to the first",
        shown="S-N (langloc), H-E (md)",
    )
    top_percent: float = _option(
        1.0,
        "--top-percent PERCENT",
        "share of the units that make the network",
        above=0,
        most=100,
    )
    skip_words: int = _option(
        1,
        "--skip-words",
        "words at the beginning of a trial that do not count: little stands before them",
        least=0,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Localizer:
    """What a localizer found."""

    contrast: str
    n_trials: dict[str, int]
    tokens_per_trial: dict[str, float]
    split_half_r: float
    dice: dict[str, float]  # of the halves, by percent
    fold_dice: dict[str, float]  # mean over pairs of folds, which share no trial
    chance_dice: dict[str, float]
    percent_above: float  # of the units, at a false discovery rate of 0.05
    percent_below: float
    stat_img: Path
    network: Path

    def describe(self) -> str:
        """Say in a few lines what was found."""
        trials = ", ".join(f"{n} {kind}" for kind, n in self.n_trials.items())
        tokens = ", ".join(f"{n:.1f} {kind}" for kind, n in self.tokens_per_trial.items())
        overlaps = [
            f"{percent} % {self.dice[percent]:.2f} (folds {self.fold_dice[percent]:.2f}, chance "
            f"{self.chance_dice[percent]:.3f})"
            for percent in self.dice
        ]
        lines = [
            f"{self.contrast}: {trials} trials; tokens a trial: {tokens}",
            f"units above: {self.percent_above:.1f} %, below: {self.percent_below:.1f} % (FDR {Q})",
            f"split half: r {self.split_half_r:.3f}; Dice of the top {', '.join(overlaps)}",
        ]
        return "\n".join([*lines, str(self.stat_img), str(self.network)])


@takes_options(LocalizerOptions)
def localize(bids_dir: str | Path, out_dir: str | Path, **options: Any) -> Localizer:
    """Find the units that answer more to one kind of text, as a localizer of people does.

    Parameters
    ----------
    bids_dir : str or Path
        A localizer that was read, one volume a word: ``llm2bids read OUT --stimuli langloc``.
    out_dir : str or Path
        Folder to write to: t map, network of the top units, layers, figures.
    **options
        Which contrast, and how many units.

    Returns
    -------
    Localizer
        Consistency over halves and folds of the trials, and the files.

    Raises
    ------
    DatasetError, UsageError
        If the dataset is no such reading, or has not the trial types.

    Notes
    -----
    A trial's response is the mean over its words, without the first ones; t is Welch's over trials.
    """
    (asked,) = split_options(options, LocalizerOptions)
    dataset, out = open_dataset(bids_dir), results_folder(out_dir)
    runs, label = _runs(dataset, asked.task)
    parts = [trial_means(dataset, run, skip=asked.skip_words) for run in runs]
    kinds = np.concatenate([table["trial_type"].to_numpy(dtype=str) for table, _ in parts])
    run_numbers = np.repeat(np.arange(len(parts)), [len(table) for table, _ in parts])
    trial_numbers = pd.Series(kinds).groupby(kinds).cumcount().to_numpy()
    values = np.concatenate([means for _, means in parts])
    first, second = pair = _contrast(asked.contrast, kinds)
    contrast = f"{first}-{second}"
    t, p = welch(values, kinds == first, kinds == second)
    # with one run every other trial of each kind
    halves = _parted(values, kinds, pair, (run_numbers if len(runs) > 1 else trial_numbers) % 2)
    folds = _parted(values, kinds, pair, trial_numbers % N_FOLDS)
    network, stat_img = _write(dataset, runs, out, label, contrast, t, asked)
    passes = false_discovery_control(np.nan_to_num(p, nan=1.0)) < Q
    shown = {f"{percent:g}": percent for percent in PERCENTS}
    there = np.isfinite(halves).all(axis=0)
    result = Localizer(
        contrast=contrast,
        n_trials={kind: int((kinds == kind).sum()) for kind in pair},
        tokens_per_trial=_tokens(dataset, runs, pair),
        split_half_r=float(np.corrcoef(*halves[:, there])[0, 1]),
        dice={name: top_dice(halves, percent) for name, percent in shown.items()},
        fold_dice={name: top_dice(folds, percent) for name, percent in shown.items()},
        chance_dice={name: percent / 100 for name, percent in shown.items()},
        percent_above=100 * float(np.mean(passes & (t > 0))),
        percent_below=100 * float(np.mean(passes & (t < 0))),
        stat_img=stat_img,
        network=network,
    )
    files = {name: getattr(result, name).name for name in ("stat_img", "network")}
    links = {"dataset": os.path.relpath(dataset.path, out), "space": dataset.space.fingerprint()}
    write_json(out / f"{label}_localizer.json", {**asdict(result), **files, **links})
    return result


def _parted(
    values: npt.NDArray[np.float32],
    kinds: npt.NDArray[np.str_],
    contrast: tuple[str, str],
    part: npt.NDArray[np.integer[Any]],
) -> Float64:
    """Compute t in each part of the trials, (n_parts, n_units); `part` (n_trials,) numbers it."""
    first, second = (kinds == kind for kind in contrast)
    return np.stack(
        [welch(values, first & (part == n), second & (part == n))[0] for n in np.unique(part)]
    )


def _runs(dataset: Dataset, task: str | None) -> tuple[Sequence[Run], str]:
    if dataset.paradigm.order != "story":
        raise DatasetError(
            f"{dataset.path}: prompts that were answered; expected a localizer that was read: "
            "llm2bids read OUT --stimuli langloc"
        )
    if task is None and len(dataset.tasks) > 1:
        raise UsageError(f"--task: expected one of {', '.join(dataset.tasks)}")
    runs = dataset.select(task=task or dataset.tasks[0])
    for run in runs:
        require_word_clock(dataset, run)
    return runs, runs[0].task


def trial_means(
    dataset: Dataset, run: Run, *, skip: int
) -> tuple[pd.DataFrame, npt.NDArray[np.float32]]:
    """Average the words of each trial but the first ones: trials, and (n_trials, n_units) in sd."""
    tokens = dataset.transcript(run).dropna(subset="volume")
    words = tokens.drop_duplicates("volume").sort_values("volume")
    words = words.assign(number=words.groupby("trial").cumcount())
    trials = words.drop_duplicates("trial")[["trial", "trial_type", "prompt_id"]]
    counted = (words["number"] >= skip).to_numpy()
    trial_of = trials["trial"].searchsorted(words["trial"])
    total, n_words = group_sums(dataset, run, np.where(counted, trial_of, -1), len(trials))
    if not n_words.all():
        raise UsageError(
            f"--skip-words {skip}: trial {trials['prompt_id'].iloc[n_words.argmin()]} has no more "
            "words; expected fewer"
        )
    total /= n_words[:, None].astype(np.float32)
    return trials.reset_index(drop=True), total


def _contrast(asked: str | None, kinds: npt.NDArray[Any]) -> tuple[str, str]:
    """Choose two trial types: those asked for, those of a shipped localizer."""
    known = sorted(set(kinds.tolist()))
    wanted = ("S-N", "H-E") if asked is None else (asked,)
    pairs = [pair for name in wanted for pair in permutations(known, 2) if "-".join(pair) == name]
    if not pairs or (asked is not None and len(pairs) > 1):
        given = f"--contrast {asked or ''}".rstrip()
        raise UsageError(f"{given}: expected two of {', '.join(known)}, as A-B")
    return pairs[0]


def welch(
    values: npt.NDArray[np.float32], first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]
) -> tuple[Float64, Float64]:
    """Welch's t and its p, (n_units,), over rows; NaN where nothing varies."""
    t, p = np.empty((2, values.shape[1]))
    for start in range(0, values.shape[1], _UNITS):
        part = slice(start, start + _UNITS)
        rows = (values[chosen, part].astype(np.float64) for chosen in (first, second))
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # still units
            test = ttest_ind(*rows, equal_var=False)
        t[part], p[part] = test.statistic, test.pvalue
    still = ~np.isfinite(t)
    t[still], p[still] = np.nan, np.nan
    return t, p


def top_dice(maps: Float64, percent: float) -> float:
    """Dice's coefficient of the units with the largest values, mean over pairs of maps."""
    order = np.argsort(-np.nan_to_num(maps, nan=-np.inf), axis=1)
    n_top = max(round(maps.shape[1] * percent / 100), 1)
    marked = np.zeros(maps.shape, dtype=bool)
    np.put_along_axis(marked, order[:, :n_top], True, axis=1)
    return float(np.mean([dice(a, b) for a, b in combinations(marked, 2)]))


def _tokens(dataset: Dataset, runs: Sequence[Run], kinds: Sequence[str]) -> dict[str, float]:
    """Mean number of tokens in a trial."""
    tables = [dataset.transcript(run).assign(run=run.name) for run in runs]
    tokens = pd.concat(tables).groupby(["run", "trial", "trial_type"], observed=True).size()
    means = tokens.groupby("trial_type").mean()
    return {kind: float(means[kind]) for kind in kinds}


def _write(
    dataset: Dataset,
    runs: Sequence[Run],
    out: Path,
    label: str,
    contrast: str,
    t: Float64,
    asked: LocalizerOptions,
) -> tuple[Path, Path]:
    """Write t map, network of the top units and its layers."""
    space = dataset.space
    made_from = Provenance.of_runs(dataset, runs)
    name = contrast.replace("-", "Vs")
    stat_img = out / f"task-{label}_space-{space.label}_contrast-{name}_stat-t_statmap.nii.gz"
    entries = map_entries(dataset, made_from)
    described = {"Description": f"Welch's t over trials: {contrast}.", **entries}
    write_map(stat_img, np.nan_to_num(t), space.voxels, space, described)
    chosen = select_units(t, top_percent=asked.top_percent, two_sided=False)
    network = make_network(
        space,
        chosen,
        {"t": t[chosen]},
        label=label,
        provenance=made_from,
        criterion=f"top {asked.top_percent:g} % of t, {contrast}",
    )
    path, _ = network.save(out / f"{label}_network.tsv")
    layers = summarize(network.table.assign(value=network.table["t"]), space)
    write_table(out / f"{label}_layers.tsv", layers)
    return path, stat_img
