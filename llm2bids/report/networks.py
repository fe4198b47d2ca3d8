"""Sections: the tasks' networks on the flat map, and by layer and role."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.model.units import Site
from llm2bids.network.similarity import top_units
from llm2bids.report.draw.color import full_color, register_colormaps
from llm2bids.report.draw.flat_figure import ColorScale, FlatMap, flat_figure
from llm2bids.report.draw.strips import flat_strips
from llm2bids.report.draw.svg import drawing, element, figure_svg, rect
from llm2bids.report.flatmap import FULL_COLOR, two_digits
from llm2bids.report.group_map import GroupMap
from llm2bids.report.layers import Depth, depth_of
from llm2bids.report.section import Section, missing, render
from llm2bids.report.sources import Sources
from llm2bids.space.space import Space

SHARE = 0.05  # share of the units that make a network where the group level wrote none
MOST_MAPS = 12  # flat maps on a page: each takes a few bytes for a unit of its network
MOST_ROLES = 24

_LEFT, _CELL_H, _WIDTH = 164.0, 15.0, 470.0

_OUTER = "outside layers"


@dataclass(frozen=True, kw_only=True, eq=False)
class _GroupNetwork:
    """A contrast's network as the page shows it."""

    title: str
    color: str
    values: npt.NDArray[np.float64]  # (n_units,), effects of its units, NaN elsewhere
    roles: tuple[str, ...]  # rows of `share`
    share: npt.NDArray[np.float64]  # (n_roles, n_levels) of the units there; NaN without units

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
        return two_digits(full_color(self.values, FULL_COLOR))


def networks_sections(sources: Sources, maps: tuple[GroupMap, ...]) -> list[Section]:
    """Show the network of each contrast against the off prompts: flat maps, and profiles."""
    titles = {"flatmaps": "Networks on the flat map", "networks": "Networks by layer and role"}
    shown = [group_map for group_map in maps if group_map.is_against_off]
    if not shown:
        body = missing("Networks come with the group maps.", sources.command("group"))
        return [Section(name=name, title=titles[name], body=body) for name in titles]
    space = sources.dataset.space
    depth = depth_of(space)
    networks = [group_network(sources, group_map, depth) for group_map in shown]
    written = [
        metadata
        for group_map in shown
        if (metadata := sources.networks.get(group_map.contrast)) is not None
    ]
    limit = max(float(np.nanmax(network.share)) for network in networks)
    steps = (0, SHARE, 0.15, 0.3, limit)
    bodies = {
        "flatmaps": render(
            "flatmaps.html",
            networks=[
                (network, *flat_drawing(space, network, f"flat-{number}"))
                for number, network in enumerate(networks[:MOST_MAPS])
            ],
            left_out=[network.title for network in networks[MOST_MAPS:]],
            written=written,
            share=SHARE,
            has_stream=any(site.role == "residual" for site in space.sites),
            arrangement=space.arrangement,
        ),
        "networks": render(
            "profiles.html",
            profiles=[
                (network, _peak(network, depth), _profile_drawing(network, depth, limit=limit))
                for network in networks
            ],
            share=SHARE,
            written=written,
            n_units=round(SHARE * space.n_units),
            key=[(share, opacity(share, limit)) for share in steps if share <= limit],
        ),
    }
    return [Section(name=name, title=titles[name], body=bodies[name]) for name in titles]


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
    roles, share = _site_shares(space, depth, ~np.isnan(values))
    color = sources.color(group_map.title, group_map.task)
    return _GroupNetwork(
        title=group_map.title, color=color, values=values, roles=roles, share=share
    )


def flat_drawing(
    space: Space, network: _GroupNetwork, name: str = "flat"
) -> tuple[Markup, list[Markup]]:
    """Draw a network on the flat map, in the colours of both pages; and in strips of layers."""
    inside = ~np.isnan(network.values)
    counts = {name: int(inside[units].sum()) for name, units in space.site_slices.items()}
    densest = max(counts, key=lambda site: counts[site])
    alt = (
        f"Flat map of the network of {network.title}: layers from left to right, one row of panels "
        f"a module. {network.n_units:,} units, {network.n_positive:,} of them rise; most lie in "
        f"{densest} ({counts[densest]:,})."
    )
    register_colormaps()
    limit = network.limit
    scale = ColorScale(
        cmap="llm2bids",
        vmin=-limit,
        vmax=limit,
        bar=(-limit, limit),
        threshold=None,
        clipped=(True, True),
        label="",
    )
    flat = FlatMap(space=space, values=network.values, label="")
    figure = flat_figure([flat], scale)
    strips = flat_strips(figure, space, name=name, alt=alt)
    return figure_svg(figure, alt=alt, name=name), strips


def _site_shares(
    space: Space, depth: Depth, inside: npt.NDArray[np.bool_]
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """Measure which share of each role's units at each level is inside a set, (n_units,)."""
    roles = _profile_roles(space.sites)
    counts = np.zeros((len(roles), len(depth.labels)))
    total = np.zeros_like(counts)
    for number, site in enumerate(space.sites):
        row = roles.index(_row(site)) if _row(site) in roles else len(roles) - 1
        column = depth.of_site[number]
        counts[row, column] += np.count_nonzero(inside[space.site_slices[site.name]])
        total[row, column] += site.width
    shares = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    return roles, shares


def _profile_roles(sites: tuple[Site, ...]) -> tuple[str, ...]:
    """List the rows of a profile: roles within layers, then modules outside them together.

    There are at most `MOST_ROLES`; the last one then stands for the rest.
    """
    roles = tuple(dict.fromkeys(_row(site) for site in sites))
    inner = [role for role in roles if role != _OUTER]
    outer = [_OUTER] if _OUTER in roles else []
    if len(inner) > MOST_ROLES:
        return (*inner[: MOST_ROLES - 1], "other")
    return (*inner, *outer)


def opacity(share: float, limit: float) -> float:
    """Give the strength of a cell's colour: root-like, so that small shares can be told apart."""
    return float(0.04 + 0.96 * min(share / (limit or 1), 1.0) ** 0.65)


def _profile_drawing(network: _GroupNetwork, depth: Depth, *, limit: float) -> Markup:
    """Draw roles as rows and layers as columns; each cell says its share in a tool tip."""
    step = (_WIDTH - _LEFT - 6) / len(depth.labels)
    parts = []
    for row, role in enumerate(network.roles):
        top = 4 + row * _CELL_H
        name = role if len(role) <= 25 else f"{role[:24]}…"
        parts.append(element("text", name, x=_LEFT - 6, y=top + 11, class_="tick end"))
        for column, level in enumerate(depth.labels):
            share = network.share[row, column]
            if np.isfinite(share):
                tip = element("title", f"{role}, {_level_name(level)}: {share:.1%}")
                left, strength = _LEFT + column * step, round(opacity(share, limit), 3)
                style = {"fill": network.color, "fill_opacity": strength}
                parts.append(rect(left, top, step - 0.8, _CELL_H - 1.2, tip, **style))
    bottom = 4 + len(network.roles) * _CELL_H
    for tick, label in depth.ticks(9).items():
        at = _LEFT + (tick + 0.5) * step
        parts.append(element("text", label, x=at, y=bottom + 13, class_="tick mid"))
    peak = _peak(network, depth)
    alt = (
        f"Share of each site that is in the network of {network.title}, by layer and role; largest "
        f"in {peak['role']}, {peak['level']}: {peak['share']:.0%}."
    )
    return drawing(parts, width=_WIDTH, height=bottom + 20, alt=alt)


def _peak(network: _GroupNetwork, depth: Depth) -> Mapping[str, Any]:
    row, column = np.unravel_index(np.nanargmax(network.share), network.share.shape)
    level = _level_name(depth.labels[column])
    return {"role": network.roles[row], "level": level, "share": float(network.share[row, column])}


def _level_name(label: str) -> str:
    return f"layer {label}" if label.isdigit() else label


def _row(site: Site) -> str:
    return _OUTER if site.layer is None else site.role
