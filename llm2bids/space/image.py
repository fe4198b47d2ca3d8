"""Values of units <-> volumes of counts, with white matter that carries a dither.

A count is ``10000 + gain * (value - mean) / sd`` with the calibration's gain, mean and sd. White
matter lies at 10000. White matter and units that do not vary within a run take a dither of at most
3 counts, drawn from the run's seed: exactly constant voxels make statistics divide by zero. Outside
the brain there is 0.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import SpaceError
from llm2bids.recording.calibration import Calibration
from llm2bids.space.dither import DITHER, Dither, Seed
from llm2bids.space.space import Space, VolumeDtype

BASELINE = 10000
"""Count of a unit at its calibration mean, and of white matter."""

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EncodingCounts:
    """What encoding could not keep."""

    clipped: int  # values beyond the range of the stored type, set to its border
    constant: int  # units that do not vary in the run and take the dither


def constant_units(
    values: npt.NDArray[np.floating[Any]],
    calibration: Calibration,
    *,
    dtype: VolumeDtype = "int16",
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


def encode(
    values: npt.NDArray[np.floating[Any]],
    space: Space,
    calibration: Calibration,
    *,
    seed: Seed,
    dtype: VolumeDtype = "int16",
    first_volume: int = 0,
    constant: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[Any], EncodingCounts]:
    """Turn values (n_tokens, n_units) into volumes (n_tokens, n_z, n_y, n_x) of counts, x fastest.

    Blocks of a run (`first_volume`, and `constant` of the whole run) give the volumes that the run
    gives in one piece. ``volumes.T`` is the array that nibabel takes.
    """
    _check_shapes(values, space, calibration)
    if constant is None:
        constant = constant_units(values, calibration, dtype=dtype)
    encoder = _Encoder(space, calibration, seed, dtype, constant)
    volumes = np.zeros((len(values), *space.shape[::-1]), dtype=dtype)
    return volumes, encoder.counts([encoder.encode(values, volumes, first_volume)])


def encode_blocks(
    values: npt.NDArray[np.floating[Any]],
    space: Space,
    calibration: Calibration,
    *,
    seed: Seed,
    dtype: VolumeDtype = "int16",
    volumes_per_block: int = 16,
    n_jobs: int = 1,
    total: "SeriesTotal | None" = None,
) -> Iterator[tuple[npt.NDArray[Any], EncodingCounts]]:
    """Turn the values of a whole run into volumes as `encode`, block by block in `n_jobs` threads.

    The array of volumes is the same one each time: the next block overwrites it. All volumes are
    added up in `total`.
    """
    _check_shapes(values, space, calibration)
    constant = constant_units(values, calibration, dtype=dtype)
    encoder = _Encoder(space, calibration, seed, dtype, constant)
    # fresh memory costs more than what is written to it: one array serves all blocks
    volumes = np.zeros((min(volumes_per_block, len(values)), *space.shape[::-1]), dtype=dtype)
    with ThreadPoolExecutor(n_jobs, thread_name_prefix="llm2bids-encode") as pool:
        in_threads = pool.map if n_jobs > 1 else map  # one thread is this one
        for start in range(0, len(values), volumes_per_block):
            rows = values[start : start + volumes_per_block]
            share = -(-len(rows) // n_jobs)
            cuts = range(0, len(rows), share)
            encoded = list(
                in_threads(
                    encoder.encode,
                    [rows[cut : cut + share] for cut in cuts],
                    [volumes[cut : min(cut + share, len(rows))] for cut in cuts],
                    [start + cut for cut in cuts],
                )
            )
            if total is not None:
                total.add(len(rows), encoded)
            yield volumes[: len(rows)], encoder.counts(encoded)


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """What came of encoding some volumes, beside the volumes."""

    clipped: int
    units: npt.NDArray[Any]  # (n_units,) sum of their counts
    rows: npt.NDArray[np.int64]  # (n_z, n_y) of the brain: sum of the dither of each row


class SeriesTotal:
    """The sum of a series' volumes: counts of units, and dither of rows of white matter."""

    # less than half of the voxels are units, and a row of white matter is one number

    def __init__(self, space: Space) -> None:
        self._space = space
        self._n_volumes = 0
        self._units = np.zeros(space.n_units, dtype=np.float64)
        self._rows: npt.NDArray[Any] | float = 0.0

    def add(self, n_volumes: int, encoded: Sequence[_Encoded]) -> None:
        """Add so many volumes."""
        self._n_volumes += n_volumes
        for part in encoded:
            self._units += part.units
            self._rows = self._rows + part.rows

    def mean(self) -> npt.NDArray[np.float64]:
        """Make the mean volume (n_z, n_y, n_x)."""
        space, n = self._space, self._n_volumes
        mean = np.zeros(space.shape[::-1], dtype=np.float64)
        mean[space.brain_box[::-1]] = (np.asarray(n * BASELINE + self._rows) / n)[..., np.newaxis]
        mean.reshape(-1)[space.file_index] = self._units / n
        return mean


class _Encoder:
    """Encodes rows of a run, in several threads if need be; what all share is made once."""

    def __init__(
        self,
        space: Space,
        calibration: Calibration,
        seed: Seed,
        dtype: VolumeDtype,
        constant: npt.NDArray[np.bool_],
    ) -> None:
        self._space, self._dtype = space, dtype
        self._mean, self._gain = calibration.mean, _gain(calibration)
        self._still = np.flatnonzero(constant)
        self._dither = Dither(space, seed=seed, n_constant=self._still.size)
        self._brain = space.brain_box[::-1]

    def encode(
        self, values: npt.NDArray[np.floating[Any]], volumes: npt.NDArray[Any], first_volume: int
    ) -> _Encoded:
        """Encode rows into volumes that are 0 outside the brain; add them up."""
        space, still = self._space, self._still
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
            volume[self._brain] = (np.int16(BASELINE) + rows)[..., np.newaxis]
            work[still] = _within(work[still], self._dtype, DITHER) + units
            np.copyto(stored, work, casting="unsafe")
            volume.reshape(-1)[space.file_index] = stored
            sums += stored
            white += rows
        return _Encoded(clipped=clipped, units=sums, rows=white)

    def counts(self, encoded: Sequence[_Encoded]) -> EncodingCounts:
        """Say what encoding could not keep."""
        clipped = sum(part.clipped for part in encoded)
        return EncodingCounts(clipped=clipped, constant=int(self._still.size))


def decode(
    data: Any, space: Space, calibration: Calibration, *, name: str | None = None
) -> Float32:
    """Turn counts (image, path or array) back into values (n_volumes, n_units): `encode`'s inverse.

    From int16 within half a step, from float32 within float rounding; not clipped values, nor
    constant units, which carry the dither.
    """
    counts = space.to_units(data, name=name)
    _check_calibration(space, calibration)
    values = counts.astype(np.float32)
    step = calibration.scale / np.float32(calibration.counts_per_sd)
    for row in values.reshape(-1, space.n_units):
        row -= np.float32(BASELINE)
        row *= step
        row += calibration.mean
    return values


def _check_shapes(
    values: npt.NDArray[np.floating[Any]], space: Space, calibration: Calibration
) -> None:
    if values.ndim != 2 or values.shape[1] != space.n_units:
        raise SpaceError(
            f"values have shape {values.shape}; expected (n_tokens, {space.n_units}), "
            f"the units of space {space.label} in recording order"
        )
    _check_calibration(space, calibration)


def _check_calibration(space: Space, calibration: Calibration) -> None:
    if calibration.mean.shape != (space.n_units,) or calibration.sd.shape != (space.n_units,):
        raise SpaceError(
            f"calibration has means of shape {calibration.mean.shape}; space {space.label} has "
            f"{space.n_units} units: use the calibration that was recorded with its sites"
        )


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
