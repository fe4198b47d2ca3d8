"""Stories: words with onsets that a model reads."""

import re
import unicodedata
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from llm2bids.exceptions import RecordingError

# Columns of a story's words. Onset and duration (seconds) may be missing: such a word is read, and
# stands at no time. A sentence is a number that its words share, or missing.
COLUMNS = ("onset", "duration", "word", "trial_type", "sentence")

_DAY = 86_400  # seconds; later words are milliseconds, say

# Seconds by which a word may begin before the one before it has ended: what rounding leaves.
OVERLAP = 0.01

_CLITIC = re.compile(r"(['’](s|t|d|m|ll|re|ve)|n['’]t)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?。！？؟۔।…]['\"”’»)\]]*$")
_WITHOUT_BLANKS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "IDEOGRAPHIC")


@dataclass(frozen=True, kw_only=True, eq=False)
class Story:
    """Words with onsets that a model reads, and the run that they make."""

    label: str  # the task of its run
    words: pd.DataFrame  # one row for each word, with the columns `COLUMNS`
    source: str  # file, for messages
    participant_label: str = "01"
    run: int | None = None

    @property
    def end(self) -> float:
        """Seconds at which the last word has ended."""
        return float((self.words["onset"] + self.words["duration"]).max())

    def shifted(self, seconds: float) -> "Story":
        """Begin later."""
        return replace(self, words=self.words.assign(onset=self.words["onset"] + seconds))


def check_story(story: Story) -> Story:
    """Refuse words whose times cannot be right; gives the story back."""
    words, name = story.words, story.source
    if not len(words):
        raise RecordingError(f"{name}: no word in it; expected words with onsets")
    timed = words[words["onset"].notna() & words["duration"].notna()]
    if not len(timed):
        raise RecordingError(f"{name}: no word has an onset; expected seconds")
    onset = timed["onset"].to_numpy(dtype=float)
    end = onset + timed["duration"].to_numpy(dtype=float)
    faults = {
        "begins at {onset:g} s; expected seconds from 0": (
            ~(np.isfinite(onset) & np.isfinite(end) & (onset >= 0))
        ),
        "ends before it begins ({onset:g} to {end:g} s)": end < onset,
        "lasts until {end:g} s; expected seconds, and less than a day": end > _DAY,
        "begins at {onset:g} s, before the word before it ({onset_before:g} s); expected words in "
        "the order in which they are heard, one speaker a file": (
            np.append(False, onset[1:] < onset[:-1])
        ),
        "begins at {onset:g} s, while the word before it lasts until {end_before:g} s; expected "
        "words that do not overlap, one speaker a file": (
            np.append(False, onset[1:] < end[:-1] - OVERLAP)
        ),
    }
    for problem, wrong in faults.items():
        if wrong.any():
            row = int(wrong.argmax())
            times = {"onset": onset[row], "end": end[row]}
            before = {"onset_before": onset[row - 1], "end_before": end[row - 1]}
            number, word = int(timed.index[row]) + 1, timed["word"].iloc[row]
            fault = problem.format(**times, **before)
            raise RecordingError(f"{name}: word {number} ({word!r}) {fault}")
    return story


def join_words(words: "pd.Series[str]") -> tuple[str, list[tuple[int, int]]]:
    """Write words as a text, with the place of each in it (start, end).

    No blank stands before punctuation and the second half of a split word, nor between words of
    scripts that have none.

    Examples
    --------
    >>> join_words(pd.Series(["I", "do", "n't", "know", ",", "王", "子"]))[0]
    "I don't know, 王子"
    """
    text, places = "", []
    for word in words:
        if text and not _is_joined(text[-1], word):
            text += " "
        places.append((len(text), len(text) + len(word)))
        text += word
    return text, places


def _is_joined(before: str, word: str) -> bool:
    signs = {unicodedata.category(sign) for sign in word}
    is_punctuation = signs <= {"Po", "Pe", "Pf"} and word not in "&@#"
    opens = before in "([{“‘«¿¡"
    without_blanks = _has_no_blanks(before) and _has_no_blanks(word[0])
    return bool(_CLITIC.fullmatch(word)) or is_punctuation or opens or without_blanks


def _has_no_blanks(sign: str) -> bool:
    return unicodedata.name(sign, "").startswith(_WITHOUT_BLANKS)


def sentence_numbers(story: Story) -> "pd.Series[int]":
    """Give the number of each word's sentence, from 0: from the stimuli, or by full stops."""
    words = story.words
    if words["sentence"].notna().all():
        changes = words["sentence"] != words["sentence"].shift()
        return changes.cumsum() - 1
    ends = words["word"].str.contains(_SENTENCE_END)
    if not ends.any():
        raise RecordingError(
            f"{story.source}: context 'sentence', but there is neither a column 'sentence' nor a "
            "word that ends with a full stop; expected one of them, or --context story or N tokens"
        )
    return ends.shift(fill_value=False).cumsum()
