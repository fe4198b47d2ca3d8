"""Images move between arrangements without loss, and between models not at all."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm2bids.exceptions import SpaceError
from llm2bids.space.arrange import build_space
from llm2bids.space.functional import random_space
from llm2bids.space.header import image_header, read_fingerprint
from llm2bids.space.resample import resample


@pytest.fixture(scope="module")
def other(space):
    return shuffled(space, 1)


def shuffled(space, seed):
    return random_space(space, seed=seed)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(
    seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    dtype=st.sampled_from(["uint8", "int16", "float32", "float64"]),
    n_volumes=st.sampled_from([None, 2]),
)
def test_there_and_back_gives_the_same_image(space, tmp_path_factory, seeds, dtype, n_volumes):
    one, two = (shuffled(space, seed) for seed in seeds)
    rng = np.random.default_rng(seeds[0])
    shape = one.shape if n_volumes is None else (*one.shape, n_volumes)
    data = (100 * rng.standard_normal(shape)).astype(dtype)
    header = image_header(
        one, fingerprint=one.fingerprint(), dtype=dtype, n_volumes=n_volumes,
        t_r=n_volumes and 0.5,
    )  # fmt: skip
    img = nib.Nifti1Image(data, one.affine, header)
    moved = resample(img, one, two)
    assert np.array_equal(two.to_units(moved), one.to_units(img))
    assert read_fingerprint(moved.header) == two.fingerprint()[:16]
    path = tmp_path_factory.mktemp("moved") / "image.nii.gz"
    nib.save(moved, path)
    back = resample(path, two, one)
    assert np.array_equal(np.asanyarray(back.dataobj), data)
    assert back.header == img.header


def test_scaled_integers_are_not_rounded(space, other, tmp_path):
    counts = np.arange(np.prod(space.shape), dtype=np.int16).reshape(space.shape)
    img = nib.Nifti1Image(counts, space.affine)
    img.header.set_slope_inter(0.3, 3)
    nib.save(img, tmp_path / "scaled.nii")
    moved = resample(tmp_path / "scaled.nii", space, other)
    nib.save(moved, tmp_path / "moved.nii")
    back = nib.load(tmp_path / "moved.nii")
    there = nib.load(tmp_path / "scaled.nii")
    assert np.array_equal(there.dataobj.get_unscaled(), counts)
    assert (back.dataobj.slope, back.dataobj.inter) == (there.dataobj.slope, there.dataobj.inter)
    assert np.array_equal(
        other.to_units(back.dataobj.get_unscaled()), space.to_units(there.dataobj.get_unscaled())
    )


def test_calibrated_images_stay_known_by_their_calibration(space, other, calibration):
    print_of = space.fingerprint(calibration)
    header = image_header(space, fingerprint=print_of, dtype="float32")
    img = nib.Nifti1Image(np.ones(space.shape, dtype=np.float32), space.affine, header)
    moved = resample(img, space, other, calibration=calibration)
    assert read_fingerprint(moved.header) == other.fingerprint(calibration)[:16]
    with pytest.raises(SpaceError, match=r"has the fingerprint .* --dataset"):
        resample(img, other, space, calibration=calibration)


def test_other_models_sites_and_grids_are_refused(space, other, sites):
    img = nib.Nifti1Image(np.zeros(space.shape, dtype=np.float32), space.affine)
    with pytest.raises(SpaceError, match="different weights"):
        resample(img, space, dataclasses.replace(other, weights_sha256="cd" * 32))
    fewer = build_space(sites[:-1], label="Tiny", model_name="t", weights_sha256="ab" * 32)
    with pytest.raises(SpaceError, match=r"different sites, among them model\.norm"):
        resample(img, space, fewer)
    with pytest.raises(SpaceError, match="its shape is"):
        resample(img.slicer[1:], space, other)


@pytest.mark.parametrize("codes", ["LAS", "LPS", "PSR"])
def test_images_with_other_axes_move_alike(space, other, codes, tmp_path):
    counts = np.arange(2 * np.prod(space.shape), dtype=np.int16).reshape(*space.shape, 2)
    img = nib.Nifti1Image(counts, space.affine)
    turned = img.as_reoriented(
        nib.orientations.ornt_transform(
            nib.io_orientation(space.affine), nib.orientations.axcodes2ornt(codes)
        )
    )
    nib.save(turned, tmp_path / "turned.nii.gz")
    expected, moved = (resample(one, space, other) for one in (img, tmp_path / "turned.nii.gz"))
    assert np.array_equal(np.asanyarray(moved.dataobj), np.asanyarray(expected.dataobj))
    np.testing.assert_array_equal(moved.affine, space.affine)
    nib.save(moved, tmp_path / "moved.nii.gz")
    np.testing.assert_array_equal(other.to_units(tmp_path / "moved.nii.gz"), space.to_units(img))
