"""Confounds of a run: what varies from token to token and cannot explain the task away."""

import numpy as np
import pandas as pd


def confounds_table(tokens: pd.DataFrame, *, tokens_per_prompt: int) -> pd.DataFrame:
    """Make the confounds of a run.

    Plain surprisal, entropy, prompt length or the mean over all units follow the blocks of a run
    (random strings are surprising), so that as regressors they would take the task's variance.
    Deviations from the mean of each prompt sum to 0 within it: against a boxcar they are
    orthogonal, against a convolved one nearly so. With one volume for each prompt the deviation is
    taken from the mean of its condition instead.

    Parameters
    ----------
    tokens : DataFrame
        As `llm2bids.recording.record.Recording.tokens`; rows without a volume are left out.
    tokens_per_prompt : int
        Volumes of each prompt.

    Returns
    -------
    DataFrame
        One row for each volume, those of ``prompt_position`` (int), ``surprisal_deviation`` and
        ``entropy_deviation`` (float64, bit) that vary, all others having been dropped.

    Examples
    --------
    >>> tokens = pd.DataFrame({"volume": [0, 1, 2, 3], "trial": [0, 0, 1, 1],
    ...     "trial_type": [pd.NA, pd.NA, "a", "a"], "position": [1, 2, 1, 2],
    ...     "surprisal": [1.0, 3.0, 5.0, 6.0], "entropy": [2.0, 2.0, 2.0, 2.0]})
    >>> confounds_table(tokens, tokens_per_prompt=2)
       prompt_position  surprisal_deviation
    0                1                 -1.0
    1                2                  1.0
    2                1                 -0.5
    3                2                  0.5
    """
    recorded = tokens[tokens["volume"].notna()].sort_values("volume").reset_index(drop=True)
    by = "trial" if tokens_per_prompt > 1 else "trial_type"
    groups = recorded.groupby(by, dropna=False)
    columns = {"prompt_position": recorded["position"].astype("int64")}
    for name in ("surprisal", "entropy"):
        column = recorded[name].astype("float64")
        columns[f"{name}_deviation"] = (column - groups[name].transform("mean")).round(6)
    return independent_columns(pd.DataFrame(columns))


def centre_name(tokens_per_prompt: int) -> str:
    """Say what deviations were taken from, for the sidecar.

    Examples
    --------
    >>> centre_name(12)
    'its prompt'
    """
    return "its prompt" if tokens_per_prompt > 1 else "its condition"


def independent_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Keep columns that vary and are no mixture of a constant and the columns before them.

    Parameters
    ----------
    table : DataFrame
        One row for each observation, numbers only.

    Returns
    -------
    DataFrame
        The columns that are kept, in their order.

    Examples
    --------
    >>> table = pd.DataFrame({"a": [1, 2, 4], "b": [2, 4, 8], "c": [3, 3, 3]})
    >>> list(independent_columns(table))
    ['a']
    """
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
