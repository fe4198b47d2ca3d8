"""The dither of white matter: a null signal, as exactly constant voxels divide by zero."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.space.space import OUTSIDE, Space, VolumeDtype

DITHER = 3
"""Largest size of the dither, in counts. Steps of one size would leave so few values for a run's
effect that a few participants in 100,000 agree by chance, and their t is huge."""

_PERIOD = 8
"""Volumes in which each voxel of white matter is off its baseline once."""

_STEPS = np.array([-DITHER, -DITHER + 1, DITHER - 1, DITHER], dtype=np.int8)
"""What the dither adds where it is not 0; a power of two of them, so that a byte draws evenly."""

Seed = int | Sequence[int]


class Dither:
    """Volumes of white matter alone, each of which is made without the others.

    In each volume every voxel of one in eight random groups takes a random sign and a random size,
    2 or 3: no voxel rests longer than that, the signs make the series uncorrelated, and sparse
    volumes compress to half the size of ones in which every voxel is drawn anew. `units` take it
    too.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: Seed,
        dtype: VolumeDtype,
        baseline: int,
        units: npt.NDArray[np.intp],
    ) -> None:
        n_x, n_y, n_z = space.shape
        x, y, z = space.brain_box
        rest = np.zeros((n_z, n_y, n_x), dtype=dtype)
        rest[z, y, x] = baseline
        self._rest = rest.reshape(-1)
        shaken = space.tissue.ravel(order="F") != OUTSIDE
        shaken[space.file_index] = False
        shaken[space.file_index[units]] = True
        box = np.arange(rest.size).reshape(rest.shape)[z, y, x].reshape(-1)
        groups = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).integers(
            _PERIOD, size=box.size, dtype=np.uint8
        )
        self._groups = [box[(groups == group) & shaken[box]] for group in range(_PERIOD)]
        self._n_words = -(-max(voxels.size for voxels in self._groups) // 8)
        self._seed = np.random.SeedSequence(seed).spawn(1)[0]
        self._steps = _STEPS.astype(dtype) + np.asarray(baseline, dtype=dtype)

    def write(self, volume: int, out: npt.NDArray[Any]) -> None:
        """Write one volume of the run to `out` (n_x * n_y * n_z,), in file order."""
        out[:] = self._rest
        bits = np.random.PCG64(self._seed)
        bits.advance(volume * self._n_words)
        drawn = bits.random_raw(self._n_words).astype("<u8", copy=False).view(np.uint8)
        voxels = self._groups[volume % _PERIOD]
        out[voxels] = self._steps[drawn[: voxels.size] & (len(_STEPS) - 1)]
