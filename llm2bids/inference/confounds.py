"""Confounds by strategy, in the style of ``nilearn.interfaces.fmriprep.load_confounds``."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.dataset.transcript import independent_columns, read_transcript
from llm2bids.exceptions import InferenceError
from llm2bids.inference.design import volume_rows
from llm2bids.options import fits
from llm2bids.space.grid import GridImage, open_image
from llm2bids.store.files import data_files

# Column of each strategy.
STRATEGIES = {
    "position": "prompt_position",
    "first_token": "first_token",
    "length": "prompt_tokens",
    "surprisal": "surprisal",
    "entropy": "entropy",
    "global_signal": "global_signal",
}

# The strategy that makes a sample mask: volumes of the prompt's own pass are left out.
_PREFILL = "prefill"

Result = tuple[pd.DataFrame, npt.NDArray[np.int64] | None]
Results = tuple[list[pd.DataFrame], list[npt.NDArray[np.int64] | None]]


@overload
def load_confounds(
    img_files: str | Path,
    strategy: Sequence[str] = ...,
    *,
    unit_of_analysis: Literal["token", "prompt"] = ...,
    demean: bool = ...,
) -> Result: ...
@overload
def load_confounds(
    img_files: list[str | Path] | list[str] | list[Path] | tuple[str | Path, ...],
    strategy: Sequence[str] = ...,
    *,
    unit_of_analysis: Literal["token", "prompt"] = ...,
    demean: bool = ...,
) -> Results: ...
def load_confounds(
    img_files: str | Path | Sequence[str | Path],
    strategy: Sequence[str] = ("position", "length"),
    *,
    unit_of_analysis: Literal["token", "prompt"] = "token",
    demean: bool = True,
) -> Result | Results:
    """Load confounds of recorded images, ready for ``FirstLevelModel.fit(confounds=...)``.

    Surprisal, entropy and the global signal are what a model does with a prompt. They can follow
    the task, and then take a part of its effect with them.

    Parameters
    ----------
    img_files : path, or sequence of paths
        Series of runs (``*_bold.nii.gz``), raw or of the derivative ``llm2bids``.
    strategy : sequence of str
        Some of ``position`` (of the token in its answer), ``first_token`` (1 at the first recorded
        token of a prompt), ``length`` (of the prompt, in tokens), ``surprisal`` and ``entropy``
        (of the token, in bit), ``global_signal`` (mean over the run's mask, in counts), and
        ``prefill`` (the sample mask leaves out volumes of the prompt's own pass, which
        ``--keep-first`` records).
    unit_of_analysis : {"token", "prompt"}
        One row for each volume, or the mean of each prompt for a model of prompt images.
    demean : bool
        Take off the mean of each column (over the sample mask, where there is one).

    Returns
    -------
    confounds : DataFrame of float64, or list of DataFrame
        One row for each volume or prompt. Columns that do not vary, or that are a mixture of
        those before them, are left out, so a table may have no column.
    sample_mask : ndarray of int64, None, or list of these
        Volumes to keep; None keeps all of them. Always None for prompts.

    Raises
    ------
    InferenceError
        If a strategy is unknown, or an image or its transcript is missing, damaged or unlike the
        other.
    DatasetError
        If the transcript cannot be read.

    References
    ----------
    Wang et al. (2024), Continuous evaluation of denoising strategies in resting-state fMRI
    connectivity, PLOS Computational Biology 20 (the loader whose interface this follows).
    """
    if unit_of_analysis not in ("token", "prompt"):
        raise InferenceError(
            f"unit_of_analysis is {unit_of_analysis!r}; expected 'token' or 'prompt'"
        )
    if not fits(img_files, str | Path | Sequence[str | Path]):
        raise InferenceError(f"img_files is {img_files!r:.80}; expected a path or a list of them")
    columns = _strategy_columns(strategy)
    how = (columns, _PREFILL in strategy, unit_of_analysis == "prompt", demean)
    if isinstance(img_files, str | Path):
        return _load(Path(img_files), *how)
    loaded = [_load(Path(file), *how) for file in img_files]
    return [table for table, _ in loaded], [mask for _, mask in loaded]


def _strategy_columns(strategy: Sequence[str]) -> list[str]:
    """Give the columns of strategies.

    >>> _strategy_columns(["length", "prefill"])
    ['prompt_tokens']
    """
    known = [*STRATEGIES, _PREFILL]
    if not fits(strategy, Sequence[str]) or not set(strategy) <= set(known):
        raise InferenceError(
            f"strategy is {strategy!r}; expected a sequence of some of {', '.join(known)}"
        )
    return list(dict.fromkeys(STRATEGIES[name] for name in strategy if name != _PREFILL))


def confound_table(
    rows: pd.DataFrame, columns: Sequence[str], signal: Callable[[], npt.NDArray[np.float64]]
) -> pd.DataFrame:
    """Make confounds of a run's volumes from their rows of the transcript, (n_volumes, n_columns).

    `signal` gives the global signal where that is asked for.

    >>> rows = pd.DataFrame({"trial": [0, 0, 1], "position": [1, 2, 1], "prompt_tokens": [5, 5, 8]})
    >>> confound_table(rows, ["first_token", "prompt_tokens"], lambda: np.zeros(3))
       first_token  prompt_tokens
    0          1.0            5.0
    1          0.0            5.0
    2          1.0            8.0
    """
    table = pd.DataFrame(index=rows.index)
    for column in columns:
        if column == "global_signal":
            table[column] = signal()
        elif column == "first_token":
            first = rows.groupby("trial")["position"].transform("min")
            table[column] = rows["position"] == first
        else:
            table[column] = rows["position" if column == "prompt_position" else column]
    return table.astype(np.float64)


def global_signal(
    series: GridImage, voxels: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.float64]:
    """Average every volume over voxels (n_voxels, 3); gives (n_volumes,)."""
    means = [values.mean(axis=1, dtype=np.float64) for _, values in series.at(voxels)]
    return np.concatenate(means)


def _load(
    image: Path, columns: Sequence[str], prefill: bool, by_prompt: bool, demean: bool
) -> Result:
    folder, name = _derived_files(image)
    series = open_image(image)
    transcript = read_transcript(folder / f"{name}_desc-transcript_tokens.tsv")
    rows = volume_rows(transcript, series.n_volumes)

    def signal() -> npt.NDArray[np.float64]:
        mask = open_image(_brain_mask(folder, name), series)
        return global_signal(series, np.argwhere(mask.volume() > 0))

    table = confound_table(rows, columns, signal)
    kept = np.flatnonzero(rows["position"] > 0) if prefill else np.arange(len(rows))
    inside = table.iloc[kept]
    if by_prompt:
        inside = inside.groupby(rows["trial"]).mean().reset_index(drop=True)
    names = list(independent_columns(inside).columns)
    mean = inside[names].mean() if demean else 0.0
    if by_prompt:
        return inside[names] - mean, None
    return table[names] - mean, None if kept.size == len(rows) else kept


def _derived_files(image: Path) -> tuple[Path, str]:
    """Find the derivative's folder of a run, and the entities that name it."""
    keys = ("sub-", "ses-", "task-", "run-")
    name = "_".join(part for part in image.name.split("_") if part.startswith(keys))
    folders = [image.parent]
    if len(image.parents) > 2:
        root = image.parents[2]
        folders.append(root / "derivatives" / "llm2bids" / image.parent.relative_to(root))
    for folder in folders:
        if (folder / f"{name}_desc-transcript_tokens.tsv").is_file():
            return folder, name
    raise InferenceError(
        f"{image}: no {name}_desc-transcript_tokens.tsv in {' or '.join(map(str, folders))}; "
        "expected an image of a dataset that llm2bids recorded, in its place"
    )


def _brain_mask(folder: Path, name: str) -> Path:
    masks = data_files(folder, f"{name}_space-*_desc-brain_mask.nii.gz")
    if len(masks) != 1:
        raise InferenceError(
            f"{folder}: {len(masks)} files {name}_space-*_desc-brain_mask.nii.gz, expected one; "
            "record the run again, or leave global_signal out"
        )
    return masks[0]
