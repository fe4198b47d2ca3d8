"""Checking a dataset: every file is the one that was written, and they fit one another."""

import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from llm2bids.dataset.check_files import Check, check_files
from llm2bids.dataset.layout import DERIVATIVE, list_bolds
from llm2bids.dataset.participants import PARTICIPANTS, disagreement
from llm2bids.dataset.read import open_dataset
from llm2bids.dataset.settings import read_settings
from llm2bids.dataset.volumes import damage
from llm2bids.exceptions import Llm2bidsError, UsageError
from llm2bids.store.checksums import (
    FOLDER,
    has_manifest,
    list_file,
    list_text,
    read_lists,
    read_manifest,
    sha256_of,
)
from llm2bids.store.commit import HIDDEN, DatasetLock, read_journal, recover, replace_text
from llm2bids.store.files import data_files, inside, walk_files


def check_dataset(bids_dir: str | Path, *, progress: bool = False) -> Check:
    """Compare a dataset with its checksums, and its files with one another."""
    # checksums find every changed byte; the rest finds what does not fit although the checksums may
    # have been made anew (events, images of another space, another calibration)
    root = Path(bids_dir)
    read_settings(root)
    check = Check(path=root)
    if has_manifest(root):
        check_sums(check, progress=progress)
    else:
        check.add(FOLDER, "the dataset has no checksums; earlier versions wrote none")
    with check.noting():
        dataset = open_dataset(root)
        check.n_runs = len(dataset.runs)
        check_files(check, dataset)
        with check.noting(PARTICIPANTS):
            if text := disagreement(root, list_bolds(root), dataset.settings):
                check.add(PARTICIPANTS, text)
    return check


def check_sums(check: Check, *, progress: bool) -> None:
    """Compare all files of a folder with its lists of checksums."""
    root = check.path
    if read_journal(root) is not None:
        check.add(HIDDEN, "a process was killed while it put a run in place")
    try:
        known = read_manifest(root)
    except Llm2bidsError as error:
        check.note(error)
        return
    check.n_files = len(known)
    digests: dict[tuple[int, int], str] = {}
    for file, digest in tqdm(
        sorted(known.items()), desc="checksums", unit="file", file=sys.stderr, disable=not progress
    ):
        with check.noting(file):
            path = inside(root, root / file)
            if not path.is_file():
                check.add(file, "is missing")
                continue
            status = path.stat()
            same = (status.st_dev, status.st_ino)  # hard links are read once
            if same not in digests:
                digests[same] = sha256_of(path)
            if digests[same] != digest:
                check.add(
                    file,
                    f"sha256 {digests[same][:12]}..., it was written with {digest[:12]}..."
                    f"{_damage(path)}",
                )
    for file in sorted(set(_all_files(root)) - known.keys()):
        check.add(file, "has no checksum: llm2bids did not write it, or it was cut off")


def _damage(path: Path) -> str:
    """Say what is wrong with the file itself, if that can be seen."""
    if path.stat().st_size == 0:
        return "; it is empty"
    return damage(path) if path.name.endswith((".nii.gz", ".tsv.gz")) else ""


def _all_files(root: Path) -> list[PurePosixPath]:
    """List the files of participants; what else lies in a dataset may be its owner's."""
    listed = []
    for folder in (root, root / DERIVATIVE):
        files = data_files(folder, "sub-*/**/*")
        listed += [PurePosixPath(path.relative_to(root).as_posix()) for path in files]
    return listed


def accept(bids_dir: str | Path, paths: Sequence[str]) -> tuple[PurePosixPath, ...]:
    """Write the checksums of files anew, as they are now."""
    root = Path(bids_dir)
    read_settings(root)
    with DatasetLock(root):
        recover(root)
        lists = read_lists(root)
        changed = []
        for file in _chosen(root, paths, lists):
            entries = lists.setdefault(list_file(file), {})
            old = entries.pop(file, None)
            if (root / file).is_file():
                entries[file] = sha256_of(inside(root, root / file))
            if entries.get(file) != old:
                changed.append(file)
        for name in sorted({list_file(file) for file in changed}):
            replace_text(root / name, list_text(lists[name]))
    return tuple(changed)


def _chosen(
    root: Path, paths: Sequence[str], lists: dict[PurePosixPath, dict[PurePosixPath, str]]
) -> list[PurePosixPath]:
    """List the files that are meant, there or in the lists."""
    listed = {file for entries in lists.values() for file in entries}
    chosen: set[PurePosixPath] = set()
    for text in paths:
        path = inside(root, root / text)
        wanted = PurePosixPath(path.relative_to(root).as_posix())
        there = {
            PurePosixPath(file.relative_to(root).as_posix())
            for file in ([path] if path.is_file() else walk_files(path))
            if file.is_file()
        }
        matching = there | {file for file in listed if file.is_relative_to(wanted)}
        matching = {
            p for p in matching if not p.is_relative_to(FOLDER) and not p.is_relative_to(HIDDEN)
        }
        if not matching:
            raise UsageError(
                f"--accept {text}: no such file in {root} or its checksums; give a path relative "
                "to the dataset"
            )
        chosen |= matching
    return sorted(chosen)
