"""Section: where the networks lie, by layer and role."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.model.units import Site
from llm2bids.network.network import Network, load_network
from llm2bids.network.similarity import top_units
from llm2bids.report.draw.color import task_color
from llm2bids.report.draw.svg import element, figure
from llm2bids.report.layers import Depth, depth_of
from llm2bids.report.maps import GroupMap
from llm2bids.report.results import FINDINGS, read_results
from llm2bids.report.section import Missing, Section, missing, render
from llm2bids.report.sources import Sources, unit_map
from llm2bids.space.space import Space
from llm2bids.store.files import inside

SHARE = 0.05
"""Share of the units that make a network here: those with the largest absolute effect."""

MOST_ROLES = 24

_LEFT, _CELL_H, _WIDTH = 150.0, 15.0, 470.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """How much of each site belongs to a network.

    Parameters
    ----------
    title : str
        The network.
    roles : tuple of str
        Rows.
    levels : tuple of str
        Columns.
    share : ndarray of float64, shape (n_roles, n_levels)
        Share of the units of each role and level; NaN where there are none.
    positive : float
        Share of the network's units with an effect above 0.
    """

    title: str
    roles: tuple[str, ...]
    levels: tuple[str, ...]
    share: npt.NDArray[np.float64]
    positive: float

    @property
    def peak(self) -> tuple[str, str, float]:
        """Role, level and share of the site with the largest share."""
        row, column = np.unravel_index(np.nanargmax(self.share), self.share.shape)
        return self.roles[row], self.levels[column], float(self.share[row, column])


def profiles_section(sources: Sources, maps: tuple[GroupMap, ...]) -> Section:
    """Show where the strongest units of each contrast lie.

    Parameters
    ----------
    sources : Sources
        Dataset and analysis.
    maps : tuple of GroupMap
        From `find_maps`.

    Returns
    -------
    Section
        One drawing of layer by role for each contrast against the off prompts.
    """
    title = "Networks by layer and role"
    shown = [one for one in maps if one.is_against_off]
    if not shown:
        part = Missing(what="Networks come with the group maps.", command=sources.command("group"))
        return Section(name="networks", title=title, body=missing(part))
    space = sources.dataset.space
    depth = depth_of(space)
    found = [
        (profile(space, depth, network_values(sources, one), title=one.title),
         sources.color(one.title, one.task)) for one in shown
    ]  # fmt: skip
    written = written_networks(sources)
    limit = max(one.peak[2] for one, _ in found)
    body = render(
        "profiles.html",
        profiles=[(one, profile_figure(one, depth, limit=limit, color=task_color(number)))
                  for one, number in found],
        share=SHARE,
        written=[written[one.contrast] for one in shown if one.contrast in written],
        limit=limit,
        n_units=round(SHARE * space.n_units),
        key=[(share, opacity(share, limit)) for share in (0, SHARE, 0.15, 0.3, limit)
             if share <= limit],
    )  # fmt: skip
    return Section(name="networks", title=title, body=body)


def written_networks(sources: Sources) -> dict[str, dict[str, Any]]:
    """List the networks against the off prompts that the group level wrote, by label."""
    networks = read_results(sources.analysis).networks
    return {str(one["label"]): one for one in networks if one.get("against") == "off"}


def network_values(sources: Sources, one: GroupMap) -> npt.NDArray[np.float64]:
    """Give the effects of a contrast's network: (n_units,), NaN outside it.

    They are those of the table that the group level wrote; without one, of the `SHARE` of units
    with the largest absolute effect in the group map.
    """
    space = sources.dataset.space
    values = np.full(space.n_units, np.nan)
    about = written_networks(sources).get(one.contrast)
    if about is None or sources.analysis is None:
        effect = unit_map(sources, one.path)
        units = np.flatnonzero(top_units(effect, max(SHARE, 1 / space.n_units)))
        values[units] = effect[units]
        return values
    network = read_network(sources, about)
    values[network.units(space)] = network.table["effect"]
    return values


def read_network(sources: Sources, about: dict[str, Any]) -> Network:
    """Read the table of one of `written_networks`."""
    analysis = sources.analysis or Path()
    return load_network(inside(analysis, (analysis / FINDINGS).parent / str(about["table"])))


def profile(space: Space, depth: Depth, values: npt.NDArray[np.float64], *, title: str) -> Profile:
    """Measure how much of each site belongs to a network.

    Parameters
    ----------
    space : Space
        The space.
    depth : Depth
        Its levels.
    values : ndarray of float64, shape (n_units,)
        From `network_values`.
    title : str
        What it shows.

    Returns
    -------
    Profile
        By role and level.
    """
    roles = profile_roles(space.sites)
    in_network = ~np.isnan(values)
    inside = np.zeros((len(roles), len(depth.labels)))
    total = np.zeros_like(inside)
    for number, site in enumerate(space.sites):
        row = roles.index(_row(site)) if _row(site) in roles else len(roles) - 1
        column = depth.of_site[number]
        inside[row, column] += np.count_nonzero(in_network[space.site_slices[site.name]])
        total[row, column] += site.width
    shares = np.divide(inside, total, out=np.full_like(inside, np.nan), where=total > 0)
    positive = float((values > 0).sum() / max(np.count_nonzero(in_network), 1))
    return Profile(title=title, roles=roles, levels=depth.labels, share=shares, positive=positive)


def profile_roles(sites: tuple[Site, ...]) -> tuple[str, ...]:
    """List the rows of a profile: roles within layers, then modules outside them together.

    Parameters
    ----------
    sites : tuple of Site
        All sites.

    Returns
    -------
    tuple of str
        At most `MOST_ROLES`; the last one then stands for the rest.
    """
    roles = tuple(dict.fromkeys(_row(site) for site in sites))
    inner = [role for role in roles if role != _OUTER]
    outer = [_OUTER] if _OUTER in roles else []
    if len(inner) > MOST_ROLES:
        return (*inner[: MOST_ROLES - 1], "other")
    return (*inner, *outer)


_OUTER = "outside layers"


def _row(site: Site) -> str:
    return _OUTER if site.layer is None else site.role


def opacity(share: float, limit: float) -> float:
    """Give the strength of a cell's colour: root-like, so that small shares can be told apart."""
    return float(0.04 + 0.96 * min(share / (limit or 1), 1.0) ** 0.65)


def profile_figure(one: Profile, depth: Depth, *, limit: float, color: str) -> Markup:
    """Draw a profile.

    Parameters
    ----------
    one : Profile
        The profile.
    depth : Depth
        Levels, for the ticks.
    limit : float
        Share of full colour.
    color : str
        Colour.

    Returns
    -------
    Markup
        Roles as rows, layers as columns; each cell says its share in a tool tip.
    """
    step = (_WIDTH - _LEFT - 6) / len(one.levels)
    parts = []
    for row, role in enumerate(one.roles):
        top = 4 + row * _CELL_H
        name = role if len(role) <= 25 else f"{role[:24]}…"
        parts.append(element("text", name, x=_LEFT - 6, y=top + 11, class_="tick end"))
        for column, level in enumerate(one.levels):
            share = one.share[row, column]
            if np.isfinite(share):
                where = f"layer {level}" if level.isdigit() else level
                parts.append(
                    element("rect", element("title", f"{role}, {where}: {share:.1%}"),
                            x=_LEFT + column * step, y=top, width=step - 0.8,
                            height=_CELL_H - 1.2, fill=color,
                            fill_opacity=round(opacity(share, limit), 3))
                )  # fmt: skip
    bottom = 4 + len(one.roles) * _CELL_H
    for tick, label in depth.ticks(9).items():
        at = _LEFT + (tick + 0.5) * step
        parts.append(element("text", label, x=at, y=bottom + 13, class_="tick mid"))
    role, level, share = one.peak
    alt = (
        f"Share of each site that is in the network of {one.title}, by layer and role; largest in "
        f"{role}, layer {level}: {share:.0%}."
    )
    return figure(parts, width=_WIDTH, height=bottom + 20, alt=alt)
