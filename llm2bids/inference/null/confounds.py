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

    Parameters
    ----------
    names : sequence of str
        Some of `llm2bids.inference.confounds.STRATEGIES`.
    recorded : bool
        Whether the runs are those of a dataset, whose images have a global signal.

    Returns
    -------
    tuple of str
        Columns, each once.

    Raises
    ------
    UsageError
        If a name is unknown, or the global signal is wanted of runs without images.

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
    """Make the confounds of a null run from its tokens.

    Parameters
    ----------
    tokens : DataFrame
        Transcript, or tokens of a recording.
    n_volumes : int
        Volumes of the run.
    columns : sequence of str
        From `checked_confounds`, without the global signal.

    Returns
    -------
    DataFrame of float64, shape (n_volumes, n_columns), or None
        Columns that vary and are no mixture of others, mean taken off; None where there is none.
    """
    if not columns:
        return None
    table = token_confounds(tokens, n_volumes, columns)
    table = table[list(independent_columns(table))]
    return None if table.empty else table - table.mean()


def prompt_confounds(
    confounds: pd.DataFrame | None, trials: npt.NDArray[np.int64]
) -> pd.DataFrame | None:
    """Average confounds over each prompt.

    Parameters
    ----------
    confounds : DataFrame or None
        One row for each volume.
    trials : ndarray of int64, shape (n_volumes,)
        Trial of each volume.

    Returns
    -------
    DataFrame or None
        One row for each prompt, without those that are the same in every prompt (such as the
        position in the answer); None where nothing is left.
    """
    if confounds is None:
        return None
    means = confounds.groupby(trials).mean().reset_index(drop=True)
    varying = [name for name in means if means[name].std() >= 1e-4 * confounds[name].std()]
    return means[varying] if varying else None
