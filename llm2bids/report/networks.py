"""Sections: the tasks' networks on the flat map, and by layer and role."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from llm2bids.network.task_networks import TaskNetwork
from llm2bids.report.draw.color import flat_limit
from llm2bids.report.draw.flat_figure import flat_drawing
from llm2bids.report.layers import Depth, depth_of
from llm2bids.report.section import missing, render
from llm2bids.report.sources import SHARE, GroupMap, Sources
from llm2bids.space.space import Space

MOST_MAPS = 12  # flat maps on a page: each takes a few bytes for a unit of its network
MOST_ROLES = 24

_OUTER = "outside layers"
_NO_MAPS = "Networks come with the group maps."


@dataclass(frozen=True, kw_only=True, eq=False)
class _GroupNetwork:
    """A contrast's network as the page shows it."""

    title: str
    color: str
    values: npt.NDArray[np.float64]  # (n_units,), effects of its units, NaN elsewhere

    @property
    def n_units(self) -> int:
        """Units of the network."""
        return int(np.count_nonzero(~np.isnan(self.values)))

    @property
    def n_positive(self) -> int:
        """Units whose effect is above 0."""
        return int(np.count_nonzero(self.values > 0))

    @property
    def limit(self) -> float:
        """Absolute effect of full colour on the flat map."""
        return flat_limit(self.values)


def flat_maps_body(sources: Sources) -> Markup:
    """Draw the network of each contrast against the off prompts on the flat map."""
    space, networks = sources.dataset.space, _networks(sources)
    if not networks:
        return missing(_NO_MAPS, sources.command("group"))
    return render(
        "flatmaps.html",
        networks=[
            (network, *network_drawing(space, network, f"flat-{number}"))
            for number, network in enumerate(networks[:MOST_MAPS])
        ],
        left_out=[network.title for network in networks[MOST_MAPS:]],
        written=_written(sources),
        share=SHARE,
        has_stream=any(site.role == "residual" for site in space.sites),
        arrangement=space.arrangement,
    )


def profiles_body(sources: Sources) -> Markup:
    """Draw which share of each role's units is in the network of each contrast, by layer."""
    space, networks = sources.dataset.space, _networks(sources)
    if not networks:
        return missing(_NO_MAPS, sources.command("group"))
    depth = depth_of(space)
    shares = [_site_shares(space, depth, ~np.isnan(network.values)) for network in networks]
    limit = max(float(np.nanmax(share)) for share in shares)
    steps = (0, SHARE, 0.15, 0.3, limit)
    return render(
        "profiles.html",
        profiles=[
            (network, _peak(share), _profile_drawing(network, share, depth, limit))
            for network, share in zip(networks, shares, strict=True)
        ],
        share=SHARE,
        written=_written(sources),
        n_units=networks[0].n_units,
        key=[(share, opacity(share, limit)) for share in steps if share <= limit],
    )


def _networks(sources: Sources) -> list[_GroupNetwork]:
    return [group_network(sources, group_map) for group_map in sources.condition_maps]


def _written(sources: Sources) -> list[TaskNetwork]:
    """List the networks that the group level wrote, of the contrasts that are shown."""
    contrasts = [group_map.contrast for group_map in sources.condition_maps]
    return [sources.networks[name] for name in contrasts if name in sources.networks]


def group_network(sources: Sources, group_map: GroupMap) -> _GroupNetwork:
    """Put the effects of a contrast's network at its units."""
    space, network = sources.dataset.space, sources.network(group_map)
    values = np.full(space.n_units, np.nan)
    values[network.units(space)] = network.table["effect"]
    return _GroupNetwork(
        title=group_map.title,
        color=sources.color(group_map.title, group_map.task),
        values=values,
    )


def network_drawing(
    space: Space, network: _GroupNetwork, name: str = "flat"
) -> tuple[Markup, list[Markup]]:
    """Draw a network on the flat map: whole, and in strips of layers."""
    inside = ~np.isnan(network.values)
    counts = {name: int(inside[units].sum()) for name, units in space.site_slices.items()}
    densest = max(counts, key=lambda site: counts[site])
    alt = (
        f"Flat map of the network of {network.title}: layers from left to right, one row of panels "
        f"a module. {network.n_units:,} units, {network.n_positive:,} of them rise; most lie in "
        f"{densest} ({counts[densest]:,})."
    )
    return flat_drawing(space, network.values, name=name, alt=alt)


def _site_shares(space: Space, depth: Depth, inside: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """Measure which share of each role's units at each level is inside a set, (n_units,).

    Rows are roles within layers, then modules outside them together; of more than `MOST_ROLES`,
    the last row stands for the rest.
    """
    roles = [_OUTER if site.layer is None else site.role for site in space.sites]
    rows = [role for role in dict.fromkeys(roles) if role != _OUTER]
    rest = _OUTER if _OUTER in roles else None
    if len(rows) > MOST_ROLES:
        rows, rest = rows[: MOST_ROLES - 1], "other"
    row_of_site = [role if role in rows else rest for role in roles]
    units = pd.DataFrame({"level": depth.of_unit, "inside": inside})
    units["row"] = np.array(row_of_site, dtype=object)[space.site_of_unit]
    share = units.pivot_table("inside", "row", "level")
    return share.reindex([*rows, *([rest] if rest else [])]).set_axis(list(depth.labels), axis=1)


def opacity(share: float, limit: float) -> float:
    """Give the strength of a cell's colour: root-like, so that small shares can be told apart."""
    return float(0.04 + 0.96 * min(share / (limit or 1), 1.0) ** 0.65)


def _profile_drawing(
    network: _GroupNetwork, shares: pd.DataFrame, depth: Depth, limit: float
) -> Markup:
    """Draw roles as rows and layers as columns; each cell says its share in a tool tip."""
    role, level, largest = _peak(shares)
    levels = [_level_name(label) for label in depth.labels]
    rows = [(role, zip(levels, row, strict=True)) for role, row in shares.iterrows()]
    return render(
        "profile.svg",
        rows=rows,
        ticks=depth.ticks(9),
        step=300 / len(depth.labels),
        color=network.color,
        strength=lambda share: opacity(share, limit),
        alt=f"Share of each site that is in the network of {network.title}, by layer and role; "
        f"largest in {role}, {level}: {largest:.0%}.",
    )


def _peak(shares: pd.DataFrame) -> tuple[str, str, float]:
    """Find the role and level where most of the units belong to a network, and their share."""
    row, column = map(int, np.unravel_index(np.nanargmax(shares), shares.shape))
    level = _level_name(str(shares.columns[column]))
    return str(shares.index[row]), level, float(np.nanmax(shares))


def _level_name(label: str) -> str:
    return f"layer {label}" if label.isdigit() else label
