"""nilearn's own mask takes the whole brain, whatever the model's shape."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.masking import compute_background_mask, compute_epi_mask

from llm2bids.model.units import Site
from tests.synthetic import build, encode, plain_calibration


def residual(n_layers, width):
    return [Site(name=f"m.{n}", layer=n, role="residual", width=width) for n in range(n_layers)]


def bold(space, *, seed, shift=None, n_tokens=6):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n_tokens, space.n_units), dtype=np.float32)
    if shift is not None:
        values += shift
    volumes, _ = encode(values, space, plain_calibration(space), seed=seed)
    return nib.Nifti1Image(volumes.T, space.affine)


def find_mask(space, img):
    background = compute_background_mask(img).get_fdata() > 0
    assert np.all(background[space.grey])
    mask = compute_epi_mask(img).get_fdata() > 0
    assert not np.any(mask & ~space.brain)
    assert np.all(mask[space.grey])
    return mask


def check_mask(space, img):
    """Check that nothing is lost but what an opening by 2 takes off a box's edges."""
    lost = np.argwhere(space.brain & ~find_mask(space, img))
    from_face = [
        np.minimum(lost[:, axis] - box.start, box.stop - 1 - lost[:, axis])
        for axis, box in enumerate(space.brain_box)
    ]
    assert np.all(np.maximum(0, 2 - np.array(from_face)).sum(axis=0) > 2)


@settings(max_examples=20)
@given(
    st.integers(0, 4), st.integers(1, 150), st.none() | st.integers(1, 150), st.integers(0, 1000)
)
def test_the_whole_brain_is_found(n_layers, width, outer, seed):
    sites = residual(n_layers, width)
    if outer or not sites:
        sites.append(Site(name="norm", layer=None, role="norm", width=outer or width))
    space = build(sites)
    check_mask(space, bold(space, seed=seed))


@pytest.mark.parametrize(
    "sites",
    [
        residual(1, 1),
        residual(1, 20_000),
        residual(40, 1),
        [Site(name="q", layer=0, role="q", width=127, n_heads=1, head_size=127)],
        [*residual(2, 9), Site(name="lm_head", layer=None, role="lm_head", width=3000)],
    ],
    ids=["one-unit", "one-slice", "a-column", "a-row", "a-tower"],
)
def test_extreme_shapes(sites):
    space = build(sites)
    check_mask(space, bold(space, seed=1))


def test_the_space_of_the_fixture(space):
    check_mask(space, bold(space, seed=2))


@pytest.mark.parametrize("seed", range(4))
def test_units_with_means_far_from_the_calibration_stay_in_the_mask(seed):
    space = build(residual(6, 400))
    rng = np.random.default_rng(seed)
    shift = rng.normal(0, 1.5, space.n_units).astype(np.float32)
    outliers = rng.choice(space.n_units, space.n_units // 50, replace=False)
    shift[outliers] = rng.uniform(-60, 40, len(outliers))
    find_mask(space, bold(space, seed=seed, shift=shift))


@settings(max_examples=10)
@given(st.integers(1, 12), st.integers(20, 900), st.integers(0, 1000))
def test_units_15_sd_below_their_mean_stay_in_the_mask(n_layers, width, seed):
    space = build(residual(n_layers, width))
    rng = np.random.default_rng(seed)
    shift = np.zeros(space.n_units, dtype=np.float32)
    shift[rng.choice(space.n_units, -(-space.n_units // 100), replace=False)] = -15
    find_mask(space, bold(space, seed=seed, shift=shift))


@pytest.mark.slow
def test_a_space_of_the_embedded_models_size():
    space = build(residual(30, 8448))
    check_mask(space, bold(space, seed=4, n_tokens=3))
