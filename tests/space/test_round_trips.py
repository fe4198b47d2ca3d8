"""What goes into a space comes out again, whatever the model's shape."""

import nibabel as nib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2bids.model.units import Site
from llm2bids.recording.calibration import Calibration
from llm2bids.space.image import constant_units, decode
from llm2bids.space.space import Space
from tests.synthetic import build, encode

WIDTHS = st.integers(1, 60) | st.sampled_from([61, 64, 97, 127, 128])
SEEDS = st.integers(0, 2**32 - 1)
FAST = settings(max_examples=40)


@st.composite
def sites(draw):
    """Draw sites of a model: some roles in some layers, with or without heads, and others."""
    kinds = {}
    for role in draw(st.lists(st.sampled_from("abcde"), unique=True, max_size=4)):
        n_heads = draw(st.none() | st.integers(1, 7))
        kinds[role] = (draw(st.integers(1, 17)), n_heads) if n_heads else (draw(WIDTHS), None)
    found = [
        Site(name=f"out.{n}", layer=None, role=f"out.{n}", width=draw(WIDTHS))
        for n in range(draw(st.integers(0 if kinds else 1, 2)))
    ]
    split = draw(st.integers(0, len(found)))
    inside = []
    for layer in range(draw(st.integers(1, 3))):
        for role, (size, n_heads) in kinds.items():
            if layer and draw(st.booleans()):
                continue
            heads = {"n_heads": n_heads, "head_size": size} if n_heads else {}
            inside.append(
                Site(
                    name=f"layers.{layer}.{role}",
                    layer=layer,
                    role=role,
                    width=size * (n_heads or 1),
                    **heads,
                )
            )
    return [*found[:split], *inside, *found[split:]]


@st.composite
def spaces(draw):
    return build(draw(sites()))


def calibration_for(space, seed):
    rng = np.random.default_rng(seed)
    sd = rng.uniform(0, 3, space.n_units).astype(np.float32)
    sd[rng.random(space.n_units) < 0.1] = 0
    mean = rng.normal(0, 5, space.n_units).astype(np.float32)
    return Calibration(mean=mean, sd=sd, prompt_ids=(), n_tokens=9)


def values_for(space, calibration, seed, n_tokens=7):
    rng = np.random.default_rng([seed, 1])
    noise = rng.standard_normal((n_tokens, space.n_units), dtype=np.float32)
    return calibration.mean + calibration.scale * noise


@FAST
@given(spaces())
def test_unit_to_voxel_to_unit(space):
    for unit in range(space.n_units):
        assert space.unit_at(*space.voxels[unit].tolist()) == unit
        assert space.unit_of(space.address_of(unit)) == unit
    assert np.count_nonzero(space.unit_of_voxel >= 0) == space.n_units == space.grey.sum()
    assert np.array_equal(space.unit_of_voxel >= 0, space.grey)


@FAST
@given(spaces())
def test_space_to_table_to_space(space):
    again = Space.from_table(space.unit_table(), space.metadata())
    assert again.sites == space.sites
    np.testing.assert_array_equal(again.voxels, space.voxels)
    np.testing.assert_array_equal(again.tissue, space.tissue)
    assert again.fingerprint() == space.fingerprint()


@FAST
@given(spaces(), SEEDS, st.sampled_from([(), (3,), (2, 5)]))
def test_units_to_grid_to_units(space, seed, leading):
    values = np.random.default_rng(seed).standard_normal((*leading, space.n_units), "f4")
    grid = space.to_grid(values)
    assert grid.shape == (*space.shape, *leading)
    unit = space.n_units // 2
    np.testing.assert_array_equal(grid[tuple(space.voxels[unit])], values[..., unit])
    assert grid.dtype == np.float32
    assert not grid[~space.grey].any()
    if len(leading) < 2:
        np.testing.assert_array_equal(space.to_units(grid), values)
        np.testing.assert_array_equal(space.to_units(grid.copy(order="C")), values)


@FAST
@given(spaces(), SEEDS)
def test_array_to_file_to_array_is_exact(space, seed):
    values = np.random.default_rng(seed).standard_normal((4, space.n_units), "f4")
    image = nib.Nifti1Image(space.to_grid(values), space.affine)
    again = nib.Nifti1Image.from_bytes(image.to_bytes())
    np.testing.assert_array_equal(space.to_units(again), values)


@FAST
@given(spaces(), SEEDS)
def test_activation_to_int16_to_activation_is_within_half_a_step(space, seed):
    calibration = calibration_for(space, seed)
    values = values_for(space, calibration, seed)
    volumes, counts = encode(values, space, calibration, seed=seed)
    assert counts.clipped == 0
    varies = ~constant_units(values, calibration)
    again = decode(volumes.T, space, calibration)
    step = calibration.scale / calibration.counts_per_sd
    slack = 1e-3 * step + 4 * np.spacing(np.abs(values).max(axis=0))
    assert np.all((np.abs(again - values) <= step / 2 + slack)[:, varies])


@FAST
@given(spaces(), SEEDS)
def test_activation_to_float32_to_activation_is_within_rounding(space, seed):
    calibration = calibration_for(space, seed)
    values = values_for(space, calibration, seed)
    volumes, counts = encode(values, space, calibration, seed=seed, dtype="float32")
    varies = ~constant_units(values, calibration, dtype="float32")
    assert counts.constant == np.count_nonzero(~varies)
    again = decode(volumes.T, space, calibration)
    rounding = 2 * np.spacing(volumes.max()) * calibration.scale / calibration.counts_per_sd
    rounding = rounding + 4 * np.spacing(np.abs(values).max(axis=0))
    assert np.all((np.abs(again - values) <= rounding)[:, varies])
