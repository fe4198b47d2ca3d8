"""Opening a dataset to write on: what was cut off is finished or removed, edits are respected."""

import logging
from pathlib import Path, PurePosixPath

from llm2bids.dataset.leftovers import list_bolds, remove_leftovers
from llm2bids.dataset.manifest import (
    has_manifest,
    is_edited,
    list_place,
    read_list,
    read_manifest,
)
from llm2bids.dataset.names import RunNames
from llm2bids.dataset.participants import PLACE as PARTICIPANTS
from llm2bids.dataset.participants import read_participants, write_participants
from llm2bids.dataset.path import inside, parse_path
from llm2bids.dataset.settings import DERIVATIVE
from llm2bids.dataset.settings import PLACE as SETTINGS
from llm2bids.dataset.staging import (
    JOURNAL,
    clear_staging,
    read_journal,
    recover,
    refuse_edited,
    staging,
)
from llm2bids.dataset.start import ALL_TASKS_MODEL, FIELDS, TASKS
from llm2bids.exceptions import DatasetError

log = logging.getLogger(__name__)


def clean(root: Path, *, overwrite: bool = False) -> None:
    """Finish a commit that was cut off, and remove what a killed process left of others.

    Parameters
    ----------
    root : Path
        The dataset, locked.
    overwrite : bool
        Remove also what was changed after llm2bids wrote it.

    Raises
    ------
    DatasetError
        If a file that would go was changed after llm2bids wrote it.
    """
    recover(root)
    clear_staging(root)
    remove_leftovers(root, overwrite=overwrite)
    table = read_participants(root)
    there = {f"sub-{parse_path(place).sub}" for place in list_bolds(root)}
    kept = table[table["participant_id"].isin(there)]
    if len(kept) < len(table):
        with staging(root, doing="writing participants.tsv", overwrite=overwrite) as stage:
            write_participants(stage.path(PARTICIPANTS), kept)
            stage.commit(last=PARTICIPANTS)


def undo_creation(root: Path) -> None:
    """Remove what a killed process put in place of a dataset that has not begun yet.

    Parameters
    ----------
    root : Path
        The folder, locked; no dataset of ours.
    """
    journal = read_journal(root)
    if journal is not None:
        for place in journal["put"]:
            inside(root, root / place).unlink(missing_ok=True)
        (root / JOURNAL).unlink()
    clear_staging(root)


def check_unchanged(root: Path, *, overwrite: bool) -> None:
    """Refuse to go on where files were changed that the next runs depend on, or replace.

    Parameters
    ----------
    root : Path
        The dataset, locked.
    overwrite : bool
        Whether files that are written anew may have been changed. What runs are made from (the
        settings, the template with its calibration) never may.

    Raises
    ------
    DatasetError
        If there is such a file; the message has its name.
    """
    known = read_list(root / list_place(PARTICIPANTS))
    source = [place for place in known if _is_source(place)]
    for place in source:
        if is_edited(root, place, known):
            raise DatasetError(
                f"{root / place}: changed after llm2bids wrote it (its sha256 is not the one in "
                f"{list_place(place)}), and new runs would be made with it. Restore the file, or "
                "record into another folder"
            )
    if not overwrite:
        written = [place for place in known if _is_written_anew(place)]
        refuse_edited(root, [place for place in written if is_edited(root, place, known)])


def drop_changed_runs(root: Path, space_label: str) -> tuple[PurePosixPath, ...]:
    """Remove the series of runs of which a file was changed or is gone: they are recorded anew.

    Parameters
    ----------
    root : Path
        The dataset, locked.
    space_label : str
        Label of the space.

    Returns
    -------
    tuple of PurePosixPath
        The series that were removed.
    """
    if not has_manifest(root):
        return ()
    known = read_manifest(root)
    dropped = []
    for bold in list_bolds(root):
        found = parse_path(bold)
        names = RunNames(
            str(found.sub), str(found.task), found.run, space=space_label,
            extension=found.extension,
        )  # fmt: skip
        files = [place for place in names.all() if place in known]
        wrong = [p for p in files if not (root / p).is_file() or is_edited(root, p, known)]
        if wrong:
            log.warning("%s: not as it was written; the run is recorded anew", root / wrong[0])
            inside(root, root / bold).unlink()
            dropped.append(bold)
    return tuple(dropped)


def _is_source(place: PurePosixPath) -> bool:
    template = place.is_relative_to(DERIVATIVE) and place.parts[2].startswith("tpl-")
    return template or place in (SETTINGS, PurePosixPath(FIELDS), PurePosixPath(TASKS))


def _is_written_anew(place: PurePosixPath) -> bool:
    inherited = len(place.parts) == 1 and place.name.startswith("task-")
    return inherited or place in (PARTICIPANTS, ALL_TASKS_MODEL)
