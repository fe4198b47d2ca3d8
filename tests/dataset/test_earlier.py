"""Datasets of earlier versions are read, analysed and recorded on as they are."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from llm2bids.dataset.check import accept, check_dataset
from llm2bids.dataset.read import open_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError, Llm2bidsError
from llm2bids.inference.inputs import open_inputs


def calibration_sidecars(root):
    return sorted(root.glob("derivatives/llm2bids/tpl-*/func/*_stat-*_boldmap.json"))


@pytest.fixture(scope="module")
def earlier(synthetic, tmp_path_factory):
    """A dataset with 500 counts for one sd, which nothing but its series says."""
    old = replace(synthetic, counts_per_sd=500)
    root = tmp_path_factory.mktemp("earlier") / "dataset"
    old.write_dataset(root, without=[(2, old.tasks[1])])
    for path in calibration_sidecars(root):
        metadata = json.loads(path.read_text())
        assert metadata.pop("CountsPerSD") == 500
        path.write_text(json.dumps(metadata))
    accept(root, [str(path.relative_to(root)) for path in calibration_sidecars(root)])
    return root


def test_values_are_read_with_the_gain_of_the_dataset(earlier, synthetic):
    dataset = open_dataset(earlier)
    run = dataset.runs[0]
    recorded = synthetic.make_recording(synthetic.make_design(1, run.task)).values
    scale = dataset.calibration.scale
    vary = np.arange(synthetic.n_units) != synthetic.constant_unit
    assert (np.abs(dataset.values(run) - recorded) / scale)[:, vary].max() < 0.0011
    counts = nib.load(run.bold).get_fdata()[tuple(dataset.space.voxels.T)].T
    inputs = open_inputs(earlier)
    (entry, *_) = inputs.runs
    assert inputs.load(entry).counts_per_sd == 500
    mean = dataset.calibration.mean
    expected = 10000 + 500 * (recorded - mean) / scale
    assert np.abs(counts - expected)[:, vary].max() < 0.51


def test_recording_goes_on_with_the_gain_of_the_dataset(earlier, synthetic, tmp_path):
    root = Path(shutil.copytree(earlier, tmp_path / "copy"))
    recording = synthetic.make_recording(synthetic.make_design(2, synthetic.tasks[1]))
    with DatasetWriter.open(root, settings=open_dataset(root).settings) as writer:
        writer.write_run(recording, t_r=synthetic.t_r)
        writer.finish_participant("02")
    dataset = open_dataset(root)
    (run,) = dataset.select(participant_label=["02"], task=synthetic.tasks[1])
    assert dataset.sidecar(run)["CountsPerSD"] == 500
    vary = np.arange(synthetic.n_units) != synthetic.constant_unit
    error = np.abs(dataset.values(run) - recording.values) / dataset.calibration.scale
    assert error[:, vary].max() < 0.0011
    assert not check_dataset(root).faults


def test_a_gain_that_was_lost_or_changed_is_refused(written, tmp_path):
    root = Path(shutil.copytree(written, tmp_path / "copy"))
    paths = calibration_sidecars(root)
    whole = [path.read_text() for path in paths]
    for path, text in zip(paths, whole, strict=True):
        path.write_text(
            text.replace('"CountsPerSD": 100,', "").replace(',\n  "CountsPerSD": 100', "")
        )
    dataset = open_dataset(root)
    message = "CountsPerSD is 100, the calibration of the dataset has 500"
    for read in (dataset.values, dataset.sidecar):
        with pytest.raises(DatasetError, match=message):
            read(dataset.runs[0])
    inputs = open_inputs(root)
    with pytest.raises(Llm2bidsError, match=r"fingerprint|CountsPerSD"):
        inputs.load(inputs.runs[0])
    for wrong in ('"many"', "0", "true"):
        for path, text in zip(paths, whole, strict=True):
            path.write_text(text.replace('"CountsPerSD": 100', f'"CountsPerSD": {wrong}'))
        with pytest.raises(DatasetError, match="CountsPerSD"):
            open_dataset(root)
