"""Words as a text, and what is refused of their times."""

import numpy as np
import pandas as pd
import pytest

from llm2bids.exceptions import RecordingError
from llm2bids.recording.story import Story, check_story, join_words, sentence_numbers


def story(words, onset=None, duration=0.25, sentence=None):
    table = pd.DataFrame({"word": words})
    table["onset"] = np.arange(len(table)) * 0.5 if onset is None else onset
    table["duration"] = duration
    return Story(
        label="s", words=table.assign(trial_type="word", sentence=sentence), source="s.tsv"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["I", "do", "n't", "know", ",", "said", "Tom", "."], "I don't know, said Tom."),
        (["well-known", "3,14", "O'Neil's", "(", "x", ")"], "well-known 3,14 O'Neil's (x)"),
        (["小", "王子", "说", "。", "hello", "王"], "小王子说。 hello 王"),
        (["قال", "الأمير", "؟"], "قال الأمير؟"),
        (["R", "&", "D", "#1"], "R & D #1"),
    ],
)
def test_text_and_places(words, text):
    joined, places = join_words(pd.Series(words))
    assert joined == text
    assert [joined[start:end] for start, end in places] == words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": []}, "s.tsv: no word in it"),
        ({"onset": [np.nan, np.nan, np.nan]}, "no word has an onset"),
        ({"onset": [0, 2, 1]}, r"word 3 \('c'\) begins at 1 s, before the word before it \(2 s\)"),
        ({"onset": [0, 0.2, 1]}, r"word 2 \('b'\) begins at 0.2 s, while the word before it lasts"),
        ({"onset": [-1, 0.2, 1]}, r"word 1 \('a'\) begins at -1 s; expected seconds from 0"),
        ({"duration": [0.1, -0.1, 0.1]}, r"word 2 \('b'\) ends before it begins"),
        ({"onset": [0, np.inf, np.inf]}, r"word 2 \('b'\) begins at inf s"),
        ({"onset": [0, 1e12, 2e12]}, r"word 2 \('b'\) lasts until 1e\+12 s; expected seconds"),
    ],
)
def test_times_that_cannot_be(changes, message):
    with pytest.raises(RecordingError, match=message):
        check_story(story(**{"words": ["a", "b", "c"], **changes}))


def test_words_without_a_time_and_rounding_are_let_be():
    kept = story(["a", "b", "c"], onset=[0, np.nan, 0.245])
    assert check_story(kept) is kept


def test_sentences():
    words = ["Go", "now!", "He", "said:", "“No.”", "完", "了。", "So"]
    assert sentence_numbers(story(words)).tolist() == [0, 0, 1, 1, 1, 2, 2, 3]
    given = story(["a", "b", "c"], sentence=["x", "y", "y"])
    assert sentence_numbers(given).tolist() == [0, 1, 1]
    with pytest.raises(RecordingError, match="neither a column 'sentence' nor a word that ends"):
        sentence_numbers(story(["a", "b"]))
