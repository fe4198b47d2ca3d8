"""The settings of a dataset: written once, compared whenever it is recorded on."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from llm2bids.exceptions import DatasetError
from llm2bids.paradigm.load import load_paradigm
from llm2bids.paradigm.task import Paradigm
from llm2bids.store.files import inside
from llm2bids.store.json import read_json

# Place of the settings; a folder with this file is a dataset of ours.
SETTINGS = PurePosixPath("code/llm2bids_settings.json")


# Entries of a series' sidecar that are whole numbers.
COUNTS = {
    *("NumberOfVolumes", "NumberOfUnits", "NumberOfPrompts", "VolumesPerPrompt", "NumberOfSites"),
    *("NumberOfClippedValues", "NumberOfConstantUnits", "CountsPerSD"),
    "NumberOfThreads",
}

_OBJECTS = {"Sampling", "Versions"}  # entries of a series' sidecar that are objects

SHORTEST_T_R, LONGEST_T_R = 1e-6, 1e6  # seconds; beyond these no number that was meant

# Place of the paradigm: what is shown, with the numbers that the settings have.
PARADIGM = PurePosixPath("code/paradigm.toml")

_FIELDS = "code/llm2bids_fields.json"  # place of the space's label in datasets of earlier versions

# Settings that writing needs, with what is taken where they are not given.
_DEFAULTS: Mapping[str, Any] = {
    "volume_dtype": "int16",
    "compress": True,
    "hrf_model": None,
    "keep_first": False,
    "seed": None,
    "t_r": None,
    "revision": None,
    "allow_shared_prompts": False,
}


def is_dataset(path: Path) -> bool:
    """Tell whether a folder is a dataset of ours."""
    return (path / SETTINGS).is_file()


def results_folder(path: Path | str) -> Path:
    """Give the folder of some results; a dataset is refused, where BIDS has no place for them."""
    folder = Path(path)
    if is_dataset(folder):
        raise DatasetError(
            f"{folder}: is a dataset, and BIDS has no place for these files in it; expected "
            "another folder"
        )
    return folder


def normal_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Bring settings into the form that JSON gives back, with the defaults."""
    normal: dict[str, Any] = json.loads(json.dumps({**_DEFAULTS, **settings}, allow_nan=False))
    return dict(sorted(normal.items()))


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings of a dataset."""
    if not path.is_dir():
        raise DatasetError(
            f"{path}: no such folder; expected a dataset that `llm2bids record` wrote"
        )
    if not is_dataset(path):
        is_bids = (path / "dataset_description.json").exists()
        kind = "a BIDS dataset, but not one" if is_bids else "not a BIDS dataset; expected one"
        raise DatasetError(
            f"{path}: {kind} that llm2bids wrote ({SETTINGS} is missing); "
            "make one with `llm2bids record`"
        )
    return read_json(inside(path, path / SETTINGS))


def recorded_paradigm(root: Path, settings: Mapping[str, Any]) -> Paradigm:
    """Read the paradigm that a dataset was recorded with, without its banks."""
    paradigm = load_paradigm(inside(root, root / PARADIGM), with_banks=False)
    return replace(paradigm, name=str(settings.get("paradigm") or paradigm.name))


def space_label(root: Path, settings: Mapping[str, Any]) -> str:
    """Give the label of a dataset's space."""
    if "space_label" in settings:
        return str(settings["space_label"])
    return str(read_json(inside(root, root / _FIELDS)).get("space_label"))


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read the sidecar of a series, and check the numbers in it that are counted with."""
    metadata = read_json(path)

    def check(name: str, value: Any, fits: bool, expected: str) -> None:
        if not fits or isinstance(value, bool):
            raise DatasetError(
                f"{path}: {name} is {str(value)[:40]!r}; expected {expected}; restore the file or "
                "record the run again"
            )

    for name, value in metadata.items():
        if name in COUNTS:
            check(name, value, isinstance(value, int) and value >= 0, "a whole number from 0")
        elif name in _OBJECTS:
            check(name, value, isinstance(value, dict), "an object")
    t_r = metadata.get("RepetitionTime")
    is_time = isinstance(t_r, int | float) and SHORTEST_T_R <= t_r < LONGEST_T_R
    check("RepetitionTime", t_r, is_time, f"seconds, from {SHORTEST_T_R:g}")
    return metadata


def compare_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than the dataset has."""
    old, new = read_settings(path), normal_settings(settings)
    # what the weights' hash says too, and what datasets of earlier versions do not have
    names = sorted((old.keys() | new.keys()) - {"quantization"})
    differing = [
        f"  {name}: {_show(old, name)} in the dataset, {_show(new, name)} asked for"
        for name in names
        if old.get(name) != new.get(name) or (name in old) != (name in new)
    ]
    if differing:
        lines = (f"{path} was recorded with other settings:", *differing)
        advice = "Use the same settings, or write to another folder."
        raise DatasetError("\n".join((*lines, advice)))


def _show(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], ensure_ascii=False) if name in settings else "nothing"
