"""Running prompts in batches that fit into memory, into arrays that are used again."""

import logging
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.model.units import Site

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
OnToken = Callable[[int], Any]

# Prompts in a batch, where the caller names none: two runs of 24 take a fifth less processor time
# together than alone, and more runs gain nothing further in float32.
DEFAULT_BATCH_SIZE = 64

# Bytes of the values of a batch of runs that are held in memory; more lie in a scratch file.
LARGEST = 1 << 30


def check_batch_size(batch_size: int | None) -> None:
    """Refuse a batch without prompts."""
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch size {batch_size}: expected 1 or more prompts")


def in_batches(
    n_prompts: int,
    work: Callable[[slice, OnToken], Result],
    *,
    batch_size: int | None = None,
    on_token: OnToken | None = None,
) -> Iterator[tuple[int, Result]]:
    """Work through prompts batch by batch, halving the batch when memory does not suffice.

    `work` does a slice of the prompts and can be called again after a ``MemoryError``. Yields the
    size of the batches by then and what `work` returned.
    """
    check_batch_size(batch_size)
    size = min(batch_size or DEFAULT_BATCH_SIZE, max(n_prompts, 1))
    start = reported = 0

    def tell(volumes: int) -> None:
        nonlocal reported
        reported += volumes
        if on_token is not None:
            on_token(volumes)

    while start < n_prompts:
        reported = 0
        part = slice(start, min(start + size, n_prompts))
        try:
            result = work(part, tell)
        except MemoryError as error:
            if size == 1:
                raise RecordingError(
                    f"prompt {start}: memory does not suffice even for one prompt ({error}); use "
                    "--dtype bfloat16, fewer sites, another --device, or a smaller model"
                ) from None
            tell(-reported)
            size = max(1, (part.stop - part.start) // 2)
            logger.warning("memory does not suffice; going on with batches of %d prompts", size)
            continue
        yield size, result
        start = part.stop


def check_finite(
    values: npt.NDArray[np.float32], sites: Sequence[Site], prompt_ids: Sequence[str], first: int
) -> None:
    """Stop where a value is NaN or infinite."""
    for prompt, step in np.ndindex(values.shape[:2]):
        row = values[prompt, step]
        with np.errstate(over="ignore", invalid="ignore"):
            # one pass without a temporary array; the rare overflow of a sum is looked at below
            if np.isfinite(row.sum()):
                continue
        bad = np.flatnonzero(~np.isfinite(row))
        if not bad.size:
            continue
        ends = np.cumsum([site.width for site in sites])
        index = int(np.searchsorted(ends, bad[0], side="right"))
        unit = int(bad[0] - ends[index] + sites[index].width)
        raise RecordingError(
            f"module {sites[index].name}, unit {unit}: value {row[bad[0]]} at prompt "
            f"{prompt_ids[prompt]}, generated token {step + first} ({bad.size} units of this "
            "token); expected finite values: --dtype float32 has a wider range, or leave the "
            "module out with --sites"
        )


class RunBuffers:
    """Two arrays in turn: handed out for a whole dataset, so that memory is asked for twice only.

    Values beyond `LARGEST` lie in a file without a name in the dataset's folder: the system takes
    its pages back when memory is short, and the file is gone when the process is, whatever happens.
    """

    def __init__(self, folder: Path, device: str, *, largest: int = LARGEST) -> None:
        self._folder, self._device, self._largest = folder, device, largest
        self._arrays: list[npt.NDArray[np.float32] | None] = [None, None]

    def take(self, n_volumes: int, n_units: int) -> npt.NDArray[np.float32]:
        """Hand out the array that was handed out the time before the last."""
        from llm2bids.model.hooks import new_values

        array = self._arrays.pop(0)
        if array is None or len(array) < n_volumes or array.shape[1] != n_units:
            array = None  # given back before the next one is asked for
            if 4 * n_volumes * n_units <= self._largest:
                array = new_values((n_volumes, n_units), self._device)
            else:
                array = mapped_values(n_volumes, n_units, self._folder)
        self._arrays.append(array)
        return array[:n_volumes]


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
