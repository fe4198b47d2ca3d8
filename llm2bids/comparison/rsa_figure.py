"""The picture of a comparison: r by layer, and of all pairs of layers."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llm2bids.comparison.rsa import Comparison

INK, BAND = "#1f77c4", "#b9b4a8"


def draw(comparison: "Comparison", path: Path) -> Path:
    """Draw the tested pairs with their interval and the noise ceiling, beside all pairs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    a, b = comparison.names
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    curve, matrix = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_curve(curve, comparison)
    n_a, n_b = comparison.matrix.shape
    shown = matrix.imshow(
        comparison.matrix, cmap="cividis", aspect="auto", vmin=min(0.0, comparison.matrix.min())
    )
    figure.colorbar(shown, ax=matrix, label="r (Spearman)")
    for axis, names, set_ticks in (
        (matrix.xaxis, comparison.layers[1], n_b),
        (matrix.yaxis, comparison.layers[0], n_a),
    ):
        ticks = np.unique(np.linspace(0, set_ticks - 1, min(set_ticks, 8)).astype(int))
        axis.set_ticks(ticks.tolist(), [names[tick] for tick in ticks])
    matrix.set(xlabel=f"layer of {b}", ylabel=f"layer of {a}", title="all pairs of layers")
    FigureCanvasAgg(figure)
    figure.savefig(path)
    return path


def _draw_curve(axes: "Axes", comparison: "Comparison") -> None:
    table, (a, b) = comparison.table, comparison.names
    place = np.arange(len(table))
    axes.plot(place, table["r"], color=INK, marker="o", markersize=3.5, label=f"{a} and {b}")
    if table["low"].notna().any():
        axes.fill_between(place, table["low"], table["high"], color=INK, alpha=0.2, lw=0,
                          label="95 % over participants")  # fmt: skip
    if table["ceiling_low"].notna().any():
        axes.fill_between(place, table["ceiling_low"], table["ceiling_high"], color=BAND,
                          alpha=0.5, lw=0, label=f"noise ceiling of {b}")  # fmt: skip
    chance = table["p_fwe"] > 0.05
    if chance.any():
        axes.plot(place[chance], table["r"][chance], "o", mfc="white", mec=INK, markersize=5,
              label="not above permuted items (p > 0.05, corrected)")  # fmt: skip
    axes.axhline(0, color="0.6", lw=0.8)
    names = [
        first if first == second else f"{first}, {second}"
        for first, second in zip(table["layer_a"], table["layer_b"], strict=True)
    ]
    ticks = np.unique(np.linspace(0, len(table) - 1, min(len(table), 8)).astype(int))
    axes.set_xticks(ticks.tolist(), [names[tick] for tick in ticks])
    axes.set(xlabel="layer", ylabel="r (Spearman)", title="likeness of the items' geometry")
    axes.legend(fontsize=7.5, frameon=False)
