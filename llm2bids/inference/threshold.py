"""Thresholds and clusters of z maps, with nilearn and its parameters' names."""

import warnings
from collections.abc import Iterator
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from nilearn.glm import cluster_level_inference, fdr_threshold, threshold_stats_img
from nilearn.masking import apply_mask, unmask
from nilearn.reporting import get_clusters_table
from scipy import ndimage, stats

from llm2bids.exceptions import InferenceError
from llm2bids.space.grid import open_image

HeightControl = Literal["fpr", "fdr", "bonferroni"]
HEIGHT_CONTROLS: tuple[HeightControl, ...] = ("fpr", "fdr", "bonferroni")

_CLUSTER_COLUMNS = ("Cluster ID", "X", "Y", "Z", "Peak Stat", "Cluster Size (mm3)")


def height_threshold(
    z: npt.NDArray[np.floating[Any]], *, alpha: float = 0.05, height_control: HeightControl = "fdr"
) -> float:
    """Give the two-sided z threshold of a height control, as nilearn's `threshold_stats_img`.

    Shapes: z (n_voxels,).

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

    Shapes: z (n_voxels,).

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
    """Threshold a z map, two-sided, with ``nilearn.glm.threshold_stats_img``."""
    z = apply_mask(z_img, mask_img)
    threshold = height_threshold(z, alpha=alpha, height_control=height_control)
    if not (np.abs(z) >= threshold).any():
        return unmask(np.zeros_like(z), mask_img), threshold
    image, threshold = threshold_stats_img(
        z_img, mask_img=mask_img, alpha=alpha, height_control=height_control, two_sided=True
    )
    opened = open_image(image)
    grid = np.asarray(opened.volume(), dtype=np.float32)
    kept = np.zeros_like(grid)
    for labels, chosen in _clusters(grid, float(threshold), cluster_threshold):
        inside = np.isin(labels, chosen)
        kept[inside] = grid[inside]
    return nib.Nifti1Image(kept, opened.affine), float(threshold)


def cluster_table(
    z_img: nib.Nifti1Image,
    *,
    stat_threshold: float,
    cluster_threshold: int = 10,
    min_distance: float = 8.0,
) -> pd.DataFrame:
    """List the clusters of a z map in both directions, with nilearn.

    Each cluster is given to nilearn on its own, in the order of size: on the whole grid its table
    takes minutes for the hundreds of clusters of our maps.
    """
    image = open_image(z_img)
    grid = np.asarray(image.volume(), dtype=np.float32)
    tables = []
    for labels, chosen in _clusters(grid, stat_threshold, cluster_threshold):
        boxes = ndimage.find_objects(labels)
        for label in chosen:
            box = boxes[label - 1]
            values = np.pad(np.where(labels[box] == label, grid[box], 0), 1)
            corner = np.eye(4)
            corner[:3, 3] = [axis.start - 1 for axis in box]
            piece = nib.Nifti1Image(values, image.affine @ corner)
            tables.append((int((values != 0).sum()), _peaks(piece, stat_threshold, min_distance)))
    tables.sort(key=lambda pair: -pair[0])
    for number, (_, table) in enumerate(tables, start=1):
        letters = table["Cluster ID"].astype(str).str.lstrip("0123456789")
        table["Cluster ID"] = str(number) + letters
    if not tables:
        return pd.DataFrame(columns=list(_CLUSTER_COLUMNS))
    return pd.concat([table for _, table in tables], ignore_index=True)


def _peaks(piece: nib.Nifti1Image, stat_threshold: float, min_distance: float) -> pd.DataFrame:
    """List the peaks of one cluster, cut out with its box, with nilearn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(Attention: )?No clusters found")
        table = get_clusters_table(
            piece, stat_threshold=stat_threshold, two_sided=True, min_distance=min_distance
        )
    return pd.DataFrame(table)


def _clusters(
    grid: npt.NDArray[np.float32], threshold: float, cluster_threshold: int
) -> Iterator[tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.intp]]]:
    """Label the clusters above and below, joined at faces, and choose those large enough.

    nilearn's own loop visits the whole grid for every cluster: 80 s for a map of 254,592 units.
    """
    for sign in (1, -1):
        labels, _ = ndimage.label(sign * grid >= threshold)
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        yield labels, np.flatnonzero(sizes >= max(1, cluster_threshold))


def true_discoveries(
    z_img: nib.Nifti1Image,
    *,
    mask_img: nib.Nifti1Image,
    threshold: float | list[float] = 3.0,
    alpha: float = 0.05,
) -> nib.Nifti1Image:
    """Bound the share of truly active units of each cluster, with nilearn (one-sided)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*From nilearn version", FutureWarning)
        return cluster_level_inference(z_img, mask_img=mask_img, threshold=threshold, alpha=alpha)
