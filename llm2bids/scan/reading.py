"""The options of a reading: its own, and those that it shares with a scan."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from llm2bids.exceptions import UsageError
from llm2bids.options import Options, chosen, option, shared
from llm2bids.recording.timing import Reading
from llm2bids.scan.options import ScanOptions, read_seconds


def _seconds(text: str) -> float | None:
    """Read ``--tr``, which has no default here."""
    return None if text == "none" else read_seconds(text)


def _context(text: str) -> str | int:
    """Read ``--context``: story, sentence, or tokens."""
    return int(text) if text.isdecimal() else text


_clock = partial(option, group="clock")
_words = partial(option, group="words")
_reading = partial(option, group="reading")


@dataclass(frozen=True, kw_only=True)
class ReadOptions(Options):
    """What is read, how, and on which clock."""

    t_r: float | None = shared(
        ScanOptions,
        "t_r",
        text="RepetitionTime in seconds, above 0; with --per-word it is nominal",
        group="clock",
        shown_default="none",
        parse=_seconds,
    )
    like: str | Path | None = _clock(
        None,
        "--like BIDS_DIR",
        "human BIDS dataset whose runs of --task give RepetitionTime and number of volumes",
    )
    per_word: bool = _clock(
        False, "--per-word", "one volume a word, for EEG, MEG and reading times", stored=True
    )
    task_labels: Sequence[str] | None = _clock(
        None,
        "--task LABEL",
        "read only this story (task of the human dataset); repeatable",
        shown="all",
        action="append",
    )
    participant_labels: Sequence[str] | None = _clock(
        None,
        "--participant-label LABEL",
        "read for the runs of these participants of the human dataset, each by itself; repeatable",
        shown="all of a BIDS dataset's words; one reading for runs of one clock",
        action="append",
    )
    word_column: str | None = _words(
        None, "--word-column NAME", "column of the words", shown="word, or text"
    )
    select: str | None = _words(
        None,
        "--select QUERY",
        "rows of the stimuli to read, as pandas asks: 'trial_type==\"Words\"'; where --like "
        "names another dataset, the one event of its runs with which the story begins",
        shown="all; the run's first volume",
    )
    tier: str | None = _words(None, "--tier NAME", "interval tier of a TextGrid", shown="word")
    context: str | int = _reading(
        "story",
        "--context story|sentence|N",
        "what the model has before it at a word: the story, the sentence, or at most N tokens",
        shown="story",
        stored=True,
        parse=_context,
        least=1,
    )
    stride: int | None = _reading(
        None,
        "--stride TOKENS",
        "tokens by which a window moves on; 1 gives every token N tokens of context",
        shown="half the window",
        stored=True,
        least=1,
    )
    pool: str = _reading(
        "last",
        "--pool",
        "which of a word's tokens give its value",
        stored=True,
        choices=("last", "mean", "sum"),
    )
    at: str = _reading(
        "word",
        "--at",
        "position that has read the word, or that predicts it",
        stored=True,
        choices=("word", "before"),
    )
    resampling: str = _reading(
        "lanczos",
        "--resample",
        "values of words to volumes: a Lanczos filter (3 lobes, cutoff 1/TR), their average in "
        "each volume, or the last word in each",
        stored=True,
        choices=("lanczos", "average", "none"),
    )
    anchor: str = _reading(
        "mid",
        "--anchor",
        "time within a word at which its value stands",
        stored=True,
        choices=("mid", "onset", "end"),
    )
    model: str | Path = shared(ScanOptions, "model")
    revision: str | None = shared(ScanOptions, "revision")
    adapter: str | Path | None = shared(ScanOptions, "adapter")
    sites: Sequence[str] = shared(ScanOptions, "sites")
    device: str = shared(ScanOptions, "device")
    dtype: str = shared(ScanOptions, "dtype")
    trust_remote_code: bool = shared(ScanOptions, "trust_remote_code")
    random_weights: int | None = shared(ScanOptions, "random_weights", group="model")
    seed: int = shared(ScanOptions, "seed", group="volumes")
    volume_dtype: str = shared(ScanOptions, "volume_dtype")
    compress: bool = shared(ScanOptions, "compress")
    hrf_model: str | None = shared(ScanOptions, "hrf_model")
    arrangement: str | Path = shared(
        ScanOptions,
        "arrangement",
        text="units in a panel: index (native order), random, or as in another dataset (its "
        "folder, or its tpl-*_arrangement.tsv.gz)",
    )
    space_label: str | None = shared(ScanOptions, "space_label")
    authors: Sequence[str] = shared(ScanOptions, "authors")

    def scan_options(self) -> ScanOptions:
        """Give what a reading shares with a scan."""
        known = {item.name for item in fields(ScanOptions)} - {"task_labels"}
        shared_names = (item.name for item in fields(self) if item.name in known)
        return ScanOptions(**chosen(self, *shared_names))


def make_reading(
    asked: ReadOptions, *, t_r: float, n_volumes: int, start_time: float | None = None
) -> Reading:
    """Put a clock and the options of a reading together."""
    if not 0 < t_r < math.inf:
        raise UsageError(f"repetition time (--tr) {t_r}: expected seconds above 0")
    if isinstance(asked.context, str) and asked.context not in ("story", "sentence"):
        raise UsageError(
            f"context (--context) {asked.context!r}: expected story, sentence or tokens"
        )
    middle = t_r / 2 if start_time is None else start_time
    return Reading(
        t_r=t_r,
        n_volumes=n_volumes,
        start_time=0.0 if asked.per_word else middle,
        **chosen(asked, "context", "stride", "pool", "at", "resampling", "anchor", "per_word"),
    )
