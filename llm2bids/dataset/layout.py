"""Where each file of a dataset lies, and what its name says."""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from llm2bids.exceptions import DatasetError
from llm2bids.store.files import data_files

DERIVATIVE = PurePosixPath("derivatives/llm2bids")
"""Place of the derivative."""

_ORDER = ("sub", "tpl", "task", "run", "space", "atlas", "label", "desc", "stat")
_PARTS = {"datatype", "suffix", "extension"}


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
    folders = [part for part in parts[:1] if part.startswith(("sub-", "tpl-"))]
    if entities.datatype is not None:
        folders.append(entities.datatype)
    return PurePosixPath(*folders, name)


def parse_path(path: PurePosixPath | str) -> Entities:
    """Read the entities of a path relative to the dataset."""
    path = PurePosixPath(path)
    stem, dot, extension = path.name.partition(".")
    *pairs, suffix = stem.split("_")
    labels: dict[str, Any] = {}
    known = {field.name for field in fields(Entities)} - _PARTS
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
    datatype = path.parts[1] if top and len(path.parts) == 3 else None
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


class RunNames:
    """Places of the files of one run, relative to the raw dataset."""

    def __init__(
        self,
        participant_label: str,
        task: str,
        run: int | None,
        *,
        space: str,
        extension: str = IMAGE,
    ) -> None:
        self._raw = Entities(
            sub=participant_label,
            task=task,
            run=run,
            datatype="func",
            suffix="bold",
            extension=extension,
        )
        self._space = space
        self.participant_label, self.task, self.run = participant_label, task, run

    @property
    def bold(self) -> PurePosixPath:
        """The raw series; a run is there if and only if this file is."""
        return build_path(self._raw)

    @property
    def bold_json(self) -> PurePosixPath:
        """Sidecar of the raw series."""
        return build_path(replace(self._raw, extension=".json"))

    @property
    def events(self) -> PurePosixPath:
        """Events."""
        return build_path(replace(self._raw, suffix="events", extension=".tsv"))

    @property
    def stim(self) -> PurePosixPath:
        """Stimulus series."""
        return build_path(replace(self._raw, suffix="stim", extension=".tsv.gz"))

    @property
    def preproc(self) -> PurePosixPath:
        """The series in the derivative."""
        return self._derived(space=self._space, desc="preproc")

    @property
    def hrf(self) -> PurePosixPath:
        """The series with a haemodynamic response, where that was asked for."""
        return self._derived(space=self._space, desc="hrf")

    @property
    def mask(self) -> PurePosixPath:
        """Mask of the units in the derivative."""
        return self._derived(space=self._space, desc="brain", suffix="mask", extension=IMAGE)

    @property
    def boldref(self) -> PurePosixPath:
        """Mean over time in the derivative."""
        return self._derived(space=self._space, suffix="boldref", extension=IMAGE)

    @property
    def confounds(self) -> PurePosixPath:
        """Confounds in the derivative."""
        return self._derived(desc="confounds", suffix="timeseries", extension=".tsv")

    @property
    def transcript(self) -> PurePosixPath:
        """Every generated token, in the derivative."""
        return self._derived(desc="transcript", suffix="tokens", extension=".tsv")

    def all(self) -> tuple[PurePosixPath, ...]:
        """List every file that the run must have, the raw series last."""
        derived = (self.preproc, self.mask, self.boldref, self.confounds, self.transcript)
        return (
            self.bold_json,
            self.events,
            self.stim,
            *derived,
            *(sidecar(place) for place in derived),
            self.bold,
        )

    def possible(self) -> tuple[PurePosixPath, ...]:
        """List every file that the run may have."""
        return (self.hrf, sidecar(self.hrf), *self.all())

    def _derived(self, **changes: str) -> PurePosixPath:
        return DERIVATIVE / build_path(replace(self._raw, **changes))  # type: ignore[arg-type]


def run_names(bold: PurePosixPath, space: str) -> RunNames:
    """Name the files of the run that has this raw series."""
    entities = parse_path(bold)
    return RunNames(
        str(entities.sub),
        str(entities.task),
        entities.run,
        space=space,
        extension=entities.extension,
    )


def raw_anatomy(participant_label: str) -> PurePosixPath:
    """Place a participant's anatomy in the raw dataset."""
    return build_path(
        Entities(sub=participant_label, datatype="anat", suffix="T1w", extension=IMAGE)
    )


def derived_anatomy(participant_label: str, space: str, *, desc: str, suffix: str) -> PurePosixPath:
    """Place an anatomical image of a participant in the derivative."""
    return DERIVATIVE / build_path(
        Entities(
            sub=participant_label,
            datatype="anat",
            space=space,
            desc=desc,
            suffix=suffix,
            extension=IMAGE,
        )
    )


def anatomy_files(participant_label: str, space: str) -> tuple[PurePosixPath, ...]:
    """Place all anatomical files of a participant."""
    derived = (
        derived_anatomy(participant_label, space, desc="preproc", suffix="T1w"),
        derived_anatomy(participant_label, space, desc="brain", suffix="mask"),
    )
    return (raw_anatomy(participant_label), *derived, *(sidecar(place) for place in derived))


def task_files(task: str) -> tuple[PurePosixPath, ...]:
    """Place the sidecars that all runs of a task inherit: of series, events and stimuli."""
    return tuple(PurePosixPath(f"task-{task}_{kind}.json") for kind in ("bold", "events", "stim"))


def template_file(
    space: str,
    suffix: str,
    *,
    extension: str = IMAGE,
    datatype: str | None = "anat",
    desc: str | None = None,
    label: str | None = None,
    atlas: str | None = None,
    stat: str | None = None,
) -> PurePosixPath:
    """Place a file of the template."""
    return DERIVATIVE / build_path(
        Entities(
            tpl=space,
            datatype=datatype,
            suffix=suffix,
            extension=extension,
            desc=desc,
            label=label,
            atlas=atlas,
            stat=stat,
        )
    )


def sidecar(place: PurePosixPath) -> PurePosixPath:
    """Place the sidecar of a file."""
    return place.with_name(place.name.partition(".")[0] + ".json")


_RunKey = tuple[str, str, int | None]
"""Participant label, task and run index."""


def list_bolds(root: Path) -> tuple[PurePosixPath, ...]:
    """List the raw series of a dataset; a run is there if and only if its raw series is."""
    bolds = [
        PurePosixPath(path.relative_to(root).as_posix())
        for path in data_files(root, "sub-*/func/sub-*_bold.nii*")
    ]
    return tuple(sorted(place for place in bolds if run_of(place) is not None))


def run_of(place: PurePosixPath) -> _RunKey | None:
    """Read which run a file is of; None where its name is not ours or names no run."""
    entities = entities_of(place)
    if entities is None or entities.sub is None or entities.task is None:
        return None
    return entities.sub, entities.task, entities.run


def entities_of(place: PurePosixPath) -> Entities | None:
    """Read the entities of a path; None where its name is not ours."""
    try:
        return parse_path(place)
    except DatasetError:
        return None
