"""What a decoder takes from a run: labels and images of its volumes or of its prompts."""

from typing import TYPE_CHECKING, Literal

import nibabel as nib
import numpy as np
import pandas as pd

from llm2bids.exceptions import DatasetError, UsageError
from llm2bids.space.header import bold_window, image_header
from llm2bids.space.space import Space

if TYPE_CHECKING:
    from llm2bids.dataset.layout import Run
    from llm2bids.dataset.read import Dataset

# What a sample is: a volume, or a prompt (the mean of its volumes).
By = Literal["volume", "prompt"]

OFF = "off"  # label of what belongs to no trial type


def run_labels(dataset: "Dataset", run: "Run", by: By) -> pd.DataFrame:
    """List the samples of a run in order, with what each is and what groups it belongs to."""
    _check_by(by)
    if dataset.paradigm.order == "story":
        raise DatasetError(
            f"{run.name} is a story: its volumes are times, not tokens of prompts; label them from "
            "dataset.events(run) and dataset.token_table(run)"
        )
    tokens = dataset.token_table(run).dropna(subset="volume").sort_values("volume")
    table = pd.DataFrame(
        {
            "label": tokens["trial_type"].fillna(OFF).astype("str"),
            "topic": tokens["topic"],
            "prompt_id": tokens["prompt_id"],
            "trial": tokens["trial"],
            "run": run.name,
            "participant": run.participant_label,
        }
    )
    return (table if by == "volume" else table.drop_duplicates("trial")).reset_index(drop=True)


def run_image(dataset: "Dataset", run: "Run", space: Space, by: By) -> nib.Nifti1Image:
    """Read the samples of a run in a part of its space, as `run_labels` lists them."""
    _check_by(by)
    series = dataset.open_series(run)
    table = run_labels(dataset, run, "volume")
    if len(table) != series.n_volumes:
        raise DatasetError(
            f"{run.name}: its transcript lists {len(table)} volumes, the series has "
            f"{series.n_volumes}; the run is incomplete: record it again"
        )
    sample = np.arange(len(table)) if by == "volume" else pd.factorize(table["trial"])[0]
    dtype = series.header.get_data_dtype() if by == "volume" else np.dtype(np.float32)
    values = np.zeros((int(sample[-1]) + 1, space.n_units), dtype=np.float64)
    slices = dataset.space.site_slices
    voxels = np.concatenate([dataset.space.voxels[slices[site.name]] for site in space.sites])
    for start, block in series.at(voxels):
        np.add.at(values, sample[start : start + len(block)], block)
    values /= np.bincount(sample)[:, np.newaxis]
    header = image_header(
        space,
        fingerprint=space.fingerprint(),
        dtype=dtype.name,
        n_volumes=len(values),
        # prompts have no clock: the header has to say something
        t_r=dataset.t_r(run) if by == "volume" else 1.0,
        window=bold_window(dataset.calibration),
    )
    return nib.Nifti1Image(space.to_grid(values.astype(dtype)), space.affine, header)


def _check_by(by: str) -> None:
    if by not in ("volume", "prompt"):
        raise UsageError(f"by is {by!r}; expected 'volume' or 'prompt'")
