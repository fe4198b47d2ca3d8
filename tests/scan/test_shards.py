"""A scan in pieces: participants recorded by themselves or by workers, and taken in."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm2bids import merge, open_dataset, record
from llm2bids.dataset.check import check_dataset
from llm2bids.dataset.participants import warn_of_batch_effect
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError, UsageError
from llm2bids.store.commit import DatasetLock
from tests.synthetic import contents

OPTIONS = {
    "paradigm": "off_on_off",
    "task_labels": ("pathology", "randomstrings"),
    "prompts_per_block": 2,
    "tokens_per_prompt": 3,
    "n_participants": 3,
    "progress": False,
    "device": "cpu",
}
RUN = "func/sub-{0}_task-{1}_bold.nii.gz"


@pytest.fixture(scope="module")
def serial(model, tmp_path_factory) -> Path:
    """Three participants, two tasks, one process; not to be changed."""
    path = tmp_path_factory.mktemp("serial") / "dataset"
    record(path, model=model, n_workers=1, **OPTIONS)
    return path


@pytest.fixture(scope="module")
def sharded(model, tmp_path_factory) -> Path:
    """The same, prepared, with a shard for each participant; not to be changed."""
    path = tmp_path_factory.mktemp("sharded") / "dataset"
    record(path, model=model, prepare_only=True, **OPTIONS)
    record(path, model=model, participant_label=["02"], **OPTIONS)
    record(path, model=model, participant_label=["sub-01", "03"], **OPTIONS)
    return path


@pytest.fixture
def changed(sharded, tmp_path) -> Path:
    """A copy of the shards that a test may change."""
    return Path(shutil.copytree(sharded, tmp_path / "dataset"))


def shard(path: Path, label: str) -> Path:
    return path / ".llm2bids/shards" / f"sub-{label}"


def test_merged_shards_are_the_serial_scan(changed, serial):
    before = contents(changed)
    assert not any("sub-0" in name for name in before)
    dataset = merge(changed)
    assert len(dataset.runs) == 6
    assert contents(changed) == contents(serial)
    assert check_dataset(changed).faults == ()
    assert not list((changed / ".llm2bids/shards").glob("sub-*"))
    merge(changed)  # a second time there is nothing to do
    assert contents(changed) == contents(serial)
    raw = changed / "sub-01" / RUN.format("01", "pathology")
    derived = changed / "derivatives/llm2bids/sub-01/func"
    assert raw.samefile(next(derived.glob("*pathology*preproc_bold.nii.gz")))


@pytest.mark.parametrize("batch_size", [None, 12])
def test_workers_give_the_bytes_of_one_process(batch_size, model, serial, tmp_path, request):
    options = {**OPTIONS, "batch_size": batch_size}
    if batch_size is not None:  # runs of a participant share a batch, whoever records beside it
        serial = tmp_path / "serial"
        record(serial, model=model, n_workers=1, **options)
    record(tmp_path / "two", model=model, n_workers=2, **options)
    assert contents(tmp_path / "two") == contents(serial)
    assert not list((tmp_path / "two/.llm2bids/shards").iterdir())


def test_workers_go_on_with_what_one_process_left(model, serial, tmp_path):
    path = Path(shutil.copytree(serial, tmp_path / "dataset"))
    for base in (path, path / "derivatives/llm2bids"):
        shutil.rmtree(base / "sub-02")
        for file in base.rglob("sub-03_task-pathology*"):
            file.unlink()
    record(path, model=model, n_workers=2, **OPTIONS)
    assert contents(path) == contents(serial)


def test_one_process_goes_on_with_the_shards_of_others(changed, model, serial, caplog):
    shutil.rmtree(shard(changed, "02"))
    for file in shard(changed, "03").rglob("*task-pathology*"):
        if file.suffix != ".json" or "sub-03" in file.name:
            file.unlink()
    known = shard(changed, "03") / "code/checksums/sub-03.sha256"
    kept = [line for line in known.read_text().splitlines() if "pathology" not in line]
    known.write_text("\n".join(kept) + "\n")
    with caplog.at_level("INFO", "llm2bids"):
        record(changed, model=model, n_workers=1, **OPTIONS)
    assert "3 of 6 runs are there already" in caplog.text
    assert contents(changed) == contents(serial)


def test_a_missing_shard_is_named_and_can_be_allowed(changed, serial):
    shutil.rmtree(shard(changed, "02"))
    before = contents(changed)
    with pytest.raises(DatasetError, match=r"2 of 6 runs are missing, of sub-02; nothing was"):
        merge(changed)
    assert contents(changed) == before
    dataset = merge(changed, allow_missing=True)
    assert {run.participant_label for run in dataset.runs} == {"01", "03"}
    assert check_dataset(changed).faults == ()
    with pytest.raises(DatasetError, match="of sub-02"):
        merge(changed)


def test_nothing_to_merge_is_said_even_where_runs_may_be_missing(changed):
    for label in ("01", "02", "03"):
        shutil.rmtree(shard(changed, label))
    with pytest.raises(DatasetError, match="6 of 6 runs are missing"):
        merge(changed, allow_missing=True)


def test_a_shard_that_is_being_written_is_not_merged(changed, serial, monkeypatch):
    monkeypatch.setattr("llm2bids.dataset.shard._SECONDS", 0.1)
    lock = DatasetLock(shard(changed, "02"))
    with pytest.raises(DatasetError, match="sub-02 is being written by another process"):
        merge(changed)
    done = {run.participant_label for run in open_dataset(changed).runs}
    assert done == {"01"}
    lock.release()
    merge(changed)
    assert contents(changed) == contents(serial)


def test_two_tasks_on_one_participant(changed, model):
    shutil.rmtree(shard(changed, "02"))
    shard(changed, "02").mkdir()
    lock = DatasetLock(shard(changed, "02"))
    with pytest.raises(DatasetError, match="sub-02 is being written by another process"):
        record(changed, model=model, participant_label=["02"], **OPTIONS)
    lock.release()


@pytest.mark.parametrize("moment", ["put", "journal", "remove", "count"])
def test_a_merge_that_was_cut_off_goes_on(moment, changed, serial, monkeypatch):
    """Cut off between two renames, before them, before the shard is removed, and after that."""

    class Killed(BaseException):
        pass

    replace, n_replaced = Path.replace, 0

    def cut(path, target):
        nonlocal n_replaced
        if "sub-02" in str(target) and ".llm2bids" not in str(target.relative_to(changed)):
            n_replaced += 1
            if moment == "put" and n_replaced >= 7:
                raise Killed
        if moment == "journal" and Path(target).name == "commit.json" and n_journals():
            raise Killed
        return replace(path, target)

    def n_journals():
        return (changed / ".llm2bids/staging/sub-02").is_dir()

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("llm2bids.store.commit.clear_staging", lambda root: None)
        patch.setattr(Path, "replace", cut)
        if moment == "remove":
            patch.setattr("llm2bids.dataset.shard.remove_shard", killed)
        if moment == "count":  # runs are in place, their participant is not counted
            patch.setattr(DatasetWriter, "finish_participant", killed)
        with pytest.raises(Killed):
            merge(changed)
    assert contents(changed) != contents(serial)
    merge(changed)
    assert contents(changed) == contents(serial)
    assert not list((changed / ".llm2bids/shards").glob("sub-*"))


def test_a_shard_of_other_settings(changed, model, tmp_path):
    with pytest.raises(DatasetError, match="seed: 0 in the dataset, 5 asked for"):
        record(changed, model=model, participant_label=["02"], seed=5, **OPTIONS)
    settings = shard(changed, "02") / "code/llm2bids_settings.json"
    other = json.loads(settings.read_text()) | {"weights_sha256": "0" * 64}
    settings.unlink()  # its hard link is the dataset's
    settings.write_text(json.dumps(other))
    with pytest.raises(DatasetError, match=r"sub-02: not a shard of this dataset.*(?s:.)*weights"):
        merge(changed)


def test_a_shard_of_another_calibration(changed):
    known = shard(changed, "02") / "code/checksums/dataset.sha256"
    lines = known.read_text().splitlines()
    (mean,) = [line for line in lines if line.endswith("stat-mean_boldmap.nii.gz")]
    known.write_text(known.read_text().replace(mean, "0" * 64 + mean[64:]))
    with pytest.raises(DatasetError, match=r"stat-mean_boldmap.nii.gz is another one"):
        merge(changed)


def test_a_shard_that_was_changed_on_its_way(changed):
    bold = shard(changed, "02") / "sub-02" / RUN.format("02", "pathology")
    data = bold.read_bytes()
    bold.unlink()
    bold.write_bytes(data[:-1] + b"x")
    with pytest.raises(DatasetError, match="not as it was written"):
        merge(changed)
    (shard(changed, "02") / "sub-02/func/sub-02_task-pathology_events.tsv").unlink()
    with pytest.raises(DatasetError, match=r"events.tsv is missing or has no checksum"):
        merge(changed)


def test_a_run_that_is_there_already_recorded_otherwise(changed):
    """The dataset's own stays; the shard's is taken with `overwrite`."""
    bold = shard(changed, "02") / "sub-02" / RUN.format("02", "pathology")
    theirs = hashlib.sha256(bold.read_bytes()).hexdigest()
    merge(Path(shutil.copytree(changed, changed.with_name("merged"))))
    merged = changed.with_name("merged")
    shutil.copytree(shard(changed, "02"), shard(merged, "02"))
    merge(merged)  # the same recording: only the shard goes
    assert not shard(merged, "02").exists()
    shutil.copytree(shard(changed, "02"), shard(merged, "02"))
    known = shard(merged, "02") / "code/checksums/sub-02.sha256"
    bold = shard(merged, "02") / "sub-02" / RUN.format("02", "pathology")
    other = bold.read_bytes() + b"\0"
    for file in (bold, *shard(merged, "02").rglob("*pathology*preproc_bold.nii.gz")):
        file.unlink()
        file.write_bytes(other)
    known.write_text(known.read_text().replace(theirs, hashlib.sha256(other).hexdigest()))
    with pytest.raises(DatasetError, match="is in the dataset already, recorded otherwise"):
        merge(merged)
    merge(merged, overwrite=True)
    assert (merged / "sub-02" / RUN.format("02", "pathology")).read_bytes() == other


def test_participants_that_the_scan_does_not_have(changed, model, tmp_path):
    with pytest.raises(UsageError, match=r"--participant-label\) 04: the scan has 3 participants"):
        record(changed, model="no-model-is-loaded", participant_label=["04"], **OPTIONS)
    with pytest.raises(DatasetError, match="--prepare first, once"):
        record(tmp_path / "new", model=model, participant_label=["01"], **OPTIONS)
    with pytest.raises(UsageError, match="expected one of the two"):
        record(changed, model=model, participant_label=["01"], prepare_only=True, **OPTIONS)
    with pytest.raises(UsageError, match="is empty; expected one or more"):
        record(tmp_path / "none", model="no-such-model", participant_label=[])


def test_what_is_merged_already_is_not_recorded_again(changed, model, serial):
    merge(changed)
    record(changed, model=model, participant_label=["02"], **OPTIONS)
    assert not shard(changed, "02").exists()


def test_another_machine_is_named_as_a_batch_effect(changed, caplog):
    sidecar = shard(changed, "02") / "sub-02/func/sub-02_task-pathology_bold.json"
    metadata = json.loads(sidecar.read_text())
    assert metadata["NumberOfThreads"] == 1
    assert metadata["Processor"]
    known = shard(changed, "02") / "code/checksums/sub-02.sha256"
    before = hashlib.sha256(sidecar.read_bytes()).hexdigest()
    sidecar.write_text(json.dumps(metadata | {"Processor": "Another 9000"}, indent=2) + "\n")
    after = hashlib.sha256(sidecar.read_bytes()).hexdigest()
    known.write_text(known.read_text().replace(before, after))
    with caplog.at_level("WARNING", "llm2bids"):
        merge(changed)
    assert "2 kinds of machine" in caplog.text
    assert "Another 9000, 1 thread, float32, cpu" in caplog.text
    assert "sub-02" in caplog.text.splitlines()[-1]


def test_one_kind_of_machine_is_no_batch_effect(serial, caplog):
    warn_of_batch_effect(serial)
    assert "kinds of machine" not in caplog.text


def test_a_worker_that_cannot_write_costs_its_participant_alone(model, serial, tmp_path):
    path = tmp_path / "dataset"
    record(path, model=model, prepare_only=True, **OPTIONS)
    blocked = shard(path, "02")
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("in the way")
    with pytest.raises(DatasetError, match="while locking the dataset"):
        record(path, model=model, n_workers=2, **OPTIONS)
    assert {run.participant_label for run in open_dataset(path).runs} == {"01", "03"}
    assert check_dataset(path).faults == ()
    blocked.unlink()
    record(path, model=model, n_workers=2, **OPTIONS)
    assert contents(path) == contents(serial)


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_interrupted_workers_keep_what_is_whole(name, model, serial, tmp_path):
    path = tmp_path / "dataset"
    command = [sys.executable, "-m", "llm2bids.cli.main", "record", str(path), "--n-workers", "2"]
    command += ["--model", str(model), "--participants", "3", "--device", "cpu"]
    command += ["--task", "pathology", "--task", "randomstrings"]
    command += ["--prompts-per-block", "2", "--tokens-per-prompt", "3"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    limit = time.monotonic() + 240
    while time.monotonic() < limit and process.poll() is None:
        if list(path.glob(".llm2bids/shards/sub-*/sub-*/func/*_bold.nii.gz")):
            break
        time.sleep(0.002)
    os.killpg(process.pid, getattr(signal, f"SIG{name}"))  # as a terminal does
    message = process.communicate(timeout=120)[1].decode()
    if process.returncode != 0:  # it may have been done by then
        assert process.returncode == 130, message
        assert "Traceback" not in message
    assert open_dataset(path).runs
    assert check_dataset(path).faults == ()
    record(path, model=model, n_workers=1, **OPTIONS)
    assert contents(path) == contents(serial)


def test_a_shard_begun_by_a_process_that_was_killed(changed, model, serial):
    """Half of its first files are there, and it is no dataset."""
    shutil.rmtree(shard(changed, "02"))
    (shard(changed, "02") / "code").mkdir(parents=True)
    (shard(changed, "02") / "code/paradigm.toml").write_text("half")
    record(changed, model=model, participant_label=["02"], **OPTIONS)
    merge(changed)
    assert contents(changed) == contents(serial)


def test_shards_leave_the_writer_open_for_more(changed, serial):
    with DatasetWriter.open(changed) as writer:
        writer.take_shard("02")
        writer.take_shard("04")  # there is none
        writer.take_shards()
    assert contents(changed) == contents(serial)


def test_after_a_failure_nothing_half_written_stays_in_any_shard(changed):
    """The first shard cannot be taken in; others are, and what killed workers staged goes."""
    settings = shard(changed, "01") / "code/llm2bids_settings.json"
    other = json.loads(settings.read_text()) | {"weights_sha256": "0" * 64}
    settings.unlink()  # its hard link is the dataset's
    settings.write_text(json.dumps(other))
    for label in ("01", "02", "04"):  # the last one had only begun
        staged = shard(changed, label) / ".llm2bids/staging"
        staged.mkdir(parents=True)
        (staged / "half").write_text("half")
    with DatasetWriter.open(changed) as writer:
        writer.take_shards(keep_going=True)
    assert [path.name for path in (changed / ".llm2bids/shards").glob("sub-*")] == ["sub-01"]
    assert not list(changed.rglob("staging"))
    assert {run.participant_label for run in open_dataset(changed).runs} == {"02", "03"}
