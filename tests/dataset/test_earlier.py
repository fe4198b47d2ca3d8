"""Datasets of earlier versions are read, analysed and recorded on as they are."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from llm2bids.dataset.arrangement import read_given
from llm2bids.dataset.check import accept, check_dataset
from llm2bids.dataset.locate import locate
from llm2bids.dataset.read import open_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError, Llm2bidsError, SpaceError
from llm2bids.inference.analyze import analyze_participants
from llm2bids.inference.inputs import open_inputs
from llm2bids.report.draw.flat_layout import flat_layout
from llm2bids.report.draw.mosaic import flat_pages
from llm2bids.space.arrange import cells_of, index_space, rearrange
from llm2bids.space.definition import Layout
from llm2bids.space.functional import random_cells
from llm2bids.space.resample import resample
from llm2bids.store.tables import write_table


def calibration_sidecars(root):
    return sorted(root.glob("derivatives/llm2bids/tpl-*/func/*_stat-*_boldmap.json"))


@pytest.fixture(scope="module")
def earlier(synthetic, tmp_path_factory):
    """A dataset in slices, with 500 counts for one sd, which nothing but its series says."""
    old = replace(synthetic, counts_per_sd=500, in_slices=True)
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


def test_the_layout_in_slices_is_read_and_moved_to_blocks_and_back(earlier, written, synthetic):
    old, new = open_dataset(earlier), open_dataset(written)
    assert old.space.shape != new.space.shape
    run = old.runs[0]
    moved = resample(run.bold, old.space, new.space, calibration=old.calibration)
    np.testing.assert_array_equal(new.space.to_units(moved), old.space.to_units(run.bold))
    assert moved.shape[:3] == new.space.shape
    np.testing.assert_array_equal(moved.affine, new.space.affine)
    data = np.asarray(moved.dataobj)
    assert not data[~new.space.brain].any()
    assert np.abs(data[new.space.white].astype(int) - 10000).max() <= 3  # dither from dither
    back = resample(moved, new.space, old.space, calibration=old.calibration)
    np.testing.assert_array_equal(old.space.to_units(back), old.space.to_units(run.bold))
    with pytest.raises(SpaceError, match="is not on the grid of"):
        new.space.to_units(run.bold)


def test_images_in_slices_are_located_and_drawn(earlier, written, synthetic):
    old, new = open_dataset(earlier), open_dataset(written)
    values = np.random.default_rng(3).standard_normal(synthetic.n_units)
    tables = [
        locate(nib.Nifti1Image(d.space.to_grid(values), d.space.affine), d, top_percent=10)
        for d in (old, new)
    ]
    columns = ["address", "layer", "head", "value"]
    pd.testing.assert_frame_equal(tables[0][columns], tables[1][columns])
    assert len(np.unique(flat_layout(old.space).at, axis=0)) == synthetic.n_units
    assert flat_pages(old.space).labels == flat_pages(new.space).labels


def test_an_analysis_of_slices_finds_what_one_of_blocks_finds(earlier, written, tmp_path):
    maps = []
    for root in (earlier, written):
        dataset = open_dataset(root)
        out = tmp_path / root.name / root.parent.name
        analyze_participants(root, out, participant_label=["01"], progress=False)
        path = sorted(out.glob("sub-01/**/*_stat-effect_statmap.nii.gz"))[0]
        maps.append(dataset.space.to_units(path))
    vary = np.arange(len(maps[0])) != 0
    assert np.abs(maps[0] - maps[1])[vary].max() < 0.02  # counts of 0.01 sd
    assert np.corrcoef(*maps)[0, 1] > 0.9999


def test_an_order_that_was_learned_in_slices_is_refused_in_blocks(synthetic, tmp_path):
    """It is kept where it is: in its own dataset, which is opened and moved to index order."""
    plain = replace(synthetic, in_slices=True).make_space()
    cells = random_cells(plain, seed=2)
    layout = Layout(method="components", prompt_ids=("a",), n_tokens=2)
    learned = rearrange(plain, cells, arrangement="functional", layout=layout)
    np.testing.assert_array_equal(index_space(learned).voxels, plain.voxels)
    np.testing.assert_array_equal(cells_of(learned), cells)
    starts = np.array([units.start for units in plain.site_slices.values()])[plain.site_of_unit]
    table = pd.DataFrame({"address": plain.unit_table()["address"], "cell": cells - starts})
    path = tmp_path / "arrangement.tsv.gz"
    write_table(path, table)
    about = {"Arrangement": "functional", "Layout": layout.metadata()}
    path.with_name("arrangement.json").write_text(json.dumps(about))
    with pytest.raises(DatasetError, match="learned for panels of one slice"):
        read_given(path).apply(synthetic.make_space())
    path.with_name("arrangement.json").write_text(json.dumps(about | {"Panels": "blocks"}))
    assert read_given(path).apply(synthetic.make_space()).arrangement == "functional"
