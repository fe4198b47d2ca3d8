"""Stories as a dataset: clocks, files, resuming, and what other tools read of it."""

import json
import logging
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import llm2bids
from llm2bids.cli.main import main
from llm2bids.dataset.check import check_dataset
from llm2bids.dataset.run import convolve
from llm2bids.exceptions import DatasetError, RecordingError, UsageError
from llm2bids.scan.read import read

TEXT = (
    "The senate of the old republic voted on the new law. A scan of the chest shows a small "
    "shadow. On Sunday we bake bread, don't we?"
)
OPTIONS = {"progress": False, "device": "cpu"}


def words(begin=0.5):
    table = pd.DataFrame({"word": TEXT.split()})
    table["onset"] = np.round(begin + np.arange(len(table)) * 0.41 + (table.index > 9) * 8, 3)
    table["duration"] = 0.3
    return table[["onset", "duration", "word"]]


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stimuli")
    words().to_csv(folder / "pieman.tsv", sep="\t", index=False)
    words(2.0).iloc[:12].to_csv(folder / "legacy.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def dataset(model, stimuli, tmp_path_factory):
    path = tmp_path_factory.mktemp("reading") / "bids"
    return read(path, stimuli=stimuli, model=model, t_r=1.5, hrf_model="glover", **OPTIONS)


def test_a_task_for_each_story(dataset):
    assert [run.task for run in dataset.runs] == ["legacy", "pieman"]
    legacy, pieman = dataset.runs
    assert dataset.sidecar(pieman)["NumberOfVolumes"] == 16  # 19.46 s of 1.5 s, and 3 lobes
    assert dataset.sidecar(legacy)["StartTime"] == 0.75
    about = dataset.sidecar(pieman)
    assert (about["Context"], about["Lobes"], about["Cutoff"]) == ("story", 3, 1 / 1.5)
    assert (about["Pooling"], about["Anchor"], about["PositionOfWord"]) == ("last", "mid", "word")
    assert (about["LeadIn"], about["Stimuli"]) == ("<s>", "pieman.tsv")
    assert "Sampling" not in about and "NumberOfGeneratedTokens" not in about
    assert (dataset.path / "stimuli/story.tsv").read_text().count("\n") == 3


def test_events_have_a_row_for_each_word(dataset):
    events = pd.read_csv(dataset.runs[1].events, sep="\t", keep_default_na=False)
    assert list(events) == [
        "onset", "duration", "trial_type", "word", "surprisal", "entropy", "n_tokens",
    ]  # fmt: skip
    np.testing.assert_allclose(events["onset"], words()["onset"])
    assert events["word"].tolist() == TEXT.split()
    described = json.loads((dataset.path / "task-pieman_events.json").read_text())
    assert set(events) < set(described) and list(described["trial_type"]["Levels"]) == ["word"]


def test_a_story_has_no_labels_of_prompts(dataset):
    run = dataset.runs[0]
    with pytest.raises(DatasetError, match="is a story"):
        dataset.labels(run)
    with pytest.raises(DatasetError, match="is a story"):
        dataset.image(run, sites="residual")


def test_values_come_back_within_half_a_step(dataset, tiny_loaded):
    """The last word of the story has three volumes of its own behind it."""
    from tests.recording.test_read import READING, plain

    loaded, run = tiny_loaded("llama"), dataset.runs[1]
    of_tokens = plain(loaded, dataset.space.sites, loaded.tokenizer(TEXT).input_ids)[0][1:]
    table = words()
    ends = [
        len(loaded.tokenizer(" ".join(TEXT.split()[:n])).input_ids)
        for n in range(1, len(table) + 1)
    ]
    of_words = of_tokens[np.array(ends) - 1]
    values = dataset.values(run)
    weights = replace(READING, n_volumes=len(values)).weights(table)
    mean, scale = dataset.calibration.mean, dataset.calibration.scale
    expected = mean + weights @ (of_words - mean)
    step = scale / dataset.sidecar(run)["CountsPerSD"]
    assert dataset.sidecar(run)["NumberOfClippedValues"] == 0
    # a thousandth of a step for the rounding of two forward passes
    assert (np.abs(values - expected) <= 0.501 * step).all()


def test_the_derivative_has_a_series_with_a_response(dataset):
    run = dataset.runs[1]
    place = dataset.path / run.names.hrf
    about = json.loads(place.with_name(place.name.replace(".nii.gz", ".json")).read_text())
    assert (about["HaemodynamicResponse"], about["StartTime"]) == ("glover", 0.75)
    assert dataset.sidecar(run)["HaemodynamicResponse"] == "none"
    counts = dataset.space.to_units(nib.load(place)) - 10000
    raw = dataset.space.to_units(nib.load(run.preproc)) - 10000
    expected = convolve(raw.astype(np.float32), 1.5, "glover", baseline=np.zeros(raw.shape[1]))
    varies = dataset.calibration.sd > 0
    assert np.abs(counts - expected)[:, varies].max() <= 2.0
    assert check_dataset(dataset.path).faults == ()
    place.unlink()
    faults = check_dataset(dataset.path).faults
    place.write_bytes(b"")
    assert any("hrf" in str(fault) for fault in faults)


@pytest.fixture
def human(tmp_path):
    """Two people, one task, TR 2, 14 volumes; the story begins at 4 s."""
    root = tmp_path / "human"
    for label in ("a1", "b2"):
        folder = root / f"sub-{label}" / "func"
        folder.mkdir(parents=True)
        image = nib.Nifti1Image(np.zeros((2, 3, 4, 14), dtype=np.int16), np.eye(4))
        image.header.set_zooms((3, 3, 3, 2.0))
        nib.save(image, folder / f"sub-{label}_task-pieman_bold.nii.gz")
        (folder / f"sub-{label}_task-pieman_events.tsv").write_text(
            "onset\tduration\ttrial_type\n0\t4\tmusic\n4\t20\tstory\n"
        )
    (root / "task-pieman_bold.json").write_text(
        json.dumps({"RepetitionTime": 2.0, "TaskName": "pieman"})
    )
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "h", "BIDSVersion": "1.8.0"})
    )
    return root


def change(human, label, n_volumes):
    path = human / f"sub-{label}/func/sub-{label}_task-pieman_bold.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, n_volumes), dtype=np.int16), np.eye(4)), path)


def test_the_clock_of_human_runs(human, model, stimuli, tmp_path):
    made = read(
        tmp_path / "out", stimuli=stimuli, model=model, like=human, task_labels=["pieman"],
        select='trial_type=="story"', sites=("residual",), **OPTIONS,
    )  # fmt: skip
    (run,) = made.runs
    assert made.t_r(run) == 2.0 and made.values(run).shape[0] == 14
    assert made.sidecar(run)["StartTime"] == 1.0
    np.testing.assert_allclose(made.events(run)["onset"], words()["onset"] + 4)


def test_runs_of_several_clocks_are_read_for_each_participant(human, model, stimuli, tmp_path):
    change(human, "b2", 16)
    options = {
        "stimuli": stimuli / "pieman.tsv", "model": model, "like": human,
        "task_labels": ["pieman"], "sites": ("residual",), **OPTIONS,
    }  # fmt: skip
    with pytest.raises(RecordingError, match=r"not of one clock .*14 volumes of 2 s.*16 volumes"):
        read(tmp_path / "out", **options)
    made = read(tmp_path / "out", participant_labels=["a1", "b2"], **options)
    assert [(run.participant_label, len(made.values(run))) for run in made.runs] == [
        ("a1", 14), ("b2", 16),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "which clock?"),
        ({"t_r": 1.5, "like": "x"}, UsageError, "which clock?"),
        ({"like": "HUMAN"}, UsageError, "expected the task too"),
        ({"like": "HUMAN", "task_labels": ["legacy"]}, UsageError, "has the tasks pieman"),
        ({"like": "HUMAN", "task_labels": ["x"]}, UsageError, "no story of this name; there are"),
        ({"t_r": 1.5, "task_labels": ["x"]}, UsageError, "has the stories legacy, pieman"),
        ({"t_r": 0.1}, UsageError, "below a word"),
        ({"t_r": 1.5, "arrangement": "functional"}, UsageError, "--arrangement functional"),
        ({"t_r": 1.5, "context": 0}, UsageError, r"context \(--context\) is 0; expected 1 or more"),
        (
            {"like": "HUMAN", "task_labels": ["pieman"], "select": 'trial_type=="x"'},
            UsageError,
            "0 rows of",
        ),
    ],
)
def test_what_is_refused(options, error, message, human, model, stimuli, tmp_path):
    if options.get("like") == "HUMAN":
        options = {**options, "like": human}
    with pytest.raises(error, match=message):
        read(tmp_path / "out", stimuli=stimuli, model=model, **options, **OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_run_that_ends_before_its_story(human, model, stimuli, tmp_path):
    for label in ("a1", "b2"):
        change(human, label, 5)
    with pytest.raises(UsageError, match=r"its last word is at .* the run has 5 volumes of 2 s"):
        read(
            tmp_path / "out", stimuli=stimuli, model=model, like=human, task_labels=["pieman"],
            **OPTIONS,
        )  # fmt: skip


def test_a_placeholder_without_data(human, model, stimuli, tmp_path):
    (human / "sub-a1/func/sub-a1_task-pieman_bold.nii.gz").write_bytes(b"")
    with pytest.raises(RecordingError, match="not a readable image"):
        read(
            tmp_path / "out", stimuli=stimuli, model=model, like=human, task_labels=["pieman"],
            **OPTIONS,
        )  # fmt: skip


def test_going_on_and_other_settings(dataset, model, stimuli):
    again = read(dataset.path, stimuli=stimuli, model=model, t_r=1.5, hrf_model="glover", **OPTIONS)
    assert [run.task for run in again.runs] == ["legacy", "pieman"]
    with pytest.raises(DatasetError, match='anchor: "mid" in the dataset, "end" asked for'):
        read(
            dataset.path, stimuli=stimuli, model=model, t_r=1.5, anchor="end", hrf_model="glover",
            **OPTIONS,
        )  # fmt: skip


def test_the_same_reading_gives_the_same_bytes(model, stimuli, tmp_path):
    from tests.scan.test_record_dataset import contents

    options = {"stimuli": stimuli / "pieman.tsv", "model": model, "per_word": True, **OPTIONS}
    for name in ("a", "b"):
        read(tmp_path / name, **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_command(model, stimuli, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    argv = ["read", str(tmp_path / "out"), "--stimuli", str(stimuli), "--model", str(model), "-q"]
    assert main([*argv, "--task", "legacy", "--tr", "2", "--context", "16", "--stride", "4"]) == 0
    assert "1 runs of 1 tasks (legacy)" in capsys.readouterr().out
    made = llm2bids.open_dataset(tmp_path / "out")
    assert made.sidecar(made.runs[0])["Context"] == 16
    assert main(argv) == 2 and "which clock?" in capsys.readouterr().err
    assert main([*argv, "--tr", "2", "--context", "soon"]) == 2


def test_analysis_says_what_a_story_is_for(dataset, tmp_path):
    with pytest.raises(llm2bids.Llm2bidsError, match="stories that were read"):
        llm2bids.analyze_participants(dataset.path, tmp_path / "out")
