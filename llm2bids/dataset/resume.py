"""Opening a dataset to write on: what was cut off is finished or removed, edits are respected."""

import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from llm2bids.dataset.first_files import ALL_TASKS_MODEL
from llm2bids.dataset.layout import DERIVATIVE, entities_of, list_bolds, parse_path, run_of
from llm2bids.dataset.participants import (
    PARTICIPANTS,
    by_participant,
    counts_of,
    disagreement,
    read_participants,
    with_participant,
    without_participants,
)
from llm2bids.dataset.settings import PARADIGM, SETTINGS, read_settings, recorded_paradigm
from llm2bids.exceptions import DatasetError
from llm2bids.store.checksums import FOLDER, is_edited, list_file, read_list, read_manifest
from llm2bids.store.commit import (
    JOURNAL,
    Staging,
    clear_staging,
    read_journal,
    refuse_edited,
    staging,
)
from llm2bids.store.files import data_files, inside, refuse_missing
from llm2bids.store.tables import write_table

log = logging.getLogger(__name__)

_NOT_HERE = ". Nothing was recorded: which runs are whole cannot be told without it"


def undo_creation(root: Path) -> None:
    """Remove what a killed process put in place of a dataset that has not begun yet."""
    journal = read_journal(root)
    if journal is not None:
        for file in journal["put"]:
            inside(root, root / file).unlink(missing_ok=True)
        (root / JOURNAL).unlink()
    clear_staging(root)


def refuse_missing_content(root: Path) -> None:
    """Refuse a dataset of which files are links or pointers to content that is not here."""
    for path in data_files(root, f"{FOLDER}/*.sha256"):
        refuse_missing(path, doing=_NOT_HERE)
    bolds = set(list_bolds(root))
    for file in (*bolds, *read_manifest(root)):
        if file in bolds or (root / file).is_symlink():  # others say so when they are read
            refuse_missing(root / file, doing=_NOT_HERE)


def check_unchanged(root: Path, *, overwrite: bool) -> None:
    """Refuse to go on where files were changed that the next runs are made from, or replace."""
    known = sources(root)
    for file in known:
        if is_edited(root, file, known):
            refuse_missing(root / file, doing=_NOT_HERE)
            raise DatasetError(
                f"{root / file}: changed after llm2bids wrote it (its sha256 is not the one in "
                f"{list_file(file)}), and new runs would be made with it. Restore the file, or "
                "record into another folder"
            )
    for folder in _folders(root):
        inside(root, folder)
    if overwrite:
        return
    leftovers = [p for p in _leftovers(root) if p.suffix != ".json"]
    # the derivative's series is the raw one by another name, and that was taken away
    replaced = [p for p in leftovers if not p.name.endswith(("_bold.nii.gz", "_bold.nii"))]
    refuse_edited(root, replaced)
    planned = recorded_paradigm(root, read_settings(root)).tasks
    if len(_tasks(root)) < len(planned):
        refuse_edited(root, [ALL_TASKS_MODEL])


def changed_runs(root: Path, *, participant_label: str | None = None) -> set[PurePosixPath]:
    """List the series of runs of which a file was changed or is gone: they are recorded anew."""
    known = read_manifest(root)
    bolds = {
        run_of(bold): bold
        for bold in list_bolds(root)
        if participant_label in (None, parse_path(bold).sub)
    }
    changed = set()
    for file in known:
        bold = bolds.get(run_of(file))
        if bold is None or bold in changed:
            continue
        if not (root / file).is_file() or is_edited(root, file, known):
            refuse_missing(root / file, doing=_NOT_HERE)
            log.warning("%s: not as it was written; the run is recorded anew", root / file)
            changed.add(bold)
    return changed


def participants_to_extend(
    root: Path, settings: Mapping[str, Any], *, overwrite: bool
) -> pd.DataFrame:
    """Read the participants; what was added stays, what no longer fits the runs is refused."""
    table = read_participants(root)
    if not is_edited(root, PARTICIPANTS, read_list(root / list_file(PARTICIPANTS))):
        return table
    bolds = list_bolds(root)
    if not disagreement(root, bolds, settings):
        return table
    if not overwrite:
        refuse_edited(root, [PARTICIPANTS])
    for label, mine in sorted(by_participant(bolds).items()):
        table = with_participant(table, label, settings, counts_of(root, mine))
    return table


def mend_participants(root: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse a table that was changed and no longer fits the runs, or make it fit."""
    table = participants_to_extend(root, settings, overwrite=overwrite)
    if not table.equals(read_participants(root)):
        with staging(root, doing="writing participants.tsv", overwrite=True) as stage:
            stage_participants(stage, table)


def stage_participants(stage: Staging, table: pd.DataFrame) -> None:
    """Stage ``participants.tsv``, made from `participants_to_extend`."""
    write_table(stage.path(PARTICIPANTS, merged=True), table)


def remove_leftovers(root: Path, *, overwrite: bool = False) -> None:
    """Remove our files of runs, participants and tasks that have no raw series.

    A run whose series is gone may be recorded anew, and then keeps what was added to its sidecars:
    this is the last step of writing, not the first. Files of other names are never touched.
    """
    known = read_manifest(root)
    leftovers = [
        file
        for file in _leftovers(root)
        if overwrite or file.suffix != ".json" or not is_edited(root, file, known)
    ]
    runs = {run_of(file) for file in list_bolds(root)}
    # what a run that is there has lost stays in the lists, and is missed until it is recorded anew
    gone = [file for file in known if not (root / file).exists() and run_of(file) not in runs]
    table = read_participants(root)
    kept = without_participants(table, {str(parse_path(file).sub) for file in list_bolds(root)})
    if leftovers or gone or len(kept) < len(table):
        with staging(root, doing="removing files of runs that are gone", overwrite=True) as stage:
            for file in (*leftovers, *gone):
                stage.remove(file)
            if len(kept) < len(table):
                stage_participants(stage, kept)
    for folder in _folders(root):
        if not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()
    if leftovers:
        text = "%s: removed %d files of runs that are gone, e.g. %s"
        log.warning(text, root, len(leftovers), leftovers[0])


def sources(root: Path) -> dict[PurePosixPath, str]:
    """List what runs are made from (template, settings, paradigm), with its checksums."""
    known = read_list(root / list_file(PARTICIPANTS))
    template = f"{DERIVATIVE}/tpl-"
    return {
        file: digest
        for file, digest in known.items()
        if str(file).startswith(template) or file in (SETTINGS, PARADIGM)
    }


def _tasks(root: Path) -> set[str]:
    return {str(parse_path(file).task) for file in list_bolds(root)}


def _leftovers(root: Path) -> list[PurePosixPath]:
    """List files that we wrote of runs, participants and tasks that have no raw series."""
    bolds = list_bolds(root)
    runs = {run_of(file) for file in bolds}
    participants = {parse_path(file).sub for file in bolds}
    tasks = _tasks(root)

    def is_gone(file: PurePosixPath) -> bool:
        entities, run = entities_of(file), run_of(file)
        if entities is None or run is not None:
            return entities is not None and run not in runs
        if entities.sub is not None:
            return entities.sub not in participants
        return entities.task is not None and entities.task not in tasks

    return [file for file in read_manifest(root) if is_gone(file) and (root / file).exists()]


def _folders(root: Path) -> list[Path]:
    """List the folders of participants, from the inside."""
    bases = (root, root / DERIVATIVE)
    patterns = ("sub-*", "sub-*/*", "sub-*/ses-*/*")
    paths = (path for base in bases for pattern in patterns for path in base.glob(pattern))
    return sorted((path for path in paths if path.is_dir()), reverse=True)
