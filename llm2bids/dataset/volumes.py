"""Writing volumes as NIfTI, block by block; and what a run weighs before it is recorded."""

import hashlib
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import igzip

from llm2bids.dataset.layout import sidecar
from llm2bids.dataset.sidecar import image_json
from llm2bids.exceptions import DatasetError
from llm2bids.recording.calibration import COUNTS_PER_SD, Calibration
from llm2bids.space.header import image_header
from llm2bids.space.image import SeriesEncoder
from llm2bids.space.space import Space
from llm2bids.store.commit import Staging
from llm2bids.store.gzip import BLOCK, GzipStream
from llm2bids.store.json import to_json

# How much of the estimate has to be free before a run is written. Runs of SmolLM2 weigh 0.995 to
# 1.005 of it, but values that spread wider than in the calibration deflate worse.
MARGIN = 1.5

# Volumes that are encoded and deflated; one in spaces of more than `_MOST_UNITS` units.
_SIMULATED = 4

_MOST_UNITS = 4_000_000

_RUN_BYTES = 9_000  # bytes of the sidecars, events and checksums of a run

_ROW_BYTES = 150  # bytes that a volume adds to tables: transcript, confounds, stimulus series


def write_volumes(
    path: Path, header: Any, blocks: Iterable[npt.NDArray[Any]], *, n_jobs: int = 1
) -> str:
    """Write an image of blocks (n_x, n_y, n_z) or (n_x, n_y, n_z, n); give the file's sha256."""
    # there when all its volumes are, and not before; the same volumes give the same bytes, whatever
    # the blocks in which they come and the threads; a block in Fortran order is not copied
    temporary = path.with_name(f".{path.name}.part")
    dtype, n_bytes = header.get_data_dtype(), 0
    size = math.prod(header.get_data_shape()) * dtype.itemsize
    sha256 = hashlib.sha256()
    try:
        with temporary.open("wb") as file, ExitStack() as stack:

            def write(data: bytes | memoryview) -> None:
                sha256.update(data)
                file.write(data)

            append: Callable[[memoryview], None] = write
            if path.name.endswith(".gz"):
                append = stack.enter_context(closing(GzipStream(write, n_jobs=n_jobs))).write
            # header, then four zero bytes: no extensions; data begin at byte 352
            append(memoryview(header.binaryblock + b"\0\0\0\0"))
            for block in blocks:
                data = np.ascontiguousarray(block.T, dtype=dtype).reshape(-1).view(np.uint8).data
                append(data)
                n_bytes += len(data)
            if n_bytes != size:
                raise DatasetError(
                    f"{path}: volumes of {n_bytes} bytes were written, the header says {size}; "
                    "nothing was kept"
                )
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return sha256.hexdigest()


def write_image(
    stage: Staging,
    file: PurePosixPath,
    data: npt.NDArray[Any],
    space: Space,
    description: str,
    *,
    fingerprint: str | None = None,
    window: tuple[float, float] | None = None,
    **entries: Any,
) -> None:
    """Stage one volume (n_x, n_y, n_z) and its sidecar; without fingerprint it has the space's."""
    carried = fingerprint or space.fingerprint()
    header = image_header(space, fingerprint=carried, dtype=data.dtype.name, window=window)
    write_volumes(stage.path(file), header, [data])
    metadata = image_json(space, description, fingerprint=carried, **entries)
    stage.text(sidecar(file), to_json(metadata))


def damage(path: Path) -> str:
    """Say whether a compressed file can be read to its end."""
    try:
        with igzip.open(path) as file:
            while file.read(BLOCK):
                pass
    except EOFError as error:
        return f"; it is cut off ({error})"
    except (OSError, zlib.error) as error:
        return f"; its compressed data are damaged ({error})"
    return ""


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


def _volume_bytes(space: Space, dtype: Any, counts_per_sd: int) -> float:
    """Count the bytes of a compressed volume."""
    n_volumes = _SIMULATED if space.n_units <= _MOST_UNITS else 1
    zeros = np.zeros(space.n_units, dtype=np.float32)
    calibration = Calibration(
        mean=zeros, sd=zeros + 1, prompt_ids=(), n_tokens=0, counts_per_sd=counts_per_sd
    )
    shape = n_volumes, space.n_units
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    file = BytesIO()
    stream = GzipStream(file.write, n_jobs=1)
    for volumes in SeriesEncoder(values, space, calibration, seed=0, dtype=dtype).blocks():
        stream.write(volumes.reshape(-1).view(np.uint8).data)
    stream.close()
    return file.tell() / n_volumes
