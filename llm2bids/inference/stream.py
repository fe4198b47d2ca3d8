"""Read the volumes of an image once from start to end, a few at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip
from isal.igzip_lib import IsalError
from nilearn.image import get_data, new_img_like, smooth_img

from llm2bids.exceptions import InferenceError
from llm2bids.space.grid import UNREADABLE

Array = npt.NDArray[np.float32]

_DAMAGED = (EOFError, ValueError, OSError, cast(type[Exception], IsalError))


def stream_volumes(bold: Path, *, n_volumes: int = 8) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield the volumes of a NIfTI image in blocks, reading the file once.

    A compressed file is decompressed on the way: memory holds one block, whatever the length.

    Parameters
    ----------
    bold : Path
        ``.nii`` or ``.nii.gz``, four dimensions.
    n_volumes : int
        Volumes in a block.

    Yields
    ------
    tuple of (int, ndarray, shape (n, n_z, n_y, n_x))
        Index of the block's first volume, and the block in file order (its transpose is what
        nibabel gives), in the file's data type, or float32 where the header scales.

    Raises
    ------
    InferenceError
        If the file is missing, no NIfTI image, damaged, or shorter than its header says.
    """
    image = open_image(bold)
    n_x, n_y, n_z, total = image.shape
    proxy = image.dataobj
    size = n_x * n_y * n_z
    opener = igzip.open if bold.suffix == ".gz" else Path.open
    done = 0
    try:
        with opener(bold, "rb") as opened:
            stream = cast(BinaryIO, opened)
            stream.seek(int(proxy.offset))
            while done < total:
                n = min(n_volumes, total - done)
                raw = np.frombuffer(stream.read(n * size * proxy.dtype.itemsize), proxy.dtype)
                if raw.size < n * size:
                    done += raw.size // size
                    raise EOFError
                block = raw.reshape(n, n_z, n_y, n_x)
                if (float(proxy.slope), float(proxy.inter)) != (1.0, 0.0):
                    block = block * np.float32(proxy.slope) + np.float32(proxy.inter)
                yield done, block
                done += n
            while stream.read(1 << 20):  # at the end gzip compares its checksum
                pass
    except _DAMAGED as error:
        raise InferenceError(
            f"{bold}: truncated or damaged, {done} of {total} volumes can be read "
            f"({type(error).__name__}); record the run again"
        ) from None


def open_image(bold: Path) -> nib.Nifti1Image:
    """Open a series of volumes without reading them.

    Parameters
    ----------
    bold : Path
        The image.

    Returns
    -------
    Nifti1Image
        With four dimensions.

    Raises
    ------
    InferenceError
        If the file is missing, no NIfTI image, or has other than four dimensions.
    """
    if not bold.is_file():
        raise InferenceError(
            f"{bold}: no such file; expected the run's image; record the run again"
        )
    try:
        image = nib.load(bold)
    except UNREADABLE as error:
        raise InferenceError(f"{bold}: not a readable NIfTI image ({error})") from None
    if image.ndim != 4:
        raise InferenceError(
            f"{bold}: has {image.ndim} dimensions, expected 4 (a series of volumes)"
        )
    return image


def mask_order(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """List the voxels of a mask in nilearn's order, as indices into a Fortran-ordered volume.

    Parameters
    ----------
    mask : ndarray of bool, shape (n_x, n_y, n_z)
        Voxels to take.

    Returns
    -------
    ndarray of int, shape (n_voxels,)
        ``volume.ravel(order="F")[indices]`` equals ``volume[mask]``.

    Examples
    --------
    >>> volume = np.arange(6).reshape(1, 2, 3)
    >>> mask = volume % 2 == 0
    >>> volume.ravel(order="F")[mask_order(mask)]
    array([0, 2, 4])
    """
    return np.ravel_multi_index(np.nonzero(mask), mask.shape, order="F")


def masked_volumes(
    bold: Path,
    mask: npt.NDArray[np.bool_],
    *,
    smoothing_fwhm: float | None = None,
    n_volumes: int = 8,
) -> Iterator[tuple[int, Array]]:
    """Yield the masked volumes of an image in blocks, smoothed if asked.

    Parameters
    ----------
    bold : Path
        The series of volumes.
    mask : ndarray of bool, shape (n_x, n_y, n_z)
        Voxels to take.
    smoothing_fwhm : float, optional
        Width of a Gaussian kernel in millimetres, applied before masking, as nilearn does.
    n_volumes : int
        Volumes in a block.

    Yields
    ------
    tuple of (int, ndarray of float32, shape (n, n_voxels))
        Index of the block's first volume, and its voxels in nilearn's order.

    Raises
    ------
    InferenceError
        As `stream_volumes`; also if the mask is of another grid.
    """
    image = open_image(bold)
    if image.shape[:3] != mask.shape:
        raise InferenceError(
            f"{bold}: grid {image.shape[:3]}, the mask has {mask.shape}; expected one grid; "
            "give a mask of the same space"
        )
    order = mask_order(mask)
    for start, block in stream_volumes(bold, n_volumes=n_volumes):
        volumes = block if smoothing_fwhm is None else _smoothed(image, block, smoothing_fwhm)
        yield start, volumes.reshape(len(volumes), -1).take(order, axis=1).astype(np.float32)


def _smoothed(image: nib.Nifti1Image, block: npt.NDArray[Any], fwhm: float) -> Array:
    smooth = smooth_img(new_img_like(image, block.T.astype(np.float32)), fwhm)
    return np.asarray(get_data(smooth), dtype=np.float32).T
