"""One run on its way into a dataset, raw and derived, and what its participant has beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import cpu_count
from scipy.signal import oaconvolve

from llm2bids.dataset.first_files import (
    write_participant_sidecars,
    write_sessions,
    write_task_files,
)
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
from llm2bids.dataset.volumes import write_image, write_volumes
from llm2bids.paradigm.design import RunDesign
from llm2bids.recording.events import events_table
from llm2bids.recording.record import Recording
from llm2bids.space.header import bold_window, image_header
from llm2bids.space.image import SeriesEncoder
from llm2bids.store.commit import Staging
from llm2bids.store.tables import write_table

# Threads that encode and compress: more wait for what one does (sum, hash, file).
_MOST_THREADS = 16

_UNITS_AT_A_TIME = 16384

_LENGTH = 36.0  # seconds after which a response of 32 s has died away


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
    design, fields = recording.design, dataset.fields
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
    write_task_files(stage, task, t_r=t_r, fields=fields)
    run = _StagedRun(stage, dataset, recording, names, t_r)
    run.images(task_bold_json(task.label, task.conditions, fields))
    run.tables()
    stage_participant(stage, dataset, design.participant_label)


@dataclass(frozen=True)
class _StagedRun:
    """A run on its way to the disk."""

    stage: Staging
    dataset: Dataset
    recording: Recording
    names: RunNames
    t_r: float

    def images(self, inherited: Mapping[str, Any]) -> None:
        """Stage the series, raw and derived, the mask of the units, and the mean over time."""
        stage, dataset, recording, names = self.stage, self.dataset, self.recording, self.names
        encoder = self._write_series(names.bold, recording.values)
        stage.json(names.bold_json, bold_json(dataset, recording, encoder, t_r=self.t_r))
        stage.path(names.preproc, merged=True)  # the raw series by another name: gone with it
        stage.link(names.preproc, stage.path(names.bold))
        task, source = {"TaskName": recording.design.task}, {"Sources": [uri(names.bold)]}
        common: dict[str, Any] = {"RepetitionTime": self.t_r, "StartTime": recording.start_time}
        common |= {"SkullStripped": True, **source, **inherited}
        self._derived_json(names.preproc, "itself: nothing was filtered, moved or smoothed", common)
        if response := dataset.settings.get("hrf_series"):
            baseline = dataset.calibration.mean
            values = convolve(recording.values, self.t_r, response, baseline=baseline)
            clipped = self._write_series(names.hrf, values).clipped
            common |= {"HaemodynamicResponse": response, "NumberOfClippedValues": clipped}
            self._derived_json(names.hrf, "convolved in time with a haemodynamic response", common)
        grey = template_file(dataset.space.label, "mask", label="GM")
        mask = {"Type": "Brain", **task, "Sources": [uri(grey)]}
        _link_image(stage, dataset, names.mask, grey, "Voxels with a unit.", **mask)
        write_image(
            stage,
            names.boldref,
            np.rint(np.clip(encoder.mean(), -32768, 32767)).astype(np.int16).T,
            dataset.space,
            "Mean of the series over time.",
            fingerprint=dataset.fingerprint,
            window=bold_window(dataset.calibration),
            **{"SkullStripped": True, **task, **source},
        )

    def _derived_json(self, file: PurePosixPath, what: str, entries: Mapping[str, Any]) -> None:
        """Stage the sidecar of a series of the derivative."""
        space, fingerprint = self.dataset.space, self.dataset.fingerprint
        metadata = image_json(space, f"The raw series {what}.", fingerprint=fingerprint, **entries)
        self.stage.json(sidecar(file), metadata)

    def _write_series(self, file: PurePosixPath, values: npt.NDArray[np.float32]) -> SeriesEncoder:
        """Write a series of values (n_volumes, n_units)."""
        space, calibration = self.dataset.space, self.dataset.calibration
        design, dtype = self.recording.design, self.dataset.settings["volume_dtype"]
        header = image_header(
            space,
            fingerprint=self.dataset.fingerprint,
            dtype=dtype,
            n_volumes=design.n_volumes,
            t_r=self.t_r,
            window=bold_window(calibration),
        )
        n_jobs = writing_threads()
        encoder = SeriesEncoder(values, space, calibration, seed=design.seed, dtype=dtype)
        blocks = (volumes.T for volumes in encoder.blocks(n_jobs=n_jobs))
        digest = write_volumes(self.stage.path(file), header, blocks, n_jobs=n_jobs)
        self.stage.hashed(file, digest)
        return encoder

    def tables(self) -> None:
        """Stage confounds and transcript."""
        stage, recording, names = self.stage, self.recording, self.names
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
        table = transcript_table(recording.tokens, t_r=self.t_r)
        write_transcript(stage.path(names.transcript), table)
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


def convolve(
    values: npt.NDArray[np.float32],
    t_r: float,
    hrf_model: str,
    *,
    baseline: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Convolve values (n_tokens, n_units) along time; baseline (n_units,)."""
    # Glover 1999, NeuroImage 9:416, and SPM's difference of gamma functions, as in nilearn
    kernel = _response_to_one_volume(t_r, hrf_model)
    convolved = np.empty_like(values)
    for start in range(0, values.shape[1], _UNITS_AT_A_TIME):
        part = slice(start, start + _UNITS_AT_A_TIME)
        deviation = values[:, part] - baseline[part]
        convolved[:, part] = oaconvolve(deviation, kernel, axes=0)[: len(values)] + baseline[part]
    return convolved


def _response_to_one_volume(t_r: float, hrf_model: str) -> npt.NDArray[np.float32]:
    """Sample the response to activity of one volume where nilearn samples its regressors."""
    from nilearn.glm.first_level import compute_regressor  # takes seconds, and few need it

    frame_times = np.arange(0.0, _LENGTH, t_r)
    volume = np.array([[0.0], [t_r], [1.0]])
    regressor, _ = compute_regressor(volume, hrf_model, frame_times)
    return np.asarray(regressor / regressor.sum(), dtype=np.float32)
