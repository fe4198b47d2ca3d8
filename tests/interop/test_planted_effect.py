"""A unit that is made to respond is found by nilearn at its voxel, and named by `locate`."""

from dataclasses import replace

import numpy as np
import pytest
from nilearn.glm.first_level import first_level_from_bids

from llm2bids.dataset.locate import locate
from llm2bids.dataset.read import open_dataset
from llm2bids.dataset.settings import is_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.model.sites import find_sites, select_sites
from llm2bids.model.weights import weight_norms
from llm2bids.recording.calibration import RestScan, calibrate
from llm2bids.recording.draw import draw_scan
from llm2bids.recording.record import record_run
from llm2bids.space.arrange import build_space

TASK = "pathology"
ADDRESS = "model.layers.1.mlp.down_proj[17]"

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings(
        "ignore:Generation of a mask has been requested",  # no mask is given on purpose
        "ignore::FutureWarning:nilearn",
        "ignore::DeprecationWarning",
    ),
]


@pytest.fixture(scope="module")
def dataset(tiny_loaded, tmp_path_factory):
    """One real run of a tiny model, in which one unit answers to the on prompts."""
    loaded = tiny_loaded("llama")
    sites = select_sites(find_sites(loaded), ["all"])
    scan = draw_scan(n_participants=1, task_labels=[TASK])
    how = RestScan(
        tokens_per_prompt=scan.paradigm.tokens_per_prompt,
        sampling=scan.paradigm.sampling,
        seed=3,
    )
    calibration = calibrate(loaded, scan.calibration, sites, how)
    space = build_space(
        sites, label="Tiny", model_name=loaded.name, weights_sha256=loaded.weights_sha256
    )
    recording = record_run(loaded, scan.designs[0], sites)
    on = recording.tokens.dropna(subset="volume")["trial_type"].notna().to_numpy()
    unit = space.unit_of(ADDRESS)
    values = recording.values.copy()
    values[on, unit] += 5 * calibration.scale[unit]
    path = tmp_path_factory.mktemp("planted") / "dataset"
    writer = DatasetWriter.create(
        path,
        space=space,
        calibration=calibration,
        paradigm=scan.paradigm,
        settings={},
        weight_norms=weight_norms(loaded, sites),
    )
    with writer:
        writer.write_run(replace(recording, values=values), t_r=scan.t_r)
        writer.finish_participant("01")
    assert is_dataset(path)
    return open_dataset(path)


@pytest.mark.parametrize("options", [{}, {"hrf_model": None}], ids=["defaults", "no-hrf"])
def test_nilearn_finds_the_unit_and_locate_names_it(dataset, options, tmp_path):
    models, imgs, events, confounds = first_level_from_bids(
        dataset.path, TASK, "Tiny", derivatives_folder="derivatives/llm2bids", **options
    )
    model = models[0].fit(imgs[0], events[0], confounds[0])
    design = model.design_matrices_[0]
    assert np.linalg.matrix_rank(design.to_numpy()) == design.shape[1]
    mask = model.masker_.mask_img_.get_fdata() > 0
    assert mask[dataset.space.grey].all()
    z_map = model.compute_contrast(TASK, output_type="z_score")
    data = z_map.get_fdata()
    unit = dataset.space.unit_of(ADDRESS)
    peak = np.unravel_index(data.argmax(), data.shape)
    assert tuple(map(int, peak)) == tuple(dataset.space.voxels[unit].tolist())
    assert data[dataset.space.white].std() == pytest.approx(1, abs=0.15)  # the null control
    z_map.to_filename(tmp_path / "z.nii.gz")
    found = locate(tmp_path / "z.nii.gz", dataset.space, threshold=3.1, two_sided=False)
    assert found["address"].iloc[0] == ADDRESS
