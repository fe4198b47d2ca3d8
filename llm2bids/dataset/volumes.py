"""Writing volumes as NIfTI, block by block, without holding the series in memory."""

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

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

    def write(self, data: bytes | memoryview) -> int:
        self._sha256.update(data)
        return self._file.write(data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


@contextmanager
def volume_writer(path: Path, header: Any, *, n_jobs: int = 1) -> Iterator["VolumeWriter"]:
    """Write an image, which is there when all its volumes are, and not before."""
    # the same volumes give the same bytes, whatever the blocks in which they come and the threads
    if not path.name.endswith((".nii.gz", ".nii")):
        raise DatasetError(f"{path}: an image's name ends with .nii.gz or .nii")
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as opened, ExitStack() as stack:
            file = _Hashed(opened)
            stream: Any = file
            if path.name.endswith(".gz"):
                stream = stack.enter_context(closing(GzipStream(file, n_jobs=n_jobs)))
            writer = VolumeWriter(path, header, stream, file)
            yield writer
            writer.check_whole()
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class VolumeWriter:
    """Append volumes (n_x, n_y, n_z) or (n_x, n_y, n_z, n); in Fortran order without a copy."""

    def __init__(self, path: Path, header: Any, stream: Any, file: _Hashed) -> None:
        self._path, self._stream, self._file = path, stream, file
        self._dtype: np.dtype[Any] = header.get_data_dtype()
        shape = header.get_data_shape()
        self._volume_shape = tuple(int(n) for n in shape[:3])
        self._n_volumes = int(shape[3]) if len(shape) == 4 else 1
        self._n_written = 0
        # header, then four zero bytes: no extensions; data begin at byte 352
        stream.write(memoryview(header.binaryblock + b"\0\0\0\0"))

    @property
    def sha256(self) -> str:
        """Hash of the file, 64 hexadecimal digits, once it has been written."""
        return self._file.hexdigest()

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

    def check_whole(self) -> None:
        """Refuse an end before the last volume."""
        if self._n_written != self._n_volumes:
            raise DatasetError(
                f"{self._path}: {self._n_written} of {self._n_volumes} volumes were written; "
                "nothing was kept"
            )


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
    with volume_writer(path, header) as writer:
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
