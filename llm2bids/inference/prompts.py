"""The prompts' images of a dataset, and effects of a part of them by the model of the maps.

The participant level with one image per prompt and ordinary least squares is linear in the images:
``contrast @ pinv(design)`` weighs them. Halves of the prompts, fewer prompts, fewer tokens and
shuffled labels take these weights with the design matrix of the full fit.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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

# Trial type of the off prompts.
OFF = ""

Labels = npt.NDArray[np.str_]


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownPrompts:
    """Prompts that runs showed, run after run, and the model that makes effects of their images.

    `shown` has a row for each of them: ``participant``, ``task``, ``run`` (unique in the dataset),
    ``trial_type`` (``""`` for off) and ``prompt_id``; `designs` the design matrix of each run, a
    row for each of its prompts. `mask` says which units of the space images have, as in `Effects`;
    `conditions` and `options` are those of the effects that are made of them.
    """

    shown: pd.DataFrame
    designs: Mapping[str, pd.DataFrame]
    conditions: tuple[Condition, ...]
    mask: npt.NDArray[np.bool_]
    options: AnalysisOptions

    @cached_property
    def participants(self) -> Labels:
        """Label of each prompt's participant, shape (n_prompts,)."""
        return self.shown["participant"].to_numpy(dtype=np.str_)

    @cached_property
    def run_names(self) -> Labels:
        """Name of each prompt's run, shape (n_prompts,)."""
        return self.shown["run"].to_numpy(dtype=np.str_)

    @cached_property
    def trial_types(self) -> Labels:
        """Trial type of each prompt, ``""`` for off, shape (n_prompts,)."""
        return self.shown["trial_type"].to_numpy(dtype=np.str_)

    @cached_property
    def prompt_ids(self) -> Labels:
        """Identifier of each prompt, shape (n_prompts,)."""
        return self.shown["prompt_id"].to_numpy(dtype=np.str_)

    @property
    def people(self) -> tuple[str, ...]:
        """Labels of the participants, each once."""
        return tuple(dict.fromkeys(self.shown["participant"].tolist()))

    def provenance(self, rows: npt.NDArray[np.bool_]) -> Provenance:
        """Say which data some prompts come from."""
        return _provenance(self.shown[rows])

    def weights(
        self,
        rows: npt.NDArray[np.bool_] | None = None,
        *,
        labels: npt.NDArray[np.intp] | None = None,
    ) -> Floats32:
        """Weigh all prompts or some in each effect, (n_participants, n_conditions, n_prompts).

        `labels`: each prompt takes the trial type of another one of its run, shape (n_prompts,),
        and keeps its own confounds.
        """
        people, of_run = self.people, self.shown.groupby("run").indices
        weights = np.zeros((len(people), len(self.conditions), len(self.shown)))
        n_runs = np.zeros(weights.shape[:2])
        for name, table in self.designs.items():
            mine = np.asarray(of_run[name])
            first = self.shown.iloc[mine[0]]
            kept = np.arange(mine.size) if rows is None else np.flatnonzero(rows[mine])
            design = table.to_numpy(dtype=np.float64)
            if labels is not None:
                kinds = table.columns.isin(self.shown["trial_type"].iloc[mine])
                design[:, kinds] = design[labels[mine] - mine[0]][:, kinds]
            inverse = _inverse(design[kept], name, table.columns)
            person = people.index(first["participant"])
            for column, condition in enumerate(self.conditions):
                if condition.task == first["task"]:
                    vector = contrast_vector(condition.expression, table)
                    weights[person, column, mine[kept]] = vector @ inverse
                    n_runs[person, column] += 1
        if not n_runs.all():
            row, column = np.argwhere(n_runs == 0)[0]
            raise InferenceError(
                f"effects: sub-{people[row]} has no prompt of task {self.conditions[column].task}; "
                "expected every participant in every task; leave the participant or the task out"
            )
        return np.asarray(weights / n_runs[..., np.newaxis], dtype=np.float32)

    def effects(self, values: Floats32) -> Effects:
        """Say of effects (n_participants, n_conditions, n_units) what prompts they are of."""
        by_task = self.shown.groupby(["participant", "task"])
        made = {key: _provenance(rows) for key, rows in by_task}
        made_from = [
            [made[who, condition.task] for condition in self.conditions] for who in self.people
        ]
        return Effects(
            values=values,
            participants=self.people,
            conditions=self.conditions,
            made_from=np.array(made_from),
            mask=self.mask,
            options=self.options,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompts(ShownPrompts):
    """Prompts with their images, the mean of each one's tokens: float32 (n_prompts, n_units)."""

    values: Floats32

    def __post_init__(self) -> None:
        finite = np.isfinite(self.values.sum(axis=1, dtype=np.float64))
        if not finite.all():
            row = int(np.argmin(finite))
            raise InferenceError(
                f"prompt {self.prompt_ids[row]} of sub-{self.participants[row]}: values that are "
                "NaN or infinite; expected finite values in all units; mask these units or leave "
                "the run out"
            )


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
    return prompts.effects(combine(prompts.values, prompts.weights(rows, labels=labels)))


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
    table = pd.concat([_shown(run) for run in loaded], ignore_index=True)
    model: dict[str, Any] = {
        "shown": table,
        "designs": {run.run.name: run_design(run, options) for run in loaded},
        "conditions": _trial_types(table) if conditions is None else tuple(conditions),
        "mask": inputs.units,
        "options": options,
    }
    shown = ShownPrompts(**model)
    steps, omitted = _first_token_weights(loaded, shown) if first_tokens else ({}, {})
    n_prompts, n_units = len(table), int(inputs.units.sum())
    if mem_gb is None or 4 * n_prompts * n_units <= mem_gb * 1e9:
        values: Floats32 = np.empty((n_prompts, n_units), dtype=np.float32)
    else:
        values = mapped_values(n_prompts, n_units, work_dir or Path(tempfile.gettempdir()))
    early = {n: np.zeros((*weights.shape[:2], n_units), np.float32) for n, weights in steps.items()}
    stop = 0
    for run in tqdm(loaded, desc="prompts", file=sys.stderr, disable=not progress):
        whole, *firsts = prompt_series(
            run, smoothing_fwhm=options.smoothing_fwhm, n_tokens=(None, *steps)
        )
        rows = slice(stop, stop := stop + len(whole))
        values[rows] = whole
        person = shown.people.index(run.run.participant_label)
        for n, images in zip(steps, firsts, strict=True):
            early[n][person] += combine(images.astype(np.float32), steps[n][person, :, rows])
    return PromptSamples(
        prompts=Prompts(values=values, **model),
        first_tokens={n: shown.effects(effects) for n, effects in early.items()},
        omitted=omitted,
    )


def _first_token_weights(
    loaded: Sequence[RunData], shown: ShownPrompts
) -> tuple[dict[int, Floats32], dict[int, str]]:
    """Weigh the prompts by how many of their first tokens are taken, or say why they are not."""
    weights: dict[int, Floats32] = {}
    omitted: dict[int, str] = {}
    for n in powers_below(int(min(run.trials["n_volumes"].min() for run in loaded))):
        try:
            designs = {run.run.name: run_design(run, shown.options, n_tokens=n) for run in loaded}
        except InferenceError as error:
            omitted[n] = str(error)
        else:
            weights[n] = replace(shown, designs=designs).weights()
    return weights, omitted


def _provenance(shown: pd.DataFrame) -> Provenance:
    return Provenance.of(
        participants=shown["participant"], runs=shown["run"], prompts=shown["prompt_id"]
    )


def _inverse(
    design: npt.NDArray[np.float64], name: str, columns: "pd.Index[str]"
) -> npt.NDArray[np.float64]:
    """Give the pseudo-inverse (n_columns, n_prompts) of a design that determines its parameters."""
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise InferenceError(
            f"effects: {len(design)} prompts of {name} do not determine the model "
            f"({', '.join(map(str, columns))}); expected prompts of every kind, and more of "
            "them than confounds"
        )
    return np.asarray(np.linalg.pinv(design), dtype=np.float64)


def _shown(data: RunData) -> pd.DataFrame:
    run = data.run
    who = {"participant": run.participant_label, "task": run.task, "run": run.name}
    return data.trials[["trial_type", "prompt_id"]].assign(**who)


def _trial_types(shown: pd.DataFrame) -> tuple[Condition, ...]:
    """List each task's trial types as conditions."""
    on = shown[shown["trial_type"] != OFF]
    kinds = sorted(set(zip(on["task"], on["trial_type"], strict=True)))
    return tuple(Condition(task=task, label=kind, expression=kind) for task, kind in kinds)
