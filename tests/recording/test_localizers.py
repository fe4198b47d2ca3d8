"""Localizers: own lists, sums, and the original ones."""

import numpy as np
import pandas as pd
import pytest

from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.recording.localizers import LANGLOC, is_langloc, localizer_stories, read_langloc
from tests.brought import bring


def trials(stories):
    words = pd.concat([story.words.assign(run=story.run) for story in stories])
    return words.groupby(["run", "sentence"]).agg(
        kind=("trial_type", "first"), text=("word", " ".join), n=("word", "size")
    )


def test_langloc_is_sentences_and_lists_of_as_many_words():
    table = trials(localizer_stories("langloc", seed=1))
    assert table["kind"].value_counts().to_dict() == {"S": 96, "N": 96}
    assert set(table["n"]) == {12} and table["text"].is_unique
    assert table.groupby("run")["kind"].value_counts().unique().tolist() == [48]


def test_a_nonword_comes_back_as_often_as_its_word():
    shipped = pd.read_csv(LANGLOC, sep="\t", keep_default_na=False)
    counts = {
        kind: sorted(pd.Series(" ".join(rows).split()).value_counts(), reverse=True)
        for kind, rows in shipped.groupby("trial_type")["text"]
    }
    assert sum(counts["S"]) == sum(counts["N"]) == 96 * 12
    words = set(" ".join(shipped.loc[shipped["trial_type"] == "S", "text"]).split())
    nonwords = set(" ".join(shipped.loc[shipped["trial_type"] == "N", "text"]).split())
    assert not words & nonwords


@pytest.mark.slow
def test_lists_have_as_many_tokens_as_their_sentences():
    from llm2bids.model.load import load_model

    tokenizer = load_model("embedded", device="cpu").tokenizer
    shipped = pd.read_csv(LANGLOC, sep="\t", keep_default_na=False)
    n_tokens = shipped["text"].map(lambda text: len(tokenizer(text).input_ids))
    kinds = shipped["trial_type"]
    assert n_tokens[kinds == "S"].tolist() == n_tokens[kinds == "N"].tolist()
    assert n_tokens[kinds == "S"].mean() == pytest.approx(27.23, abs=0.01)


def test_sums_are_right_easy_or_hard():
    table = trials(localizer_stories("md", seed=3))
    assert table["kind"].value_counts().to_dict() == {"H": 96, "E": 96}
    for kind, text in zip(table["kind"], table["text"], strict=True):
        first, plus, second, equals, total = text.split()
        assert (plus, equals) == ("+", "=") and int(first) + int(second) == int(total)
        assert len(first) == len(second) == len(total) == 3
        carries = int(first[2]) + int(second[2]) > 9 and int(first[1]) + int(second[1]) > 8
        assert carries == (kind == "H")


def test_time_and_order():
    first, second = localizer_stories("langloc", seed=1)
    assert (first.label, first.run, second.run) == ("langloc", 1, 2)
    onset = first.words["onset"].to_numpy()
    steps = np.diff(onset).round(6)
    assert set(steps) == {0.45, 1.05} and (steps == 1.05).sum() == 95
    again, _ = localizer_stories("langloc", seed=1)
    other, _ = localizer_stories("langloc", seed=2)
    assert again.words.equals(first.words) and not other.words.equals(first.words)


def original(folder, rows, name="langloc_fmri_run1_stim_set1.csv"):
    folder.mkdir(exist_ok=True)
    header = "stim1," + ",".join(f"stim{i}" for i in range(2, 15))
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_a_folder_of_the_original_lists(tmp_path):
    words = ",".join("ABCDEFGHIJKL")
    folder = original(tmp_path / "x", [f"1,{words},S", f"2,{words},N"])
    original(folder, [f"1,{words},N"], "langloc_fmri_run2_stim_set1.csv")
    assert is_langloc(folder) and not is_langloc(tmp_path)
    one, two = read_langloc(folder)
    assert (one.run, two.run, len(two.words)) == (1, 2, 12)
    assert list(one.words["trial_type"].unique()) == ["S", "N"]


@pytest.mark.parametrize("row", ["1,A,B,X", "1,A,,S"])
def test_a_row_that_is_none(row, tmp_path):
    with pytest.raises(RecordingError, match="expected a number, 12 words and S or N"):
        read_langloc(original(tmp_path / "x", [row]))
    with pytest.raises(RecordingError, match="and its kin"):
        read_langloc(tmp_path)


def test_the_original_without_its_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install brainscore-language"):
        localizer_stories("brainscore-language", seed=0)


@pytest.mark.interop
def test_the_original_of_brainscore_language(monkeypatch):
    bring(monkeypatch, "brainscore-language==2.3.0")
    table = trials(localizer_stories("brainscore-language", seed=0))
    assert table["kind"].value_counts().to_dict() == {"S": 240, "N": 240}
    assert set(table["n"]) == {12}
