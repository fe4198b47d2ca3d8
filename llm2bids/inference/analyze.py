"""The BIDS App: participant and group level of a recorded dataset, with nilearn's statistics."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from joblib import Parallel, delayed
from tqdm import tqdm

from llm2bids.dataset.read import Run
from llm2bids.exceptions import InferenceError, Llm2bidsError, UsageError
from llm2bids.inference.checksums import list_group, list_participants
from llm2bids.inference.effects import Effects, read_effects
from llm2bids.inference.group import (
    GroupContrast,
    asked_effects,
    contrast_values,
    group_contrasts,
)
from llm2bids.inference.group_maps import (
    GroupContrastResult,
    GroupWriter,
    about_group,
    tested_and_written,
    write_pooled,
)
from llm2bids.inference.inputs import Inputs, open_inputs
from llm2bids.inference.options import AnalysisOptions, GroupOptions, UnitOfAnalysis
from llm2bids.inference.participant import caution, write_task
from llm2bids.inference.pooled import pooled_contrast
from llm2bids.inference.provenance import check_arrangement_prompts
from llm2bids.inference.runs import fit_task
from llm2bids.inference.second_level import checked_size
from llm2bids.inference.statmap import checked_output, remove_results, start_output
from llm2bids.inference.trials import Source

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
    """What the participant level did."""

    out_dir: Path  # the output dataset
    done: tuple[tuple[str, str], ...]  # participants and tasks that were analysed
    failed: tuple[Failure, ...]  # those that were not
    files: tuple[Path, ...]  # images and tables that were written
    # what is known about the error rate of the model, if it is not the nominal one
    caution: str | None


def analyze_participants(
    bids_dir: Path | str,
    out_dir: Path | str,
    *,
    participant_label: Sequence[str] | None = None,
    task: Sequence[str] | None = None,
    unit_of_analysis: UnitOfAnalysis = "prompt",
    contrasts: Mapping[str, str] | Sequence[str] | None = None,
    noise_model: str | None = None,
    hrf_model: str | None = None,
    drift_model: str | None = None,
    high_pass: float | None = None,
    drift_order: int = 1,
    confounds: Sequence[str] = (),
    smoothing_fwhm: float | None = None,
    mask_img: Path | str | None = None,
    use: Source | None = None,
    bids_filter_file: Path | str | None = None,
    n_cpus: int = 1,
    mem_gb: float | None = None,
    work_dir: Path | str | None = None,
    progress: bool = True,
    allow_circular: bool = False,
) -> ParticipantsResult:
    """Fit the first level of every participant and task, and write maps in BIDS derivative names.

    Effects are in units of each unit's calibration standard deviation.

    Parameters
    ----------
    bids_dir : Path or str
        A dataset that llm2bids recorded.
    out_dir : Path or str
        Output folder, empty, new, or made by an earlier call.
    participant_label, task : sequence of str, optional
        Only these; labels with or without ``sub-`` and ``task-``.
    unit_of_analysis : {"prompt", "token"}
        What an observation is; see `AnalysisOptions` for this and the model's parameters.
    contrasts : mapping of str to str, or sequence of str, optional
        Expressions over trial types; each trial type against the off prompts by default.
    noise_model, hrf_model, drift_model, high_pass, drift_order, confounds, smoothing_fwhm
        As in nilearn; see `AnalysisOptions`.
    mask_img : Path or str, optional
        Model only these voxels; all units by default.
    use : {"transcript", "events"}, optional
        Which table says what was shown where a run's ``events.tsv`` and its transcript differ;
        without, such a run is refused.
    bids_filter_file : Path or str, optional
        JSON file with pybids' filters of the bold series, as fMRIPrep takes it:
        ``{"bold": {"task": "pathology", "run": [1, 2]}}``. The group level takes the same runs.
    n_cpus : int
        Participants and tasks that are fitted at once.
    mem_gb : float, optional
        Memory for all fits together, 1 for each by default.
    work_dir : Path or str, optional
        Folder for scratch files.
    progress : bool
        Show a progress bar on stderr.
    allow_circular : bool
        Go on where the arrangement was learned from prompts of these runs, with a warning, which
        the sidecars say too (``CircularityCaution``).

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
    options = AnalysisOptions(
        unit_of_analysis=unit_of_analysis,
        contrasts=contrasts,
        noise_model=noise_model,
        hrf_model=hrf_model,
        drift_model=drift_model,
        high_pass=high_pass,
        drift_order=drift_order,
        confounds=tuple(confounds),
        smoothing_fwhm=smoothing_fwhm,
        use=use,
    )
    if n_cpus < 1 or (mem_gb is not None and mem_gb <= 0):
        raise UsageError(f"n_cpus={n_cpus}, mem_gb={mem_gb}: expected at least 1 and above 0")
    inputs = open_inputs(
        Path(bids_dir),
        mask_img=None if mask_img is None else Path(mask_img),
        use=use,
        bids_filter_file=None if bids_filter_file is None else Path(bids_filter_file),
    )
    chosen = inputs.choose(participant_label=participant_label, task=task)
    if inputs.space.layout is not None:
        check_arrangement_prompts(
            inputs.space,
            (
                str(prompt)
                for runs in chosen.values()
                for run in runs
                for prompt in inputs.dataset.transcript(run)["prompt_id"].unique()
            ),
            where=inputs.bids_dir,
            allow_circular=allow_circular,
        )
    start_output(Path(out_dir), inputs.bids_dir, inputs.dataset.derivative)
    jobs = [
        delayed(_participant_task)(
            inputs,
            key,
            runs,
            options,
            out_dir=Path(out_dir),
            mem_gb=(n_cpus * 1.0 if mem_gb is None else mem_gb) / n_cpus,
            work_dir=None if work_dir is None else Path(work_dir),
        )
        for key, runs in chosen.items()
    ]
    pool = Parallel(n_jobs=n_cpus, return_as="generator_unordered")
    bar = tqdm(
        pool(jobs), total=len(jobs), desc="first level", file=sys.stderr, disable=not progress
    )
    results = sorted(bar, key=lambda result: result[0])
    list_participants(Path(out_dir), dict.fromkeys(label for label, _ in chosen))
    return _collected(Path(out_dir), results, options)


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """What the group level did."""

    out_dir: Path  # the output dataset
    contrasts: tuple[GroupContrastResult, ...]  # what became of each contrast
    # participants and tasks that were left out, and contrasts that could not be tested
    failed: tuple[Failure, ...]
    files: tuple[Path, ...]  # images and tables that were written


def analyze_group(
    bids_dir: Path | str,
    out_dir: Path | str,
    *,
    participant_label: Sequence[str] | None = None,
    task: Sequence[str] | None = None,
    contrasts: Mapping[str, str] | Sequence[str] | None = None,
    options: GroupOptions | None = None,
    progress: bool = True,
    allow_circular: bool = False,
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
    participant_label, task : sequence of str, optional
        Only these; labels with or without ``sub-`` and ``task-``.
    contrasts : mapping of str to str, or sequence of str, optional
        Expressions over trial types of any task, e.g. ``"paleontology - archeology"``.
    options : GroupOptions, optional
        Thresholds, clusters and permutations.
    progress : bool
        Show a progress bar on stderr.
    allow_circular : bool
        Go on where the arrangement was learned from prompts of these runs, with a warning, which
        the sidecars say too (``CircularityCaution``).

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
    options = options or GroupOptions()
    inputs = open_inputs(Path(bids_dir))
    checked_output(Path(out_dir))
    chosen = inputs.choose(participant_label=participant_label, task=task)
    effects = read_effects(
        inputs,
        Path(out_dir),
        participant_label=sorted({label for label, _ in chosen}),
        task=sorted({name for _, name in chosen}),
    )
    check_arrangement_prompts(
        inputs.space,
        effects.provenance.prompts,
        where=inputs.bids_dir,
        allow_circular=allow_circular,
    )
    inputs = inputs.within(effects.mask, effects.options.use, run_names=effects.provenance.runs)
    questions = group_contrasts(effects, contrasts)
    bar = tqdm(questions, desc="group level", file=sys.stderr, disable=not progress)
    results = tuple(
        _group_contrast(inputs, Path(out_dir), effects, question, options) for question in bar
    )
    done = {
        (label, condition.task)
        for label, has in zip(effects.participants, effects.has, strict=True)
        for condition, there in zip(effects.conditions, has, strict=True)
        if there
    }
    failed = tuple(
        Failure(
            participant_label=label,
            task=name,
            reason="has no effect map and is left out; run the participant level first",
        )
        for label, name in chosen
        if (label, name) not in done
    )
    for failure in failed:
        log.warning("%s", failure)
    list_group(Path(out_dir))
    return GroupResult(
        out_dir=Path(out_dir),
        contrasts=results,
        failed=failed,
        files=tuple(path for result in results for path in result.files),
    )


def _group_contrast(
    inputs: Inputs,
    out_dir: Path,
    effects: Effects,
    question: GroupContrast,
    options: GroupOptions,
) -> GroupContrastResult:
    """Test and write one contrast of the group."""
    asked = asked_effects(effects, question)
    checked_size(len(asked.participants), what=f"contrast {question.label}")
    writer = GroupWriter(
        out_dir=out_dir,
        contrast=question,
        inputs=inputs,
        about=about_group(question, asked, inputs),
    )
    values = contrast_values(asked, question)
    files, n_units, largest_d = tested_and_written(writer, values, options)
    if options.pooled_n_perm and question.against is not None:
        result = pooled_contrast(
            inputs,
            question,
            asked,
            n_perm=options.pooled_n_perm,
            random_state=options.random_state,
        )
        files += write_pooled(writer, result, alpha=options.alpha)
    return GroupContrastResult(
        label=question.label,
        task=question.task,
        participants=asked.participants,
        left_out=tuple(who for who in effects.participants if who not in asked.participants),
        n_units=n_units,
        largest_d=largest_d,
        files=tuple(files),
    )


def _participant_task(
    inputs: Inputs,
    key: tuple[str, str],
    runs: Sequence[Run],
    options: AnalysisOptions,
    *,
    out_dir: Path,
    mem_gb: float,
    work_dir: Path | None,
) -> tuple[tuple[str, str], list[Path], str | None]:
    """Fit and write one participant and task; give the reason where that is not possible."""
    remove_results(out_dir, participant_label=key[0], task=key[1])
    try:
        if not runs:
            raise InferenceError(
                "the run is missing, other participants have it; record the dataset again to add it"
            )
        loaded = [inputs.load(run) for run in runs]
        model = fit_task(loaded, options, mem_gb=mem_gb, work_dir=work_dir)
        files = write_task(out_dir, model, loaded, options, inputs)
    except Llm2bidsError as error:
        return key, [], str(error)
    return key, files, None


def _collected(
    out_dir: Path,
    results: Sequence[tuple[tuple[str, str], list[Path], str | None]],
    options: AnalysisOptions,
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
