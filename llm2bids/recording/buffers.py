"""Arrays that runs are recorded into in turn: one is written while the next one fills."""

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

LARGEST = 1 << 30
"""Bytes of the values of a batch of runs that are held in memory; more lie in a scratch file."""


class RunBuffers:
    """Two arrays in turn: handed out for a whole dataset, so that memory is asked for twice only.

    Values beyond `LARGEST` lie in a file without a name in the dataset's folder: the system takes
    its pages back when memory is short, and the file is gone when the process is, whatever happens.

    Examples
    --------
    >>> buffers = RunBuffers(Path(), "cpu")
    >>> first, second, third = (buffers.take(3, 2) for _ in range(3))
    >>> first.shape, np.shares_memory(first, second), np.shares_memory(first, third)
    ((3, 2), False, True)
    """

    def __init__(self, folder: Path, device: str, *, largest: int = LARGEST) -> None:
        self._folder, self._device, self._largest = folder, device, largest
        self._arrays: list[npt.NDArray[np.float32] | None] = [None, None]

    def take(self, n_volumes: int, n_units: int) -> npt.NDArray[np.float32]:
        """Hand out the array that was handed out the time before the last."""
        array = self._arrays.pop(0)
        if array is None or len(array) < n_volumes or array.shape[1] != n_units:
            array = None  # given back before the next one is asked for
            array = self._new(n_volumes, n_units)
        self._arrays.append(array)
        return array[:n_volumes]

    def _new(self, n_volumes: int, n_units: int) -> npt.NDArray[np.float32]:
        from llm2bids.model.hooks import new_values

        if 4 * n_volumes * n_units <= self._largest:
            return new_values((n_volumes, n_units), self._device)
        return mapped_values(n_volumes, n_units, self._folder)


def mapped_values(n_volumes: int, n_units: int, folder: Path) -> npt.NDArray[np.float32]:
    """Allocate an array in a scratch file that has no name."""
    folder.mkdir(parents=True, exist_ok=True)
    n_bytes = 4 * n_volumes * n_units
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is found now, not by a bus error
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:
            file.truncate(n_bytes)
        memory = mmap.mmap(file.fileno(), n_bytes)
    return np.frombuffer(memory, dtype=np.float32).reshape(n_volumes, n_units)
