"""What was shown in a run, its design matrix by prompt or by volume, contrasts of its columns."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from nilearn.glm.contrasts import expression_to_contrast_vector
from nilearn.glm.first_level import make_first_level_design_matrix

from llm2bids.exceptions import InferenceError
from llm2bids.inference.options import AnalysisOptions, Source

_WORDS = (("-", "Minus"), ("+", "Plus"), ("*", "Times"), ("/", "Over"), (".", "Point"))


def volume_rows(transcript: pd.DataFrame, n_volumes: int) -> pd.DataFrame:
    """Take a transcript's row of each volume, trials numbered from 0, the trial type of off "".

    >>> rows = pd.DataFrame({"volume": [None, 1, 0], "trial": [4, 7, 4],
    ...                      "trial_type": ["a", None, "a"], "prompt_id": ["p", "q", "p"]})
    >>> volume_rows(rows, 2).to_numpy().tolist()
    [[0, 0, 'a', 'p'], [1, 1, '', 'q']]
    """
    rows = transcript[transcript["volume"].notna()].sort_values("volume", ignore_index=True)
    if not np.array_equal(rows["volume"].to_numpy(dtype=np.int64), np.arange(n_volumes)):
        raise InferenceError(
            f"transcript: lists {len(rows)} volumes, the image has {n_volumes}; expected every "
            "volume of the image once; the run is incomplete, record it again"
        )
    kinds = rows["trial_type"].astype("object").fillna("").replace("n/a", "").astype(str)
    trials = pd.factorize(rows["trial"], sort=True)[0]
    shown = pd.DataFrame({"trial": trials, "kind": kinds, "prompt": rows["prompt_id"]})
    if len(shown.drop_duplicates()) > trials.max() + 1 or (np.diff(trials) < 0).any():
        raise InferenceError(
            "transcript: the volumes of a trial show several prompts or conditions, or trials are "
            "mixed; expected one prompt after the other; restore the file or record the run again"
        )
    return rows.assign(volume=np.arange(n_volumes), trial=trials, trial_type=kinds)


def trial_table(rows: pd.DataFrame) -> pd.DataFrame:
    """List the trials of a run in the order of presentation, from its rows of volumes.

    >>> trial_table(pd.DataFrame({"volume": [0, 1, 2], "trial": [0, 0, 1],
    ...                           "trial_type": ["a", "a", ""], "prompt_id": ["p", "p", "q"]}))
      prompt_id trial_type  n_volumes
    0         p          a          2
    1         q                     1
    """
    return (
        rows.groupby("trial")
        .agg(
            prompt_id=("prompt_id", "first"),
            trial_type=("trial_type", "first"),
            n_volumes=("volume", "size"),
        )
        .reset_index(drop=True)
    )


def same_conditions(
    rows: pd.DataFrame, events: pd.DataFrame, *, t_r: float, use: Source | None, name: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the rows of volumes and the events say the same of every volume, or refuse them.

    Statistics of prompts read the transcript, those of volumes the events: without this, events
    that somebody edited would count for some of them only. `use` decides which table is right.
    """
    recorded = rows["trial_type"].to_numpy(dtype=object)
    kinds, fault = _conditions_of_volumes(events, len(rows), t_r)
    different = np.flatnonzero(kinds != recorded)
    if not fault and not different.size:
        return rows, events
    volume = int(different[0]) if different.size else 0
    problem = fault or (
        f"volume {volume} ({volume * t_r:g} s) is {kinds[volume] or 'off'!r} in events.tsv and "
        f"{recorded[volume] or 'off'!r} in the transcript ({different.size} of {len(rows)} "
        "volumes differ)"
    )
    if use is None:
        raise InferenceError(
            f"{name}: {problem}; expected both tables to say the same; say which is right with "
            "`--use transcript` or `--use events` (in Python use='events'), or restore the file"
        )
    if use == "transcript":
        return rows, _events_of(rows, t_r)
    if fault:
        raise InferenceError(f"{name}: {fault}; mend events.tsv, or `--use transcript`")
    mixed = pd.Series(kinds).groupby(rows["trial"]).nunique() > 1
    if mixed.any():
        prompt = rows["prompt_id"][rows["trial"] == mixed.idxmax()].iloc[0]
        raise InferenceError(
            f"{name}: events.tsv changes the condition in the middle of prompt {prompt}; expected "
            "one condition for all volumes of a prompt"
        )
    return rows.assign(trial_type=kinds), events


def _conditions_of_volumes(
    events: pd.DataFrame, n_volumes: int, t_r: float
) -> tuple[npt.NDArray[np.object_], str]:
    """Give the trial type of each volume, "" where none is, and what is wrong with the events."""
    kinds = np.full(n_volumes, "", dtype=object)
    faults = []
    columns = (events[name] for name in ("onset", "duration", "trial_type"))
    for onset, duration, kind in zip(*columns, strict=True):
        edges = np.clip(np.array([onset, onset + duration]) / t_r, -1e9, 1e9)
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


def _events_of(rows: pd.DataFrame, t_r: float) -> pd.DataFrame:
    """Tabulate the on prompts of a run as events in seconds."""
    trials = trial_table(rows)
    events = pd.DataFrame(
        {
            "onset": rows.groupby("trial")["volume"].min() * t_r,
            "duration": trials["n_volumes"] * t_r,
            "trial_type": trials["trial_type"].astype(object),
        }
    )
    return events[trials["trial_type"] != ""].reset_index(drop=True)


def prompt_design(
    trial_types: Sequence[str], confounds: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Build the design of a series of prompt images: a column per trial type and a constant.

    The off prompts (trial type ``""``) are the implicit baseline. With one trial type the ordinary
    least squares fit of this design is the two-sample t test with pooled variance.

    >>> prompt_design(["", "tea", "tea", ""])
       tea  constant
    0  0.0       1.0
    1  1.0       1.0
    2  1.0       1.0
    3  0.0       1.0
    """
    labels = np.asarray(trial_types, dtype=object)
    kinds = sorted(set(labels) - {""})
    if not kinds:
        raise InferenceError(
            "design: no on prompt in the run, every trial_type is n/a; nothing to contrast"
        )
    if not np.any(labels == ""):
        raise InferenceError(
            f"design: no off prompt in the run, only {', '.join(kinds)}; the off prompts are the "
            "implicit baseline, record a paradigm with an off block"
        )
    design = pd.DataFrame({kind: (labels == kind).astype(np.float64) for kind in kinds})
    if confounds is not None:
        design = pd.concat([design, confounds.reset_index(drop=True)], axis=1)
    design["constant"] = 1.0
    return checked_design(design)


def token_design(
    events: pd.DataFrame,
    n_volumes: int,
    t_r: float,
    options: AnalysisOptions,
    confounds: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Build the design of a series of volumes with nilearn."""
    if events.empty:
        raise InferenceError("design: events.tsv has no row; nothing to contrast")
    hrf_model, drift_model = options.hrf_model, options.drift_model
    high_pass = options.high_pass
    if drift_model is None and high_pass is not None:
        drift_model = "cosine"
    try:
        design = make_first_level_design_matrix(
            np.arange(n_volumes) * t_r,
            events[["onset", "duration", "trial_type"]],
            hrf_model=hrf_model,
            drift_model=drift_model,
            high_pass=0.01 if high_pass is None else high_pass,
            drift_order=options.drift_order,
            add_regs=None if confounds is None else confounds.to_numpy(dtype=np.float64),
            add_reg_names=None if confounds is None else list(confounds.columns),
        )
    except (ValueError, TypeError, NotImplementedError) as error:
        raise InferenceError(
            f"design: hrf_model={hrf_model!r}, drift_model={drift_model!r}, high_pass={high_pass}: "
            f"nilearn refuses: {error}"
        ) from None
    return checked_design(design)


def checked_design(design: pd.DataFrame) -> pd.DataFrame:
    """Return a design matrix if a linear model can be fitted with it.

    >>> len(checked_design(pd.DataFrame({"a": [1.0, 0.0, 1.0], "constant": [1.0, 1.0, 1.0]})))
    3
    """
    n_rows, n_columns = design.shape
    if n_rows <= n_columns:
        raise InferenceError(
            f"design: {n_rows} observations for {n_columns} columns; expected more observations "
            "than columns; record more prompts per block or leave confounds out"
        )
    if np.linalg.matrix_rank(design.to_numpy(dtype=np.float64)) < n_columns:
        raise InferenceError(
            f"design: columns {', '.join(map(str, design.columns))} are linearly dependent; "
            "leave out confounds that are constant or that follow the conditions"
        )
    return design


def chosen_confounds(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Take columns of a confounds table as covariates."""
    unknown = [column for column in columns if column not in table.columns]
    if unknown:
        raise InferenceError(
            f"confounds: no column {', '.join(unknown)}; expected some of "
            f"{', '.join(map(str, table.columns)) or '(the run has none)'}"
        )
    chosen = table[list(columns)].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    empty = [str(column) for column in chosen.columns if not chosen[column].notna().any()]
    if empty:
        raise InferenceError(f"confounds: column {', '.join(empty)} holds no number")
    return pd.DataFrame(chosen.fillna(chosen.mean()))


def contrast_label(expression: str) -> str:
    """Turn a contrast expression into a BIDS label, as nilearn names its maps.

    >>> contrast_label("tea - coffee")
    'teaMinusCoffee'
    >>> contrast_label("0.5 * tea")
    '0Point5TimesTea'
    """
    for sign, word in _WORDS:
        expression = expression.replace(sign, f" {word} ")
    words = re.findall(r"[A-Za-z0-9]+", expression)
    return "".join([words[0], *(word[0].upper() + word[1:] for word in words[1:])] if words else "")


def named_contrasts(
    contrasts: Mapping[str, str] | Sequence[str] | None, trial_types: Sequence[str]
) -> dict[str, str]:
    """Give every contrast a BIDS label.

    >>> named_contrasts(None, ["tea", "coffee"])
    {'tea': 'tea', 'coffee': 'coffee'}
    >>> named_contrasts(["tea - coffee"], [])
    {'teaMinusCoffee': 'tea - coffee'}
    """
    if contrasts is None:
        contrasts = list(trial_types)
    pairs = (
        list(contrasts.items())
        if isinstance(contrasts, Mapping)
        else [(contrast_label(expression), expression) for expression in contrasts]
    )
    labels = [label for label, _ in pairs]
    for label, expression in pairs:
        if not re.fullmatch("[A-Za-z0-9]+", label) or labels.count(label) > 1:
            raise InferenceError(
                f"contrast {expression!r}: its label {label!r} is not unique and alphanumeric; "
                "give {label: expression} with labels of letters and digits"
            )
    return dict(pairs)


def contrast_vector(expression: str, design: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Evaluate a contrast expression on the columns of a design matrix, with nilearn.

    Shape of the result: (n_columns,).

    >>> contrast_vector("tea - coffee", pd.DataFrame(columns=["coffee", "tea", "constant"]))
    array([-1.,  1.,  0.])
    """
    columns = [str(column) for column in design.columns]
    try:
        vector = np.asarray(expression_to_contrast_vector(expression, columns), dtype=np.float64)
        twice = pd.DataFrame(2 * np.eye(len(columns)), columns=columns)
        doubled: Any = 2 * vector
        if expression not in columns:
            doubled = twice.eval(expression, engine="python")
    except (ValueError, SyntaxError):
        vector = np.zeros(0)
    if vector.shape != (len(columns),) or not vector.any():
        raise InferenceError(
            f"contrast {expression!r} does not exist here: expected an expression over "
            f"{', '.join(columns)}; tasks of different runs are contrasted at the group level"
        )
    # nilearn takes a square for the condition, and the 1 of tea + 1 for every column
    if not np.isfinite(vector).all() or not np.array_equal(doubled, 2 * vector):
        raise InferenceError(
            f"contrast {expression!r} is no sum of conditions times numbers; expected one over "
            f"{', '.join(columns)}"
        )
    return vector


def has_contrast(expression: str, trial_types: Sequence[str]) -> bool:
    """Say whether an expression can be evaluated over these trial types.

    >>> has_contrast("tea - coffee", ["tea"])
    False
    """
    try:
        contrast_vector(expression, pd.DataFrame(columns=[*trial_types, "constant"]))
    except InferenceError:
        return False
    return True
