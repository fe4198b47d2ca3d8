"""The dither of white matter: a null signal, as exactly constant voxels divide by zero."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llm2bids.space.space import Space

DITHER = 3
"""Largest size of the dither, in counts. Steps of one size would leave so few values for a run's
effect that a few participants in 100,000 agree by chance, and their t is huge."""

_STEPS = np.array([-DITHER, -DITHER + 1, DITHER - 1, DITHER], dtype=np.int8)
"""What the dither adds; a power of two of them, so that a byte draws evenly."""

Seed = int | Sequence[int]
Steps = npt.NDArray[np.int8]


class Dither:
    """Steps of each volume of a run, made without the others: 2 or 3 counts up or down, at random.

    A row of voxels along x takes one step: thousands of independent series, and long runs of equal
    counts, which deflate in half the time and two thirds of the bytes of voxels that are drawn one
    by one. `n_constant` units take a step each.
    """

    def __init__(self, space: Space, *, seed: Seed, n_constant: int) -> None:
        _, y, z = space.brain_box
        self.rows = (z.stop - z.start, y.stop - y.start)
        self._n_rows, self._n = self.rows[0] * self.rows[1], n_constant
        self._n_words = -(-(self._n_rows + n_constant) // 8)
        self._seed = np.random.SeedSequence(seed)

    def steps(self, volume: int) -> tuple[Steps, Steps]:
        """Draw the steps of a volume's rows, (n_z, n_y) of the brain, and of constant units."""
        drawn = self._drawn(volume)
        if volume == 1:  # the other size than in the first volume: nothing is ever constant
            drawn = drawn ^ (_size(drawn) == _size(self._drawn(0)))
        steps = _STEPS[drawn]
        rows, units = steps[: self._n_rows], steps[self._n_rows : self._n_rows + self._n]
        return rows.reshape(self.rows), units

    def _drawn(self, volume: int) -> npt.NDArray[np.uint8]:
        bits = np.random.PCG64(self._seed)
        bits.advance(volume * self._n_words)
        drawn = bits.random_raw(self._n_words).astype("<u8", copy=False).view(np.uint8)
        return np.asarray(drawn & np.uint8(len(_STEPS) - 1))


def _size(drawn: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Give 0 where the step that was drawn is the larger one, 1 where it is the smaller."""
    return np.asarray((drawn ^ (drawn >> np.uint8(1))) & np.uint8(1))
