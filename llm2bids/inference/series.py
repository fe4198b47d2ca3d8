"""The series of a run: units' volumes a few at a time, averaged by prompt, or held unit by unit."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nilearn.image import smooth_img

from llm2bids.exceptions import InferenceError
from llm2bids.space.grid import GridImage, open_image

Blocks = Iterable[tuple[int, npt.NDArray[np.float32]]]
"""First volume's index and values (n_volumes, n_units), block after block."""

COPIES = 8
"""Float64 copies of a block that a fit holds at its peak (measured with nilearn 0.14: 6 to 8)."""


def unit_volumes(
    series: GridImage,
    voxels: npt.NDArray[np.integer[Any]],
    *,
    smoothing_fwhm: float | None = None,
    n_volumes: int = 8,
) -> Blocks:
    """Read the volumes of units at voxels (n_units, 3), in their order, smoothed if asked."""
    largest = voxels.max(axis=0, initial=0)
    if (largest >= series.shape[:3]).any():
        raise InferenceError(
            f"{series.label}: grid {series.shape[:3]} has no voxel {tuple(largest.tolist())}; "
            "expected the grid of the space; give an image of the same space"
        )
    if smoothing_fwhm is None:
        for start, values in series.at(voxels, n_volumes):
            yield start, values.astype(np.float32)
        return
    for start, block in series.blocks(n_volumes):
        volumes = smoothed(block.T.astype(np.float32), series.affine, smoothing_fwhm)
        yield start, np.asarray(volumes[tuple(voxels.T)].T, dtype=np.float32)


def smoothed(
    volumes: npt.NDArray[np.floating[Any]], affine: npt.NDArray[np.float64], fwhm: float
) -> npt.NDArray[Any]:
    """Smooth volumes (n_x, n_y, n_z, n) with nilearn, `fwhm` in millimetres."""
    return open_image(smooth_img(nib.Nifti1Image(volumes, affine), fwhm)).read()


def prompt_means(
    blocks: Blocks,
    trials: npt.NDArray[np.int64],
    n_units: int,
    *,
    n_tokens: Sequence[int | None] = (None,),
) -> list[npt.NDArray[np.float64]]:
    """Average the volumes of each trial while they stream by: arrays (n_trials, n_units).

    `trials` numbers the trial of each volume from 0. One array for each of `n_tokens`: of the first
    so many volumes of a trial, or of all (None).

    >>> volumes = np.array([[1, 2], [3, 4], [9, 9]], dtype=np.float32)
    >>> trials = np.array([0, 0, 1])
    >>> prompt_means([(0, volumes[:2]), (2, volumes[2:])], trials, 2, n_tokens=[None, 1])
    [array([[2., 3.],
           [9., 9.]]), array([[1., 2.],
           [9., 9.]])]
    """
    counts = np.bincount(trials)
    done = np.zeros_like(counts)
    ends = [counts if limit is None else np.minimum(counts, limit) for limit in n_tokens]
    means = [np.empty((counts.size, n_units)) for _ in n_tokens]
    sums: dict[int, npt.NDArray[np.float64]] = {}  # of the trials that have begun
    for start, values in blocks:
        for row, trial in enumerate(trials[start : start + len(values)].tolist()):
            if trial in sums:
                sums[trial] += values[row]
            else:
                sums[trial] = values[row].astype(np.float64)
            done[trial] += 1
            for mean, end in zip(means, ends, strict=True):
                if done[trial] == end[trial]:
                    np.divide(sums[trial], end[trial], out=mean[trial])
            if done[trial] == counts[trial]:
                del sums[trial]
    return means


def block_edges(n_units: int, n_observations: int, *, mem_gb: float | None) -> npt.NDArray[np.intp]:
    """Split the units so that fitting one block stays within the memory, (n_blocks + 1,).

    >>> block_edges(10, 1000, mem_gb=0.000256)
    array([ 0,  4,  8, 10])
    >>> block_edges(10, 1000, mem_gb=None)
    array([ 0, 10])
    """
    if mem_gb is None:
        return np.array([0, n_units])
    size = max(1, int(mem_gb * 1e9 / (8 * COPIES * n_observations)))
    return np.array([*range(0, n_units, size), n_units])


@dataclass(frozen=True, kw_only=True)
class Transposed:
    """A run in a scratch file: block after block of units, float32 (n_volumes, units of the block).

    `edges`: of the blocks, (n_blocks + 1,).
    """

    path: Path
    edges: npt.NDArray[np.intp]
    n_volumes: int

    def write(self, blocks: Blocks) -> None:
        """Fill the file."""
        with self.path.open("wb") as stream:
            for start, values in blocks:
                for block in range(self.edges.size - 1):
                    low, high = self.edges[block], self.edges[block + 1]
                    stream.seek(4 * (low * self.n_volumes + start * (high - low)))
                    stream.write(np.ascontiguousarray(values[:, low:high]).tobytes())

    def read(self, block: int) -> npt.NDArray[np.float32]:
        """Read all volumes of one block of units."""
        low, high = (int(edge) for edge in self.edges[block : block + 2])
        count, offset = self.n_volumes * (high - low), 4 * low * self.n_volumes
        return np.fromfile(self.path, np.float32, count, offset=offset).reshape(-1, high - low)


@contextmanager
def transposed(
    blocks: Blocks, edges: npt.NDArray[np.intp], n_volumes: int, *, work_dir: Path | None = None
) -> Iterator[Transposed]:
    """Hold a run in a scratch file that is removed at the end."""
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="llm2bids-", dir=work_dir) as folder:
        run = Transposed(path=Path(folder) / "series.f32", edges=edges, n_volumes=n_volumes)
        run.write(blocks)
        yield run
