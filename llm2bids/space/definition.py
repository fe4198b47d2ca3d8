"""The grid that metadata of a space describe, checked before anything is made of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import SpaceError

MOST_VOXELS = 1000
"""Most voxels for each unit, beside a million: metadata that claim more are refused unread."""

NEEDED = ("label", "shape", "affine", "brain_box", "arrangement", "model_name", "weights_sha256")
"""Entries that metadata of a space must have."""

Shape = tuple[int, int, int]


def read_grid(
    metadata: Mapping[str, Any], *, n_units: int
) -> tuple[Shape, tuple[slice, ...], npt.NDArray[np.float64]]:
    """Read shape, brain box and affine.

    Parameters
    ----------
    metadata : mapping
        As from `llm2bids.space.space.Space.metadata`.
    n_units : int
        Units of the space.

    Returns
    -------
    shape : tuple of int
        The grid.
    box : tuple of slice
        The brain on each axis.
    affine : ndarray of float64, shape (4, 4)
        Voxel to world in millimetres.

    Raises
    ------
    SpaceError
        If an entry is missing, is no number, or no arrangement makes such a grid.
    """
    missing = [key for key in NEEDED if key not in metadata]
    if missing:
        raise SpaceError(f"metadata of the space lack {', '.join(missing)}; write them anew")
    try:
        n_x, n_y, n_z = (int(n) for n in metadata["shape"])
        box = tuple(slice(int(start), int(stop)) for start, stop in metadata["brain_box"])
        affine = np.array(metadata["affine"], dtype=np.float64).reshape(4, 4)
    except (TypeError, ValueError, OverflowError) as error:
        raise SpaceError(
            f"shape, affine or brain_box of space {metadata['label']} are not numbers of a "
            f"three-dimensional grid ({error}); write the metadata anew"
        ) from None
    if min(n_x, n_y, n_z) < 1 or n_x * n_y * n_z > 1_000_000 + MOST_VOXELS * n_units:
        raise SpaceError(
            f"space {metadata['label']} has the grid {(n_x, n_y, n_z)} for {n_units} "
            "units; no arrangement makes that: write the metadata anew"
        )
    if not np.isfinite(affine).all():
        raise SpaceError(
            f"space {metadata['label']} has the affine {affine.tolist()}; expected finite "
            "millimetres: write the metadata anew"
        )
    return (n_x, n_y, n_z), box, affine
