"""What was written, token by token: the transcript, the stimulus series, and the confounds."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd

from llm2bids.exceptions import DatasetError
from llm2bids.store.tables import checked_columns, read_table, write_table

_TIMES = ("onset", "duration", "trial_type", "volume")
_WHAT = ("trial", "block", "prompt_id", "position", "token_id", "token")
# Columns of the transcript, in order.
COLUMNS = (*_TIMES, *_WHAT, "surprisal", "entropy", "prompt_tokens")

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
    """Give every token its time: that of its volume, or that of its word in a story."""
    if "onset" in tokens:
        return tokens[[*COLUMNS, "word"]]
    volume = tokens["volume"].astype("Int64")
    onset = (volume.astype("Float64") * t_r).round(6)
    duration = pd.Series(t_r, index=tokens.index, dtype="Float64").where(volume.notna())
    table = tokens.assign(onset=onset, duration=duration, volume=volume)
    return table[list(COLUMNS)]


def write_transcript(path: Path, table: pd.DataFrame) -> None:
    """Write a transcript as tab-separated values."""
    escaped = [json.dumps(str(token), ensure_ascii=False)[1:-1] for token in table["token"]]
    write_table(path, table.assign(token=escaped))


def read_transcript(path: Path) -> pd.DataFrame:
    """Read a transcript back."""
    table = read_table(path, text=("token", "prompt_id"))
    numbers = [name for name in COLUMNS if name not in (*_TEXTS, *_OPTIONAL)]
    checked_columns(table, path, (*numbers, *_OPTIONAL), text=_TEXTS, missing=_OPTIONAL)
    try:
        table["token"] = [json.loads(f'"{token}"') for token in table["token"]]
    except ValueError as error:
        raise DatasetError(
            f"{path}: a token is not text escaped as in JSON ({error}); record the run again"
        ) from None
    whole = table[["volume", "trial", "block", "position", "token_id"]]
    if not ((whole.isna() | ((whole == whole.round()) & (whole.abs() < 2**53))).all(axis=None)):
        raise DatasetError(
            f"{path}: volume, trial, block, position or token_id is no whole number; record the "
            "run again"
        )
    table["volume"] = table["volume"].astype("Int64")
    table["trial_type"] = table["trial_type"].astype("string")
    return table


def stim_series(tokens: pd.DataFrame, n_volumes: int) -> bytes:
    """Make the stimulus series of a run: one row for each volume, compressed, without header.

    A volume of several words has the last token, one of none has n/a.
    """
    # BIDS 1.11, "Physiological and other continuous recordings"
    recorded = tokens[tokens["volume"].notna()].drop_duplicates("volume", keep="last")
    recorded = recorded.set_index("volume").reindex(range(n_volumes))
    table = recorded.rename(columns=_STIM)[list(_STIM.values())]
    table = table.astype(dict.fromkeys(("token_prompt", "token_position", "token_id"), "Int64"))
    text = table.to_csv(sep="\t", index=False, header=False, float_format="%.6g", na_rep="n/a")
    return gzip.compress(text.encode(), mtime=0)


def confounds_table(tokens: pd.DataFrame, *, tokens_per_prompt: int) -> pd.DataFrame:
    """Make the confounds of a run."""
    # plain surprisal, entropy, prompt length or the mean over units follow the blocks of a run and
    # would take the task's variance; deviations from each prompt's mean sum to 0 within it
    recorded = tokens[tokens["volume"].notna()].sort_values("volume").reset_index(drop=True)
    by = "trial" if tokens_per_prompt > 1 else "trial_type"
    groups = recorded.groupby(by, dropna=False)
    columns = {"prompt_position": recorded["position"].astype("int64")}
    for name in ("surprisal", "entropy"):
        column = recorded[name].astype("float64")
        columns[f"{name}_deviation"] = (column - groups[name].transform("mean")).round(6)
    return independent_columns(pd.DataFrame(columns))


def centre_name(tokens_per_prompt: int) -> str:
    """Say what deviations were taken from, for the sidecar."""
    return "its prompt" if tokens_per_prompt > 1 else "its condition"


def independent_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Keep columns that vary and are no mixture of a constant and the columns before them."""
    kept: list[str] = []
    basis = np.ones((len(table), 1))
    for name in table:
        column = table[name].to_numpy(dtype=np.float64)
        spread = column.std()
        if not spread > 1e-9:
            continue
        grown = np.column_stack([basis, (column - column.mean()) / spread])
        if np.linalg.matrix_rank(grown, tol=1e-6 * np.sqrt(len(table))) == grown.shape[1]:
            kept.append(str(name))
            basis = grown
    return table[kept]
