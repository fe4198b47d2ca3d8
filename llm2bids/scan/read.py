"""Reading as one verb: a model and stories in, a dataset on a scan's clock out."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.options import stored_settings, takes_options
from llm2bids.paradigm.design import RunDesign
from llm2bids.paradigm.load import load_paradigm
from llm2bids.paradigm.partition import draw_calibration
from llm2bids.paradigm.prompts import load_banks
from llm2bids.paradigm.task import Paradigm, Task
from llm2bids.recording.batches import RunBuffers
from llm2bids.recording.draw import LARGEST_SEED, Scan
from llm2bids.recording.localizers import NAMES, is_langloc, localizer_stories, read_langloc
from llm2bids.recording.read import (
    CONDITION,
    Reading,
    check_reading,
    read_story,
    story_design,
    tokenize,
)
from llm2bids.recording.record import Recording
from llm2bids.recording.stimuli import read_stimuli
from llm2bids.recording.story import Story
from llm2bids.recording.timing import LOBES
from llm2bids.scan.like import on_human_clock
from llm2bids.scan.prepare import Prepared, load, loaded_settings
from llm2bids.scan.reading import ReadOptions, make_reading
from llm2bids.scan.runs import open_writer, write_runs


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
    stories = [_Clocked(*pair) for pair in _clocked_stories(Path(stimuli), asked)]
    prepared = _prepare(bids_dir, asked, stories)
    loaded, sites, scan = prepared.loaded, prepared.sites, prepared.scan
    for story in stories:
        tokenize(loaded, story.story, story.reading)  # refused before anything is read
    n_units = sum(site.width for site in sites)
    of_design = {id(d): story for d, story in zip(scan.designs, stories, strict=True)}
    texts = [trial.prompt for design in scan.designs for trial in design.trials]
    banks = {scan.paradigm.baseline: scan.calibration, CONDITION: texts}
    with open_writer(
        bids_dir, prepared, progress=progress, overwrite=overwrite, banks=banks
    ) as writer:
        mean = writer.calibration.mean

        def take(group: Sequence[RunDesign], on_token: Callable[[int], None]) -> list[Recording]:
            (design,) = group
            clocked = of_design[id(design)]
            out = prepared.buffers.take(design.n_volumes, n_units)
            recording = read_story(
                loaded, clocked.story, clocked.reading, sites, mean=mean, seed=scan.seed, out=out
            )
            on_token(design.n_volumes)
            return [recording]

        groups = [(design,) for design in scan.designs]
        write_runs(writer, scan, groups, take, progress=progress)
    return open_dataset(bids_dir)


@dataclass(frozen=True, eq=False)
class _Clocked:
    """A story and the clock that it is read on."""

    story: Story
    reading: Reading


def _prepare(bids_dir: Path, asked: ReadOptions, stories: Sequence[_Clocked]) -> Prepared:
    """Load the model and decide everything, refusing first what costs least to find."""
    options = asked.scan_options()
    if asked.arrangement == "functional":
        raise UsageError(
            "--arrangement functional: is learned on prompts that a recorded dataset sets aside; "
            "expected index, random, or the dataset that it was learned in"
        )
    if not 0 <= asked.seed <= LARGEST_SEED:
        raise UsageError(f"seed (--seed) is {asked.seed}; expected 0 to {LARGEST_SEED}")
    choice = options.choose_arrangement()
    DatasetWriter.check_target(bids_dir)
    resting = load_paradigm("off_on_off")
    banks = load_banks(resting)
    scan = Scan(
        paradigm=_paradigm(resting, [clocked.story for clocked in stories]),
        paradigm_sha256=_hash(stories),
        designs=tuple(story_design(c.story, c.reading, seed=asked.seed) for c in stories),
        calibration=draw_calibration(resting, banks, seed=asked.seed),
        localizer=(),
        t_r=stories[0].reading.t_r,
        seed=asked.seed,
        allow_shared_prompts=False,
    )
    loaded, sites, exactness = load(options)
    settings = {
        **options.settings(scan, sites, loaded),
        **loaded_settings(loaded),
        **stored_settings(asked),
        **choice.settings,
    }
    return Prepared(
        options=options,
        scan=scan,
        choice=choice,
        loaded=loaded,
        sites=sites,
        exactness=exactness,
        settings=settings,
        buffers=RunBuffers(bids_dir, loaded.device),
    )


def _paradigm(resting: Paradigm, stories: Sequence[Story]) -> Paradigm:
    """Make the paradigm that a dataset of stories keeps: its runs, and the rest that calibrates."""
    labels = list(dict.fromkeys(story.label for story in stories))
    description = "Words are read at their onsets; volumes lie on a scan's clock."
    lines = [
        f'description = "{description}"',
        'order = "story"',
        f'baseline = "{resting.baseline}"  # bank of the calibration scan',
        "prompts_per_block = 1",
        f"tokens_per_prompt = {resting.tokens_per_prompt}  # of the calibration scan",
        f"calibration_prompts = {resting.calibration_prompts}",
        "",
        "[tasks]",
        *(f'{label} = {{ word = "{CONDITION}" }}' for label in labels),
    ]
    return replace(
        resting,
        name="story",
        description=description,
        order="story",
        tasks=tuple(Task(label=label, conditions=(("word", CONDITION),)) for label in labels),
        prompts_per_block=1,
        banks=(),
        source="\n".join(lines) + "\n",
    )


def _hash(stories: Sequence[_Clocked]) -> str:
    """Hash all that is read and its clocks."""
    content = [
        [c.story.participant_label, c.story.label, c.story.run, asdict(c.reading),
         c.story.words.astype("str").to_numpy().tolist()]
        for c in stories
    ]  # fmt: skip
    canonical = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _clocked_stories(stimuli: Path, asked: ReadOptions) -> list[tuple[Story, Reading]]:
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
