"""Section: the design matrices of the first level."""

from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from llm2bids.report.draw.color import diverging_indices, diverging_palette
from llm2bids.report.draw.png import data_address, palette_png
from llm2bids.report.draw.svg import element, figure
from llm2bids.report.section import Missing, Section, missing, render
from llm2bids.report.sources import Sources, read_object

MOST = 12
"""Design matrices that are shown."""

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
    about = read_object(shown[0].with_suffix(".json"))
    n_participants = len({path.name.partition("_")[0] for path in paths})
    body = render(
        "designs.html",
        figures=[design_figure(path) for path in shown],
        participant=first,
        n_participants=n_participants,
        rows=about.get("Rows", "rows"),
        parameters=about.get("ModelParameters", {}),
        quantiles=_residual_checks(sources),
    )
    return Section(name="designs", title=title, body=body)


def design_figure(path: Path) -> Markup:
    """Draw one design matrix.

    Parameters
    ----------
    path : Path
        Its table.

    Returns
    -------
    Markup
        Rows from top to bottom, each column scaled to its largest absolute value.
    """
    table = pd.read_csv(path, sep="\t")
    values = table.to_numpy(dtype=np.float64)
    largest = np.abs(values).max(axis=0, initial=0.0)
    image = diverging_indices(values / np.where(largest > 0, largest, 1), 1.0)
    width = max(_COLUMN * values.shape[1], 60.0)
    step = width / max(values.shape[1], 1)
    name = path.name.removesuffix("_design.tsv").partition("_task-")[2]
    parts = [
        element("rect", x=_LEFT, y=_TOP, width=width, height=_HEIGHT, fill="var(--panel)"),
        element("image", href=data_address(palette_png(image, diverging_palette())), x=_LEFT,
                y=_TOP, width=width, height=_HEIGHT, preserveAspectRatio="none", class_="pixels"),
    ]  # fmt: skip
    for index, column in enumerate(table.columns):
        at = _LEFT + (index + 0.5) * step + 4
        turned = f"rotate(-55 {at:.1f} {_TOP - 6:.1f})"
        parts.append(element("text", column, x=at, y=_TOP - 6, transform=turned, class_="tick"))
    for row in (0, len(table) - 1):
        at = _TOP + (row + 0.5) / len(table) * _HEIGHT + 4
        parts.append(element("text", row + 1, x=_LEFT - 6, y=at, class_="tick end"))
    alt = (
        f"Design matrix of {name}: {len(table)} rows, columns "
        f"{', '.join(str(column) for column in table.columns)}."
    )
    return figure(parts, width=_LEFT + width + 56, height=_TOP + _HEIGHT + 6, alt=alt)


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
