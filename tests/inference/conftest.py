"""Synthetic runs: an image on a small grid, its mask, its transcript."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from llm2bids.inference.analyze import analyze_participants

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
SHAPE = (7, 8, 9)


@dataclass(frozen=True)
class SyntheticRun:
    path: Path
    image: nib.Nifti1Image
    mask: np.ndarray
    mask_img: nib.Nifti1Image
    transcript: pd.DataFrame
    events: pd.DataFrame
    counts: np.ndarray
    t_r: float

    @property
    def voxels(self):
        """Voxels of the mask, (n_voxels, 3), in nilearn's order."""
        return np.argwhere(self.mask)

    @property
    def sd_values(self):
        """Values in calibration sd, (n_volumes, n_voxels) in nilearn's order."""
        return (self.counts[self.mask].T.astype(float) - 10000) / 100


def make_transcript(trial_types, n_tokens, prefix="p"):
    rows, volume = [], 0
    for trial, kind in enumerate(trial_types):
        for position in range(n_tokens + 1):
            rows.append(
                {
                    "volume": pd.NA if position == 0 else volume,
                    "trial": trial,
                    "block": trial // 3,
                    "trial_type": kind or pd.NA,
                    "prompt_id": f"{prefix}{trial}",
                    "position": position,
                }
            )
            volume += position > 0
    table = pd.DataFrame(rows)
    table["volume"] = table["volume"].astype("Int64")
    return table


def make_events(trial_types, n_tokens, t_r):
    rows = [
        {"onset": trial * n_tokens * t_r, "duration": n_tokens * t_r, "trial_type": kind}
        for trial, kind in enumerate(trial_types)
        if kind
    ]
    return pd.DataFrame(rows)


def make_run(
    folder,
    *,
    trial_types=("", "", "", "tea", "tea", "tea", "tea", "", ""),
    n_tokens=5,
    seed=0,
    planted=2.0,
    name="bold.nii.gz",
    prefix="p",
):
    """Autocorrelated noise with a prompt effect; the first masked voxel responds to "tea"."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[1:-1, 2:-2, 1:-2] = True
    n_volumes = len(trial_types) * n_tokens
    z = rng.standard_normal((n_volumes, *SHAPE))
    for volume in range(1, n_volumes):
        z[volume] = 0.4 * z[volume - 1] + np.sqrt(1 - 0.16) * z[volume]
    z += np.repeat(0.4 * rng.standard_normal((len(trial_types), *SHAPE)), n_tokens, axis=0)
    on = np.repeat(np.array([kind == "tea" for kind in trial_types]), n_tokens)
    z[on, 1, 2, 1] += planted
    z[:, 5, 5, 6] = 0  # a dead unit
    counts = np.round(10000 + 100 * z).astype(np.int16).transpose(1, 2, 3, 0)
    image = nib.Nifti1Image(counts, AFFINE)
    image.header.set_zooms((2, 2, 2, 0.25))
    path = Path(folder) / name
    image.to_filename(path)
    return SyntheticRun(
        path=path,
        image=image,
        mask=mask,
        mask_img=nib.Nifti1Image(mask.astype(np.uint8), AFFINE),
        transcript=make_transcript(trial_types, n_tokens, prefix),
        events=make_events(trial_types, n_tokens, 0.25),
        counts=counts,
        t_r=0.25,
    )


@pytest.fixture
def make(tmp_path):
    return partial(make_run, tmp_path)


@pytest.fixture
def run(make):
    return make()


@pytest.fixture(scope="session")
def analysed(drinks, tmp_path_factory):
    """The participant level of `drinks`; not to be changed."""
    out_dir = tmp_path_factory.mktemp("analysed") / "out"
    result = analyze_participants(drinks, out_dir, progress=False)
    assert result.failed == ()
    return out_dir
