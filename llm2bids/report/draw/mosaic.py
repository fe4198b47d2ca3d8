"""Maps in all slices: as a picture, and packed with the layout of a space for the page's script."""

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.report.draw.color import LEVELS, diverging_indices, diverging_palette
from llm2bids.report.draw.svg import drawing, element, palette_png
from llm2bids.space.space import Space

_GAP, _LABEL = 7, 20


@dataclass(frozen=True, kw_only=True, eq=False)
class _Quantised:
    """A map in one byte a unit: a value is ``sign(step) * (step / 127) ** 2 * limit``."""

    steps: npt.NDArray[np.int8]  # (n_units,), -127 to 127; -128 where a unit has no value
    limit: float  # largest absolute value

    def values(self) -> npt.NDArray[np.float64]:
        """Give the values back, within ``sqrt(|value| * limit) / 127``."""
        steps = np.where(self.steps < -LEVELS, np.nan, self.steps)
        return np.asarray(np.sign(steps) * (steps / LEVELS) ** 2 * self.limit)


def quantise(values: npt.NDArray[np.floating[Any]]) -> _Quantised:
    """Store a map, (n_units,), in one byte a unit, on a square root scale: finer near zero.

    >>> quantise(np.array([-4.0, 0.0, 1.0, np.nan])).steps.tolist()
    [-127, 0, 64, -128]
    """
    limit = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    steps = np.sign(values) * np.sqrt(np.abs(values) / limit) * LEVELS
    steps = np.where(np.isnan(steps), -LEVELS - 1, np.rint(steps))
    return _Quantised(steps=steps.astype(np.int8), limit=limit)


def packed(array: npt.NDArray[Any]) -> str:
    """Encode an array's bytes, little-endian, in base64."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(little.tobytes()).decode()


def pack_layout(space: Space) -> dict[str, Any]:
    """Describe where each unit of a space is drawn.

    ``sites``: name, layer, role, width, head size, first unit. ``slices``: label, columns and rows.
    ``pieces``: for each site and slice its slice, corner, columns, rows, and which of ``grids``
    says what unit of the site (plus 1; 0 for none) is in each of its cells, in rows from the top.
    ``grids``: base64 of uint16 or uint32 (``bits``). Panels that look alike share a grid.
    """
    x, y, _ = space.brain_box
    origin = np.array([x.start, y.start])
    depths = sorted(set(space.voxels[:, 2].tolist()))
    largest = max(site.width for site in space.sites)
    dtype = np.dtype("<u2" if largest < 65_535 else "<u4")
    grids: dict[tuple[int, bytes], int] = {}
    pieces: list[list[int]] = []
    for index, site in enumerate(space.sites):
        voxels = space.voxels[space.site_slices[site.name]]
        for depth in sorted(set(voxels[:, 2].tolist())):
            inside = np.flatnonzero(voxels[:, 2] == depth)
            places = voxels[inside, :2]
            corner = places.min(axis=0)
            columns, rows = (places.max(axis=0) + 1 - corner).tolist()
            grid = np.zeros((rows, columns), dtype=dtype)
            grid[places[:, 1] - corner[1], places[:, 0] - corner[0]] = inside + 1
            number = grids.setdefault((columns, grid.tobytes()), len(grids))
            where = (corner - origin).tolist()
            pieces.append([index, depths.index(depth), *where, columns, rows, number])
    return {
        "sites": [
            [
                site.name,
                site.layer,
                site.role,
                site.width,
                site.head_size,
                space.site_slices[site.name].start,
            ]
            for site in space.sites
        ],
        "slices": [
            {"label": label, "w": x.stop - x.start, "h": y.stop - y.start}
            for label in _slice_labels(space)
        ],
        "pieces": pieces,
        "bits": 8 * dtype.itemsize,
        "grids": [packed(np.frombuffer(cells, dtype=dtype)) for _, cells in grids],
    }


def _slice_labels(space: Space) -> list[str]:
    """Name each slice that has units: ``"layer 5"``, or the last part of a module's name."""
    labels: dict[int, list[str]] = {}
    for site in space.sites:
        voxels = space.voxels[space.site_slices[site.name]]
        name = site.name.rpartition(".")[2] if site.layer is None else f"layer {site.layer}"
        for depth in np.unique(voxels[:, 2]).tolist():
            labels.setdefault(depth, []).append(name)
    return [" + ".join(dict.fromkeys(labels[depth])) for depth in sorted(labels)]


def mosaic_figure(
    space: Space, values: npt.NDArray[np.float32], *, limit: float, alt: str
) -> Markup:
    """Draw a map, (n_units,), one slice a cell, from input to output, with borders of panels."""
    x, y, _ = space.brain_box
    width, height = x.stop - x.start, y.stop - y.start
    depths = np.unique(space.voxels[:, 2])
    columns = mosaic_columns(len(depths), width, height)
    rows = math.ceil(len(depths) / columns)
    step = np.array([width + _GAP, height + _GAP + _LABEL])
    number = np.searchsorted(depths, space.voxels[:, 2])
    corners = np.stack([number % columns, number // columns], axis=1) * step
    at = corners + space.voxels[:, :2] - [x.start, y.start - _LABEL]
    size = (columns * int(step[0]), rows * int(step[1]))
    image = np.full(size[::-1], 127, dtype=np.uint8)
    image[at[:, 1], at[:, 0]] = diverging_indices(values, limit)
    png = palette_png(image, diverging_palette())
    parts = [
        _panels(space, at),
        element("image", href=png, width=size[0], height=size[1], class_="pixels"),
    ]
    for slot, label in enumerate(_slice_labels(space)):
        left, top = (np.array([slot % columns, slot // columns]) * step).tolist()
        short = label.removeprefix("layer ").split("_")[0]
        parts.append(element("text", short, x=left, y=top + 15, class_="slice"))
    return drawing(parts, width=size[0], height=size[1], alt=alt)


def mosaic_columns(n_slices: int, width: int, height: int) -> int:
    """Choose how many slices lie side by side: about as wide as high, twice over.

    >>> mosaic_columns(32, 112, 110)
    8
    """
    return max(1, min(n_slices, round(math.sqrt(2 * n_slices * height / width))))


def _panels(space: Space, at: npt.NDArray[np.int64]) -> Markup:
    """Draw the border of each panel, as one path."""
    path = []
    for units in space.site_slices.values():
        depth = space.voxels[units, 2]
        for level in np.unique(depth):
            places = at[units][depth == level]
            (left, top), (right, bottom) = places.min(axis=0), places.max(axis=0) + 1
            path.append(f"M{left} {top}H{right}V{bottom}H{left}Z")
    return element("path", d="".join(path), class_="panel")
