"""What was written, token by token: the transcript table and the stimulus series."""

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from llm2bids.exceptions import DatasetError
from llm2bids.space.table import to_numbers

COLUMNS = (
    "onset",
    "duration",
    "trial_type",
    "volume",
    "trial",
    "block",
    "prompt_id",
    "position",
    "token_id",
    "token",
    "surprisal",
    "entropy",
    "prompt_tokens",
)
"""Columns of the transcript, in order."""

_TEXTS = ("trial_type", "prompt_id", "token")
_OPTIONAL = ("onset", "duration", "volume")

_STIM = {
    "trial": "token_prompt",
    "position": "token_position",
    "token_id": "token_id",
    "surprisal": "token_surprisal",
    "entropy": "token_entropy",
}


def transcript_table(tokens: pd.DataFrame, *, t_r: float) -> pd.DataFrame:
    """Give every generated token its time.

    Parameters
    ----------
    tokens : DataFrame
        As `llm2bids.recording.record.Recording.tokens`.
    t_r : float
        Seconds from volume to volume.

    Returns
    -------
    DataFrame
        Columns `COLUMNS`; ``onset`` and ``duration`` in seconds, missing for tokens without volume.
    """
    volume = tokens["volume"].astype("Int64")
    onset = (volume.astype("Float64") * t_r).round(6)
    duration = pd.Series(t_r, index=tokens.index, dtype="Float64").where(volume.notna())
    table = tokens.assign(onset=onset, duration=duration, volume=volume)
    return table[list(COLUMNS)]


def write_transcript(path: Path, table: pd.DataFrame) -> None:
    """Write a transcript as tab-separated values.

    Parameters
    ----------
    path : Path
        The file.
    table : DataFrame
        From `transcript_table`. Texts of tokens are escaped as in JSON, so that a tab or a line
        break in a token is no tab or line break of the table.
    """
    escaped = [json.dumps(str(token), ensure_ascii=False)[1:-1] for token in table["token"]]
    write_table(path, table.assign(token=escaped))


def read_transcript(path: Path) -> pd.DataFrame:
    """Read a transcript back.

    Parameters
    ----------
    path : Path
        Written by `write_transcript`.

    Returns
    -------
    DataFrame
        As it was given to `write_transcript`.

    Raises
    ------
    DatasetError
        If a column is missing or a token is not escaped text.
    """
    table = read_table(path, text=("token", "prompt_id"))
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise DatasetError(
            f"{path}: columns {', '.join(missing)} are missing; expected {', '.join(COLUMNS)}. "
            "Record the run again"
        )
    try:
        table["token"] = [json.loads(f'"{token}"') for token in table["token"]]
    except ValueError as error:
        raise DatasetError(
            f"{path}: a token is not text escaped as in JSON ({error}); record the run again"
        ) from None
    numbers = [name for name in COLUMNS if name not in (*_TEXTS, *_OPTIONAL)]
    checked_columns(table, path, (*numbers, *_OPTIONAL), text=_TEXTS, missing=_OPTIONAL)
    whole = table[["volume", "trial", "block", "position", "token_id"]]
    if not ((whole.isna() | ((whole == whole.round()) & (whole.abs() < 2**53))).all(axis=None)):
        raise DatasetError(
            f"{path}: volume, trial, block, position or token_id is no whole number; record the "
            "run again"
        )
    table["volume"] = table["volume"].astype("Int64")
    table["trial_type"] = table["trial_type"].astype("string")
    return table


def checked_columns(
    table: pd.DataFrame,
    path: Path,
    numbers: Sequence[str],
    *,
    text: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> pd.DataFrame:
    """Check that a table has the columns that are going to be read.

    Parameters
    ----------
    table : DataFrame
        From `read_table`.
    path : Path
        Its file, for the message.
    numbers, text : sequence of str
        Columns of finite numbers, and of texts.
    missing : sequence of str
        Those of `numbers` in which cells may be empty.

    Returns
    -------
    DataFrame
        The same table.

    Raises
    ------
    DatasetError
        If a column is not there, or a cell is no finite number.
    """
    absent = [name for name in (*numbers, *text) if name not in table]
    if absent:
        raise DatasetError(
            f"{path}: columns {', '.join(absent)} are missing; expected "
            f"{', '.join((*numbers, *text))}. Restore the file or record the run again"
        )
    for name in numbers:
        found = to_numbers(table[name])
        wrong = ~(found.abs() < float("inf"))
        if name in missing:
            wrong &= table[name].notna()
        if wrong.any():
            cell = table.loc[wrong, name].iloc[0]
            raise DatasetError(
                f"{path}: column {name} holds {str(cell)[:40]!r}; expected a number. Restore the "
                "file or record the run again"
            )
    return table


def stim_series(tokens: pd.DataFrame) -> bytes:
    """Make the stimulus series of a run: one row for each volume, compressed, without header.

    Parameters
    ----------
    tokens : DataFrame
        As `llm2bids.recording.record.Recording.tokens`.

    Returns
    -------
    bytes
        Content of ``*_stim.tsv.gz``; its columns are in the inherited ``*_stim.json``.

    Notes
    -----
    BIDS 1.11, "Physiological and other continuous recordings".
    """
    recorded = tokens[tokens["volume"].notna()].sort_values("volume")
    table = recorded.rename(columns=_STIM)[list(_STIM.values())]
    text = table.to_csv(sep="\t", index=False, header=False, float_format="%.6g", na_rep="n/a")
    return gzip.compress(text.encode(), mtime=0)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write tab-separated values as BIDS has them: UTF-8, ``n/a`` for what is missing.

    Parameters
    ----------
    path : Path
        The file; a name that ends with ``.gz`` is compressed, without time or name in it.
    table : DataFrame
        No cell may hold a tab or a line break.
    """
    lines = table.to_csv(
        sep="\t", index=False, na_rep="n/a", float_format="%.9g", quoting=3, lineterminator="\n"
    ).encode()
    if path.name.endswith(".gz"):
        lines = gzip.compress(lines, compresslevel=6, mtime=0)
    path.write_bytes(lines)


def read_table(path: Path, *, text: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read tab-separated values that `write_table` wrote.

    Parameters
    ----------
    path : Path
        The file.
    text : tuple of str
        Columns of texts, in which ``n/a`` is a text like any other.

    Returns
    -------
    DataFrame
        ``n/a`` read as missing, numbers as numbers.

    Raises
    ------
    DatasetError
        If the file is not there or not such a table.
    """
    try:
        table = pd.read_csv(
            path,
            sep="\t",
            quoting=3,
            keep_default_na=False,
            dtype=dict.fromkeys(text, "str"),
            encoding="utf-8",
            low_memory=False,
        )
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise DatasetError(
            f"{path}: not a readable table of tab-separated values ({error}); record it again"
        ) from None
    for name in table.columns.difference(list(text)):
        column = table[name]
        if column.dtype.kind in "OUT" or isinstance(column.dtype, pd.StringDtype):
            found = column.mask(column == "n/a")
            numbers = to_numbers(found)
            table[name] = numbers if numbers.notna().equals(found.notna()) else found
    return table
