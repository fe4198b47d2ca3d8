"""Runs of one participant and task, from images and tables to fitted maps, in little memory."""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib import Parallel
from nibabel.affines import voxel_sizes
from nilearn.image import smooth_img

from llm2bids.dataset.layout import Run
from llm2bids.exceptions import InferenceError, UsageError
from llm2bids.inference.confounds import STRATEGIES, confound_table, global_signal
from llm2bids.inference.design import (
    chosen_confounds,
    has_contrast,
    named_contrasts,
    prompt_design,
    token_design,
    trial_table,
)
from llm2bids.inference.first_level import FirstLevelFit, fit_first_level
from llm2bids.inference.options import AnalysisOptions
from llm2bids.space.grid import GridImage, open_image
from llm2bids.space.image import BASELINE

# First volume's index and values (n_volumes, n_units), block after block.
Blocks = Iterable[tuple[int, npt.NDArray[np.float32]]]

# Float64 copies of a block that a fit holds at its peak (measured with nilearn 0.14: 6 to 8).
COPIES = 8

# Memory of a block of units that stays in a processor's cache: nilearn's OLS is 17 times faster
# there than on 254,592 units at once.
_CACHE_GB = 0.008


@dataclass(frozen=True, kw_only=True, eq=False)
class RunData:
    """An opened run as the first level needs it: its tables say the same of every volume."""

    run: Run
    series: GridImage
    voxels: npt.NDArray[np.int32]  # (n_units, 3), of the units to model
    t_r: float  # repetition time in seconds
    rows: pd.DataFrame  # of the transcript, one for each volume, as `volume_rows` gives them
    events: pd.DataFrame
    counts_per_sd: int  # gain of the dataset
    confounds: pd.DataFrame | None = None  # covariates, one row for each volume

    @property
    def n_volumes(self) -> int:
        """Volumes of the run, from the image's header."""
        return self.series.n_volumes

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Trials in the order of presentation, as `trial_table` gives them."""
        return trial_table(self.rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskFit:
    """The fitted model of one participant and task."""

    fit: FirstLevelFit
    designs: tuple[pd.DataFrame, ...]  # design matrix of each run
    contrasts: dict[str, str]  # expression of each contrast by its label


def prompt_series(
    run: RunData, *, smoothing_fwhm: float | None = None, n_tokens: Sequence[int | None] = (None,)
) -> list[npt.NDArray[np.float64]]:
    """Average the volumes of each prompt, in calibration sd: arrays (n_prompts, n_units).

    One array for each of `n_tokens`, over the first so many volumes of a prompt, or all (None).
    The image is read once; prompt images are smoothed, which is the same as smoothing the volumes.
    """
    trials = run.rows["trial"].to_numpy()
    if smoothing_fwhm is None:
        blocks = unit_volumes(run.series, run.voxels)
        means = prompt_means(blocks, trials, len(run.voxels), n_tokens=n_tokens)
        return [in_sd(series, run) for series in means]
    shape = run.series.shape[:3]
    whole = ((start, b.reshape(len(b), -1)) for start, b in run.series.blocks())  # file order
    series = []
    for of_voxels in prompt_means(whole, trials, math.prod(shape), n_tokens=n_tokens):
        volumes = of_voxels.reshape(-1, *shape[::-1]).T
        inside = smoothed(volumes, run.series.affine, smoothing_fwhm)[tuple(run.voxels.T)]
        series.append(in_sd(inside.T.astype(np.float64), run))
    return series


def in_sd(counts: npt.NDArray[np.float64], run: RunData) -> npt.NDArray[np.float64]:
    """Turn counts of a run into units of the calibration's standard deviation, in place."""
    counts -= BASELINE
    counts /= run.counts_per_sd
    return counts


def run_design(
    run: RunData, options: AnalysisOptions, *, n_tokens: int | None = None
) -> pd.DataFrame:
    """Build the design matrix of a run: a row for each prompt (its first `n_tokens`) or volume."""
    confounds = _covariates(run, options.confounds) if options.confounds else None
    if options.unit_of_analysis == "token":
        return token_design(run.events, run.n_volumes, run.t_r, options, confounds)
    if confounds is not None:
        trials = run.rows["trial"]
        if n_tokens is not None:
            confounds = confounds[trials.groupby(trials).cumcount() < n_tokens]
        means = confounds.groupby(trials).mean()
        still = [str(name) for name in means if means[name].std() < 1e-4 * confounds[name].std()]
        if still:
            raise InferenceError(
                f"confounds: {', '.join(still)} has the same mean in every prompt; with one image "
                "per prompt leave it out, or take unit_of_analysis 'token'"
            )
        confounds = means
    return prompt_design(run.trials["trial_type"].tolist(), confounds)


def _covariates(run: RunData, names: Sequence[str]) -> pd.DataFrame:
    """Take columns of the confounds table, or strategies of `load_confounds`."""
    table = run.rows[[]] if run.confounds is None else run.confounds
    if len(table) != run.n_volumes:
        raise InferenceError(
            f"{run.run.confounds}: {len(table)} rows, the image has {run.n_volumes} volumes; "
            "expected a row for each; restore the file or record the run again"
        )
    wanted = list(dict.fromkeys(STRATEGIES.get(name, name) for name in names))
    made = [name for name in wanted if name in STRATEGIES.values() and name not in table]
    added = confound_table(run.rows, made, lambda: global_signal(run.series, run.voxels))
    return chosen_confounds(pd.concat([table, added], axis=1), wanted)


def _task_contrasts(runs: Sequence[RunData], options: AnalysisOptions) -> dict[str, str]:
    """Choose the contrasts that these runs can answer."""
    kinds = [set(run.trials["trial_type"]) - {""} for run in runs]
    everywhere = sorted(set.intersection(*kinds))
    named = named_contrasts(options.contrasts, everywhere)
    there = {
        label: expression
        for label, expression in named.items()
        if has_contrast(expression, everywhere)
    }
    if not there:
        wanted = named_contrasts(options.contrasts, []) if options.contrasts else {}
        shown = sorted(set.union(*kinds))
        raise InferenceError(
            f"sub-{runs[0].run.participant_label} task-{runs[0].run.task}: contrast "
            f"{', '.join(map(repr, wanted.values())) or '(none)'} does not exist here; expected an "
            f"expression over {', '.join(shown) or '(no trial type)'}; tasks of different runs "
            "are contrasted at the group level"
        )
    return there


def fit_task(
    runs: Sequence[RunData],
    options: AnalysisOptions,
    *,
    mem_gb: float | None = 1.0,
    work_dir: Path | None = None,
) -> TaskFit:
    """Fit the runs of one participant and task, several runs as fixed effects."""
    contrasts = _task_contrasts(runs, options)
    designs = tuple(run_design(run, options) for run in runs)
    n_units, n_observations = len(runs[0].voxels), sum(len(design) for design in designs)
    if options.noise == "ols":
        mem_gb = min(mem_gb or _CACHE_GB, _CACHE_GB)
    elif options.noise != "ar1":  # nilearn clusters the units of the whole image
        mem_gb = None
    edges = block_edges(n_units, n_observations, mem_gb=mem_gb)
    with ExitStack() as stack:
        reads = [
            stack.enter_context(_reader(run, options, edges, work_dir=work_dir)) for run in runs
        ]
        fit = fit_first_level(
            lambda block: [read(block) for read in reads],
            edges,
            designs,
            contrasts,
            noise_model=options.noise,
        )
    return TaskFit(fit=fit, designs=designs, contrasts=contrasts)


@contextmanager
def _reader(
    run: RunData, options: AnalysisOptions, edges: npt.NDArray[np.intp], *, work_dir: Path | None
) -> Iterator[Callable[[int], npt.NDArray[np.float64]]]:
    """Give a function that reads one block of units of a run, in calibration sd."""
    if options.unit_of_analysis == "prompt":
        series = prompt_series(run, smoothing_fwhm=options.smoothing_fwhm)[0]
        yield lambda block: series[:, edges[block] : edges[block + 1]]
        return
    volumes = unit_volumes(run.series, run.voxels, smoothing_fwhm=options.smoothing_fwhm)
    with transposed(volumes, edges, run.n_volumes, work_dir=work_dir) as read:
        yield lambda block: in_sd(read(block).astype(np.float64), run)


def unit_volumes(
    series: GridImage,
    voxels: npt.NDArray[np.integer[Any]],
    *,
    smoothing_fwhm: float | None = None,
    n_volumes: int = 8,
) -> Blocks:
    """Read the volumes of units at voxels (n_units, 3), in their order, smoothed if asked."""
    if smoothing_fwhm is None:
        for start, values in series.at(voxels, n_volumes):
            yield start, values.astype(np.float32)
        return
    for start, block in series.blocks(n_volumes):
        volumes = smoothed(block.T.astype(np.float32), series.affine, smoothing_fwhm)
        yield start, np.asarray(volumes[tuple(voxels.T)].T, dtype=np.float32)


def smoothed(
    volumes: npt.NDArray[np.floating[Any]], affine: npt.NDArray[np.float64], fwhm: float
) -> npt.NDArray[Any]:
    """Smooth volumes (n_x, n_y, n_z, n) with nilearn, `fwhm` in millimetres."""
    longest = float(max(voxel_sizes(affine) * volumes.shape[:3]))
    if fwhm > longest:  # a kernel wider than the image says nothing, and fills the memory
        raise UsageError(
            f"smoothing_fwhm (--smoothing) is {fwhm:g}; expected at most {longest:g} mm, the "
            "longest side of the images"
        )
    return open_image(smooth_img(nib.Nifti1Image(volumes, affine), fwhm)).read()


def prompt_means(
    blocks: Blocks,
    trials: npt.NDArray[np.int64],
    n_units: int,
    *,
    n_tokens: Sequence[int | None] = (None,),
) -> list[npt.NDArray[np.float64]]:
    """Average the volumes of each trial while they stream by: arrays (n_trials, n_units).

    `trials` numbers the trial of each volume from 0. One array for each of `n_tokens`: of the first
    so many volumes of a trial, or of all (None).

    >>> volumes = np.array([[1, 2], [3, 4], [9, 9]], dtype=np.float32)
    >>> trials = np.array([0, 0, 1])
    >>> prompt_means([(0, volumes[:2]), (2, volumes[2:])], trials, 2, n_tokens=[None, 1])
    [array([[2., 3.],
           [9., 9.]]), array([[1., 2.],
           [9., 9.]])]
    """
    counts = np.bincount(trials)
    position = pd.Series(trials).groupby(trials).cumcount().to_numpy()  # of a volume in its trial
    ends = [counts if limit is None else np.minimum(counts, limit) for limit in n_tokens]
    means = [np.zeros((counts.size, n_units)) for _ in n_tokens]
    for start, values in blocks:
        for row, volume in enumerate(values, start):
            for mean, end in zip(means, ends, strict=True):
                if position[row] < end[trials[row]]:
                    mean[trials[row]] += volume
    for mean, end in zip(means, ends, strict=True):
        mean /= end[:, np.newaxis]
    return means


def block_edges(n_units: int, n_observations: int, *, mem_gb: float | None) -> npt.NDArray[np.intp]:
    """Split the units so that fitting one block stays within the memory, (n_blocks + 1,).

    >>> block_edges(10, 1000, mem_gb=0.000256)
    array([ 0,  4,  8, 10])
    >>> block_edges(10, 1000, mem_gb=None)
    array([ 0, 10])
    """
    if mem_gb is None:
        return np.array([0, n_units])
    size = max(1, int(mem_gb * 1e9 / (8 * COPIES * n_observations)))
    return np.array([*range(0, n_units, size), n_units])


@contextmanager
def transposed(
    blocks: Blocks, edges: npt.NDArray[np.intp], n_volumes: int, *, work_dir: Path | None = None
) -> Iterator[Callable[[int], npt.NDArray[np.float32]]]:
    """Hold a run in a scratch file; gives a function that reads (n_volumes, units of a block).

    `edges`: of the blocks of units, (n_blocks + 1,).
    """
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(prefix="llm2bids-", dir=work_dir) as file:
        for start, values in blocks:
            for low, high in pairwise(edges.tolist()):
                file.seek(4 * (low * n_volumes + start * (high - low)))
                file.write(np.ascontiguousarray(values[:, low:high]).tobytes())

        def read(block: int) -> npt.NDArray[np.float32]:
            low, high = edges[block : block + 2].tolist()
            file.seek(4 * low * n_volumes)
            held = file.read(4 * n_volumes * (high - low))
            return np.frombuffer(held, np.float32).reshape(n_volumes, -1)

        yield read


def in_parallel(jobs: Iterable[Any], n_cpus: int, *, ordered: bool = False) -> Iterator[Any]:
    """Run joblib's delayed calls in processes; results come as they are done, or in order."""
    # no files for large arguments: joblib loses count of them where workers recorded before
    how = "generator" if ordered else "generator_unordered"
    results: Iterator[Any] = Parallel(n_cpus, return_as=how, max_nbytes=None)(jobs)
    return results
