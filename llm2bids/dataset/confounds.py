"""Confounds of a run: what varies from token to token and cannot explain the task away."""

import numpy as np
import pandas as pd


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
