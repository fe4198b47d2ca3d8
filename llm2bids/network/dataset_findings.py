"""The findings of a recorded dataset, from its images to files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm2bids.dataset.settings import read_settings, recorded_paradigm
from llm2bids.inference.inputs import Inputs, open_inputs
from llm2bids.network.control_analysis import ControlAnalysis, ControlName, compare_dataset
from llm2bids.network.effects import TaskEffects, task_effects
from llm2bids.network.findings import Findings, measure_findings
from llm2bids.network.prompt_means import read_samples


def dataset_findings(
    bids_dir: Path | str,
    *,
    participant_label: Sequence[str] | None = None,
    task: Sequence[str] | None = None,
    top_percent: float = 5.0,
    alpha: float = 0.05,
    min_cohens_d: float | None = None,
    controls: Sequence[ControlName] = (),
    control_datasets: Sequence[Path | str] = (),
    n_control_draws: int = 20,
    seed: int = 0,
    allow_circular: bool = False,
    mem_gb: float | None = None,
    work_dir: Path | str | None = None,
    progress: bool = True,
) -> Findings:
    """Measure networks, overlap, repeatability and identification of a recorded dataset.

    Parameters
    ----------
    bids_dir : Path or str
        A dataset that llm2bids recorded.
    participant_label, task : sequence of str, optional
        Only these; labels with or without ``sub-`` and ``task-``.
    top_percent, alpha, min_cohens_d, controls, n_control_draws, seed, allow_circular
        As for `measure_findings`.
    control_datasets : sequence of Path or str
        Other datasets of ours with the same tasks, e.g. of the model with random weights, to be
        measured in the same way.
    mem_gb : float, optional
        Where the prompts' images take more (4 bytes for each prompt and unit), they are held in a
        scratch file.
    work_dir : Path or str, optional
        Folder for the scratch file; the system's temporary folder by default.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    Findings
        What was found; `llm2bids.network.findings_files.write_findings` writes it.

    Raises
    ------
    Llm2bidsError
        If the folder is not a dataset of ours, a participant lacks a task or a run is damaged,
        there are too few participants or tasks, or participants share prompts.
    """
    inputs = open_inputs(Path(bids_dir))
    chosen = inputs.choose(participant_label=participant_label, task=task)
    labels = list(dict.fromkeys(label for label, _ in chosen))
    tasks = _in_order(inputs, {name for _, name in chosen})
    samples = read_samples(
        inputs,
        participant_label=labels,
        task=tasks,
        mem_gb=mem_gb,
        work_dir=None if work_dir is None else Path(work_dir),
        progress=progress,
    )
    found = measure_findings(
        samples,
        inputs.space,
        top_percent=top_percent,
        alpha=alpha,
        min_cohens_d=min_cohens_d,
        controls=controls,
        n_control_draws=n_control_draws,
        seed=seed,
        allow_circular=allow_circular,
    )
    if not control_datasets:
        return found
    effects, settings = task_effects(samples.means), read_settings(inputs.bids_dir)
    del samples  # the controls' prompts take as much memory
    others = tuple(
        _control_dataset(
            Path(control),
            effects,
            settings,
            reading={
                "mem_gb": mem_gb,
                "work_dir": None if work_dir is None else Path(work_dir),
                "progress": progress,
            },
            share=top_percent / 100,
            alpha=alpha,
            seed=seed,
            allow_circular=allow_circular,
        )
        for control in control_datasets
    )
    return replace(found, control_analyses=(*found.control_analyses, *others))


def _control_dataset(
    bids_dir: Path,
    effects: TaskEffects,
    settings: dict[str, Any],
    *,
    reading: dict[str, Any],
    **options: Any,
) -> ControlAnalysis:
    inputs, theirs = open_inputs(bids_dir), read_settings(bids_dir)
    there = {entry.task for entry in inputs.entries}
    means = read_samples(
        inputs, task=[task for task in effects.tasks if task in there], n_tokens=(), **reading
    ).means
    differing = [
        f"{bids_dir.name}: {name} {theirs.get(name)}, the data {settings.get(name)}"
        for name in ("paradigm", "prompts_per_block", "tokens_per_prompt")
        if theirs.get(name) != settings.get(name)
    ]
    return compare_dataset(
        effects,
        task_effects(means),
        name=str(theirs.get("model")),
        about=f"dataset {bids_dir.name}",
        warnings=differing,
        **options,
    )


def _in_order(inputs: Inputs, names: set[str]) -> list[str]:
    """Put tasks into the order of the paradigm."""
    paradigm = recorded_paradigm(inputs.bids_dir, read_settings(inputs.bids_dir))
    listed = [task.label for task in paradigm.tasks if task.label in names]
    return [*listed, *sorted(names.difference(listed))]
