"""Arranging units in a grid: a panel a site, a slab a layer, white matter between."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.space.definition import Layout
from llm2bids.space.panels import Box, mean_ratio, packings, panel_voxels, shelve, site_tiles
from llm2bids.space.space import GREY, OUTSIDE, WHITE, Space

VOXEL_SIZE = 2.0  # edge of a voxel in millimetres, as in the usual brain templates

# Slices of a slab that are tried. Usual widths and heads divide by 4.
_THICKNESS = (4, 1, 2, 3, 6, 8)

# Share of voxels by which the first thickness may be the larger one, and be taken.
_PREFERENCE = 1.02

_LONGEST = 2.5  # longest over shortest side of a grid, where it can be packed so

# Share of voxels that panels may cost which laid flat are as square as others are long.
_SQUARENESS = 0.05

# Units a voxel from which on a layer has a slab for itself. Narrower ones stand side by side.
_FAIR_SHARE = 0.28

_MOST_TOGETHER = 4  # layers in a slab, at most

_WHITE_MARGIN = 2  # least white voxels around all units: an opening by 2 must not reach a unit

# Least background voxels around the brain: a closing by 2 must not be cut off at the border.
_OUTSIDE_MARGIN = 2

# Share of the grid that is background: automatic masks look for it between 20 % and 85 %.
OUTSIDE_SHARE = (0.22, 0.68)

_AFTER = re.compile(r"lm_head|embed_out|head|project_out|final|ln_f\b|norm_f\b")
_BEFORE = re.compile(r"emb|wte|wpe|project_in")

_Voxels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Slab:
    """Panels that share slices: the corner and box of each site's panel, and slices of the slab."""

    panels: dict[int, tuple[Box, Box]]
    depth: int


@dataclass(frozen=True)
class _Packing:
    """Slabs from input to output, and the columns and rows that hold all of them."""

    slabs: list[_Slab]
    thickness: int
    extent: Box

    @property
    def content(self) -> tuple[int, int, int]:
        """Columns, rows and slices from the first to the last unit."""
        return *self.extent, sum(slab.depth + 1 for slab in self.slabs) - 1


def build_space(
    sites: Sequence[Site], *, label: str, model_name: str, weights_sha256: str
) -> Space:
    """Give every unit of the sites a voxel, in index arrangement (native order in each panel).

    Panels, one for each site, are blocks that lie beside one another in a slab of 1 to 8 axial
    slices; slabs follow depth from input (bottom) to output (top), one slab a layer (up to four
    narrow layers side by side), and a role has its panel at the same place in every slab. Modules
    outside the layers have slabs below or above. At least one white voxel lies between two panels,
    one white slice between two slabs, and two white voxels around everything; outside there is
    background enough for automatic masks. Of all ways that were tried, the one with the fewest
    voxels is taken whose longest side is at most 2.5 times the shortest. Voxels of 2 mm, RAS+; the
    world's origin is the middle voxel, whose slices show units.

    >>> norm = Site(name="model.norm", layer=None, role="model.norm", width=6)
    >>> space = build_space([norm], label="Tiny", model_name="tiny", weights_sha256="0" * 64)
    >>> space.n_units, bool(space.to_grid(np.ones(6))[:, :, space.shape[2] // 2].any())
    (6, True)
    """
    if not re.fullmatch(r"[0-9A-Za-z]+", label):
        raise SpaceError(
            f"space label {label!r} is not a BIDS label; use letters and digits only, "
            f"e.g. {re.sub('[^0-9A-Za-z]', '', label) or 'Model'!r}"
        )
    packing = _packing(sites)
    voxels = np.empty((sum(site.width for site in sites), 3), dtype=np.int32)
    starts = np.cumsum([0, *(site.width for site in sites)])
    depth = 0
    for slab in packing.slabs:
        for index, (corner, box) in slab.panels.items():
            panel = panel_voxels(site_tiles(sites[index], slab.depth), box)
            voxels[starts[index] : starts[index + 1]] = panel + np.array([*corner, depth], "i4")
        depth += slab.depth + 1
    shape, white, before = _margins(packing.content, voxels)
    voxels += np.array(before, dtype=np.int32)
    tissue = np.zeros(shape, dtype=np.uint8)
    brain = [
        slice(first - white, first + size + white)
        for first, size in zip(before, packing.content, strict=True)
    ]
    tissue[tuple(brain)] = WHITE
    tissue[tuple(voxels.T)] = GREY
    return Space(
        label=label,
        shape=shape,
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
    for name, units in space.site_slices.items():
        if not np.array_equal(np.sort(order[units]), np.arange(units.start, units.stop)):
            raise SpaceError(
                f"arrangement: the cells of site {name} are no permutation of its "
                f"{units.stop - units.start} units; each must be taken once"
            )
    return replace(space, voxels=space.voxels[order], arrangement=arrangement, layout=layout)


def block_sizes(site: Site) -> list[int]:
    """Give the units of each block that is arranged by itself: a head, or the panel without."""
    return [site.head_size or site.width] * (site.n_heads or 1)


def index_space(space: Space) -> Space:
    """Make the space of the same units in index arrangement, on the same grid."""
    # native order fills a block column by column, row by row, slice by slice: in the slabs of today
    # as in the slices of earlier versions, whose grids need nothing else of their own
    sizes = [size for site in space.sites for size in block_sizes(site)]
    native = np.lexsort((*space.voxels.T, np.repeat(np.arange(len(sizes)), sizes)))
    return replace(space, voxels=space.voxels[native], arrangement="index", layout=None)


def cells_of(space: Space) -> npt.NDArray[np.int32]:
    """Tell in whose voxel of index arrangement each unit lies, (n_units,), for `rearrange`."""
    return np.asarray(index_space(space).unit_of_voxel[tuple(space.voxels.T)], dtype=np.int32)


def _split_by_depth(sites: Sequence[Site]) -> tuple[list[int], list[int], list[int]]:
    """Split sites (by index) into those before the layers, in them, and after them.

    Modules are often listed in an order that is not that of computation (OPT lists its final norm
    before its layers), so the name decides where it tells, and the order otherwise.
    """
    inside = [index for index, site in enumerate(sites) if site.layer is not None]
    first = inside[0] if inside else 0

    def comes_after(index: int) -> bool:
        name = sites[index].name.rpartition(".")[2]
        return bool(_AFTER.search(name)) or not (_BEFORE.search(name) or index < first)

    outside = [index for index, site in enumerate(sites) if site.layer is None]
    before = [index for index in outside if not comes_after(index)]
    return before, inside, [index for index in outside if comes_after(index)]


def _packing(sites: Sequence[Site]) -> _Packing:
    """Choose thickness, layers in a slab and boxes: see `build_space`."""
    n_units = sum(site.width for site in sites)
    n_layers = len({site.layer for site in sites if site.layer is not None})
    tried = []
    for together in range(1, min(_MOST_TOGETHER, max(n_layers, 1)) + 1):
        tried.append(min(_packings(sites, together), key=_cost))
        if n_units >= _FAIR_SHARE * math.prod(_least_shape(tried[-1].content)):
            return tried[-1]
    return tried[0]


def _cost(packing: _Packing) -> tuple[float, float]:
    ratio, voxels = _grid_cost(packing.content)
    return ratio, voxels * (1 if packing.thickness == _THICKNESS[0] else _PREFERENCE)


def _grid_cost(content: tuple[int, int, int]) -> tuple[float, int]:
    """Compare grids: the fewest voxels, among those that are not too long."""
    shape = _least_shape(content)
    longest = max(shape) + 2  # what it takes at most to bring units into the middle
    return max(longest / min(shape), _LONGEST), math.prod(shape)


def _packings(sites: Sequence[Site], together: int) -> Iterator[_Packing]:
    """Pack sites in slabs of each thickness, so many layers in each."""
    before, inside, after = _split_by_depth(sites)
    slabs, roles = _roles_by_slab(sites, inside, together)
    alone = [[index] for index in ([] if roles else (*before, *after))]
    for thickness in _THICKNESS:
        panels = [
            list({site_tiles(sites[index], thickness) for index in role})
            for role in (roles.values() if roles else alone)
        ]
        depth = (thickness + 1) * len(slabs) + 2 * bool(before) + 2 * bool(after) - 1
        costs = ((_grid_cost((*made[2], depth)), made) for made in packings(panels))
        _, (boxes, corners, extent, _) = min(
            costs, key=lambda row: (row[0][0], row[0][1] * (1 + _SQUARENESS * row[1][3]))
        )
        placed = dict(zip(roles, zip(corners, boxes, strict=True), strict=True)) if roles else {}
        inner = [
            _Slab({index: placed[role] for role, index in slab.items()}, thickness)
            for slab in slabs
        ]
        first, last = (_outer_slabs(sites, group, extent) for group in (before, after))
        yield _Packing([*first, *inner, *last], thickness, extent)


def _roles_by_slab(
    sites: Sequence[Site], inside: Sequence[int], together: int
) -> tuple[list[dict[tuple[int, str, int], int]], dict[tuple[int, str, int], list[int]]]:
    """Say which site has which role in each slab of layers, and which sites have a role."""
    layers = sorted({int(sites[index].layer or 0) for index in inside})
    slabs: list[dict[tuple[int, str, int], int]] = [{} for _ in layers[::together]]
    roles: dict[tuple[int, str, int], list[int]] = {}
    rank = {layer: number for number, layer in enumerate(layers)}
    for index in sorted(inside, key=lambda index: rank[int(sites[index].layer or 0)] % together):
        site = sites[index]
        number, column = divmod(rank[int(site.layer or 0)], together)
        same = sum(key[:2] == (column, site.role) for key in slabs[number])
        slabs[number][column, site.role, same] = index
        roles.setdefault((column, site.role, same), []).append(index)
    return slabs, roles


def _outer_slabs(sites: Sequence[Site], group: Sequence[int], extent: Box) -> list[_Slab]:
    """Slabs for modules outside the layers: as thin as they fit, several in one where they do."""
    slabs: list[_Slab] = []
    page: list[int] = []
    for index in group:
        slab = _page(sites, [*page, index], extent, most=max(_THICKNESS))
        if slab is None:  # it begins a slab of its own, as thick as it needs
            page, most = [], sites[index].width
            slab = _page(sites, [index], extent, most=most)
        if page:
            slabs.pop()
        page.append(index)
        slabs += [slab] if slab else []
    return slabs


def _page(sites: Sequence[Site], page: Sequence[int], extent: Box, *, most: int) -> _Slab | None:
    """Lay panels in the thinnest slab that holds them; None where that is thicker than `most`."""
    least = sum(sites[index].width for index in page) // math.prod(extent)
    for depth in range(max(1, least), most + 1):
        panels = [site_tiles(sites[index], depth) for index in page]
        heights = range(max(1, extent[1] // 8), extent[1] + 1)
        tried = [[panel.compact_box(height) for panel in panels] for height in heights]
        tried.sort(key=partial(mean_ratio, [[panel] for panel in panels]))
        for boxes in [*tried, [panel.box(extent[1]) for panel in panels]]:
            corners, used = shelve(boxes, extent[0])
            if used[0] <= extent[0] and used[1] <= extent[1]:
                placed = zip(corners, boxes, strict=True)
                return _Slab(dict(zip(page, placed, strict=True)), depth)
    return None


def _white(content: Sequence[int]) -> int:
    """White voxels around the units: more in tiny models, whose background would be too much."""
    for white in itertools.count(_WHITE_MARGIN):
        brain = [size + 2 * white for size in content]
        grid = [size + 2 * _OUTSIDE_MARGIN for size in brain]
        if 1 - math.prod(brain) / math.prod(grid) <= OUTSIDE_SHARE[1]:
            break
    return white


@lru_cache(maxsize=65536)
def _least_shape(content: tuple[int, int, int]) -> tuple[int, int, int]:
    """Give the grid around so many columns, rows and slices, with the least background."""
    white = _white(content)
    brain = [size + 2 * white for size in content]
    shape = [size + 2 * _OUTSIDE_MARGIN for size in brain]
    while 1 - math.prod(brain) / math.prod(shape) < OUTSIDE_SHARE[0]:
        shape[shape.index(min(shape))] += 1
    return shape[0], shape[1], shape[2]


def _margins(
    content: tuple[int, int, int], voxels: _Voxels
) -> tuple[tuple[int, int, int], int, tuple[int, int, int]]:
    """Give the grid, the white margin, and the voxels before the content on each axis.

    The brain lies in the grid such that the middle slices show units: viewers open there.
    """
    white, least = _white(content), _least_shape(content)
    shape, before = [], []
    for axis, (size, total) in enumerate(zip(content, least, strict=True)):
        n_units = np.bincount(voxels[:, axis], minlength=size)
        full = n_units >= n_units[n_units > 0].mean() / 2
        while True:
            spare = total - size - 2 * white - 2 * _OUTSIDE_MARGIN
            shifts = sorted(range(spare + 1), key=lambda shift: abs(2 * shift - spare))
            firsts = [shift + white + _OUTSIDE_MARGIN for shift in shifts]
            middles = {(total - 1) // 2, total // 2}
            good = [
                first
                for first in firsts
                if all(0 <= middle - first < size and full[middle - first] for middle in middles)
            ]
            if good:
                break
            total += 1
        shape.append(total)
        before.append(good[0])
    return (shape[0], shape[1], shape[2]), white, (before[0], before[1], before[2])


def _affine(shape: Sequence[int]) -> npt.NDArray[np.float64]:
    """RAS+ with the origin at the middle voxel."""
    affine = np.diag([VOXEL_SIZE, VOXEL_SIZE, VOXEL_SIZE, 1.0])
    affine[:3, 3] = -VOXEL_SIZE * (np.array(shape) // 2)
    return affine


def chosen_sites(space: Space, patterns: Sequence[str]) -> tuple[Site, ...]:
    """Choose sites of a space by presets and patterns, as ``--sites`` does."""
    from llm2bids.model.sites import SiteTable, select_sites

    return select_sites(SiteTable(sites=space.sites, skipped=()), patterns)


def cropped(space: Space, patterns: Sequence[str]) -> Space:
    """Cut a space down to some sites; voxels of other sites are white matter there."""
    sites = chosen_sites(space, patterns)
    voxels = np.concatenate([space.voxels[space.site_slices[site.name]] for site in sites])
    first, last = voxels.min(axis=0), voxels.max(axis=0)
    box = tuple(slice(low, high + 1) for low, high in zip(first, last, strict=True))
    tissue = np.where(space.tissue[box] == OUTSIDE, OUTSIDE, WHITE).astype(np.uint8)
    voxels = voxels - first
    tissue[tuple(voxels.T)] = GREY
    affine = space.affine.copy()
    affine[:3, 3] = (space.affine @ [*first, 1])[:3]
    n_x, n_y, n_z = tissue.shape
    return replace(
        space, shape=(n_x, n_y, n_z), affine=affine, sites=sites, voxels=voxels, tissue=tissue
    )
