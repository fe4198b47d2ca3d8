"""Blocks of voxels: a run read volume by volume, fitted voxel block by voxel block."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

COPIES = 8
"""Float64 copies of a block that a fit holds at its peak (measured with nilearn 0.14: 6 to 8)."""


def block_edges(
    n_voxels: int, n_observations: int, *, mem_gb: float | None
) -> npt.NDArray[np.int64]:
    """Split the voxels so that fitting one block stays within the memory, (n_blocks + 1,).

    Examples
    --------
    >>> block_edges(10, 1000, mem_gb=0.000256)
    array([ 0,  4,  8, 10])
    >>> block_edges(10, 1000, mem_gb=None)
    array([ 0, 10])
    """
    if mem_gb is None:
        return np.array([0, n_voxels])
    size = max(1, int(mem_gb * 1e9 / (8 * COPIES * n_observations)))
    return np.array([*range(0, n_voxels, size), n_voxels])


@dataclass(frozen=True, kw_only=True)
class Transposed:
    """A run in a scratch file, one block of voxels after the other."""

    # the file: for each block of voxels a float32 array (n_volumes, voxels of the block)
    path: Path
    edges: npt.NDArray[np.int64]  # (n_blocks + 1,): Edges of the blocks
    n_volumes: int  # volumes of the run

    def write(self, blocks: Iterable[tuple[int, npt.NDArray[np.float32]]]) -> None:
        """Fill the file from blocks of volumes; blocks (n, n_voxels)."""
        with self.path.open("wb") as stream:
            for start, values in blocks:
                for block in range(self.edges.size - 1):
                    low, high = self.edges[block], self.edges[block + 1]
                    stream.seek(self._offset(block, start))
                    stream.write(np.ascontiguousarray(values[:, low:high]).tobytes())

    def read(self, block: int) -> npt.NDArray[np.float32]:
        """Read all volumes of one block of voxels, (n_volumes, voxels of the block)."""
        width = int(self.edges[block + 1] - self.edges[block])
        with self.path.open("rb") as stream:
            values = _read(stream, self._offset(block, 0), self.n_volumes * width)
        return values.reshape(self.n_volumes, width)

    def _offset(self, block: int, volume: int) -> int:
        width = int(self.edges[block + 1] - self.edges[block])
        return 4 * (int(self.edges[block]) * self.n_volumes + volume * width)


def _read(stream: BinaryIO, offset: int, count: int) -> npt.NDArray[np.float32]:
    stream.seek(offset)
    return np.frombuffer(stream.read(4 * count), dtype=np.float32)


@contextmanager
def transposed(
    blocks: Iterable[tuple[int, npt.NDArray[np.float32]]],
    edges: npt.NDArray[np.int64],
    n_volumes: int,
    *,
    work_dir: Path | None = None,
) -> Iterator[Transposed]:
    """Hold a run in a scratch file that is removed at the end.

    Shapes: blocks (n, n_voxels), edges (n_blocks + 1,).
    """
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="llm2bids-", dir=work_dir) as folder:
        run = Transposed(path=Path(folder) / "series.f32", edges=edges, n_volumes=n_volumes)
        run.write(blocks)
        yield run


def prompt_means(
    blocks: Iterable[tuple[int, npt.NDArray[np.float32]]],
    trials: npt.NDArray[np.int64],
    n_voxels: int,
    *,
    n_tokens: Sequence[int | None] = (None,),
) -> list[npt.NDArray[np.float64]]:
    """Average the volumes of each trial while they stream by: arrays (n_trials, n_voxels).

    `blocks` are first volumes and values (n, n_voxels); `trials` numbers the trial of each volume
    from 0. One array for each of `n_tokens`: of the first so many volumes, or of all (None).

    Examples
    --------
    >>> volumes = np.array([[1, 2], [3, 4], [9, 9]], dtype=np.float32)
    >>> trials = np.array([0, 0, 1])
    >>> prompt_means([(0, volumes[:2]), (2, volumes[2:])], trials, 2, n_tokens=[None, 1])
    [array([[2., 3.],
           [9., 9.]]), array([[1., 2.],
           [9., 9.]])]
    """
    counts = np.bincount(trials)
    done = np.zeros_like(counts)
    sums = [np.zeros((counts.size, n_voxels)) for _ in n_tokens]
    for start, values in blocks:
        for row, trial in enumerate(trials[start : start + len(values)]):
            for part, limit in zip(sums, n_tokens, strict=True):
                if limit is None or done[trial] < limit:
                    part[trial] += values[row]
            done[trial] += 1
    for part, limit in zip(sums, n_tokens, strict=True):
        part /= (counts if limit is None else np.minimum(counts, limit))[:, np.newaxis]
    return sums
