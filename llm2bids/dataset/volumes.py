"""Writing volumes as NIfTI, block by block, without holding the series in memory."""

import hashlib
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
from isal import igzip

from llm2bids.dataset.layout import sidecar
from llm2bids.dataset.sidecar import image_json
from llm2bids.exceptions import DatasetError
from llm2bids.space.header import image_header
from llm2bids.space.space import Space
from llm2bids.store.commit import Staging
from llm2bids.store.gzip import BLOCK, GzipStream
from llm2bids.store.json import to_json


class _Hashed:
    """A file that is hashed while it is written, from the first byte to the last."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.flush, self.close = file.flush, file.close

    def write(self, data: bytes | memoryview) -> int:
        self._sha256.update(data)
        return self._file.write(data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


class VolumeWriter:
    """Append volumes (n_x, n_y, n_z) or (n_x, n_y, n_z, n); in Fortran order without a copy."""

    # It grows under a temporary name and takes its own when all volumes are there. The same volumes
    # give the same bytes, whatever the blocks in which they come and the number of threads.

    def __init__(self, path: Path, header: Any, *, n_jobs: int = 1) -> None:
        if not path.name.endswith((".nii.gz", ".nii")):
            raise DatasetError(f"{path}: an image's name ends with .nii.gz or .nii")
        self._path = path
        self._header = header
        self._temporary = path.with_name(f".{path.name}.part")
        self._dtype: np.dtype[Any] = header.get_data_dtype()
        shape = header.get_data_shape()
        self._volume_shape = tuple(int(n) for n in shape[:3])
        self._n_volumes = int(shape[3]) if len(shape) == 4 else 1
        self._n_written = 0
        self._n_jobs = n_jobs

    @property
    def sha256(self) -> str:
        """Hash of the file, 64 hexadecimal digits, once it has been written."""
        return self._file.hexdigest()

    def __enter__(self) -> Self:
        self._file = _Hashed(self._temporary.open("wb"))
        self._stream: Any = self._file
        try:
            if self._path.name.endswith(".gz"):
                self._stream = GzipStream(self._file, n_jobs=self._n_jobs)
            # header, then four zero bytes: no extensions; data begin at byte 352
            self._stream.write(memoryview(self._header.binaryblock + b"\0\0\0\0"))
        except BaseException:
            self._abort()
            raise
        return self

    def write(self, block: npt.NDArray[Any]) -> None:
        """Append volumes."""
        if block.ndim not in (3, 4) or block.shape[:3] != self._volume_shape:
            raise DatasetError(
                f"{self._path.name}: a block of shape {block.shape} does not fit volumes of "
                f"shape {self._volume_shape}; give (n_x, n_y, n_z) or the same with volumes last"
            )
        if block.dtype != self._dtype:
            raise DatasetError(
                f"{self._path.name}: a block of {block.dtype}, the header says {self._dtype}; "
                "convert it first"
            )
        n_written = self._n_written + (block.shape[3] if block.ndim == 4 else 1)
        if n_written > self._n_volumes:
            raise DatasetError(
                f"{self._path.name}: {n_written} volumes, the header says {self._n_volumes}; "
                "make the header for all volumes"
            )
        self._stream.write(np.ascontiguousarray(block.T).reshape(-1).view(np.uint8).data)
        self._n_written = n_written

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self._abort()
            return
        if self._n_written != self._n_volumes:
            self._abort()
            raise DatasetError(
                f"{self._path}: {self._n_written} of {self._n_volumes} volumes were written; "
                "nothing was kept"
            )
        try:
            if self._stream is not self._file:
                self._stream.close()
            self._file.flush()
            self._file.close()
            self._temporary.replace(self._path)
        except BaseException:
            self._abort()
            raise

    def _abort(self) -> None:
        for stream in (self._stream, self._file):
            # a full disk makes closing fail too; the file goes away in any case
            try:  # noqa: SIM105
                stream.close()
            except (OSError, ValueError):
                pass
        self._temporary.unlink(missing_ok=True)


def write_volume(
    path: Path,
    data: npt.NDArray[Any],
    space: Space,
    *,
    fingerprint: str,
    window: tuple[float, float] | None = None,
) -> None:
    """Write one volume (n_x, n_y, n_z) in a space; its data type is the file's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = image_header(space, fingerprint=fingerprint, dtype=data.dtype.name, window=window)
    with VolumeWriter(path, header) as writer:
        writer.write(data)


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
    write_volume(stage.path(file), data, space, fingerprint=carried, window=window)
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
