"""One run on its way into a dataset: checked against it, then made, raw and derived."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import cpu_count

from llm2bids.dataset.first_files import (
    write_participant_sidecars,
    write_sessions,
    write_task_files,
)
from llm2bids.dataset.hrf import convolve
from llm2bids.dataset.layout import (
    INTACT,
    AnatomyNames,
    RunNames,
    anatomy_names,
    sidecar,
    template_file,
    uri,
)
from llm2bids.dataset.participants import with_participant
from llm2bids.dataset.read import Dataset
from llm2bids.dataset.resume import participants_to_extend, stage_participants
from llm2bids.dataset.sidecar import bold_json, fill_json, image_json, task_bold_json
from llm2bids.dataset.transcript import (
    centre_name,
    confounds_table,
    independent_columns,
    stim_series,
    transcript_table,
    write_transcript,
)
from llm2bids.dataset.volumes import volume_writer, write_image
from llm2bids.paradigm.design import RunDesign
from llm2bids.recording.events import events_table
from llm2bids.recording.record import Recording
from llm2bids.space.header import bold_window, image_header
from llm2bids.space.image import SeriesEncoder
from llm2bids.store.commit import Staging
from llm2bids.store.tables import write_table

_MOST_THREADS = 16
"""Threads that encode and compress: more wait for what one does (sum, hash, file)."""


def run_name(design: RunDesign) -> str:
    """Name a run in messages, e.g. ``sub-01 task-pathology``."""
    run = "" if design.run is None else f" run-{design.run}"
    session = "" if design.session is None else f" ses-{design.session}"
    return f"sub-{design.participant_label}{session} task-{design.task}{run}"


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
        kinds = map(str, events["trial_type"].unique())
        task = replace(task, conditions=tuple((kind, "story") for kind in kinds))
    write_table(stage.path(names.events), events)
    stage.path(names.stim).write_bytes(stim_series(recording.tokens, design.n_volumes))
    write_task_files(stage, task, t_r=t_r, fields=dataset.fields)
    inherited = task_bold_json(task.label, task.conditions, dataset.fields)
    _stage_images(stage, dataset, recording, inherited, t_r=t_r)
    _stage_tables(stage, names, recording, t_r=t_r)
    stage_participant(stage, dataset, design.participant_label)


def _stage_images(
    stage: Staging,
    dataset: Dataset,
    recording: Recording,
    inherited: Mapping[str, Any],
    *,
    t_r: float,
) -> None:
    """Stage a run's series, raw and derived, the mask of the units, and the mean over time."""
    space, names = dataset.space, dataset.names(recording.design)
    encoder = _write_series(stage, names.bold, dataset, recording, recording.values, t_r=t_r)
    stage.json(names.bold_json, bold_json(dataset, recording, encoder, t_r=t_r))
    stage.path(names.preproc, merged=True)  # the raw series by another name: gone with it
    stage.link(names.preproc, stage.path(names.bold))
    series: dict[PurePosixPath, tuple[str, Mapping[str, Any]]] = {
        names.preproc: ("itself: nothing was filtered, moved or smoothed.", {})
    }
    if response := dataset.settings.get("hrf_series"):
        values = convolve(recording.values, t_r, response, baseline=dataset.calibration.mean)
        clipped = _write_series(stage, names.hrf, dataset, recording, values, t_r=t_r).clipped
        said = {"HaemodynamicResponse": response, "NumberOfClippedValues": clipped}
        series[names.hrf] = ("convolved in time with a haemodynamic response.", said)
    source = {"Sources": [uri(names.bold)]}
    common: dict[str, Any] = {
        "RepetitionTime": t_r,
        "StartTime": recording.start_time,
        "SkullStripped": True,
        **source,
        **inherited,
    }
    for file, (what, entries) in series.items():
        text = f"The raw series {what}"
        metadata = image_json(space, text, fingerprint=dataset.fingerprint, **common, **entries)
        stage.json(sidecar(file), metadata)
    task = {"TaskName": recording.design.task}
    grey = template_file(space.label, "mask", label="GM")
    mask = {"Type": "Brain", **task, "Sources": [uri(grey)]}
    _link_image(stage, dataset, names.mask, grey, "Voxels with a unit.", **mask)
    write_image(
        stage,
        names.boldref,
        np.rint(np.clip(encoder.mean(), -32768, 32767)).astype(np.int16).T,
        space,
        "Mean of the series over time.",
        fingerprint=dataset.fingerprint,
        window=bold_window(dataset.calibration),
        **{"SkullStripped": True, **task, **source},
    )


def _write_series(
    stage: Staging,
    file: PurePosixPath,
    dataset: Dataset,
    recording: Recording,
    values: npt.NDArray[np.float32],
    *,
    t_r: float,
) -> SeriesEncoder:
    """Write a series of values (n_volumes, n_units)."""
    space, calibration, design = dataset.space, dataset.calibration, recording.design
    dtype = dataset.settings["volume_dtype"]
    header = image_header(
        space,
        fingerprint=dataset.fingerprint,
        dtype=dtype,
        n_volumes=design.n_volumes,
        t_r=t_r,
        window=bold_window(calibration),
    )
    n_jobs = writing_threads()
    encoder = SeriesEncoder(values, space, calibration, seed=design.seed, dtype=dtype)
    with volume_writer(stage.path(file), header, n_jobs=n_jobs) as writer:
        for volumes in encoder.blocks(n_jobs=n_jobs):
            writer.write(volumes.T)
    stage.hashed(file, writer.sha256())
    return encoder


def _stage_tables(stage: Staging, names: RunNames, recording: Recording, *, t_r: float) -> None:
    """Stage a run's confounds and transcript."""
    per_prompt = recording.design.tokens_per_prompt
    task = {"TaskName": recording.design.task}
    if recording.confounds is None:
        kind, what = "", "generated token"
        confounds = confounds_table(recording.tokens, tokens_per_prompt=per_prompt)
    else:
        kind, what = "story_", "token that was read"
        confounds = independent_columns(recording.confounds)
    write_table(stage.path(names.confounds), confounds)
    known = fill_json(f"derivative/{kind}confounds.json", {"centre": centre_name(per_prompt)})
    columns = {name: known[name] for name in map(str, confounds)}
    metadata = {"Description": "Confounds of the run.", **task, **columns}
    stage.json(sidecar(names.confounds), metadata)
    write_transcript(stage.path(names.transcript), transcript_table(recording.tokens, t_r=t_r))
    tokens = fill_json(f"derivative/{kind}tokens.json", {})
    stage.json(sidecar(names.transcript), {"Description": f"Every {what}.", **task, **tokens})


def stage_participant(stage: Staging, dataset: Dataset, label: str) -> None:
    """Stage what a participant has beside its runs, where it is new."""
    session = INTACT if dataset.settings.get("edit") else None
    names = anatomy_names(label, session, dataset.space.label)
    if not (dataset.path / names.t1w).exists():
        _stage_anatomy(stage, dataset, names)
        if session is not None:
            write_sessions(stage, label, str(dataset.settings["edit"]["label"]))
    write_participant_sidecars(stage, dataset.fields)
    table = participants_to_extend(dataset.path, dataset.settings, overwrite=stage.overwrite)
    if f"sub-{label}" not in set(table["participant_id"]):
        stage_participants(stage, with_participant(table, label, dataset.settings))


def _stage_anatomy(stage: Staging, dataset: Dataset, names: AnatomyNames) -> None:
    """Stage a participant's anatomy, raw and derived: links to the template's."""
    anatomy = template_file(dataset.space.label, "T1w")
    brain = template_file(dataset.space.label, "mask", desc="brain")
    stage.link(names.t1w, dataset.path / anatomy)
    _link_image(
        stage,
        dataset,
        names.preproc,
        anatomy,
        "Norm of the weights that produce each unit: the raw image itself.",
        SkullStripped=True,
        Sources=[uri(names.t1w)],
    )
    text = "The brain: voxels with a unit, and white matter between them."
    _link_image(stage, dataset, names.mask, brain, text, Type="Brain", Sources=[uri(brain)])


def _link_image(
    stage: Staging,
    dataset: Dataset,
    file: PurePosixPath,
    source: PurePosixPath,
    description: str,
    **entries: Any,
) -> None:
    """Stage a link to an image of the template, and its sidecar."""
    stage.link(file, dataset.path / source)
    stage.json(sidecar(file), image_json(dataset.space, description, **entries))
