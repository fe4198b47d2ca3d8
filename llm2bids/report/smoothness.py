"""Section: whether neighbours on the grid respond alike, without which clusters mean nothing."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from llm2bids.dataset.arrangement import read_stability
from llm2bids.dataset.read import Dataset
from llm2bids.report.layers import roles_of
from llm2bids.report.section import heat_table, missing, render
from llm2bids.report.sources import Sources
from llm2bids.space.arrange import index_space
from llm2bids.space.functional import random_space
from llm2bids.space.smoothness import medians_by_role, morans_i, neighbour_correlation
from llm2bids.space.space import Space

DISTANCES = (1, 2, 4, 8)  # voxels at which maps of units are correlated
FULL_COLOR = 0.5  # value of full colour in both tables
LEAST_DIFFERENCE = 0.02  # of Moran's I from 0 and from random order: neighbours are alike


def smoothness_body(sources: Sources) -> Markup:
    """Show how smooth the group maps are in this order of units, in native and in random order."""
    stability = stability_part(sources.dataset)
    if not sources.condition_maps:
        return missing("It takes the group maps.", sources.command("group")) + stability
    maps = [sources.unit_map(group_map.path) for group_map in sources.condition_maps]
    values = np.stack(maps).astype(np.float64)
    orders = space_orders(sources.dataset.space)
    by_role = moran_table(values, orders)
    tables = [_table(by_role, "Moran's I: median over tasks and layers")]
    if len(values) >= 3:
        near = pd.DataFrame(
            {
                name: neighbour_correlation(values, space, DISTANCES)
                .set_index("distance")["correlation"]
                .rename(lambda n: f"{n}\N{NO-BREAK SPACE}voxel{'s' if n > 1 else ''}")
                for name, space in orders.items()
            }
        )
        tables.append(
            _table(near, "Correlation of two units' effects over the tasks, by their distance")
        )
    median = {name: float(by_role[name].iloc[0]) for name in by_role}
    own = next(iter(orders))
    body = render(
        "smoothness.html",
        tables=tables,
        arrangement=own,
        median=median,
        is_smooth=median[own] - max(median["random"], 0.0) > LEAST_DIFFERENCE,
    )
    return body + stability


def stability_part(dataset: Dataset) -> Markup:
    """Show how much orders from the halves of the localizer agree, where one was learned."""
    layout = dataset.space.layout
    if layout is None or dataset.space.arrangement != "functional":
        return Markup()
    stability = read_stability(dataset.path, dataset.space)
    table = Markup()
    if stability is not None:
        numbers = pd.DataFrame.from_dict(stability.correlation, orient="index")
        table = _table(numbers, "Distance of two units on the grid: correlation between orders")
    return render("stability.html", layout=layout, stability=stability, table=table)


def space_orders(space: Space) -> dict[str, Space]:
    """Arrange the units of a space as they are, natively, and at random."""
    plain = space if space.arrangement == "index" else index_space(space)
    return {space.arrangement: space, "index": plain, "random": random_space(plain, seed=0)}


def moran_table(values: npt.NDArray[np.float64], orders: Mapping[str, Space]) -> pd.DataFrame:
    """Give the median Moran's I of maps, (n_maps, n_units): a row a role, a column an order."""
    space = next(iter(orders.values()))
    by_site = {name: morans_i(values, order) for name, order in orders.items()}
    return medians_by_role(space, by_site).loc[["all panels", *roles_of(space)]]


def _table(table: pd.DataFrame, caption: str) -> Markup:
    named = table.rename(columns=lambda order: f"{order} order")
    return heat_table(named, caption=caption, limit=FULL_COLOR)
