"""The scanner on the embedded model, from the command line to nilearn and back to units."""

import warnings

import nibabel as nib
import numpy as np
import pytest
from nilearn.glm.first_level import first_level_from_bids

from llm2bids import open_dataset
from llm2bids.cli.main import main
from llm2bids.dataset.locate import locate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("embedded") / "dataset"
    argv = ["record", str(path), "-q", "--participants", "2", "--task", "pathology"]
    argv += ["--prompts-per-block", "4", "--tokens-per-prompt", "3", "--device", "cpu"]
    assert main(argv) == 0
    return open_dataset(path)


def test_all_units_of_the_model(dataset):
    assert dataset.space.n_units == 254_592
    residual = sum(site.width for site in dataset.space.sites if site.role == "residual")
    assert dataset.space.n_units - residual == 237_312


def test_the_official_validator_has_nothing_to_say(dataset, capsys):
    assert main(["validate", str(dataset.path)]) == 0
    assert capsys.readouterr().out.count("0 errors, 0 warnings") == 2


def test_nilearn_fits_it_and_its_mask_takes_every_unit(dataset, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what nilearn warns of is tested on smaller datasets
        models, imgs, events, confounds = first_level_from_bids(
            dataset.path,
            "pathology",
            dataset.space.label,
            derivatives_folder="derivatives/llm2bids",
            hrf_model=None,
        )
        model = models[0].fit(imgs[0], events[0], confounds[0])
        z_map = model.compute_contrast("pathology", output_type="z_score")
    mask = model.masker_.mask_img_.get_fdata() > 0
    assert mask[dataset.space.grey].all()
    nib.save(z_map, tmp_path / "z.nii.gz")
    units = locate(tmp_path / "z.nii.gz", dataset.space, top_percent=0.1)
    values = dataset.space.to_units(z_map)
    assert units["value"].iloc[0] == pytest.approx(values[np.abs(values).argmax()])
    assert units["address"].iloc[0] == dataset.space.address_of(int(np.abs(values).argmax()))
