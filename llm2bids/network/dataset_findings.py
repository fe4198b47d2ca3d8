"""The findings of a dataset, from the participant level's maps and the prompts' images."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import InferenceError, NetworkError
from llm2bids.inference.effects import Effects, fit_effects, read_effects
from llm2bids.inference.inputs import Inputs, open_inputs
from llm2bids.inference.options import Memory, Selection
from llm2bids.inference.participant import caution
from llm2bids.inference.prompts import (
    OFF,
    PromptSamples,
    effects_of,
    powers_below,
    read_prompts,
    why_no_parts,
)
from llm2bids.network import controls, identification, repeatability
from llm2bids.network.controls import Control
from llm2bids.network.findings import Findings
from llm2bids.network.identification import AccuracyCurve
from llm2bids.network.options import FindingsOptions
from llm2bids.network.overlap import measure_overlap
from llm2bids.network.repeatability import SplitHalf
from llm2bids.network.task_networks import Against, task_networks
from llm2bids.options import split_options, takes_options
from llm2bids.space.space import Space

# What the findings need: intervals over participants, and tasks to tell apart
LEAST_PARTICIPANTS, LEAST_TASKS = 3, 2

_FEW_UNITS = 100  # units of the control with random units

# Calibration sd by which effects of all prompts may differ from the maps: float32's rounding
_STALE = 2e-3


@takes_options(Selection, FindingsOptions, Memory)
def dataset_findings(
    bids_dir: Path | str, out_dir: Path | str, *, progress: bool = True, **options: Any
) -> Findings:
    """Measure networks, overlap, repeatability and identification of an analysed dataset.

    Effects are the participant level's, read from its maps: its contrasts, mask and model. Halves
    and draws of prompts are fitted by the same model.

    Parameters
    ----------
    bids_dir : Path or str
        A dataset that llm2bids recorded.
    out_dir : Path or str
        Output folder of `analyze_participants`.
    progress : bool
        Show a progress bar on stderr.
    **options
        The options of the findings.

    Returns
    -------
    Findings
        What was found; `Findings.save` writes it.

    Raises
    ------
    Llm2bidsError
        If there is no participant level, a participant lacks a task or a run is damaged, the maps
        are not those of the dataset, there are too few participants or tasks, or participants
        share prompts.
    """
    selection, how, memory = split_options(options, Selection, FindingsOptions, Memory)
    inputs = open_inputs(Path(bids_dir))
    chosen = inputs.choose(participant_label=selection.participant_label, task=selection.task)
    effects = _effects(inputs, Path(out_dir), chosen)
    inputs = inputs.within(effects.mask, effects.options.use, run_names=effects.provenance.runs)
    samples: PromptSamples | None = None
    if not why_no_parts(effects.options):
        samples = read_prompts(
            inputs,
            effects.options,
            effects.conditions,
            participant_label=effects.participants,
            task=list(dict.fromkeys(condition.task for condition in effects.conditions)),
            first_tokens=True,
            mem_gb=memory.mem_gb,
            work_dir=memory.folder,
            progress=progress,
        )
        check_maps(effects, effects_of(samples.prompts), Path(out_dir))
    findings = measure_findings(effects, samples, inputs.space, how, sizes=_sizes(inputs, effects))
    del samples  # the controls' images take memory too
    more = [
        _control_dataset(inputs, Path(folder), effects, how, memory)
        for folder in how.control_datasets
    ]
    return replace(findings, controls=(*findings.controls, *more))


def measure_findings(
    effects: Effects,
    samples: PromptSamples | None,
    space: Space,
    options: FindingsOptions,
    *,
    sizes: tuple[int, int, int],
) -> Findings:
    """Measure the findings of effects, and of parts of their prompts where the model allows them.

    `sizes`: on prompts, off prompts, and volumes per prompt of the smallest run.
    """
    n_participants, n_tasks, n_units = effects.values.shape
    if n_participants < LEAST_PARTICIPANTS or n_tasks < LEAST_TASKS:
        raise NetworkError(
            f"findings: found {n_participants} participants and {n_tasks} tasks; expected "
            f"{LEAST_PARTICIPANTS} or more and {LEAST_TASKS} or more; record more"
        )
    n_on, n_off, n_tokens = sizes
    omitted: dict[str, str] = {}
    halves, by_prompts, by_tokens = _of_parts(effects, samples, options, n_on, n_tokens, omitted)
    sites = space.site_of_unit[effects.mask]
    asked = _asked_controls(effects, samples, options, sites, omitted)
    trial_types = all(condition.is_trial_type for condition in effects.conditions)
    kinds: tuple[Against, ...] = ("off", "others") if trial_types else ("off",)
    sentence = caution(effects.options)
    return Findings(
        space=space.label,
        fingerprint=space.fingerprint(),
        n_units=n_units,
        n_units_of_space=space.n_units,
        model=effects.options.describe(),
        participants=effects.participants,
        tasks=effects.tasks,
        n_on=n_on,
        n_off=n_off,
        n_tokens=n_tokens,
        networks=tuple(
            network
            for against in kinds
            for network in task_networks(effects, space, options, against=against)
        ),
        overlap=measure_overlap(effects, options, sites),
        repeatability=repeatability.Repeatability(
            single_run=repeatability.compare_single_maps(effects, options),
            participants=repeatability.split_participants(effects, options),
            prompts=halves,
            icc=repeatability.agreement(effects),
        ),
        identification=identification.identify_left_out(effects, options),
        by_prompts=by_prompts,
        by_tokens=by_tokens,
        controls=(
            controls.random_units(effects, options, n_units=min(_FEW_UNITS, n_units // 2)),
            controls.shuffled_labels(effects, options),
            *asked,
        ),
        omitted=omitted,
        cautions=() if sentence is None else (sentence,),
        provenance=effects.provenance,
    )


def _of_parts(
    effects: Effects,
    samples: PromptSamples | None,
    options: FindingsOptions,
    n_on: int,
    n_tokens: int,
    omitted: dict[str, str],
) -> tuple[SplitHalf | None, AccuracyCurve | None, AccuracyCurve | None]:
    """Measure what takes parts of the prompts; `omitted` takes the reasons where there is none."""
    if samples is None:
        parts = ("halves of the prompts", "by_prompts", "by_tokens")
        omitted |= dict.fromkeys(parts, why_no_parts(effects.options))
        return None, None, None
    halves: SplitHalf | None = None
    by_prompts: AccuracyCurve | None = None
    with _noted("halves of the prompts", omitted):
        halves = repeatability.split_prompts(samples.prompts, options)
    with _noted("by_prompts", omitted):
        by_prompts = identification.prompt_curve(
            samples.prompts,
            options,
            n_tokens=n_tokens,
            n_prompts=(*powers_below(n_on), n_on),
            omitted=omitted,
        )
    omitted |= {f"by_tokens, first {step}": why for step, why in samples.omitted.items()}
    by_tokens = identification.token_curve(
        {**samples.first_tokens, n_tokens: effects}, options, n_prompts=n_on
    )
    return halves, by_prompts, by_tokens


def _asked_controls(
    effects: Effects,
    samples: PromptSamples | None,
    options: FindingsOptions,
    sites: npt.NDArray[np.intp],
    omitted: dict[str, str],
) -> list[Control]:
    """Measure the controls that were asked for, where the model allows them."""
    if samples is None and "shuffled-labels" in options.controls:
        omitted["shuffled-labels"] = why_no_parts(effects.options)
    names = [name for name in dict.fromkeys(options.controls) if name not in omitted]
    prompts = None if samples is None else samples.prompts
    real = controls.measure_maps(effects.values, options) if names else {}
    measured = []
    for name in names:
        with _noted(name, omitted):
            measured.append(
                controls.compare_control(name, effects, prompts, options, real=real, sites=sites)
            )
    return measured


@contextmanager
def _noted(part: str, omitted: dict[str, str]) -> Iterator[None]:
    """Note why a part is missing where the model cannot be fitted to so few prompts."""
    try:
        yield
    except InferenceError as error:
        omitted[part] = str(error)


def check_maps(maps: Effects, fitted: Effects, out_dir: Path) -> None:
    """Refuse maps that the dataset does not give today under the model that they name."""
    for index, who in enumerate(maps.participants):
        error = np.abs(maps.values[index] - fitted.values[index]).max()
        if not error <= _STALE * max(1.0, float(np.abs(maps.values[index]).max())):
            raise NetworkError(
                f"{out_dir}: the effect maps of sub-{who} are not those of the dataset (they "
                f"differ by up to {error:.2g} calibration sd): runs, transcripts or events were "
                "changed since; run the participant level again"
            )


def _effects(inputs: Inputs, out_dir: Path, chosen: Mapping[tuple[str, str], object]) -> Effects:
    """Read the effects of the participants who have every condition, tasks as in the paradigm."""
    effects = read_effects(
        inputs,
        out_dir,
        participant_label=list(dict.fromkeys(label for label, _ in chosen)),
        task=list(dict.fromkeys(name for _, name in chosen)),
    ).complete()
    tasks = [task.label for task in inputs.dataset.paradigm.tasks]
    rank = {task: number for number, task in enumerate(tasks)}
    ranks = [rank.get(condition.task, len(tasks)) for condition in effects.conditions]
    return effects.take(conditions=np.argsort(ranks, kind="stable").tolist())


def _sizes(inputs: Inputs, effects: Effects) -> tuple[int, int, int]:
    """Count on prompts per trial type, off prompts, and volumes per prompt, of the smallest run."""
    tasks = {condition.task for condition in effects.conditions}
    sizes = []
    for run in inputs.runs:
        if run.task in tasks and run.participant_label in effects.participants:
            trials = inputs.load(run).trials
            counts = trials["trial_type"].value_counts()
            n_on = counts.drop(OFF, errors="ignore").min()
            sizes.append((n_on, counts.get(OFF, 0), trials["n_volumes"].min()))
    n_on, n_off, n_volumes = np.min(sizes, axis=0).tolist()
    return n_on, n_off, n_volumes


def _control_dataset(
    inputs: Inputs, bids_dir: Path, effects: Effects, options: FindingsOptions, memory: Memory
) -> Control:
    """Fit another dataset by the model of the effects, and measure it."""
    theirs = open_inputs(bids_dir, use=effects.options.use)
    if not effects.mask.all():
        if [*theirs.space.site_slices.items()] != [*inputs.space.site_slices.items()]:
            raise NetworkError(
                f"{bids_dir}: has other units than {inputs.bids_dir}, whose analysis is masked; "
                "expected the same sites; analyse all units, or record the control with these sites"
            )
        theirs = theirs.within(effects.mask, effects.options.use)
    there = {run.task for run in theirs.runs}
    wanted = dict.fromkeys(condition.task for condition in effects.conditions)
    contrasts = {condition.label: condition.expression for condition in effects.conditions}
    control = fit_effects(
        theirs,
        replace(effects.options, contrasts=contrasts),
        task=[task for task in wanted if task in there],
        mem_gb=memory.mem_gb,
        work_dir=memory.folder,
    ).complete()
    settings, ours = theirs.dataset.settings, inputs.dataset.settings
    return controls.compare_dataset(
        effects,
        control,
        options,
        name=str(settings.get("model")),
        about=f"dataset {bids_dir.name}",
        warnings=[
            f"{bids_dir.name}: {name} {settings.get(name)}, the data {ours.get(name)}"
            for name in ("paradigm", "prompts_per_block", "tokens_per_prompt")
            if settings.get(name) != ours.get(name)
        ],
    )
