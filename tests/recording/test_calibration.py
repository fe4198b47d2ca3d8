"""Statistics of the resting scan."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llm2bids.model.sites import find_sites
from llm2bids.paradigm.task import Sampling
from llm2bids.recording.calibration import Calibration, Moments, RestScan, calibrate
from llm2bids.recording.record import record_run


@pytest.mark.parametrize("batch_size", [None, 3])
def test_equals_the_statistics_of_a_recording(batch_size, tiny_loaded, design_of):
    loaded = tiny_loaded("llama")
    sites = find_sites(loaded).sites
    design = design_of()
    prompts = [trial.prompt for trial in design.trials]
    seen = []
    calibration = calibrate(
        loaded,
        prompts,
        sites,
        RestScan(
            tokens_per_prompt=5,
            sampling=Sampling(),
            seed=design.seed,
            batch_size=batch_size,
            on_token=seen.append,
        ),
    )
    values = record_run(loaded, design, sites).values.astype(np.float64)
    np.testing.assert_allclose(calibration.mean, values.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(calibration.sd, values.std(axis=0), rtol=1e-3, atol=1e-5)
    assert calibration.mean.dtype == calibration.sd.dtype == np.float32
    assert calibration.n_tokens == sum(seen) == 35
    assert calibration.prompt_ids == tuple(f"p{index}" for index in range(7))


@given(
    rows=arrays(np.float32, (11, 3), elements=st.floats(-1e4, 1e4, width=32)),
    cut=st.integers(1, 10),
)
def test_moments_in_parts_equal_moments_of_the_whole(rows, cut):
    moments = Moments(3)
    moments.add(rows[:cut])
    moments.add(rows[cut:])
    mean, sd = moments.mean_sd()
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(sd, exact.std(axis=0), rtol=1e-5, atol=2e-2)


def test_a_unit_that_does_not_vary_is_scaled_by_one():
    moments = Moments(2)
    for value in (0.1, 0.1, 0.1):
        moments.add(np.array([[value, value * 3], [value, value]], dtype=np.float32))
    mean, sd = moments.mean_sd()
    assert sd[0] == 0 and sd[1] > 0
    calibration = Calibration(mean=mean, sd=sd, prompt_ids=(), n_tokens=6)
    assert calibration.scale.tolist() == [1.0, float(sd[1])]


def test_more_units_than_one_chunk():
    rows = np.random.default_rng(0).normal(size=(4, 40001)).astype(np.float32)
    moments = Moments(40001)
    moments.add(rows)
    np.testing.assert_allclose(moments.mean_sd()[1], rows.std(axis=0), rtol=1e-4)
