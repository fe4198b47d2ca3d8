"""Writing the first level of one participant and task."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.inference.circular import circularity_caution
from llm2bids.inference.first_level import STATS, TOKEN_CAUTION
from llm2bids.inference.options import AnalysisOptions
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.runs import RunData, TaskFit
from llm2bids.inference.statmap import (
    map_path,
    sidecar_of,
    software,
    write_json,
    write_map,
    write_table,
)
from llm2bids.space.space import Space

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


def task_provenance(runs: Sequence[RunData]) -> Provenance:
    """Say what the maps of one participant and task are made from."""
    return Provenance.of(
        participants=(run.participant_label for run in runs),
        runs=(run.name for run in runs),
        prompts=(prompt for run in runs for prompt in run.trials["prompt_id"]),
    )


def write_task(
    out_dir: Path,
    model: TaskFit,
    runs: Sequence[RunData],
    options: AnalysisOptions,
    *,
    space: Space,
    fingerprint: str,
) -> list[Path]:
    """Write the maps, mask and design matrices of one participant and task."""
    about = _about(model, runs, options, space=space, fingerprint=fingerprint)
    names = {"sub": runs[0].participant_label, "task": runs[0].task, "space": space.label}
    mask = runs[0].mask
    files = []
    for label, expression in model.contrasts.items():
        for stat in STATS:
            path = out_dir / map_path("statmap.nii.gz", **names, contrast=label, stat=stat)
            sidecar = {
                "Description": f"{stat} of the contrast {expression!r} of one participant.",
                **about,
                "ContrastLabel": label,
                "Contrast": expression,
                "StatisticType": stat,
                "Units": UNITS[stat],
            }
            files.append(write_map(path, model.fit.maps[label, stat], mask, space, sidecar))
    checks = {
        "rsquared": ("Share of variance that the design explains.", model.fit.r_squared),
        "residualar1": ("Lag-1 autocorrelation of the residuals.", model.fit.residual_ar1),
    }
    for stat, (description, values) in checks.items():
        path = out_dir / map_path("statmap.nii.gz", **names, stat=stat)
        summary = {"Description": description, **about, "Quantiles": _quantiles(values)}
        files.append(write_map(path, values, mask, space, summary))
    path = out_dir / map_path("mask.nii.gz", **names, desc="brain")
    sidecar = {
        "Description": "Units that were modelled.",
        **about,
        "Type": "Brain",
    }
    files.append(write_map(path, np.ones(int(mask.sum()), dtype=np.bool_), mask, space, sidecar))
    for run, design in zip(runs, model.designs, strict=True):
        files.append(_write_design(out_dir, run, design, options))
    return files


def _about(
    model: TaskFit,
    runs: Sequence[RunData],
    options: AnalysisOptions,
    *,
    space: Space,
    fingerprint: str,
) -> dict[str, object]:
    made_from = task_provenance(runs)
    about: dict[str, object] = {
        **circularity_caution(space, made_from.prompts),
        "SpatialReference": f"bids:llm2bids:tpl-{space.label}/anat/tpl-{space.label}_T1w.nii.gz",
        "Sources": [run.source for run in runs],
        "TaskLabel": runs[0].task,
        "UnitOfAnalysis": options.unit_of_analysis,
        "ModelParameters": options.parameters(),
        "DegreesOfFreedom": model.fit.dof,
        "ConstantUnits": int(model.fit.constant.sum()),
        "Software": software(),
        "SpaceLabel": space.label,
        "SpaceFingerprint": fingerprint,
        **made_from.sidecar(),
    }
    sentence = caution(options)
    return about if sentence is None else {"Caution": sentence, **about}


def _quantiles(values: npt.NDArray[np.float32]) -> dict[str, float]:
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    found = np.quantile(values, shares) if values.size else np.zeros(len(shares))
    return {str(share): round(float(value), 4) for share, value in zip(shares, found, strict=True)}


def _write_design(
    out_dir: Path, run: RunData, design: pd.DataFrame, options: AnalysisOptions
) -> Path:
    names = {"sub": run.participant_label, "task": run.task, "run": run.run}
    path = out_dir / map_path("design.tsv", **names)
    write_table(path, design)
    rows = (
        {"Rows": "prompts", "PromptIds": run.trials["prompt_id"].tolist()}
        if options.unit_of_analysis == "prompt"
        else {"Rows": "volumes", "RepetitionTime": run.t_r}
    )
    write_json(
        sidecar_of(path),
        {
            "Description": "Design matrix.",
            "Columns": [str(column) for column in design.columns],
            **rows,
            "ModelParameters": options.parameters(),
        },
    )
    return path
