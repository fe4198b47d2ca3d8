"""Checking a dataset: every file is the one that was written, and they fit one another."""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from llm2bids.dataset.check_files import check_run_files, check_template, fingerprints
from llm2bids.dataset.layout import DERIVATIVE, list_bolds
from llm2bids.dataset.participants import PARTICIPANTS, disagreement
from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.dataset.settings import is_dataset, read_settings
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
from llm2bids.store.commit import HIDDEN, read_journal, recover, replace_text
from llm2bids.store.files import data_files, inside, walk_files
from llm2bids.store.lock import DatasetLock


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something in a dataset that is not as it was written."""

    file: PurePosixPath
    found: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a check of a dataset found."""

    path: Path
    faults: tuple[Fault, ...]
    n_files: int
    n_runs: int

    @property
    def files(self) -> tuple[PurePosixPath, ...]:
        """Files with a fault, sorted."""
        return tuple(sorted({fault.file for fault in self.faults}))

    def describe(self) -> str:
        """Say what was found, file by file, and what to do."""
        lines = [
            f"{self.path}: {self.n_files} checksums and {self.n_runs} runs checked, "
            f"{len(self.files)} files with faults"
        ]
        of_file: dict[PurePosixPath, list[str]] = defaultdict(list)
        for fault in self.faults:
            of_file[fault.file].append(fault.found)
        for file in self.files:
            lines.append(f"  {file}")
            lines += [f"    {faults}" for faults in of_file[file]]
            lines.append(f"    -> {_advice(self.path, file)}")
        return "\n".join(lines)


def check_dataset(bids_dir: str | Path, *, progress: bool = False) -> Check:
    """Compare a dataset with its checksums, and its files with one another."""
    # checksums find every changed byte; the rest finds what does not fit although the checksums may
    # have been made anew (events, images of another space, another calibration)
    root = Path(bids_dir)
    read_settings(root)
    faults: dict[PurePosixPath, list[str]] = defaultdict(list)
    if has_manifest(root):
        n_files = check_sums(root, faults, progress=progress)
    else:
        n_files = 0
        faults[FOLDER].append("the dataset has no checksums; earlier versions wrote none")
    runs: Sequence[object] = ()
    try:
        dataset = open_dataset(root)
    except Llm2bidsError as error:
        faults[_place_in(root, str(error))].append(str(error))
    else:
        runs = dataset.runs
        expected = fingerprints(dataset)
        for file, text in check_template(dataset, expected):
            faults[file].append(text)
        for run in dataset.runs:
            for file, text in check_run_files(dataset, run, expected):
                faults[file].append(text)
        faults[PARTICIPANTS] += _check_participants(dataset)
    return Check(path=root, faults=faults_of(faults), n_files=n_files, n_runs=len(runs))


def faults_of(faults: Mapping[PurePosixPath, Sequence[str]]) -> tuple[Fault, ...]:
    """List what was found, sorted by file, each text once for a file."""
    return tuple(
        Fault(file=file, found=text)
        for file in sorted(faults)
        for text in dict.fromkeys(faults[file])
    )


def check_sums(root: Path, faults: dict[PurePosixPath, list[str]], *, progress: bool) -> int:
    """Compare all files of a folder with its lists of checksums."""
    if read_journal(root) is not None:
        file = PurePosixPath(HIDDEN)
        faults[file].append("a process was killed while it put a run in place")
    try:
        known = read_manifest(root)
    except Llm2bidsError as error:
        faults[_place_in(root, str(error))].append(str(error))
        return 0
    digests: dict[tuple[int, int], str] = {}
    for file, digest in tqdm(
        sorted(known.items()), desc="checksums", unit="file", file=sys.stderr, disable=not progress
    ):
        try:
            path = inside(root, root / file)
        except Llm2bidsError as error:
            faults[file].append(str(error))
            continue
        if not path.is_file():
            faults[file].append("is missing")
            continue
        status = path.stat()
        same = (status.st_dev, status.st_ino)  # hard links are read once
        if same not in digests:
            digests[same] = sha256_of(path)
        if digests[same] != digest:
            faults[file].append(
                f"sha256 {digests[same][:12]}..., it was written with {digest[:12]}..."
                f"{_damage(path)}"
            )
    for file in sorted(set(_all_files(root)) - known.keys()):
        faults[file].append("has no checksum: llm2bids did not write it, or it was cut off")
    return len(known)


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


def _check_participants(dataset: Dataset) -> list[str]:
    """Compare ``participants.tsv`` with the runs."""
    try:
        text = disagreement(dataset.path, list_bolds(dataset.path), dataset.settings)
    except Llm2bidsError as error:
        return [str(error)]
    return [text] if text else []


def _place_in(root: Path, message: str) -> PurePosixPath:
    """Find the file that a message begins with."""
    name = message.split(": ", 1)[0]
    path = Path(name)
    return (
        PurePosixPath(path.relative_to(root).as_posix())
        if path.is_relative_to(root) and path != root
        else PurePosixPath(".")
    )


def _advice(root: Path, file: PurePosixPath) -> str:
    if not is_dataset(root):
        return "call `llm2bids analyze` as before: results are written anew"
    if file == FOLDER:
        return f"make them with `llm2bids check {root} --accept .`"
    if file == PurePosixPath(HIDDEN):
        return "call the command again that was killed: it goes on where it stopped"
    keep = f"if the change is yours, keep it with `llm2bids check {root} --accept {file}`"
    if any(part.startswith("sub-") for part in file.parts[:-1]):
        return (
            "restore it from a copy, or call `llm2bids record` as before with --overwrite: the "
            f"runs with faults are recorded anew; {keep}"
        )
    return f"restore it from a copy, or record the dataset again into another folder; {keep}"


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
