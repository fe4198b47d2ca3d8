"""Words from the files of this field."""

import json

import numpy as np
import pandas as pd
import pytest

from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.recording.stimuli import label_contradictions, read_stimuli

BIDS = "onset\tduration\ttrial_type\tword\n0.5\t0.25\tWords\tNA\n1.5\t0.25\tWords\tnull\n"
HASSON = "word,start,end\nNA,0.5,0.75\nnull,1.5,1.75\n"
NEURALSET = (
    "type,start,duration,timeline,text,context,sentence,modality\n"
    "Sound,0,9,pieman,,,,\n"
    "Word,0.5,0.25,pieman,NA,,NA null,heard\nWord,1.5,0.25,pieman,null,NA,NA null,heard\n"
)
NARRATIVES = "NA,na,0.5,0.75\nnull,null,1.5,1.75\n"
LITCODER = "start_time\tend_time\ttext\n0.5\t0.75\tNA\n1.5\t1.75\tnull\n"
TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "phone"
        xmin = 0
        xmax = 2
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 2
            text = "AH0"
    item [2]:
        class = "IntervalTier"
        name = "word"
        xmin = 0
        xmax = 2
        intervals: size = 5
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = "sp"
        intervals [2]:
            xmin = 0.5
            xmax = 0.75
            text = "NA"
        intervals [3]:
            xmin = 0.75
            xmax = 1.5
            text = "{LG}"
        intervals [4]:
            xmin = 1.5
            xmax = 1.75
            text = "null"
        intervals [5]:
            xmin = 1.75
            xmax = 2
            text = ""
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pieman.tsv", BIDS),
        ("pieman.csv", HASSON),
        ("sub-01_task-pieman_events.csv", NEURALSET),
        ("pieman_.csv", NARRATIVES),
        ("pieman.txt", LITCODER),
        ("pieman.TextGrid", TEXTGRID),
    ],
    ids=["bids", "hasson", "neuralset", "narratives", "litcoder", "textgrid"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_words_of_every_kind_of_file(name, text, encoding, tmp_path):
    (tmp_path / name).write_text(text, encoding=encoding)
    (story,) = read_stimuli(tmp_path / name)
    assert (story.label, story.participant_label, story.run) == ("pieman", "01", None)
    assert story.words["word"].tolist() == ["NA", "null"]  # which are words
    np.testing.assert_allclose(story.words["onset"], [0.5, 1.5])
    np.testing.assert_allclose(story.words["duration"], [0.25, 0.25])
    assert set(story.words["trial_type"]) == ({"Words"} if text == BIDS else {"word"})


def test_a_folder_and_a_column_of_stories(tmp_path):
    (tmp_path / "b.csv").write_text("story,onset,duration,word\nx y,0,1,a\nz,0,1,b\nx y,1,1,c\n")
    (tmp_path / "task-legacy_run-2_words.tsv").write_text(BIDS)
    (tmp_path / "notes.md").write_text("not a story")
    stories = read_stimuli(tmp_path)
    found = {(s.label, s.run): s.words["word"].tolist() for s in stories}
    assert found == {("xY", None): ["a", "c"], ("z", None): ["b"], ("legacy", 2): ["NA", "null"]}


def test_words_without_a_time_stay(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Alice,alice,0.1,0.4\nmumbled,<unk>,,\nso,so,1.0,1.2\n")
    (story,) = read_stimuli(path)
    assert story.words["word"].tolist() == ["Alice", "mumbled", "so"]
    assert story.words["onset"].isna().tolist() == [False, True, False]


def dataset(root, rows="0.5\t0.3\tWords\ttree\n1.5\t0.3\tObjects\tsky\n"):
    """A human dataset without images: what bids-examples has of ds000107."""
    folder = root / "sub-07" / "func"
    folder.mkdir(parents=True)
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "x", "BIDSVersion": "1.8.0"})
    )
    (folder / "sub-07_task-onebacktask_run-01_events.tsv").write_text(
        "onset\tduration\ttrial_type\t0\n" + rows
    )
    return root


def test_words_of_a_bids_dataset(tmp_path):
    root = dataset(tmp_path / "human")
    (story,) = read_stimuli(root, word_column="0", select='trial_type=="Words"')
    assert (story.participant_label, story.label, story.run) == ("07", "onebacktask", 1)
    assert story.words["word"].tolist() == ["tree"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, RecordingError, "columns onset, duration, trial_type, 0; expected onset"),
        ({"word_column": "w"}, UsageError, "--word-column w: .* has the columns onset, duration"),
        ({"word_column": "0", "select": "kind == 1"}, UsageError, "cannot be asked of"),
        ({"word_column": "0", "tasks": ["x"]}, UsageError, "has the tasks onebacktask"),
        ({"word_column": "0", "participant_labels": ["1"]}, UsageError, "has 07"),
        ({"word_column": "0", "select": 'trial_type=="x"'}, RecordingError, "no word in it"),
    ],
)
def test_what_cannot_be_read_of_a_bids_dataset(options, error, message, tmp_path):
    root = dataset(tmp_path / "human")
    with pytest.raises(error, match=message):
        read_stimuli(root, **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "onset\tduration\tword\n", "no word in it"),
        ("a.tsv", "onset\tduration\tword\n0\t1\tn/a\n", "no word in it"),
        ("a.tsv", "", "not a readable table"),
        ("a.tsv", "onset\tword\n0\tx\n", "expected onset .or start., duration or end"),
        ("a.tsv", "onset\tduration\tword\nsoon\t1\tx\n", "column onset holds 'soon'"),
        ("a.tsv", "onset\tduration\tword\n1\t.2\tx\n0\t.2\ty\n", "before the word before it"),
        ("a.tsv", "onset\tduration\tword\n1\t.9\tx\n1.5\t.2\ty\n", "that do not overlap"),
        ("a.tsv", "onset\tduration\tword\n1\t.9\tna\u00efve\n".encode("latin-1"), "in UTF-8"),
        ("a.TextGrid", TEXTGRID.replace('"word"', '"ORT"'), "its tiers are phone, ORT"),
        ("a.TextGrid", TEXTGRID[:300], "not a readable TextGrid"),
        ("a.docx", "x", "expected a table"),
    ],
)
def test_what_cannot_be_read(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecordingError, match=message):
        read_stimuli(path)


def test_another_tier(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(TEXTGRID.replace('"word"', '"ORT"'))
    assert read_stimuli(path, tier="ORT")[0].words["word"].tolist() == ["NA", "null"]


def test_a_folder_without_stories(tmp_path):
    with pytest.raises(
        RecordingError, match=r"no .tsv, .csv or .TextGrid in it, and it is no BIDS"
    ):
        read_stimuli(tmp_path)
    with pytest.raises(RecordingError, match="no such file or folder"):
        read_stimuli(tmp_path / "x")


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
