"""Values of units <-> volumes of counts, with white matter that carries a dither.

A count is ``10000 + gain * (value - mean) / sd`` with the calibration's gain, mean and sd. White
matter lies at 10000. White matter and units that do not vary within a run take a dither of at most
3 counts, drawn from the run's seed: exactly constant voxels make statistics divide by zero. Outside
the brain there is 0.
"""

from collections.abc import Iterator
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
    gain = _gain(calibration)
    least, most = np.empty((2, values.shape[1]), dtype=np.float32)
    _to_counts(values.min(axis=0), calibration.mean, gain, dtype, out=least)
    _to_counts(values.max(axis=0), calibration.mean, gain, dtype, out=most)
    return np.asarray(least == most)


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
    return volumes, encoder.counts(encoder.encode(values, volumes, first_volume))


def encode_blocks(
    values: npt.NDArray[np.floating[Any]],
    space: Space,
    calibration: Calibration,
    *,
    seed: Seed,
    dtype: VolumeDtype = "int16",
    volumes_per_block: int = 16,
    n_jobs: int = 1,
) -> Iterator[tuple[npt.NDArray[Any], EncodingCounts]]:
    """Turn the values of a whole run into volumes as `encode`, block by block in `n_jobs` threads.

    The array of volumes is the same one each time: the next block overwrites it.
    """
    _check_shapes(values, space, calibration)
    constant = constant_units(values, calibration, dtype=dtype)
    encoder = _Encoder(space, calibration, seed, dtype, constant)
    # fresh memory costs more than what is written to it: one array serves all blocks
    volumes = np.zeros((min(volumes_per_block, len(values)), *space.shape[::-1]), dtype=dtype)
    with ThreadPoolExecutor(n_jobs, thread_name_prefix="llm2bids-encode") as pool:
        for start in range(0, len(values), volumes_per_block):
            rows = values[start : start + volumes_per_block]
            share = -(-len(rows) // n_jobs)
            cuts = range(0, len(rows), share)
            clipped = pool.map(
                encoder.encode,
                [rows[cut : cut + share] for cut in cuts],
                [volumes[cut : min(cut + share, len(rows))] for cut in cuts],
                [start + cut for cut in cuts],
            )
            yield volumes[: len(rows)], encoder.counts(sum(clipped))


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
    ) -> int:
        """Encode rows into volumes that are 0 outside the brain; return how many were clipped."""
        space, still = self._space, self._still
        work = np.empty(space.n_units, dtype=np.float32)
        stored = np.empty(space.n_units, dtype=self._dtype)
        clipped = 0
        for index, (row, volume) in enumerate(zip(values, volumes, strict=True), first_volume):
            n_clipped = _to_counts(row, self._mean, self._gain, self._dtype, out=work)
            if n_clipped:
                _refuse_not_finite(row, space, index)
                clipped += n_clipped
            rows, units = self._dither.steps(index)
            volume[self._brain] = (np.int16(BASELINE) + rows)[..., np.newaxis]
            work[still] = _within(work[still], self._dtype, DITHER) + units
            np.copyto(stored, work, casting="unsafe")
            volume.reshape(-1)[space.file_index] = stored
        return clipped

    def counts(self, clipped: int) -> EncodingCounts:
        """Say what encoding could not keep, given the number of clipped values."""
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
    out: Float32,
) -> int:
    """Write the counts of one volume to `out`; return how many were clipped or are NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(values, mean, out=out)
        np.multiply(out, gain, out=out)
        np.add(out, np.float32(BASELINE), out=out)
    if dtype == "int16":
        np.rint(out, out=out)
    ends = np.array([out.min(), out.max()], dtype=np.float32)
    if np.array_equal(_within(ends, dtype), ends):
        return 0
    within = _within(out, dtype)
    n_beyond = int(np.count_nonzero(within != out))  # NaN too: it equals nothing
    out[:] = within
    return n_beyond


def _refuse_not_finite(values: npt.NDArray[np.floating[Any]], space: Space, volume: int) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        unit = int(wrong[0])
        raise SpaceError(
            f"unit {space.address_of(unit)} is {values[unit]} in volume {volume} "
            f"({wrong.size} unit(s) in all); values must be finite: record in float32"
        )
