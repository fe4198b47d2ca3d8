"""Second level: participants as observations, with nilearn's models and its parameters' names."""

import warnings
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from nilearn.glm.second_level import non_parametric_inference
from nilearn.masking import unmask
from scipy import stats

from llm2bids.exceptions import InferenceError
from llm2bids.inference.first_level import t_and_z

Floats = npt.NDArray[np.float64]

ROUNDING = 1e-6
"""Standard deviation over mean below which effects are equal but for rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupStatistics:
    """The mean effect of a group and its test, float64 arrays of shape (n_units,).

    `pfdr`: two-sided p, adjusted by Benjamini and Hochberg over the units; `cohensd`: mean over
    standard deviation. Units in which all participants have the same effect get 0, and p of 1.
    """

    effect: Floats
    variance: Floats
    t: Floats
    z: Floats
    pfdr: Floats
    cohensd: Floats


def group_statistics(effects: npt.NDArray[np.floating[Any]]) -> GroupStatistics:
    """Test whether the mean of effects, (n_participants, n_units), differs from 0.

    The maps equal those of ``nilearn.glm.second_level.SecondLevelModel``, without images.
    """
    n = len(effects)
    check_size(n, what="group level")
    values = np.asarray(effects, dtype=np.float64)
    effect, variance = values.mean(axis=0), values.var(axis=0, ddof=1) / n
    t, z, p = t_and_z(effect, variance, n - 1)
    sd = np.sqrt(variance * n)
    still = sd <= ROUNDING * np.abs(effect)
    return GroupStatistics(
        effect=effect,
        variance=variance,
        t=np.where(still, 0, t),
        z=np.where(still, 0, z),
        pfdr=stats.false_discovery_control(np.where(still, 1, p)),
        cohensd=np.divide(effect, sd, out=np.zeros_like(effect), where=~still),
    )


def check_size(n_participants: int, *, what: str) -> None:
    """Refuse fewer participants than make a group."""
    if n_participants < 2:
        raise InferenceError(
            f"{what}: found {n_participants} participant(s), a group needs at least 2 (8 for "
            "effect sizes, 16 for family-wise maps); record more participants"
        )


def permutation_test(
    effects: npt.NDArray[np.floating[Any]],
    *,
    mask_img: nib.Nifti1Image,
    n_perm: int = 10000,
    two_sided_test: bool = True,
    threshold: float | None = None,
    tfce: bool = False,
    n_jobs: int = 1,
    random_state: int = 0,
) -> dict[str, nib.Nifti1Image]:
    """Test the mean of effects (n_participants, n_voxels) with sign flips, with nilearn.

    Voxels are in nilearn's order of the mask. Of the flips of n participants ``2 ** (n - 1)``
    differ. nilearn's maps: ``logp_max_t`` is always there, `threshold` (a p value) adds cluster
    size and mass, `tfce` its own.
    """
    check_size(len(effects), what="group level")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Data array used to create a new image contains 64-bit")
        outputs = non_parametric_inference(
            [unmask(row, mask_img) for row in effects],
            design_matrix=pd.DataFrame({"intercept": np.ones(len(effects))}),
            second_level_contrast="intercept",
            mask=mask_img,
            n_perm=n_perm,
            two_sided_test=two_sided_test,
            threshold=threshold,
            tfce=tfce,
            n_jobs=n_jobs,
            random_state=random_state,
        )
    return dict(outputs) if isinstance(outputs, dict) else {"logp_max_t": outputs}


def smallest_p(n_participants: int) -> float:
    """Give the smallest two-sided p that sign flips of so many participants can reach."""
    return float(2.0 ** (1 - n_participants))
