"""The unit table: one row for each unit, with its address, its voxel and its place in the world."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from nibabel.affines import apply_affine

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.store.tables import to_numbers

COLUMNS = ("address", "module", "layer", "role", "head", "unit", "i", "j", "k", "x", "y", "z")
"""Columns of the unit table, in order."""


def unit_table(
    sites: Sequence[Site],
    voxels: npt.NDArray[np.int32],
    affine: npt.NDArray[np.float64],
    units: npt.NDArray[np.intp] | None = None,
) -> pd.DataFrame:
    """List units (n,) by their numbers, or all in recording order, in voxels of them (n, 3).

    Columns `COLUMNS`, <NA> outside layers and heads: ``unit`` is the index in the module's output,
    ``i, j, k`` the voxel, ``x, y, z`` are in mm.
    """
    widths = np.array([site.width for site in sites])
    stops = np.cumsum(widths)
    units = np.arange(stops[-1]) if units is None else units
    site = np.searchsorted(stops, units, side="right")
    unit = units - (stops - widths)[site]
    modules = pd.Series([site.name for site in sites], dtype="str")
    roles = pd.Series([site.role for site in sites], dtype="str")
    layers = pd.array([site.layer for site in sites], dtype="Int64")
    sizes = np.array([site.head_size or 0 for site in sites])[site]
    heads = pd.array(unit // np.maximum(sizes, 1), dtype="Int64")
    heads[sizes == 0] = pd.NA
    world = apply_affine(affine, voxels)
    addresses = [f"{sites[s].name}[{u}]" for s, u in zip(site.tolist(), unit.tolist(), strict=True)]
    return pd.DataFrame(
        {
            "address": pd.Series(addresses, dtype="str"),
            "module": modules.array.take(site),
            "layer": layers.take(site),
            "role": roles.array.take(site),
            "head": heads,
            "unit": unit.astype(np.int64),
            **dict(zip("ijk", voxels.T, strict=True)),
            **dict(zip("xyz", world.T, strict=True)),
        }
    )


def sites_from_table(table: pd.DataFrame) -> tuple[tuple[Site, ...], npt.NDArray[np.int32]]:
    """Read sites and voxels (n_units, 3) back out of a unit table; x, y, z are not read."""
    missing = [name for name in COLUMNS[:9] if name not in table]
    if missing:
        raise SpaceError(
            f"unit table lacks column(s) {', '.join(missing)}; expected {', '.join(COLUMNS)}"
        )
    if table.empty:
        raise SpaceError("unit table has no rows; expected one row for each unit")
    voxels = np.stack([_whole(table, axis) for axis in "ijk"], axis=1)
    _refuse_shared(table, voxels)
    module = table["module"].to_numpy(dtype=object)
    starts = np.flatnonzero(np.r_[True, module[1:] != module[:-1]])
    stops = np.r_[starts[1:], len(table)]
    unit = _whole(table, "unit")
    layer = _optional(table, "layer")
    head = _optional(table, "head")
    role = table["role"].to_numpy(dtype=object)
    sites: list[Site] = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        rows = slice(start, stop)
        name = str(module[start])
        if not np.array_equal(unit[rows], np.arange(stop - start)):
            raise SpaceError(
                f"unit table: units of module {name} (from row {start + 1}) are not "
                "0, 1, 2, ... in one run of rows; keep the rows in their order"
            )
        if np.any(layer[rows] != layer[start]) or np.any(role[rows] != role[start]):
            raise SpaceError(f"unit table: module {name} has more than one layer or role")
        n_heads, head_size = _heads(name, head[rows])
        sites.append(
            Site(
                name=name,
                layer=None if layer[start] < 0 else int(layer[start]),
                role=str(role[start]),
                width=stop - start,
                n_heads=n_heads,
                head_size=head_size,
            )
        )
    _refuse_wrong_addresses(table, sites)
    return tuple(sites), voxels.astype(np.int32)


def _whole(table: pd.DataFrame, name: str) -> npt.NDArray[np.int64]:
    numbers = to_numbers(table[name]).to_numpy(dtype=np.float64, na_value=-1)
    wrong = np.flatnonzero(~((numbers >= 0) & (numbers < 2**31) & (numbers == np.rint(numbers))))
    if wrong.size:
        raise SpaceError(
            f"unit table: column {name}, row {wrong[0] + 1} is {table[name].iloc[wrong[0]]!r}; "
            "expected a whole number from 0"
        )
    return numbers.astype(np.int64)


def _optional(table: pd.DataFrame, name: str) -> npt.NDArray[np.int64]:
    """Whole numbers with -1 for what is missing (<NA>, an empty cell or n/a)."""
    column = table[name].astype(object)
    empty = column.isna() | column.isin(["n/a", ""])
    numbers = np.full(len(table), -1, dtype=np.int64)
    if not empty.all():
        numbers[~empty.to_numpy()] = _whole(table.loc[~empty], name)
    return numbers


def _heads(name: str, head: npt.NDArray[np.int64]) -> tuple[int | None, int | None]:
    """Read the number of heads and the head size from the head of each unit of a module."""
    if np.all(head < 0):
        return None, None
    n_heads = int(head.max()) + 1
    head_size, rest = divmod(len(head), n_heads)
    if rest or not np.array_equal(head, np.arange(len(head)) // max(head_size, 1)):
        raise SpaceError(
            f"unit table: heads of module {name} are not equal runs of units in order; "
            "keep the column head as it was written"
        )
    return n_heads, head_size


def _refuse_shared(table: pd.DataFrame, voxels: npt.NDArray[np.int64]) -> None:
    i, j, k = voxels.T
    key = (k * (j.max() + 1) + j) * (i.max() + 1) + i
    _, first, count = np.unique(key, return_index=True, return_counts=True)
    if count.max() > 1:
        row = int(first[count.argmax()])
        same = np.flatnonzero(key == key[row])
        raise SpaceError(
            f"unit table: units {table['address'].iloc[same[0]]} and "
            f"{table['address'].iloc[same[1]]} share voxel {tuple(voxels[row].tolist())}; "
            "every unit needs a voxel of its own"
        )


def _refuse_wrong_addresses(table: pd.DataFrame, sites: Sequence[Site]) -> None:
    names = [site.name for site in sites]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SpaceError(
            f"unit table: rows of module {twice} are not next to each other; keep their order"
        )
    written = table["address"].to_numpy(dtype=object)
    addresses = [f"{site.name}[{unit}]" for site in sites for unit in range(site.width)]
    expected = np.array(addresses, dtype=object)
    wrong = np.flatnonzero(written != expected)
    if wrong.size:
        raise SpaceError(
            f"unit table: row {wrong[0] + 1} has address {written[wrong[0]]!r}, "
            f"expected {expected[wrong[0]]!r} from its module and unit"
        )
