"""The one reader of images: opened, compared with a grid, and read in the grid's axes.

Tools store the same image with flipped or permuted axes (LAS, LPS, PSR); the affine says so. What
is read here is turned to RAS+, the axes of every space, without resampling.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip
from isal.igzip_lib import IsalError
from nibabel.analyze import AnalyzeImage
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError, apply_orientation, inv_ornt_aff, io_orientation
from nibabel.spatialimages import HeaderDataError, HeaderTypeError
from nibabel.volumeutils import apply_read_scaling

from llm2bids.exceptions import SpaceError
from llm2bids.store.files import missing_content

if TYPE_CHECKING:
    from llm2bids.space.space import Space

# What is raised where a file is damaged or no image; MemoryError where it claims a size.
_UNREADABLE = (
    *(ImageFileError, HeaderDataError, HeaderTypeError, OrientationError, np.linalg.LinAlgError),
    *(OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error),
    cast(type[Exception], IsalError),
)

# Millimetres by which the affine of an image may differ (headers hold float32).
_AFFINE_TOLERANCE = 1e-3

# Millimetres by which qform and sform may differ (quaternions are rounded).
_FORMS_TOLERANCE = 1e-2

# Endings of files that are read from start to end, without nibabel holding all of them.
_STREAMED = (".nii", ".gz", ".img", ".mgz", ".mgh")


@dataclass(frozen=True, kw_only=True, eq=False)
class GridImage:
    """An opened image; ``shape``, ``affine`` and all that is read are in RAS+ axes."""

    label: str
    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    stored: Any  # nibabel's image, in the axes of the file
    turn: npt.NDArray[np.float64]  # nibabel's orientation, from the file's axes to RAS+
    remedy: str

    @property
    def header(self) -> Any:
        """The header as stored, for fingerprint, zooms and data type."""
        return self.stored.header

    @property
    def n_volumes(self) -> int:
        """Length of the fourth axis; 1 without."""
        return self.shape[3] if len(self.shape) == 4 else 1

    @property
    def turned(self) -> bool:
        """Whether the file's axes are others than RAS+."""
        return not np.array_equal(self.turn, [[0, 1], [1, 1], [2, 1]])

    @property
    def scale(self) -> tuple[float, float]:
        """Slope and intercept that the header gives for stored numbers; 1 and 0 without."""
        proxy = self.stored.dataobj
        if isinstance(proxy, ArrayProxy):
            return float(proxy.slope), float(proxy.inter)
        return 1.0, 0.0

    def as_nibabel(self) -> Any:
        """Give nibabel's image in RAS+ axes; its voxels are read when they are needed."""
        return self.stored.as_reoriented(self.turn) if self.turned else self.stored

    def blocks(
        self, n_volumes: int = 8, *, scaled: bool = True
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield the first volume's index and a block (n, n_z, n_y, n_x), reading the file once."""
        slope, inter = self.scale
        for start, block in self._stored_blocks(n_volumes):
            if scaled and (slope, inter) != (1.0, 0.0):
                block = apply_read_scaling(block, np.float64(slope), np.float64(inter))
            if not block.dtype.isnative:
                block = block.astype(block.dtype.newbyteorder("="))
            if self.turned:  # volume by volume as it passes: the whole series is never held
                block = np.ascontiguousarray(apply_orientation(block.T, self.turn).T)
            yield start, block

    def read(self, *, scaled: bool = True) -> npt.NDArray[Any]:
        """Read all voxels, ``self.shape``, x fastest; as stored where nothing is scaled."""
        ((_, block),) = self.blocks(self.n_volumes, scaled=scaled)
        return block.T if len(self.shape) == 4 else block[0].T

    def volume(self) -> npt.NDArray[Any]:
        """Read an image of one volume, shape (n_x, n_y, n_z); refuse several."""
        if self.n_volumes != 1:
            raise SpaceError(
                f"{self.label} has {self.n_volumes} volumes, expected one; choose one with "
                "nilearn.image.index_img, or make a map of them first"
            )
        return self.read().reshape(self.shape[:3])

    def at(
        self, voxels: npt.NDArray[np.integer[Any]], n_volumes: int = 8
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield blocks as `blocks`, but (n, n_voxels): of voxels (n_voxels, 3), in their order."""
        order = np.ravel_multi_index(tuple(voxels.T), self.shape[:3], order="F")
        for start, block in self.blocks(n_volumes):
            yield start, block.reshape(len(block), -1).take(order, axis=1)

    def _stored_blocks(self, n_volumes: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield blocks in the file's axes, (n, n_k, n_j, n_i), not scaled."""
        done, total = 0, self.n_volumes
        axes = self.stored.shape[2::-1]
        proxy = self.stored.dataobj
        path = str(proxy.file_like) if type(proxy) is ArrayProxy else ""
        try:
            if not path.endswith(_STREAMED):
                lazy = isinstance(proxy, ArrayProxy)
                array = proxy.get_unscaled() if lazy else np.asanyarray(proxy)
                volumes = np.asarray(array).T.reshape(total, *axes)
                for done in range(0, total, n_volumes):
                    yield done, volumes[done : done + n_volumes]
                return
            size = int(np.prod(axes)) * proxy.dtype.itemsize
            packed = path.endswith((".gz", ".mgz"))
            with igzip.open(path, "rb") if packed else Path(path).open("rb") as opened:
                stream = cast(BinaryIO, opened)
                stream.seek(int(proxy.offset))
                while done < total:
                    n = min(n_volumes, total - done)
                    data = stream.read(n * size)
                    if len(data) < n * size:
                        done += len(data) // size
                        raise EOFError("the file ends early")
                    yield done, np.frombuffer(data, proxy.dtype).reshape(n, *axes)
                    done += n
                while stream.read(1 << 20):  # at the end gzip compares its checksum
                    pass
        except _UNREADABLE as error:
            raise SpaceError(
                f"{self.label} is truncated or damaged, {done} of {total} volume(s) can be read "
                f"({error or type(error).__name__}); {self.remedy}"
            ) from None


def open_image(
    source: Any,
    grid: "Space | GridImage | None" = None,
    *,
    name: str | None = None,
    remedy: str = "copy or make it again",
) -> GridImage:
    """Open a path, nibabel's image or a `GridImage`; refuse what does not lie on the grid."""
    image = source if isinstance(source, GridImage) else _opened(source, name, remedy)
    if grid is not None and (difference := grid_difference(image, grid)):
        raise SpaceError(
            f"{name or image.label} is not on the grid of {grid.label}: {difference}; use an "
            "image that was made from this dataset, without resampling"
        )
    return image


def grid_difference(image: "Space | GridImage", grid: "Space | GridImage") -> str:
    """Say how an image's grid differs from another; empty if it does not."""
    if tuple(image.shape[:3]) != tuple(grid.shape[:3]):
        return f"its shape is {tuple(image.shape[:3])}, expected {tuple(grid.shape[:3])}"
    if not np.allclose(image.affine, grid.affine, rtol=0, atol=_AFFINE_TOLERANCE):
        return (
            f"its affine is {np.round(image.affine, 3).tolist()}, "
            f"expected {np.round(grid.affine, 3).tolist()}"
        )
    return ""


def _opened(source: Any, name: str | None, remedy: str) -> GridImage:
    if isinstance(source, str | Path):
        img, name = _load(Path(source), remedy), name or str(source)
    else:
        img, path = source, getattr(source, "get_filename", lambda: None)()
        name = name or str(path or "image")
    if not hasattr(img, "affine") or not hasattr(img, "dataobj"):
        raise SpaceError(f"{name} is a {type(img).__name__}; expected a path or a nibabel image")
    shape = tuple(map(int, img.shape))
    while len(shape) > 4 and shape[-1] == 1:  # tools add empty axes
        shape = shape[:-1]
    if len(shape) not in (3, 4) or 0 in shape:
        raise SpaceError(
            f"{name} has shape {img.shape}; expected three axes, with volumes as a fourth axis in "
            "a series"
        )
    if img.get_data_dtype().kind not in "biuf":
        raise SpaceError(f"{name} holds {img.get_data_dtype()}; expected real numbers")
    try:
        _check_orientation(img, name)
        turn = io_orientation(img.affine)
        affine = img.affine @ inv_ornt_aff(turn, shape[:3])
    except _UNREADABLE as error:
        raise SpaceError(
            f"{name} has an affine that is none ({error}): {np.round(img.affine, 3).tolist()}; "
            "expected voxel to world, in millimetres"
        ) from None
    axes = np.empty(3, dtype=np.intp)
    axes[turn[:, 0].astype(np.intp)] = shape[:3]
    shape = (*map(int, axes), *shape[3:])
    return GridImage(label=name, shape=shape, affine=affine, stored=img, turn=turn, remedy=remedy)


def _check_orientation(img: Any, name: str) -> None:
    """Refuse a header that does not say where its axes point: nibabel would guess, and flip x."""
    if not isinstance(img, AnalyzeImage):  # the base of NIfTI; other formats always say it
        return
    header = img.header
    codes = [0, 0]
    if isinstance(img, nib.Nifti1Pair):
        codes = [int(header["qform_code"]), int(header["sform_code"])]
    if max(codes) <= 0:
        raise SpaceError(
            f"{name} has no orientation (qform and sform codes are 0), so left and right are not "
            "known; copy the header of the image that it was made from (e.g. fslcpgeom, or "
            "nilearn.image.new_img_like), or save it with its affine"
        )
    if min(codes) > 0 and not np.allclose(
        header.get_qform(), header.get_sform(), rtol=0, atol=_FORMS_TOLERANCE
    ):
        raise SpaceError(
            f"{name} has two orientations: its qform is "
            f"{np.round(header.get_qform(), 3).tolist()}, its sform "
            f"{np.round(header.get_sform(), 3).tolist()}; set both to the one that is right"
        )


def _load(path: Path, remedy: str) -> Any:
    if elsewhere := missing_content(path):
        raise SpaceError(f"{path} {elsewhere}")
    try:
        return nib.load(path)
    except FileNotFoundError:
        raise SpaceError(f"{path} does not exist; expected a NIfTI image") from None
    except _UNREADABLE as error:
        raise SpaceError(
            f"{path} cannot be read as an image ({error}); expected .nii or .nii.gz: {remedy}"
        ) from None
