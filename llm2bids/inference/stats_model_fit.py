"""Running a BIDS Stats Model: runs are streamed, maps of higher nodes come from their files."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nilearn.masking import compute_epi_mask
from scipy import stats

from llm2bids.dataset.layout import sidecar
from llm2bids.exceptions import InferenceError
from llm2bids.inference.first_level import (
    F_STATS,
    STATS,
    FirstLevelFit,
    ReadBlock,
    fit_first_level,
    t_and_z,
)
from llm2bids.inference.options import StatsModelOptions
from llm2bids.inference.runs import block_edges, transposed, unit_volumes
from llm2bids.inference.statmap import sentence, software, write_grid
from llm2bids.inference.stats_model import StatsModel
from llm2bids.inference.stats_model_plan import Estimate, ModelContrast
from llm2bids.space.grid import GridImage, open_image
from llm2bids.space.header import read_fingerprint
from llm2bids.store.json import read_json
from llm2bids.store.tables import write_table

log = logging.getLogger(__name__)

_DESCRIPTIONS = {
    "effect": "Contrast of parameter estimates.",
    "variance": "Variance of the contrast.",
    "t": "Student's t of the contrast.",
    "F": "F of the contrast.",
    "z": "z of the contrast's test.",
    "p": "One-sided p of the contrast's test, of increases where it is a t test.",
}


# By label of the contrast and statistic, (n_voxels,).
Maps = dict[tuple[str, str], npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """The fit of one estimate, whose maps it writes."""

    estimate: Estimate
    out_dir: Path
    model: StatsModel
    options: StatsModelOptions
    work_dir: Path | None
    mem_gb: float
    roots: Mapping[str, Path]

    @cached_property
    def grid(self) -> GridImage:
        """The image on whose grid the maps are: the run's series, or the first map taken."""
        series = self.estimate.series
        return open_image(series or self.out_dir / self.estimate.inputs[0].path("effect"))

    @cached_property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Voxels that all runs have, (n_x, n_y, n_z)."""
        mask = np.logical_and.reduce([self._run_mask(run) for run in self.estimate.runs()])
        if not mask.any():
            raise InferenceError(f"{self.estimate.name}: its maps have no voxel in common")
        return np.asarray(mask)

    def write(self) -> list[Path]:
        """Fit a run, or a node's maps, which lie in files by now."""
        estimate, shared = self.estimate, dict[str, Any]()
        files: list[Path] = []
        log.debug("%s: %s", estimate.name, estimate.series or f"{len(estimate.inputs)} maps")
        if estimate.series is None:
            maps, dof = self._meta() if estimate.meta else self._fit_maps()
            shared = {"Sources": [f"bids::{item.path('effect')}" for item in estimate.inputs]}
        else:
            maps, dof = self._fit_series()
            table = estimate.path("design.tsv")
            (self.out_dir / table).parent.mkdir(parents=True, exist_ok=True)
            write_table(self.out_dir / table, estimate.design)
            ours = "SpaceFingerprint" in estimate.metadata
            shared = {
                "Sources": [self._uri(estimate.series)],
                "NoiseModel": self.options.noise,
                "SmoothingFWHM": self.options.smoothing_fwhm or 0,
                **({"Caution": sentence("tokens")} if ours else {}),
            }
            rsquare = estimate.path("statmap.nii.gz", stat="rSquare")
            description = {"Description": "Share of variance that the design explains."}
            self._write_map(rsquare, maps["", "rSquare"], {**shared, **description})
            files = [table, rsquare]
        for item in estimate.contrasts:
            files += self._write_contrast(item, maps, dof, shared)
        return files

    def _fit_series(self) -> tuple[Maps, float]:
        """Fit a run's series block by block."""
        series, noise, voxels = self.grid, self.options.noise, np.argwhere(self.mask)
        mem_gb = None if noise not in ("ols", "ar1") else self.mem_gb
        edges = block_edges(len(voxels), series.n_volumes, mem_gb=mem_gb)
        volumes = unit_volumes(series, voxels, smoothing_fwhm=self.options.smoothing_fwhm)
        try:
            with transposed(volumes, edges, series.n_volumes, work_dir=self.work_dir) as read:
                fit = self._fit_blocks(lambda block: [_percent(read(block))], edges, noise)
        except InferenceError as error:
            raise InferenceError(f"{self.estimate.series}: {error}") from None
        return {**fit.maps, ("", "rSquare"): fit.r_squared}, fit.dof

    def _fit_maps(self) -> tuple[Maps, float]:
        """Fit the maps that an estimate takes."""
        effects = self._read("effect")
        edges = block_edges(effects.shape[1], len(effects), mem_gb=self.mem_gb)
        blocks = np.split(effects, edges[1:-1], axis=1)
        fit = self._fit_blocks(lambda block: [blocks[block]], edges)
        return fit.maps, fit.dof

    def _fit_blocks(
        self, read_block: ReadBlock, edges: npt.NDArray[np.intp], noise_model: str = "ols"
    ) -> FirstLevelFit:
        weights = {item.label: item.weights for item in self.estimate.contrasts}
        designs = [self.estimate.design]
        return fit_first_level(read_block, edges, designs, weights, noise_model=noise_model)

    def _meta(self) -> tuple[Maps, float]:
        """Take weighted sums of maps, with the variances that the maps have."""
        effects, variances = self._read("effect"), self._read("variance")
        # dof of a sum of independent estimates, as nilearn adds them up
        paths = [self.out_dir / item.path("effect") for item in self.estimate.inputs]
        dof = float(sum(read_json(sidecar(path))["DegreesOfFreedom"] for path in paths))
        solve = np.linalg.pinv(self.estimate.design.to_numpy(dtype=np.float64))
        maps: Maps = {}
        for item in self.estimate.contrasts:
            row = item.weights @ solve
            effect, variance = row @ effects, row**2 @ variances
            t, z, _ = t_and_z(effect, variance, dof)
            t, z = (np.where(variance == 0, 0, values) for values in (t, z))
            for stat, values in zip(STATS, (effect, variance, t, z), strict=True):
                maps[item.label, stat] = values.astype(np.float32)
        return maps, dof

    def _read(self, stat: str) -> npt.NDArray[np.float64]:
        """Read the maps that an estimate takes, (n_maps, n_voxels)."""
        paths = [self.out_dir / item.path(stat) for item in self.estimate.inputs]
        images = [open_image(path, self.grid) for path in paths]
        return np.array([image.volume()[self.mask] for image in images], dtype=np.float64)

    def _run_mask(self, run: Estimate) -> npt.NDArray[np.bool_]:
        """Read the mask beside a series; nilearn's of its mean where there is none."""
        assert run.series is not None
        series = open_image(run.series, self.grid)
        if run.mask is not None:
            mask = open_image(run.mask, series).volume() != 0
        else:
            total = np.zeros(series.shape[:3])
            for _, block in series.blocks():
                total += block.sum(axis=0, dtype=np.float64).T
            mean = nib.Nifti1Image(total / series.n_volumes, series.affine)
            mask = open_image(compute_epi_mask(mean), series).volume() != 0
        if not mask.any():
            raise InferenceError(f"{run.mask or run.series}: the mask is empty")
        return np.asarray(mask)

    def _write_contrast(
        self, item: ModelContrast, maps: Maps, dof: float, shared: Mapping[str, Any]
    ) -> list[Path]:
        """Write the maps of a contrast, in FitLins' names of statistics."""
        names = {"F": F_STATS, "t": STATS}.get(item.test, ("effect", "variance"))
        values = {stat: maps[item.label, stat] for stat in names}
        if item.test == "t":  # nilearn's and FitLins': one-sided
            values["p"] = stats.t.sf(values["t"].astype(np.float64), dof).astype(np.float32)
        for stat, of_voxels in values.items():
            metadata = {
                "Description": _DESCRIPTIONS[stat],
                **shared,
                "Contrast": item.info.name,
                "ConditionList": list(map(str, self.estimate.design.columns)),
                "Weights": item.weights.tolist(),
                "Test": item.test,
                "StatisticType": stat,
                "DegreesOfFreedom": dof,
            }
            self._write_map(item.path(stat), of_voxels, metadata)
        return [item.path(stat) for stat in values]

    def _write_map(
        self, path: Path, values: npt.NDArray[np.float32], metadata: Mapping[str, Any]
    ) -> None:
        """Write a map on the grid of its series, with the fingerprint of its space."""
        grid = self.grid
        header = nib.Nifti1Header(endianness="<")
        header.set_data_dtype(np.dtype("<f4"))
        header.set_data_shape(grid.shape[:3])
        for name in ("qform", "sform"):
            code = int(grid.header[f"{name}_code"]) if f"{name}_code" in grid.header else 1
            getattr(header, f"set_{name}")(grid.affine, code=code or 1)
        header.set_xyzt_units("mm", "sec")
        header["vox_offset"] = 352
        if read_fingerprint(grid.header) is not None:
            header["descrip"] = grid.header["descrip"]
        data = np.full(grid.shape[:3], 1 if "_stat-p_" in path.name else 0, np.float32, order="F")
        data[self.mask] = values
        of_series = self.estimate.metadata
        passed_on = ("SpatialReference", "SpaceLabel", "SpaceFingerprint")
        entries = {
            **metadata,
            "Model": self.model.content["Name"],
            "ModelType": "meta" if self.estimate.meta else "glm",
            "Level": self.estimate.level,
            **{key: of_series[key] for key in passed_on if key in of_series},
            "Software": software(),
        }
        write_grid(self.out_dir / path, data, header, entries)

    def _uri(self, path: Path) -> str:
        """Name a file of a dataset by BIDS' own address."""
        for name, root in reversed(list(self.roots.items())):
            if path.is_relative_to(root.absolute()):
                return f"bids:{name}:{path.relative_to(root.absolute()).as_posix()}"
        return path.as_posix()


def _percent(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Scale a block (n_volumes, n_voxels) to per cent of each voxel's mean, as nilearn does."""
    series = values.astype(np.float64)
    return np.asarray(100 * (series / np.maximum(series.mean(axis=0), 1) - 1))
