"""Running a BIDS Stats Model: runs are streamed, maps of higher nodes come from their files."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nilearn.masking import compute_epi_mask
from scipy import stats

from llm2bids.dataset.layout import sidecar
from llm2bids.dataset.volumes import volume_writer
from llm2bids.exceptions import InferenceError
from llm2bids.inference.first_level import F_STATS, STATS, TOKEN_CAUTION, fit_first_level, t_and_z
from llm2bids.inference.options import Memory, StatsModelOptions
from llm2bids.inference.runs import block_edges, transposed, unit_volumes
from llm2bids.inference.statmap import software, write_json
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


@dataclass(kw_only=True)
class Runner:
    """What fits estimates and writes their maps."""

    out_dir: Path
    model: StatsModel
    options: StatsModelOptions
    memory: Memory
    mem_gb: float
    roots: Mapping[str, Path]

    def run(self, estimate: Estimate) -> list[Path]:
        """Fit a run block by block."""
        log.debug("%s: %s", estimate.name, estimate.series)
        assert estimate.series is not None
        series = open_image(estimate.series)
        mask = self._run_mask(estimate, series)
        voxels = np.argwhere(mask)
        n_volumes = series.n_volumes
        noise = self.options.noise
        mem_gb = None if noise not in ("ols", "ar1") else self.mem_gb
        edges = block_edges(len(voxels), n_volumes, mem_gb=mem_gb)
        volumes = unit_volumes(series, voxels, smoothing_fwhm=self.options.smoothing_fwhm)
        try:
            with transposed(volumes, edges, n_volumes, work_dir=self.memory.folder) as scratch:
                fit = fit_first_level(
                    lambda block: [_percent(scratch.read(block))],
                    edges,
                    [estimate.design],
                    {item.label: item.weights for item in estimate.contrasts},
                    noise_model=noise,
                )
        except InferenceError as error:
            raise InferenceError(f"{estimate.series}: {error}") from None
        table = estimate.path("design.tsv")
        (self.out_dir / table).parent.mkdir(parents=True, exist_ok=True)
        write_table(self.out_dir / table, estimate.design)
        shared = {
            "Sources": [self._uri(estimate.series)],
            "NoiseModel": noise,
            "SmoothingFWHM": self.options.smoothing_fwhm or 0,
            **({"Caution": TOKEN_CAUTION} if "SpaceFingerprint" in estimate.metadata else {}),
        }
        files = [table]
        for item in estimate.contrasts:
            files += self._write(item, fit.maps, fit.dof, mask, series, shared)
        rsquare = estimate.path("statmap.nii.gz", stat="rSquare")
        metadata = {"Description": "Share of variance that the design explains."}
        self._write_map(rsquare, fit.r_squared, mask, series, {**shared, **metadata}, estimate)
        return [*files, rsquare]

    def higher(self, estimate: Estimate) -> list[Path]:
        """Fit a node's maps, which lie in files by now."""
        log.debug("%s: %d maps", estimate.name, len(estimate.inputs))
        grid = open_image(self.out_dir / estimate.inputs[0].path("effect"))
        mask = np.ones(grid.shape[:3], dtype=np.bool_)
        for run in estimate.runs():
            assert run.series is not None
            mask &= self._run_mask(run, open_image(run.series, grid))
        if not mask.any():
            raise InferenceError(f"{estimate.name}: its maps have no voxel in common")
        effects = self._read(estimate, "effect", mask, grid)
        weights = {item.label: item.weights for item in estimate.contrasts}
        if estimate.meta:
            maps, dof = self._meta(estimate, effects, mask, grid)
        else:
            edges = block_edges(effects.shape[1], len(effects), mem_gb=self.mem_gb)
            blocks = np.split(effects, edges[1:-1], axis=1)
            fit = fit_first_level(lambda n: [blocks[n]], edges, [estimate.design], weights)
            maps, dof = fit.maps, fit.dof
        shared = {"Sources": [f"bids::{item.path('effect')}" for item in estimate.inputs]}
        return [
            path
            for item in estimate.contrasts
            for path in self._write(item, maps, dof, mask, grid, shared)
        ]

    def _meta(
        self, estimate: Estimate, effects: npt.NDArray[Any], mask: npt.NDArray[np.bool_], grid: Any
    ) -> tuple[dict[tuple[str, str], npt.NDArray[np.float32]], float]:
        """Take weighted sums of maps, with the variances that the maps have."""
        variances = self._read(estimate, "variance", mask, grid)
        # dof of a sum of independent estimates, as nilearn adds them up
        effect_maps = [self.out_dir / item.path("effect") for item in estimate.inputs]
        dof = float(sum(read_json(sidecar(path))["DegreesOfFreedom"] for path in effect_maps))
        solve = np.linalg.pinv(estimate.design.to_numpy(dtype=np.float64))
        maps: dict[tuple[str, str], npt.NDArray[np.float32]] = {}
        for item in estimate.contrasts:
            row = item.weights @ solve
            effect, variance = row @ effects, row**2 @ variances
            t, z, _ = t_and_z(effect, variance, dof)
            t, z = (np.where(variance == 0, 0, values) for values in (t, z))
            for stat, values in zip(STATS, (effect, variance, t, z), strict=True):
                maps[item.label, stat] = values.astype(np.float32)
        return maps, dof

    def _read(
        self, estimate: Estimate, stat: str, mask: npt.NDArray[np.bool_], grid: GridImage
    ) -> npt.NDArray[np.float64]:
        """Read the maps that an estimate takes, (n_maps, n_voxels)."""
        images = [open_image(self.out_dir / item.path(stat), grid) for item in estimate.inputs]
        return np.array([image.volume()[mask] for image in images], dtype=np.float64)

    def _run_mask(self, estimate: Estimate, series: GridImage) -> npt.NDArray[np.bool_]:
        """Read the mask beside a series; nilearn's of its mean where there is none."""
        if estimate.mask is not None:
            mask = open_image(estimate.mask, series).volume() != 0
        else:
            total = np.zeros(series.shape[:3])
            for _, block in series.blocks():
                total += block.sum(axis=0, dtype=np.float64).T
            mean = nib.Nifti1Image(total / series.n_volumes, series.affine)
            mask = open_image(compute_epi_mask(mean), series).volume() != 0
        if not mask.any():
            raise InferenceError(f"{estimate.mask or estimate.series}: the mask is empty")
        return np.asarray(mask)

    def _write(
        self,
        item: ModelContrast,
        maps: Mapping[tuple[str, str], npt.NDArray[np.float32]],
        dof: float,
        mask: npt.NDArray[np.bool_],
        grid: GridImage,
        shared: Mapping[str, Any],
    ) -> list[Path]:
        """Write the maps of a contrast, in FitLins' names of statistics."""
        names = {"F": F_STATS, "t": STATS}.get(item.test, ("effect", "variance"))
        values = {stat: maps[item.label, stat] for stat in names}
        if item.test == "t":  # nilearn's and FitLins': one-sided
            values["p"] = stats.t.sf(values["t"].astype(np.float64), dof).astype(np.float32)
        files = []
        for stat, of_voxels in values.items():
            path = item.path(stat)
            metadata = {
                "Description": _DESCRIPTIONS[stat],
                **shared,
                "Contrast": item.info.name,
                "ConditionList": list(map(str, item.estimate.design.columns)),
                "Weights": item.weights.tolist(),
                "Test": item.test,
                "StatisticType": stat,
                "DegreesOfFreedom": dof,
            }
            self._write_map(path, of_voxels, mask, grid, metadata, item.estimate)
            files.append(path)
        return files

    def _write_map(
        self,
        path: Path,
        values: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        grid: GridImage,
        metadata: Mapping[str, Any],
        estimate: Estimate,
    ) -> None:
        """Write a map on the grid of its series, with the fingerprint of its space."""
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
        data[mask] = values
        target = self.out_dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with volume_writer(target, header) as writer:
            writer.write(data)
        passed_on = ("SpatialReference", "SpaceLabel", "SpaceFingerprint")
        write_json(
            sidecar(target),
            {
                **metadata,
                "Model": self.model.name,
                "ModelType": "meta" if estimate.meta else "glm",
                "Level": estimate.level,
                **{key: estimate.metadata[key] for key in passed_on if key in estimate.metadata},
                "Software": software(),
            },
        )

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
