"""The BIDS App: participant and group level of a recorded dataset, with nilearn's statistics."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from joblib import delayed
from tqdm import tqdm

from llm2bids.exceptions import InferenceError
from llm2bids.inference.effects import Effects, effects_difference, read_effects
from llm2bids.inference.group import GroupContrastResult, analyze_contrast, group_contrasts
from llm2bids.inference.inputs import Inputs, open_sessions
from llm2bids.inference.options import (
    AnalysisOptions,
    GroupOptions,
    Memory,
    ParticipantSelection,
    Processors,
    Selection,
)
from llm2bids.inference.participant import Analysis, Fit, caution
from llm2bids.inference.provenance import Provenance, check_arrangement_prompts
from llm2bids.inference.runs import in_parallel
from llm2bids.inference.statmap import check_output, list_results, start_output
from llm2bids.options import split_options, takes_options

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Something that could not be analysed, while the rest was."""

    participant_label: str
    task: str
    reason: str  # what was found, what was expected, what to do

    def __str__(self) -> str:
        return f"sub-{self.participant_label} task-{self.task}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class ParticipantsResult:
    """What the participant level did.

    Parameters
    ----------
    out_dir : Path
        The output dataset.
    done : tuple of (str, str)
        Participants and tasks that were analysed.
    failed : tuple of Failure
        Those that were not: `participant_label`, `task`, `reason`.
    files : tuple of Path
        Images and tables that were written.
    caution : str or None
        What is known about the error rate of the model, if it is not the nominal one.
    """

    out_dir: Path
    done: tuple[tuple[str, str], ...]
    failed: tuple[Failure, ...]
    files: tuple[Path, ...]
    caution: str | None


@takes_options(ParticipantSelection, AnalysisOptions, Processors, Memory)
def analyze_participants(
    bids_dir: Path | str, out_dir: Path | str, *, progress: bool = True, **options: Any
) -> ParticipantsResult:
    """Fit the first level of every participant and task, and write maps in BIDS derivative names.

    Effects are in units of each unit's calibration standard deviation.

    Parameters
    ----------
    bids_dir : Path or str
        A dataset that llm2bids recorded.
    out_dir : Path or str
        Output folder, empty, new, or made by an earlier call.
    progress : bool
        Show a progress bar on stderr.
    **options
        The options of the participant level.

    Returns
    -------
    ParticipantsResult
        What was done, and what failed with its reason: a run that is missing or truncated does
        not stop the others.

    Raises
    ------
    Llm2bidsError
        If nothing can be analysed: a folder that is not a dataset of ours, a participant, task or
        contrast that does not exist, a mask of another grid, options that do not fit.
    """
    selection, model, processors, memory = split_options(
        options, ParticipantSelection, AnalysisOptions, Processors, Memory
    )
    analysis = Analysis(
        bids_dir=Path(bids_dir),
        out_dir=Path(out_dir),
        selection=selection,
        options=model,
        memory=memory,
        n_cpus=processors.n_cpus,
    )
    chosen = analysis.choose()
    inputs = chosen[0][0]
    if inputs.space.layout is not None:
        shown = Provenance.of_runs(inputs.dataset, chain(*(runs for _, _, runs in chosen)))
        check_arrangement_prompts(inputs, shown.prompts, allow_circular=selection.allow_circular)
    start_output(analysis.out_dir, inputs.bids_dir, inputs.dataset.derivative)
    participants = list(dict.fromkeys(label for _, (label, _), _ in chosen))
    if selection.cluster is not None:
        fits = analysis.fit_on_cluster(participants)
    else:
        fits = in_parallel([delayed(analysis.fit)(*part) for part in chosen], processors.n_cpus)
    bar = tqdm(fits, "first level", len(chosen), file=sys.stderr, disable=not progress)
    results = sorted(bar, key=lambda result: result[0])
    list_results(analysis.out_dir, *(f"sub-{label}" for label in participants))
    return _collected(analysis.out_dir, results, model)


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """What the group level did.

    Parameters
    ----------
    out_dir : Path
        The output dataset.
    contrasts : tuple of GroupContrastResult
        What became of each contrast: `label`, `task`, `participants`, `left_out`, `n_units` above
        each threshold, `largest_d`, `files`, `session`.
    failed : tuple of Failure
        Participants and tasks that were left out, and contrasts that could not be tested.
    files : tuple of Path
        Images and tables that were written.
    """

    out_dir: Path
    contrasts: tuple[GroupContrastResult, ...]
    failed: tuple[Failure, ...]
    files: tuple[Path, ...]


@takes_options(Selection, GroupOptions, Processors)
def analyze_group(
    bids_dir: Path | str, out_dir: Path | str, *, progress: bool = True, **options: Any
) -> GroupResult:
    """Test the participants' effect maps, and write group maps, thresholds and clusters.

    Every task against the off prompts; every task against the mean of the others and the contrasts
    that are asked for, within participant.

    Parameters
    ----------
    bids_dir : Path or str
        The dataset that llm2bids recorded.
    out_dir : Path or str
        Output folder of the participant level.
    progress : bool
        Show a progress bar on stderr.
    **options
        The options of the group level.

    Returns
    -------
    GroupResult
        What was done; a participant who lacks a condition is named and left out of its contrasts.

    Raises
    ------
    Llm2bidsError
        If nothing can be tested: no participant level, one participant only, mixed spaces or
        models, a participant, task or contrast that does not exist.
    """
    selection, how, processors = split_options(options, Selection, GroupOptions, Processors)
    out_dir = Path(out_dir)
    check_output(out_dir)
    results: list[GroupContrastResult] = []
    failed: list[Failure] = []
    intact: tuple[Inputs, Effects] | None = None
    for inputs in open_sessions(Path(bids_dir)):
        chosen = inputs.choose(participant_label=selection.participant_label, task=selection.task)
        effects = read_effects(
            inputs,
            out_dir,
            participant_label=sorted({label for label, _ in chosen}),
            task=sorted({name for _, name in chosen}),
        )
        prompts = effects.provenance.prompts
        check_arrangement_prompts(inputs, prompts, allow_circular=selection.allow_circular)
        within = inputs.within(effects.mask, effects.options.use, run_names=effects.provenance.runs)
        failed += _left_out(chosen, effects)
        asked = [(within, effects, "")]
        if intact is None:
            intact = (within, effects)
        else:
            asked.append(_against_intact(within, effects, intact))
        for part, maps, change in asked:
            name = f"group level{'' if part.session is None else f', ses-{part.session}'}"
            questions = group_contrasts(maps, how.contrasts, change=change)
            results += [
                analyze_contrast(part, out_dir, maps, question, how, n_cpus=processors.n_cpus)
                for question in tqdm(questions, desc=name, file=sys.stderr, disable=not progress)
            ]
    for failure in failed:
        log.warning("%s", failure)
    list_results(out_dir, "group")
    return GroupResult(
        out_dir=out_dir,
        contrasts=tuple(results),
        failed=tuple(failed),
        files=tuple(path for result in results for path in result.files),
    )


def _left_out(chosen: Mapping[tuple[str, str], object], effects: Effects) -> list[Failure]:
    """List participants and tasks that are there and have no effect map."""
    done = {
        (effects.participants[row], effects.conditions[column].task)
        for row, column in np.argwhere(effects.has)
    }
    reason = "has no effect map and is left out; run the participant level first"
    return [
        Failure(participant_label=label, task=name, reason=reason)
        for label, name in chosen
        if (label, name) not in done
    ]


def _against_intact(
    inputs: Inputs, effects: Effects, intact: tuple[Inputs, Effects]
) -> tuple[Inputs, Effects, str]:
    """Pair a session of an edited model with that of the intact one, within participant."""
    plain, expected = intact
    name = f"{inputs.session}Vs{str(plain.session).capitalize()}"
    change = f"ses-{inputs.session} minus ses-{plain.session}, within participant."
    paired = effects_difference(effects, expected, str(inputs.session))
    return replace(inputs, session=name), paired, change


def _collected(
    out_dir: Path, results: Sequence[Fit], options: AnalysisOptions
) -> ParticipantsResult:
    failed = tuple(
        Failure(participant_label=label, task=task, reason=reason)
        for (label, task), _, reason in results
        if reason is not None
    )
    for failure in failed:
        log.warning("%s", failure)
    if len(failed) == len(results):
        reasons = "\n".join(str(failure) for failure in failed)
        raise InferenceError(f"nothing could be analysed:\n{reasons}")
    return ParticipantsResult(
        out_dir=out_dir,
        done=tuple(key for key, _, reason in results if reason is None),
        failed=failed,
        files=tuple(path for _, files, _ in results for path in files),
        caution=caution(options),
    )
