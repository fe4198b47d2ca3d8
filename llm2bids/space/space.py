"""A space: the bijection between the units of one model and the voxels of one grid."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site, parse_address
from llm2bids.options import checked
from llm2bids.recording.calibration import EARLIER_COUNTS_PER_SD, Calibration
from llm2bids.space.definition import Layout, read_grid, read_layout, sites_from_table, unit_table
from llm2bids.space.grid import open_image

# Values of the tissue map: background, voxels without a unit, voxels with a unit.
OUTSIDE, WHITE, GREY = 0, 1, 2

# How volumes are stored: calibrated counts rounded to whole numbers, or not rounded.
VolumeDtype = Literal["int16", "float32"]

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
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
    arrangement : {"index", "functional", "random"}
        How units are laid out within each panel.
    model_name : str
        Name of the model that the space belongs to.
    weights_sha256 : str
        Hash of the model's weights.
    layout : Layout, optional
        Method and prompts that the arrangement was learned from; None in index arrangement.
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
    layout: Layout | None = None

    def __repr__(self) -> str:
        return (
            f"Space({self.label}, {self.n_units} units of {len(self.sites)} sites, "
            f"grid {self.shape}, {self.arrangement} arrangement)"
        )

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.voxels)

    @property
    def grey(self) -> BoolArray:
        """Voxels with a unit, shape ``shape``."""
        return np.asarray(self.tissue == GREY)

    @property
    def white(self) -> BoolArray:
        """Voxels of the brain without a unit, shape ``shape``."""
        return np.asarray(self.tissue == WHITE)

    @property
    def brain(self) -> BoolArray:
        """Grey and white matter, shape ``shape``."""
        return np.asarray(self.tissue != OUTSIDE)

    @cached_property
    def site_slices(self) -> dict[str, slice]:
        """Where each site's units are among all units, by module name."""
        stops = np.cumsum([site.width for site in self.sites]).tolist()
        return {
            site.name: slice(stop - site.width, stop)
            for site, stop in zip(self.sites, stops, strict=True)
        }

    @cached_property
    def site_of_unit(self) -> npt.NDArray[np.intp]:
        """Index in `sites` of each unit's site, shape (n_units,)."""
        return np.repeat(np.arange(len(self.sites)), [site.width for site in self.sites])

    @cached_property
    def file_index(self) -> npt.NDArray[np.intp]:
        """Index of each unit in a volume in file order (x fastest), shape (n_units,)."""
        return np.asarray(np.ravel_multi_index(tuple(self.voxels.T), self.shape, order="F"))

    @cached_property
    def brain_box(self) -> tuple[slice, slice, slice]:
        """The box that the brain fills, one slice for each of x, y and z."""
        brain = self.brain
        box = []
        for axis in range(3):
            used = np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))
            box.append(slice(int(used[0]), int(used[-1]) + 1))
        x, y, z = box
        if not brain[x, y, z].all():
            raise SpaceError(
                f"space {self.label}: the brain is not a box; make the space with build_space"
            )
        return x, y, z

    @cached_property
    def unit_of_voxel(self) -> npt.NDArray[np.int32]:
        """Unit (recording order) in each voxel, -1 where there is none; int32, ``shape``."""
        units = np.full(self.shape, -1, dtype=np.int32)
        units[tuple(self.voxels.T)] = np.arange(self.n_units, dtype=np.int32)
        return units

    def unit_at(self, i: int, j: int, k: int) -> int | None:
        """Look up the unit in a voxel: its number in recording order, None where there is none.

        Raises
        ------
        SpaceError
            If the voxel is not on the grid.
        """
        if not all(n in range(size) for n, size in zip((i, j, k), self.shape, strict=True)):
            raise SpaceError(
                f"voxel {(i, j, k)} is not on the grid of space {self.label}, {self.shape}"
            )
        unit = int(self.unit_of_voxel[int(i), int(j), int(k)])
        return None if unit < 0 else unit

    def unit_of(self, address: str) -> int:
        """Look up a unit by its address.

        Parameters
        ----------
        address : str
            E.g. ``model.layers.5.mlp.down_proj[123]``.

        Returns
        -------
        int
            Unit in recording order; ``space.voxels[unit]`` is its voxel.

        Raises
        ------
        ModelError
            If the text is no address.
        SpaceError
            If the space has no such unit.
        """
        name, index = parse_address(address)
        units = self.site_slices.get(name)
        if units is None:
            raise SpaceError(
                f"space {self.label} has no site {name} (of unit {address}); it has "
                f"{len(self.sites)} sites, the first is {self.sites[0].name}"
            )
        if index >= units.stop - units.start:
            raise SpaceError(
                f"unit {address} is not in space {self.label}: {name} has units 0 to "
                f"{units.stop - units.start - 1}"
            )
        return int(units.start) + index

    def address_of(self, unit: int) -> str:
        """Name a unit, given by its number in recording order.

        Raises
        ------
        SpaceError
            If there is no such unit.
        """
        for name, units in self.site_slices.items():
            if unit in range(units.start, units.stop):
                return f"{name}[{int(unit) - units.start}]"
        raise SpaceError(f"space {self.label} has units 0 to {self.n_units - 1}, not {unit}")

    @checked
    def crop(self, sites: str | Sequence[str]) -> "Space":
        """Cut the space down to some sites, on the smallest grid that holds them.

        Images of the part are small enough for decoders and searchlights (`Dataset.image`), and
        `to_units` and `llm2bids.locate` bring its maps back to the model.

        Parameters
        ----------
        sites : str or sequence of str
            Presets (``residual``, ``attention``, ``mlp``) or patterns on names or roles, as in
            ``record --sites``, e.g. ``"model.layers.5.mlp.*"``.

        Returns
        -------
        Space
            The same voxels in millimetres; `grey` is the mask of its units.

        Raises
        ------
        ModelError
            If a pattern matches no site.
        """
        from llm2bids.space.arrange import cropped

        return cropped(self, (sites,) if isinstance(sites, str) else tuple(sites))

    def to_grid(self, values: npt.ArrayLike, *, fill: float = 0) -> npt.NDArray[Any]:
        """Put values of units into volumes.

        Parameters
        ----------
        values : array_like, shape (..., n_units)
            One value for each unit in recording order, e.g. ``(n_tokens, n_units)``.
        fill : float, default=0
            Value of voxels without a unit.

        Returns
        -------
        ndarray, shape (n_x, n_y, n_z, ...)
            Of the same dtype; in file order (x fastest), as images are written.

        Raises
        ------
        SpaceError
            If the last axis is not the units.
        """
        values = np.asarray(values)
        if values.ndim == 0 or values.shape[-1] != self.n_units:
            raise SpaceError(
                f"values have shape {values.shape}; expected (..., {self.n_units}), "
                f"the units of space {self.label} last"
            )
        leading = values.shape[:-1]
        volumes = np.full((*leading[::-1], *self.shape[::-1]), fill, dtype=values.dtype)
        volumes.reshape(*leading[::-1], -1)[..., self.file_index] = np.moveaxis(values.T, 0, -1)
        return volumes.T

    def to_units(self, data: Any, *, name: str | None = None) -> npt.NDArray[Any]:
        """Take the values of units out of an image.

        Parameters
        ----------
        data : nibabel image, path or ndarray, of shape (n_x, n_y, n_z) or with n_volumes last
            An image has to lie on the grid of this space (flipped or permuted axes are undone);
            an array has to have its shape.
        name : str, optional
            What messages call it; its path without.

        Returns
        -------
        ndarray, shape (n_units,) or (n_volumes, n_units)
            Values in recording order.

        Raises
        ------
        SpaceError
            If shape or affine differ, or a file cannot be read.
        """
        if isinstance(data, np.ndarray):
            array, name = data, name or "array"
        else:
            image = open_image(data, self, name=name)
            rows = [values for _, values in image.at(self.voxels)]
            return rows[0][0] if len(image.shape) == 3 else np.concatenate(rows)
        if array.ndim not in (3, 4) or array.shape[:3] != self.shape:
            raise SpaceError(
                f"{name} has shape {array.shape}; space {self.label} needs {self.shape} "
                "or the same with volumes as a fourth axis"
            )
        if array.flags.f_contiguous:
            in_file_order = array.T.reshape(*array.shape[3:], -1)
            return np.asarray(np.take(in_file_order, self.file_index, axis=-1))
        return np.ascontiguousarray(array[tuple(self.voxels.T)].T)

    def check_grid(self, img: Any, *, name: str | None = None) -> None:
        """Refuse an image or path that does not lie on the grid of this space.

        Raises
        ------
        SpaceError
            If shape or affine differ; the message says which, and shows both.
        """
        open_image(img, self, name=name)

    def unit_table(self) -> pd.DataFrame:
        """List all units in recording order.

        Returns
        -------
        DataFrame
            ``address``, ``module``, ``role`` (str), ``layer``, ``head`` (Int64, <NA> where there is
            none), ``unit`` (int64, in the module), ``i``, ``j``, ``k`` (int32, voxel),
            ``x``, ``y``, ``z`` (float64, mm).
        """
        return unit_table(self.sites, self.voxels, self.affine)

    def metadata(self) -> dict[str, Any]:
        """Say in JSON's types what the unit table does not: all that `from_table` needs."""
        return {
            "label": self.label,
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "brain_box": [[axis.start, axis.stop] for axis in self.brain_box],
            "arrangement": self.arrangement,
            "model_name": self.model_name,
            "weights_sha256": self.weights_sha256,
            **({} if self.layout is None else {"layout": self.layout.metadata()}),
            "fingerprint": self.fingerprint(),
        }

    @classmethod
    def from_table(cls, table: pd.DataFrame, metadata: Mapping[str, Any]) -> "Space":
        """Make the space that a unit table and its metadata describe.

        Parameters
        ----------
        table : DataFrame
            As from `Space.unit_table`, rows in the same order.
        metadata : mapping
            As from `Space.metadata`. A fingerprint in it is checked.

        Returns
        -------
        Space
            Equal to the one that wrote them.

        Raises
        ------
        SpaceError
            If the table is no bijection between units and voxels of the grid, metadata lack an
            entry, or the fingerprint does not match.
        """
        sites, voxels = sites_from_table(table)
        shape, box, affine = read_grid(metadata, voxels)
        arrangement = str(metadata["arrangement"])
        tissue = np.zeros(shape, dtype=np.uint8)
        tissue[box] = WHITE
        tissue[tuple(voxels.T)] = GREY
        space = cls(
            label=str(metadata["label"]),
            shape=shape,
            affine=affine,
            sites=sites,
            voxels=voxels,
            tissue=tissue,
            arrangement=arrangement,
            model_name=str(metadata["model_name"]),
            weights_sha256=str(metadata["weights_sha256"]),
            layout=read_layout(arrangement, metadata.get("layout")),
        )
        written = metadata.get("fingerprint")
        if written is not None and written != space.fingerprint():
            raise SpaceError(
                f"unit table and metadata of space {space.label} do not give the fingerprint "
                f"{str(written)[:16]} that was written with them but "
                f"{space.fingerprint()[:16]}; one of them was changed: write them anew"
            )
        return space

    def fingerprint(self, calibration: Calibration | None = None) -> str:
        """Hash what values in this space mean.

        Parameters
        ----------
        calibration : Calibration or None
            That images were scaled with; None for images that are not scaled, e.g. atlases.

        Returns
        -------
        str
            sha256 (64 hexadecimal digits) over weights, sites, arrangement (with the method and
            the prompts that it was learned from), grid, voxels, tissue and calibration. The label
            does not count.
        """
        meaning = {
            "version": 1,
            "weights_sha256": self.weights_sha256,
            "arrangement": self.arrangement,
            "shape": self.shape,
            "affine": self.affine.tolist(),
            "sites": [site.identity() for site in self.sites],
            "calibrated": calibration is not None,
        }
        if self.layout is not None:  # no entry in index arrangement: older datasets have none
            meaning["layout"] = self.layout.metadata()
        if calibration is not None and calibration.counts_per_sd != EARLIER_COUNTS_PER_SD:
            meaning["counts_per_sd"] = calibration.counts_per_sd
        digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.voxels, dtype="<i4").tobytes())
        digest.update(np.ascontiguousarray(self.tissue, dtype="u1").tobytes())
        if calibration is not None:
            for statistic in (calibration.mean, calibration.sd):
                digest.update(np.ascontiguousarray(statistic, dtype="<f4").tobytes())
        return digest.hexdigest()
