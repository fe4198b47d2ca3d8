"""Trials of a run: which volumes belong to which prompt."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import InferenceError

NEEDED = ("volume", "trial", "block", "trial_type", "prompt_id")
"""Columns of a transcript that the trial structure is read from."""


def volume_trials(transcript: pd.DataFrame, n_volumes: int) -> npt.NDArray[np.int64]:
    """Say for every volume which trial it belongs to.

    Parameters
    ----------
    transcript : DataFrame
        One row for each generated token, columns as in ``Recording.tokens``; rows without a
        ``volume`` (a first token that was left out) are passed over.
    n_volumes : int
        Volumes of the run's image.

    Returns
    -------
    ndarray of int64, shape (n_volumes,)
        Index of the volume's trial, in the order of presentation.

    Raises
    ------
    InferenceError
        If columns are missing, or the table and the image differ in their volumes.

    Examples
    --------
    >>> rows = pd.DataFrame({"volume": [0, 1, 2], "trial": [4, 4, 7], "block": 0,
    ...                      "trial_type": ["a", "a", None], "prompt_id": ["p", "p", "q"]})
    >>> volume_trials(rows, 3)
    array([0, 0, 1])
    """
    missing = [column for column in NEEDED if column not in transcript.columns]
    if missing:
        raise InferenceError(
            f"transcript: no column {', '.join(missing)}; found {', '.join(transcript.columns)}; "
            f"expected {', '.join(NEEDED)}; record the dataset again with this version"
        )
    rows = transcript[transcript["volume"].notna()]
    volumes = rows["volume"].to_numpy(dtype=np.int64)
    if not np.array_equal(np.sort(volumes), np.arange(n_volumes)):
        raise InferenceError(
            f"transcript: lists {volumes.size} volumes, the image has {n_volumes}; expected every "
            "volume of the image once; the run is incomplete, record it again"
        )
    order = pd.factorize(rows["trial"], sort=True)[0]
    trials = np.empty(n_volumes, dtype=np.int64)
    trials[volumes] = order
    return trials


def trial_table(transcript: pd.DataFrame, n_volumes: int) -> pd.DataFrame:
    """List the trials of a run in the order of presentation.

    Parameters
    ----------
    transcript : DataFrame
        As for `volume_trials`.
    n_volumes : int
        Volumes of the run's image.

    Returns
    -------
    DataFrame
        One row for each trial: ``prompt_id`` (str), ``trial_type`` (str, ``""`` for the off
        prompts), ``block`` (int), ``n_volumes`` (int).

    Raises
    ------
    InferenceError
        As `volume_trials`.

    Examples
    --------
    >>> rows = pd.DataFrame({"volume": [0, 1, 2], "trial": [4, 4, 7], "block": [0, 0, 1],
    ...                      "trial_type": ["a", "a", "n/a"], "prompt_id": ["p", "p", "q"]})
    >>> trial_table(rows, 3)
      prompt_id trial_type  block  n_volumes
    0         p          a      0          2
    1         q                 1          1
    """
    trials = volume_trials(transcript, n_volumes)
    rows = transcript[transcript["volume"].notna()]
    first = rows.drop_duplicates("trial").sort_values("trial", ignore_index=True)
    trial_type = first["trial_type"].astype("object").fillna("").astype(str)
    return pd.DataFrame(
        {
            "prompt_id": first["prompt_id"].astype(str),
            "trial_type": trial_type.where(trial_type != "n/a", ""),
            "block": first["block"].astype(int),
            "n_volumes": np.bincount(trials, minlength=len(first)),
        }
    )
