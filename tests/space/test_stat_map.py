"""Maps whose values are mixtures of neighbouring units are told from those whose are not."""

import logging

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel
from nilearn.image import resample_img, smooth_img
from scipy import ndimage

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.space.stat_map import unit_values, white_correlation
from tests.synthetic import build, encode, plain_calibration

pytestmark = pytest.mark.filterwarnings("ignore:.*Generation of a mask")

OUTPUTS = ("z_score", "stat", "effect_size", "effect_variance")
T_R = 0.25


@pytest.fixture(scope="module")
def space():
    """Four layers with panels of 33 x 33 and 20 x 20, so that every border has many voxels."""
    sites = [
        Site(name=f"model.layers.{layer}.{role}", layer=layer, role=role, width=width)
        for layer in range(4)
        for role, width in (("mlp.act", 1089), ("attn.o", 400), ("residual", 361))
    ]
    return build(sites)


@pytest.fixture(scope="module", params=["int16", "float32"])
def series(space, request):
    """A run of 96 volumes, the middle third of which moves most units, neighbours alike."""
    rng = np.random.default_rng(2)
    on = np.repeat([0, 1, 0], 32)
    effect = np.repeat(rng.normal(0, 1.5, space.n_units // 4 + 1), 4)[: space.n_units]
    values = (rng.standard_normal((96, space.n_units)) + np.outer(on, effect)).astype(np.float32)
    volumes, _ = encode(values, space, plain_calibration(space), seed=5, dtype=request.param)
    return nib.Nifti1Image(volumes.T, space.affine)


def first_level(series, space, **options):
    events = pd.DataFrame({"onset": [32 * T_R], "duration": [32 * T_R], "trial_type": ["on"]})
    mask = nib.Nifti1Image(space.brain.astype(np.uint8), space.affine)
    model = FirstLevelModel(t_r=T_R, mask_img=mask, hrf_model=None, **options)
    return model.fit(series, events=events).compute_contrast("on", output_type="all")


@pytest.mark.parametrize("dtype", ["complex64", "U3", "object"])
def test_arrays_of_what_is_no_real_number_are_refused(space, dtype):
    with pytest.raises(SpaceError, match=r"array holds .*expected real numbers"):
        unit_values(np.zeros(space.n_units).astype(dtype), space)


@pytest.mark.parametrize(
    "options",
    [
        {"noise_model": "ols"},
        {"noise_model": "ar1", "signal_scaling": False, "drift_model": None},
        {"noise_model": "ols", "standardize": True},
    ],
)
def test_unsmoothed_maps_of_the_whole_brain_raise_no_alarm(series, space, options, caplog):
    maps = first_level(series, space, **options)
    for name in OUTPUTS:
        white = maps[name].get_fdata()[space.white]
        assert np.std(white) > 0  # white matter has null values of its own
        assert white_correlation(maps[name].get_fdata(), space) == 0, name
        unit_values(maps[name], space)
    assert white_correlation(np.asarray(series.dataobj)[..., 3], space) == 0
    assert caplog.text == ""


def test_smoothing_of_the_series_by_one_voxel_is_noticed(series, space):
    maps = first_level(series, space, noise_model="ols", smoothing_fwhm=2)
    for name in OUTPUTS:
        assert white_correlation(maps[name].get_fdata(), space) > 0.3, name


@pytest.mark.parametrize("fwhm", [2, 4, 8])
def test_smoothed_maps_are_noticed(series, space, fwhm):
    maps = first_level(series, space, noise_model="ols")
    for name in OUTPUTS:
        smooth = smooth_img(maps[name], fwhm).get_fdata()
        assert white_correlation(smooth, space) > 0.05, name


@pytest.mark.parametrize("shift", [(0.3, 0, 0), (0, 0.5, 0), (0, 0, 0.3), (0.2, 0.2, 0.2)])
def test_interpolated_maps_are_noticed(series, space, shift):
    maps = first_level(series, space, noise_model="ols")
    for name in OUTPUTS:
        moved = ndimage.shift(np.nan_to_num(maps[name].get_fdata()), shift, order=1)
        assert white_correlation(moved, space) > 0.05, name


def test_a_map_that_went_to_another_grid_and_back_is_named(series, space, caplog):
    z_map = first_level(series, space, noise_model="ols")["z_score"]
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = space.affine[:3, 3]
    options = {"force_resample": True, "copy_header": True}
    there = resample_img(z_map, target_affine=affine, **options)
    back = resample_img(there, target_affine=space.affine, target_shape=space.shape, **options)
    with caplog.at_level(logging.WARNING, logger="llm2bids"):
        unit_values(back, space)
    assert "mixes neighbours" in caplog.text


@pytest.mark.parametrize("fill", [0.0, np.nan, 10000.0])
def test_constant_white_matter_raises_no_alarm(space, fill):
    values = np.random.default_rng(1).standard_normal(space.n_units).astype(np.float32)
    assert white_correlation(space.to_grid(values, fill=fill), space) == 0
