"""Sections of what was read: stories, and localizers with their selectivity and consistency."""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from llm2bids.network.network import load_network
from llm2bids.report.draw.chart import Line, line_chart
from llm2bids.report.draw.color import full_color, register_colormaps
from llm2bids.report.draw.flat_figure import ColorScale, FlatMap, flat_figure
from llm2bids.report.draw.svg import figure_svg
from llm2bids.report.flatmap import FULL_COLOR, two_digits
from llm2bids.report.layers import depth_of
from llm2bids.report.section import Section, heat_table, missing, render
from llm2bids.report.sources import Sources
from llm2bids.space.space import Space
from llm2bids.space.stat_map import unit_values
from llm2bids.store.json import read_json

Float64 = np.ndarray[Any, np.dtype[np.float64]]


def stories_section(sources: Sources) -> Section:
    """List the stories that were read, with their clock and how they were read."""
    dataset = sources.dataset
    rows = []
    for run in dataset.runs:
        metadata, events = dataset.sidecar(run), dataset.events(run)
        surprisal = pd.to_numeric(events["surprisal"], errors="coerce").mean()
        rows.append((run.name, metadata, float(surprisal)))
    return Section(name="stories", title="What was read", body=render("stories.html", rows=rows))


def localizer_sections(sources: Sources) -> list[Section]:
    """Show each localizer that was computed; of a localizer without one, the command."""
    results = [read_json(path) | {"folder": path.parent} for path in sources.localizers]
    space = sources.dataset.space.fingerprint()  # a localizer of another model is no part of this
    sections = [_localizer_section(sources, r) for r in results if r.get("space") == space]
    shown = {section.name for section in sections}
    for task in sources.dataset.tasks if sources.dataset.paradigm.order == "story" else ():
        kinds = {kind for run in sources.dataset.select(task=task)[:1]
                 for kind in sources.dataset.events(run)["trial_type"]}  # fmt: skip
        if len(kinds) > 1 and f"localizer-{task}" not in shown:
            command = f"llm2bids localize {sources.dataset.path.name} OUT --task {task}"
            body = missing(f"{task} has trials of several kinds.", command)
            sections.append(Section(name=f"localizer-{task}", title=f"Localizer {task}", body=body))
    return sections


def _localizer_section(sources: Sources, result: dict[str, Any]) -> Section:
    space = sources.dataset.space
    network = load_network(result["folder"] / result["network"])
    image = result["folder"] / result["stat_img"]
    prints = (sources.dataset.fingerprint, space.fingerprint())
    t = unit_values(image, space, fingerprint=prints).astype(np.float64)
    percents = list(result["dice"])
    parts = ("dice", "fold_dice", "chance_dice")
    overlap = np.array([[result[part][percent] for percent in percents] for part in parts])
    label = network.label
    body = render(
        "localizer.html",
        result=result,
        n_units=len(network),
        criterion=network.criterion,
        map=_map(space, t, label),
        limit=_limit(t),
        layers=_layer_chart(space, t, network.units(space), label),
        overlap=heat_table(
            overlap,
            ("two halves", "four folds", "chance"),
            [f"top {percent} %" for percent in percents],
            caption="Dice: share of the top units that are the same in other trials",
        ),
    )
    return Section(name=f"localizer-{label}", title=f"Localizer {label}", body=body)


def _limit(t: Float64) -> float:
    return two_digits(full_color(t, FULL_COLOR)) or 1.0


def _map(space: Space, t: Float64, label: str) -> Markup:
    """Draw t of all units on the flat map."""
    register_colormaps()
    limit = _limit(t)
    scale = ColorScale(
        cmap="llm2bids", vmin=-limit, vmax=limit, bar=(-limit, limit), threshold=None,
        clipped=(True, True), label="",
    )  # fmt: skip
    figure = flat_figure([FlatMap(space=space, values=t, label="")], scale)
    alt = f"Flat map of t of the localizer {label}: layers from left to right, a row a module."
    return figure_svg(figure, alt=alt, name=f"localizer-{label}")


def _layer_chart(space: Space, t: Float64, chosen: np.ndarray[Any, Any], label: str) -> Markup:
    """Draw by layer which share of its units is in the network, and which has t above 0."""
    depth = depth_of(space)
    total = np.bincount(depth.of_unit, minlength=len(depth.labels))
    share = np.bincount(depth.of_unit[chosen], minlength=len(depth.labels)) / total
    x = [float(level) for level in range(len(depth.labels))]
    line = Line(name=label, x=x, y=(100 * share).tolist(), color="var(--c0)")
    return line_chart(
        [line], x_label="layer", y_label="% of its units", x_ticks=depth.ticks(),
        alt=f"Share of each layer's units in the network of {label}.",
        references={"evenly spread": 100 * len(chosen) / space.n_units},
    )  # fmt: skip
