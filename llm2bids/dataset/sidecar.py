"""Sidecars: what is really known about an image, filled into the static files of every dataset."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePath
from string import Template
from typing import TYPE_CHECKING, Any

from llm2bids import __version__
from llm2bids.exceptions import DatasetError
from llm2bids.paradigm.task import Paradigm
from llm2bids.recording.record import Recording
from llm2bids.recording.tokens import versions
from llm2bids.space.image import BASELINE, DITHER, SeriesEncoder
from llm2bids.space.space import Space

if TYPE_CHECKING:
    from llm2bids.dataset.read import Dataset

# Entries of a recording's provenance that sidecars leave out: what differs from call to call, so
# that the same seed gives the same bytes; and what a setting says.
_LEFT_OUT = ("seconds", "tokens_per_second", "keep_first")

_PARADIGM = ("paradigm", "paradigm_sha256")  # settings that name what was shown

_MODEL = ("model", "revision", "weights_sha256", "random_weights", "adapter", "quantization")
# Settings that name what was recorded, and how.
_HOW = ("chat_template", "system", "dtype", "device", "seed")

_INTENSITY = (
    "* (value - mean) / sd, with mean and sd of each unit over the calibration (template folder: "
    "stat-mean_boldmap, stat-std_boldmap; sd 0 counts as 1)"
)
_TISSUE = (
    f"Each row of white matter along x, and each constant unit, is {DITHER - 1} or {DITHER} counts "
    "above or below in every volume, seeded by participant, task and run: a null signal. Outside "
    "is 0."
)


def base_fields(space: Space, *, settings: Mapping[str, Any], paradigm: Paradigm) -> dict[str, Any]:
    """List the values of the blanks in the static files."""
    return {
        "version": __version__,
        "model_name": settings.get("model", space.model_name),
        "weights_sha256": space.weights_sha256,
        "space_label": space.label,
        "space_fingerprint": space.fingerprint(),
        "paradigm_name": paradigm.name,
        "paradigm_description": paradigm.description.strip().rstrip(".") + ".",
        "baseline": paradigm.baseline,
        "edit": str((settings.get("edit") or {}).get("label", "")),
        "kind": "story" if paradigm.order == "story" else "task",
    }


def generated_by(
    description: Mapping[str, Any], settings: Mapping[str, Any], fields: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Say in a dataset's description what made it, and from what."""
    known = _known(settings, *_MODEL, *_HOW, *_PARADIGM)
    origin = {**known, "SpaceFingerprint": fields["space_fingerprint"], "Versions": versions()}
    return [{**entry, **origin} for entry in description["GeneratedBy"]]


def _known(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Choose what is there, with names as BIDS spells keys."""
    return {_camel(name): values[name] for name in names if values.get(name) is not None}


def bold_json(
    dataset: "Dataset", recording: Recording, encoder: SeriesEncoder, *, t_r: float
) -> dict[str, Any]:
    """Make the sidecar of a run's raw image."""
    # RepetitionTime and StartTime are repeated for each run: nilearn does not follow inheritance
    settings, space, design = dataset.settings, dataset.space, recording.design
    counts_per_sd = dataset.calibration.counts_per_sd
    provenance = dict(recording.provenance)
    if (source := PurePath(str(provenance.get("source", "")))).is_absolute():
        provenance["source"] = source.name  # not where on someone's disk a model lies
    drawn = design.clock_volumes is None  # of a story nothing is
    return {
        "RepetitionTime": t_r,
        "StartTime": recording.start_time,
        **{_camel(key): settings[key] for key in ("model", "revision") if settings.get(key)},
        **_known(provenance, *(name for name in provenance if name not in _LEFT_OUT)),
        **_known(settings, *_PARADIGM),
        "DatasetSeed": settings["seed"],
        "Seed": design.seed,
        **({"Context": design.context, "Sampling": asdict(design.sampling)} if drawn else {}),
        "NumberOfPrompts": len(design.trials),
        "NumberOfVolumes": design.n_volumes,
        **({"VolumesPerPrompt": design.tokens_per_prompt} if drawn else {}),
        "NumberOfSites": len(recording.sites),
        "NumberOfUnits": space.n_units,
        "FirstTokenKept": bool(settings["keep_first"]),
        "SharedPromptsAllowed": bool(settings["allow_shared_prompts"]),
        "Space": space.label,
        "SpaceFingerprint": dataset.fingerprint,
        "WeightsSHA256": space.weights_sha256,
        "VolumeDataType": settings["volume_dtype"],
        "IntensityScale": f"{BASELINE} + {counts_per_sd} {_INTENSITY}",
        "Baseline": BASELINE,
        "CountsPerSD": counts_per_sd,
        "Dither": _TISSUE,
        "HaemodynamicResponse": settings["hrf_model"] or "none",
        "NumberOfClippedValues": encoder.clipped,
        "NumberOfConstantUnits": encoder.constant,
    }


def task_bold_json(
    task: str, conditions: Sequence[tuple[str, str]], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Make the sidecar that all runs of a task inherit."""
    shown = ", ".join(trial_type for trial_type, _ in conditions)
    return {
        **fill_json(
            f"raw/{fields['kind']}_bold.json", {**fields, "task": task, "conditions": shown}
        ),
        **fill_json("raw/mr_fields.json", fields),
    }


def task_events_json(
    conditions: Sequence[tuple[str, str]], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Make the sidecar of a task's events, with all levels of ``trial_type``."""
    events = fill_json(f"raw/{fields['kind']}_events.json", fields)
    column = events["trial_type"]
    what = "A word is read." if fields["kind"] == "story" else None
    column["Levels"] = {
        trial_type: what or f"A prompt of the bank {bank} is shown and answered."
        for trial_type, bank in conditions
    }
    column["HED"] = {
        trial_type: "Sensory-event, Experimental-stimulus, (Language-item, Label/"
        f"{re.sub('[^A-Za-z0-9]', '', trial_type) or 'Other'})"
        for trial_type, _ in conditions
    }
    return events


def image_json(
    space: Space, description: str, *, fingerprint: str | None = None, **entries: Any
) -> dict[str, Any]:
    """Make the sidecar of an image of the derivative; without fingerprint it has the space's."""
    label = space.label  # the template's T1w is the space's reference
    return {
        "Description": description,
        "SpatialReference": f"bids::tpl-{label}/anat/tpl-{label}_T1w.nii.gz",
        **entries,
        "SpaceFingerprint": fingerprint or space.fingerprint(),
    }


def _camel(name: str) -> str:
    """Spell a name as BIDS spells keys."""
    special = {
        "model": "ModelName",
        "revision": "ModelRevision",
        "dtype": "ComputeDataType",
        "n_threads": "NumberOfThreads",
        "n_tokens": "NumberOfGeneratedTokens",
    }
    if name in special:
        return special[name]
    words = (word if word.isupper() else word.capitalize() for word in name.split("_"))
    return re.sub(r"^Sha|Sha(?=\d)", "SHA", "".join(words))


def template_folder() -> Traversable:
    """Find ``bids_template``: in the installed package, else in the checkout."""
    package = files("llm2bids")
    installed = package / "bids_template"
    if installed.is_dir():
        return installed
    checkout = Path(str(package)).parent / "bids_template"
    if checkout.is_dir():
        return checkout
    raise DatasetError(
        f"bids_template is neither in {package} nor beside it; the installation is incomplete: "
        "install llm2bids again"
    )


def fill_text(name: str, fields: Mapping[str, object]) -> str:
    """Read a text file of the template and fill in its blanks."""
    return Template((template_folder() / name).read_text(encoding="utf-8")).substitute(fields)


def fill_json(name: str, fields: Mapping[str, object], **entries: Any) -> dict[str, Any]:
    """Read a JSON file of the template, fill in the blanks of its texts and set entries."""
    escaped = {key: json.dumps(str(value))[1:-1] for key, value in fields.items()}
    filled: dict[str, Any] = json.loads(fill_text(name, escaped))
    return filled | entries
