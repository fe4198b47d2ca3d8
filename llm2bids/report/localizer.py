"""Sections of what was read: stories, and localizers with their selectivity and consistency."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from llm2bids.network.network import load_network
from llm2bids.report.draw.chart import Line, line_chart
from llm2bids.report.draw.color import flat_limit
from llm2bids.report.draw.flat_figure import flat_drawing
from llm2bids.report.layers import depth_of
from llm2bids.report.section import Section, heat_table, missing, render
from llm2bids.report.sources import Sources
from llm2bids.space.space import Space
from llm2bids.store.json import read_json


def stories_body(sources: Sources) -> Markup:
    """List the stories that were read, with their clock and how they were read."""
    dataset = sources.dataset
    rows = []
    for run in dataset.runs:
        metadata, events = dataset.sidecar(run), dataset.events(run)
        surprisal = pd.to_numeric(events["surprisal"], errors="coerce").mean()
        rows.append((run.name, metadata, float(surprisal)))
    return render("stories.html", rows=rows)


def localizer_sections(sources: Sources) -> list[Section]:
    """Show each localizer that was computed; of a localizer without one, the command."""
    results = [read_json(path) | {"folder": path.parent} for path in sources.localizers]
    space = sources.dataset.space.fingerprint()  # a localizer of another model is no part of this
    sections = [_localizer_section(sources, r) for r in results if r.get("space") == space]
    shown = {section.name for section in sections}
    for task in sources.dataset.tasks if sources.dataset.paradigm.order == "story" else ():
        (first, *_) = sources.dataset.select(task=task)
        kinds = set(sources.dataset.events(first)["trial_type"])
        if len(kinds) > 1 and f"localizer-{task}" not in shown:
            command = f"llm2bids localize {sources.dataset.path.name} OUT --task {task}"
            body = missing(f"{task} has trials of several kinds.", command)
            sections.append(Section(f"localizer-{task}", f"Localizer {task}", body))
    return sections


def _localizer_section(sources: Sources, result: dict[str, Any]) -> Section:
    space = sources.dataset.space
    network = load_network(result["folder"] / result["network"])
    label = network.label
    t = sources.values(result["folder"] / result["stat_img"])
    alt = f"Flat map of t of the localizer {label}: layers from left to right, a row a module."
    overlap = pd.DataFrame(
        [result[part] for part in ("dice", "fold_dice", "chance_dice")],
        index=["two halves", "four folds", "chance"],
    )
    body = render(
        "localizer.html",
        result=result,
        n_units=len(network),
        criterion=network.criterion,
        map=flat_drawing(space, t, name=f"localizer-{label}", alt=alt)[0],
        limit=flat_limit(t),
        layers=_layer_chart(space, network.units(space), label),
        overlap=heat_table(
            overlap.rename(columns=lambda percent: f"top {percent} %"),
            caption="Dice: share of the top units that are the same in other trials",
        ),
    )
    return Section(f"localizer-{label}", f"Localizer {label}", body)


def _layer_chart(space: Space, chosen: npt.NDArray[np.intp], label: str) -> Markup:
    """Draw by layer which share of its units is in the network."""
    depth = depth_of(space)
    n_levels = len(depth.labels)
    inside, total = (
        np.bincount(levels, minlength=n_levels) for levels in (depth.of_unit[chosen], depth.of_unit)
    )
    return line_chart(
        [Line(range(n_levels), 100 * (inside / total), "var(--c0)")],
        x_label="layer",
        y_label="% of its units",
        x_ticks=depth.ticks(),
        alt=f"Share of each layer's units in the network of {label}.",
        references={"evenly spread": 100 * len(chosen) / space.n_units},
    )
