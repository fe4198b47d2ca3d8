import dataclasses

import numpy as np
import pytest

from llm2bids.exceptions import SpaceError
from llm2bids.recording.calibration import COUNTS_PER_SD
from llm2bids.space.image import BASELINE, DITHER, SeriesEncoder, constant_units, decode
from tests.synthetic import encode


def test_counts_are_sds_from_the_mean(space, calibration):
    sds = np.linspace(-3, 3, space.n_units, dtype=np.float32)
    values = np.stack([calibration.mean + calibration.sd * sds, calibration.mean])
    volumes, counts = encode(values, space, calibration, seed=1)
    assert volumes.shape == (2, *space.shape[::-1])
    assert volumes.dtype == np.int16
    assert volumes.flags.c_contiguous
    units = space.to_units(volumes.T)
    varies = ~constant_units(values, calibration)
    assert np.abs(units[0] - (BASELINE + COUNTS_PER_SD * sds))[varies].max() <= 0.5 + 1e-2
    assert np.all(units[1][varies] == BASELINE)
    assert counts.constant == np.count_nonzero(~varies)


def test_white_matter_is_dithered_and_outside_is_zero(space, calibration, values):
    volumes = encode(values, space, calibration, seed=2)[0].T
    assert not volumes[~space.brain].any()
    white = volumes[space.white].astype(int) - BASELINE
    assert (np.ptp(white[:, :2], axis=1) > 0).all()  # from the second volume on
    row = np.flatnonzero(space.white[space.shape[0] // 2].any(axis=1))[0]
    assert np.ptp(volumes[space.brain_box[0], row, space.brain_box[2].start], axis=0).max() == 0
    rows = volumes[space.brain_box[0].start, space.brain_box[1], space.brain_box[2]]
    rows = rows.reshape(-1, len(values)).astype(int) - BASELINE
    shares = [np.mean(rows == step) for step in range(-DITHER, DITHER + 1)]
    np.testing.assert_allclose(shares, [1 / 4, 1 / 4, 0, 0, 0, 1 / 4, 1 / 4], atol=0.04)
    correlation = np.corrcoef(rows.T)[np.triu_indices(len(values), k=1)]
    assert np.abs(correlation).max() < 4.5 / np.sqrt(len(rows))
    across = np.corrcoef(rows)[np.triu_indices(len(rows), k=1)]
    assert np.mean(across**2) == pytest.approx(1 / (len(values) - 1), rel=0.1)


def test_the_dither_follows_from_the_seed(space, calibration, values):
    def white(seed, **options):
        volumes, _ = encode(values, space, calibration, seed=seed, **options)
        return volumes.T[space.white]

    np.testing.assert_array_equal(white([3, 1]), white([3, 1]))
    np.testing.assert_array_equal(white(5), white(5, dtype="float32"))
    assert np.mean(white([3, 1]) == white([3, 2])) < 0.4


def test_a_dataset_says_its_gain(space, calibration, values):
    earlier = dataclasses.replace(calibration, counts_per_sd=500)
    volumes = [encode(values, space, gain, seed=5)[0] for gain in (calibration, earlier)]
    units = [space.to_units(volume.T).astype(float) - BASELINE for volume in volumes]
    assert np.abs(units[1] / 5 - units[0]).max() <= 0.6
    back = decode(volumes[1].T, space, earlier)
    assert np.abs((back - values) / calibration.scale).max() <= 0.5 / 500 + 1e-4
    assert space.fingerprint(earlier) != space.fingerprint(calibration)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize(("volumes_per_block", "n_jobs"), [(1, 1), (4, 3), (100, 2)])
def test_blocks_are_the_run_in_pieces(space, calibration, values, dtype, volumes_per_block, n_jobs):
    values[:, 40:44] = 2.5
    whole, counts = encode(values, space, calibration, seed=4, dtype=dtype)
    encoder = SeriesEncoder(values, space, calibration, seed=4, dtype=dtype)
    blocks = encoder.blocks(volumes_per_block, n_jobs=n_jobs)
    parts = [block.copy() for block in blocks]  # the array is used again
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert encoder.clipped == counts.clipped
    assert encoder.constant == counts.constant == 4
    np.testing.assert_allclose(encoder.mean(), whole.mean(axis=0, dtype="f8"), rtol=1e-9)


def test_clipped_values_are_counted_and_lie_at_the_border(space, calibration, values):
    values[3, 5] = calibration.mean[5] + 500 * calibration.sd[5]
    values[4, 6] = calibration.mean[6] - 500 * calibration.sd[6]
    values[5, 6] = calibration.mean[6] + 3e30
    volumes, counts = encode(values, space, calibration, seed=1)
    units = space.to_units(volumes.T)
    assert counts.clipped == 3
    assert (units[3, 5], units[4, 6], units[5, 6]) == (32767, -32768, 32767)
    lossless, counts = encode(values, space, calibration, seed=1, dtype="float32")
    assert counts.clipped == 0
    assert decode(lossless.T, space, calibration)[5, 6] == pytest.approx(3e30)


def test_values_beyond_float32_are_clipped_in_float32(space, calibration, values):
    sd = calibration.sd.copy()
    sd[9] = 1e-42
    tiny = dataclasses.replace(calibration, sd=sd)
    volumes, counts = encode(values, space, tiny, seed=1, dtype="float32")
    assert counts.clipped > 0
    assert np.isfinite(volumes).all()
    assert encode(values, space, tiny, seed=1)[1].clipped == len(values)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_constant_units_take_the_dither_around_their_own_count(space, calibration, values, dtype):
    still = np.array([0, 17, space.n_units - 1])
    values[:, still] = calibration.mean[still] + 2 * calibration.sd[still]
    volumes, counts = encode(values, space, calibration, seed=6, dtype=dtype)
    units = space.to_units(volumes.T)
    assert counts.constant == 3
    found = units[:, still] - (BASELINE + 2 * COUNTS_PER_SD)
    assert np.abs(np.rint(found)).max() <= DITHER
    assert np.rint(found).any(axis=0).all()
    assert np.all(units.std(axis=0) > 0)


def test_units_that_round_to_one_count_are_constant_in_int16_only(space, calibration, values):
    values[:, 8] = calibration.mean[8]
    values[::2, 8] += calibration.sd[8] * np.float32(1e-4)
    assert constant_units(values, calibration)[8]
    assert not constant_units(values, calibration, dtype="float32")[8]


def test_units_that_stay_beyond_the_range_are_constant_and_within_it(space, calibration, values):
    values[:, 8] += 500 * calibration.sd[8]
    values[:, 9] -= 500 * calibration.sd[9]
    volumes, counts = encode(values, space, calibration, seed=3)
    units = space.to_units(volumes.T)
    assert counts.constant == 2
    assert counts.clipped == 2 * len(values)
    for unit, border in ((8, 32767), (9, -32768)):
        steps = units[:, unit].astype(int) - (border - np.sign(border) * DITHER)
        assert 0 < np.abs(steps).max() <= DITHER


def test_a_unit_without_calibrated_variance_is_scaled_by_one(space, calibration, values):
    sd = calibration.sd.copy()
    sd[11] = 0
    flat = dataclasses.replace(calibration, sd=sd)
    units = space.to_units(encode(values, space, flat, seed=1)[0].T)
    expected = BASELINE + COUNTS_PER_SD * (values[:, 11] - flat.mean[11])
    np.testing.assert_allclose(units[:, 11], expected, atol=0.51)


def test_a_single_volume_has_no_constant_units(space, calibration, values):
    volumes, counts = encode(values[:1], space, calibration, seed=1, dtype="float32")
    assert counts.constant == 0
    np.testing.assert_allclose(
        decode(volumes[0].T, space, calibration), values[0], atol=1e-4, rtol=1e-6
    )


def test_values_are_not_changed(space, calibration, values):
    before = values.copy()
    encode(values, space, calibration, seed=1)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_values_that_are_not_finite_are_refused_by_name(space, calibration, values, wrong, dtype):
    unit = space.unit_of("model.layers.1.mlp.act_fn[4]")
    values[7, unit] = wrong
    message = rf"unit model.layers.1.mlp.act_fn\[4\] is {wrong} in volume 7 \(1 unit"
    with pytest.raises(SpaceError, match=message):
        encode(values, space, calibration, seed=1, dtype=dtype)
    with pytest.raises(SpaceError, match=message):
        list(SeriesEncoder(values, space, calibration, seed=1, dtype=dtype).blocks(3))
