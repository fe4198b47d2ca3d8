"""One run on its way into a dataset: checked against it, then made, raw and derived."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import cpu_count

from llm2bids.dataset.confounds import centre_name, confounds_table, independent_columns
from llm2bids.dataset.first_files import (
    write_participant_sidecars,
    write_sessions,
    write_task_files,
)
from llm2bids.dataset.hrf import convolve
from llm2bids.dataset.layout import (
    DERIVATIVE,
    INTACT,
    RunNames,
    derived_anatomy,
    raw_anatomy,
    sidecar,
    template_file,
)
from llm2bids.dataset.participants import with_participant
from llm2bids.dataset.read import Dataset
from llm2bids.dataset.resume import participants_to_extend, stage_participants
from llm2bids.dataset.sidecar import bold_json, fill_json, image_json, task_bold_json
from llm2bids.dataset.transcript import stim_series, transcript_table, write_transcript
from llm2bids.dataset.volumes import volume_writer, write_image
from llm2bids.exceptions import DatasetError
from llm2bids.paradigm.design import RunDesign
from llm2bids.recording.events import events_table
from llm2bids.recording.record import Recording
from llm2bids.space.header import bold_window, image_header
from llm2bids.space.image import EncodingCounts, SeriesTotal, encode_blocks
from llm2bids.store.commit import Staging
from llm2bids.store.tables import write_table

_MOST_THREADS = 16
"""Threads that encode and compress: more wait for what one does (sum, hash, file)."""


def run_name(design: RunDesign) -> str:
    """Name a run in messages, e.g. ``sub-01 task-pathology``."""
    run = "" if design.run is None else f" run-{design.run}"
    session = "" if design.session is None else f" ses-{design.session}"
    return f"sub-{design.participant_label}{session} task-{design.task}{run}"


def check_run(dataset: Dataset, recording: Recording, *, t_r: float) -> None:
    """Refuse a run that does not fit the dataset."""
    design, space = recording.design, dataset.space
    name = run_name(design)
    known = dataset.settings["t_r"]
    if not t_r > 0 or (known is not None and known != t_r):
        raise DatasetError(
            f"{name}: repetition time {t_r}, the dataset has {known}; use the same, above 0"
        )
    if dataset.settings["hrf_model"]:
        raise DatasetError(
            f"{dataset.path}: its raw series are convolved with a haemodynamic response, as an "
            "earlier version did; record into another folder"
        )
    tasks = [task.label for task in dataset.paradigm.tasks]
    if design.task not in tasks:
        raise DatasetError(
            f"{name}: the dataset has the tasks {', '.join(tasks)}; use its paradigm"
        )
    if recording.sites != space.sites:
        raise DatasetError(
            f"{name}: the {len(recording.sites)} recorded sites are not the {len(space.sites)} "
            "sites of the dataset's space; record the same sites in the same order"
        )
    if len(recording.values) != design.n_volumes:
        raise DatasetError(
            f"{name}: {len(recording.values)} rows of values, the design has "
            f"{design.n_volumes} volumes; record the run again"
        )


def writing_threads() -> int:
    """Count the threads that encode and compress one series."""
    return min(int(cpu_count()), _MOST_THREADS)


def stage_run(stage: Staging, dataset: Dataset, recording: Recording, *, t_r: float) -> None:
    """Stage all files of a run, raw and derived, and its participant's where they are new."""
    design = recording.design
    names = dataset.names(design)
    task = next(task for task in dataset.paradigm.tasks if task.label == design.task)
    events = recording.events
    if events is None:
        events = events_table(design, t_r)
    else:  # the words' own types
        kinds = events["trial_type"].unique()
        task = replace(task, conditions=tuple((str(kind), "story") for kind in kinds))
    counts, mean_counts = _write_series(
        stage, names.bold, dataset, recording, recording.values, t_r=t_r
    )
    metadata = bold_json(
        recording,
        t_r=t_r,
        space=dataset.space,
        counts_per_sd=dataset.calibration.counts_per_sd,
        fingerprint=dataset.fingerprint,
        settings=dataset.settings,
        counts=counts,
    )
    stage.json(names.bold_json, metadata)
    write_table(stage.path(names.events), events)
    stage.path(names.stim).write_bytes(stim_series(recording.tokens, design.n_volumes))
    write_task_files(stage, task, t_r=t_r, fields=dataset.fields)
    _stage_derived(
        stage,
        dataset,
        names,
        recording,
        mean_counts=mean_counts,
        hrf=_write_hrf(stage, names.hrf, dataset, recording, t_r=t_r),
        inherited=task_bold_json(task.label, task.conditions, dataset.fields),
        t_r=t_r,
    )
    stage_participant(stage, dataset, design.participant_label)


def _stage_derived(
    stage: Staging,
    dataset: Dataset,
    names: RunNames,
    recording: Recording,
    *,
    mean_counts: npt.NDArray[np.float64],
    hrf: Mapping[str, Any] | None,
    inherited: Mapping[str, Any],
    t_r: float,
) -> None:
    """Stage the derivative's files of a run; mean_counts (n_z, n_y, n_x), in file order."""
    space, fingerprint = dataset.space, dataset.fingerprint
    task = {"TaskName": recording.design.task}
    source = {"SkullStripped": True, "Sources": [f"bids:raw:{names.bold}"]}
    stage.path(names.preproc, merged=True)  # the raw series by another name: gone with it
    stage.link(names.preproc, stage.path(names.bold))
    series: dict[PurePosixPath, tuple[str, Mapping[str, Any]]] = {
        names.preproc: ("itself: nothing was filtered, moved or smoothed.", {})
    }
    if hrf is not None:
        series[names.hrf] = ("convolved in time with a haemodynamic response.", hrf)
    for file, (what, entries) in series.items():
        metadata = image_json(
            space,
            f"The raw series {what}",
            fingerprint=fingerprint,
            RepetitionTime=t_r,
            StartTime=recording.start_time,
            **source,
            **inherited,
            **entries,
        )
        stage.json(sidecar(file), metadata)
    grey = template_file(space.label, "mask", label="GM")
    _link_mask(stage, names.mask, dataset, grey, "Voxels with a unit.", **task)
    reference = np.rint(np.clip(mean_counts, -32768, 32767)).astype(np.int16).T
    write_image(
        stage,
        names.boldref,
        reference,
        space,
        "Mean of the series over time.",
        fingerprint=fingerprint,
        window=bold_window(dataset.calibration),
        **{"SkullStripped": True, **task, **source},
    )
    _write_tables(stage, names, recording, t_r=t_r)


def _write_tables(stage: Staging, names: RunNames, recording: Recording, *, t_r: float) -> None:
    per_prompt = recording.design.tokens_per_prompt
    task = {"TaskName": recording.design.task}
    if recording.confounds is None:
        confounds = confounds_table(recording.tokens, tokens_per_prompt=per_prompt)
    else:
        confounds = independent_columns(recording.confounds)
    write_table(stage.path(names.confounds), confounds)
    kind = "" if recording.confounds is None else "story_"
    known = fill_json(f"derivative/{kind}confounds.json", {"centre": centre_name(per_prompt)})
    metadata = {name: known[name] for name in map(str, confounds)}
    metadata = {"Description": "Confounds of the run.", **task, **metadata}
    stage.json(sidecar(names.confounds), metadata)
    write_transcript(stage.path(names.transcript), transcript_table(recording.tokens, t_r=t_r))
    tokens = fill_json(f"derivative/{kind}tokens.json", {})
    what = f"Every {'token that was read' if kind else 'generated token'}."
    metadata = {"Description": what, **task, **tokens}
    stage.json(sidecar(names.transcript), metadata)


def stage_participant(stage: Staging, dataset: Dataset, label: str) -> None:
    """Stage what a participant has beside its runs, where it is new."""
    session = INTACT if dataset.settings.get("edit") else None
    if not (dataset.path / raw_anatomy(label, session)).exists():
        _write_anatomy(stage, dataset, label, session)
        if session is not None:
            write_sessions(stage, label, str(dataset.settings["edit"]["label"]))
    write_participant_sidecars(stage, dataset.fields)
    table = participants_to_extend(dataset.path, dataset.settings, overwrite=stage.overwrite)
    if f"sub-{label}" not in set(table["participant_id"]):
        stage_participants(stage, with_participant(table, label, dataset.settings))


def _write_anatomy(
    stage: Staging, dataset: Dataset, participant_label: str, session: str | None
) -> None:
    """Stage a participant's anatomy, raw and derived: links to the template's."""
    space, root = dataset.space, dataset.path
    anatomy = template_file(space.label, "T1w")
    raw = raw_anatomy(participant_label, session)
    stage.link(raw, root / anatomy)
    preproc = derived_anatomy(
        participant_label, space.label, desc="preproc", suffix="T1w", session=session
    )
    stage.link(preproc, root / anatomy)
    metadata = image_json(
        space,
        "Norm of the weights that produce each unit: the raw image itself.",
        SkullStripped=True,
        Sources=[f"bids:raw:{raw}"],
    )
    stage.json(sidecar(preproc), metadata)
    mask = derived_anatomy(
        participant_label, space.label, desc="brain", suffix="mask", session=session
    )
    brain = template_file(space.label, "mask", desc="brain")
    text = "The brain: voxels with a unit, and white matter between them."
    _link_mask(stage, mask, dataset, brain, text)


def _link_mask(
    stage: Staging,
    file: PurePosixPath,
    dataset: Dataset,
    source: PurePosixPath,
    description: str,
    **entries: Any,
) -> None:
    """Stage a mask: a link to that of the template, and its sidecar."""
    stage.link(file, dataset.path / source)
    sources = [f"bids::{source.relative_to(DERIVATIVE)}"]
    metadata = image_json(dataset.space, description, Type="Brain", **entries, Sources=sources)
    stage.json(sidecar(file), metadata)


def _write_hrf(
    stage: Staging, file: PurePosixPath, dataset: Dataset, recording: Recording, *, t_r: float
) -> Mapping[str, Any] | None:
    """Write the series with a haemodynamic response where that was asked for; give its entries."""
    response = dataset.settings.get("hrf_series")
    if response is None:
        return None
    values = convolve(recording.values, t_r, response, baseline=dataset.calibration.mean)
    counts, _ = _write_series(stage, file, dataset, recording, values, t_r=t_r)
    return {"HaemodynamicResponse": response, "NumberOfClippedValues": counts.clipped}


def _write_series(
    stage: Staging,
    file: PurePosixPath,
    dataset: Dataset,
    recording: Recording,
    values: npt.NDArray[np.float32],
    *,
    t_r: float,
) -> tuple[EncodingCounts, npt.NDArray[np.float64]]:
    """Write a series; give what encoding could not keep, and the mean over time."""
    space, calibration = dataset.space, dataset.calibration
    dtype = dataset.settings["volume_dtype"]
    n_volumes = recording.design.n_volumes
    header = image_header(
        space,
        fingerprint=dataset.fingerprint,
        dtype=dtype,
        n_volumes=n_volumes,
        t_r=t_r,
        window=bold_window(calibration),
    )
    total = SeriesTotal(space)
    clipped, constant = 0, 0
    n_jobs = writing_threads()
    blocks = encode_blocks(
        values, space, calibration, seed=recording.design.seed, dtype=dtype, n_jobs=n_jobs,
        total=total,
    )  # fmt: skip
    with volume_writer(stage.path(file), header, n_jobs=n_jobs) as writer:
        for volumes, counts in blocks:
            writer.write(volumes.T)
            clipped += counts.clipped
            constant = counts.constant
    stage.hashed(file, writer.sha256)
    return EncodingCounts(clipped=clipped, constant=constant), total.mean()
