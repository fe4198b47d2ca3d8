"""Layer values as the files that encoding toolkits read, from what is on disk."""

import importlib.util
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import netcdf_file

from llm2bids.comparison.means import Float32, deviations
from llm2bids.dataset.layout import Run
from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.dataset.settings import results_folder
from llm2bids.exceptions import UsageError
from llm2bids.model.units import Site
from llm2bids.options import Options, option, split_options, takes_options
from llm2bids.space.arrange import chosen_sites

Float64 = npt.NDArray[np.float64]

FORMATS = ("hdf5", "npz", "neuroid")

_option = partial(option, group="features")


def _numbers(text: str) -> tuple[int, ...]:
    """Read ``--delays``: whole numbers with commas."""
    try:
        return tuple(int(part) for part in text.split(",")) if text != "none" else ()
    except ValueError:
        raise UsageError(
            f"--delays {text}: expected whole numbers of volumes, as 1,2,3,4"
        ) from None


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(Options):
    """What is taken out of a dataset, and in which form."""

    format: str = _option(
        "hdf5",
        "--format",
        "hdf5: a file for each run, an array for each module (himalaya, voxelwise tutorials); npz: "
        "a file for each module, an array for each run (the dictionaries of the Huth lab and of "
        "litcoder); neuroid: a file for each run, as brain-score's NeuroidAssembly",
        choices=FORMATS,
    )
    sites: Sequence[str] = _option(
        ("all",),
        "--sites PATTERN",
        "modules: all, residual, attention, mlp, a pattern on module names, or ! and any of these; "
        "repeatable, or with commas",
        shown="all",
        action="append",
    )
    task: str | None = _option(None, "--task LABEL", "only this task (story)", shown="all")
    participant_label: Sequence[str] | None = _option(
        None,
        "--participant-label LABEL",
        "only this participant; repeatable",
        shown="all",
        action="append",
    )
    delays: Sequence[int] = _option(
        (),
        "--delays N,N",
        "put delayed copies side by side, in volumes: 1,2,3,4",
        shown="none",
        parse=_numbers,
        least=0,
    )
    pca: int | None = _option(
        None,
        "--pca K",
        "principal components of each module, of all runs together",
        shown="none",
        least=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format == "neuroid" and self.delays:
            raise UsageError(
                "--format neuroid: its neuroids are units; expected it without --delays"
            )
        if len(set(self.delays)) < len(self.delays):
            raise UsageError(
                f"--delays {','.join(map(str, self.delays))}: expected different numbers"
            )


@takes_options(FeatureOptions)
def features(bids_dir: str | Path, out_dir: str | Path, **options: Any) -> tuple[Path, ...]:
    """Write layer values as the files that encoding toolkits read.

    Parameters
    ----------
    bids_dir : str or Path
        A dataset of ours; nothing is scanned again.
    out_dir : str or Path
        Folder to write to; files of these names in it are replaced.
    **options
        What is taken, and in which form.

    Returns
    -------
    tuple of Path
        The files.

    Raises
    ------
    DatasetError, ModelError, UsageError
        If the dataset or an option is not usable, or a package that writes the format is missing.

    Notes
    -----
    Each module is an array of float32, shape (n_volumes, n_units), in standard deviations from the
    mean of the resting scan. Beside them stand the confounds of the run (``word_rate`` and others,
    shape (n_volumes, 1)) and ``tr_times``, the time in seconds that each volume stands for.
    """
    (asked,) = split_options(options, FeatureOptions)
    if asked.format == "hdf5" and importlib.util.find_spec("h5py") is None:
        raise UsageError("--format hdf5 needs h5py: pip install 'llm2bids[features]'")
    dataset, out = open_dataset(bids_dir), results_folder(out_dir)
    runs = dataset.select(participant_label=asked.participant_label, task=asked.task)
    sites = chosen_sites(dataset.space, asked.sites)
    components = _components(dataset, runs, sites, asked.pca) if asked.pca else {}
    out.mkdir(parents=True, exist_ok=True)
    written: dict[Path, None] = {}
    for run in runs:
        layers = site_values(dataset, run, sites)
        for name, (mean, axes) in components.items():
            layers[name] = ((layers[name] - mean) @ axes).astype(np.float32)
        confounds = dataset.confounds(run).astype(np.float32)
        tables = layers | {str(name): confounds[[name]].to_numpy() for name in confounds}
        tables = {name: delayed(table, asked.delays) for name, table in tables.items()}
        times = volume_times(dataset, run)
        if asked.format == "hdf5":
            files = [_write_hdf5(out / f"{run.name}.hdf5", tables, times)]
        elif asked.format == "npz":
            arrays: dict[str, npt.NDArray[Any]] = {**tables, "tr_times": times}
            files = [
                _append_npz(out / f"{name}.npz", run.name, array, new=run is runs[0])
                for name, array in arrays.items()
            ]
        else:
            files = [_write_neuroid(out / f"{run.name}.nc", dataset, run, layers, times)]
        written |= dict.fromkeys(files)
    return tuple(written)


def site_values(dataset: Dataset, run: Run, sites: Sequence[Site]) -> dict[str, Float32]:
    """Read modules of a run, each (n_volumes, n_units), in sd from the calibration's mean."""
    parts = dataset.space.site_slices
    n_volumes = dataset.open_series(run).n_volumes
    tables = {site.name: np.empty((n_volumes, site.width), dtype=np.float32) for site in sites}
    for start, values in deviations(dataset, run):
        for name, table in tables.items():
            table[start : start + len(values)] = values[:, parts[name]]
    return tables


def volume_times(dataset: Dataset, run: Run) -> Float64:
    """Give the time that each volume stands for, seconds, (n_volumes,)."""
    metadata = dataset.sidecar(run)
    n_volumes, t_r = int(metadata["NumberOfVolumes"]), float(metadata["RepetitionTime"])
    return np.arange(n_volumes, dtype=np.float64) * t_r + float(metadata.get("StartTime", 0.0))


def delayed(table: Float32, delays: Sequence[int]) -> Float32:
    """Put delayed copies side by side, (n_volumes, n_delays x n_columns), 0 where a run begins.

    Examples
    --------
    >>> delayed(np.array([[1], [2], [3]], dtype=np.float32), (0, 2)).tolist()
    [[1.0, 0.0], [2.0, 0.0], [3.0, 1.0]]
    """
    if not delays:
        return table
    copies = [np.pad(table, ((delay, 0), (0, 0)))[: len(table)] for delay in delays]
    return np.concatenate(copies, axis=1)


def _components(
    dataset: Dataset, runs: Sequence[Run], sites: Sequence[Site], n_components: int
) -> dict[str, tuple[Float64, Float64]]:
    """Find the mean and the principal axes of each module over all runs, by its covariance.

    Shapes: mean (n_units,), axes (n_units, n_components). Runs are read one by one.
    """
    n_rows = 0
    total = {site.name: np.zeros(site.width) for site in sites}
    product = {site.name: np.zeros((site.width, site.width)) for site in sites}
    for run in runs:
        for name, table in site_values(dataset, run, sites).items():
            wide = table.astype(np.float64)
            total[name] += wide.sum(axis=0)
            product[name] += wide.T @ wide
        n_rows += len(table)
    smallest = min(min(site.width for site in sites), n_rows)
    if n_components > smallest:
        raise UsageError(
            f"--pca {n_components}: expected at most {smallest}, the units of the smallest "
            "module or the volumes of all runs"
        )
    components = {}
    for name, part in product.items():
        mean = total[name] / n_rows
        _, vectors = np.linalg.eigh(part / n_rows - np.outer(mean, mean))
        axes = vectors[:, ::-1][:, :n_components]
        # a component's sign is arbitrary: its largest weight is positive
        largest = np.abs(axes).argmax(axis=0)
        components[name] = mean, axes * np.sign(axes[largest, np.arange(n_components)])
    return components


def _write_hdf5(path: Path, tables: Mapping[str, Float32], times: Float64) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        for name, table in tables.items():
            file.create_dataset(name, data=table)
        file.create_dataset("tr_times", data=times)
    return path


def _append_npz(path: Path, name: str, table: npt.NDArray[Any], *, new: bool) -> Path:
    """Add an array to a .npz file, which is a .zip file of .npy files."""
    with (
        zipfile.ZipFile(path, "w" if new else "a") as archive,
        archive.open(f"{name}.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array(file, np.ascontiguousarray(table))
    return path


def _write_neuroid(
    path: Path, dataset: Dataset, run: Run, layers: Mapping[str, Float32], times: Float64
) -> Path:
    """Write a netCDF file (classic, 64 bit) whose coordinates brain-score gathers to indices."""
    widths = [table.shape[1] for table in layers.values()]
    layer = np.repeat(list(layers), widths)
    number = np.concatenate([np.arange(width, dtype=np.int32) for width in widths])
    texts = {
        "neuroid_id": ("neuroid", [f"{n}[{i}]" for n, i in zip(layer, number, strict=True)]),
        "layer": ("neuroid", layer.tolist()),
        "stimulus_id": ("presentation", [f"{run.name}_{index:05d}" for index in range(len(times))]),
        "story": ("presentation", [run.task] * len(times)),
    }
    events = dataset.events(run)
    if "spoken_onset" in events:  # one volume a word
        texts["word"] = ("presentation", [str(word) for word in events["word"]])
    numbers = {"neuron_number": ("neuroid", number), "time": ("presentation", times)}
    with netcdf_file(path, "w", version=2) as file:
        file.createDimension("presentation", len(times))
        file.createDimension("neuroid", sum(widths))
        for name, (dimension, cells) in texts.items():
            # classic netCDF has texts as bytes, (n_texts, longest)
            signs = np.array([cell.encode() for cell in cells]).view("S1").reshape(len(cells), -1)
            size = f"string{signs.shape[1]}"
            if size not in file.dimensions:
                file.createDimension(size, signs.shape[1])
            text: Any = file.createVariable(name, "S1", (dimension, size))
            text[:] = signs
            setattr(text, "_Encoding", "utf-8")  # noqa: B010
        for name, (dimension, column) in numbers.items():
            variable = file.createVariable(name, column.dtype.char, (dimension,))
            variable[:] = column
        values: Any = file.createVariable("features", "f4", ("presentation", "neuroid"))
        values.coordinates = " ".join((*texts, *numbers))
        np.concatenate(list(layers.values()), axis=1, out=values.data)
    return path
