"""A functional arrangement: units whose responses are alike lie side by side in their panel."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from scipy.cluster.hierarchy import leaves_list, linkage

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.space.curve import hilbert_cells
from llm2bids.space.embedding import planar_order
from llm2bids.space.space import Space

Method = Literal["components", "ward", "tsne"]
"""Principal components over columns and rows; leaves of Ward's tree along a Hilbert curve; a t-SNE
embedding assigned to the cells."""

METHODS: Final[tuple[Method, ...]] = get_args(Method)

FEWEST_PROMPTS: Final = 16
"""Prompts that a localizer must have. From fewer, chance likeness decides the order."""

FEWEST_TASKS: Final = 2
"""Conditions besides the baseline from which on contrasts are what units are compared by."""

WIDEST: Final[dict[Method, int]] = {"components": 262_144, "ward": 16_384, "tsne": 4_096}
"""Units of the widest panel: distances of all pairs take 2 GB with ward, and time goes with the
cube of the width with tsne."""

Cells = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedOrder:
    """Where a localizer puts every unit.

    Parameters
    ----------
    cells : ndarray of int32, shape (n_units,)
        The unit in whose voxel of index order each unit lies: a permutation within each site, and
        within each head.
    constant : ndarray of bool, shape (n_units,)
        Units that did not vary over the localizer's prompts; they come last on the curve.
    """

    cells: Cells
    constant: npt.NDArray[np.bool_]


def learn_cells(
    space: Space,
    responses: Floats,
    conditions: Sequence[str],
    *,
    baseline: str,
    method: Method = "components",
    n_jobs: int = 1,
) -> LearnedOrder:
    """Give units with similar responses neighbouring cells, within each panel.

    With ``components``, the units of a panel are sorted into columns by the first principal
    component of their responses, and within columns by the second; with ``tsne``, they are embedded
    in the plane and assigned to cells; swaps of two units follow in both, see
    `llm2bids.space.embedding.planar_order`. With ``ward``, they are sorted by the leaves of Ward's
    tree over their responses, and laid along a Hilbert curve through the panel.

    A unit's responses are the contrasts of each condition against the baseline, in standard
    deviations within conditions; with fewer than `FEWEST_TASKS` conditions besides the baseline,
    its standardised prompt means.

    Attention heads stay rectangles in their place, so that head atlas and labels hold: units are
    arranged within each head. The residual stream has one order for all layers, learned from all
    of them together: depth lines up, and a column of voxels is one coordinate of the stream.

    Parameters
    ----------
    space : Space
        In index arrangement.
    responses : ndarray of float32, shape (n_prompts, n_units)
        Mean response of each unit to each prompt of the localizer.
    conditions : sequence of str, length n_prompts
        Condition of each prompt.
    baseline : str
        The condition of the off prompts.
    method : {"components", "ward", "tsne"}
        How units are placed.
    n_jobs : int
        Processes.

    Returns
    -------
    LearnedOrder
        A permutation within each site.

    Raises
    ------
    SpaceError
        If the space is not in index arrangement, the localizer is too short or not finite, or a
        panel is too wide.

    References
    ----------
    Ward (1963), Journal of the American Statistical Association 58:236.
    """
    _check(space, responses, conditions, baseline)
    check_widths(space.sites, method)
    tasks = [
        (first, size, [space.site_slices[site.name].start for site in group])
        for group in _groups(space.sites)
        for first, size in _blocks(group[0])
    ]
    features, constant = _features(responses, np.asarray(conditions), baseline)
    place = delayed(_place_block)
    placed = Parallel(n_jobs=n_jobs)(
        place(
            np.concatenate([features[:, start + first : start + first + size] for start in starts]),
            space.voxels[starts[0] + first : starts[0] + first + size],
            np.all([constant[start + first : start + first + size] for start in starts], axis=0),
            method,
        )
        for first, size, starts in tasks
    )
    cells = np.arange(space.n_units, dtype=np.int32)
    for (first, size, starts), order in zip(tasks, placed, strict=True):
        for start in starts:
            cells[start + first : start + first + size] = start + first + order
    return LearnedOrder(cells=cells, constant=constant)


def random_cells(space: Space, *, seed: int) -> Cells:
    """Shuffle the units of each panel, and of each head: the control for what an order does.

    The residual stream has one order for all layers, as in the functional arrangement.

    Parameters
    ----------
    space : Space
        In index arrangement.
    seed : int
        Of the shuffles.

    Returns
    -------
    ndarray of int32, shape (n_units,)
        As `LearnedOrder.cells`.
    """
    rng = np.random.default_rng(seed)
    cells = np.arange(space.n_units, dtype=np.int32)
    for group in _groups(space.sites):
        for first, size in _blocks(group[0]):
            order = rng.permutation(size)
            for site in group:
                start = space.site_slices[site.name].start + first
                cells[start : start + size] = start + order
    return cells


def _check(space: Space, responses: Floats, conditions: Sequence[str], baseline: str) -> None:
    if space.arrangement != "index":
        raise SpaceError(
            f"space {space.label} is in {space.arrangement} arrangement; an order is learned for "
            "a space in index arrangement"
        )
    if responses.shape != (len(conditions), space.n_units):
        raise SpaceError(
            f"localizer: responses of shape {responses.shape}; expected ({len(conditions)}, "
            f"{space.n_units}), the prompts and the units of space {space.label}"
        )
    counts = Counter(conditions)
    if len(conditions) < FEWEST_PROMPTS or min(counts.values()) < 2 or not counts[baseline]:
        shown = ", ".join(f"{number} of {name}" for name, number in counts.items())
        raise SpaceError(
            f"localizer: {len(conditions)} prompts ({shown or 'none'}) are too few to tell which "
            f"units respond alike; expected {FEWEST_PROMPTS} or more, 2 of each condition, some of "
            f"them of {baseline}, each with one token or more (calibration_prompts in the paradigm "
            "and --localizer-prompts)"
        )
    if not np.isfinite(responses).all():
        unit = int(np.flatnonzero(~np.isfinite(responses).all(axis=0))[0])
        raise SpaceError(f"localizer: responses of {space.address_of(unit)} are not finite")


def check_widths(sites: Sequence[Site], method: Method = "components") -> None:
    """Refuse panels that are too wide, before a localizer is scanned.

    Parameters
    ----------
    sites : sequence of Site
        What is to be arranged.
    method : {"components", "ward", "tsne"}
        How units are placed.

    Raises
    ------
    SpaceError
        If a panel (or head) has more units than the method takes; the message names the site.
    """
    for site in sites:
        if max(size for _, size in _blocks(site)) > WIDEST[method]:
            raise SpaceError(
                f"site {site.name} has {site.width:,} units; a functional arrangement by {method} "
                f"takes up to {WIDEST[method]:,} in a panel: leave the site out with --sites, "
                f"{'' if method == 'components' else 'take --arrangement-method components, '}or "
                "record in index arrangement"
            )


def _groups(sites: Sequence[Site]) -> list[list[Site]]:
    """Sites that share one order: the residual stream of equal width, and each other site alone."""
    groups: dict[object, list[Site]] = {}
    for site in sites:
        stream = site.role == "residual"
        groups.setdefault(("residual", site.width) if stream else site.name, []).append(site)
    return list(groups.values())


def _blocks(site: Site) -> list[tuple[int, int]]:
    """First unit and number of units of what is arranged by itself: each head, or the panel."""
    if site.n_heads is None or site.head_size is None:
        return [(0, site.width)]
    return [(head * site.head_size, site.head_size) for head in range(site.n_heads)]


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
    contrasts = len(tasks) >= FEWEST_TASKS
    spread = within if contrasts else responses - responses.mean(axis=0)
    sd = np.sqrt(np.einsum("ij,ij->j", spread, spread) / len(responses))
    size = np.abs(responses).max(axis=0)
    constant = np.asarray((sd <= 1e-6 * size) | (size == 0))
    found = np.stack([means[name] - means[baseline] for name in tasks]) if contrasts else spread
    return (found / np.where(constant, 1, sd)).astype(np.float32), constant


def _place_block(
    features: Floats,
    voxels: npt.NDArray[np.int32],
    constant: npt.NDArray[np.bool_],
    method: Method,
) -> Cells:
    """Give each unit of a block the cell of a unit."""
    curve = curve_order(voxels)
    order = np.empty(len(voxels), dtype=np.int32)
    varying = np.flatnonzero(~constant)
    order[constant] = curve[varying.size :]
    free = curve[: varying.size]
    if method != "ward" and varying.size:
        places = _unfolded(voxels[free])
        order[varying] = free[planar_order(features[:, varying].T, places, method=method)]
        return order
    if varying.size > 2:
        tree = linkage(features[:, varying].T, method="ward")
        varying = varying[leaves_list(tree)]
    order[varying] = free
    return order


def _unfolded(voxels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Lay the slices of a panel side by side, apart by a column."""
    places = voxels - voxels.min(axis=0)
    places[:, 0] += places[:, 2] * (places[:, 0].max() + 2)
    return np.asarray(places[:, :2])


def curve_order(voxels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Order the voxels of a panel along a Hilbert curve, slice after slice.

    Parameters
    ----------
    voxels : ndarray of int32, shape (n_units, 3)
        Voxels of a panel or of a head.

    Returns
    -------
    ndarray of int32, shape (n_units,)
        Indices into `voxels` in the order of the walk.
    """
    corner = voxels.min(axis=0)
    columns, rows, depth = (voxels.max(axis=0) - corner + 1).tolist()
    walk = hilbert_cells(columns, rows)
    at = np.full((columns, rows, depth), -1, dtype=np.int32)
    at[tuple((voxels - corner).T)] = np.arange(len(voxels), dtype=np.int32)
    order = at[walk[:, 0], walk[:, 1]].T.reshape(-1)
    return np.asarray(order[order >= 0], dtype=np.int32)
