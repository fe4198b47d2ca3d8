"""Carpet plots: units over time, from input to output."""

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.dataset.read import Run
from llm2bids.report.draw.color import diverging_indices, diverging_palette, task_color
from llm2bids.report.draw.png import data_address, palette_png
from llm2bids.report.draw.svg import element, figure
from llm2bids.report.layers import Depth
from llm2bids.report.sources import Sources

N_ROWS = 300
"""Units in a carpet, about."""

LIMIT = 2.5
"""Standard deviations of full colour."""

_LEFT, _WIDTH, _TOP, _HEIGHT = 42.0, 340.0, 16.0, 230.0


def carpet_units(depth: Depth, n_rows: int = N_ROWS) -> npt.NDArray[np.intp]:
    """Choose units evenly from every level.

    Parameters
    ----------
    depth : Depth
        Levels of the space.
    n_rows : int
        Units, about.

    Returns
    -------
    ndarray of intp
        Units in order of depth, as many from every level where it has so many.
    """
    each = max(2, n_rows // len(depth.labels))
    chosen = []
    for level in range(len(depth.labels)):
        units = np.flatnonzero(depth.of_unit == level)
        at = np.linspace(0, len(units) - 1, min(each, len(units)))
        chosen.append(units[np.rint(at).astype(np.intp)])
    return np.concatenate(chosen).astype(np.intp)


def carpet_figure(
    sources: Sources,
    run: Run,
    values: npt.NDArray[np.float32],
    depth: Depth,
    units: npt.NDArray[np.intp],
) -> Markup:
    """Draw some units of a run over time, each with its mean and standard deviation taken out.

    Parameters
    ----------
    sources : Sources
        For the colours of tasks.
    run : Run
        The run.
    values : ndarray of float32, shape (n_volumes, n_rows)
        Values of the units.
    depth : Depth
        Levels of the space.
    units : ndarray of intp, shape (n_rows,)
        Which units, in order of depth.

    Returns
    -------
    Markup
        The drawing: blocks on top, then one row a unit.
    """
    sd = values.std(axis=0)
    scaled = (values - values.mean(axis=0)) / np.where(sd > 0, sd, 1)
    png = palette_png(diverging_indices(scaled.T, LIMIT), diverging_palette())
    n_volumes = len(values)
    width = _WIDTH - _LEFT - 4
    parts = [
        element("rect", x=_LEFT, y=_TOP, width=width, height=_HEIGHT, fill="var(--panel)"),
        element("image", href=data_address(png), x=_LEFT, y=_TOP, width=width, height=_HEIGHT,
                preserveAspectRatio="none", class_="pixels"),
    ]  # fmt: skip
    tokens = sources.dataset.transcript(run).dropna(subset=["volume"])
    for (_, kind), block in tokens.assign(kind=tokens["trial_type"].fillna("").astype(str)).groupby(
        ["block", "kind"]
    ):
        first, last = int(block["volume"].min()), int(block["volume"].max()) + 1
        color = task_color(sources.color(str(kind))) if kind else "var(--off)"
        parts.append(
            element("rect", x=_LEFT + first / n_volumes * width, y=_TOP - 11,
                    width=(last - first) / n_volumes * width - 1, height=8, fill=color)
        )  # fmt: skip
    levels = depth.of_unit[units]
    for level, label in depth.ticks(8).items():
        rows = np.flatnonzero(levels == int(level))
        at = _TOP + (rows.mean() + 0.5) / len(units) * _HEIGHT
        parts.append(element("text", label, x=_LEFT - 6, y=at + 4, class_="tick end"))
    name = f"sub-{run.participant_label} {run.task}"
    parts.append(element("text", "volumes", x=_LEFT + width / 2, y=_TOP + _HEIGHT + 16,
                         class_="tick mid"))  # fmt: skip
    alt = (
        f"Carpet plot of {name}: {len(units)} units from input (top) to output (bottom) over "
        f"{n_volumes} volumes."
    )
    return figure(parts, width=_WIDTH, height=_TOP + _HEIGHT + 24, alt=alt)
