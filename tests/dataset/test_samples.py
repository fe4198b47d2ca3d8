"""Labels and images of a run's volumes and prompts, as decoders take them."""

import nibabel as nib
import numpy as np
import pytest
from nilearn.maskers import NiftiMasker

from llm2bids.exceptions import ModelError, UsageError

SITES = ["model.layers.1.mlp", "model.embed"]


@pytest.fixture(scope="module")
def run(dataset):
    return dataset.select(participant_label=["02"], task="fossils")[0]


def test_a_label_for_each_volume(dataset, run):
    labels = dataset.labels(run)
    tokens = dataset.transcript(run).dropna(subset="volume").set_index("volume").sort_index()
    assert len(labels) == dataset.load_run(run).shape[3]
    assert labels["prompt_id"].tolist() == tokens["prompt_id"].tolist()
    assert labels["label"].tolist() == tokens["trial_type"].fillna("off").tolist()
    assert set(labels["label"]) == {"off", "fossils"}
    assert set(labels["participant"]) == {"02"}
    assert set(labels["run"]) == {run.name}


def test_a_label_for_each_prompt(dataset, run):
    labels = dataset.labels(run, by="prompt")
    volumes = dataset.labels(run)
    assert labels["trial"].is_unique
    assert labels["trial"].tolist() == list(dict.fromkeys(volumes["trial"]))
    assert (labels["label"] == "fossils").sum() == 8


def test_volumes_of_sites_are_those_of_the_series(dataset, run):
    part = dataset.space.crop(SITES)
    image = dataset.image(run, sites=SITES)
    series = dataset.load_run(run)
    assert image.get_data_dtype() == series.get_data_dtype()
    assert image.header.get_zooms()[3] == dataset.t_r(run)
    units = np.concatenate([np.r_[dataset.space.site_slices[site.name]] for site in part.sites])
    np.testing.assert_array_equal(part.to_units(image), dataset.space.to_units(series)[:, units])
    # the same voxels in millimetres
    at = part.affine @ [*part.voxels[7], 1]
    voxel = np.linalg.solve(series.affine, at)[:3].round().astype(int)
    np.testing.assert_array_equal(
        image.dataobj[tuple(part.voxels[7])], series.dataobj[tuple(voxel)]
    )
    assert not np.asarray(image.dataobj)[~part.grey].any()


def test_prompts_are_means_of_their_volumes(dataset, run):
    image = dataset.image(run, sites="model.embed", by="prompt")
    volumes = dataset.space.crop("model.embed").to_units(dataset.image(run, sites="model.embed"))
    labels = dataset.labels(run)
    means = [
        volumes[labels["trial"] == trial].mean(axis=0)
        for trial in dataset.labels(run, by="prompt")["trial"]
    ]
    read = dataset.space.crop("model.embed").to_units(image)
    np.testing.assert_allclose(read, means, rtol=1e-6)


def test_a_masker_takes_the_units_in_the_grey_of_the_part(dataset, run):
    part = dataset.space.crop(SITES)
    mask = nib.Nifti1Image(part.grey.astype(np.uint8), part.affine)
    series = NiftiMasker(mask_img=mask, standardize=None).fit_transform(
        dataset.image(run, sites=SITES)
    )
    assert series.shape == (len(dataset.labels(run)), part.n_units)


def test_the_whole_space_without_sites(dataset, run):
    image = dataset.image(run)
    units = dataset.space.to_units(image)
    np.testing.assert_array_equal(units, dataset.space.to_units(dataset.load_run(run)))


def test_what_cannot_be_is_refused(dataset, run):
    with pytest.raises(ModelError, match="matches no module"):
        dataset.image(run, sites="model.layers.77")
    with pytest.raises(UsageError, match="'volume' or 'prompt'"):
        dataset.labels(run, by="token")
    with pytest.raises(UsageError, match="'volume' or 'prompt'"):
        dataset.image(run, sites="model.embed", by="block")
