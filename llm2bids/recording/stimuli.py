"""Reading stories from files: tables of words, Praat TextGrids, events of BIDS datasets."""

import csv
import io
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.recording.story import Story, check_story
from llm2bids.store.tables import to_numbers

log = logging.getLogger(__name__)

# Names of columns: BIDS', those of the Hasson lab, litcoder's, and neuralset's.
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

# Columns of the aligned transcripts of OpenNeuro's Narratives (Gentle's), which have no header.
_ALIGNED = ("word", "lowercase", "onset", "offset")

_TABLES = (".tsv", ".csv", ".txt")
# Labels of silence and noise in forced alignments (Penn's, MFA's, Huth's), without brackets.
_NO_WORDS = {"sp", "sil", "spn", "br", "lg", "ls", "ns", "cg", "ig", "sentence_start",
             "sentence_end", "eps", "silence"}  # fmt: skip


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
    files: Mapping[Path, dict[str, Any]]
    is_bids = (path / "dataset_description.json").exists()
    if is_bids:
        from llm2bids.recording.human import event_files

        files = event_files(path, tasks, participant_labels)
    else:
        files = {file: _of_name(file.name) for file in (_files(path) if path.is_dir() else [path])}
    stories: list[Story] = []
    for file, run in files.items():
        if file.suffix.lower() == ".textgrid":
            stories.append(_read_textgrid(file, run, tier))
        elif file.suffix.lower() in _TABLES:
            stories += _read_table(file, run, word_column, select)
        else:
            raise RecordingError(
                f"{file}: expected a table (.tsv, .csv), a Praat TextGrid (.TextGrid), or the "
                "folder of a BIDS dataset"
            )
    kinds = {file.suffix.lower() for file in files}
    unused = [
        flag
        for flag, given, used in (
            ("--tier", tier, ".textgrid" in kinds),
            ("--word-column", word_column, kinds - {".textgrid"}),
            ("--select", select, kinds - {".textgrid"}),
            ("--participant-label", participant_labels, is_bids),
        )
        if given and not used
    ]
    if unused:
        raise UsageError(f"{path}: {', '.join(unused)} has no effect on these words; leave it out")
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
    path: Path, run: dict[str, Any], word_column: str | None, select: str | None
) -> list[Story]:
    table = _cells(path)
    if select is not None:
        table = _asked(table, path, select)
    columns = _columns(table, path, word_column)
    if "kind" in columns and (table[columns["kind"]] == "Word").any():  # neuralset's events
        table = table[table[columns["kind"]] == "Word"]
    texts = table[columns["word"]].str.strip()
    table = table[~texts.isin(["", "n/a"])]
    if not len(table):
        raise RecordingError(f"{path}: no word in it; expected words with onsets")
    onset = _seconds(table, columns["onset"], path)
    length = _seconds(table, columns.get("duration", columns.get("end", "")), path)
    words = pd.DataFrame(
        {
            "onset": onset,
            "duration": length if "duration" in columns else length - onset,
            "word": texts[table.index],
            "trial_type": table[columns["trial_type"]] if "trial_type" in columns else "word",
            "sentence": table[columns["sentence"]] if "sentence" in columns else pd.NA,
        }
    )
    if "story" not in columns:
        return [check_story(Story(words=words.reset_index(drop=True), source=str(path), **run))]
    return [
        check_story(
            Story(
                words=rows.reset_index(drop=True),
                source=f"{path}: story {key!s}",
                **{**run, "label": _label(str(key))},
            )
        )
        for key, rows in words.groupby(table[columns["story"]], sort=False)
    ]


def _cells(path: Path) -> pd.DataFrame:
    """Read a table as texts."""
    text = read_text(path)
    comma = path.suffix.lower() == ".csv" or (path.suffix == ".txt" and "\t" not in text)
    how: dict[str, Any] = {
        "sep": "," if comma else "\t",
        "quoting": csv.QUOTE_MINIMAL if comma else csv.QUOTE_NONE,  # BIDS tables have no quotes
        "dtype": "str",
        "keep_default_na": False,  # "null" and "NA" are words
    }
    try:
        table: pd.DataFrame = pd.read_csv(io.StringIO(text), **how)
        known = {*_NAMES["onset"], *_NAMES["word"]}
        named = {str(name).strip().lower() for name in table}
        if len(table.columns) == len(_ALIGNED) and not named & known:
            table = pd.read_csv(io.StringIO(text), header=None, names=list(_ALIGNED), **how)
    except (ValueError, csv.Error) as error:
        raise RecordingError(f"{path}: not a readable table ({error}); expected words") from None
    return table


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


def _read_textgrid(path: Path, run: dict[str, Any], tier: str | None) -> Story:
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
    wanted = [
        name for name in names if (name == tier if tier else name.lower() in ("word", "words"))
    ]
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
    words = words.assign(trial_type="word", sentence=None)
    return check_story(Story(words=words, source=str(path), **run))


def _of_name(name: str) -> dict[str, Any]:
    """Read the run of a story from a file's name: BIDS entities, or all of it is the task.

    Examples
    --------
    >>> _of_name("sub-02_task-pieman_run-1_events.tsv")
    {'participant_label': '02', 'label': 'pieman', 'run': 1}
    >>> _of_name("under the_sea.TextGrid")
    {'participant_label': '01', 'label': 'underTheSea', 'run': None}
    """
    entities = dict(re.findall(r"(sub|task|run)-([A-Za-z0-9]+)", name))
    run = entities.get("run", "")
    return {
        "participant_label": entities.get("sub", "01"),
        "label": entities.get("task") or _label(name.rpartition(".")[0]),
        "run": int(run) if run.isdigit() else None,
    }


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


def label_contradictions(words: pd.DataFrame) -> list[str]:
    """Say which trial types have strings that they cannot mean, as in OpenNeuro ds000107."""
    shown = words["word"].str.casefold().groupby(words["trial_type"], sort=False)
    strings = {str(label): list(dict.fromkeys(texts)) for label, texts in shown}
    spoken = {label: set(re.findall(r"[^\W\d_]+", label.casefold())) for label in strings}
    n_labels = Counter(word for words in spoken.values() for word in words)

    def named_after(text: str) -> set[str]:
        """List the labels that a name with a number can stand for: scram_29."""
        stem = re.fullmatch(r"([^\W\d_]{4,})[_-]?\d+", text)
        if stem is None:
            return set()
        own = {word for word, n in n_labels.items() if n == 1 and word.startswith(stem[1])}
        return {label for label, words in spoken.items() if words & own}

    names = {text: named_after(text) for texts in strings.values() for text in texts}
    lines = []
    for label, texts in strings.items():
        consonants = "consonant" in label.casefold()
        # vowels may be missing where the label speaks of letters or nonsense
        letters = re.search(r"consonant|letter|string|non-?sense|random|abbrev", label.casefold())
        unnamed = [text for text in texts if label not in names[text]]
        elsewhere = any(label in names[t] for o in strings if o != label for t in strings[o])
        against = {
            "are named after another": [text for text in unnamed if names[text]],
            "have vowels or digits": [
                text for text in texts if consonants and (_has_vowel(text) or not text.isalpha())
            ],
            "have no vowel": [
                text for text in texts if not letters and _is_word(text) and not _has_vowel(text)
            ],
            "are not named as those of other labels are": unnamed if elsewhere else [],
        }
        for wrong, faulty in against.items():
            if len(texts) >= 4 and len(faulty) > len(texts) / 2:  # of fewer nothing is said
                examples = ", ".join(faulty[:3])
                lines.append(f"{label}: {len(faulty)} of {len(texts)} {wrong} ({examples})")
                break
    return lines


def _is_word(text: str) -> bool:
    return len(text) > 2 and text.isascii() and text.isalpha()


def _has_vowel(text: str) -> bool:
    plain = unicodedata.normalize("NFD", text)
    return any(sign in "aeiouyæœøı" for sign in plain)
