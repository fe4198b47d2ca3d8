"""Confounds of null runs: the covariates whose error rates ``llm2bids null --confounds`` tells."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.dataset.confounds import independent_columns
from llm2bids.exceptions import UsageError
from llm2bids.inference.confounds import STRATEGIES, token_confounds

GLOBAL_SIGNAL = "global_signal"


def checked_confounds(names: Sequence[str], *, recorded: bool) -> tuple[str, ...]:
    """Turn names of strategies into columns.

    Examples
    --------
    >>> checked_confounds(["length", "surprisal"], recorded=False)
    ('prompt_tokens', 'surprisal')
    """
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
        raise UsageError(
            f"--confounds {' '.join(unknown)}: expected some of {', '.join(STRATEGIES)}"
        )
    if GLOBAL_SIGNAL in names and not recorded:
        raise UsageError(
            "--confounds global_signal: runs recorded in memory have no calibrated images; "
            "record a dataset with `llm2bids record --paradigm null` and give it as SOURCE"
        )
    return tuple(dict.fromkeys(STRATEGIES[name] for name in names))


def null_confounds(
    tokens: pd.DataFrame, n_volumes: int, columns: Sequence[str]
) -> pd.DataFrame | None:
    """Make the confounds of a null run from its tokens, (n_volumes, n_columns)."""
    if not columns:
        return None
    table = token_confounds(tokens, n_volumes, columns)
    table = table[list(independent_columns(table))]
    return None if table.empty else table - table.mean()


def prompt_confounds(
    confounds: pd.DataFrame | None, trials: npt.NDArray[np.int64]
) -> pd.DataFrame | None:
    """Average confounds over each prompt; trials (n_volumes,)."""
    if confounds is None:
        return None
    means = confounds.groupby(trials).mean().reset_index(drop=True)
    varying = [name for name in means if means[name].std() >= 1e-4 * confounds[name].std()]
    return means[varying] if varying else None
