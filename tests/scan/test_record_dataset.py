"""The scanner as one verb, on tiny models with random weights."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm2bids import open_dataset, record, replay
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError, ModelError, ParadigmError, UsageError
from llm2bids.recording.draw import draw_scan
from tests.synthetic import contents

OPTIONS = {
    "paradigm": "off_on_off",
    "task_labels": ("pathology", "randomstrings"),
    "prompts_per_block": 3,
    "tokens_per_prompt": 4,
    "progress": False,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def scanned(model, tmp_path_factory) -> Path:
    """Two participants, two tasks; not to be changed."""
    path = tmp_path_factory.mktemp("scan") / "dataset"
    record(path, model=model, n_participants=2, **OPTIONS)
    return path


@pytest.fixture
def changed(scanned, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(scanned, tmp_path / "dataset"))


def drop_participant(path: Path, label: str) -> None:
    for folder in (path, path / "derivatives" / "llm2bids"):
        shutil.rmtree(folder / f"sub-{label}")


def test_a_dataset_of_all_runs(scanned):
    dataset = open_dataset(scanned)
    assert [(run.participant_label, run.task) for run in dataset.runs] == [
        ("01", "pathology"),
        ("01", "randomstrings"),
        ("02", "pathology"),
        ("02", "randomstrings"),
    ]
    for run in dataset.runs:
        assert dataset.load_run(run).shape == (*dataset.space.shape, 9 * 4)
        assert len(dataset.events(run)) == 3


def test_same_seed_same_bytes_and_another_seed_others(scanned, model, tmp_path):
    record(tmp_path / "again", model=model, n_participants=2, **OPTIONS)
    again, first = contents(tmp_path / "again"), contents(scanned)
    assert again == first
    record(tmp_path / "other", model=model, n_participants=2, seed=1, **OPTIONS)
    other = contents(tmp_path / "other")
    bold = [name for name in first if name.endswith("_bold.nii.gz")]
    assert bold
    assert all(other[name] != first[name] for name in bold)


def test_going_on_gives_the_bytes_of_an_uninterrupted_scan(changed, scanned, model):
    drop_participant(changed, "02")
    record(changed, model=model, n_participants=2, **OPTIONS)
    assert contents(changed) == contents(scanned)


def test_more_participants_leave_the_others_as_they_are(changed, scanned, model):
    record(changed, model=model, n_participants=3, **OPTIONS)
    before, after = contents(scanned), contents(changed)
    runs = [name for name in before if "sub-" in name]
    assert {name: after[name] for name in runs} == {name: before[name] for name in runs}
    assert len(open_dataset(changed).runs) == 6


@pytest.mark.parametrize("batch_size", [None, 100])
def test_a_run_is_recorded_again_with_the_same_bytes(batch_size, tmp_path, model):
    root, options = tmp_path / "one", {**OPTIONS, "batch_size": batch_size}
    if batch_size is None:  # then participants may be added too
        record(root, model=model, n_participants=1, **options)
    record(root, model=model, n_participants=2, **options)
    before = contents(root)
    for path in root.rglob("sub-01_*"):
        path.unlink()
    record(root, model=model, n_participants=2, overwrite=True, **options)
    assert contents(root) == before
    counts = open_dataset(root).participants
    assert (counts["n_runs"] == 2).all()


def test_who_is_complete_is_counted_though_another_of_the_batch_failed(
    tmp_path, model, monkeypatch
):
    write_run = DatasetWriter.write_run

    def full_disk(self, recording, **options):
        if recording.design.participant_label == "02":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_run(self, recording, **options)

    monkeypatch.setattr(DatasetWriter, "write_run", full_disk)
    with pytest.raises(OSError, match="No space left"):
        record(tmp_path / "one", model=model, n_participants=2, batch_size=100, **OPTIONS)
    counts = open_dataset(tmp_path / "one").participants.set_index("participant_id")["n_runs"]
    assert counts["sub-01"] == 2


def test_nothing_is_done_twice(scanned, model, caplog):
    before = {p: p.stat().st_mtime_ns for p in scanned.rglob("*_bold.nii.gz")}
    with caplog.at_level("INFO", "llm2bids"):
        record(scanned, model=model, n_participants=2, **OPTIONS)
    assert "4 of 4 runs are there already" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_participants_share_no_prompt(scanned):
    dataset = open_dataset(scanned)
    shown = [
        set(dataset.transcript(run)["prompt_id"]) | set(dataset.calibration.prompt_ids)
        for run in dataset.runs
    ]
    calibration = set(dataset.calibration.prompt_ids)
    assert len(calibration) == 32
    for index, prompts in enumerate(shown):
        for others in shown[index + 1 :]:
            assert prompts & others == calibration


def test_replaying_a_dataset_gives_its_values(scanned, model, tmp_path):
    replay(tmp_path / "replayed", transcripts=scanned, model=model, n_participants=2, **OPTIONS)
    first, second = open_dataset(scanned), open_dataset(tmp_path / "replayed")
    for one, two in zip(first.runs, second.runs, strict=True):
        np.testing.assert_array_equal(
            first.transcript(one)["token_id"], second.transcript(two)["token_id"]
        )
        step = first.calibration.scale / first.calibration.counts_per_sd
        # both calibrations come from the same resting scan; rounding may fall on either side
        assert np.abs(first.values(one) - second.values(two)).max() <= 1.5 * step.max()


def test_replaying_texts(model, tmp_path):
    drawn = draw_scan(
        n_participants=1, **{k: v for k, v in OPTIONS.items() if k not in ("progress", "device")}
    )
    prompts = [trial.prompt for design in drawn.designs for trial in design.trials]
    table = pd.DataFrame(
        {
            "prompt_id": [prompt.prompt_id for prompt in prompts],
            "answer": [f"a long answer about {prompt.topic} and the river" for prompt in prompts],
        }
    )
    table.to_csv(tmp_path / "answers.tsv", sep="\t", index=False)
    dataset = replay(
        tmp_path / "d",
        transcripts=tmp_path / "answers.tsv",
        model=model,
        n_participants=1,
        **OPTIONS,
    )
    tokens = dataset.transcript(dataset.runs[0])["token"].head(5)
    assert "".join(tokens).startswith("a l")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("prompt_id\ttext\na\tb\n", "expected prompt_id and answer"),
        ("prompt_id\tanswer\na\tb\na\tc\n", "prompt a is answered twice"),
        ("prompt_id\tanswer\na\tb\n", "no answer to 9 of the 9 prompts of sub-01 task-pathology"),
        ("prompt_id\tanswer\na\t\n", "the answer to prompt a is empty"),
        (
            "prompt_id\tposition\ttoken_id\na\t0\t1\na\t0\t2\n",
            "a has a token at position 0 where 1",
        ),
        (
            "prompt_id\tposition\ttoken_id\na\t1\t1\na\t2\t2\n",
            "a has a token at position 1 where 0",
        ),
        (
            "prompt_id\tposition\ttoken_id\nb\t1\t1\nb\t0\t2\na\t0\t1\na\t2\t2\n",
            "prompt a has a token at position 2 where 1 comes next",
        ),
    ],
)
def test_tables_of_answers_that_do_not_serve(table, message, model, tmp_path):
    (tmp_path / "answers.tsv").write_text(table)
    with pytest.raises(DatasetError, match=message):
        replay(
            tmp_path / "d",
            transcripts=tmp_path / "answers.tsv",
            model=model,
            n_participants=1,
            **OPTIONS,
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_participants": 0}, UsageError, "--participants. is 0"),
        ({"seed": -1}, UsageError, "--seed"),
        ({"tokens_per_prompt": 0}, UsageError, "--tokens-per-prompt"),
        ({"task_labels": ("astrology",)}, UsageError, "astrology.*not in paradigm"),
        ({"n_participants": 999}, ParadigmError, "--allow-shared-prompts"),
        ({"sites": ("*.nothing",)}, ModelError, "nothing"),
        ({"paradigm": "off_off"}, ParadigmError, "off_off"),
        ({"tokens_per_prompt": 120}, Exception, "context"),
    ],
)
def test_bad_arguments_leave_nothing_behind(options, error, message, model, tmp_path):
    given = {"n_participants": 1, **OPTIONS, **options}
    with pytest.raises(error, match=message):
        record(tmp_path / "d", model=model, **given)
    assert not (tmp_path / "d").exists()


def test_a_foreign_folder_is_refused_before_the_model_is_loaded(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not empty"):
        record(tmp_path, model="/no/such/model", n_participants=1, **OPTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_settings_are_refused(changed, model):
    with pytest.raises(DatasetError, match="seed: 0 in the dataset, 5 asked for"):
        record(changed, model=model, n_participants=2, seed=5, **OPTIONS)


def test_other_authors_are_refused_and_no_authors_are_fine(changed, model):
    before = contents(changed)
    with pytest.raises(UsageError, match=r"--author A. Turing: .*has no authors; edit Authors"):
        record(changed, model=model, n_participants=2, authors=["A. Turing"], **OPTIONS)
    assert contents(changed) == before


def test_blocks_that_a_default_filter_takes_away_are_warned_of(model, tmp_path, caplog):
    """Two seconds a token, as a person reads: off, on and off of 48 s each."""
    options = {**OPTIONS, "task_labels": ["pathology"], "prompts_per_block": 6}
    with caplog.at_level("WARNING", logger="llm2bids"):
        record(tmp_path / "d", model=model, n_participants=1, t_r=2.0, **options)
    assert "takes 68 % of the variance of the blocks of task pathology (runs of 144 s)" in (
        caplog.text
    )


def test_shared_prompts_are_said_with_their_inflation(model, tmp_path, caplog):
    bank = tmp_path / "bank.tsv"
    rows = [f"p{i}\ttopic\tx\tprompt number {i}" for i in range(6)]
    rows += [f"o{i}\toff\tx\toff prompt number {i}" for i in range(24)]
    bank.write_text("prompt_id\tcondition\ttopic\ttext\n" + "\n".join(rows) + "\n")
    toml = tmp_path / "small.toml"
    toml.write_text(
        'description = "small"\norder = "off_on_off"\nbaseline = "off"\nprompts_per_block = 4\n'
        "tokens_per_prompt = 3\ncalibration_prompts = 4\n[tasks]\ntopic = 'topic'\n"
        "[banks]\ntopic = 'bank.tsv'\noff = 'bank.tsv'\n"
    )
    options = {"model": model, "paradigm": toml, "n_participants": 2, "progress": False}
    with pytest.raises(ParadigmError, match="--allow-shared-prompts"):
        record(tmp_path / "d", **options)
    with caplog.at_level("WARNING", logger="llm2bids"):
        dataset = record(tmp_path / "d", allow_shared_prompts=True, **options)
    assert "0.66" in caplog.text and "high-pass" not in caplog.text
    assert dataset.settings["allow_shared_prompts"] is True


def test_interrupted_it_keeps_what_is_whole_and_goes_on(scanned, model, tmp_path):
    target = tmp_path / "dataset"
    command = [sys.executable, "-m", "llm2bids.cli.main", "record", str(target)]
    command += ["--model", str(model), "--participants", "2", "--device", "cpu"]
    command += ["--task", "pathology", "--task", "randomstrings"]
    command += ["--prompts-per-block", "3", "--tokens-per-prompt", "4"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ})
    first = target / "sub-01" / "func" / "sub-01_task-pathology_bold.nii.gz"
    limit = time.monotonic() + 240
    while not first.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=120)[1].decode()
    if process.returncode != 0:  # it may have been done by then
        assert process.returncode == 130, message
        assert "Traceback" not in message
    assert first.exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert contents(target) == contents(scanned)
