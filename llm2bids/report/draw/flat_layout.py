"""Where everything lies on a flat map: layers from left to right, one row of panels a role.

The residual stream is the map's midline, with what lies before and after the layers at its ends.
Above it stands the first group of a layer's modules (attention), below it the others (the MLP). A
panel is the site's block of voxels laid flat, so that neighbours in the space are near one another
on the map, and every unit has the same area.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm2bids.model.units import Site
from llm2bids.report.layers import depth_of
from llm2bids.space.panels import Box, columns_across
from llm2bids.space.space import Space

COLUMN_GAP = 3  # units between the panels of two layers

ROW_GAP = 4  # least units between two rows of a group

GROUP_GAP = 13  # units between two groups of rows, and around the residual stream

END_GAP = 12  # units between the layers and what lies before and after them

RESIDUAL = "residual"

Places = npt.NDArray[np.int64]  # column and row of each unit, (n_units, 2), from the top left


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of panels, in units from the top of the map."""

    role: str  # empty for a midline without residual stream
    group: str  # first part of the role's name where it has several ("mlp"), else empty
    top: int
    height: int

    @property
    def name(self) -> str:
        """The role without its group."""
        return self.role.removeprefix(f"{self.group}.") if self.group else self.role


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of panels: a layer, or a module before or after the layers."""

    label: str
    is_layer: bool
    left: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The rectangle around the units of a site, in units from the top left."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, eq=False)
class FlatLayout:
    """A flat map without values; sizes are in units."""

    width: int
    height: int
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    midline: int  # number of the row of the residual stream, -1 without one
    panels: tuple[Panel, ...]  # in recording order
    at: npt.NDArray[np.int64]  # (n_units, 2): column and row of each, from the top left


@dataclass(frozen=True, kw_only=True, eq=False)
class _Patch:
    """Units of a site as the map shows them: places from the patch's own corner."""

    site: Site
    places: Places

    @property
    def width(self) -> int:
        return int(self.places[:, 0].max()) + 1

    @property
    def height(self) -> int:
        return int(self.places[:, 1].max()) + 1


def flat_layout(space: Space, *, least_pitch: int = 0) -> FlatLayout:
    """Give every unit of a space a place of its own on a flat map.

    `least_pitch`: units from one row's middle to the next one's, so that labels have room.
    """
    patches = [_Patch(site=site, places=laid_flat(space, site)) for site in space.sites]
    columns, column_of = _columns(space, patches)
    rows, midline = _rows(patches, least_pitch)
    row_of = {row.role: row for row in rows}
    at = np.empty((space.n_units, 2), dtype=np.int64)
    panels: list[Panel] = []
    for patch, number in zip(patches, column_of, strict=True):
        column = columns[number]
        row = rows[midline] if patch.site.layer is None else row_of[patch.site.role]
        left = column.left + (column.width - patch.width) // 2
        top = row.top + (row.height - patch.height) // 2
        at[space.site_slices[patch.site.name]] = patch.places + np.array([left, top])
        panels.append(Panel(left=left, top=top, width=patch.width, height=patch.height))
    return FlatLayout(
        width=columns[-1].left + columns[-1].width,
        height=rows[-1].top + rows[-1].height,
        rows=rows,
        columns=columns,
        midline=midline,
        panels=tuple(panels),
        at=at,
    )


def role_groups(roles: Sequence[str]) -> list[list[str]]:
    """Part the roles of a layer (without the residual stream) by the part of the layer.

    Single modules, such as norms, stand with what follows them, and at the end with what comes
    before.

    >>> role_groups(["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "dropout"])
    [['ln_1', 'attn.c_attn', 'attn.c_proj'], ['ln_2', 'mlp.c_fc', 'dropout']]
    """
    groups: list[list[str]] = []
    waiting: list[str] = []
    current = None
    for role in roles:
        first, dot, _ = role.partition(".")
        if not dot:
            waiting.append(role)
        elif first == current and not waiting:
            groups[-1].append(role)
        else:
            groups.append([*waiting, role])
            waiting, current = [], first
    if waiting and groups and len(waiting) == 1:
        groups[-1] += waiting
    elif waiting:
        groups.append(waiting)
    return groups


def _columns(space: Space, patches: Sequence[_Patch]) -> tuple[tuple[Column, ...], list[int]]:
    """Give each layer a column, all of one width, and each module outside the layers its own."""
    levels = depth_of(space).of_site.tolist()
    keys = [
        (level, patch.site.name if patch.site.layer is None else "")
        for level, patch in zip(levels, patches, strict=True)
    ]
    order = list(dict.fromkeys(sorted(keys, key=lambda key: key[0])))
    widest = max((patch.width for patch in patches if patch.site.layer is not None), default=0)
    columns: list[Column] = []
    right = 0
    for key in order:
        patch = patches[keys.index(key)]
        is_layer = patch.site.layer is not None
        if columns:
            right += COLUMN_GAP if is_layer == columns[-1].is_layer else END_GAP
        width = widest if is_layer else patch.width
        label = str(patch.site.layer) if is_layer else patch.site.name.rpartition(".")[2]
        columns.append(Column(label=label, is_layer=is_layer, left=right, width=width))
        right += width
    return tuple(columns), [order.index(key) for key in keys]


def _rows(patches: Sequence[_Patch], least_pitch: int) -> tuple[tuple[Row, ...], int]:
    """Stack the rows: the first group, the midline, the other groups."""
    heights: dict[str, int] = {}
    for patch in patches:
        role = RESIDUAL if patch.site.layer is None else patch.site.role
        heights[role] = max(heights.get(role, 0), patch.height)
    named = [patch.site.role for patch in patches if patch.site.layer is not None]
    first, *others = role_groups([r for r in dict.fromkeys(named) if r != RESIDUAL]) or [[]]
    middle = [RESIDUAL] if RESIDUAL in heights else []
    stacked = [group for group in (first, middle, *others) if group]
    rows: list[Row] = []
    for group in stacked:
        for number, role in enumerate(group):
            height, gap = heights[role], ROW_GAP if number else GROUP_GAP
            top = 0
            if rows:
                last = rows[-1]
                pitch = max(last.height / 2 + gap + height / 2, least_pitch)
                top = int(np.ceil(last.top + last.height / 2 + pitch - height / 2))
            part = role.partition(".")[0] if "." in role else ""
            shown = "" if role not in named else role
            rows.append(Row(role=shown, group=part, top=top, height=height))
    return tuple(rows), len(first) if middle else -1


def laid_flat(space: Space, site: Site) -> Places:
    """Lay a site's block of voxels flat: voxels of a column become neighbours, heads stay whole.

    Whatever the layout of the space: what lies in one slice keeps its rows and columns.
    """
    voxels = space.voxels[space.site_slices[site.name]].astype(np.int64)
    heads = voxels.reshape(-1, site.head_size or site.width, 3)
    corners = heads.min(axis=1)
    inside = _flat((heads - corners[:, np.newaxis]).reshape(-1, 3), (1, 1))
    box = inside.max(axis=0) + 1
    grid = np.stack([np.unique(axis, return_inverse=True)[1] for axis in corners.T], axis=1)
    tiles = _flat(grid, (int(box[0]), int(box[1])))
    return np.asarray(np.repeat(tiles * box, heads.shape[1], axis=0) + inside)


def _flat(cells: npt.NDArray[np.int64], size: Box) -> Places:
    """Give cells (n, 3) of a block, each of a size, a column and row: neighbours lie together.

    A column of voxels becomes a tile, and every other tile is turned over: what touches across
    its edge then lies in one slice.
    """
    columns, rows, depth = (cells.max(axis=0) + 1).tolist()
    across = columns_across((columns * size[0], rows * size[1], depth))
    down = depth // across
    x, y, level = cells.T
    row, column = np.divmod(level, across)
    column = np.where((row + columns - 1 - x) % 2, across - 1 - column, column)
    # counted from the last row, which may lack its deeper voxels
    row = np.where((rows - 1 - y) % 2, down - 1 - row, row)
    return np.stack([x * across + column, y * down + row], axis=1)
