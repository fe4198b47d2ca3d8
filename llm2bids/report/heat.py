"""Matrices as tables with coloured cells: readable as numbers, by eye and by ear."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.report.section import number, render


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell.

    Parameters
    ----------
    text : str
        Number; empty for none.
    alpha : float
        Strength of its colour, 0 to 1.
    title : str
        Tool tip.
    """

    text: str
    alpha: float
    title: str = ""


def heat_table(
    values: npt.NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    caption: str,
    limit: float = 1.0,
    digits: int = 2,
    titles: Sequence[Sequence[str]] | None = None,
    color: str = "",
) -> Markup:
    """Write a matrix as a table.

    Parameters
    ----------
    values : ndarray of float64, shape (n_rows, n_columns)
        Numbers; NaN leaves a cell empty, one at or below 0 has no colour.
    rows, columns : sequence of str
        Labels.
    caption : str
        What the table shows.
    limit : float
        Value of full colour.
    digits : int
        Decimals.
    titles : sequence of sequence of str, optional
        Tool tips.
    color : str
        Colour, that of values above zero by default.

    Returns
    -------
    Markup
        The table.
    """
    cells = [
        [
            Cell(
                text=number(value, digits),
                alpha=float(np.clip(value / (limit or 1), 0, 1)) if np.isfinite(value) else 0.0,
                title=titles[row][column] if titles else "",
            )
            for column, value in enumerate(line)
        ]
        for row, line in enumerate(values)
    ]
    return render(
        "heat.html",
        caption=caption,
        columns=columns,
        rows=list(zip(rows, cells, strict=True)),
        color=color,
    )
