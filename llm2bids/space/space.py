"""A space: the bijection between the units of one model and the voxels of one grid."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from llm2bids.model.units import Site

OUTSIDE, WHITE, GREY = 0, 1, 2
"""Values of the tissue map: background, voxels without a unit, voxels with a unit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """Unit <-> voxel for one model and one choice of sites.

    Parameters
    ----------
    label : str
        BIDS space label (letters and digits), e.g. ``"SmolLM2135M"``.
    shape : tuple of int
        Grid, ``(n_x, n_y, n_z)``.
    affine : ndarray of float64, shape (4, 4)
        Voxel to world, RAS+, millimetres.
    sites : tuple of Site
        Sites in recording order.
    voxels : ndarray of int32, shape (n_units, 3)
        Voxel ``(i, j, k)`` of each unit in recording order.
    tissue : ndarray of uint8, shape ``shape``
        `OUTSIDE`, `WHITE` or `GREY`.
    arrangement : {"index", "functional"} or str
        How units are laid out within each panel.
    model_name : str
        Name of the model that the space belongs to.
    weights_sha256 : str
        Hash of the model's weights.
    """

    label: str
    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    sites: tuple[Site, ...]
    voxels: npt.NDArray[np.int32]
    tissue: npt.NDArray[np.uint8]
    arrangement: str
    model_name: str
    weights_sha256: str


VolumeDtype = Literal["int16", "float32"]
"""How volumes are stored: calibrated counts, or the values themselves without loss."""
