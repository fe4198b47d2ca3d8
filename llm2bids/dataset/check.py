"""Checking a dataset: every file is the one that was written, and they fit one another."""

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from llm2bids.dataset.check_files import Check, check_files
from llm2bids.dataset.layout import DERIVATIVE, list_bolds
from llm2bids.dataset.participants import PARTICIPANTS, disagreement
from llm2bids.dataset.read import open_dataset
from llm2bids.dataset.settings import read_settings
from llm2bids.dataset.volumes import damage
from llm2bids.exceptions import Llm2bidsError, UsageError
from llm2bids.store.checksums import FOLDER, has_manifest, read_manifest, sha256_of, updated_lists
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
        known = read_manifest(root)
        chosen = sorted({file for path in paths for file in _meant(root, path, known)})
        there = [file for file in chosen if (root / file).is_file()]
        digests = {file: sha256_of(inside(root, root / file)) for file in there}
        gone = set(chosen) - digests.keys()
        for name, text in updated_lists(root, digests, removed=gone).items():
            replace_text(root / name, text)
    return tuple(file for file in chosen if digests.get(file) != known.get(file))


def _meant(root: Path, text: str, known: Collection[PurePosixPath]) -> set[PurePosixPath]:
    """List the files that a path means, there or in the lists."""
    wanted = PurePosixPath(Path(os.path.relpath(inside(root, root / text), root)).as_posix())
    path = root / wanted
    files = [path] if path.is_file() else walk_files(path)
    there = {PurePosixPath(file.relative_to(root).as_posix()) for file in files if file.is_file()}
    listed = {file for file in known if file.is_relative_to(wanted)}
    ours = (FOLDER, HIDDEN)
    meant = {p for p in there | listed if not any(p.is_relative_to(folder) for folder in ours)}
    if not text or not meant or ".." in wanted.parts:
        raise UsageError(
            f"--accept {text}: no such file in {root} or its checksums; give a path relative "
            "to the dataset"
        )
    return meant
