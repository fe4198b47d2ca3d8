"""Tables of tab-separated values, as BIDS has them."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import DatasetError, Llm2bidsError
from llm2bids.store.commit import replace_bytes
from llm2bids.store.files import refuse_missing


def checked_columns(
    table: pd.DataFrame,
    path: Path,
    numbers: Sequence[str],
    *,
    text: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> pd.DataFrame:
    """Check that a table has the columns that are going to be read."""
    absent = [name for name in (*numbers, *text) if name not in table]
    if absent:
        raise DatasetError(
            f"{path}: columns {', '.join(absent)} are missing; expected "
            f"{', '.join((*numbers, *text))}. Restore the file or record the run again"
        )
    for name in numbers:
        cells = to_numbers(table[name])
        wrong = ~(cells.abs() < float("inf"))
        if name in missing:
            wrong &= table[name].notna()
        if wrong.any():
            cell = table.loc[wrong, name].iloc[0]
            raise DatasetError(
                f"{path}: column {name} holds {str(cell)[:40]!r}; expected a number. Restore the "
                "file or record the run again"
            )
    return table


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write tab-separated values as BIDS has them, in one step: ``n/a`` for what is missing."""
    lines = table.to_csv(
        sep="\t", index=False, na_rep="n/a", float_format="%.9g", quoting=3, lineterminator="\n"
    ).encode()
    if path.name.endswith(".gz"):
        lines = gzip.compress(lines, compresslevel=6, mtime=0)
    replace_bytes(path, lines)


def read_table(
    path: Path, *, text: tuple[str, ...] = (), n_rows: int | None = None
) -> pd.DataFrame:
    """Read tab-separated values that `write_table` wrote."""
    refuse_missing(path)
    try:
        table = pd.read_csv(
            path,
            sep="\t",
            quoting=3,
            keep_default_na=False,
            dtype=dict.fromkeys(text, "str"),
            encoding="utf-8-sig",  # spreadsheets write a mark at the beginning
            low_memory=False,
            nrows=n_rows,
        )
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise DatasetError(
            f"{path}: not a readable table of tab-separated values ({error}); record it again"
        ) from None
    for name in table.columns.difference(list(text)):
        column = table[name]
        if column.dtype.kind in "OUT" or isinstance(column.dtype, pd.StringDtype):
            cells = column.mask(column == "n/a")
            numbers = to_numbers(cells)
            table[name] = numbers if numbers.notna().equals(cells.notna()) else cells
    return table


def whole_numbers(
    table: pd.DataFrame, name: str, *, where: object, error: type[Llm2bidsError] = DatasetError
) -> "npt.NDArray[np.int64]":
    """Read a column of whole numbers from 0 below 2**31, (n_rows,)."""
    numbers = to_numbers(table[name]).to_numpy(dtype=np.float64, na_value=-1)
    wrong = np.flatnonzero(~((numbers >= 0) & (numbers < 2**31) & (numbers == np.rint(numbers))))
    if wrong.size:
        cell = repr(table[name].tolist()[wrong[0]])[:42]
        raise error(
            f"{where}: column {name}, row {wrong[0] + 1} is {cell}; expected a whole number from 0"
        )
    return numbers.astype(np.int64)


def aligned(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Put cells under one another, those of some columns to the right.

    >>> print(aligned([("a", "10", "x"), ("bcd", "2", "y")], right=[1]))
    a    10  x
    bcd   2  y
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)


def to_numbers(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Read numbers out of a column; what is none, or too large for any type, becomes missing."""
    try:
        return pd.to_numeric(column, errors="coerce")
    except OverflowError:  # an integer of hundreds of digits among the cells
        return pd.to_numeric(column.map(_number), errors="coerce")


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
