"""Reading stories from files: tables of words, Praat TextGrids, events of BIDS datasets."""

import csv
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.recording.labels import label_contradictions
from llm2bids.recording.story import Story, check_story
from llm2bids.store.tables import to_numbers

log = logging.getLogger(__name__)

_NAMES = {
    "onset": ("onset", "start", "start_time", "begin", "tmin", "word_onset"),
    "duration": ("duration", "dur"),
    "end": ("end", "offset", "stop", "end_time", "tmax", "word_offset"),
    "word": ("word", "text", "words"),
    "sentence": ("sequence_id", "sentence_id", "sentence", "sentence_number"),
    "story": ("story", "timeline"),
    "trial_type": ("trial_type",),
    "kind": ("type",),
}
"""Names of columns: BIDS', those of the Hasson lab, litcoder's, and neuralset's."""

_ALIGNED = ("word", "lowercase", "onset", "offset")
"""Columns of the aligned transcripts of OpenNeuro's Narratives (Gentle's), which have no header."""

_TABLES = (".tsv", ".csv", ".txt")
_TIERS = ("word", "words")
_NO_WORDS = {"sp", "sil", "spn", "br", "lg", "ls", "ns", "cg", "ig", "sentence_start",
             "sentence_end", "eps", "silence"}  # fmt: skip
"""Labels of silence and noise in forced alignments (Penn's, MFA's, Huth's), without brackets."""


def read_stimuli(
    path: Path,
    *,
    word_column: str | None = None,
    select: str | None = None,
    tier: str | None = None,
    tasks: Sequence[str] = (),
    participant_labels: Sequence[str] = (),
) -> list[Story]:
    """Read the stories of a file, a folder of files or a BIDS dataset."""
    if not path.exists():
        raise RecordingError(f"{path}: no such file or folder; expected words with onsets")
    if path.is_dir() and (path / "dataset_description.json").exists():
        from llm2bids.recording.human import event_files

        stories = [
            story
            for file, entities in event_files(path, tasks, participant_labels)
            for story in _read_table(file, word_column, select, entities)
        ]
        if not stories:
            raise RecordingError(f"{path}: no words in its events; name the column (--word-column)")
        _warn_of_labels(path, stories)
        return stories
    files = _files(path) if path.is_dir() else [path]
    stories = []
    for file in files:
        if file.suffix.lower() == ".textgrid":
            stories.append(_read_textgrid(file, tier))
        elif file.suffix.lower() in _TABLES:
            stories += _read_table(file, word_column, select, None)
        else:
            raise RecordingError(
                f"{file}: expected a table (.tsv, .csv), a Praat TextGrid (.TextGrid), or the "
                "folder of a BIDS dataset"
            )
    runs = [(story.participant_label, story.label, story.run) for story in stories]
    if len(set(runs)) < len(runs):
        twice = next(run for run in runs if runs.count(run) > 1)
        raise RecordingError(f"{path}: story {twice[1]} is there twice; give each its own name")
    _warn_of_labels(path, stories)
    return stories


def _warn_of_labels(path: Path, stories: Sequence[Story]) -> None:
    """Say where trial types contradict what was shown; the strings are what is read."""
    words = pd.concat([story.words[["trial_type", "word"]] for story in stories])
    if lines := label_contradictions(words):
        log.warning(
            "%s: trial_type contradicts the strings: %s. The strings are read, and keep these "
            "labels; mend the column, or choose rows by what is right in them (--select)",
            path,
            "; ".join(lines),
        )


def _files(folder: Path) -> list[Path]:
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in (*_TABLES, ".textgrid") and not file.name.startswith(".")
    )
    if not files:
        raise RecordingError(
            f"{folder}: no .tsv, .csv or .TextGrid in it, and it is no BIDS dataset (no "
            "dataset_description.json)"
        )
    return files


def read_text(path: Path) -> str:
    """Read a text in UTF-8, or in UTF-16 where it says so."""
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise RecordingError(
            f"{path}: byte {error.start} is not {encoding.upper()}; expected a text in UTF-8: save "
            "it again with this encoding"
        ) from None


def _read_table(
    path: Path, word_column: str | None, select: str | None, entities: dict[str, str] | None
) -> list[Story]:
    table = _cells(path)
    if select is not None:
        table = _asked(table, path, select)
    columns = _columns(table, path, word_column)
    if "kind" in columns and (table[columns["kind"]] == "Word").any():  # neuralset's events
        table = table[table[columns["kind"]] == "Word"]
    texts = table[columns["word"]].str.strip()
    spoken = ~texts.isin(["", "n/a"])
    table, texts = table[spoken], texts[spoken]
    words = pd.DataFrame({"onset": _seconds(table, columns["onset"], path)})
    if "duration" in columns:
        words["duration"] = _seconds(table, columns["duration"], path)
    else:
        words["duration"] = _seconds(table, columns["end"], path) - words["onset"]
    words["word"] = texts
    kinds = table[columns["trial_type"]] if "trial_type" in columns else "word"
    words["trial_type"] = kinds
    words["sentence"] = table[columns["sentence"]] if "sentence" in columns else pd.NA
    run, label, participant = _of_name(path.name)
    if entities is not None:
        label, participant = entities["task"], entities.get("subject", "01")
        run = int(entities["run"]) if "run" in entities else None
    if not len(words):
        raise RecordingError(f"{path}: no word in it; expected words with onsets")
    keys = table[columns["story"]] if "story" in columns else pd.Series(label, index=words.index)
    groups = words.groupby(keys, sort=False)
    stories = [
        Story(
            label=_label(str(key)) if "story" in columns else label,
            words=rows.reset_index(drop=True),
            source=f"{path}: story {key!s}" if "story" in columns else str(path),
            participant_label=participant,
            run=run,
        )
        for key, rows in groups
    ]
    return [check_story(story) for story in stories]


def _cells(path: Path) -> pd.DataFrame:
    """Read a table as texts."""
    text = read_text(path)
    comma = path.suffix.lower() == ".csv" or (path.suffix == ".txt" and "\t" not in text)
    try:
        table = _texts(text, comma)
        if len(table.columns) == len(_ALIGNED) and not _known(table) & {"onset", "word"}:
            table = _texts(text, comma, names=list(_ALIGNED))
    except (ValueError, csv.Error) as error:
        raise RecordingError(f"{path}: not a readable table ({error}); expected words") from None
    return table


def _texts(text: str, comma: bool, names: list[str] | None = None) -> pd.DataFrame:
    return pd.read_csv(
        io.StringIO(text),
        sep="," if comma else "\t",
        quoting=csv.QUOTE_MINIMAL if comma else csv.QUOTE_NONE,  # BIDS tables have no quotes
        dtype="str",
        keep_default_na=False,  # "null" and "NA" are words
        header="infer" if names is None else None,
        names=names,
    )


def _known(table: pd.DataFrame) -> set[str]:
    lower = {str(name).strip().lower() for name in table}
    return {kind for kind, names in _NAMES.items() if lower & set(names)}


def _columns(table: pd.DataFrame, path: Path, word_column: str | None) -> dict[str, str]:
    """Find which column has what."""
    by_lower = {str(name).strip().lower(): str(name) for name in reversed(list(table))}
    columns = {
        kind: by_lower[name]
        for kind, names in _NAMES.items()
        for name in reversed(names)
        if name in by_lower
    }
    if word_column is not None:
        if word_column not in table:
            raise UsageError(
                f"--word-column {word_column}: {path} has the columns {', '.join(map(str, table))}"
            )
        columns["word"] = word_column
    missing = [kind for kind in ("onset", "word") if kind not in columns]
    if missing or not columns.keys() & {"duration", "end"}:
        raise RecordingError(
            f"{path}: columns {', '.join(map(str, table))}; expected onset (or start), duration or "
            "end (or offset), and word (or text; another one with --word-column)"
        )
    return columns


def _seconds(table: pd.DataFrame, name: str, path: Path) -> "pd.Series[float]":
    cells = table[name].str.strip()
    numbers = to_numbers(cells).astype("float64")
    wrong = numbers.isna() & ~cells.isin(["", "n/a", "nan", "NaN"])
    if wrong.any():
        raise RecordingError(
            f"{path}: column {name} holds {cells[wrong].iloc[0]!r}; expected seconds, or n/a for a "
            "word without a time"
        )
    return numbers


def _read_textgrid(path: Path, tier: str | None) -> Story:
    try:
        from praatio import textgrid
    except ImportError:
        raise UsageError(
            f"{path}: a Praat TextGrid needs praatio: pip install 'llm2bids[reading]'"
        ) from None
    read_text(path)  # says which encoding it expects
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    except Exception as error:  # praatio raises its own kinds and plain ones
        raise RecordingError(
            f"{path}: not a readable TextGrid ({type(error).__name__}: {error})"
        ) from None
    names = list(grid.tierNames)
    wanted = [name for name in names if (name == tier if tier else name.lower() in _TIERS)]
    if len(wanted) != 1 or not isinstance(grid.getTier(wanted[0]), textgrid.IntervalTier):
        raise RecordingError(
            f"{path}: {'no' if not wanted else 'no single'} interval tier {tier or 'word'}; its "
            f"tiers are {', '.join(names) or 'none'}: name one with --tier"
        )
    rows = [
        (float(start), float(end) - float(start), label.strip())
        for start, end, label in grid.getTier(wanted[0]).entries
        if label.strip() and label.strip().strip("{}<>[]()").lower() not in _NO_WORDS
    ]
    words = pd.DataFrame(rows, columns=["onset", "duration", "word"])
    run, label, participant = _of_name(path.name)
    return check_story(
        Story(
            label=label,
            words=words.assign(trial_type="word", sentence=None),
            source=str(path),
            participant_label=participant,
            run=run,
        )
    )


def _of_name(name: str) -> tuple[int | None, str, str]:
    """Read run, task and participant from a file's name: BIDS entities, or all of it is the task.

    Examples
    --------
    >>> _of_name("sub-02_task-pieman_run-1_events.tsv"), _of_name("under the_sea.TextGrid")
    ((1, 'pieman', '02'), (None, 'underTheSea', '01'))
    """
    entities = dict(re.findall(r"(sub|task|run)-([A-Za-z0-9]+)", name))
    label = entities.get("task") or _label(name.rpartition(".")[0])
    run = entities.get("run", "")
    return int(run) if run.isdigit() else None, label, entities.get("sub", "01")


def _label(name: str) -> str:
    """Make a BIDS label of a name."""
    words = re.findall(r"[A-Za-z0-9]+", name)
    return "".join(words[:1] + [word[0].upper() + word[1:] for word in words[1:]]) or "story"


def selected_onset(events: Path, select: str) -> float:
    """Read the onset of the one event that is asked for."""
    table = _asked(_cells(events), events, select)
    if len(table) != 1 or "onset" not in table:
        raise UsageError(
            f"--select {select}: {len(table)} rows of {events}; expected one, the event with which "
            "the story begins"
        )
    return float(_seconds(table, "onset", events).iloc[0])


def _asked(table: pd.DataFrame, path: Path, select: str) -> pd.DataFrame:
    try:
        return table.query(select)
    except Exception as error:  # pandas lets every kind through
        raise UsageError(
            f"--select {select}: cannot be asked of {path} ({error}); its columns are "
            f"{', '.join(map(str, table))}"
        ) from None
