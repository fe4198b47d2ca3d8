"""What a run weighs before it is recorded: for the plan of a scan, and for the check of space."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm2bids.recording.calibration import COUNTS_PER_SD, Calibration
from llm2bids.space.image import encode_blocks
from llm2bids.space.space import Space
from llm2bids.store.gzip import GzipStream

MARGIN = 1.5
"""How much of the estimate has to be free before a run is written. Runs of SmolLM2 weigh 0.995 to
1.005 of it, but values that spread wider than in the calibration deflate worse."""

_SIMULATED = 4
"""Volumes that are encoded and deflated; one in spaces of more than `_MOST_UNITS` units."""

_MOST_UNITS = 4_000_000

_RUN_BYTES = 9_000
"""Bytes of the sidecars, events and checksums of a run."""

_ROW_BYTES = 150
"""Bytes that a volume adds to tables: transcript, confounds, stimulus series."""


@dataclass(frozen=True, kw_only=True)
class RunSize:
    """Bytes of runs of one dataset."""

    volume: float  # of each volume, in all series of the run
    other: float  # whatever the number of volumes: the mean volume and small files

    def of(self, n_volumes: int) -> int:
        """Estimate a run of so many volumes."""
        return round(self.other + n_volumes * (self.volume + _ROW_BYTES))


def run_size(
    space: Space, settings: Mapping[str, Any], *, counts_per_sd: int = COUNTS_PER_SD
) -> RunSize:
    """Estimate the bytes of a dataset's runs: normal values, encoded and deflated as real ones."""
    n_series = 2 if settings.get("hrf_series") else 1
    reference = _volume_bytes(space, "int16", counts_per_sd)
    if not settings["compress"]:
        volume = float(np.prod(space.shape) * np.dtype(settings["volume_dtype"]).itemsize)
    elif settings["volume_dtype"] == "int16":
        volume = reference
    else:
        volume = _volume_bytes(space, settings["volume_dtype"], counts_per_sd)
    return RunSize(volume=n_series * volume, other=_RUN_BYTES + reference)


class _Counter:
    """A file that is only counted."""

    n_bytes = 0

    def write(self, data: bytes, /) -> int:
        self.n_bytes += len(data)
        return len(data)


def _volume_bytes(space: Space, dtype: Any, counts_per_sd: int) -> float:
    """Count the bytes of a compressed volume."""
    n_volumes = _SIMULATED if space.n_units <= _MOST_UNITS else 1
    zeros = np.zeros(space.n_units, dtype=np.float32)
    calibration = Calibration(
        mean=zeros, sd=zeros + 1, prompt_ids=(), n_tokens=0, counts_per_sd=counts_per_sd
    )
    shape = n_volumes, space.n_units
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    counter = _Counter()
    stream = GzipStream(counter, n_jobs=1)
    for volumes, _ in encode_blocks(values, space, calibration, seed=0, dtype=dtype):
        stream.write(volumes.reshape(-1).view(np.uint8).data)
    stream.close()
    return counter.n_bytes / n_volumes
