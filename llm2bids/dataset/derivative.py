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
from llm2bids.dataset.volumes import write_image
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
    metadata = image_json(
        space,
        "The raw series itself: nothing was filtered, moved or smoothed.",
        fingerprint=fingerprint,
        **timing,
        SkullStripped=True,
        **source,
        **inherited,
    )
    stage.json(sidecar(names.preproc), metadata)
    _link_mask(
        stage,
        names.mask,
        root,
        template_file(space.label, "mask", label="GM"),
        space,
        "Voxels with a unit.",
        **task,
    )
    if hrf is not None:
        metadata = image_json(
            space,
            "The raw series convolved in time with a haemodynamic response.",
            fingerprint=fingerprint,
            **timing,
            SkullStripped=True,
            **source,
            **inherited,
            **hrf,
        )
        stage.json(sidecar(names.hrf), metadata)
    reference = np.rint(np.clip(mean_counts, -32768, 32767)).astype(np.int16).T
    write_image(
        stage,
        names.boldref,
        reference,
        space,
        "Mean of the series over time.",
        fingerprint=fingerprint,
        window=window,
        SkullStripped=True,
        **task,
        **source,
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


def write_anatomy(
    stage: Staging, root: Path, participant_label: str, space: Space, session: str | None = None
) -> None:
    """Stage a participant's anatomy, raw and derived: links to the template's."""
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
    _link_mask(stage, mask, root, brain, space, text)


def _link_mask(
    stage: Staging,
    file: PurePosixPath,
    root: Path,
    source: PurePosixPath,
    space: Space,
    description: str,
    **entries: Any,
) -> None:
    """Stage a mask: a link to that of the template, and its sidecar."""
    stage.link(file, root / source)
    sources = [f"bids::{source.relative_to(DERIVATIVE)}"]
    metadata = image_json(space, description, Type="Brain", **entries, Sources=sources)
    stage.json(sidecar(file), metadata)
