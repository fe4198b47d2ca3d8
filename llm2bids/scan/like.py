"""Stories on the clock of human runs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.recording.human import HumanRun, human_runs, one_clock
from llm2bids.recording.read import Reading
from llm2bids.recording.stimuli import selected_onset
from llm2bids.recording.story import Story
from llm2bids.scan.reading import ReadOptions, make_reading


def on_human_clock(
    stories: Sequence[Story], like: Path, asked: ReadOptions, *, own_words: bool
) -> list[tuple[Story, Reading]]:
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
