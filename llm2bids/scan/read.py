"""Reading as one verb: a model and stories in, a dataset on a scan's clock out."""

import hashlib
import json
import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.dataset.sidecar import fill_text
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.options import chosen, stored_settings, takes_options
from llm2bids.paradigm.design import RunDesign, draw_calibration
from llm2bids.paradigm.load import load_paradigm
from llm2bids.paradigm.prompts import load_banks
from llm2bids.paradigm.task import Paradigm, Task
from llm2bids.recording.draw import LARGEST_SEED, Scan
from llm2bids.recording.human import HumanRun, human_runs, one_clock
from llm2bids.recording.localizers import NAMES, is_langloc, localizer_stories, read_langloc
from llm2bids.recording.read import CONDITION, check_reading, read_story, story_design, tokenize
from llm2bids.recording.record import Recording
from llm2bids.recording.stimuli import read_stimuli, selected_onset
from llm2bids.recording.story import Story
from llm2bids.recording.timing import LOBES, Reading
from llm2bids.scan.prepare import Prepared, choose_arrangement, load
from llm2bids.scan.reading import ReadOptions, make_reading
from llm2bids.scan.runs import open_writer, write_runs

Clocked = tuple[Story, Reading]  # a story and the clock that it is read on


@takes_options(ReadOptions)
def read(
    bids_dir: str | Path,
    *,
    stimuli: str | Path,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> Dataset:
    """Let a model read words that have onsets, and write its values on a scan's clock.

    Parameters
    ----------
    bids_dir : str or Path
        Folder of the dataset: new, empty, or one of ours that was read with the same settings.
    stimuli : str or Path
        Words with onsets: a table (TSV, CSV) with onset, duration or end, and word; a Praat
        TextGrid; a folder of such files, a story each; a BIDS dataset, whose events have words; or
        a localizer: ``langloc``, ``md``, ``brainscore-language`` (the original of langloc, where
        that package is installed).
    overwrite : bool
        Replace files that were changed since they were written.
    progress : bool
        Show a progress bar on the standard error stream.
    **options
        The options of a scan.

    Returns
    -------
    Dataset
        The dataset, opened: a task for each story.

    Raises
    ------
    Llm2bidsError
        If an argument, the words, their clock, the model or the folder is not usable.

    Notes
    -----
    A unit's value in a volume is its calibration mean plus the weighed deviations of the words
    around it; nothing but the mean stands where nothing is said. The first token of a context, an
    attention sink, is a lead-in and is never recorded.
    """
    bids_dir, asked = Path(bids_dir), ReadOptions(**options)
    if _is_localizer(stimuli):  # sentences are contexts of their own, words are volumes
        clocked = asked.t_r is not None or asked.like is not None
        context = "sentence" if asked.context == "story" else asked.context
        asked = replace(asked, context=context, per_word=asked.per_word or not clocked)
    stories = _clocked_stories(Path(stimuli), asked)
    prepared = _prepare(bids_dir, asked, stories)
    loaded, sites, scan = prepared.loaded, prepared.sites, prepared.scan
    for story, reading in stories:
        tokenize(loaded, story, reading)  # refused before anything is read
    n_units = sum(site.width for site in sites)
    of_design = {id(d): clocked for d, clocked in zip(scan.designs, stories, strict=True)}
    texts = [trial.prompt for design in scan.designs for trial in design.trials]
    banks = {scan.paradigm.baseline: scan.calibration, CONDITION: texts}
    with open_writer(
        bids_dir, prepared, progress=progress, overwrite=overwrite, banks=banks
    ) as writer:
        mean = writer.dataset.calibration.mean

        def take(group: Sequence[RunDesign], on_token: Callable[[int], None]) -> list[Recording]:
            (design,) = group
            story, reading = of_design[id(design)]
            out = prepared.buffers.take(design.n_volumes, n_units)
            recording = read_story(
                loaded, story, reading, sites, mean=mean, seed=scan.seed, out=out
            )
            on_token(design.n_volumes)
            return [recording]

        groups = [(design,) for design in scan.designs]
        write_runs(writer, scan, groups, take, progress=progress)
    return open_dataset(bids_dir)


def _prepare(bids_dir: Path, asked: ReadOptions, stories: Sequence[Clocked]) -> Prepared:
    """Load the model and decide everything, refusing first what costs least to find."""
    options = asked.scan_options()
    if asked.arrangement == "functional":
        raise UsageError(
            "--arrangement functional: is learned on prompts that a recorded dataset sets aside; "
            "expected index, random, or the dataset that it was learned in"
        )
    if not 0 <= asked.seed <= LARGEST_SEED:
        raise UsageError(f"seed (--seed) is {asked.seed}; expected 0 to {LARGEST_SEED}")
    choice = choose_arrangement(options)
    DatasetWriter.check_target(bids_dir)
    resting = load_paradigm("off_on_off")
    banks = load_banks(resting)
    scan = Scan(
        paradigm=_paradigm(resting, [story for story, _ in stories]),
        paradigm_sha256=_hash(stories),
        designs=tuple(story_design(*clocked, seed=asked.seed) for clocked in stories),
        calibration=draw_calibration(resting, banks, seed=asked.seed),
        localizer=(),
        t_r=stories[0][1].t_r,
        seed=asked.seed,
        allow_shared_prompts=False,
    )
    prepared = load(bids_dir, options, scan, choice)
    return replace(prepared, settings={**prepared.settings, **stored_settings(asked)})


def _paradigm(resting: Paradigm, stories: Sequence[Story]) -> Paradigm:
    """Make the paradigm that a dataset of stories keeps: its runs, and the rest that calibrates."""
    labels = list(dict.fromkeys(story.label for story in stories))
    tasks = "\n".join(f'{label} = {{ word = "{CONDITION}" }}' for label in labels)
    known = chosen(resting, "baseline", "tokens_per_prompt", "calibration_prompts")
    source = fill_text("raw/story_paradigm.toml", {**known, "tasks": tasks})
    return replace(
        resting,
        name="story",
        description=tomllib.loads(source)["description"],
        order="story",
        tasks=tuple(Task(label=label, conditions=(("word", CONDITION),)) for label in labels),
        prompts_per_block=1,
        banks=(),
        source=source,
    )


def _hash(stories: Sequence[Clocked]) -> str:
    """Hash all that is read and its clocks."""
    content = []
    for story, reading in stories:
        words = story.words.astype("str").to_numpy().tolist()
        content.append([story.participant_label, story.label, story.run, asdict(reading), words])
    canonical = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _clocked_stories(stimuli: Path, asked: ReadOptions) -> list[Clocked]:
    """Read the stories and give each its clock."""
    clocks = [asked.t_r is not None, asked.like is not None, asked.per_word]
    if not any(clocks) or (asked.like is not None and sum(clocks) > 1):
        raise UsageError(
            "which clock? Expected one of --tr SECONDS, --like HUMAN_BIDS --task NAME, --per-word "
            "(with --tr, its volumes last that long by name)"
        )
    like = None if asked.like is None else Path(asked.like)
    own_words = like is not None and stimuli.resolve() == like.resolve()
    if like is not None and not asked.task_labels:
        raise UsageError(f"--like {like}: expected the task too (--task NAME)")
    if str(stimuli) in NAMES and not stimuli.exists():
        stories = localizer_stories(str(stimuli), seed=asked.seed)
    elif is_langloc(stimuli):
        stories = read_langloc(stimuli)
    else:
        stories = read_stimuli(
            stimuli,
            word_column=asked.word_column,
            select=asked.select if like is None or own_words else None,
            tier=asked.tier,
            tasks=asked.task_labels or (),
            participant_labels=asked.participant_labels or () if like is None or own_words else (),
        )
    if like is not None:
        clocked = on_human_clock(stories, like, asked, own_words=own_words)
    else:
        chosen = _chosen(stories, asked.task_labels, stimuli)
        clocked = [(story, _own_clock(story, chosen, asked)) for story in chosen]
    for story, reading in clocked:
        check_reading(reading, story)
    t_rs = {reading.t_r for _, reading in clocked}
    if len(t_rs) > 1:
        raise RecordingError(
            f"{like}: the tasks have repetition times {', '.join(f'{t:g}' for t in sorted(t_rs))} "
            "s; a dataset has one: read them into folders of their own"
        )
    return clocked


def _is_localizer(stimuli: str | Path) -> bool:
    return (str(stimuli) in NAMES and not Path(stimuli).exists()) or is_langloc(Path(stimuli))


def _chosen(stories: list[Story], labels: Sequence[str] | None, stimuli: Path) -> list[Story]:
    known = {story.label for story in stories}
    if unknown := [label for label in labels or () if label not in known]:
        raise UsageError(
            f"--task {', '.join(unknown)}: {stimuli} has the stories {', '.join(sorted(known))}"
        )
    return [story for story in stories if labels is None or story.label in labels]


def _own_clock(story: Story, stories: Sequence[Story], asked: ReadOptions) -> Reading:
    """Make a clock that begins with the story's second 0 and ends after its last word."""
    t_r = asked.t_r
    if asked.per_word:
        n_volumes = int(story.words["onset"].notna().sum())
        t_r = t_r or _word_interval(stories)
    else:
        assert t_r is not None
        n_volumes = math.ceil(round(story.end / t_r, 6)) + LOBES
    return make_reading(asked, t_r=t_r, n_volumes=n_volumes)


def _word_interval(stories: Sequence[Story]) -> float:
    """Give the median time from word to word, which words of one pace all have."""
    intervals = np.concatenate([np.diff(s.words["onset"].dropna()) for s in stories])
    return max(round(float(np.median(intervals)), 3), 0.001) if intervals.size else 1.0


def on_human_clock(
    stories: Sequence[Story], like: Path, asked: ReadOptions, *, own_words: bool
) -> list[Clocked]:
    """Give each story the clock of its human runs; own words are those of the runs' events."""
    clocked = []
    for task in asked.task_labels or ():
        mine = _of_task(stories, task, asked)
        runs = human_runs(like, task, participant_labels=asked.participant_labels or ())
        if own_words:
            pairs = [(story, _same_run(story, runs, like)) for story in mine]
        elif asked.participant_labels:
            pairs = [(_for_run(mine, run, task), run) for run in runs]
        else:
            pairs = [(story, _shared_clock(story, runs, like, task)) for story in mine]
        for story, run in pairs:
            begins = 0.0 if own_words else _begins(run, runs, asked)
            clocked.append((story.shifted(begins), _reading(run, asked)))
    return clocked


def _of_task(stories: Sequence[Story], task: str, asked: ReadOptions) -> list[Story]:
    """Find the stories of a task: by their label, or the only one there is."""
    mine = [story for story in stories if story.label.casefold() == task.casefold()]
    if not mine and len(asked.task_labels or ()) == 1 and len(stories) == 1:
        mine = list(stories)
    if not mine:
        labels = ", ".join(dict.fromkeys(story.label for story in stories))
        raise UsageError(
            f"--task {task}: no story of this name; there are {labels}: name the files after the "
            "human tasks"
        )
    return [replace(story, label=task) for story in mine]


def _same_run(story: Story, runs: Sequence[HumanRun], like: Path) -> HumanRun:
    for run in runs:
        if (run.participant_label, run.run) == (story.participant_label, story.run):
            return run
    raise RecordingError(f"{like}: {story.source} has words, but no series beside it")


def _for_run(stories: Sequence[Story], run: HumanRun, task: str) -> Story:
    for story in stories:
        if story.run in (None, run.run):
            return replace(story, participant_label=run.participant_label, run=run.run)
    raise RecordingError(
        f"{run.name}: no stimuli for it; name a file task-{task}_run-{run.run}, or one for all runs"
    )


def _shared_clock(story: Story, runs: Sequence[HumanRun], like: Path, task: str) -> HumanRun:
    mine = [run for run in runs if story.run in (None, run.run)]
    if not mine:
        raise RecordingError(f"{story.source}: {like} has no run {story.run} of task {task}")
    return one_clock(mine, like, task)


def _begins(run: HumanRun, runs: Sequence[HumanRun], asked: ReadOptions) -> float:
    """Seconds at which the story begins in a run."""
    if asked.select is None:
        return 0.0
    onsets = {}
    for other in [run] if asked.participant_labels else runs:
        if other.events is None:
            raise RecordingError(f"--select {asked.select}: {other.name} has no events")
        onsets[round(selected_onset(other.events, asked.select), 3)] = other.name
    if len(onsets) > 1:
        shown = "; ".join(f"{name}: {onset:g} s" for onset, name in onsets.items())
        raise RecordingError(
            f"--select {asked.select}: the story begins at different times ({shown}); name the "
            "participants to read for (--participant-label)"
        )
    return next(iter(onsets))


def _reading(run: HumanRun, asked: ReadOptions) -> Reading:
    return make_reading(asked, t_r=run.t_r, n_volumes=run.n_volumes, start_time=run.start_time)
