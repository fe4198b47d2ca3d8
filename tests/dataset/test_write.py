import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from llm2bids.dataset import run as run_module
from llm2bids.dataset.check import check_dataset
from llm2bids.dataset.layout import sidecar
from llm2bids.dataset.read import open_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError
from llm2bids.store import commit as commit_module
from llm2bids.store.json import read_json
from tests.synthetic import contents

DERIVATIVE = Path("derivatives/llm2bids")
STEM = "sub-01_task-fossils"


def all_files(root):
    return sorted(contents(root))


def test_every_file_of_a_run_is_there(written):
    func = {path.name for path in (written / "sub-01/func").iterdir()}
    assert func == {
        f"{STEM[:7]}task-{task}_{end}"
        for task in ("fossils", "votes")
        for end in ("bold.nii.gz", "bold.json", "events.tsv", "stim.tsv.gz")
    }
    derived = {p.name for p in (written / DERIVATIVE / "sub-01/func").iterdir()}
    for end in (
        "space-Tiny_desc-preproc_bold.nii.gz",
        "space-Tiny_desc-brain_mask.nii.gz",
        "space-Tiny_boldref.nii.gz",
        "desc-confounds_timeseries.tsv",
        "desc-transcript_tokens.tsv",
    ):
        name = f"{STEM}_{end}"
        assert {name, name.partition(".")[0] + ".json"} <= derived


def test_preproc_is_a_hard_link_and_so_are_masks_and_anatomy(written):
    derivative = written / DERIVATIVE
    pairs = {
        f"sub-01/func/{STEM}_bold.nii.gz": derivative
        / f"sub-01/func/{STEM}_space-Tiny_desc-preproc_bold.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz": derivative / "tpl-Tiny/anat/tpl-Tiny_T1w.nii.gz",
        f"{DERIVATIVE}/sub-01/func/{STEM}_space-Tiny_desc-brain_mask.nii.gz": derivative
        / "tpl-Tiny/anat/tpl-Tiny_label-GM_mask.nii.gz",
    }
    for raw, derived in pairs.items():
        assert (written / raw).samefile(derived)


def test_without_hard_links_the_series_is_copied(synthetic, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(commit_module.os, "link", refuse)
    root = synthetic.write_dataset(tmp_path / "copies", n_participants=1)
    raw = root / f"sub-01/func/{STEM}_bold.nii.gz"
    derived = root / DERIVATIVE / f"sub-01/func/{STEM}_space-Tiny_desc-preproc_bold.nii.gz"
    assert not raw.samefile(derived)
    assert raw.read_bytes() == derived.read_bytes()


def test_header_and_sidecar_of_the_series(written, synthetic, dataset):
    path = written / f"sub-01/func/{STEM}_bold.nii.gz"
    image = nib.load(path)
    assert image.shape == (*dataset.space.shape, 3 * synthetic.per_block * 5)
    assert image.header.get_zooms()[3] == synthetic.t_r
    assert image.header["qform_code"] > 0
    assert image.header["sform_code"] > 0
    about = json.loads(path.with_name(f"{STEM}_bold.json").read_text())
    assert (about["RepetitionTime"], about["StartTime"]) == (synthetic.t_r, 0.0)
    assert about["SpaceFingerprint"] == dataset.fingerprint
    assert about["NumberOfConstantUnits"] == 1
    assert about["EndOfTextSuppressed"] is True
    assert about["FirstTokenKept"] is False
    assert about["ComputeDataType"] == "float32"
    assert about["WeightsSHA256"] == "ab" * 32
    assert about["Source"] == "tiny-model"
    assert about["SharedPromptsAllowed"] is False
    assert "Seconds" not in about
    assert "MagneticFieldStrength" not in about
    inherited = json.loads((written / "task-fossils_bold.json").read_text())
    assert inherited["TaskName"] == "fossils"


def test_masks_and_reference(written, dataset):
    func = written / DERIVATIVE / "sub-01/func"
    mask = nib.load(func / f"{STEM}_space-Tiny_desc-brain_mask.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj) > 0, dataset.space.grey)
    brain = nib.load(written / DERIVATIVE / "tpl-Tiny/anat/tpl-Tiny_desc-brain_mask.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(brain.dataobj) > 0, dataset.space.brain)
    reference = nib.load(func / f"{STEM}_space-Tiny_boldref.nii.gz").get_fdata()
    series = dataset.load_run(dataset.runs[0]).get_fdata()
    np.testing.assert_allclose(reference, series.mean(axis=3), atol=0.5)


def test_events_have_three_columns_and_on_rows_only(written, synthetic):
    events = pd.read_csv(written / f"sub-01/func/{STEM}_events.tsv", sep="\t")
    assert list(events) == ["onset", "duration", "trial_type"]
    assert len(events) == synthetic.per_block
    assert set(events["trial_type"]) == {"fossils"}
    levels = json.loads((written / "task-fossils_events.json").read_text())["trial_type"]["Levels"]
    assert set(levels) == {"fossils"}


def test_participants_table(written):
    table = pd.read_csv(written / "participants.tsv", sep="\t")
    assert table["participant_id"].tolist() == ["sub-01", "sub-02"]
    assert table[["n_runs", "n_prompts", "n_volumes"]].to_numpy().tolist() == [[2, 48, 240]] * 2
    described = json.loads((written / "participants.json").read_text())
    assert set(described) == set(table)


def test_same_seed_same_bytes(written, synthetic, tmp_path):
    again = synthetic.write_dataset(tmp_path / "again")
    assert all_files(again) == all_files(written)
    for name in all_files(written):
        assert (again / name).read_bytes() == (written / name).read_bytes(), name


def test_not_compressed_and_float32(synthetic, tmp_path):
    root = synthetic.write_dataset(
        tmp_path / "plain", n_participants=1, compress=False, volume_dtype="float32"
    )
    dataset = open_dataset(root)
    run = dataset.runs[0]
    assert run.bold.name == f"{STEM}_bold.nii"
    assert dataset.load_run(run).get_data_dtype() == np.float32
    recorded = synthetic.make_recording(synthetic.make_design(1, "fossils")).values
    vary = np.arange(synthetic.n_units) != synthetic.constant_unit
    np.testing.assert_allclose(dataset.values(run)[:, vary], recorded[:, vary], atol=1e-4)


def test_a_convolved_series_beside_the_raw_one(synthetic, tmp_path):
    plain = open_dataset(synthetic.write_dataset(tmp_path / "plain", n_participants=1))
    root = synthetic.write_dataset(tmp_path / "hrf", n_participants=1, hrf_series="glover")
    dataset = open_dataset(root)
    run = dataset.runs[0]
    unit = synthetic.planted["fossils"]
    raw = dataset.values(run)
    np.testing.assert_array_equal(raw, plain.values(plain.runs[0]))
    assert dataset.sidecar(run)["HaemodynamicResponse"] == "none"
    on = dataset.space.to_units(root / run.names.hrf)[:, unit]
    assert on[40:44].mean() < on[64:76].mean()  # it rises late
    assert read_json(root / sidecar(run.names.hrf))["HaemodynamicResponse"] == "glover"


def test_a_dataset_whose_raw_series_are_convolved_is_not_gone_on_with(synthetic, tmp_path):
    with pytest.raises(DatasetError, match="as an earlier version did; record into another folder"):
        synthetic.write_dataset(tmp_path / "hrf", hrf_model="glover")


def test_resume_writes_what_is_missing(synthetic, tmp_path):
    first = synthetic.make_design(1, "fossils")
    second = synthetic.make_design(1, "votes")
    with synthetic.create(tmp_path / "ds") as writer:
        writer.write_run(synthetic.make_recording(first), t_r=synthetic.t_r)
    before = (tmp_path / f"ds/sub-01/func/{STEM}_bold.nii.gz").stat().st_mtime_ns
    with DatasetWriter.open(tmp_path / "ds", settings=synthetic.settings) as writer:
        assert writer.has_run(first)
        assert not writer.has_run(second)
        dataset = writer.dataset
        assert dataset.space.fingerprint() == synthetic.make_space().fingerprint()
        np.testing.assert_array_equal(dataset.calibration.sd, synthetic.make_calibration().sd)
        writer.write_run(synthetic.make_recording(second), t_r=synthetic.t_r)
        writer.finish_participant("01")
    assert (tmp_path / f"ds/sub-01/func/{STEM}_bold.nii.gz").stat().st_mtime_ns == before
    assert len(open_dataset(tmp_path / "ds").runs) == 2


def test_other_settings_are_refused_one_by_one(changed, synthetic):
    others = {**synthetic.settings, "seed": 8, "dtype": "bfloat16", "sampler": "new"}
    with pytest.raises(DatasetError) as caught:
        DatasetWriter.open(changed, settings=others)
    message = str(caught.value)
    assert "seed: 7 in the dataset, 8 asked for" in message
    assert 'dtype: "float32" in the dataset, "bfloat16" asked for' in message
    assert 'sampler: nothing in the dataset, "new" asked for' in message
    assert "device" not in message


def test_foreign_folders_are_refused(tmp_path, synthetic):
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(DatasetError, match=r"not empty and not a dataset.*thesis\.docx"):
        synthetic.create(tmp_path)
    assert all_files(tmp_path) == ["thesis.docx"]
    with pytest.raises(DatasetError, match="is a file"):
        DatasetWriter.check_target(tmp_path / "thesis.docx")
    with pytest.raises(DatasetError, match="no such folder"):
        DatasetWriter.open(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="not a BIDS dataset"):
        DatasetWriter.open(tmp_path)
    DatasetWriter.check_target(tmp_path / "nowhere")


def test_a_dataset_is_not_created_twice(changed, synthetic):
    with pytest.raises(DatasetError, match="has a dataset already"):
        synthetic.create(changed)


def test_the_anatomy_shows_every_role_and_the_table_has_the_norms(tmp_path, synthetic):
    norms = np.ones(synthetic.n_units, dtype=np.float32)
    wide = next(site for site in synthetic.sites if site.width >= 20)
    space = synthetic.make_space()
    role = np.array([site.role == wide.role for site in synthetic.sites])[space.site_of_unit]
    norms[role] = np.linspace(100, 150, role.sum())
    norms[0] = 0.25
    DatasetWriter.create(
        tmp_path / "d", space=space, calibration=synthetic.make_calibration(),
        paradigm=synthetic.paradigm, settings=synthetic.settings, weight_norms=norms,
        banks=synthetic.banks,
    ).close()  # fmt: skip
    template = tmp_path / "d/derivatives/llm2bids/tpl-Tiny"
    shown = space.to_units(template / "anat/tpl-Tiny_T1w.nii.gz")
    assert shown[0] == 0.25
    assert shown.max() == 1
    top = np.percentile(norms[role], 98)
    np.testing.assert_allclose(shown[role], np.minimum(norms[role] / top, 1), rtol=1e-6)
    assert np.all(shown[~role][1:] == 1)
    table = pd.read_csv(template / "tpl-Tiny_units.tsv.gz", sep="\t")
    np.testing.assert_allclose(table["weight_norm"], norms, rtol=1e-6)


def test_a_run_twice_and_after_closing(changed, synthetic):
    new = synthetic.make_recording(synthetic.make_design(3))
    old = synthetic.make_recording(synthetic.make_design(1))
    refused = pytest.raises(DatasetError, match=r"sub-01 task-fossils is in .* already")
    with DatasetWriter.open(changed) as writer, refused:
        writer.write_run(old, t_r=synthetic.t_r)
    with pytest.raises(DatasetError, match="was closed"):
        writer.write_run(new, t_r=synthetic.t_r)


def test_leftovers_of_a_killed_run_are_removed(changed):
    (changed / "sub-02/func/sub-02_task-votes_bold.nii.gz").unlink()
    for task in ("fossils", "votes"):
        (changed / f"sub-01/func/sub-01_task-{task}_bold.nii.gz").unlink()
    note = changed / "sub-01/anat/notes.txt"
    note.touch()
    staged = changed / ".llm2bids/staging/sub-01/func/half.nii.gz"
    staged.parent.mkdir(parents=True)
    staged.touch()
    with DatasetWriter.open(changed):
        pass
    left = [name for name in all_files(changed) if "sub-" in name]
    assert [name for name in left if "sub-01" in name] == ["sub-01/anat/notes.txt"]
    assert not [name for name in left if "task-votes" in name]
    assert [name for name in left if "sub-02_task-fossils_bold" in name]
    assert not (changed / "task-votes_bold.json").exists()
    assert not staged.exists()
    table = pd.read_csv(changed / "participants.tsv", sep="\t")
    assert table["participant_id"].tolist() == ["sub-02"]


class Killed(BaseException):
    """Stands for a signal."""


@pytest.mark.parametrize("n_renames", [0, 1, 7, 15, 22])
def test_an_interrupt_at_any_rename_leaves_the_run_whole_or_not_there(
    changed, synthetic, tmp_path, monkeypatch, n_renames
):
    """The first rename says that all is made; from then on the run is put in place."""
    before = contents(changed)
    whole = Path(shutil.copytree(changed, tmp_path / "whole"))
    with DatasetWriter.open(whole) as writer:
        writer.write_run(synthetic.make_recording(synthetic.make_design(3)), t_r=synthetic.t_r)
    real = Path.replace
    done = []

    def interrupted(self, target):
        if ".llm2bids" in self.parts and not self.name.endswith(".part"):
            done.append(target)
            if len(done) == n_renames + 1:
                raise Killed
        return real(self, target)

    recording = synthetic.make_recording(synthetic.make_design(3))
    with DatasetWriter.open(changed) as writer:
        monkeypatch.setattr(Path, "replace", interrupted)
        with pytest.raises(Killed):
            writer.write_run(recording, t_r=synthetic.t_r)
        monkeypatch.setattr(Path, "replace", real)
        assert writer.has_run(recording.design) == (n_renames > 0)
        if n_renames == 0:
            assert contents(changed) == before
            writer.write_run(recording, t_r=synthetic.t_r)
    assert contents(changed) == contents(whole)


@pytest.mark.slow
def test_a_killed_process_leaves_a_dataset_that_goes_on(written, synthetic, tmp_path):
    """SIGKILL between two renames: no handler runs, the lock is taken over."""
    root = Path(shutil.copytree(written, tmp_path / "copy"))
    program = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from tests.synthetic import FOSSILS as s
        from llm2bids.dataset.write import DatasetWriter
        writer = DatasetWriter.open({str(root)!r})
        real, done = Path.replace, []
        def kill(self, target):
            if ".llm2bids" in self.parts and not self.name.endswith(".part"):
                if len(done) == 5:
                    os.kill(os.getpid(), signal.SIGKILL)
                done.append(target)
            return real(self, target)
        Path.replace = kill
        writer.write_run(s.make_recording(s.make_design(3)), t_r=s.t_r)
        """
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(all_files(root)) > len(all_files(written))
    with DatasetWriter.open(root, settings=synthetic.settings) as writer:
        assert writer.has_run(synthetic.make_design(3))
    assert check_dataset(root).faults == ()


def test_one_process_at_a_time(changed):
    with (
        DatasetWriter.open(changed),
        pytest.raises(DatasetError, match="is being written by another process"),
    ):
        DatasetWriter.open(changed)
    DatasetWriter.open(changed).close()


def test_no_space_is_found_before_the_run(changed, synthetic, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(commit_module.shutil, "disk_usage", lambda path: usage(1e6, 9e5, 1e5))
    recording = synthetic.make_recording(synthetic.make_design(3))
    with (
        DatasetWriter.open(changed) as writer,
        pytest.raises(DatasetError, match=r"sub-03 task-fossils needs about .* 0\.1 MB"),
    ):
        writer.write_run(recording, t_r=synthetic.t_r)


def test_a_full_disk_during_the_run(changed, synthetic, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = all_files(changed)
    monkeypatch.setattr(run_module, "stage_participant", full)
    recording = synthetic.make_recording(synthetic.make_design(3))
    with (
        DatasetWriter.open(changed) as writer,
        pytest.raises(DatasetError, match="no space left on the disk while writing sub-03"),
    ):
        writer.write_run(recording, t_r=synthetic.t_r)
    assert all_files(changed) == before
    assert not (changed / ".llm2bids/staging").exists()


def test_killed_while_being_created(synthetic, tmp_path, monkeypatch):
    real = Path.replace
    done = []

    def interrupted(self, target):
        if ".llm2bids" in self.parts and not self.name.endswith(".part"):
            done.append(target)
            if len(done) >= 9:  # nothing goes on after it
                raise Killed
        return real(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(Killed):
        synthetic.create(tmp_path / "ds")
    monkeypatch.setattr(Path, "replace", real)
    with pytest.raises(DatasetError, match=r"not one that llm2bids wrote|not a BIDS dataset"):
        open_dataset(tmp_path / "ds")
    synthetic.create(tmp_path / "ds").close()
    assert open_dataset(tmp_path / "ds").runs == ()
