"""Where each file of a dataset lies, and what its name says."""

import re
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeVar

from llm2bids.exceptions import DatasetError
from llm2bids.paradigm.design import RunDesign
from llm2bids.store.files import data_files, inside

DERIVATIVE = PurePosixPath("derivatives/llm2bids")  # place of the derivative

# Session of the model as it is, where a dataset has sessions: the others are of edited models.
INTACT = "intact"

_ORDER = ("sub", "tpl", "ses", "task", "run", "space", "atlas", "label", "desc", "stat")


def edit_file(label: str) -> PurePosixPath:
    """Place the file of the edit that a session was recorded under."""
    return PurePosixPath(f"code/{label}_edit.json")


def check_label(label: str, *, what: str) -> str:
    """Return a BIDS label as it is, or say what to write instead."""
    if re.fullmatch(r"[A-Za-z0-9]+", label):
        return label
    words = re.findall(r"[A-Za-z0-9]+", label)
    better = "".join(words[:1] + [word[0].upper() + word[1:] for word in words[1:]])
    hint = f"write {better!r} instead" if better else "give it a name"
    raise DatasetError(
        f"{what} label {label!r} is not allowed by BIDS: only letters and digits are; {hint}"
    )


@dataclass(frozen=True, kw_only=True)
class Entities:
    """What a BIDS file name says."""

    suffix: str
    extension: str
    datatype: str | None = None  # folder within the participant or template: ``func``, ``anat``
    sub: str | None = None
    tpl: str | None = None
    ses: str | None = None
    task: str | None = None
    run: int | None = None
    space: str | None = None
    atlas: str | None = None
    label: str | None = None
    desc: str | None = None
    stat: str | None = None

    def __post_init__(self) -> None:
        for key, value in self.labels().items():
            if key != "run":
                check_label(value, what=key)
        check_label(self.suffix, what="suffix")

    def labels(self) -> dict[str, str]:
        """List the entities that are there, in the order of BIDS."""
        return {
            key: str(value) for key in _ORDER if (value := getattr(self, key, None)) is not None
        }


def build_path(entities: Entities) -> PurePosixPath:
    """Write entities as a path relative to the dataset."""
    # order of the BIDS schema (1.11); `stat`, which it does not know yet, comes last
    parts = [f"{key}-{label}" for key, label in entities.labels().items()]
    name = "_".join([*parts, entities.suffix]) + entities.extension
    folders = [part for part in parts[:2] if part.startswith(("sub-", "tpl-", "ses-"))]
    if entities.datatype is not None:
        folders.append(entities.datatype)
    return PurePosixPath(*folders, name)


def parse_path(path: PurePosixPath | str) -> Entities:
    """Read the entities of a path relative to the dataset, raw or in the derivative."""
    entities = entities_of(PurePosixPath(path))
    if entities is None:
        raise DatasetError(
            f"{path}: not a file name of this dataset; expected entity-label pairs in the order "
            f"{', '.join(_ORDER)}, then a suffix, in the folder that the name says"
        )
    return entities


def entities_of(path: PurePosixPath) -> Entities | None:
    """Read the entities of a path; None where its name is not ours."""
    if path.is_relative_to(DERIVATIVE):
        path = path.relative_to(DERIVATIVE)
    stem, dot, extension = path.name.partition(".")
    *pairs, suffix = stem.split("_")
    labels: dict[str, Any] = {}
    for pair in pairs:
        key, _, labels[key] = pair.partition("-")
    top = "sub" in labels or "tpl" in labels
    datatype = path.parts[-2] if top and len(path.parts) == 3 + ("ses" in labels) else None
    try:
        if "run" in labels:
            labels["run"] = int(labels["run"])
        entities = Entities(suffix=suffix, extension=dot + extension, datatype=datatype, **labels)
    except (DatasetError, TypeError, ValueError):  # no entity of ours, or no label
        return None
    # what is left (another order, folder or spelling) is not what we would write
    ours = build_path(entities) == path and (entities.run is None or entities.run > 0)
    return entities if ours else None


RunKey = tuple[str, str | None, str, int | None]  # participant label, session, task and run index

IMAGE = ".nii.gz"  # extension of all images but the series, which may be without compression


def _place(
    folder: PurePosixPath | str = "", *, space: bool = False, **changes: str
) -> cached_property[PurePosixPath]:
    """Make the property that places a file, by what differs in its name from the raw image's."""

    def file(names: "_Names") -> PurePosixPath:
        labels: dict[str, Any] = {**changes, "space": names.space if space else None}
        return PurePosixPath(folder, build_path(replace(names.raw, **labels)))

    return cached_property(file)


_derived = partial(_place, DERIVATIVE)


@dataclass(frozen=True)
class _Names:
    """Places of files that belong to one raw image, relative to the raw dataset."""

    raw: Entities  # what the name of the raw image says
    space: str


class RunNames(_Names):
    """Places of the files of one run; in the derivative from `preproc` on."""

    bold = _place()  # the raw series: a run is there if and only if this file is
    bold_json = _place(extension=".json")
    events = _place(suffix="events", extension=".tsv")
    stim = _place(suffix="stim", extension=".tsv.gz")
    preproc = _derived(space=True, desc="preproc")
    hrf = _derived(space=True, desc="hrf")  # where that was asked for
    mask = _derived(space=True, desc="brain", suffix="mask", extension=IMAGE)
    boldref = _derived(space=True, suffix="boldref", extension=IMAGE)
    confounds = _derived(desc="confounds", suffix="timeseries", extension=".tsv")
    transcript = _derived(desc="transcript", suffix="tokens", extension=".tsv")

    def all(self, *, with_hrf: bool = False) -> tuple[PurePosixPath, ...]:
        """List every file that the run must have, the raw series last."""
        derived = [self.preproc, self.mask, self.boldref, self.confounds, self.transcript]
        derived += [self.hrf] if with_hrf else []
        sidecars = (sidecar(file) for file in derived)
        return (self.bold_json, self.events, self.stim, *derived, *sidecars, self.bold)


class AnatomyNames(_Names):
    """Places of the files of a participant's anatomy, raw and in the derivative."""

    t1w = _place()
    preproc = _derived(space=True, desc="preproc")
    mask = _derived(space=True, desc="brain", suffix="mask")


def _path(kind: str) -> Any:
    """Make the property of a run that gives the path of one of its files."""
    return property(lambda run: inside(run.root, run.root / getattr(run.names, kind)))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a dataset; all paths are in the dataset."""

    root: Path
    names: RunNames

    @property
    def participant_label(self) -> str:
        """BIDS label, without ``sub-``."""
        return str(self.names.raw.sub)

    @property
    def session(self) -> str | None:
        """BIDS label, without ``ses-``; None where the dataset has no sessions."""
        return self.names.raw.ses

    @property
    def task(self) -> str:
        """BIDS label, without ``task-``."""
        return str(self.names.raw.task)

    @property
    def run(self) -> int | None:
        """Run index, from 1; None where the task has one run."""
        return self.names.raw.run

    bold = _path("bold")
    events = _path("events")
    preproc = _path("preproc")
    mask = _path("mask")
    boldref = _path("boldref")
    confounds = _path("confounds")
    transcript = _path("transcript")

    @property
    def name(self) -> str:
        """Entities of the run, e.g. ``sub-01_task-pathology``."""
        return self.names.bold.name.rpartition("_")[0]


def run_key(design: RunDesign) -> RunKey:
    """Tell which run a design is of."""
    return design.participant_label, design.session, design.task, design.run


def run_names(run: RunKey, space: str, *, extension: str = IMAGE) -> RunNames:
    """Name the files of a run; `extension` is the series'."""
    sub, ses, task, number = run
    raw = Entities(
        sub=sub, ses=ses, task=task, run=number, datatype="func", suffix="bold", extension=extension
    )
    return RunNames(raw, space)


def anatomy_names(participant_label: str, session: str | None, space: str) -> AnatomyNames:
    """Name the files of a participant's anatomy."""
    raw = Entities(
        sub=participant_label, ses=session, datatype="anat", suffix="T1w", extension=IMAGE
    )
    return AnatomyNames(raw, space)


def task_files(task: str) -> tuple[PurePosixPath, ...]:
    """Place the sidecars that all runs of a task inherit: of series, events and stimuli."""
    return tuple(PurePosixPath(f"task-{task}_{kind}.json") for kind in ("bold", "events", "stim"))


def template_file(
    space: str, suffix: str, *, extension: str = IMAGE, datatype: str | None = "anat", **labels: str
) -> PurePosixPath:
    """Place a file of the template; `labels` are its further entities."""
    file: dict[str, Any] = {"tpl": space, "datatype": datatype, "extension": extension, **labels}
    return DERIVATIVE / build_path(Entities(suffix=suffix, **file))


_Path = TypeVar("_Path", bound=PurePath)


def sidecar(file: _Path) -> _Path:
    """Place the sidecar of an image or a table."""
    return file.with_name(file.name.partition(".")[0] + ".json")


def uri(file: PurePosixPath) -> str:
    """Name a file of the dataset in the sidecars of the derivative."""
    if file.is_relative_to(DERIVATIVE):
        return f"bids::{file.relative_to(DERIVATIVE)}"
    return f"bids:raw:{file}"


def list_bolds(root: Path) -> tuple[PurePosixPath, ...]:
    """List the raw series of a dataset; a run is there if and only if its raw series is."""
    bolds = [
        PurePosixPath(path.relative_to(root).as_posix())
        for pattern in ("sub-*/func/sub-*_bold.nii*", "sub-*/ses-*/func/sub-*_bold.nii*")
        for path in data_files(root, pattern)
    ]
    return tuple(sorted(file for file in bolds if run_of(file) is not None))


def run_of(file: PurePosixPath) -> RunKey | None:
    """Read which run a file is of; None where its name is not ours or names no run."""
    entities = entities_of(file)
    if entities is None or entities.sub is None or entities.task is None:
        return None
    return entities.sub, entities.ses, entities.task, entities.run
