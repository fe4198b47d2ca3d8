"""The masked volumes of a series, a few at a time, smoothed if asked."""

from collections.abc import Iterator
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nilearn.image import smooth_img

from llm2bids.exceptions import InferenceError
from llm2bids.space.grid import GridImage, open_image


def masked_volumes(
    series: GridImage,
    mask: npt.NDArray[np.bool_],
    *,
    smoothing_fwhm: float | None = None,
    n_volumes: int = 8,
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield the first volume's index and a block (n, n_voxels) in nilearn's order of the mask."""
    if series.shape[:3] != mask.shape:
        raise InferenceError(
            f"{series.label}: grid {series.shape[:3]}, the mask has {mask.shape}; expected one "
            "grid; give a mask of the same space"
        )
    if smoothing_fwhm is None:
        for start, values in series.masked(mask, n_volumes):
            yield start, values.astype(np.float32)
        return
    for start, block in series.blocks(n_volumes):
        volumes = smoothed(block.T.astype(np.float32), series.affine, smoothing_fwhm)
        yield start, np.asarray(volumes[mask].T, dtype=np.float32)


def smoothed(
    volumes: npt.NDArray[np.floating[Any]], affine: npt.NDArray[np.float64], fwhm: float
) -> npt.NDArray[Any]:
    """Smooth volumes (n_x, n_y, n_z, n) with nilearn, `fwhm` in millimetres, before masking."""
    return open_image(smooth_img(nib.Nifti1Image(volumes, affine), fwhm)).read()
