"""Null runs: runs of off prompts with a sham on block, of a dataset or recorded on the spot."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.dataset.read import Dataset, Run
from llm2bids.exceptions import InferenceError
from llm2bids.inference.confounds import load_confounds
from llm2bids.inference.null.confounds import (
    checked_confounds,
    null_confounds,
)
from llm2bids.inference.null.scan import no_null, null_scan
from llm2bids.inference.null.units import UnitDraw, draw_units
from llm2bids.inference.trials import trial_table, volume_trials
from llm2bids.paradigm.design import RunDesign
from llm2bids.recording.events import events_table
from llm2bids.recording.record import record_run
from llm2bids.space.arrange import build_space

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel
    from llm2bids.model.units import Site

MINIMUM_RUNS = 10
"""Null runs below which nothing is measured: a single one ranges from 0.02 to 0.13 at 0.05."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NullRun:
    """One run in which there is nothing to find."""

    participant_label: str
    task: str
    # (n_volumes, n_kept): Values of the units that were kept, mean over the run taken off
    values: npt.NDArray[np.float32]
    trials: npt.NDArray[np.int64]  # (n_volumes,): Trial of each volume
    on: npt.NDArray[np.bool_]  # (n_trials,): Trials of the sham on block
    events: pd.DataFrame  # ``onset``, ``duration`` (seconds), ``trial_type`` of the on trials
    t_r: float  # repetition time in seconds
    prompt_ids: tuple[str, ...]  # prompts in the order of presentation
    confounds: pd.DataFrame | None = None  # covariates, one row for each volume


@dataclass(frozen=True, kw_only=True, eq=False)
class NullSource:
    """Where null runs come from."""

    n_runs: int  # runs that there are
    participants: tuple[str, ...]  # participant of each run
    draw: UnitDraw  # units that are kept of them
    runs: Callable[[], Iterator[NullRun]] = field(repr=False)  # gives the runs one after the other
    about: Mapping[str, Any]  # model, design, seed: what the measured rates hold for


def dataset_source(
    dataset: Dataset, *, n_units: int, seed: int, confounds: Sequence[str] = ()
) -> NullSource:
    """Take the runs of a dataset that was recorded with a null design."""
    checked_confounds(confounds, recorded=True)
    name = str(dataset.path)
    checked_runs(len(dataset.runs), name=name)
    participants = tuple(run.participant_label for run in dataset.runs)
    if len(set(participants)) < 2:
        raise InferenceError(
            f"{name}: found one participant (sub-{participants[0]}); a second level needs several. "
            "Record more with `llm2bids record --paradigm null --participants 11`"
        )
    conditions = dict(zip(dataset.prompts["prompt_id"], dataset.prompts["condition"], strict=True))
    for run in dataset.runs:
        _check_null(dataset, run, conditions)
    draw = draw_units(dataset.space, n_units, seed=seed)
    first = trial_table(*_transcript(dataset, dataset.runs[0]))
    settings = dataset.settings
    return NullSource(
        n_runs=len(dataset.runs),
        participants=participants,
        draw=draw,
        runs=lambda: (_read(dataset, run, draw, confounds) for run in dataset.runs),
        about={
            "source": "dataset",
            "model": settings.get("model"),
            "weights_sha256": settings.get("weights_sha256"),
            "paradigm": settings.get("paradigm"),
            "prompts_on": int((first["trial_type"] != "").sum()),
            "prompts_off": int((first["trial_type"] == "").sum()),
            "tokens_per_prompt": settings.get("tokens_per_prompt"),
            "sites": len(dataset.space.sites),
            "recording_seed": settings.get("seed"),
            "shared_prompts": bool(settings.get("allow_shared_prompts")),
            "confounds": list(confounds),
        },
    )


def model_source(
    loaded: "LoadedModel",
    sites: Sequence["Site"],
    *,
    n_runs: int,
    n_units: int,
    seed: int,
    paradigm: str | Path = "null",
    prompts_per_block: int | None = None,
    tokens_per_prompt: int | None = None,
    batch_size: int | None = None,
    on_token: Callable[[int], None] | None = None,
    confounds: Sequence[str] = (),
) -> NullSource:
    """Record null runs and keep nothing but the values of the chosen units.

    No prompt comes twice, so every run counts as a participant of its own. There is no
    calibration scan: all statistics are the same on any scale of a unit.
    """
    checked_runs(n_runs, name="--runs")
    columns = checked_confounds(confounds, recorded=False)
    scan = null_scan(
        paradigm,
        n_runs=n_runs,
        seed=seed,
        prompts_per_block=prompts_per_block,
        tokens_per_prompt=tokens_per_prompt,
    )
    space = build_space(
        sites,
        label=loaded.label,
        model_name=loaded.name,
        weights_sha256=loaded.weights_sha256,
    )
    draw = draw_units(space, n_units, seed=seed)
    labels = tuple(f"{one.participant_label}{one.task}" for one in scan.designs)

    def runs() -> Iterator[NullRun]:
        buffer = None
        for design in scan.designs:
            recording = record_run(
                loaded, design, sites, batch_size=batch_size, on_token=on_token, out=buffer
            )
            buffer = recording.values
            told = null_confounds(recording.tokens, design.n_volumes, columns)
            yield _of_design(design, recording.values, draw, scan.t_r, told)

    kinds = [trial.trial_type for trial in scan.designs[0].trials]
    return NullSource(
        n_runs=n_runs,
        participants=labels,
        draw=draw,
        runs=runs,
        about={
            "source": "model",
            "model": loaded.name,
            "weights_sha256": loaded.weights_sha256,
            "paradigm": scan.paradigm.name,
            "prompts_on": len(kinds) - kinds.count(None),
            "prompts_off": kinds.count(None),
            "tokens_per_prompt": scan.paradigm.tokens_per_prompt,
            "sites": len(sites),
            "recording_seed": seed,
            "shared_prompts": False,
            "confounds": list(confounds),
        },
    )


def checked_runs(n_runs: int, *, name: str) -> int:
    """Return a number of runs if rates can be measured over them.

    Examples
    --------
    >>> checked_runs(60, name="--runs")
    60
    """
    if n_runs < MINIMUM_RUNS:
        raise InferenceError(
            f"{name}: found {n_runs} null runs, expected at least {MINIMUM_RUNS}, and 60 for a "
            "verdict: units of a run are correlated, so a single run says little. Record more: "
            "--participants with `llm2bids record`, --runs with `llm2bids null`"
        )
    return n_runs


def _of_design(
    design: RunDesign,
    values: npt.NDArray[np.float32],
    draw: UnitDraw,
    t_r: float,
    confounds: pd.DataFrame | None,
) -> NullRun:
    return NullRun(
        participant_label=f"{design.participant_label}{design.task}",
        task=design.task,
        values=_centred(values, draw),
        trials=np.repeat(np.arange(len(design.trials)), design.tokens_per_prompt),
        on=np.array([trial.trial_type is not None for trial in design.trials]),
        events=_one_kind(events_table(design, t_r)),
        t_r=t_r,
        prompt_ids=tuple(trial.prompt.prompt_id for trial in design.trials),
        confounds=confounds,
    )


def _read(dataset: Dataset, run: Run, draw: UnitDraw, confounds: Sequence[str]) -> NullRun:
    table, _ = load_confounds(run.preproc, confounds)
    transcript, n_volumes = _transcript(dataset, run)
    trials = trial_table(transcript, n_volumes)
    return NullRun(
        participant_label=run.participant_label,
        task=run.task,
        values=_centred(dataset.values(run), draw),
        trials=volume_trials(transcript, n_volumes),
        on=(trials["trial_type"] != "").to_numpy(dtype=np.bool_),
        events=_one_kind(dataset.events(run)),
        t_r=dataset.t_r(run),
        prompt_ids=tuple(trials["prompt_id"]),
        confounds=None if table.empty else table,
    )


def _transcript(dataset: Dataset, run: Run) -> tuple[pd.DataFrame, int]:
    return dataset.transcript(run), int(dataset.load_run(run).shape[3])


def _check_null(dataset: Dataset, run: Run, conditions: Mapping[str, str]) -> None:
    trials = trial_table(*_transcript(dataset, run))
    shown = trials["prompt_id"].map(conditions).fillna("(no bank)")
    on, off = set(shown[trials["trial_type"] != ""]), set(shown[trials["trial_type"] == ""])
    if on != off or len(on) != 1:
        raise no_null(f"{dataset.path}, {run.name}", run.task, on, off)


def _one_kind(events: pd.DataFrame) -> pd.DataFrame:
    """Give all on trials one trial type: the sham block against the rest."""
    return events.assign(trial_type="sham")


def _centred(values: npt.NDArray[np.float32], draw: UnitDraw) -> npt.NDArray[np.float32]:
    kept = values[:, draw.kept]
    kept -= kept.mean(axis=0)
    return kept
