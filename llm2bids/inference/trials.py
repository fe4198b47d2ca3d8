"""Trials of a run: which volumes belong to which prompt, and what was shown in them."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import InferenceError
from llm2bids.inference.options import Source

_NEEDED = ("volume", "trial", "block", "trial_type", "prompt_id")
"""Columns of a transcript that the trial structure is read from."""


def volume_trials(transcript: pd.DataFrame, n_volumes: int) -> npt.NDArray[np.int64]:
    """Say for every volume which trial it belongs to, (n_volumes,).

    >>> rows = pd.DataFrame({"volume": [0, 1, 2], "trial": [4, 4, 7], "block": 0,
    ...                      "trial_type": ["a", "a", None], "prompt_id": ["p", "p", "q"]})
    >>> volume_trials(rows, 3)
    array([0, 0, 1])
    """
    missing = [column for column in _NEEDED if column not in transcript.columns]
    if missing:
        raise InferenceError(
            f"transcript: no column {', '.join(missing)}; found {', '.join(transcript.columns)}; "
            f"expected {', '.join(_NEEDED)}; record the dataset again with this version"
        )
    rows = transcript[transcript["volume"].notna()]
    volumes = rows["volume"].to_numpy(dtype=np.int64)
    if not np.array_equal(np.sort(volumes), np.arange(n_volumes)):
        raise InferenceError(
            f"transcript: lists {volumes.size} volumes, the image has {n_volumes}; expected every "
            "volume of the image once; the run is incomplete, record it again"
        )
    return np.asarray(pd.factorize(rows["trial"], sort=True)[0][np.argsort(volumes)])


def trial_table(transcript: pd.DataFrame, n_volumes: int) -> pd.DataFrame:
    """List the trials of a run in the order of presentation.

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
    return pd.DataFrame(
        {
            "prompt_id": first["prompt_id"].astype(str),
            "trial_type": _shown_types(first),
            "block": first["block"].astype(int),
            "n_volumes": np.bincount(trials, minlength=len(first)),
        }
    )


def same_conditions(
    transcript: pd.DataFrame, events: pd.DataFrame, *, t_r: float, use: Source | None, name: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make transcript and events say the same of every volume, or refuse them.

    Statistics of prompts read the transcript, those of volumes the events: without this, events
    that somebody edited would count for some of them only. `use` decides which table is right.
    """
    volumes = transcript["volume"].dropna().to_numpy(dtype=np.int64)
    shown = transcript[transcript["volume"].notna()].assign(volume=volumes).sort_values("volume")
    recorded = _shown_types(shown).to_numpy(dtype=object)
    kinds, fault = _conditions_of_volumes(events, len(shown), t_r)
    different = np.flatnonzero(kinds != recorded)
    if not fault and not different.size:
        return transcript, events
    volume = int(different[0]) if different.size else 0
    problem = fault or (
        f"volume {volume} ({volume * t_r:g} s) is {kinds[volume] or 'off'!r} in events.tsv and "
        f"{recorded[volume] or 'off'!r} in the transcript ({different.size} of {len(shown)} "
        "volumes differ)"
    )
    if use is None:
        raise InferenceError(
            f"{name}: {problem}; expected both tables to say the same; say which is right with "
            "`--use transcript` or `--use events` (in Python use='events'), or restore the file"
        )
    if use == "transcript":
        return transcript, _events_of(shown.assign(trial_type=recorded), t_r)
    if fault:
        raise InferenceError(f"{name}: {fault}; mend events.tsv, or `--use transcript`")
    mixed = pd.Series(kinds).groupby(shown["trial"].to_numpy()).nunique()
    if (mixed > 1).any():
        trial = mixed.index[mixed > 1][0]
        prompt = shown["prompt_id"][shown["trial"] == trial].iloc[0]
        raise InferenceError(
            f"{name}: events.tsv changes the condition in the middle of prompt {prompt}; expected "
            "one condition for all volumes of a prompt"
        )
    by_trial = dict(zip(shown["trial"], kinds, strict=True))
    relabelled = transcript["trial"].map(by_trial).replace("", pd.NA).astype("string")
    return transcript.assign(trial_type=relabelled), events


def _shown_types(rows: pd.DataFrame) -> "pd.Series[str]":
    """Give the trial type of rows of a transcript, "" where they are off."""
    return rows["trial_type"].astype("object").fillna("").replace("n/a", "").astype(str)


def _conditions_of_volumes(
    events: pd.DataFrame, n_volumes: int, t_r: float
) -> tuple[npt.NDArray[np.object_], str]:
    """Give the trial type of each volume, "" where none is, and what is wrong with the events."""
    kinds = np.full(n_volumes, "", dtype=object)
    faults = []
    columns = (events[name] for name in ("onset", "duration", "trial_type"))
    for onset, duration, kind in zip(*columns, strict=True):
        edges = np.array([onset, onset + duration]) / t_r
        first, end = np.rint(edges).astype(int)
        event = f"the event at {onset:g} s for {duration:g} s in events.tsv"
        if np.abs(edges - [first, end]).max() > 1e-3:
            faults.append(f"{event} begins or ends within a volume of {t_r:g} s")
        elif not 0 <= first < end <= n_volumes:
            faults.append(f"{event} covers no volume, or none of the run's {n_volumes * t_r:g} s")
        elif (kinds[first:end] != "").any():
            faults.append(f"{event} overlaps with another")
        kinds[max(first, 0) : max(end, 0)] = kind
    return kinds, faults[0] if faults else ""


def _events_of(shown: pd.DataFrame, t_r: float) -> pd.DataFrame:
    """Tabulate the on prompts of a transcript's volumes as events in seconds."""
    trials = shown.groupby("trial", sort=False).agg(
        first=("volume", "min"), n_volumes=("volume", "size"), trial_type=("trial_type", "first")
    )
    on = trials[trials["trial_type"] != ""].reset_index(drop=True)
    return pd.DataFrame(
        {
            "onset": on["first"] * t_r,
            "duration": on["n_volumes"] * t_r,
            "trial_type": on["trial_type"].astype(object),
        }
    )
