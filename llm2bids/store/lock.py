"""The lock of a dataset: one process writes at a time, and the lock of a dead one does not hold."""

from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from llm2bids.exceptions import DatasetError
from llm2bids.store.commit import HIDDEN, failed_write, identity, vanished
from llm2bids.store.files import inside

_LOCK = HIDDEN / "lock"


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
