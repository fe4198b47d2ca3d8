"""Arranging units in a grid: one panel a site, one slice a layer, white matter between."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.space.definition import Layout
from llm2bids.space.panels import Box, pack, panel_box, panel_offsets, shelve
from llm2bids.space.space import GREY, WHITE, Space

VOXEL_SIZE = 2.0
"""Edge of a voxel in millimetres, as in the usual brain templates."""

_WHITE_MARGIN = 3
"""Least white voxels around all units. An opening by 2 must not reach a unit, and a unit whose
mean lies below a mask's threshold must be a hole in the mask that its closing fills, not a notch
in the rim: with 2, masks of runs with many such units lost some."""

_OUTSIDE_MARGIN = 2
"""Least background voxels around the brain: a closing by 2 must not be cut off at the border."""

OUTSIDE_SHARE = (0.26, 0.68)
"""Share of the grid that is background: automatic masks look for it between 20 % and 85 %."""

_AFTER = re.compile(r"lm_head|embed_out|head|project_out|final|ln_f\b|norm_f\b")
_BEFORE = re.compile(r"emb|wte|wpe|project_in")

_Offsets = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Slab:
    """Panels that share slices: voxels of each site from the slab's own corner, and its depth."""

    panels: dict[int, _Offsets]
    depth: int


def build_space(
    sites: Sequence[Site],
    *,
    label: str,
    model_name: str,
    weights_sha256: str,
) -> Space:
    """Give every unit of the sites a voxel, in index arrangement (native order in each panel).

    Panels, one for each site, tile an axial slice (x columns, y rows); slices follow depth from
    input (bottom) to output (top), one slice a layer, and a role has its panel at the same place in
    every layer. Modules outside the layers have slices below or above; a panel of theirs that is
    larger than a layer's slice goes on in the slices above. At least one white voxel lies between
    two panels, one white slice between two layers, and three or more white voxels around
    everything; outside there is background enough for automatic masks. Voxels of 2 mm, RAS+, world
    origin at the brain's centre.

    >>> norm = Site(name="model.norm", layer=None, role="model.norm", width=6)
    >>> space = build_space([norm], label="Tiny", model_name="tiny", weights_sha256="0" * 64)
    >>> space.shape, space.unit_table()[["i", "j", "k"]].values.tolist()[:2]
    ((15, 14, 13), [[6, 6, 6], [7, 6, 6]])
    """
    _check(sites, label)
    slabs = _slabs(sites)
    voxels = np.empty((sum(site.width for site in sites), 3), dtype=np.int32)
    starts = np.cumsum([0, *(site.width for site in sites)])
    depth = 0
    for slab in slabs:
        for index, offsets in slab.panels.items():
            voxels[starts[index] : starts[index + 1]] = offsets
            voxels[starts[index] : starts[index + 1], 2] += depth
        depth += slab.depth + 1
    white, outside = _margins(voxels.max(axis=0) + 1)
    brain = voxels.max(axis=0) + 1 + 2 * white
    voxels += white + outside
    shape = tuple(int(n) for n in brain + 2 * outside)
    tissue = np.zeros(shape, dtype=np.uint8)
    tissue[tuple(slice(outside, outside + n) for n in brain)] = WHITE
    tissue[tuple(voxels.T)] = GREY
    return Space(
        label=label,
        shape=(shape[0], shape[1], shape[2]),
        affine=_affine(shape),
        sites=tuple(sites),
        voxels=voxels,
        tissue=tissue,
        arrangement="index",
        model_name=model_name,
        weights_sha256=weights_sha256,
    )


def rearrange(space: Space, cells: npt.ArrayLike, *, arrangement: str, layout: Layout) -> Space:
    """Permute units within panels: `cells` (n_units,) name the unit in whose voxel each lies."""
    order = np.asarray(cells)
    if space.arrangement != "index":
        raise SpaceError(f"space {space.label} is in {space.arrangement} arrangement already")
    if order.shape != (space.n_units,) or not np.issubdtype(order.dtype, np.integer):
        raise SpaceError(
            f"arrangement: {order.dtype} cells of shape {order.shape}; expected {space.n_units} "
            f"whole numbers, one for each unit of space {space.label}"
        )
    for name, units in space.site_slices.items():
        if not np.array_equal(np.sort(order[units]), np.arange(units.start, units.stop)):
            raise SpaceError(
                f"arrangement: the cells of site {name} are no permutation of its "
                f"{units.stop - units.start} units; each must be taken once"
            )
    return replace(space, voxels=space.voxels[order], arrangement=arrangement, layout=layout)


def index_space(space: Space) -> Space:
    """Make the space of the same units in index arrangement, on the same grid."""
    plain = build_space(
        space.sites,
        label=space.label,
        model_name=space.model_name,
        weights_sha256=space.weights_sha256,
    )
    if plain.shape != space.shape or not np.array_equal(plain.tissue, space.tissue):
        raise SpaceError(
            f"space {space.label}: its grid {space.shape} is not the one that its sites have in "
            f"index arrangement, {plain.shape}; it was made by another version of llm2bids"
        )
    return plain


def cells_of(space: Space) -> npt.NDArray[np.int32]:
    """Tell in whose voxel of index arrangement each unit lies, (n_units,), for `rearrange`."""
    return np.asarray(index_space(space).unit_of_voxel[tuple(space.voxels.T)], dtype=np.int32)


def _check(sites: Sequence[Site], label: str) -> None:
    if not sites:
        raise SpaceError("a space needs at least one site, got none; choose sites to record")
    name, count = Counter(site.name for site in sites).most_common(1)[0]
    if count > 1:
        raise SpaceError(f"site {name} is listed {count} times; list every site once")
    if not re.fullmatch(r"[0-9A-Za-z]+", label):
        raise SpaceError(
            f"space label {label!r} is not a BIDS label; use letters and digits only, "
            f"e.g. {re.sub('[^0-9A-Za-z]', '', label) or 'Model'!r}"
        )


def _slabs(sites: Sequence[Site]) -> list[_Slab]:
    """Group sites into slabs, from input to output."""
    offsets = [panel_offsets(site) for site in sites]
    before, layers, after = _split_by_depth(sites)
    if layers:
        inner, extent = _layer_slabs(sites, offsets, layers)
    else:
        groups = [group for group in (before, after) if group]
        extents = [pack([panel_box(offsets[index]) for index in group])[1] for group in groups]
        inner, extent = [], (max(e[0] for e in extents), max(e[1] for e in extents))
    return [
        *_outer_slabs(before, offsets, extent),
        *inner,
        *_outer_slabs(after, offsets, extent),
    ]


def _split_by_depth(sites: Sequence[Site]) -> tuple[list[int], list[int], list[int]]:
    """Split sites (by index) into those before the layers, in them, and after them.

    Modules are often listed in an order that is not that of computation (OPT lists its final norm
    before its layers), so the name decides where it tells, and the order otherwise.
    """
    inside = [index for index, site in enumerate(sites) if site.layer is not None]
    first = inside[0] if inside else 0
    before: list[int] = []
    after: list[int] = []
    for index, site in enumerate(sites):
        name = site.name.rpartition(".")[2]
        if site.layer is not None:
            continue
        if _AFTER.search(name):
            after.append(index)
        elif _BEFORE.search(name) or index < first:
            before.append(index)
        else:
            after.append(index)
    return before, inside, after


def _layer_slabs(
    sites: Sequence[Site], offsets: Sequence[_Offsets], inside: Sequence[int]
) -> tuple[list[_Slab], Box]:
    """One slice a layer; a role has the same corner in all of them."""
    by_layer: dict[int, dict[tuple[str, int], int]] = {}
    boxes: dict[tuple[str, int], Box] = {}
    for index in inside:
        site = sites[index]
        panels = by_layer.setdefault(int(site.layer or 0), {})
        key = (site.role, sum(role == site.role for role, _ in panels))
        panels[key] = index
        columns, rows = panel_box(offsets[index])
        widest = boxes.get(key, (0, 0))
        boxes[key] = max(columns, widest[0]), max(rows, widest[1])
    corners, extent = pack(list(boxes.values()))
    corner = dict(zip(boxes, corners, strict=True))
    slabs = [
        _Slab({index: _lift(offsets[index], corner[key]) for key, index in panels.items()}, 1)
        for _, panels in sorted(by_layer.items())
    ]
    return slabs, extent


def _outer_slabs(group: Sequence[int], offsets: Sequence[_Offsets], extent: Box) -> list[_Slab]:
    """Slices for modules outside the layers: as many panels as fit, or a panel in many slices."""
    slabs: list[_Slab] = []
    page: list[int] = []
    for index in group:
        if _fits([panel_box(offsets[i]) for i in (*page, index)], extent):
            page.append(index)
            continue
        if page:
            slabs.append(_page(page, offsets, extent))
        page = []
        if _fits([panel_box(offsets[index])], extent):
            page = [index]
        else:
            slabs.append(_tower(index, len(offsets[index]), extent))
    return [*slabs, _page(page, offsets, extent)] if page else slabs


def _fits(boxes: Sequence[Box], extent: Box) -> bool:
    if max(columns for columns, _ in boxes) > extent[0]:
        return False
    return shelve(boxes, extent[0])[1][1] <= extent[1]


def _page(page: Sequence[int], offsets: Sequence[_Offsets], extent: Box) -> _Slab:
    corners, _ = shelve([panel_box(offsets[index]) for index in page], extent[0])
    return _Slab({i: _lift(offsets[i], corner) for i, corner in zip(page, corners, strict=True)}, 1)


def _tower(index: int, width: int, extent: Box) -> _Slab:
    unit = np.arange(width, dtype=np.int32)
    level, within = np.divmod(unit, np.int32(math.prod(extent)))
    voxels = np.stack([within % extent[0], within // extent[0], level], axis=1)
    return _Slab({index: voxels.astype(np.int32)}, int(level[-1]) + 1)


def _lift(offsets: _Offsets, corner: Box) -> _Offsets:
    """Columns and rows of a panel at its corner, with a depth of 0."""
    lifted = np.zeros((len(offsets), 3), dtype=np.int32)
    lifted[:, :2] = offsets + np.array(corner, dtype=np.int32)
    return lifted


def _margins(content: npt.NDArray[np.int32]) -> tuple[int, int]:
    """White and background voxels on every side, so that the background has a fair share.

    Tiny models get more white matter, all others more background, than the least.
    """

    def outside_share(white: int, outside: int) -> float:
        brain = content.astype(np.float64) + 2 * white
        return 1 - float(np.prod(brain / (brain + 2 * outside)))

    least, most = OUTSIDE_SHARE
    white, outside = _WHITE_MARGIN, _OUTSIDE_MARGIN
    while outside_share(white, outside) > most:
        white += 1
    while outside_share(white, outside) < least:
        outside += 1
    return white, outside


def _affine(shape: Sequence[int]) -> npt.NDArray[np.float64]:
    """RAS+ with the origin at the grid's centre, which is the brain's."""
    affine = np.diag([VOXEL_SIZE, VOXEL_SIZE, VOXEL_SIZE, 1.0])
    affine[:3, 3] = -VOXEL_SIZE * (np.array(shape) - 1) / 2
    return affine
