"""Sections: the tasks' networks on the flat map, and by layer and role."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from llm2bids.network.similarity import top_units
from llm2bids.report.draw.color import flat_limit
from llm2bids.report.draw.flat_figure import flat_drawing
from llm2bids.report.layers import Depth, depth_of
from llm2bids.report.section import Section, missing, render
from llm2bids.report.sources import GroupMap, Sources
from llm2bids.space.space import Space

SHARE = 0.05  # share of the units that make a network where the group level wrote none
MOST_MAPS = 12  # flat maps on a page: each takes a few bytes for a unit of its network
MOST_ROLES = 24

_OUTER = "outside layers"


@dataclass(frozen=True, kw_only=True, eq=False)
class _GroupNetwork:
    """A contrast's network as the page shows it."""

    title: str
    color: str
    values: npt.NDArray[np.float64]  # (n_units,), effects of its units, NaN elsewhere
    share: pd.DataFrame  # of the units there, roles by levels of depth; NaN without units

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

    @property
    def peak(self) -> tuple[str, str, float]:
        """Role and level where most of the units belong to it, and their share."""
        share = self.share.to_numpy()
        row, column = map(int, np.unravel_index(np.nanargmax(share), share.shape))
        level = _level_name(str(self.share.columns[column]))
        return str(self.share.index[row]), level, float(share[row, column])


def networks_sections(sources: Sources) -> list[Section]:
    """Show the network of each contrast against the off prompts: flat maps, and profiles."""
    titles = {"flatmaps": "Networks on the flat map", "networks": "Networks by layer and role"}
    shown = sources.condition_maps
    if not shown:
        body = missing("Networks come with the group maps.", sources.command("group"))
        return [Section(name, title, body) for name, title in titles.items()]
    space = sources.dataset.space
    depth = depth_of(space)
    networks = [group_network(sources, group_map, depth) for group_map in shown]
    written = [
        sources.networks[group_map.contrast]
        for group_map in shown
        if group_map.contrast in sources.networks
    ]
    limit = max(float(np.nanmax(network.share)) for network in networks)
    steps = (0, SHARE, 0.15, 0.3, limit)
    flat_maps = render(
        "flatmaps.html",
        networks=[
            (network, *network_drawing(space, network, f"flat-{number}"))
            for number, network in enumerate(networks[:MOST_MAPS])
        ],
        left_out=[network.title for network in networks[MOST_MAPS:]],
        written=written,
        share=SHARE,
        has_stream=any(site.role == "residual" for site in space.sites),
        arrangement=space.arrangement,
    )
    profiles = render(
        "profiles.html",
        profiles=[(network, _profile_drawing(network, depth, limit)) for network in networks],
        share=SHARE,
        written=written,
        n_units=round(SHARE * space.n_units),
        key=[(share, opacity(share, limit)) for share in steps if share <= limit],
    )
    bodies = (flat_maps, profiles)
    return [Section(*section, body) for section, body in zip(titles.items(), bodies, strict=True)]


def group_network(sources: Sources, group_map: GroupMap, depth: Depth) -> _GroupNetwork:
    """Take a contrast's network from the table that the group level wrote.

    Without a table it is the `SHARE` of all units with the largest absolute group effect.
    """
    space = sources.dataset.space
    values = np.full(space.n_units, np.nan)
    written = sources.networks.get(group_map.contrast)
    if written is None:
        effect = np.nan_to_num(sources.unit_map(group_map.path))
        units = np.flatnonzero(top_units(effect, max(SHARE, 1 / space.n_units)))
        values[units] = effect[units]
    else:
        values[written.network.units(space)] = written.network.table["effect"]
    return _GroupNetwork(
        title=group_map.title,
        color=sources.color(group_map.title, group_map.task),
        values=values,
        share=_site_shares(space, depth, ~np.isnan(values)),
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
    widths = [site.width for site in space.sites]
    units = pd.DataFrame({"level": depth.of_unit, "inside": inside})
    units["row"] = np.repeat(np.array(row_of_site, dtype=object), widths)
    share = units.pivot_table("inside", "row", "level")
    return share.reindex([*rows, *([rest] if rest else [])]).set_axis(list(depth.labels), axis=1)


def opacity(share: float, limit: float) -> float:
    """Give the strength of a cell's colour: root-like, so that small shares can be told apart."""
    return float(0.04 + 0.96 * min(share / (limit or 1), 1.0) ** 0.65)


def _profile_drawing(network: _GroupNetwork, depth: Depth, limit: float) -> Markup:
    """Draw roles as rows and layers as columns; each cell says its share in a tool tip."""
    role, level, share = network.peak
    levels = [_level_name(label) for label in depth.labels]
    rows = [(role, zip(levels, row, strict=True)) for role, row in network.share.iterrows()]
    return render(
        "profile.svg",
        rows=rows,
        ticks=depth.ticks(9),
        step=300 / len(depth.labels),
        color=network.color,
        strength=lambda share: opacity(share, limit),
        alt=f"Share of each site that is in the network of {network.title}, by layer and role; "
        f"largest in {role}, {level}: {share:.0%}.",
    )


def _level_name(label: str) -> str:
    return f"layer {label}" if label.isdigit() else label
