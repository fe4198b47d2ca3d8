"""Images on a grid: opening them, reading their voxels, and saying how their grid differs."""

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError

from llm2bids.exceptions import SpaceError

UNREADABLE = (
    *(ImageFileError, HeaderDataError, HeaderTypeError, OrientationError),
    *(OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error),
)
"""What nibabel raises where a file is damaged or no image; MemoryError where it claims a size."""

AFFINE_TOLERANCE = 1e-3
"""Millimetres by which the affine of an image may differ (headers hold float32)."""


def open_image(source: Any, *, name: str | None = None) -> tuple[Any, str]:
    """Open an image and find what to call it in messages.

    Parameters
    ----------
    source : nibabel image or path
        An image in memory or a file.
    name : str, optional
        What to call it; its path, or ``image``, without.

    Returns
    -------
    img : nibabel image
        With axes closest to RAS+ (flipped or permuted axes are undone, without resampling).
    name : str
        For messages.

    Raises
    ------
    SpaceError
        If the file does not exist or is no image, or `source` is neither.
    """
    if hasattr(source, "affine") and hasattr(source, "dataobj"):
        path = source.get_filename() if hasattr(source, "get_filename") else None
        img, name = source, name or str(path or "image")
    elif isinstance(source, str | Path):
        img, name = _load(source), name or str(source)
    else:
        raise SpaceError(
            f"{name or 'image'} is a {type(source).__name__}; expected a path or a nibabel image"
        )
    if len(img.shape) < 3:
        raise SpaceError(f"{name} has shape {img.shape}; expected three axes or more")
    try:
        return nib.as_closest_canonical(img), name
    except (*UNREADABLE, np.linalg.LinAlgError) as error:
        raise SpaceError(
            f"{name} has an affine that is none ({error}): {np.round(img.affine, 3).tolist()}; "
            "expected voxel to world, in millimetres"
        ) from None


def read_voxels(img: Any, *, name: str) -> npt.NDArray[Any]:
    """Read the voxels of an image.

    Parameters
    ----------
    img : nibabel image
        Any image.
    name : str
        What messages call it.

    Returns
    -------
    ndarray
        As stored where nothing is scaled.

    Raises
    ------
    SpaceError
        If the file ends early or is damaged.
    """
    try:
        return np.asanyarray(img.dataobj)
    except UNREADABLE as error:
        raise SpaceError(
            f"{name} is damaged or cut off ({error}); copy or compute it again"
        ) from None


def grid_difference(img: Any, shape: tuple[int, int, int], affine: npt.NDArray[np.float64]) -> str:
    """Say how an image's grid differs from another.

    Parameters
    ----------
    img : nibabel image
        With at least three axes, the closest to RAS+.
    shape : tuple of int
        The grid's shape.
    affine : ndarray of float64, shape (4, 4)
        The grid's affine.

    Returns
    -------
    str
        What differs, in words; empty if nothing does.
    """
    if tuple(img.shape[:3]) != shape:
        return f"its shape is {tuple(img.shape[:3])}, the space's {shape}"
    if not np.allclose(img.affine, affine, rtol=0, atol=AFFINE_TOLERANCE):
        return (
            f"its affine is {np.round(img.affine, 3).tolist()}, "
            f"the space's {np.round(affine, 3).tolist()}"
        )
    return ""


def _load(path: str | Path) -> Any:
    try:
        return nib.load(path)
    except FileNotFoundError:
        raise SpaceError(f"{path} does not exist; expected a NIfTI image") from None
    except UNREADABLE as error:
        raise SpaceError(
            f"{path} cannot be read as an image ({error}); expected .nii or .nii.gz"
        ) from None
