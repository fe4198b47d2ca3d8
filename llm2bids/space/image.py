"""Values of units <-> volumes of counts, with white matter that carries a dither.

A count is ``10000 + gain * (value - mean) / sd`` with the calibration's gain, mean and sd. White
matter lies at 10000. White matter and units that do not vary within a run take a dither of at most
3 counts, drawn from the run's seed: exactly constant voxels make statistics divide by zero. Outside
the brain there is 0.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import SpaceError
from llm2bids.recording.calibration import Calibration
from llm2bids.space.space import Space, VolumeDtype

BASELINE = 10000  # count of a unit at its calibration mean, and of white matter

# Largest size of the dither, in counts. Steps of one size would leave so few values for a run's
# effect that a few participants in 100,000 agree by chance, and their t is huge.
DITHER = 3

# What the dither adds; a power of two of them, so that a byte draws evenly.
_STEPS = np.array([-DITHER, -DITHER + 1, DITHER - 1, DITHER], dtype=np.int8)

Seed = int | Sequence[int]
Steps = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]


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


def constant_units(
    values: npt.NDArray[np.floating[Any]], calibration: Calibration, *, dtype: VolumeDtype = "int16"
) -> npt.NDArray[np.bool_]:
    """Find units (n_units,) whose stored counts do not vary in values (n_tokens, n_units)."""
    if len(values) < 2:
        return np.zeros(values.shape[1:], dtype=np.bool_)
    mean, gain = calibration.mean, _gain(calibration)
    first = _to_counts(values[0], mean, gain, dtype)[0]
    still = np.arange(values.shape[1])  # all but few vary from one volume to the next
    for row in values[1:]:
        counts, _ = _to_counts(row[still], mean[still], gain[still], dtype)
        still = still[counts == first[still]]
        if not still.size:
            break
    constant = np.zeros(values.shape[1], dtype=np.bool_)
    constant[still] = True
    return constant


class SeriesEncoder:
    """Turns the values (n_tokens, n_units) of a run into volumes; then knows what came of it."""

    def __init__(
        self,
        values: npt.NDArray[np.floating[Any]],
        space: Space,
        calibration: Calibration,
        *,
        seed: Seed,
        dtype: VolumeDtype = "int16",
    ) -> None:
        self._values, self._space, self._dtype = values, space, dtype
        self._mean, self._gain = calibration.mean, _gain(calibration)
        self._still = np.flatnonzero(constant_units(values, calibration, dtype=dtype))
        self._dither = Dither(space, seed=seed, n_constant=self._still.size)
        self.constant = int(self._still.size)  # units that do not vary, and take the dither
        self.clipped = 0  # values beyond the range of the stored type, set to its border
        # sums: less than half of the voxels are units, and a row of white matter is one number
        self._units = np.zeros(space.n_units, dtype=np.float64)
        self._rows = np.zeros(self._dither.rows, dtype=np.int64)

    def blocks(self, n_volumes: int = 16, *, n_jobs: int = 1) -> Iterator[npt.NDArray[Any]]:
        """Give the volumes (n, n_z, n_y, n_x) of counts, x fastest, made in `n_jobs` threads.

        The array is the same one each time: the next block overwrites it. ``volumes.T`` is the
        array that nibabel takes.
        """
        values = self._values
        # fresh memory costs more than what is written to it: one array serves all blocks
        shape = min(n_volumes, len(values)), *self._space.shape[::-1]
        volumes = np.zeros(shape, dtype=self._dtype)
        with ThreadPoolExecutor(n_jobs, thread_name_prefix="llm2bids-encode") as pool:
            in_threads = pool.map if n_jobs > 1 else map  # one thread is this one
            for start in range(0, len(values), n_volumes):
                rows = values[start : start + n_volumes]
                share = -(-len(rows) // n_jobs)
                cuts = range(0, len(rows), share)
                encoded = in_threads(
                    self._encode,
                    [rows[cut : cut + share] for cut in cuts],
                    [volumes[cut : min(cut + share, len(rows))] for cut in cuts],
                    [start + cut for cut in cuts],
                )
                for clipped, units, white in encoded:
                    self.clipped += clipped
                    self._units += units
                    self._rows += white
                yield volumes[: len(rows)]

    def mean(self) -> npt.NDArray[np.float64]:
        """Make the mean of all volumes (n_z, n_y, n_x)."""
        space, n = self._space, len(self._values)
        mean = np.zeros(space.shape[::-1], dtype=np.float64)
        mean[space.brain_box[::-1]] = ((n * BASELINE + self._rows) / n)[..., np.newaxis]
        mean.reshape(-1)[space.file_index] = self._units / n
        return mean

    def _encode(
        self, values: npt.NDArray[np.floating[Any]], volumes: npt.NDArray[Any], first_volume: int
    ) -> tuple[int, npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Encode rows into volumes that are 0 outside the brain; count what is clipped, sum up."""
        space, still, brain = self._space, self._still, self._space.brain_box[::-1]
        work = np.empty(space.n_units, dtype=np.float32)
        stored = np.empty(space.n_units, dtype=self._dtype)
        # 65,538 volumes fit into 32 bits: far more than a block has
        kind = np.int32 if self._dtype == "int16" else np.float64
        sums: npt.NDArray[Any] = np.zeros(space.n_units, dtype=kind)
        white = np.zeros(self._dither.rows, dtype=np.int64)
        clipped = 0
        for index, (row, volume) in enumerate(zip(values, volumes, strict=True), first_volume):
            _, n_clipped = _to_counts(row, self._mean, self._gain, self._dtype, out=work)
            if n_clipped:
                _refuse_not_finite(row, space, index)
                clipped += n_clipped
            rows, units = self._dither.steps(index)
            volume[brain] = (np.int16(BASELINE) + rows)[..., np.newaxis]
            work[still] = _within(work[still], self._dtype, DITHER) + units
            np.copyto(stored, work, casting="unsafe")
            volume.reshape(-1)[space.file_index] = stored
            sums += stored
            white += rows
        return clipped, sums, white


def decode(
    data: Any, space: Space, calibration: Calibration, *, name: str | None = None
) -> Float32:
    """Turn counts (image, path or array) back into values (n_volumes, n_units).

    From int16 within half a step, from float32 within float rounding; not clipped values, nor
    constant units, which carry the dither.
    """
    counts = space.to_units(data, name=name)
    values = counts.astype(np.float32)
    step = calibration.scale / np.float32(calibration.counts_per_sd)
    for row in values.reshape(-1, space.n_units):
        row -= np.float32(BASELINE)
        row *= step
        row += calibration.mean
    return values


def _gain(calibration: Calibration) -> Float32:
    """Return the counts for one step of the model's own scale, finite also where sd is tiny."""
    with np.errstate(over="ignore"):
        gain = np.float32(calibration.counts_per_sd) / calibration.scale
    return np.asarray(np.minimum(gain, np.finfo(np.float32).max), dtype=np.float32)


def _within(counts: Float32, dtype: VolumeDtype, margin: float = 0) -> Float32:
    """Bring counts into the range of the stored type, less a margin."""
    largest = float(np.finfo(np.float32).max)
    least, most = (-32768.0, 32767.0) if dtype == "int16" else (-largest, largest)
    return np.clip(counts, np.float32(least + margin), np.float32(most - margin))


def _to_counts(
    values: npt.NDArray[np.floating[Any]],
    mean: Float32,
    gain: Float32,
    dtype: VolumeDtype,
    *,
    out: Float32 | None = None,
) -> tuple[Float32, int]:
    """Make the counts of one volume, in `out`; return them and how many were clipped or are NaN."""
    if out is None:
        out = np.empty(values.shape, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(values, mean, out=out)
        np.multiply(out, gain, out=out)
        np.add(out, np.float32(BASELINE), out=out)
    if dtype == "int16":
        np.rint(out, out=out)
    ends = np.array([out.min(), out.max()], dtype=np.float32)
    if np.array_equal(_within(ends, dtype), ends):
        return out, 0
    within = _within(out, dtype)
    n_beyond = int(np.count_nonzero(within != out))  # NaN too: it equals nothing
    out[:] = within
    return out, n_beyond


def _refuse_not_finite(values: npt.NDArray[np.floating[Any]], space: Space, volume: int) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        unit = int(wrong[0])
        raise SpaceError(
            f"unit {space.address_of(unit)} is {values[unit]} in volume {volume} "
            f"({wrong.size} unit(s) in all); values must be finite: record in float32"
        )
