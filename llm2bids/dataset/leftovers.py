"""What is in a dataset: its runs, and what a killed process left of others."""

import logging
from pathlib import Path, PurePosixPath

from llm2bids.dataset.manifest import FOLDER, is_edited, list_place, read_list, updated_lists
from llm2bids.dataset.path import Entities, inside, parse_path
from llm2bids.dataset.settings import DERIVATIVE
from llm2bids.dataset.staging import refuse_edited, replace_text
from llm2bids.exceptions import DatasetError

log = logging.getLogger(__name__)

_BOLD = ("_bold.nii", "_bold")
"""Ends of the names of series without their last extension."""

RunKey = tuple[str, str, int | None]
"""Participant label, task and run index."""


def list_bolds(root: Path) -> tuple[PurePosixPath, ...]:
    """List the raw series of a dataset; a run is there if and only if its raw series is.

    Parameters
    ----------
    root : Path
        The dataset.

    Returns
    -------
    tuple of PurePosixPath
        Relative to it, sorted.
    """
    found = [
        PurePosixPath(path.relative_to(root).as_posix())
        for path in root.glob("sub-*/func/sub-*_bold.nii*")
    ]
    return tuple(sorted(place for place in found if _run_of(place) is not None))


def remove_leftovers(root: Path, *, overwrite: bool = False) -> tuple[PurePosixPath, ...]:
    """Remove files of runs, participants and tasks that have no raw series.

    Parameters
    ----------
    root : Path
        The dataset.
    overwrite : bool
        Remove also what was changed after llm2bids wrote it.

    Returns
    -------
    tuple of PurePosixPath
        What was removed. Files whose names are not ours are left alone.

    Raises
    ------
    DatasetError
        If one was changed after llm2bids wrote it, and is not to be overwritten.
    """
    found = _leftovers(root)
    lists = {list_place(place) for place in found} | _lists_of_missing_runs(root)
    known = {place: text for name in lists for place, text in read_list(root / name).items()}
    if not overwrite:
        # the derivative's series is the raw one by another name, and that was taken away
        kept = [place for place in found if not place.name.endswith(("_bold.nii.gz", "_bold.nii"))]
        refuse_edited(root, [place for place in kept if is_edited(root, place, known)])
    gone = [*found, *(place for place in known if not (root / place).exists())]
    for name, text in updated_lists(root, {}, removed=gone).items():
        replace_text(root / name, text)
    for place in found:
        inside(root, root / place).unlink()
    for base in (root, root / DERIVATIVE):
        _remove_empty(base)
    if found:
        log.warning(
            "%s: removed %d files of runs that were cut off, e.g. %s", root, len(found), found[0]
        )
    return tuple(found)


def _leftovers(root: Path) -> list[PurePosixPath]:
    """List files of runs, participants and tasks that have no raw series."""
    there = {_run_of(place) for place in list_bolds(root)}
    participants = {key[0] for key in there if key}
    found = []
    for base in (root, root / DERIVATIVE):
        for path in sorted(base.glob("sub-*/*/*")):
            place = PurePosixPath(path.relative_to(base).as_posix())
            entities = _entities(place)
            if entities is None or entities.sub is None or not (path.is_file()):
                continue
            key = _run_of(place)
            if (key is not None and key not in there) or entities.sub not in participants:
                found.append(PurePosixPath(path.relative_to(root).as_posix()))
    tasks = {key[1] for key in there if key}
    for path in sorted(root.glob("task-*.json")):
        entities = _entities(PurePosixPath(path.name))
        if entities is not None and entities.task not in tasks:
            found.append(PurePosixPath(path.name))
    return found


def _lists_of_missing_runs(root: Path) -> set[PurePosixPath]:
    """Name the lists of checksums of participants whose runs, or some of them, are gone."""
    lists = set()
    for path in (root / FOLDER).glob("sub-*.sha256"):
        place = PurePosixPath(path.relative_to(root).as_posix())
        raw = [p for p in read_list(path) if p.parts[0] == path.stem and p.stem.endswith(_BOLD)]
        if not raw or not all((root / p).is_file() for p in raw):
            lists.add(place)
    return lists


def _run_of(place: PurePosixPath) -> RunKey | None:
    entities = _entities(place)
    if entities is None or entities.sub is None or entities.task is None:
        return None
    return entities.sub, entities.task, entities.run


def _entities(place: PurePosixPath) -> Entities | None:
    try:
        return parse_path(place)
    except DatasetError:
        return None


def _remove_empty(base: Path) -> None:
    """Remove folders of participants that have become empty, from the inside."""
    for folder in sorted([*base.glob("sub-*"), *base.glob("sub-*/*")], reverse=True):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()
