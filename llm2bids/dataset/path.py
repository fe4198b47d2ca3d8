"""File names: entities of the Brain Imaging Data Structure to a relative path, and back."""

import re
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from llm2bids.exceptions import DatasetError

_ORDER = ("sub", "tpl", "task", "run", "space", "atlas", "label", "desc", "stat")
_PARTS = {"datatype", "suffix", "extension"}


def check_label(label: str, *, what: str) -> str:
    """Return a BIDS label as it is, or say what to write instead.

    Parameters
    ----------
    label : str
        Label of a participant, task, space, ...
    what : str
        What the label is for, used in the message.

    Returns
    -------
    str
        The same label.

    Raises
    ------
    DatasetError
        If the label has anything but the letters A to Z, a to z and the digits 0 to 9.

    Notes
    -----
    BIDS 1.11, common principles, "Filenames": labels are alphanumeric.

    Examples
    --------
    >>> check_label("medimaging", what="task")
    'medimaging'
    """
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
    """What a BIDS file name says.

    Parameters
    ----------
    suffix : str
        Last part of the name, e.g. ``bold``.
    extension : str
        With its dot, e.g. ``.nii.gz``.
    datatype : str or None
        Folder within the participant or template: ``func``, ``anat``; None for files that have
        none (inherited sidecars at the top, tables of the template).
    sub, tpl, task, space, atlas, label, desc, stat : str or None
        Labels.
    run : int or None
        Index from 1.

    Raises
    ------
    DatasetError
        If a label is not alphanumeric, `run` is below 1, or both `sub` and `tpl` are given.
    """

    suffix: str
    extension: str
    datatype: str | None = None
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
        """List the entities that are there, in the order of BIDS.

        Returns
        -------
        dict
            Entity key -> label, e.g. ``{"sub": "01", "task": "rest"}``.
        """
        return {
            key: str(value) for key in _ORDER if (value := getattr(self, key, None)) is not None
        }


def build_path(entities: Entities) -> PurePosixPath:
    """Write entities as a path relative to the dataset.

    Parameters
    ----------
    entities : Entities
        What the name is to say.

    Returns
    -------
    PurePosixPath
        E.g. ``sub-01/func/sub-01_task-rest_bold.nii.gz``.

    Notes
    -----
    Entities come in the order of the BIDS schema (1.11); ``stat``, which the schema does not know
    yet, comes last.

    Examples
    --------
    >>> bold = Entities(sub="01", task="a", run=2, datatype="func", suffix="bold", extension=".nii")
    >>> str(build_path(bold))
    'sub-01/func/sub-01_task-a_run-2_bold.nii'
    """
    parts = [f"{key}-{label}" for key, label in entities.labels().items()]
    name = "_".join([*parts, entities.suffix]) + entities.extension
    folders = [part for part in parts[:1] if part.startswith(("sub-", "tpl-"))]
    if entities.datatype is not None:
        folders.append(entities.datatype)
    return PurePosixPath(*folders, name)


def parse_path(path: PurePosixPath | str) -> Entities:
    """Read the entities of a path relative to the dataset.

    Parameters
    ----------
    path : PurePosixPath or str
        E.g. ``sub-01/func/sub-01_task-rest_bold.nii.gz``.

    Returns
    -------
    Entities
        ``build_path`` gives the same path again.

    Raises
    ------
    DatasetError
        If the path is not one that `build_path` writes.

    Examples
    --------
    >>> parse_path("sub-01/func/sub-01_task-rest_bold.nii.gz").task
    'rest'
    """
    path = PurePosixPath(path)
    stem, dot, extension = path.name.partition(".")
    *pairs, suffix = stem.split("_")
    found: dict[str, Any] = {}
    known = {field.name for field in fields(Entities)} - _PARTS
    for pair in pairs:
        key, dash, label = pair.partition("-")
        if not dash or key not in known or key in found:
            raise _not_ours(path)
        found[key] = label
    if not re.fullmatch(r"[1-9][0-9]*", found.get("run", "1")):
        raise _not_ours(path)
    if "run" in found:
        found["run"] = int(found["run"])
    top = "sub" in found or "tpl" in found
    datatype = path.parts[1] if top and len(path.parts) == 3 else None
    try:
        entities = Entities(suffix=suffix, extension=dot + extension, datatype=datatype, **found)
    except DatasetError as error:
        raise _not_ours(path) from error
    if build_path(entities) != path:
        raise _not_ours(path)
    return entities


def inside(root: Path, path: Path) -> Path:
    """Refuse a path that leads out of the dataset, by ``..`` or a symbolic link.

    Parameters
    ----------
    root : Path
        The dataset.
    path : Path
        A path in it.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    DatasetError
        If it leads out.
    """
    resolved = path.resolve()
    if not resolved.is_relative_to(root.resolve()):
        raise DatasetError(
            f"{path} leads out of the dataset, to {resolved}; replace it by the file itself"
        )
    return path


def _not_ours(path: PurePosixPath) -> DatasetError:
    return DatasetError(
        f"{path}: not a file name of this dataset; expected entity-label pairs in the order "
        f"{', '.join(_ORDER)}, then a suffix, in the folder that the name says"
    )
