"""A functional arrangement: units whose responses are alike lie side by side in their panel."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.space.arrange import block_sizes, rearrange
from llm2bids.space.definition import Layout
from llm2bids.space.space import Space

# Name of the method in settings and layouts; datasets of older versions have ``ward`` or ``tsne``
# too, and stay readable.
METHOD: Final = "components"

# Prompts that a localizer must have. From fewer, chance likeness decides the order.
FEWEST_PROMPTS: Final = 16

# Conditions besides the baseline from which on contrasts are what units are compared by.
_FEWEST_TASKS: Final = 2

_WIDEST: Final = 262_144  # units of the widest panel: up to here a panel takes seconds

# Rounds of swaps, fewer for fewer units. In each, every cell of one colour of a chessboard is
# offered one swap.
_ROUNDS: Final = 200

_REACH: Final = 8  # cells on a side of the cubes within which swaps are offered

Cells = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedOrder:
    """Where a localizer puts every unit."""

    cells: Cells  # (n_units,): the unit in whose voxel of index order each unit lies
    constant: npt.NDArray[np.bool_]  # (n_units,): did not vary in the localizer, and come last


def learn_cells(
    space: Space, responses: Floats, conditions: Sequence[str], *, baseline: str, n_jobs: int = 1
) -> LearnedOrder:
    """Place units by responses (n_prompts, n_units): alike side by side, within panel or head.

    A unit is described by the contrast of each condition with the baseline, in standard deviations
    within conditions; with fewer than two conditions besides the baseline, by its standardised
    prompt means. Heads stay rectangles in their place, so that head atlas and labels hold. The
    residual stream has one order for all layers, learned from all: depth lines up, and a column of
    voxels is one coordinate of the stream.
    """
    blocks = _shared_blocks(space.sites)
    features, constant = _features(responses, np.asarray(conditions), baseline)
    place_block = delayed(_place_block)
    orders = Parallel(n_jobs=n_jobs, max_nbytes=None)(
        place_block(
            np.concatenate([features[:, units] for units in same]),
            space.voxels[same[0]],
            np.all([constant[units] for units in same], axis=0),
        )
        for same in blocks
    )
    return LearnedOrder(cells=_all_cells(blocks, orders), constant=constant)


def random_cells(space: Space, *, seed: int) -> Cells:
    """Shuffle the units of each panel, and of each head: the control for what an order does."""
    rng = np.random.default_rng(seed)
    blocks = _shared_blocks(space.sites)
    sizes = (same[0].stop - same[0].start for same in blocks)
    return _all_cells(blocks, map(rng.permutation, sizes))


def random_space(space: Space, *, seed: int) -> Space:
    """Arrange a space in index arrangement at random."""
    cells = random_cells(space, seed=seed)
    return rearrange(space, cells, arrangement="random", layout=Layout(method="random"))


def check_widths(sites: Sequence[Site]) -> None:
    """Refuse panels that are too wide, before a localizer is scanned."""
    for site in sites:
        if max(block_sizes(site)) > _WIDEST:
            raise SpaceError(
                f"site {site.name} has {site.width:,} units; a functional arrangement takes up to "
                f"{_WIDEST:,} in a panel: leave the site out with --sites, or record in index "
                "arrangement"
            )


def _shared_blocks(sites: Sequence[Site]) -> list[list[slice]]:
    """List the units of each block (a head, or a panel), of all sites that share one order.

    The layers of the residual stream share theirs, each other site is alone.
    """
    blocks: dict[object, list[slice]] = {}
    first = 0
    for site in sites:
        name = ("residual", site.width) if site.role == "residual" else site.name
        for number, size in enumerate(block_sizes(site)):
            blocks.setdefault((name, number), []).append(slice(first, first + size))
            first += size
    return list(blocks.values())


def _all_cells(blocks: Iterable[list[slice]], orders: Iterable[npt.NDArray[Any]]) -> Cells:
    """Put the orders of blocks together to the cells of all units, (n_units,)."""
    parts = [(units, order) for same, order in zip(blocks, orders, strict=True) for units in same]
    parts.sort(key=lambda part: part[0].start)
    return np.concatenate([units.start + order for units, order in parts], dtype=np.int32)


def _features(
    responses: Floats, conditions: npt.NDArray[np.str_], baseline: str
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Give what units are compared by, shape (n_features, n_units), and the constant units."""
    names = list(dict.fromkeys(conditions.tolist()))
    means = {name: responses[conditions == name].mean(axis=0) for name in names}
    within = responses.copy()
    for name in names:
        within[conditions == name] -= means[name]
    tasks = [name for name in names if name != baseline]
    contrasts = len(tasks) >= _FEWEST_TASKS
    spread = within if contrasts else responses - responses.mean(axis=0)
    sd = np.sqrt(np.einsum("ij,ij->j", spread, spread) / len(responses))
    size = np.abs(responses).max(axis=0)
    constant = np.asarray((sd <= 1e-6 * size) | (size == 0))
    features = np.stack([means[name] - means[baseline] for name in tasks]) if contrasts else spread
    return (features / np.where(constant, 1, sd)).astype(np.float32), constant


def _place_block(
    features: Floats, voxels: npt.NDArray[np.int32], constant: npt.NDArray[np.bool_]
) -> Cells:
    """Give each unit of a block the cell of a unit, from features (n_features, n_units)."""
    order = np.empty(len(voxels), dtype=np.int32)
    varying = np.flatnonzero(~constant)
    order[constant] = np.arange(varying.size, len(voxels))  # constant units come last
    order[varying] = _spatial_order(features[:, varying].T, voxels[: varying.size])
    return order


def _spatial_order(features: Floats, voxels: npt.NDArray[np.int32]) -> Cells:
    """Give each unit a cell by features (n_units, n_features), voxels (n_units, 3) of the cells.

    By principal components first; then swaps of two units lower the squared feature distance
    between neighbouring cells, as long as they can.
    """
    if len(features) < 4 or not np.ptp(features, axis=0).any():  # no map to make
        return np.arange(len(features), dtype=np.int32)
    # one strong condition (random strings) would decide alone, and at equal spread noise would
    spread = features.std(axis=0)
    features = (features / np.sqrt(np.where(spread > 0, spread, 1))).astype(np.float32)
    positions = voxels - voxels.min(axis=0)
    return _refined(_by_components(features, positions), features, positions)


def _by_components(features: Floats, positions: npt.NDArray[np.int32]) -> Cells:
    """Sort units along the block's axes, the longest first, by one principal component each."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)  # ascending; features are few, units many
    axes = vectors[:, :-4:-1]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    points = centred @ axes
    by_length = np.argsort(-positions.max(axis=0), kind="stable")
    cells = np.lexsort(positions[:, by_length[::-1]].T)
    units = np.arange(len(positions))
    part = np.zeros(len(positions), dtype=np.intp)  # of a place in the order: all, plane, line
    for component, axis in zip(points.T, by_length, strict=False):
        units = units[np.lexsort((component[units], part))]
        along = positions[cells, axis]
        part = np.cumsum(np.r_[False, (np.diff(part) != 0) | (np.diff(along) != 0)])
    order = np.empty(len(positions), dtype=np.int32)
    order[units] = cells
    return order


def _refined(cells: Cells, features: Floats, positions: npt.NDArray[np.int32]) -> Cells:
    """Swap units of cells of one colour of the chessboard, which never are neighbours.

    What surrounds these cells does not change in a round, so all swaps that are gains by
    themselves are gains together, and the cost falls from round to round.
    """
    rng = np.random.default_rng(0)
    unit_at = np.empty_like(cells)
    unit_at[cells] = np.arange(len(cells), dtype=np.int32)
    around = _neighbours(positions)
    n_around = (around >= 0).sum(axis=1)
    color = positions.sum(axis=1) % 2
    nobody = np.zeros((1, features.shape[1]), dtype=features.dtype)
    # at an edge `around` is -1, the last row
    features_at = np.concatenate([features[unit_at], nobody])
    for number in range(min(_ROUNDS, len(cells))):
        chosen = np.flatnonzero(color == number % 2)
        cubes = (positions[chosen] + rng.integers(0, _REACH, 3)) // _REACH
        chosen = chosen[np.lexsort((rng.random(chosen.size), *cubes.T))]
        left, right = chosen[: chosen.size // 2 * 2].reshape(-1, 2).T
        change = features_at[right] - features_at[left]
        pull = features_at[around[left]].sum(axis=1) - features_at[around[right]].sum(axis=1)
        squared = (features_at[right] ** 2).sum(axis=1) - (features_at[left] ** 2).sum(axis=1)
        crowd = n_around[left] - n_around[right]
        gains = crowd * squared - 2 * (change * pull).sum(axis=1) < -1e-6
        left, right = left[gains], right[gains]
        unit_at[left], unit_at[right] = unit_at[right], unit_at[left]
        features_at[left], features_at[right] = features_at[right], features_at[left]
    refined = np.empty_like(cells)
    refined[unit_at] = np.arange(len(cells), dtype=np.int32)
    return refined


def _neighbours(positions: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """List the cells that share a face with each, shape (n_cells, 6); -1 where there is none."""
    board = np.full(positions.max(axis=0) + 3, -1, dtype=np.int32)
    board[tuple(positions.T + 1)] = np.arange(len(positions), dtype=np.int32)
    steps = np.concatenate([np.eye(3, dtype=np.int32), -np.eye(3, dtype=np.int32)])
    return np.stack([board[tuple((positions + 1 + step).T)] for step in steps], axis=1)
