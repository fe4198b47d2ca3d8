"""Names, sidecars and files of statistical maps: a derivative dataset of its own.

BIDS (1.11) has no name for statistical maps; these are the names of nilearn's ``save_glm_to_bids``
with a ``space`` entity, as FitLins writes them. They are listed in the dataset's ``.bidsignore``.
nilearn's function itself is not called: its names lack the space, its sidecars the provenance, and
it needs ``minimize_memory=False``, the residuals of the whole brain at once.
"""

import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from llm2bids import __version__
from llm2bids.dataset.check import check_sums
from llm2bids.dataset.check_files import Check
from llm2bids.dataset.layout import sidecar
from llm2bids.dataset.read import Dataset
from llm2bids.dataset.sidecar import fill_json, fill_text
from llm2bids.dataset.volumes import write_volumes
from llm2bids.exceptions import DatasetError, InferenceError
from llm2bids.inference.provenance import Provenance, circularity_caution
from llm2bids.space.grid import open_image
from llm2bids.space.header import image_header
from llm2bids.space.space import Space
from llm2bids.store.checksums import FOLDER, list_file, list_text, sha256_of
from llm2bids.store.commit import replace_text
from llm2bids.store.files import data_files
from llm2bids.store.json import read_json, to_json


def map_path(suffix: str, **entities: str | int | None) -> Path:
    """Build the path of a result relative to the output folder.

    >>> map_path("statmap.nii.gz", sub="01", task="tea", space="S", contrast="tea", stat="t").name
    'sub-01_task-tea_space-S_contrast-tea_stat-t_statmap.nii.gz'
    >>> map_path("statmap.json", task="tea", contrast="tea", stat="z").as_posix()
    'group/task-tea_contrast-tea_stat-z_statmap.json'
    """
    order = ("sub", "ses", "task", "run", "space", "contrast", "stat", "desc")
    parts = [f"{key}-{entities[key]}" for key in order if entities.get(key) is not None]
    folder = Path("group")
    if entities.get("sub") is not None:
        folder = Path(*parts[: 1 + (entities.get("ses") is not None)], "func")
    return folder / "_".join([*parts, suffix])


def map_entries(dataset: Dataset, made_from: Provenance) -> dict[str, object]:
    """Say what the sidecar of every map says: its space, its data, and which versions made it."""
    space = dataset.space
    return {
        **circularity_caution(space, made_from.prompts),
        "SpatialReference": f"bids:llm2bids:tpl-{space.label}/anat/tpl-{space.label}_T1w.nii.gz",
        "Software": software(),
        "SpaceLabel": space.label,
        "SpaceFingerprint": dataset.fingerprint,
        **made_from.sidecar(),
    }


def write_map(
    path: Path,
    values: npt.NDArray[Any],
    voxels: npt.NDArray[np.int32],
    space: Space,
    metadata: Mapping[str, object],
) -> Path:
    """Write values (n_units,) at voxels (n_units, 3) as an image in the space, and its sidecar.

    Maps of z and t say so in the header's intent, t with its degrees of freedom: AFNI and
    BrainVoyager show p values from it.
    """
    dtype = "uint8" if values.dtype == np.bool_ else "float32"
    header = image_header(space, fingerprint=str(metadata["SpaceFingerprint"]), dtype=dtype)
    if "_stat-z_" in path.name:
        header.set_intent("z score")
    elif "_stat-t_" in path.name and "DegreesOfFreedom" in metadata:
        header.set_intent("t test", (metadata["DegreesOfFreedom"],))
    outside = 1 if "_stat-pfdr_" in path.name else 0
    grid = grid_of(values.astype(dtype), voxels, space, fill=outside)
    return write_grid(path, grid, header, metadata)


def write_grid(
    path: Path, grid: npt.NDArray[Any], header: nib.Nifti1Header, metadata: Mapping[str, object]
) -> Path:
    """Write an image (n_x, n_y, n_z) and its sidecar, in a folder that may be new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volumes(path, header, [grid])
    write_json(sidecar(path), metadata)
    return path


@dataclass(frozen=True, kw_only=True, eq=False)
class MapWriter:
    """Writes maps of units at `voxels`, (n_units, 3), that share entities and metadata."""

    out_dir: Path
    space: Space
    voxels: npt.NDArray[np.int32]
    names: Mapping[str, str | None]
    metadata: Mapping[str, object]
    question: str = ""  # end of every description

    def path(self, suffix: str, **names: str) -> Path:
        """Build the path of a result."""
        return self.out_dir / map_path(suffix, **self.names, **names)

    def image(self, values: npt.NDArray[Any]) -> nib.Nifti1Image:
        """Put values (n_units,) into an image."""
        return nib.Nifti1Image(grid_of(values, self.voxels, self.space), self.space.affine)

    def write(
        self,
        values: npt.NDArray[Any],
        description: str,
        *,
        suffix: str = "statmap",
        more: Mapping[str, object] | None = None,
        **names: str,
    ) -> Path:
        """Write a map, of values (n_units,) or a grid; `more` metadata, further entities."""
        if values.ndim == 3:
            values = values[tuple(self.voxels.T)]
        full = f"{description} {self.question}".rstrip()
        metadata = {"Description": full, **self.metadata, **(more or {})}
        path = self.path(f"{suffix}.nii.gz", **names)
        return write_map(path, values, self.voxels, self.space, metadata)


def grid_of(
    values: npt.NDArray[Any], voxels: npt.NDArray[np.int32], space: Space, *, fill: float = 0
) -> npt.NDArray[Any]:
    """Put values (n_units,) of some units at their voxels (n_units, 3): (n_x, n_y, n_z)."""
    grid = np.full(space.shape, fill, dtype=values.dtype, order="F")
    grid[tuple(voxels.T)] = values
    return grid


def sentence(name: str, **numbers: int) -> str:
    """Give what has to be said beside some results, with its numbers."""
    return str(fill_json("analysis/cautions.json", {})[name]).format(**numbers)


def notes_of(command: str) -> tuple[str, ...]:
    """Give what has to be said beside all results of an intervention."""
    return tuple(fill_json("analysis/cautions.json", {})[command])


def write_json(path: Path, contents: Mapping[str, object]) -> None:
    """Write a sidecar, staged and renamed."""
    replace_text(path, to_json(contents))


def software() -> dict[str, str]:
    """Say which versions made a result."""
    return {"llm2bids": __version__, "nilearn": importlib.metadata.version("nilearn")}


def start_output(out_dir: Path, bids_dir: Path, derivative_dir: Path) -> None:
    """Make the output folder a derivative dataset, or check that it is one of ours."""
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        check_output(out_dir)
    links = {
        name: Path(os.path.relpath(path.resolve(), out_dir.resolve())).as_posix()
        for name, path in (("raw", bids_dir), ("llm2bids", derivative_dir))
    }
    description = fill_json(
        "analysis/dataset_description.json",
        software(),
        SourceDatasets=[{"URL": link} for link in links.values()],
        DatasetLinks=links,
    )
    write_json(out_dir / "dataset_description.json", description)
    for name, template in (("README.md", "README.md"), (".bidsignore", "bidsignore")):
        replace_text(out_dir / name, fill_text(f"analysis/{template}", {}))


def is_analysis(out_dir: Path) -> bool:
    """Tell whether a folder holds results of `analyze`."""
    try:
        tools = read_json(out_dir / "dataset_description.json").get("GeneratedBy", [])
        return any(tool.get("Description") == "llm2bids analyze" for tool in tools)
    except (DatasetError, AttributeError, TypeError):
        return False


def check_output(out_dir: Path) -> None:
    """Check that a folder holds results of `analyze`."""
    if not is_analysis(out_dir):
        raise InferenceError(
            f"{out_dir}: is not empty and holds no results of llm2bids analyze; expected an empty "
            "or new folder, or one that analyze made"
        )


def read_map(path: Path, space: Space) -> npt.NDArray[np.float32]:
    """Read a map in the space, shape (n_units,) in recording order."""
    image = open_image(path, space, remedy="run the participant level again")
    return np.asarray(space.to_units(image.volume()), dtype=np.float32)


def list_results(out_dir: Path, *folders: str) -> None:
    """Write the checksums of participants' folders, or of the group's, a list for each.

    Reports and calibrations come and go, and what lies at the top is written anew by every call.
    """
    for folder in folders:
        sums = {
            PurePosixPath(path.relative_to(out_dir).as_posix()): sha256_of(path)
            for path in data_files(out_dir, f"{folder}/**/*")
            if not path.name.endswith(".part")
        }
        replace_text(out_dir / list_file(PurePosixPath(folder, "any")), list_text(sums))


def check_analysis(out_dir: Path, *, progress: bool = False) -> Check:
    """Compare the results of `analyze` with their checksums."""
    check = Check(path=out_dir)
    if data_files(out_dir / FOLDER, "*.sha256"):
        check_sums(check, progress=progress)
    else:
        check.add(FOLDER, "the results have no checksums; earlier versions wrote none")
    return check
