"""Staging: files are made in a hidden folder of the dataset and take their places by renaming."""

import errno
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Self

from filelock import FileLock, Timeout

from llm2bids.exceptions import DatasetError
from llm2bids.store.checksums import is_edited, list_file, read_list, sha256_of, updated_lists
from llm2bids.store.files import inside
from llm2bids.store.json import read_json, to_json, with_own_keys

# Hidden folder of the dataset: the lock, and files that are being made.
HIDDEN = PurePosixPath(".llm2bids")

_STAGED = HIDDEN / "staging"  # where files are made

# What is being renamed and removed; there only while that is done.
JOURNAL = HIDDEN / "commit.json"

_LOCK = HIDDEN / "lock"


class Staging:
    """Files of one step that appear in a dataset together, with their checksums."""

    # A file system renames one file at a time: `commit` first writes down what is to be renamed and
    # removed, so that a step that is cut off between two renames is finished by `recover`.

    def __init__(self, root: Path, *, overwrite: bool = False) -> None:
        self.root = root
        self.overwrite = overwrite
        self._folder = root / _STAGED
        self._identity = identity(root)
        self._staged: list[PurePosixPath] = []
        self._removed: list[PurePosixPath] = []
        self._merged: set[PurePosixPath] = set()
        self._digests: dict[PurePosixPath, str] = {}  # known before the commit

    def path(self, file: PurePosixPath, *, merged: bool = False) -> Path:
        """Name the file to make for `file`; `merged` if it has all that is in the present one."""
        if file not in self._staged:
            self._check_there()
            self._staged.append(file)
        if merged:
            self._merged.add(file)
        path = self._folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def text(self, file: PurePosixPath, text: str) -> None:
        """Stage a text file in UTF-8."""
        self.path(file).write_text(text, encoding="utf-8", newline="\n")

    def json(self, file: PurePosixPath, content: Mapping[str, Any], *, once: bool = False) -> None:
        """Stage a JSON file; keys that were added to the present one stay; `once`: if new."""
        path = self.root / file
        if once and path.is_file() and not self.overwrite:
            return
        old: Mapping[str, Any] = {}
        with suppress(DatasetError):  # what cannot be read has no keys to keep
            old = read_json(inside(self.root, path))
        merged = with_own_keys(content, old)
        self.path(file, merged=merged == old)
        self.text(file, to_json(merged))

    def link(self, file: PurePosixPath, source: Path) -> None:
        """Stage a hard link, or a copy where links cannot be."""
        _link_or_copy(inside(self.root, source), self.path(file))
        is_staged = source.is_relative_to(self._folder)
        original = source.relative_to(self._folder if is_staged else self.root)
        name = PurePosixPath(original.as_posix())
        known = self._digests if is_staged else read_list(self.root / list_file(name))
        if name in known:
            self._digests[file] = known[name]

    def take(self, file: PurePosixPath, source: Path, digest: str) -> None:
        """Stage a file of another dataset of ours, whose checksum is known."""
        _link_or_copy(source, self.path(file))
        self.hashed(file, digest)

    def hashed(self, file: PurePosixPath, digest: str) -> None:
        """Give the checksum of a staged file that was hashed while it was written."""
        self._digests[file] = digest

    def remove(self, file: PurePosixPath) -> None:
        """Let a file of the dataset go with the commit; nothing happens if it is not there."""
        self._removed.append(file)

    def commit(self, *, last: Collection[PurePosixPath]) -> None:
        """Put all staged files in place, and their checksums in the lists."""
        digests = {
            file: self._digests.get(file) or sha256_of(self._folder / file) for file in self._staged
        }
        if not self.overwrite:
            concerned = (*self._staged, *self._removed)
            refuse_edited(self.root, [p for p in concerned if p not in self._merged])
        lists = updated_lists(self.root, digests, removed=self._removed)
        for name, text in lists.items():
            if text:
                self.text(name, text)
            else:
                self._removed.append(name)
        files = sorted(self._staged, key=lambda file: file in last)
        for file in (*files, *self._removed):
            inside(self.root, self.root / file)
        self._check_there()
        journal = {"put": [str(p) for p in files], "remove": [str(p) for p in self._removed]}
        self._folder.mkdir(parents=True, exist_ok=True)  # nothing is staged where files only go
        written = self._folder / "journal.json"
        staged = [self._folder / file for file in files]
        with _made_folders(_folders([self.root / file for file in files], self.root)):
            written.write_text(json.dumps(journal), encoding="utf-8")
            to_disk([*staged, written, *_folders(staged, self.root)])
            written.replace(self.root / JOURNAL)
        to_disk([self.root / HIDDEN])
        recover(self.root)

    def _check_there(self) -> None:
        if self._identity is None or identity(self.root) != self._identity:
            raise vanished(self.root)


@contextmanager
def staging(
    root: Path, *, doing: str, overwrite: bool = False, last: Collection[PurePosixPath] = ()
) -> Iterator[Staging]:
    """Stage files and put them in place at the end, all or none; `last` after the others."""
    try:
        stage = Staging(root, overwrite=overwrite)
        clear_staging(root)
        yield stage
        stage.commit(last=last)
    except BaseException as error:
        with suppress(OSError, DatasetError):  # the first error is the one to tell
            recover(root)
        if isinstance(error, OSError):
            raise failed_write(root, error, doing=doing) from error
        raise


def recover(root: Path) -> None:
    """Finish a commit that was cut off between two renames, and remove what else was staged."""
    journal = read_journal(root) or {"put": [], "remove": []}
    try:
        for file in journal["put"]:
            staged = inside(root / _STAGED, root / _STAGED / file)
            if staged.is_file():
                target = inside(root, root / file)
                target.parent.mkdir(parents=True, exist_ok=True)
                staged.replace(target)
        for file in journal["remove"]:
            inside(root, root / file).unlink(missing_ok=True)
        targets = [root / file for name in ("put", "remove") for file in journal[name]]
        to_disk(_folders(targets, root))
        (root / JOURNAL).unlink(missing_ok=True)
    except OSError as error:
        raise failed_write(root, error, doing="putting files in place") from error
    clear_staging(root)


def read_journal(root: Path) -> dict[str, list[str]] | None:
    """Read what a commit that was cut off was about to do."""
    try:
        journal = json.loads((root / JOURNAL).read_text(encoding="utf-8"))
        return {name: [str(file) for file in journal[name]] for name in ("put", "remove")}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{root / JOURNAL}: not readable ({error}); delete it: what was being written is then "
            "made anew"
        ) from None


def clear_staging(root: Path) -> None:
    """Remove what a killed process left in the hidden folder, unless `recover` needs it."""
    if not (root / JOURNAL).exists():
        shutil.rmtree(inside(root, root / _STAGED), ignore_errors=True)


def refuse_edited(root: Path, files: Collection[PurePosixPath]) -> None:
    """Refuse to replace or remove files that were changed after llm2bids wrote them."""
    known: dict[PurePosixPath, str] = {}
    for name in {list_file(file) for file in files}:
        known |= read_list(root / name)
    edited = [file for file in files if is_edited(root, file, known)]
    if edited:
        more = f" and {len(edited) - 1} more" if len(edited) > 1 else ""
        raise DatasetError(
            f"{root / edited[0]}{more}: changed after llm2bids wrote it (its sha256 is not the one "
            f"in {list_file(edited[0])}); nothing was overwritten. Restore the file; or keep your "
            f"change with `llm2bids check {root} --accept {edited[0]}`; or lose it with --overwrite"
        )


def failed_write(root: Path, error: OSError, *, doing: str) -> DatasetError:
    """Say why something could not be written, and what to do."""
    again = "and call the command again: it goes on where it stopped"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DatasetError(
            f"{root}: no space left on the disk while {doing}; nothing half-written was kept. "
            f"Make room {again}"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return DatasetError(
            f"{error.filename or root}: cannot be written ({error.strerror}) while {doing}; make "
            f"the folder writable {again}"
        )
    if error.errno == errno.ENOENT and not root.is_dir():
        return vanished(root)
    return DatasetError(
        f"{error.filename or root}: {error.strerror or error} while {doing}; nothing half-written "
        f"was kept. Mend that {again}"
    )


def identity(path: Path) -> tuple[int, int] | None:
    """Tell a file or folder from another of its name; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def vanished(root: Path) -> DatasetError:
    """Say that a folder is not the one that was being written."""
    return DatasetError(
        f"{root}: the folder was removed, moved or replaced while it was being written; nothing "
        "more was written. Put it back and call the command again, or name another folder"
    )


def replace_text(path: Path, text: str) -> None:
    """Write a text file anew in one step, or remove it where the text is empty."""
    if not text:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, contents: bytes) -> None:
    """Write a file anew in one step, in a folder that is there; nothing is left where it fails."""
    staged = path.with_name(f".{path.name}.part")
    try:
        staged.write_bytes(contents)
        staged.replace(path)
    except OSError as error:
        with suppress(OSError):
            staged.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None


def to_disk(paths: Iterable[Path]) -> None:
    """Wait until the disk has files, or the names in folders."""
    for path in paths:
        try:
            opened = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, PermissionError):
            continue
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _folders(paths: Iterable[Path], root: Path) -> list[Path]:
    """List the folders of files, up to the dataset's, from the inside."""
    folders = {folder for path in paths for folder in path.parents if folder.is_relative_to(root)}
    return sorted(folders, reverse=True)


@contextmanager
def _made_folders(folders: Sequence[Path]) -> Iterator[None]:
    """Make folders, listed from the inside, so that renaming into them needs no room on the disk.

    Those that are new go again where what follows fails.
    """
    new = [folder for folder in folders if not folder.exists()]
    try:
        for folder in reversed(new):
            folder.mkdir()
        yield
    except BaseException:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()
        raise


def _link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link, or a copy where links cannot be."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        shutil.copyfile(source, target)


def check_space(root: Path, *, needed: int, doing: str) -> None:
    """Refuse to begin what the disk has no room for."""
    free = shutil.disk_usage(root).free
    if free < needed:
        raise DatasetError(
            f"{root}: {doing} needs about {needed / 1e6:.1f} MB, the disk has {free / 1e6:.1f} MB "
            "free; make room, or record fewer sites (--sites) or participants"
        )


class DatasetLock:
    """The lock of a dataset, held from now on."""

    # the operating system takes a lock back when its process ends, however it ends; where the file
    # system has none, filelock writes the host and the process into the file instead

    def __init__(self, root: Path, *, timeout: float = 0) -> None:
        self._root = root
        path = inside(root, root / _LOCK)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # not bound to a thread: a run may be written while the next one is recorded
            self._lock = FileLock(path, timeout=timeout, thread_local=False)
            self._lock.acquire()
            self._identity = identity(path)
        except Timeout:
            raise DatasetError(
                f"{root} is being written by another process; wait until it is done, or end it"
            ) from None
        except NotImplementedError as error:
            raise DatasetError(
                f"{root}: its file system has no locks ({error}); a newer filelock does without: "
                "pip install -U filelock, or write on another disk"
            ) from error
        except OSError as error:
            raise failed_write(root, error, doing="locking the dataset") from error

    def check(self) -> None:
        """Refuse to go on when the lock does not protect the folder that is there."""
        if not self._lock.is_locked:
            raise DatasetError(f"{self._root}: the dataset was closed; open it again to write")
        if self._identity is None or identity(self._root / _LOCK) != self._identity:
            raise vanished(self._root)

    def release(self) -> None:
        """Let others write."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
