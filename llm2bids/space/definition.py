"""What a space is read back from: its metadata, and the table of its units."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from nibabel.affines import apply_affine

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.store.tables import whole_numbers

# Arrangements that a space can have: native order, by responses, shuffled within each panel.
ARRANGEMENTS = ("index", "functional", "random")

# Most voxels for each unit, beside a million: metadata that claim more are refused unread.
_MOST_VOXELS = 1000

_NEEDED = ("label", "shape", "affine", "brain_box", "arrangement", "model_name", "weights_sha256")

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the units of a space came to their voxels, where it is not native order."""

    method: str  # ``components`` or ``random``; ``ward`` or ``tsne`` in older datasets
    prompt_ids: tuple[str, ...] = ()  # the localizer's; maps of the same prompts are circular
    n_tokens: int = 0  # of the localizer
    n_constant: int = 0  # units that did not vary in the localizer

    def metadata(self) -> dict[str, Any]:
        """Say it in JSON's types."""
        return {**asdict(self), "prompt_ids": list(self.prompt_ids)}


def read_layout(arrangement: str, entries: object) -> Layout | None:
    """Read what `Layout.metadata` wrote; None in index arrangement."""
    if arrangement not in ARRANGEMENTS:
        raise SpaceError(f"arrangement {arrangement!r}: expected one of {', '.join(ARRANGEMENTS)}")
    if entries is None and arrangement == "index":
        return None
    if not isinstance(entries, Mapping) or arrangement == "index":
        raise SpaceError(
            f"metadata of the space: layout is a {type(entries).__name__} in {arrangement} "
            "arrangement; expected an object with the method and the prompts that it was learned "
            "from, and none in index arrangement: restore the metadata"
        )
    ids = entries.get("prompt_ids")
    counts = [entries.get("n_tokens"), entries.get("n_constant")]
    if (
        not isinstance(entries.get("method"), str)
        or not isinstance(ids, list)
        or not all(isinstance(name, str) for name in ids)
        or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in counts)
    ):
        raise SpaceError(
            f"metadata of the space: layout has {', '.join(map(str, entries)) or 'nothing'}; "
            "expected method (text), prompt_ids (list of texts), n_tokens and n_constant (whole "
            "numbers): restore the metadata"
        )
    return Layout(
        method=entries["method"],
        prompt_ids=tuple(ids),
        n_tokens=entries["n_tokens"],
        n_constant=entries["n_constant"],
    )


def read_grid(
    metadata: Mapping[str, Any], voxels: npt.NDArray[np.int32]
) -> tuple[Shape, tuple[slice, ...], npt.NDArray[np.float64]]:
    """Read the grid's shape, the box of the brain (it holds all voxels), and the affine (4, 4)."""
    missing = [key for key in _NEEDED if key not in metadata]
    if missing:
        raise SpaceError(f"metadata of the space lack {', '.join(missing)}; write them anew")
    try:
        n_x, n_y, n_z = (int(n) for n in metadata["shape"])
        box = tuple(slice(int(start), int(stop)) for start, stop in metadata["brain_box"])
        affine = np.array(metadata["affine"], dtype=np.float64).reshape(4, 4)
    except (TypeError, ValueError, OverflowError) as error:
        raise SpaceError(
            f"shape, affine or brain_box of space {metadata['label']} are not numbers of a "
            f"three-dimensional grid ({error}); write the metadata anew"
        ) from None
    if min(n_x, n_y, n_z) < 1 or n_x * n_y * n_z > 1_000_000 + _MOST_VOXELS * len(voxels):
        raise SpaceError(
            f"space {metadata['label']} has the grid {(n_x, n_y, n_z)} for {len(voxels)} "
            "units; no arrangement makes that: write the metadata anew"
        )
    if not np.isfinite(affine).all():
        raise SpaceError(
            f"space {metadata['label']} has the affine {affine.tolist()}; expected finite "
            "millimetres: write the metadata anew"
        )
    first, stop = np.array([(axis.start, axis.stop) for axis in box]).T
    if np.any(voxels < np.maximum(first, 0)) or np.any(voxels >= np.minimum(stop, (n_x, n_y, n_z))):
        raise SpaceError(
            f"unit table has voxels outside the brain of space {metadata['label']} "
            f"({metadata['brain_box']} of grid {(n_x, n_y, n_z)}); "
            "table and metadata are not from the same space"
        )
    return (n_x, n_y, n_z), box, affine


# Columns of the unit table, in order.
COLUMNS = ("address", "module", "layer", "role", "head", "unit", "i", "j", "k", "x", "y", "z")


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
    return whole_numbers(table, name, where="unit table", error=SpaceError)


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
    shared = pd.DataFrame(voxels).duplicated(keep=False).to_numpy()
    if shared.any():
        voxel = voxels[shared.argmax()]
        first, second = table["address"][(voxels == voxel).all(axis=1)].iloc[:2]
        raise SpaceError(
            f"unit table: units {first} and {second} share voxel {tuple(voxel.tolist())}; every "
            "unit needs a voxel of its own"
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
