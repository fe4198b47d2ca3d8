"""Names, sidecars and files of statistical maps: a derivative dataset of its own.

BIDS (1.11) has no name for statistical maps; these are the names of nilearn's ``save_glm_to_bids``
with a ``space`` entity, as FitLins writes them. They are listed in the dataset's ``.bidsignore``.
nilearn's function itself is not called: its names lack the space, its sidecars the provenance, and
it needs ``minimize_memory=False``, the residuals of the whole brain at once.
"""

import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids import __version__
from llm2bids.dataset.volumes import VolumeWriter
from llm2bids.exceptions import InferenceError
from llm2bids.space.grid import open_image
from llm2bids.space.header import image_header
from llm2bids.space.space import Space

_BIDS_VERSION = "1.11.1"
_CODE_URL = "https://github.com/llm2bids/llm2bids"

_IGNORED = (
    "*_statmap.nii.gz",
    "*_statmap.json",
    "*_design.tsv",
    "*_design.json",
    "/*.html",
    "/calibration*",
    "/group",
)
"""Files that BIDS has no name for yet."""

README = """# llm2bids analyze

Statistical maps of recorded language models, made by `llm2bids analyze` with nilearn.

- `sub-*/func/*_contrast-*_stat-{effect,variance,t,z}_statmap.nii.gz`: first level. Effects are in
  units of each unit's calibration standard deviation, variances in its square.
- `sub-*/func/*_stat-rsquared_statmap.nii.gz`, `*_stat-residualar1_statmap.nii.gz`: share of
  variance explained, and lag-1 autocorrelation of the residuals.
- `sub-*/func/*_design.{tsv,json}`: design matrices.
- `sub-*/func/*_desc-brain_mask.nii.gz`: the units that were modelled.
- `group/`: second level.

Every sidecar lists the participants, runs and prompts that its map was made from, and the
fingerprint of the space.

## .bidsignore
BIDS has no name for statistical maps (`statmap`) and design matrices (`design`), nor for the
results of a group (`group/`): the names here are those of nilearn's `save_glm_to_bids` and of
FitLins. They are listed in `.bidsignore` so that the validator checks the rest.
"""


def map_path(suffix: str, **entities: str | int | None) -> Path:
    """Build the path of a result relative to the output folder.

    Examples
    --------
    >>> map_path("statmap.nii.gz", sub="01", task="tea", space="S", contrast="tea", stat="t").name
    'sub-01_task-tea_space-S_contrast-tea_stat-t_statmap.nii.gz'
    >>> map_path("statmap.json", task="tea", contrast="tea", stat="z").as_posix()
    'group/task-tea_contrast-tea_stat-z_statmap.json'
    """
    order = ("sub", "task", "run", "space", "contrast", "stat", "desc")
    parts = [f"{key}-{entities[key]}" for key in order if entities.get(key) is not None]
    folder = Path(parts[0], "func") if entities.get("sub") is not None else Path("group")
    return folder / "_".join([*parts, suffix])


def write_map(
    path: Path,
    values: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_],
    space: Space,
    sidecar: Mapping[str, object],
    *,
    fill: float = 0,
) -> Path:
    """Write the values of a mask's voxels as an image in the space, and its sidecar.

    Maps of z and t say so in the header's intent, t with its degrees of freedom: AFNI and
    BrainVoyager show p values from it.

    Shapes: values (n_voxels,), mask (n_x, n_y, n_z).
    """
    dtype = "uint8" if values.dtype == np.bool_ else "float32"
    header = image_header(space, fingerprint=str(sidecar["SpaceFingerprint"]), dtype=dtype)
    if "_stat-z_" in path.name:
        header.set_intent("z score")
    elif "_stat-t_" in path.name and "DegreesOfFreedom" in sidecar:
        header.set_intent("t test", (sidecar["DegreesOfFreedom"],))
    grid = np.full(mask.shape, fill, dtype=dtype, order="F")
    grid[mask] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    with VolumeWriter(path, header) as writer:
        writer.write(grid)
    write_json(sidecar_of(path), sidecar)
    return path


def sidecar_of(path: Path) -> Path:
    """Give the path of an image's or a table's sidecar.

    Examples
    --------
    >>> sidecar_of(Path("sub-01_statmap.nii.gz")).name
    'sub-01_statmap.json'
    """
    return path.with_name(path.name.partition(".")[0] + ".json")


def read_json(path: Path) -> dict[str, Any]:
    """Read a sidecar."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InferenceError(
            f"{path}: cannot be read ({error}); run the participant level again"
        ) from None
    if not isinstance(contents, dict):
        raise InferenceError(f"{path}: holds no JSON object; run the participant level again")
    return contents


def write_json(path: Path, contents: Mapping[str, object]) -> None:
    """Write a sidecar, staged and renamed."""
    write_text(path, json.dumps(contents, indent=2, ensure_ascii=False) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a tab-separated table, staged and renamed."""
    write_text(path, table.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n"))


def write_text(path: Path, text: str) -> None:
    """Write a text file, staged and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.part")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def software() -> dict[str, str]:
    """Say which versions made a result."""
    return {"llm2bids": __version__, "nilearn": importlib.metadata.version("nilearn")}


def start_output(out_dir: Path, bids_dir: Path, derivative_dir: Path) -> None:
    """Make the output folder a derivative dataset, or check that it is one of ours."""
    described = out_dir / "dataset_description.json"
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        checked_output(out_dir)
    links = {
        "raw": _relative(bids_dir, out_dir),
        "llm2bids": _relative(derivative_dir, out_dir),
    }
    write_json(
        described,
        {
            "Name": "llm2bids analyze: statistical maps",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": "llm2bids",
                    "Version": software()["llm2bids"],
                    "Description": "llm2bids analyze",
                    "CodeURL": _CODE_URL,
                },
                {"Name": "nilearn", "Version": software()["nilearn"]},
            ],
            "SourceDatasets": [{"URL": link} for link in links.values()],
            "DatasetLinks": links,
        },
    )
    write_text(out_dir / "README.md", README)
    write_text(out_dir / ".bidsignore", "\n".join(_IGNORED) + "\n")


def checked_output(out_dir: Path) -> None:
    """Check that a folder holds results of `analyze`."""
    try:
        described = json.loads((out_dir / "dataset_description.json").read_text(encoding="utf-8"))
        ours = any(
            tool.get("Description") == "llm2bids analyze"
            for tool in described.get("GeneratedBy", [])
        )
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise InferenceError(
            f"{out_dir}: is not empty and holds no results of llm2bids analyze; expected an empty "
            "or new folder, or one that analyze made"
        )


def remove_results(out_dir: Path, *, participant_label: str, task: str) -> None:
    """Remove what an earlier call wrote for a participant and task, so that nothing stale stays."""
    folder = out_dir / f"sub-{participant_label}" / "func"
    for path in folder.glob(f"sub-{participant_label}_task-{task}_*"):
        path.unlink()


def read_map(path: Path, space: Space) -> npt.NDArray[np.float32]:
    """Read a map in the space, shape (n_units,) in recording order."""
    image = open_image(path, space, remedy="run the participant level again")
    return np.asarray(space.to_units(image.volume()), dtype=np.float32)


def _relative(target: Path, start: Path) -> str:
    return Path(os.path.relpath(target.resolve(), start.resolve())).as_posix()
