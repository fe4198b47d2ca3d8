"""Section: each task's network on the model laid flat."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from llm2bids.report.draw.color import full_color, task_color
from llm2bids.report.draw.flat_layout import FlatLayout, flat_layout
from llm2bids.report.draw.flat_svg import ROW_PITCH, flat_svg
from llm2bids.report.flatmap import FULL_COLOR, two_digits
from llm2bids.report.maps import GroupMap
from llm2bids.report.profiles import SHARE, network_values, written_networks
from llm2bids.report.section import Missing, Section, missing, render
from llm2bids.report.sources import Sources
from llm2bids.space.space import Space

MOST_MAPS = 12
"""Flat maps on a page: each takes a byte or two for a unit of its network."""


@dataclass(frozen=True, kw_only=True)
class FlatNetwork:
    """A network on the flat map.

    Parameters
    ----------
    title, color : str
        Contrast and its colour.
    n_units, n_positive : int
        Units of the network, and those of them that rise.
    limit : float
        Absolute effect of full colour.
    drawing : Markup
        The map.
    """

    title: str
    color: str
    n_units: int
    n_positive: int
    limit: float
    drawing: Markup


def flatmaps_section(sources: Sources, maps: tuple[GroupMap, ...]) -> Section:
    """Show each task's network on the model laid flat.

    Parameters
    ----------
    sources : Sources
        Dataset and analysis.
    maps : tuple of GroupMap
        From `llm2bids.report.maps.find_maps`.

    Returns
    -------
    Section
        One flat map for each contrast against the off prompts.
    """
    title = "Networks on the flat map"
    shown = [one for one in maps if one.is_against_off]
    if not shown:
        part = Missing(what="Flat maps come with the group maps.", command=sources.command("group"))
        return Section(name="flatmaps", title=title, body=missing(part))
    space = sources.dataset.space
    layout = flat_layout(space, least_pitch=ROW_PITCH)
    written = written_networks(sources)
    body = render(
        "flatmaps.html",
        networks=[_network(sources, one, layout) for one in shown[:MOST_MAPS]],
        left_out=[one.title for one in shown[MOST_MAPS:]],
        criterion=next((str(one["criterion"]) for one in written.values()), ""),
        share=SHARE,
        has_stream=any(site.role == "residual" for site in space.sites),
        arrangement=space.arrangement,
    )
    return Section(name="flatmaps", title=title, body=body)


def _network(sources: Sources, one: GroupMap, layout: FlatLayout) -> FlatNetwork:
    values = network_values(sources, one)
    limit = two_digits(full_color(values, FULL_COLOR))
    n_units, n_positive = (
        int(np.count_nonzero(~np.isnan(values))),
        int(np.count_nonzero(values > 0)),
    )
    alt = (
        f"Flat map of the network of {one.title}: layers from left to right, one row of panels a "
        f"module. {n_units:,} units, {n_positive:,} of them rise; most lie in "
        f"{_densest(sources.dataset.space, ~np.isnan(values))}."
    )
    return FlatNetwork(
        title=one.title,
        color=task_color(sources.color(one.title, one.task)),
        n_units=n_units,
        n_positive=n_positive,
        limit=limit,
        drawing=flat_svg(layout, values, limit=limit, alt=alt),
    )


def _densest(space: Space, inside: np.ndarray) -> str:
    """Name the site with the most units of a network."""
    counts = {name: int(inside[units].sum()) for name, units in space.site_slices.items()}
    name = max(counts, key=lambda site: counts[site])
    return f"{name} ({counts[name]:,})"
