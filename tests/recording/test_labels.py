"""Trial types that contradict what was shown: the kind of OpenNeuro's ds000107 (PDDL)."""

import json

import pandas as pd
import pytest

from llm2bids.recording.labels import label_contradictions
from llm2bids.recording.stimuli import read_stimuli

DS107 = {
    "Words": ("mist", "otter", "verse", "pail", "bosom", "tidy"),
    "Objects": ("blmv", "gmzbw", "fpjnl", "vfsd", "vlmgf"),
    "Scrambled objects": ("kettle", "ear", "pencil", "drill", "window"),
    "Consonant strings": ("scram_1", "scram_2", "scram_29", "scram_10"),
}
"""Labels and strings as its events have them, a few of each."""


def events_of(shown):
    rows = [(kind, word) for kind, words in shown.items() for word in words]
    table = pd.DataFrame(rows, columns=["trial_type", "0"])
    return table.assign(onset=table.index * 1.1, duration=0.35)


def lines_of(shown):
    return label_contradictions(events_of(shown).rename(columns={"0": "word"}))


def test_the_labels_of_ds107_are_named_and_words_are_not():
    assert [line.partition(" (")[0] for line in lines_of(DS107)] == [
        "Objects: 5 of 5 have no vowel",
        "Scrambled objects: 5 of 5 are not named as those of other labels are",
        "Consonant strings: 4 of 4 are named after another",
    ]


@pytest.mark.parametrize(
    "shown",
    [
        {  # the same strings where they belong
            "Words": DS107["Words"],
            "Consonant strings": DS107["Objects"],
            "Objects": DS107["Scrambled objects"],
            "Scrambled objects": DS107["Consonant strings"],
        },
        {"word": ("hmm", "the", "Mrs", "house", "a", "Прст", "王子"), "noise": ("oh", "ah")},
        {"S": ("I", "TV", "saw", "her", "cat"), "N": ("gromp", "blick", "florp", "tasp")},
        {"letters": ("ksd", "pfg", "wrt", "lmn"), "Words": ("tell", "me", "more", "again")},
        {"few": ("bcd", "fgh")},
        {"face": ("face_01", "face_02", "face_03", "face_04"), "house": tuple("abcd")},
    ],
)
def test_labels_that_fit_are_not_named(shown):
    assert lines_of(shown) == []


def test_consonant_strings_with_vowels_are_named():
    assert "have vowels or digits" in lines_of({"consonants": ("tell", "me", "more", "again")})[0]


def test_reading_such_events_warns_once_and_keeps_string_and_label(tmp_path, caplog):
    (tmp_path / "dataset_description.json").write_text(
        json.dumps({"Name": "like ds000107", "BIDSVersion": "1.11.1"})
    )
    for participant in ("01", "02"):
        folder = tmp_path / f"sub-{participant}" / "func"
        folder.mkdir(parents=True)
        name = folder / f"sub-{participant}_task-oneback_run-01_events.tsv"
        events_of(DS107)[["onset", "duration", "trial_type", "0"]].to_csv(
            name, sep="\t", index=False
        )
    stories = read_stimuli(tmp_path, word_column="0")
    assert len(stories) == 2 and len(caplog.records) == 1
    assert "trial_type contradicts the strings: Objects: 5 of 5 have no vowel" in caplog.text
    words = stories[0].words
    assert words[["trial_type", "word"]].iloc[6].tolist() == ["Objects", "blmv"]
    caplog.clear()
    only = read_stimuli(tmp_path, word_column="0", select='trial_type=="Words"')
    assert only[0].words["word"].tolist() == list(DS107["Words"]) and not caplog.records
