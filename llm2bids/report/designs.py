"""Section: the design matrices of the first level."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.report.draw.color import diverging_indices, diverging_palette, task_color
from llm2bids.report.draw.png import data_address, palette_png
from llm2bids.report.draw.svg import element, figure
from llm2bids.report.section import Missing, Section, missing, render
from llm2bids.report.sources import Sources, read_object
from llm2bids.store.tables import checked_columns, read_table

MOST = 12
"""Design matrices that are shown."""

MOST_BLOCKS = 40
"""Blocks of equal values that are drawn one by one."""

_LEFT, _TOP, _HEIGHT, _COLUMN = 34.0, 88.0, 200.0, 26.0


def designs_section(sources: Sources) -> Section:
    """Show the design matrices of the first participant who has any.

    Parameters
    ----------
    sources : Sources
        The analysis.

    Returns
    -------
    Section
        One drawing for each run, and the model's parameters.
    """
    title = "First level"
    paths = sorted((sources.analysis or Path()).glob("sub-*/func/*_design.tsv")) if (
        sources.analysis) else []  # fmt: skip
    if not paths:
        part = Missing(
            what="There is no first level yet: no design matrices and no participants' maps.",
            command=sources.command("participant"),
        )
        return Section(name="designs", title=title, body=missing(part))
    first = paths[0].name.partition("_")[0]
    shown = [path for path in paths if path.name.startswith(f"{first}_")][:MOST]
    colors = {
        name: task_color(sources.color(name)) for name in (*sources.tasks, *sources.trial_types)
    }
    about = read_object(shown[0].with_suffix(".json"))
    n_participants = len({path.name.partition("_")[0] for path in paths})
    body = render(
        "designs.html",
        figures=[design_figure(path, colors) for path in shown],
        participant=first,
        n_participants=n_participants,
        rows=about.get("Rows", "rows"),
        parameters=about.get("ModelParameters", {}),
        quantiles=_residual_checks(sources),
    )
    return Section(name="designs", title=title, body=body)


def design_figure(path: Path, colors: Mapping[str, str]) -> tuple[Markup, float]:
    """Draw one design matrix.

    Parameters
    ----------
    path : Path
        Its table.
    colors : mapping of str to str
        Colour of each trial type.

    Returns
    -------
    tuple of (Markup, float)
        The drawing and its width: rows from top to bottom, each column scaled to its largest
        absolute value.
    """
    table = read_table(path)
    checked_columns(table, path, list(table.columns))
    width = max(_COLUMN * table.shape[1], 60.0)
    step = width / max(table.shape[1], 1)
    name = path.name.removesuffix("_design.tsv").partition("_task-")[2]
    parts = [element("rect", x=_LEFT, y=_TOP, width=width, height=_HEIGHT, class_="panel")]
    for index, column in enumerate(table.columns):
        left = _LEFT + index * step
        color = colors.get(str(column), "var(--off)")
        parts += _column(table[column].to_numpy(dtype=np.float64), left, step, color)
        at = left + step / 2 + 4
        turned = f"rotate(-55 {at:.1f} {_TOP - 6:.1f})"
        parts.append(element("text", column, x=at, y=_TOP - 6, transform=turned, class_="tick"))
    for row in (0, len(table) - 1):
        at = _TOP + (row + 0.5) / len(table) * _HEIGHT + 4
        parts.append(element("text", row + 1, x=_LEFT - 6, y=at, class_="tick end"))
    alt = (
        f"Design matrix of {name}: {len(table)} rows, columns "
        f"{', '.join(str(column) for column in table.columns)}."
    )
    total = _LEFT + width + 56
    return figure(parts, width=total, height=_TOP + _HEIGHT + 6, alt=alt), total


def _column(values: npt.NDArray[np.float64], left: float, width: float, color: str) -> list[Markup]:
    """Draw a column: blocks of equal values in one colour, or an image where it varies or falls."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    step, largest = _HEIGHT / len(values), float(np.abs(values).max()) or 1.0
    if values.min() < 0 or len(starts) > MOST_BLOCKS:
        image = diverging_indices(values[:, np.newaxis] / largest, 1.0)
        address = data_address(palette_png(image, diverging_palette()))
        return [element("image", href=address, x=left, y=_TOP, width=width, height=_HEIGHT,
                        preserveAspectRatio="none", class_="pixels")]  # fmt: skip
    stops = np.r_[starts[1:], len(values)]
    return [
        element("rect", x=left, y=_TOP + start * step, width=width, height=(stop - start) * step,
                fill=color, fill_opacity=round(float(values[start]) / largest, 3))
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        if values[start] > 0
    ]  # fmt: skip


def _residual_checks(sources: Sources) -> dict[str, tuple[float, float]]:
    """Give the range over participants of the median of each residual check."""
    found = {}
    for stat in ("rsquared", "residualar1"):
        paths = (sources.analysis or Path()).glob(f"sub-*/func/*_stat-{stat}_statmap.json")
        medians = [quantiles["0.5"] for path in paths
                   if "0.5" in (quantiles := read_object(path).get("Quantiles", {}))]  # fmt: skip
        if medians:
            found[stat] = (min(medians), max(medians))
    return found
