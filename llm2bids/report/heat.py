"""Matrices as tables with coloured cells: readable as numbers, by eye and by ear."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.report.section import number, render


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
    """Write a matrix, (n_rows, n_columns), as a table.

    NaN leaves a cell empty, one at or below 0 has no colour, one at `limit` full colour. `titles`
    are tool tips.
    """
    strengths = np.clip(np.nan_to_num(values) / (limit or 1), 0, 1)
    cells = [
        [
            {
                "text": number(value, digits),
                "alpha": float(strengths[row, column]),
                "title": titles[row][column] if titles else "",
            }
            for column, value in enumerate(line)
        ]
        for row, line in enumerate(values.tolist())
    ]
    return render(
        "heat.html",
        caption=caption,
        columns=columns,
        rows=list(zip(rows, cells, strict=True)),
        color=color,
    )
