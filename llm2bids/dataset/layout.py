"""Where each file of a dataset lies, and what its name says."""

import re
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeVar

from llm2bids.exceptions import DatasetError
from llm2bids.store.files import data_files, inside

DERIVATIVE = PurePosixPath("derivatives/llm2bids")
"""Place of the derivative."""

INTACT = "intact"
"""Session of the model as it is, where a dataset has sessions: the others are of edited models."""

_ORDER = ("sub", "tpl", "ses", "task", "run", "space", "atlas", "label", "desc", "stat")
_PARTS = {"datatype", "suffix", "extension"}


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
        if self.run is not None and self.run < 1:
            raise DatasetError(f"run index {self.run} is below 1; count runs from 1")
        if self.sub is not None and self.tpl is not None:
            raise DatasetError(
                f"sub-{self.sub} and tpl-{self.tpl} in one file name; a file belongs to a "
                "participant or to a template"
            )
        if self.ses is not None and self.sub is None:
            raise DatasetError(f"ses-{self.ses} without a participant; give `sub`")
        if self.datatype is not None and self.sub is None and self.tpl is None:
            raise DatasetError(
                f"datatype {self.datatype!r} without a participant or a template; "
                "give `sub` or `tpl`"
            )

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
    """Read the entities of a path relative to the dataset."""
    path = PurePosixPath(path)
    stem, dot, extension = path.name.partition(".")
    *pairs, suffix = stem.split("_")
    labels: dict[str, Any] = {}
    known = {entity.name for entity in fields(Entities)} - _PARTS
    for pair in pairs:
        key, dash, label = pair.partition("-")
        if not dash or key not in known or key in labels:
            raise _not_ours(path)
        labels[key] = label
    if not re.fullmatch(r"[1-9][0-9]*", labels.get("run", "1")):
        raise _not_ours(path)
    if "run" in labels:
        labels["run"] = int(labels["run"])
    top = "sub" in labels or "tpl" in labels
    n_folders = 2 + ("ses" in labels)
    datatype = path.parts[-2] if top and len(path.parts) == n_folders + 1 else None
    try:
        entities = Entities(suffix=suffix, extension=dot + extension, datatype=datatype, **labels)
    except DatasetError as error:
        raise _not_ours(path) from error
    if build_path(entities) != path:
        raise _not_ours(path)
    return entities


def _not_ours(path: PurePosixPath) -> DatasetError:
    return DatasetError(
        f"{path}: not a file name of this dataset; expected entity-label pairs in the order "
        f"{', '.join(_ORDER)}, then a suffix, in the folder that the name says"
    )


IMAGE = ".nii.gz"
"""Extension of all images but the series, which may be without compression."""


def _place(
    text: str, *, derived: bool = False, space: bool = False, **changes: str
) -> cached_property[PurePosixPath]:
    """Make the property of a run that places one of its files; `changes` are to the raw series."""

    def file(run: "RunNames") -> PurePosixPath:
        labels: dict[str, Any] = {**changes, "space": run.space if space else None}
        return (DERIVATIVE if derived else PurePosixPath()) / build_path(replace(run.raw, **labels))

    file.__doc__ = text
    return cached_property(file)


@dataclass(frozen=True)
class RunNames:
    """Places of the files of one run, relative to the raw dataset."""

    participant_label: str
    task: str
    run: int | None
    space: str = field(kw_only=True)
    extension: str = field(kw_only=True, default=IMAGE)  # of the series
    session: str | None = field(kw_only=True, default=None)

    @property
    def raw(self) -> Entities:
        """What the name of the raw series says."""
        return Entities(
            sub=self.participant_label,
            ses=self.session,
            task=self.task,
            run=self.run,
            datatype="func",
            suffix="bold",
            extension=self.extension,
        )

    bold = _place("The raw series; a run is there if and only if this file is.")
    bold_json = _place("Sidecar of the raw series.", extension=".json")
    events = _place("Events.", suffix="events", extension=".tsv")
    stim = _place("Stimulus series.", suffix="stim", extension=".tsv.gz")
    preproc = _place("The series in the derivative.", derived=True, space=True, desc="preproc")
    hrf = _place(
        "The series with a haemodynamic response, where that was asked for.",
        derived=True,
        space=True,
        desc="hrf",
    )
    mask = _place(
        "Mask of the units in the derivative.",
        derived=True,
        space=True,
        desc="brain",
        suffix="mask",
        extension=IMAGE,
    )
    boldref = _place(
        "Mean over time, in the derivative.",
        derived=True,
        space=True,
        suffix="boldref",
        extension=IMAGE,
    )
    confounds = _place(
        "Confounds, in the derivative.",
        derived=True,
        desc="confounds",
        suffix="timeseries",
        extension=".tsv",
    )
    transcript = _place(
        "Every generated token, in the derivative.",
        derived=True,
        desc="transcript",
        suffix="tokens",
        extension=".tsv",
    )

    def all(self) -> tuple[PurePosixPath, ...]:
        """List every file that the run must have, the raw series last."""
        derived = (self.preproc, self.mask, self.boldref, self.confounds, self.transcript)
        sidecars = (sidecar(file) for file in derived)
        return (self.bold_json, self.events, self.stim, *derived, *sidecars, self.bold)

    def possible(self) -> tuple[PurePosixPath, ...]:
        """List every file that the run may have."""
        return (self.hrf, sidecar(self.hrf), *self.all())


def _path(kind: str, text: str) -> Any:
    """Make the property of a run that gives the path of one of its files."""

    def path(run: "Run") -> Path:
        return inside(run.root, run.root / getattr(run.names, kind))

    return property(path, doc=text)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a dataset; all paths are in the dataset."""

    root: Path
    names: RunNames

    @property
    def participant_label(self) -> str:
        """BIDS label, without ``sub-``."""
        return self.names.participant_label

    @property
    def session(self) -> str | None:
        """BIDS label, without ``ses-``; None where the dataset has no sessions."""
        return self.names.session

    @property
    def task(self) -> str:
        """BIDS label, without ``task-``."""
        return self.names.task

    @property
    def run(self) -> int | None:
        """Run index, from 1; None where the task has one run."""
        return self.names.run

    bold = _path("bold", "Raw series.")
    events = _path("events", "Events.")
    preproc = _path("preproc", "Series in the derivative.")
    mask = _path("mask", "Mask of the units in the derivative.")
    boldref = _path("boldref", "Mean over time in the derivative.")
    confounds = _path("confounds", "Confounds in the derivative.")
    transcript = _path("transcript", "Every generated token, in the derivative.")

    @property
    def name(self) -> str:
        """Entities of the run, e.g. ``sub-01_task-pathology``."""
        return self.names.bold.name.rpartition("_")[0]


def run_names(bold: PurePosixPath, space: str) -> RunNames:
    """Name the files of the run that has this raw series."""
    raw = parse_path(bold)
    return RunNames(
        str(raw.sub),
        str(raw.task),
        raw.run,
        space=space,
        extension=raw.extension,
        session=raw.ses,
    )


def raw_anatomy(participant_label: str, session: str | None = None) -> PurePosixPath:
    """Place a participant's anatomy in the raw dataset."""
    file = Entities(
        sub=participant_label, ses=session, datatype="anat", suffix="T1w", extension=IMAGE
    )
    return build_path(file)


def derived_anatomy(
    participant_label: str, space: str, *, desc: str, suffix: str, session: str | None = None
) -> PurePosixPath:
    """Place an anatomical image of a participant in the derivative."""
    raw = parse_path(raw_anatomy(participant_label, session))
    return DERIVATIVE / build_path(replace(raw, space=space, desc=desc, suffix=suffix))


def anatomy_files(
    participant_label: str, space: str, session: str | None = None
) -> tuple[PurePosixPath, ...]:
    """Place all anatomical files of a participant."""
    derived = (
        derived_anatomy(participant_label, space, desc="preproc", suffix="T1w", session=session),
        derived_anatomy(participant_label, space, desc="brain", suffix="mask", session=session),
    )
    return (
        raw_anatomy(participant_label, session),
        *derived,
        *(sidecar(file) for file in derived),
    )


def task_files(task: str) -> tuple[PurePosixPath, ...]:
    """Place the sidecars that all runs of a task inherit: of series, events and stimuli."""
    return tuple(PurePosixPath(f"task-{task}_{kind}.json") for kind in ("bold", "events", "stim"))


def template_file(
    space: str,
    suffix: str,
    *,
    extension: str = IMAGE,
    datatype: str | None = "anat",
    **labels: str,
) -> PurePosixPath:
    """Place a file of the template; `labels` are its further entities."""
    file: dict[str, Any] = {"tpl": space, "datatype": datatype, "extension": extension, **labels}
    return DERIVATIVE / build_path(Entities(suffix=suffix, **file))


_Path = TypeVar("_Path", bound=PurePath)


def sidecar(file: _Path) -> _Path:
    """Place the sidecar of an image or a table."""
    return file.with_name(file.name.partition(".")[0] + ".json")


_RunKey = tuple[str, str | None, str, int | None]
"""Participant label, session, task and run index."""


def list_bolds(root: Path) -> tuple[PurePosixPath, ...]:
    """List the raw series of a dataset; a run is there if and only if its raw series is."""
    bolds = [
        PurePosixPath(path.relative_to(root).as_posix())
        for pattern in ("sub-*/func/sub-*_bold.nii*", "sub-*/ses-*/func/sub-*_bold.nii*")
        for path in data_files(root, pattern)
    ]
    return tuple(sorted(file for file in bolds if run_of(file) is not None))


def run_of(file: PurePosixPath) -> _RunKey | None:
    """Read which run a file is of; None where its name is not ours or names no run."""
    entities = entities_of(file)
    if entities is None or entities.sub is None or entities.task is None:
        return None
    return entities.sub, entities.ses, entities.task, entities.run


def entities_of(file: PurePosixPath) -> Entities | None:
    """Read the entities of a path; None where its name is not ours."""
    try:
        return parse_path(file)
    except DatasetError:
        return None
