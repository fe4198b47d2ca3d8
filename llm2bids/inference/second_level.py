"""Second level: participants as observations, with nilearn's models and its parameters' names."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from nilearn.glm.second_level import SecondLevelModel, non_parametric_inference
from nilearn.masking import apply_mask, unmask
from scipy import stats

from llm2bids.exceptions import InferenceError
from llm2bids.space.grid import open_image

ROUNDING = 1e-6
"""Standard deviation over mean below which effects are equal but for rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SecondLevelFit:
    """Maps of a group, each a 3D image.

    Parameters
    ----------
    effect, variance, t, z : Nifti1Image
        Mean effect over participants, its variance, t and z.
    p_fdr : Nifti1Image
        Two-sided p, adjusted by Benjamini and Hochberg over the mask (1 outside).
    d : Nifti1Image
        Cohen's d: mean over standard deviation of the participants' effects.
    n_participants : int
        Participants.
    """

    effect: nib.Nifti1Image
    variance: nib.Nifti1Image
    t: nib.Nifti1Image
    z: nib.Nifti1Image
    p_fdr: nib.Nifti1Image
    d: nib.Nifti1Image
    n_participants: int


def fit_second_level(
    effect_imgs: Sequence[nib.Nifti1Image], *, mask_img: nib.Nifti1Image
) -> SecondLevelFit:
    """Test whether the mean of the participants' effects differs from 0.

    Parameters
    ----------
    effect_imgs : sequence of Nifti1Image
        One effect map for each participant.
    mask_img : Nifti1Image
        Units to test.

    Returns
    -------
    SecondLevelFit
        Maps from nilearn's ``SecondLevelModel``, and effect size and adjusted p from them. Units
        in which all participants have the same effect get t, z and d of 0 (there is no error to
        test by; with two participants rounded counts make a few of 100,000 such).

    Raises
    ------
    InferenceError
        If there are fewer than 2 participants, or the images and the mask differ in grid.
    """
    n = checked_inputs(effect_imgs, mask_img)
    model = SecondLevelModel(mask_img=mask_img, minimize_memory=True)
    # one series: of a list nilearn compares the grids two by two, which checked_inputs has done
    model.fit(nib.concat_images(effect_imgs), design_matrix=intercept(n))
    with np.errstate(divide="ignore", invalid="ignore"):
        maps = model.compute_contrast("intercept", output_type="all")
    effect, variance, t = (
        apply_mask(maps[key], mask_img) for key in ("effect_size", "effect_variance", "stat")
    )
    sd = np.sqrt(variance * n)
    p = 2 * stats.t.sf(np.abs(t), n - 1)
    still = sd <= ROUNDING * np.abs(effect)
    d = np.divide(effect, sd, out=np.zeros_like(effect), where=~still)
    z = apply_mask(maps["z_score"], mask_img)
    return SecondLevelFit(
        effect=maps["effect_size"],
        variance=maps["effect_variance"],
        t=unmask(np.where(still, 0, t), mask_img),
        z=unmask(np.where(still, 0, z), mask_img),
        p_fdr=_p_image(stats.false_discovery_control(np.where(still, 1, p)), mask_img),
        d=unmask(d, mask_img),
        n_participants=n,
    )


def checked_inputs(effect_imgs: Sequence[nib.Nifti1Image], mask_img: nib.Nifti1Image) -> int:
    """Check the inputs of a group test.

    Parameters
    ----------
    effect_imgs : sequence of Nifti1Image
        One effect map for each participant.
    mask_img : Nifti1Image
        Units to test.

    Returns
    -------
    int
        Number of participants.

    Raises
    ------
    InferenceError
        If there are fewer than 2 participants, or grids differ.
    """
    n = checked_size(len(effect_imgs), what="group level")
    for image in (*effect_imgs, mask_img):
        if image.shape[:3] != effect_imgs[0].shape[:3] or not np.allclose(
            image.affine, effect_imgs[0].affine
        ):
            raise InferenceError(
                f"group level: an image or the mask has the grid {image.shape[:3]} and another "
                f"affine than {effect_imgs[0].shape[:3]} of the first; expected one space; "
                "analyze datasets of one space together only"
            )
    return n


def checked_size(n_participants: int, *, what: str) -> int:
    """Return the number of participants if it makes a group.

    Parameters
    ----------
    n_participants : int
        Participants.
    what : str
        What is tested, for the message.

    Returns
    -------
    int
        The same.

    Raises
    ------
    InferenceError
        If there are fewer than 2.

    Examples
    --------
    >>> checked_size(8, what="group level")
    8
    """
    if n_participants < 2:
        raise InferenceError(
            f"{what}: found {n_participants} participant(s), a group needs at least 2 (8 for "
            "effect sizes, 16 for family-wise maps); record more participants"
        )
    return n_participants


def intercept(n: int) -> pd.DataFrame:
    """Build the design matrix of a one-sample test.

    Parameters
    ----------
    n : int
        Participants.

    Returns
    -------
    DataFrame
        Shape (n, 1), column ``intercept``.

    Examples
    --------
    >>> intercept(2).shape
    (2, 1)
    """
    return pd.DataFrame({"intercept": np.ones(n)})


def against_others(
    effects: npt.NDArray[np.floating[Any]], task: int
) -> npt.NDArray[np.floating[Any]]:
    """Contrast a task with the mean of the other tasks, within participant.

    Parameters
    ----------
    effects : ndarray of float, shape (n_tasks, n_voxels)
        A participant's effect of each task.
    task : int
        Index of the task.

    Returns
    -------
    ndarray of float, shape (n_voxels,)
        Effect of the task minus the mean effect of the others.

    Raises
    ------
    InferenceError
        If there is no other task.

    Examples
    --------
    >>> against_others(np.array([[3.0], [1.0], [2.0]]), 0)
    array([1.5])
    """
    if len(effects) < 2:
        raise InferenceError(
            "contrast against the other tasks: found one task, expected at least 2; record a "
            "paradigm with several tasks"
        )
    return np.asarray(effects[task] - np.delete(effects, task, axis=0).mean(axis=0))


def permutation_test(
    effect_imgs: Sequence[nib.Nifti1Image],
    *,
    mask_img: nib.Nifti1Image,
    n_perm: int = 10000,
    two_sided_test: bool = True,
    threshold: float | None = None,
    tfce: bool = False,
    n_jobs: int = 1,
    random_state: int = 0,
) -> dict[str, nib.Nifti1Image]:
    """Test the group mean with sign flips, with nilearn's ``non_parametric_inference``.

    Parameters
    ----------
    effect_imgs : sequence of Nifti1Image
        One effect map for each participant.
    mask_img : Nifti1Image
        Units to test.
    n_perm : int
        Random sign flips; only ``2 ** (n - 1)`` differ for n participants in a two-sided test.
    two_sided_test : bool
        Both directions.
    threshold : float, optional
        Cluster-forming threshold as a p value; adds cluster size and mass.
    tfce : bool
        Adds threshold-free cluster enhancement.
    n_jobs : int
        Processes.
    random_state : int
        Seed of the flips.

    Returns
    -------
    dict of str to Nifti1Image
        nilearn's maps; ``logp_max_t`` (negative log10 of the corrected p) is always there.

    Raises
    ------
    InferenceError
        As `checked_inputs`.
    """
    n = checked_inputs(effect_imgs, mask_img)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Data array used to create a new image contains 64-bit")
        outputs = non_parametric_inference(
            list(effect_imgs),
            design_matrix=intercept(n),
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
    """Give the smallest two-sided p that sign flips of so many participants can reach.

    Parameters
    ----------
    n_participants : int
        Participants.

    Returns
    -------
    float
        ``2 ** (1 - n_participants)``.

    Examples
    --------
    >>> smallest_p(5)
    0.0625
    """
    return float(2.0 ** (1 - n_participants))


def _p_image(p: npt.NDArray[np.float64], mask_img: nib.Nifti1Image) -> nib.Nifti1Image:
    """Put p values on the grid, with 1 (no evidence) outside the mask."""
    image = open_image(unmask(p - 1, mask_img))
    return nib.Nifti1Image((image.volume() + 1).astype(np.float32), image.affine)
