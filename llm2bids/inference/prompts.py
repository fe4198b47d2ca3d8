"""The prompts' images of a dataset, and effects of a part of them by the model of the maps.

The participant level with one image per prompt and ordinary least squares is linear in the images:
``contrast @ pinv(design)`` weighs them. Halves of the prompts, fewer prompts, fewer tokens and
shuffled labels take these weights with the design matrix of the full fit.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from llm2bids.exceptions import InferenceError
from llm2bids.inference.design import contrast_vector
from llm2bids.inference.effects import Condition, Effects, Floats32
from llm2bids.inference.inputs import Inputs
from llm2bids.inference.options import AnalysisOptions
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.runs import RunData, prompt_series, run_design
from llm2bids.recording.batches import mapped_values

OFF = ""
"""Trial type of the off prompts."""

Labels = npt.NDArray[np.str_]


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptRun:
    """What one run showed: its design matrix has one row for each prompt, in presentation order."""

    participant: str
    task: str
    name: str
    trial_types: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    design: pd.DataFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompts:
    """One image per prompt (the mean of its tokens), float32 (n_prompts, n_units), run after run.

    `mask` says which units of the space they are, as in `Effects`; `conditions` and `options` are
    those of the effects that are made of them.
    """

    values: Floats32
    runs: tuple[PromptRun, ...]
    conditions: tuple[Condition, ...]
    mask: npt.NDArray[np.bool_]
    options: AnalysisOptions

    def __post_init__(self) -> None:
        finite = np.isfinite(self.values.sum(axis=1, dtype=np.float64))
        if not finite.all():
            row = int(np.argmin(finite))
            raise InferenceError(
                f"prompt {self.prompt_ids[row]} of sub-{self.participants[row]}: values that are "
                "NaN or infinite; expected finite values in all units; mask these units or leave "
                "the run out"
            )

    @cached_property
    def participants(self) -> Labels:
        """Label of each prompt's participant, shape (n_prompts,)."""
        return self._each([run.participant for run in self.runs])

    @cached_property
    def run_names(self) -> Labels:
        """Name of each prompt's run, unique in the dataset, shape (n_prompts,)."""
        return self._each([run.name for run in self.runs])

    @cached_property
    def trial_types(self) -> Labels:
        """Trial type of each prompt, ``""`` for off, shape (n_prompts,)."""
        return np.array([kind for run in self.runs for kind in run.trial_types], dtype=np.str_)

    @cached_property
    def prompt_ids(self) -> Labels:
        """Identifier of each prompt, shape (n_prompts,)."""
        return np.array([name for run in self.runs for name in run.prompt_ids], dtype=np.str_)

    @property
    def people(self) -> tuple[str, ...]:
        """Labels of the participants, each once."""
        return _people(self.runs)

    def provenance(self, rows: npt.NDArray[Any] | slice = slice(None)) -> Provenance:
        """Say which data some prompts, or all of them, come from."""
        return Provenance.of(
            participants=self.participants[rows],
            runs=self.run_names[rows],
            prompts=self.prompt_ids[rows],
        )

    def take(self, rows: npt.NDArray[np.bool_]) -> "Prompts":
        """Take some prompts, shape (n_prompts,); runs without any go."""
        kept = np.split(rows, np.cumsum([len(run.prompt_ids) for run in self.runs])[:-1])
        runs = tuple(
            replace(
                run,
                trial_types=tuple(compress(run.trial_types, chosen)),
                prompt_ids=tuple(compress(run.prompt_ids, chosen)),
                design=run.design[chosen],
            )
            for run, chosen in zip(self.runs, kept, strict=True)
            if chosen.any()
        )
        return replace(self, values=self.values[rows], runs=runs)

    def _each(self, names: Sequence[str]) -> Labels:
        counts = [len(run.prompt_ids) for run in self.runs]
        return np.repeat(np.array(names, dtype=np.str_), counts)


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptSamples:
    """Prompts' images over all volumes, and the effects of each prompt's first so many volumes.

    `omitted` says why there are no effects for a number of volumes.
    """

    prompts: Prompts
    first_tokens: dict[int, Effects]
    omitted: dict[int, str]


def effects_of(
    prompts: Prompts,
    rows: npt.NDArray[np.bool_] | None = None,
    *,
    labels: npt.NDArray[np.intp] | None = None,
) -> Effects:
    """Fit the effects of some prompts (`rows`), or of prompts with others' labels (`labels`)."""
    weights = effect_weights(prompts.runs, prompts.conditions, rows, labels=labels)
    return _effects(prompts, combine(prompts.values, weights))


def effect_weights(
    runs: Sequence[PromptRun],
    conditions: Sequence[Condition],
    rows: npt.NDArray[np.bool_] | None = None,
    *,
    labels: npt.NDArray[np.intp] | None = None,
) -> Floats32:
    """Weigh the prompts of runs in each effect, shape (n_participants, n_conditions, n_prompts).

    `labels`: each prompt takes the trial type of another one of its run, shape (n_prompts,), and
    keeps its own confounds.
    """
    people = _people(runs)
    weights = np.zeros((len(people), len(conditions), sum(len(run.prompt_ids) for run in runs)))
    n_runs = np.zeros(weights.shape[:2])
    stop = 0
    for run in runs:
        start, stop = stop, stop + len(run.prompt_ids)
        columns = [i for i, condition in enumerate(conditions) if condition.task == run.task]
        if not columns:
            continue
        kept = np.arange(start, stop) if rows is None else start + np.flatnonzero(rows[start:stop])
        design = run.design.to_numpy(dtype=np.float64)
        if labels is not None:
            kinds = [column in run.trial_types for column in run.design]
            design[:, kinds] = design[labels[start:stop] - start][:, kinds]
        inverse = _inverse(design[kept - start], run)
        person = people.index(run.participant)
        for column in columns:
            vector = contrast_vector(conditions[column].expression, run.design)
            weights[person, column, kept] = vector @ inverse
            n_runs[person, column] += 1
    if not n_runs.all():
        row, column = np.argwhere(n_runs == 0)[0]
        raise InferenceError(
            f"effects: sub-{people[row]} has no prompt of task {conditions[column].task}; "
            "expected every participant in every task; leave the participant or the task out"
        )
    return np.asarray(weights / n_runs[..., np.newaxis], dtype=np.float32)


def combine(values: Floats32, weights: Floats32) -> Floats32:
    """Sum images (n_prompts, n_units) with weights (..., n_prompts), of which most are 0."""
    sums = np.empty((*weights.shape[:-1], values.shape[1]), dtype=np.float32)
    for index in np.ndindex(weights.shape[:-1]):
        chosen = np.flatnonzero(weights[index])
        sums[index] = weights[index][chosen] @ values[chosen]
    return sums


def powers_below(limit: int) -> tuple[int, ...]:
    """List the powers of two below a number."""
    return tuple(1 << power for power in range(limit.bit_length()) if 1 << power < limit)


def why_no_parts(options: AnalysisOptions) -> str:
    """Say why a model has no effects of a part of the prompts; empty where it has.

    >>> why_no_parts(AnalysisOptions())
    ''
    """
    if options.unit_of_analysis == "token":
        return (
            "observations are tokens: a part of the prompts would leave gaps in the series that "
            "the model is fitted to"
        )
    if options.noise != "ols":
        return (
            f"noise model {options.noise} takes prompts that follow one another, which a part of "
            "the prompts does not do"
        )
    return ""


def read_prompts(
    inputs: Inputs,
    options: AnalysisOptions | None = None,
    conditions: Sequence[Condition] | None = None,
    *,
    participant_label: Sequence[str] | None = None,
    task: Sequence[str] | None = None,
    first_tokens: bool = False,
    mem_gb: float | None = None,
    work_dir: Path | None = None,
    progress: bool = False,
) -> PromptSamples:
    """Read the prompts' images under a model, and in the same pass effects of fewer tokens.

    Images that take more than `mem_gb` are held in a scratch file in `work_dir`.
    """
    options = options or AnalysisOptions()
    reason = why_no_parts(options)
    if reason:
        raise InferenceError(f"prompts: {reason}; analyse one image per prompt with 'ols'")
    chosen = inputs.choose(participant_label=participant_label, task=task)
    missing = [f"sub-{label} task-{name}" for (label, name), runs in chosen.items() if not runs]
    if missing:
        raise InferenceError(
            f"prompts: no run of {', '.join(missing)}; expected every participant in every task; "
            "leave the participant or the task out, or record the dataset again to add it"
        )
    loaded = [inputs.load(run) for runs in chosen.values() for run in runs]
    runs = [_shown(run, run_design(run, options)) for run in loaded]
    conditions = _trial_types(runs) if conditions is None else tuple(conditions)
    steps, omitted = _first_token_weights(loaded, options, conditions) if first_tokens else ({}, {})
    n_prompts, n_units = sum(len(run.prompt_ids) for run in runs), int(inputs.units.sum())
    if mem_gb is None or 4 * n_prompts * n_units <= mem_gb * 1e9:
        values: Floats32 = np.empty((n_prompts, n_units), dtype=np.float32)
    else:
        values = mapped_values(n_prompts, n_units, work_dir or Path(tempfile.gettempdir()))
    early = {n: np.zeros((*weights.shape[:2], n_units), np.float32) for n, weights in steps.items()}
    people, stop = _people(runs), 0
    for run in tqdm(loaded, desc="prompts", file=sys.stderr, disable=not progress):
        whole, *firsts = prompt_series(
            run, smoothing_fwhm=options.smoothing_fwhm, n_tokens=(None, *steps)
        )
        rows = slice(stop, stop := stop + len(whole))
        values[rows] = whole
        person = people.index(run.run.participant_label)
        for n, images in zip(steps, firsts, strict=True):
            early[n][person] += combine(images.astype(np.float32), steps[n][person, :, rows])
    prompts = Prompts(
        values=values,
        runs=tuple(runs),
        conditions=conditions,
        mask=inputs.units,
        options=options,
    )
    return PromptSamples(
        prompts=prompts,
        first_tokens={n: _effects(prompts, effects) for n, effects in early.items()},
        omitted=omitted,
    )


def _first_token_weights(
    loaded: Sequence[RunData], options: AnalysisOptions, conditions: Sequence[Condition]
) -> tuple[dict[int, Floats32], dict[int, str]]:
    """Weigh the prompts by how many of their first tokens are taken, or say why they are not."""
    weights: dict[int, Floats32] = {}
    omitted: dict[int, str] = {}
    for n in powers_below(int(min(run.trials["n_volumes"].min() for run in loaded))):
        try:
            runs = [_shown(run, run_design(run, options, n_tokens=n)) for run in loaded]
        except InferenceError as error:
            omitted[n] = str(error)
        else:
            weights[n] = effect_weights(runs, conditions)
    return weights, omitted


def _effects(prompts: Prompts, values: Floats32) -> Effects:
    """Say of effects (n_participants, n_conditions, n_units) what prompts they are of."""
    of_task = {
        task: np.isin(prompts.run_names, [run.name for run in prompts.runs if run.task == task])
        for task in {condition.task for condition in prompts.conditions}
    }
    made_from = [
        [
            prompts.provenance((prompts.participants == who) & of_task[condition.task])
            for condition in prompts.conditions
        ]
        for who in prompts.people
    ]
    return Effects(
        values=values,
        participants=prompts.people,
        conditions=prompts.conditions,
        made_from=np.array(made_from),
        mask=prompts.mask,
        options=prompts.options,
    )


def _people(runs: Sequence[PromptRun]) -> tuple[str, ...]:
    """List the participants of runs, each once."""
    return tuple(dict.fromkeys(run.participant for run in runs))


def _inverse(design: npt.NDArray[np.float64], run: PromptRun) -> npt.NDArray[np.float64]:
    """Give the pseudo-inverse (n_columns, n_prompts) of a design that determines its parameters."""
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise InferenceError(
            f"effects: {len(design)} prompts of {run.name} do not determine the model "
            f"({', '.join(map(str, run.design))}); expected prompts of every kind, and more of "
            "them than confounds"
        )
    return np.asarray(np.linalg.pinv(design), dtype=np.float64)


def _shown(run: RunData, design: pd.DataFrame) -> PromptRun:
    return PromptRun(
        participant=run.run.participant_label,
        task=run.run.task,
        name=run.run.name,
        trial_types=tuple(run.trials["trial_type"]),
        prompt_ids=tuple(run.trials["prompt_id"]),
        design=design,
    )


def _trial_types(runs: Sequence[PromptRun]) -> tuple[Condition, ...]:
    """List each task's trial types as conditions."""
    kinds = {(run.task, kind) for run in runs for kind in run.trial_types if kind != OFF}
    return tuple(Condition(task=task, label=kind, expression=kind) for task, kind in sorted(kinds))
