"""The derivative: a run under the names that first-level tools look for."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.confounds import centre_name, confounds_table, independent_columns
from llm2bids.dataset.layout import (
    DERIVATIVE,
    RunNames,
    derived_anatomy,
    raw_anatomy,
    sidecar,
    template_file,
)
from llm2bids.dataset.sidecar import image_json
from llm2bids.dataset.static_files import fill_json
from llm2bids.dataset.transcript import transcript_table, write_transcript
from llm2bids.dataset.volumes import write_volume
from llm2bids.recording.record import Recording
from llm2bids.space.space import Space
from llm2bids.store.commit import Staging
from llm2bids.store.tables import write_table


def write_derived_run(
    stage: Staging,
    root: Path,
    names: RunNames,
    recording: Recording,
    *,
    hrf: Mapping[str, Any] | None,
    bold: Path,
    mean_counts: npt.NDArray[np.float64],
    space: Space,
    fingerprint: str,
    window: tuple[float, float],
    t_r: float,
    inherited: Mapping[str, Any],
) -> None:
    """Stage the derivative's files of a run; mean_counts (n_z, n_y, n_x), in file order."""
    task = {"TaskName": recording.design.task}
    timing = {"RepetitionTime": t_r, "StartTime": recording.start_time}
    source = {"Sources": [f"bids:raw:{names.bold}"]}
    stage.path(names.preproc, merged=True)  # the raw series by another name: gone with it
    stage.link(names.preproc, bold)
    _sidecar(
        stage,
        names.preproc,
        image_json(
            space,
            "The raw series itself: nothing was filtered, moved or smoothed.",
            fingerprint=fingerprint,
            **timing,
            SkullStripped=True,
            **source,
            **inherited,
        ),
    )
    if hrf is not None:
        description = "The raw series convolved in time with a haemodynamic response."
        about_hrf = image_json(
            space, description, fingerprint=fingerprint, **timing, SkullStripped=True,
            **source, **inherited, **hrf,
        )  # fmt: skip
        _sidecar(stage, names.hrf, about_hrf)
    grey = template_file(space.label, "mask", label="GM")
    stage.link(names.mask, root / grey)
    about_mask = image_json(
        space, "Voxels with a unit.", fingerprint=space.fingerprint(), Type="Brain",
        **task, Sources=[f"bids::{grey.relative_to(DERIVATIVE)}"],
    )  # fmt: skip
    _sidecar(stage, names.mask, about_mask)
    reference = np.rint(np.clip(mean_counts, -32768, 32767)).astype(np.int16).T
    write_volume(
        stage.path(names.boldref), reference, space, fingerprint=fingerprint, window=window
    )
    about_reference = image_json(
        space, "Mean of the series over time.", fingerprint=fingerprint, SkullStripped=True,
        **task, **source,
    )  # fmt: skip
    _sidecar(stage, names.boldref, about_reference)
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
    _sidecar(stage, names.confounds, {"Description": "Confounds of the run.", **task, **metadata})
    write_transcript(stage.path(names.transcript), transcript_table(recording.tokens, t_r=t_r))
    tokens = fill_json(f"derivative/{kind}tokens.json", {})
    what = f"Every {'token that was read' if kind else 'generated token'}."
    _sidecar(stage, names.transcript, {"Description": what, **task, **tokens})


def write_anatomy(stage: Staging, root: Path, participant_label: str, space: Space) -> None:
    """Stage a participant's anatomy, raw and derived: links to the template's."""
    anatomy = template_file(space.label, "T1w")
    brain = template_file(space.label, "mask", desc="brain")
    raw = raw_anatomy(participant_label)
    stage.link(raw, root / anatomy)
    fingerprint = space.fingerprint()
    preproc = derived_anatomy(participant_label, space.label, desc="preproc", suffix="T1w")
    stage.link(preproc, root / anatomy)
    metadata = image_json(
        space, "Norm of the weights that produce each unit: the raw image itself.",
        fingerprint=fingerprint, SkullStripped=True, Sources=[f"bids:raw:{raw}"],
    )  # fmt: skip
    _sidecar(stage, preproc, metadata)
    mask = derived_anatomy(participant_label, space.label, desc="brain", suffix="mask")
    stage.link(mask, root / brain)
    about_mask = image_json(
        space, "The brain: voxels with a unit, and white matter between them.",
        fingerprint=fingerprint, Type="Brain",
        Sources=[f"bids::{brain.relative_to(DERIVATIVE)}"],
    )  # fmt: skip
    _sidecar(stage, mask, about_mask)


def _sidecar(stage: Staging, place: PurePosixPath, metadata: Mapping[str, Any]) -> None:
    stage.json(sidecar(place), metadata)
