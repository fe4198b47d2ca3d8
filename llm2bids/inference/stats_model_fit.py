"""Running a BIDS Stats Model: runs are streamed, maps of higher nodes come from their files."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from nilearn.masking import compute_epi_mask
from scipy import stats
from tqdm import tqdm

from llm2bids.dataset.bids_filter import filtered_files, read_bids_filter
from llm2bids.dataset.layout import DERIVATIVE, sidecar
from llm2bids.dataset.volumes import volume_writer
from llm2bids.exceptions import InferenceError, UsageError
from llm2bids.inference.first_level import F_STATS, TOKEN_CAUTION, fit_first_level, t_and_z
from llm2bids.inference.options import Memory, Processors, StatsModelOptions
from llm2bids.inference.series import block_edges, transposed, unit_volumes
from llm2bids.inference.statmap import software, start_output, write_json
from llm2bids.inference.stats_model import LEVELS, StatsModel, read_stats_model
from llm2bids.inference.stats_model_plan import (
    SERIES,
    Estimate,
    ModelContrast,
    open_layout,
    plan_estimates,
)
from llm2bids.options import split_options, takes_options
from llm2bids.space.grid import GridImage, open_image
from llm2bids.space.header import read_fingerprint
from llm2bids.store.commit import replace_text
from llm2bids.store.json import read_json, to_json
from llm2bids.store.tables import write_table

log = logging.getLogger(__name__)

MODEL_COPY = "model_smdl.json"
"""The model that a folder holds results of."""

_MEM_GB = 0.1
"""Memory of a block of voxels where nothing is said: larger ones are hardly faster."""

_DESCRIPTIONS = {
    "effect": "Contrast of parameter estimates.",
    "variance": "Variance of the contrast.",
    "t": "Student's t of the contrast.",
    "F": "F of the contrast.",
    "z": "z of the contrast's test.",
    "p": "One-sided p of the contrast's test, of increases where it is a t test.",
}


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """What a Stats Model's run wrote.

    Parameters
    ----------
    out_dir : Path
        The output folder.
    files : tuple of Path
        Images and tables, relative to it.
    """

    out_dir: Path
    files: tuple[Path, ...]


@takes_options(StatsModelOptions, Processors, Memory)
def analyze_model(
    bids_dir: Path | str,
    out_dir: Path | str,
    *,
    level: str = "dataset",
    progress: bool = True,
    **options: Any,
) -> ModelResult:
    """Run a BIDS Stats Model on a dataset and its derivative, ours or of people.

    Its nodes are run up to a level; all that is not computed is refused before anything is fitted.
    Effects are per cent of each voxel's mean, as in FitLins.

    Parameters
    ----------
    bids_dir : Path or str
        The raw dataset.
    out_dir : Path or str
        Output folder, empty, new, or made by an earlier call.
    level : str
        ``run``, ``session``, ``subject`` or ``dataset``: the highest nodes that are run.
    progress : bool
        Show a progress bar on stderr.
    **options
        The options of a model.

    Returns
    -------
    ModelResult
        The files.

    Raises
    ------
    Llm2bidsError
        If the model or the dataset does not fit, or a series cannot be read.
    """
    asked, processors, memory = split_options(options, StatsModelOptions, Processors, Memory)
    if asked.model is None:
        raise UsageError("model: found None, expected the file of a BIDS Stats Model")
    if level not in LEVELS:
        raise UsageError(f"level: found {level!r}, expected one of {', '.join(LEVELS)}")
    bids_dir, out_dir = Path(bids_dir), Path(out_dir)
    model = read_stats_model(Path(asked.model))
    derivatives = _derivatives(bids_dir, asked)
    with open_layout(bids_dir, derivatives) as layout:
        selectors = _selectors(layout, model, asked, bids_dir)
        files = None
        if asked.bids_filter_file is not None:
            filters = read_bids_filter(Path(asked.bids_filter_file))
            chosen = filtered_files(layout, filters, bids_dir, **{**SERIES, **selectors})
            files = [str(path) for path in chosen]
        estimates = plan_estimates(
            layout, model, selectors, files, level=level, drop_missing=asked.drop_missing
        )
    runner = _Runner(
        out_dir=out_dir,
        model=model,
        options=asked,
        memory=memory,
        mem_gb=_MEM_GB if memory.mem_gb is None else memory.mem_gb / processors.n_cpus,
        roots={"raw": bids_dir, **{path.name: path for path in derivatives}},
    )
    _start(out_dir, bids_dir, derivatives[0], model)
    runs = [one for one in estimates if one.series is not None]
    bar = tqdm(total=len(estimates), desc="models", file=sys.stderr, disable=not progress)
    written: list[Path] = []
    with bar:
        jobs = (delayed(runner.run)(one) for one in runs)
        parallel = Parallel(processors.n_cpus, return_as="generator_unordered", max_nbytes=None)
        for paths in parallel(jobs):
            written += paths
            bar.update()
        for one in estimates:
            if one.series is None:
                written += runner.higher(one)
                bar.update()
    return ModelResult(out_dir=out_dir, files=tuple(sorted(written)))


def _derivatives(bids_dir: Path, asked: StatsModelOptions) -> list[Path]:
    """Find the derivatives with the series: named ones, ours, or the only one there is."""
    if asked.derivatives:
        return [Path(path) for path in asked.derivatives]
    if (bids_dir / DERIVATIVE).is_dir():
        return [bids_dir / DERIVATIVE]
    folders = [bids_dir / "derivatives", *sorted((bids_dir / "derivatives").glob("*/"))]
    there = [path for path in folders if (path / "dataset_description.json").is_file()]
    if len(there) != 1:
        names = ", ".join(str(path) for path in there) or "none"
        raise UsageError(
            f"{bids_dir}: found {len(there)} derivatives ({names}); name the one with the "
            "preprocessed series: --derivatives DIR"
        )
    return there


def _selectors(
    layout: Any, model: StatsModel, asked: StatsModelOptions, bids_dir: Path
) -> dict[str, Any]:
    """Choose series by the model's Input and what was asked; each value must be there."""
    selectors: dict[str, list[Any]] = dict(model.inputs)
    for name, values in {
        "subject": _stripped(asked.participant_label, "sub-"),
        "session": _stripped(asked.session_label, "ses-"),
        "task": _stripped(asked.task, "task-"),
        "space": None if asked.space is None else [asked.space],
    }.items():
        if values is not None:
            both = [value for value in values if value in selectors.get(name, values)]
            if not both:
                raise UsageError(
                    f"{name} {', '.join(values)}: the model's Input takes only "
                    f"{', '.join(map(str, selectors[name]))}"
                )
            selectors[name] = both
    for name, values in selectors.items():
        there = layout.get(return_type="id", target=name, **SERIES)
        absent = [str(value) for value in values if value not in there]
        if absent:
            raise UsageError(
                f"{bids_dir}: no desc-preproc series of {name} {', '.join(absent)}; there are "
                f"{', '.join(map(str, there)) or 'none'}"
            )
    if "space" not in selectors:
        spaces = layout.get(return_type="id", target="space", **{**SERIES, **selectors})
        if len(spaces) > 1:
            raise UsageError(
                f"{bids_dir}: series in {len(spaces)} spaces, {', '.join(spaces)}; choose: --space"
            )
        selectors |= {"space": spaces} if spaces else {}
    return selectors


def _stripped(labels: Sequence[str] | None, prefix: str) -> list[str] | None:
    return None if labels is None else [label.removeprefix(prefix) for label in labels]


def _start(out_dir: Path, bids_dir: Path, derivative: Path, model: StatsModel) -> None:
    """Make the output a derivative dataset; results of another model are not mixed in."""
    copy = out_dir / MODEL_COPY
    text = to_json(model.content)
    if copy.exists() and copy.read_text(encoding="utf-8") != text:
        raise UsageError(
            f"{out_dir}: holds results of another model ({MODEL_COPY}); name another folder"
        )
    start_output(out_dir, bids_dir, derivative)
    replace_text(copy, text)


@dataclass(kw_only=True)
class _Runner:
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
        files = [table]
        about: dict[str, Any] = {
            "Sources": [self._uri(estimate.series)],
            "NoiseModel": noise,
            "SmoothingFWHM": self.options.smoothing_fwhm or 0,
        }
        if "SpaceFingerprint" in estimate.metadata:
            about["Caution"] = TOKEN_CAUTION
        for item in estimate.contrasts:
            files += self._write(item, fit.maps, fit.dof, mask, series, about)
        rsquare = estimate.path("statmap.nii.gz", stat="rSquare")
        metadata = {"Description": "Share of variance that the design explains."}
        self._write_map(rsquare, fit.r_squared, mask, series, {**about, **metadata}, estimate)
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
            fit = fit_first_level(
                lambda block: [effects[:, edges[block] : edges[block + 1]]],
                edges,
                [estimate.design],
                weights,
            )
            maps, dof = fit.maps, fit.dof
        about = {"Sources": [f"bids::{item.path('effect')}" for item in estimate.inputs]}
        return [
            path
            for item in estimate.contrasts
            for path in self._write(item, maps, dof, mask, grid, about)
        ]

    def _meta(
        self, estimate: Estimate, effects: npt.NDArray[Any], mask: npt.NDArray[np.bool_], grid: Any
    ) -> tuple[dict[tuple[str, str], npt.NDArray[np.float32]], float]:
        """Take weighted sums of maps, with the variances that the maps have."""
        variances = self._read(estimate, "variance", mask, grid)
        # dof of a sum of independent estimates, as nilearn adds them up
        dof = float(sum(self._dof(item) for item in estimate.inputs))
        solve = np.linalg.pinv(estimate.design.to_numpy(dtype=np.float64))
        maps: dict[tuple[str, str], npt.NDArray[np.float32]] = {}
        for item in estimate.contrasts:
            row = item.weights @ solve
            effect, variance = row @ effects, row**2 @ variances
            t, z, _ = t_and_z(effect, variance, dof)
            still = variance == 0
            for stat, values in {"effect": effect, "variance": variance, "t": t, "z": z}.items():
                maps[item.label, stat] = np.where(still, 0, values).astype(np.float32)
            maps[item.label, "effect"] = effect.astype(np.float32)
        return maps, dof

    def _dof(self, item: ModelContrast) -> float:
        return float(self._sidecar(item)["DegreesOfFreedom"])

    def _sidecar(self, item: ModelContrast) -> dict[str, Any]:
        return read_json(sidecar(self.out_dir / item.path("effect")))

    def _read(
        self, estimate: Estimate, stat: str, mask: npt.NDArray[np.bool_], grid: GridImage
    ) -> npt.NDArray[np.float64]:
        """Read the maps that an estimate takes, (n_maps, n_voxels)."""
        return np.array(
            [
                open_image(self.out_dir / item.path(stat), grid).volume()[mask]
                for item in estimate.inputs
            ],
            dtype=np.float64,
        )

    def _run_mask(self, estimate: Estimate, series: GridImage) -> npt.NDArray[np.bool_]:
        """Read the mask beside a series; nilearn's of its mean where there is none."""
        if estimate.mask is not None:
            mask = open_image(estimate.mask, series).volume() != 0
        else:
            total = np.zeros(series.shape[:3])
            for _, block in series.blocks():
                total += block.sum(axis=0, dtype=np.float64).T
            mean = nib.Nifti1Image(total / series.n_volumes, series.affine)
            mask = np.asarray(compute_epi_mask(mean).dataobj) != 0
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
        about: Mapping[str, Any],
    ) -> list[Path]:
        """Write the maps of a contrast, in FitLins' names of statistics."""
        if item.test == "F":
            values = {stat: maps[item.label, stat] for stat in F_STATS}
        else:
            names = ("effect", "variance") + (("t", "z") if item.test == "t" else ())
            values = {stat: maps[item.label, stat] for stat in names}
            if item.test == "t":  # nilearn's and FitLins': one-sided
                values["p"] = stats.t.sf(values["t"].astype(np.float64), dof).astype(np.float32)
        files = []
        for stat, of_voxels in values.items():
            path = item.path(stat)
            metadata = {
                "Description": _DESCRIPTIONS[stat],
                **about,
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
