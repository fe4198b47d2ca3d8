"""The template of a space: its anatomy, masks, atlases, table of units and calibration maps."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.arrangement import check_arrangement, write_arrangement
from llm2bids.dataset.layout import DERIVATIVE, Entities, build_path, sidecar, template_file, uri
from llm2bids.dataset.sidecar import fill_json
from llm2bids.dataset.volumes import write_image
from llm2bids.exceptions import DatasetError, SpaceError
from llm2bids.recording.calibration import EARLIER_COUNTS_PER_SD, Calibration
from llm2bids.space.atlas import head_atlas, label_lists, site_atlas
from llm2bids.space.grid import open_image
from llm2bids.space.smoothness import Stability
from llm2bids.space.space import Space
from llm2bids.store.commit import Staging
from llm2bids.store.files import inside
from llm2bids.store.json import read_json, to_json
from llm2bids.store.tables import read_table, write_table


def write_template(
    stage: Staging,
    space: Space,
    calibration: Calibration,
    *,
    weight_norms: npt.NDArray[np.float32],
    fields: Mapping[str, Any],
    stability: Stability | None = None,
) -> None:
    """Stage the files of the template; weight_norms (n_units,)."""
    write_image(
        stage,
        template_file(space.label, "T1w"),
        space.to_grid(_anatomy(weight_norms, space)),
        space,
        "Norm of the weights that produce each unit, as a share of the 98th percentile of its "
        "role, at most 1; 0 elsewhere. The unit table has the norms (weight_norm).",
        window=(0.0, 1.0),
        SkullStripped=True,
    )
    brain = "The brain: voxels with a unit (grey matter) and between them (white matter)."
    grey = "Grey matter: voxels with a unit."
    definition = uri(sidecar(template_file(space.label, "space")))
    for labels, mask, description, kind in (
        ({"desc": "brain"}, space.brain, brain, "Brain"),
        ({"label": "GM"}, space.grey, grey, "ROI"),
    ):
        file = template_file(space.label, "mask", **labels)
        entries: dict[str, Any] = {"Type": kind, "Sources": [definition]}
        data = mask.astype(np.uint8)
        write_image(stage, file, data, space, description, window=(0.0, 1.0), **entries)
    _write_calibration(stage, space, calibration)
    _write_atlases(stage, space, fields)
    table = space.unit_table().assign(weight_norm=weight_norms)
    write_table(stage.path(_units(space.label)), table)
    write_arrangement(stage, space, stability)
    flow = fill_json("derivative/template_description.json", fields)  # as TemplateFlow has it
    stage.text(DERIVATIVE / f"tpl-{space.label}/template_description.json", to_json(flow))
    stage.text(_definition(space.label), to_json(space.metadata()))


def read_template(root: Path, label: str) -> tuple[Space, Calibration]:
    """Rebuild space and calibration from the files of the template."""
    needed = (_definition(label), _units(label), _boldmap(label, "mean"), _boldmap(label, "std"))
    missing = [str(file) for file in needed if not inside(root, root / file).is_file()]
    if missing:
        raise DatasetError(
            f"{root}: the template lacks {', '.join(missing)}; restore it, or record the dataset "
            "again"
        )
    metadata = read_json(root / _definition(label))
    try:
        table = read_table(root / _units(label), text=("address", "module", "role"))
        space = Space.from_table(table, metadata)
        mean, sd = (_read_map(root, space, stat) for stat in ("mean", "std"))
    except SpaceError as error:
        raise DatasetError(f"{root / _units(label)}: {error}") from error
    check_arrangement(root, space)
    file = root / sidecar(_boldmap(label, "mean"))
    calibrated = read_json(inside(root, file))
    prompt_ids = calibrated.get("CalibrationPrompts", [])
    n_tokens = calibrated.get("CalibrationTokens", 0)
    gain = calibrated.get("CountsPerSD", EARLIER_COUNTS_PER_SD)
    whole = all(type(number) is int for number in (n_tokens, gain))
    if not isinstance(prompt_ids, list) or not whole or gain < 1:
        raise DatasetError(
            f"{file}: CalibrationPrompts is a {type(prompt_ids).__name__}, CalibrationTokens "
            f"{n_tokens!r}, CountsPerSD {gain!r}; expected a list and whole numbers, the gain from "
            "1: restore the file"
        )
    return space, Calibration(
        mean=mean,
        sd=sd,
        prompt_ids=tuple(map(str, prompt_ids)),
        n_tokens=n_tokens,
        counts_per_sd=gain,
    )


def _read_map(root: Path, space: Space, stat: str) -> npt.NDArray[np.float32]:
    path = root / _boldmap(space.label, stat)
    image = open_image(path, space, remedy="restore it, or record the dataset again")
    values = space.to_units(image.volume()).astype(np.float32)
    if not np.isfinite(values).all():
        raise DatasetError(
            f"{path}: {np.count_nonzero(~np.isfinite(values))} units have no finite {stat}; "
            "restore it, or record the dataset again"
        )
    return values


def _write_calibration(stage: Staging, space: Space, calibration: Calibration) -> None:
    entries: dict[str, Any] = {
        "SkullStripped": True,
        "CalibrationPrompts": list(calibration.prompt_ids),
        "CalibrationTokens": calibration.n_tokens,
        "CountsPerSD": calibration.counts_per_sd,
    }
    where = "of each unit over the resting scan that fixes the intensity scale, in the model's own"
    for stat, values, words in (
        ("mean", calibration.mean, "Mean"),
        ("std", calibration.sd, "Standard deviation"),
    ):
        data = space.to_grid(values.astype(np.float32))
        text = f"{words} {where} scale."
        write_image(stage, _boldmap(space.label, stat), data, space, text, **entries)


def _write_atlases(stage: Staging, space: Space, fields: Mapping[str, Any]) -> None:
    atlases = [("sites", "The panel of every recorded module (site) of the model.", site_atlas)]
    if any(site.n_heads for site in space.sites):
        text = "Every attention head of every module that has heads."
        atlases.append(("heads", text, head_atlas))
    for name, description, make in atlases:
        blanks = {**fields, "atlas": name, "description": description}
        metadata = fill_json("derivative/atlas_description.json", blanks)
        file = build_path(Entities(atlas=name, suffix="description", extension=".json"))
        stage.text(DERIVATIVE / file, to_json(metadata))
        atlas = make(space)
        columns = fill_json("derivative/dseg.json", {})
        write_image(
            stage,
            template_file(space.label, "dseg", atlas=name),
            atlas.labels,
            space,
            description,
            window=(0.0, float(len(atlas.table))),
            **{"Manual": False, **columns},
        )
        table = template_file(space.label, "dseg", atlas=name, extension=".tsv")
        write_table(stage.path(table), atlas.table)
        for extension, text in label_lists(atlas.table).items():
            stage.text(template_file(space.label, "labels", atlas=name, extension=extension), text)


def _anatomy(weight_norms: npt.NDArray[np.float32], space: Space) -> npt.NDArray[np.float32]:
    """Scale norms (n_units,) by role: as they are, viewers show all but a few as black."""
    role = np.array([site.role for site in space.sites])[space.site_of_unit]
    shown = np.zeros(space.n_units, dtype=np.float32)
    for name in {site.role for site in space.sites}:
        units = role == name
        norms = weight_norms[units]
        top = np.percentile(norms, 98) or norms.max()
        shown[units] = np.clip(norms / (top or 1), 0, 1)  # a role without weights is 0
    return shown


def _units(label: str) -> PurePosixPath:
    return template_file(label, "units", extension=".tsv.gz", datatype=None)


def _definition(label: str) -> PurePosixPath:
    return template_file(label, "space", extension=".json", datatype=None)


def _boldmap(label: str, stat: str) -> PurePosixPath:
    return template_file(label, "boldmap", datatype="func", stat=stat)
