"""Tests of a group, with nilearn: participants or prompts of all of them; thresholds, clusters."""

import warnings
from dataclasses import dataclass
from operator import itemgetter
from string import ascii_lowercase
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from nibabel.affines import apply_affine
from nilearn.glm import cluster_level_inference, fdr_threshold
from nilearn.glm.second_level import non_parametric_inference
from nilearn.masking import unmask
from scipy import ndimage, stats

from llm2bids.exceptions import InferenceError
from llm2bids.inference.first_level import t_and_z
from llm2bids.inference.options import HEIGHT_CONTROLS, HeightControl

Floats = npt.NDArray[np.float64]
FloatType = TypeVar("FloatType", np.float32, np.float64)

Grid = npt.NDArray[np.float32]

_MOST_PEAKS = 4
_CHUNK = 128  # permutations in memory

# Standard deviation over mean below which effects are equal but for rounding.
ROUNDING = 1e-6


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
    effects: npt.NDArray[np.floating[Any]], *, mask_img: nib.Nifti1Image, **options: Any
) -> dict[str, nib.Nifti1Image]:
    """Test the mean of effects (n_participants, n_voxels) with sign flips, with nilearn.

    Voxels are in nilearn's order of the mask. Of the flips of n participants ``2 ** (n - 1)``
    differ. `options` and maps are nilearn's: ``logp_max_t`` is always there, `threshold` (a p
    value) adds cluster size and mass, `tfce` its own.
    """
    check_size(len(effects), what="group level")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Data array used to create a new image contains 64-bit")
        outputs = non_parametric_inference(
            [unmask(row, mask_img) for row in effects],
            design_matrix=pd.DataFrame({"intercept": np.ones(len(effects))}),
            second_level_contrast="intercept",
            mask=mask_img,
            **{"two_sided_test": True, "random_state": 0, **options},
        )
    return dict(outputs) if isinstance(outputs, dict) else {"logp_max_t": outputs}


@dataclass(frozen=True, kw_only=True, eq=False)
class PooledTest:
    """Result of the pooled test, all arrays of shape (n_units,)."""

    # mean of on minus mean of off within participant, averaged with the weights of least squares
    effect: Floats
    t: Floats  # t with one intercept for each participant
    # Cohen's d: effect over the standard deviation of prompts within participant and condition
    d: Floats
    # two-sided permutation p of each unit, uncorrected (with `n_perm` draws, at least 1 / (n_perm
    # + 1))
    p: Floats
    # two-sided p corrected for the family of units, from the largest abs(t) of each permutation
    p_fwe: Floats
    max_t: Floats  # (n_perm,): Largest abs(t) over the units in each permutation
    dof: int  # degrees of freedom of `t`

    def threshold(self, alpha: float = 0.05) -> float:
        """Give the abs(t) above which a unit is significant, family-wise."""
        ranked = np.sort(self.max_t)[::-1]
        allowed = int(np.floor(alpha * (ranked.size + 1) + 1e-9)) - 1
        return float(np.inf if allowed < 0 else ranked[min(allowed, ranked.size - 1)])


def pooled_test(
    values: npt.NDArray[np.floating[Any]],
    on: npt.NDArray[np.bool_],
    participants: npt.NDArray[Any],
    *,
    n_perm: int = 1000,
    random_state: int | None = 0,
) -> PooledTest:
    """Compare on and off prompts over all participants, permuting labels within participant.

    Exact under the null that a prompt's label does not matter within its participant, so the test
    generalises over prompts (for these participants), not over participants (Winkler et al. 2014,
    Permutation inference for the general linear model, NeuroImage 92; Phipson and Smyth 2010,
    Permutation p-values should never be zero, SAGMB 9).

    Shapes: values (n_prompts, n_units), on (n_prompts,), participants (n_prompts,).
    """
    dof = _check_labels(on, participants)
    design = _within(on.astype(np.float64), participants)
    centred = _within(np.asarray(values, dtype=np.float32), participants)
    norm = np.sqrt(np.einsum("tv,tv->v", centred, centred, dtype=np.float64))
    still = norm == 0
    centred /= np.where(still, 1, norm).astype(np.float32)
    weight = float(np.sqrt(design @ design))

    observed = (design / weight).astype(np.float32) @ centred
    rng = np.random.default_rng(random_state)
    max_r: Floats = np.zeros(n_perm)
    exceed = np.zeros(observed.size, dtype=np.int64)
    for start in range(0, n_perm, _CHUNK):
        n = min(_CHUNK, n_perm - start)
        shuffled = np.stack([_shuffled(design, participants, rng) for _ in range(n)])
        null = np.abs((shuffled / weight).astype(np.float32) @ centred)
        max_r[start : start + n] = null.max(axis=1)
        exceed += (null >= np.abs(observed) - 1e-6).sum(axis=0)

    r: Floats = np.where(still, 0, observed).astype(np.float64)
    t = _t_of_r(r, dof)
    effect = r * norm / weight
    sd = np.sqrt(np.maximum(norm**2 * (1 - r**2), 0) / dof)
    max_t = _t_of_r(max_r, dof)
    larger = n_perm - np.searchsorted(np.sort(max_t), np.abs(t) - 1e-5, side="left")
    return PooledTest(
        effect=effect,
        t=t,
        d=np.divide(effect, sd, out=np.zeros_like(effect), where=sd > 0),
        p=np.where(still, 1, (exceed + 1) / (n_perm + 1)),
        p_fwe=np.where(still, 1, (larger + 1) / (n_perm + 1)),
        max_t=max_t,
        dof=dof,
    )


def _check_labels(on: npt.NDArray[np.bool_], participants: npt.NDArray[Any]) -> int:
    """Refuse what cannot be compared; give the degrees of freedom."""
    labels = np.unique(participants)
    for label in labels:
        chosen = on[participants == label]
        if chosen.all() or not chosen.any():
            raise InferenceError(
                f"pooled test: participant {label} has {int(chosen.sum())} on and "
                f"{int((~chosen).sum())} off prompts; expected both; leave the participant out"
            )
    dof = on.size - labels.size - 1
    if dof < 1:
        raise InferenceError(
            f"pooled test: {on.size} prompts of {labels.size} participants leave no residual; "
            "record more prompts per block"
        )
    return dof


def _within(
    values: npt.NDArray[FloatType], participants: npt.NDArray[Any]
) -> npt.NDArray[FloatType]:
    centred = values.copy()
    for label in np.unique(participants):
        rows = participants == label
        centred[rows] -= centred[rows].mean(axis=0, dtype=np.float64).astype(values.dtype)
    return centred


def _shuffled(design: Floats, participants: npt.NDArray[Any], rng: np.random.Generator) -> Floats:
    shuffled = np.empty_like(design)
    for label in np.unique(participants):
        rows = np.flatnonzero(participants == label)
        shuffled[rows] = design[rng.permutation(rows)]
    return shuffled


def _t_of_r(r: Floats, dof: int) -> Floats:
    r = np.clip(r, -1, 1)
    return np.asarray(r * np.sqrt(dof / np.maximum(1 - r**2, 1e-12)))


def height_threshold(
    z: npt.NDArray[np.floating[Any]], *, alpha: float = 0.05, height_control: HeightControl = "fdr"
) -> float:
    """Give the two-sided threshold of z (n_units,), as nilearn's `threshold_stats_img` does.

    >>> round(height_threshold(np.zeros(9), height_control="fpr"), 2)
    1.96
    """
    if height_control == "fdr":
        return float(fdr_threshold(np.abs(z), alpha / 2))
    return float(stats.norm.isf(alpha / 2 / (1 if height_control == "fpr" else z.size)))


def thresholds(
    z: npt.NDArray[np.floating[Any]], *, alpha: float = 0.05
) -> dict[str, dict[str, float | int | None]]:
    """Find the two-sided threshold of z (n_units,) of every height control, and the units above it.

    >>> thresholds(np.zeros(9))["fdr"]
    {'z': None, 'n_units': 0}
    """
    above: dict[str, dict[str, float | int | None]] = {}
    for control in HEIGHT_CONTROLS:
        threshold = height_threshold(z, alpha=alpha, height_control=control)
        n_units = int((np.abs(z) >= threshold).sum())
        above[control] = {"z": threshold if np.isfinite(threshold) else None, "n_units": n_units}
    return above


def cluster(
    grid: Grid,
    affine: npt.NDArray[np.float64],
    threshold: float,
    cluster_threshold: int = 0,
    min_distance: float = 8.0,
) -> tuple[Grid, pd.DataFrame]:
    """Keep the clusters above and below in a map (n_x, n_y, n_z), and list them and their peaks.

    As nilearn's `threshold_stats_img` and `get_clusters_table`, whose loops visit the whole grid
    for every cluster (80 s for a map of 254,592 units), and make images of thousands of them.
    """
    kept = np.zeros_like(grid)
    clusters: list[tuple[int, tuple[slice, ...], npt.NDArray[np.bool_]]] = []
    for sign in (1, -1):
        labels, _ = ndimage.label(sign * grid >= threshold)
        sizes, boxes = np.bincount(labels.ravel()), ndimage.find_objects(labels)
        large = (sizes >= cluster_threshold) & (np.arange(sizes.size) > 0)
        kept[large[labels]] = grid[large[labels]]
        for label in np.flatnonzero(large).tolist():
            box = boxes[label - 1]
            clusters.append((int(sizes[label]), box, labels[box] == label))
    clusters.sort(key=itemgetter(0), reverse=True)
    rows: list[tuple[str, float, float, float, float, int | str]] = []
    volume = abs(np.linalg.det(affine[:3, :3]))
    for number, (n_voxels, box, inside) in enumerate(clusters, start=1):
        corner = np.array([axis.start for axis in box])
        peaks = _peaks(grid[box], inside, affine, min_distance)
        for letter, peak in zip(("", *ascii_lowercase), peaks[:_MOST_PEAKS], strict=False):
            x, y, z = apply_affine(affine, corner + peak)
            height = float(grid[tuple(corner + peak)])
            size = "" if letter else round(n_voxels * volume)
            rows.append((f"{number}{letter}", x, y, z, height, size))
    columns = ["Cluster ID", "X", "Y", "Z", "Peak Stat", "Cluster Size (mm3)"]
    return kept, pd.DataFrame(rows, columns=columns)


def _peaks(
    values: Grid, inside: npt.NDArray[np.bool_], affine: npt.NDArray[np.float64], distance: float
) -> npt.NDArray[np.intp]:
    """Find the local maxima of |values| in a cluster, (n_peaks, 3), highest first, apart in mm.

    As nilearn has it: a plateau is one peak, and of peaks the last one kept says who is too near.
    """
    height = np.pad(np.where(inside, np.abs(values), 0), 1)
    highest = ndimage.maximum_filter(height, 3)
    marked = (height == highest) & (height > 0)
    if not np.isclose(height.max(), height[height > 0].min()):
        marked &= highest > ndimage.minimum_filter(height, 3)
    labels, n_peaks = ndimage.label(marked)
    numbers = np.arange(1, n_peaks + 1)
    peaks = np.rint(ndimage.center_of_mass(height, labels, numbers)).astype(np.intp)
    for index in np.flatnonzero(labels[tuple(peaks.T)] != numbers):  # beside a bent plateau
        plateau = np.argwhere(labels == index + 1)
        nearest = np.linalg.norm(plateau - peaks[index], axis=1).argmin()
        peaks[index] = plateau[nearest]
    peaks = peaks[np.argsort(-height[tuple(peaks.T)])]
    at = apply_affine(affine, peaks)
    kept = [np.intp(0)]
    for index in np.arange(1, len(peaks)):
        if np.linalg.norm(at[index] - at[kept[-1]]) > distance:
            kept.append(index)
    return peaks[kept] - 1


def true_discoveries(z_img: nib.Nifti1Image, **options: Any) -> nib.Nifti1Image:
    """Bound the share of truly active units of each cluster, with nilearn (one-sided)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*From nilearn version", FutureWarning)
        return cluster_level_inference(z_img, **options)
