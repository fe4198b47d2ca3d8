"""Opening a dataset to write on: what was cut off is finished or removed, edits are respected."""

import logging
from pathlib import Path, PurePosixPath

from llm2bids.dataset.first_files import ALL_TASKS_MODEL, FIELDS, TASKS
from llm2bids.dataset.layout import (
    DERIVATIVE,
    RunNames,
    entities_of,
    list_bolds,
    parse_path,
    run_of,
)
from llm2bids.dataset.participants import PLACE as PARTICIPANTS
from llm2bids.dataset.participants import read_participants, write_participants
from llm2bids.dataset.settings import PLACE as SETTINGS
from llm2bids.exceptions import DatasetError
from llm2bids.store.checksums import (
    FOLDER,
    has_manifest,
    is_edited,
    list_place,
    read_list,
    read_manifest,
    updated_lists,
)
from llm2bids.store.commit import (
    JOURNAL,
    clear_staging,
    read_journal,
    recover,
    refuse_edited,
    replace_text,
    staging,
)
from llm2bids.store.files import inside

log = logging.getLogger(__name__)


def clean(root: Path, *, overwrite: bool = False) -> None:
    """Finish a commit that was cut off, and remove what a killed process left of others."""
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
    """Remove what a killed process put in place of a dataset that has not begun yet."""
    journal = read_journal(root)
    if journal is not None:
        for place in journal["put"]:
            inside(root, root / place).unlink(missing_ok=True)
        (root / JOURNAL).unlink()
    clear_staging(root)


def check_unchanged(root: Path, *, overwrite: bool) -> None:
    """Refuse to go on where files were changed that the next runs depend on, or replace."""
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
    """Remove the series of runs of which a file was changed or is gone: they are recorded anew."""
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


_BOLD = ("_bold.nii", "_bold")
"""Ends of the names of series without their last extension."""


def remove_leftovers(root: Path, *, overwrite: bool = False) -> tuple[PurePosixPath, ...]:
    """Remove files of runs, participants and tasks that have no raw series."""
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
    there = {run_of(place) for place in list_bolds(root)}
    participants = {key[0] for key in there if key}
    found = []
    for base in (root, root / DERIVATIVE):
        for path in sorted(base.glob("sub-*/*/*")):
            place = PurePosixPath(path.relative_to(base).as_posix())
            entities = entities_of(place)
            if entities is None or entities.sub is None or not (path.is_file()):
                continue
            key = run_of(place)
            if (key is not None and key not in there) or entities.sub not in participants:
                found.append(PurePosixPath(path.relative_to(root).as_posix()))
    tasks = {key[1] for key in there if key}
    for path in sorted(root.glob("task-*.json")):
        entities = entities_of(PurePosixPath(path.name))
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


def _remove_empty(base: Path) -> None:
    """Remove folders of participants that have become empty, from the inside."""
    for folder in sorted([*base.glob("sub-*"), *base.glob("sub-*/*")], reverse=True):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()
