"""What is in a dataset: its runs, and what a killed process left of others."""

import logging
from pathlib import Path, PurePosixPath

from llm2bids.dataset.path import Entities, parse_path
from llm2bids.dataset.settings import DERIVATIVE
from llm2bids.exceptions import DatasetError

log = logging.getLogger(__name__)

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


def remove_leftovers(root: Path) -> tuple[PurePosixPath, ...]:
    """Remove files of runs, participants and tasks that have no raw series.

    Parameters
    ----------
    root : Path
        The dataset.

    Returns
    -------
    tuple of PurePosixPath
        What was removed. Files whose names are not ours are left alone.
    """
    there = {_run_of(place) for place in list_bolds(root)}
    participants = {key[0] for key in there if key}
    removed = []
    for base in (root, root / DERIVATIVE):
        for path in sorted(base.glob("sub-*/*/*")):
            place = PurePosixPath(path.relative_to(base).as_posix())
            entities = _entities(place)
            if entities is None or entities.sub is None or not (path.is_file()):
                continue
            key = _run_of(place)
            if (key is not None and key not in there) or entities.sub not in participants:
                path.unlink()
                removed.append(PurePosixPath(path.relative_to(root).as_posix()))
        _remove_empty(base)
    tasks = {key[1] for key in there if key}
    for path in sorted(root.glob("task-*.json")):
        entities = _entities(PurePosixPath(path.name))
        if entities is not None and entities.task not in tasks:
            path.unlink()
            removed.append(PurePosixPath(path.name))
    if removed:
        log.warning(
            "%s: removed %d files of runs that were cut off, e.g. %s",
            root,
            len(removed),
            removed[0],
        )
    return tuple(removed)


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
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
