"""The findings of a dataset, from the participant level's maps and the prompts' images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.settings import read_settings, recorded_paradigm
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
from llm2bids.network.controls import (
    Control,
    compare_control,
    compare_dataset,
    measure_maps,
    random_units,
    shuffled_labels,
)
from llm2bids.network.findings import Findings
from llm2bids.network.identification import (
    AccuracyCurve,
    identify_left_out,
    prompt_curve,
    token_curve,
)
from llm2bids.network.options import FindingsOptions
from llm2bids.network.overlap import measure_overlap
from llm2bids.network.repeatability import (
    Repeatability,
    SplitHalf,
    agreement,
    compare_single_maps,
    split_participants,
    split_prompts,
)
from llm2bids.network.task_networks import Against, TaskNetwork, task_networks
from llm2bids.options import split_options, takes_options
from llm2bids.space.space import Space

LEAST_PARTICIPANTS, LEAST_TASKS = 3, 2
"""What the findings need: intervals over participants, and tasks to tell apart."""

_FEW_UNITS = 100
"""Units of the control with random units."""

_STALE = 2e-3
"""Calibration sd by which effects of all prompts may differ from the maps: float32's rounding."""

T = TypeVar("T")


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
    controls = [
        _control_dataset(inputs, Path(folder), effects, how, memory)
        for folder in how.control_datasets
    ]
    return replace(findings, controls=(*findings.controls, *controls))


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
    if effects.mask.size != space.n_units:
        raise NetworkError(
            f"findings: effects of {effects.mask.size} units, space {space.label} has "
            f"{space.n_units}; expected effects of this space"
        )
    widths = [site.width for site in space.sites]
    sites = np.repeat(np.arange(len(widths)), widths)[effects.mask]
    parts = _parts(effects, samples, options, sites, sizes)
    again: dict[str, Any] = {"seed": options.seed, "allow_circular": options.allow_circular}
    n_on, n_off, n_tokens = sizes
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
        networks=_networks(effects, space, options),
        overlap=measure_overlap(
            effects,
            share=options.share,
            sites=sites,
            n_boot=options.n_boot,
            n_perm=options.n_perm,
            seed=options.seed,
        ),
        repeatability=_repeatability(effects, parts.halves, options),
        identification=identify_left_out(effects, allow_circular=options.allow_circular),
        by_prompts=parts.by_prompts,
        by_tokens=parts.by_tokens,
        controls=(
            random_units(effects, n_units=min(_FEW_UNITS, n_units // 2), **again),
            shuffled_labels(effects, n_perm=options.n_perm, **again),
            *parts.controls,
        ),
        omitted=parts.omitted,
        cautions=() if sentence is None else (sentence,),
        provenance=effects.provenance,
    )


def _networks(effects: Effects, space: Space, options: FindingsOptions) -> tuple[TaskNetwork, ...]:
    """Make the networks against off, and against the other tasks where all are trial types."""
    simple = all(condition.is_trial_type for condition in effects.conditions)
    kinds: tuple[Against, ...] = ("off", "others") if simple else ("off",)
    return tuple(
        network
        for against in kinds
        for network in task_networks(
            effects,
            space,
            against=against,
            top_percent=options.top_percent,
            alpha=options.alpha,
            min_cohens_d=options.min_cohens_d,
        )
    )


def _repeatability(
    effects: Effects, halves: SplitHalf | None, options: FindingsOptions
) -> Repeatability:
    circular = options.allow_circular
    return Repeatability(
        single_run=compare_single_maps(effects, allow_circular=circular),
        participants=split_participants(
            effects, share=options.share, seed=options.seed, allow_circular=circular
        ),
        prompts=halves,
        icc=agreement(effects),
    )


@dataclass(kw_only=True)
class _Parts:
    """What takes parts of the prompts or shuffles their labels; `omitted` says what is missing."""

    halves: SplitHalf | None = None
    by_prompts: AccuracyCurve | None = None
    by_tokens: AccuracyCurve | None = None
    controls: tuple[Control, ...] = ()
    omitted: dict[str, str] = field(default_factory=dict)

    def attempt(self, name: str, make: Callable[[], T]) -> T | None:
        """Make a part, or note why the model cannot be fitted to so few prompts."""
        try:
            return make()
        except InferenceError as error:
            self.omitted[name] = str(error)
            return None


def _parts(
    effects: Effects,
    samples: PromptSamples | None,
    options: FindingsOptions,
    sites: npt.NDArray[np.intp],
    sizes: tuple[int, int, int],
) -> _Parts:
    parts = _Parts()
    again: dict[str, Any] = {"seed": options.seed, "allow_circular": options.allow_circular}
    n_on, _, n_tokens = sizes
    controls = list(options.controls)
    if samples is None:
        names = ["halves of the prompts", "by_prompts", "by_tokens"]
        names += [name for name in controls if name == "shuffled-labels"]
        parts.omitted = dict.fromkeys(names, why_no_parts(effects.options))
    else:
        prompts = samples.prompts
        parts.halves = parts.attempt(
            "halves of the prompts", lambda: split_prompts(prompts, share=options.share, **again)
        )
        parts.by_prompts = parts.attempt(
            "by_prompts",
            lambda: prompt_curve(
                prompts,
                n_tokens=n_tokens,
                n_prompts=(*powers_below(n_on), n_on),
                n_draws=options.n_draws,
                omitted=parts.omitted,
                **again,
            ),
        )
        parts.omitted |= {f"by_tokens, first {step}": why for step, why in samples.omitted.items()}
        parts.by_tokens = token_curve(
            {**samples.first_tokens, n_tokens: effects},
            n_prompts=n_on,
            allow_circular=options.allow_circular,
        )
    how: dict[str, Any] = {"share": options.share, "alpha": options.alpha, "seed": options.seed}
    real = measure_maps(effects.values, **how) if controls else {}
    for name in dict.fromkeys(controls):
        if name not in parts.omitted:
            control = parts.attempt(
                name,
                lambda name=name: compare_control(  # type: ignore[misc]
                    None if samples is None else samples.prompts,
                    effects,
                    name,
                    real=real,
                    sites=sites,
                    n_draws=options.n_control_draws,
                    **how,
                ),
            )
            parts.controls += () if control is None else (control,)
    return parts


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
    paradigm = recorded_paradigm(inputs.bids_dir, read_settings(inputs.bids_dir))
    order = [task.label for task in paradigm.tasks]
    ranks = [
        order.index(condition.task) if condition.task in order else len(order)
        for condition in effects.conditions
    ]
    return effects.take(conditions=np.argsort(ranks, kind="stable").tolist())


def _sizes(inputs: Inputs, effects: Effects) -> tuple[int, int, int]:
    """Count on prompts per trial type, off prompts, and volumes per prompt, of the smallest run."""
    tasks = {condition.task for condition in effects.conditions}
    on, off, volumes = [], [], []
    for run in inputs.runs:
        if run.task in tasks and run.participant_label in effects.participants:
            trials = inputs.load(run).trials
            counts = trials["trial_type"].value_counts()
            off.append(int(counts.get(OFF, 0)))
            on.append(int(counts.drop(OFF, errors="ignore").min()))
            volumes.append(int(trials["n_volumes"].min()))
    return min(on), min(off), min(volumes)


def _control_dataset(
    inputs: Inputs, bids_dir: Path, effects: Effects, options: FindingsOptions, memory: Memory
) -> Control:
    """Fit another dataset by the model of the effects, and measure it."""
    theirs, settings = open_inputs(bids_dir, use=effects.options.use), read_settings(bids_dir)
    if not effects.mask.all():
        if [*theirs.space.site_slices.items()] != [*inputs.space.site_slices.items()]:
            raise NetworkError(
                f"{bids_dir}: has other units than {inputs.bids_dir}, whose analysis is masked; "
                "expected the same sites; analyse all units, or record the control with these sites"
            )
        theirs = theirs.within(effects.mask, effects.options.use)
    there = {run.task for run in theirs.runs}
    wanted = dict.fromkeys(condition.task for condition in effects.conditions)
    control = fit_effects(
        theirs,
        replace(
            effects.options,
            contrasts={condition.label: condition.expression for condition in effects.conditions},
        ),
        task=[task for task in wanted if task in there],
        mem_gb=memory.mem_gb,
        work_dir=memory.folder,
    ).complete()
    ours = read_settings(inputs.bids_dir)
    return compare_dataset(
        effects,
        control,
        name=str(settings.get("model")),
        about=f"dataset {bids_dir.name}",
        share=options.share,
        alpha=options.alpha,
        seed=options.seed,
        allow_circular=options.allow_circular,
        warnings=[
            f"{bids_dir.name}: {name} {settings.get(name)}, the data {ours.get(name)}"
            for name in ("paradigm", "prompts_per_block", "tokens_per_prompt")
            if settings.get(name) != ours.get(name)
        ],
    )
