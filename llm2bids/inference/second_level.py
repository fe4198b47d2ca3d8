"""Second level: participants as observations, with nilearn's models and its parameters' names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from nilearn.glm import cluster_level_inference, fdr_threshold, threshold_stats_img
from nilearn.glm.second_level import SecondLevelModel, non_parametric_inference
from nilearn.masking import apply_mask, unmask
from nilearn.reporting import get_clusters_table
from scipy import stats

from llm2bids.exceptions import InferenceError

HeightControl = Literal["fpr", "fdr", "bonferroni"]
HEIGHT_CONTROLS: tuple[HeightControl, ...] = ("fpr", "fdr", "bonferroni")

CLUSTER_COLUMNS = ("Cluster ID", "X", "Y", "Z", "Peak Stat", "Cluster Size (mm3)")


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
        Maps from nilearn's ``SecondLevelModel``, and effect size and adjusted p from them.

    Raises
    ------
    InferenceError
        If there are fewer than 2 participants, or the images and the mask differ in grid.
    """
    n = checked_inputs(effect_imgs, mask_img)
    model = SecondLevelModel(mask_img=mask_img, minimize_memory=True)
    model.fit(list(effect_imgs), design_matrix=intercept(n))
    maps = model.compute_contrast("intercept", output_type="all")
    effect, variance, t = (
        apply_mask(maps[key], mask_img) for key in ("effect_size", "effect_variance", "stat")
    )
    sd = np.sqrt(variance * n)
    p = 2 * stats.t.sf(np.abs(t), n - 1)
    still = variance == 0
    d = np.divide(effect, sd, out=np.zeros_like(effect), where=sd > 0)
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
    n = len(effect_imgs)
    if n < 2:
        raise InferenceError(
            f"group level: found {n} participant(s), expected at least 2 (8 for effect sizes, 16 "
            "for family-wise maps); record more participants"
        )
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


def height_threshold(
    z: npt.NDArray[np.floating[Any]], *, alpha: float = 0.05, height_control: HeightControl = "fdr"
) -> float:
    """Give the two-sided z threshold of a height control, as nilearn's `threshold_stats_img`.

    Parameters
    ----------
    z : ndarray of float, shape (n_voxels,)
        z of all units that were tested.
    alpha : float
        Error rate.
    height_control : {"fpr", "fdr", "bonferroni"}
        What `alpha` controls.

    Returns
    -------
    float
        Threshold for abs(z); infinity where no unit survives the false discovery rate.

    Raises
    ------
    InferenceError
        If `alpha` or `height_control` is not usable.

    Examples
    --------
    >>> round(height_threshold(np.zeros(9), height_control="fpr"), 2)
    1.96
    """
    if not 0 < alpha < 1 or height_control not in ("fpr", "fdr", "bonferroni"):
        raise InferenceError(
            f"threshold: found alpha={alpha}, height_control={height_control!r}; expected alpha "
            "between 0 and 1 and one of 'fpr', 'fdr', 'bonferroni'"
        )
    if height_control == "fdr":
        return float(fdr_threshold(np.abs(z), alpha / 2))
    return float(stats.norm.isf(alpha / 2 / (1 if height_control == "fpr" else z.size)))


def thresholds(
    z: npt.NDArray[np.floating[Any]], *, alpha: float = 0.05
) -> dict[str, dict[str, float | int | None]]:
    """Find the two-sided z threshold of every height control, and the units above it.

    Parameters
    ----------
    z : ndarray of float, shape (n_voxels,)
        z of all units that were tested.
    alpha : float
        Error rate.

    Returns
    -------
    dict
        ``{height_control: {"z": threshold or None, "n_units": units above it}}`` for ``"fpr"``,
        ``"fdr"`` and ``"bonferroni"``; None where no threshold controls the rate.

    Examples
    --------
    >>> thresholds(np.zeros(9))["fdr"]
    {'z': None, 'n_units': 0}
    """
    found: dict[str, dict[str, float | int | None]] = {}
    for height_control in HEIGHT_CONTROLS:
        threshold = height_threshold(z, alpha=alpha, height_control=height_control)
        finite = bool(np.isfinite(threshold))
        found[height_control] = {
            "z": threshold if finite else None,
            "n_units": int((np.abs(z) >= threshold).sum()) if finite else 0,
        }
    return found


def thresholded(
    z_img: nib.Nifti1Image,
    *,
    mask_img: nib.Nifti1Image,
    alpha: float = 0.05,
    height_control: HeightControl = "fdr",
    cluster_threshold: int = 0,
) -> tuple[nib.Nifti1Image, float]:
    """Threshold a z map, two-sided, with ``nilearn.glm.threshold_stats_img``.

    Parameters
    ----------
    z_img, mask_img : Nifti1Image
        z map and the units that were tested.
    alpha : float
        Error rate.
    height_control : {"fpr", "fdr", "bonferroni"}
        What `alpha` controls (nilearn's own default, uncorrected ``"fpr"``, is not ours).
    cluster_threshold : int
        Smallest cluster that stays, in voxels.

    Returns
    -------
    tuple of (Nifti1Image, float)
        The map with 0 below the threshold, and the threshold (infinity where none controls it).

    Raises
    ------
    InferenceError
        If `alpha` or `height_control` is not usable.
    """
    z = apply_mask(z_img, mask_img)
    threshold = height_threshold(z, alpha=alpha, height_control=height_control)
    if not (np.abs(z) >= threshold).any():
        return unmask(np.zeros_like(z), mask_img), threshold
    image, threshold = threshold_stats_img(
        z_img,
        mask_img=mask_img,
        alpha=alpha,
        height_control=height_control,
        cluster_threshold=cluster_threshold,
        two_sided=True,
    )
    return image, float(threshold)


def cluster_table(
    z_img: nib.Nifti1Image,
    *,
    stat_threshold: float,
    cluster_threshold: int = 10,
    min_distance: float = 8.0,
) -> pd.DataFrame:
    """List the clusters of a z map in both directions, with nilearn.

    Parameters
    ----------
    z_img : Nifti1Image
        z map.
    stat_threshold : float
        z above which voxels form clusters (in both directions).
    cluster_threshold : int
        Smallest cluster listed, in voxels.
    min_distance : float
        Smallest distance between listed peaks of a cluster, in millimetres.

    Returns
    -------
    DataFrame
        Columns of nilearn's ``get_clusters_table``; no row where nothing is above the threshold.
    """
    if not np.abs(z_img.get_fdata()).max() > stat_threshold:
        return pd.DataFrame(columns=list(CLUSTER_COLUMNS))
    table = get_clusters_table(
        z_img,
        stat_threshold=stat_threshold,
        cluster_threshold=cluster_threshold,
        two_sided=True,
        min_distance=min_distance,
    )
    return pd.DataFrame(table)


def true_discoveries(
    z_img: nib.Nifti1Image,
    *,
    mask_img: nib.Nifti1Image,
    threshold: float | list[float] = 3.0,
    alpha: float = 0.05,
) -> nib.Nifti1Image:
    """Bound the share of truly active units of each cluster, with nilearn (one-sided).

    Parameters
    ----------
    z_img, mask_img : Nifti1Image
        z map and the units that were tested.
    threshold : float or list of float
        Cluster-forming thresholds in z.
    alpha : float
        Level of the bound.

    Returns
    -------
    Nifti1Image
        Lower bound of the share, in each voxel of a cluster (Rosenblatt et al. 2018).
    """
    return cluster_level_inference(z_img, mask_img=mask_img, threshold=threshold, alpha=alpha)


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
    image = unmask(p - 1, mask_img)
    return nib.Nifti1Image((image.get_fdata() + 1).astype(np.float32), image.affine)
