"""Fitting and writing the first level of one participant and task."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.dataset.layout import Run, sidecar
from llm2bids.exceptions import InferenceError, Llm2bidsError
from llm2bids.inference.first_level import STATS, TOKEN_CAUTION
from llm2bids.inference.inputs import Inputs, open_sessions
from llm2bids.inference.options import AnalysisOptions, Memory, ParticipantSelection
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.runs import RunData, TaskFit, fit_task
from llm2bids.inference.statmap import MapWriter, map_entries, map_path, write_json
from llm2bids.store.tables import write_table

_PROMPT_AR_CAUTION = (
    "With few prompts an autoregressive noise model is liberal: null data exceed nominal "
    "0.05 / 0.01 / 0.001 in 0.076 / 0.022 / 0.004 of units (AR(1) on prompt means), and 53 to 60 % "
    "of null runs have a detection after correction; noise_model 'ols' keeps the nominal rates."
)
"""What a prompt-level map with an autoregressive noise model says about its error rate."""

UNITS = {
    "effect": "calibration standard deviations",
    "variance": "squared calibration standard deviations",
    "t": "arbitrary",
    "z": "arbitrary",
}
"""Units of each map: an effect of 1 is one standard deviation of the unit at rest."""


def caution(options: AnalysisOptions) -> str | None:
    """Say the measured inflation of a model that does not keep its nominal error rate."""
    if options.unit_of_analysis == "token":
        return TOKEN_CAUTION
    return None if options.noise == "ols" else _PROMPT_AR_CAUTION


Fit = tuple[tuple[str, str], list[Path], str | None]
"""Participant and task, the files that were written, and why not more."""


def choose_runs(
    sessions: Sequence[Inputs], selection: ParticipantSelection
) -> list[tuple[Inputs, tuple[str, str], Sequence[Run]]]:
    """Choose the runs of each session, participant and task."""
    labels = {"participant_label": selection.participant_label, "task": selection.task}
    return [
        (session, key, runs)
        for session in sessions
        for key, runs in session.choose(**labels).items()
    ]


def fits_on_cluster(
    bids_dir: Path,
    out_dir: Path,
    selection: ParticipantSelection,
    options: AnalysisOptions,
    memory: Memory,
    participants: Sequence[str],
    n_cpus: int,
) -> Iterator[Fit]:
    """Let workers of a cluster fit participants: one each, or `n_cpus` where that is more."""
    from llm2bids.scan.workers import cluster_pool, run_tasks

    n_workers = n_cpus if n_cpus > 1 else len(participants)
    tasks = [
        (bids_dir, out_dir, replace(selection, participant_label=(label,)), options, memory)
        for label in participants
    ]
    with cluster_pool(str(selection.cluster), n_workers) as pool:
        for fits in run_tasks(pool, _fit_participant, tasks):
            yield from fits


def _fit_participant(
    bids_dir: Path,
    out_dir: Path,
    selection: ParticipantSelection,
    options: AnalysisOptions,
    memory: Memory,
) -> list[Fit]:
    """Fit the runs of one participant, in a process that opens the dataset by itself."""
    sessions = open_sessions(bids_dir, selection, use=options.use)
    return [
        fit_and_write(*chosen, options, out_dir, memory)
        for chosen in choose_runs(sessions, selection)
    ]


def fit_and_write(
    inputs: Inputs,
    key: tuple[str, str],
    runs: Sequence[Run],
    options: AnalysisOptions,
    out_dir: Path,
    memory: Memory,
    n_processes: int = 1,
) -> Fit:
    """Fit and write one participant and task; give the reason where that is not possible."""
    stale = out_dir / map_path("*", sub=key[0], ses=inputs.session, task=key[1])
    for path in stale.parent.glob(stale.name):  # what an earlier call wrote
        path.unlink()
    try:
        if not runs:
            raise InferenceError(
                "the run is missing, other participants have it; record the dataset again to add it"
            )
        loaded = [inputs.load(run) for run in runs]
        mem_gb = 1.0 if memory.mem_gb is None else memory.mem_gb / n_processes
        model = fit_task(loaded, options, mem_gb=mem_gb, work_dir=memory.folder)
        files = _write_task(out_dir, model, loaded, options, inputs)
    except Llm2bidsError as error:
        session = "" if inputs.session is None else f"ses-{inputs.session}: "
        return key, [], f"{session}{error}"
    return key, files, None


def task_provenance(runs: Sequence[RunData]) -> Provenance:
    """Say what the maps of one participant and task are made from."""
    return Provenance.union(Provenance.of_run(data.run, data.trials["prompt_id"]) for data in runs)


def _write_task(
    out_dir: Path, model: TaskFit, runs: Sequence[RunData], options: AnalysisOptions, inputs: Inputs
) -> list[Path]:
    """Write the maps, mask and design matrices of one participant and task."""
    run, fit, sentence = runs[0].run, model.fit, caution(options)
    derivative = inputs.dataset.derivative
    names = {"sub": run.participant_label, "ses": run.session, "task": run.task}
    metadata = {
        **({} if sentence is None else {"Caution": sentence}),
        "Sources": [
            f"bids:llm2bids:{data.run.preproc.relative_to(derivative).as_posix()}" for data in runs
        ],
        "TaskLabel": run.task,
        "UnitOfAnalysis": options.unit_of_analysis,
        "ModelParameters": options.parameters(),
        "DegreesOfFreedom": fit.dof,
        "ConstantUnits": int(fit.constant.sum()),
        **map_entries(inputs.space, inputs.fingerprint, task_provenance(runs)),
    }
    writer = MapWriter(
        out_dir=out_dir,
        space=inputs.space,
        voxels=inputs.voxels,
        names={**names, "space": inputs.space.label},
        metadata=metadata,
    )
    files = []
    for label, expression in model.contrasts.items():
        contrast = {"ContrastLabel": label, "Contrast": expression}
        for stat in STATS:
            description = f"{stat} of the contrast {expression!r} of one participant."
            more = {**contrast, "StatisticType": stat, "Units": UNITS[stat]}
            values = fit.maps[label, stat]
            files.append(writer.write(values, description, more=more, contrast=label, stat=stat))
    for stat, description, values in (
        ("rsquared", "Share of variance that the design explains.", fit.r_squared),
        ("residualar1", "Lag-1 autocorrelation of the residuals.", fit.residual_ar1),
    ):
        more = {"Quantiles": _quantiles(values)}
        files.append(writer.write(values, description, more=more, stat=stat))
    modelled, more = np.ones(len(inputs.voxels), dtype=np.bool_), {"Type": "Brain"}
    description = "Units that were modelled."
    files.append(writer.write(modelled, description, more=more, suffix="mask", desc="brain"))
    return files + [
        _write_design(out_dir, data, design, options)
        for data, design in zip(runs, model.designs, strict=True)
    ]


def _quantiles(values: npt.NDArray[np.float32]) -> dict[str, float]:
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    quantiles = np.quantile(values, shares) if values.size else np.zeros(len(shares))
    return {f"{share}": round(float(q), 4) for share, q in zip(shares, quantiles, strict=True)}


def _write_design(
    out_dir: Path, data: RunData, design: pd.DataFrame, options: AnalysisOptions
) -> Path:
    run = data.run
    names = {"sub": run.participant_label, "ses": run.session, "task": run.task, "run": run.run}
    path = out_dir / map_path("design.tsv", **names)
    write_table(path, design)
    rows = (
        {"Rows": "prompts", "PromptIds": data.trials["prompt_id"].tolist()}
        if options.unit_of_analysis == "prompt"
        else {"Rows": "volumes", "RepetitionTime": data.t_r}
    )
    metadata = {
        "Description": "Design matrix.",
        "Columns": [str(column) for column in design.columns],
        **rows,
        "ModelParameters": options.parameters(),
    }
    write_json(sidecar(path), metadata)
    return path
