import numpy as np
import pytest
from nilearn.glm.first_level import compute_regressor

from llm2bids.dataset.run import convolve


@pytest.mark.parametrize("hrf_model", ["spm", "glover"])
def test_a_block_becomes_the_regressor_that_nilearn_expects(hrf_model):
    t_r, n = 0.25, 288
    block = np.zeros((n, 3), dtype=np.float32)
    block[96:192] = 1
    convolved = convolve(block, t_r, hrf_model, baseline=np.zeros(3, dtype=np.float32))
    expected, _ = compute_regressor(
        np.array([[24.0], [24.0], [1.0]]), hrf_model, np.arange(n) * t_r
    )
    for unit in range(3):
        assert np.corrcoef(convolved[:, unit], expected[:, 0])[0, 1] > 0.9999
    assert convolved.dtype == np.float32


def test_a_constant_stays():
    values = np.full((50, 20000), 7, dtype=np.float32)
    np.testing.assert_allclose(
        convolve(values, 0.5, "glover", baseline=values[0]), values, rtol=1e-5
    )
