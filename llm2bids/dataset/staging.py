"""Staging: files are made in a hidden folder of the dataset and take their places by renaming."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from llm2bids.exceptions import DatasetError

HIDDEN = PurePosixPath(".llm2bids")
"""Hidden folder of the dataset: the lock, and files that are being made."""


class Staging:
    """Files of one step that appear in a dataset together.

    Parameters
    ----------
    root : Path
        The dataset.

    Notes
    -----
    A file system renames one file at a time. A step that is cut off between two renames leaves
    some of its files; so `commit` takes last the file whose presence says that all are there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / HIDDEN / "staging"
        self._staged: list[PurePosixPath] = []

    def path(self, place: PurePosixPath) -> Path:
        """Name the file under which to make what belongs to `place`.

        Parameters
        ----------
        place : PurePosixPath
            Place in the dataset, relative to it.

        Returns
        -------
        Path
            Place in the hidden folder; its parent exists.
        """
        if place not in self._staged:
            self._staged.append(place)
        path = self._folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def text(self, place: PurePosixPath, text: str) -> None:
        """Stage a text file in UTF-8.

        Parameters
        ----------
        place : PurePosixPath
            Place in the dataset.
        text : str
            Content.
        """
        self.path(place).write_text(text, encoding="utf-8", newline="\n")

    def link(self, place: PurePosixPath, source: Path) -> None:
        """Stage a hard link, or a copy where links cannot be.

        Parameters
        ----------
        place : PurePosixPath
            Place in the dataset.
        source : Path
            An existing file, staged or in place.
        """
        link_or_copy(source, self.path(place))

    def places(self) -> tuple[PurePosixPath, ...]:
        """List the places of all staged files, in the order of staging."""
        return tuple(self._staged)

    def commit(self, *, last: PurePosixPath) -> None:
        """Put all staged files in place.

        Parameters
        ----------
        last : PurePosixPath
            Staged file that is put in place after all others.

        Raises
        ------
        DatasetError
            If `last` is not staged.
        """
        if last not in self._staged:
            raise DatasetError(f"{last} was not made; nothing was put in place")
        for place in [*(place for place in self._staged if place != last), last]:
            target = self._root / place
            target.parent.mkdir(parents=True, exist_ok=True)
            (self._folder / place).replace(target)
        self._staged.clear()


@contextmanager
def staging(root: Path, *, doing: str) -> Iterator[Staging]:
    """Stage files; the hidden folder is gone afterwards, whatever happens.

    Parameters
    ----------
    root : Path
        The dataset.
    doing : str
        What is being done, for the message, e.g. ``"writing sub-01 task-rest"``.

    Yields
    ------
    Staging
        Where files are made. Without `Staging.commit` nothing of them stays.

    Raises
    ------
    DatasetError
        If the disk is full.
    """
    clear_staging(root)
    try:
        yield Staging(root)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DatasetError(
            f"{root}: no space left on the disk while {doing}; nothing half-written was kept. "
            "Make room and call the command again: it goes on where it stopped"
        ) from error
    finally:
        clear_staging(root)


def clear_staging(root: Path) -> None:
    """Remove what a killed process left in the hidden folder.

    Parameters
    ----------
    root : Path
        The dataset.
    """
    shutil.rmtree(root / HIDDEN / "staging", ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link, or a copy where links cannot be.

    Parameters
    ----------
    source : Path
        An existing file.
    target : Path
        The new name, on any file system.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        shutil.copyfile(source, target)


def check_space(root: Path, *, needed: int, doing: str) -> None:
    """Refuse to begin what the disk has no room for.

    Parameters
    ----------
    root : Path
        The dataset.
    needed : int
        Bytes.
    doing : str
        What needs them, for the message.

    Raises
    ------
    DatasetError
        If there is less room; the message has both figures.
    """
    free = shutil.disk_usage(root).free
    if free < needed:
        raise DatasetError(
            f"{root}: {doing} needs about {needed / 1e6:.1f} MB, the disk has {free / 1e6:.1f} MB "
            "free; make room, or record fewer sites (--sites) or participants"
        )
