import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import dice as scipy_dice

from llm2bids.exceptions import NetworkError
from llm2bids.network import similarity
from llm2bids.network.similarity import (
    angle,
    dice,
    dice_matrix,
    fisher_mean,
    gram_matrix,
    share_of_angle,
    top_units,
    weighted_correlation,
)


def test_correlations_from_gram_equal_numpy():
    rng = np.random.default_rng(0)
    maps = (rng.normal(size=(7, 5000)) + 30).astype(np.float32)
    weights = rng.normal(size=(3, 7))
    weights -= weights.mean(axis=1, keepdims=True)
    expected = np.corrcoef(weights @ maps.astype(np.float64))
    for centre in (False, True):
        gram = gram_matrix(maps, centre_maps=centre)
        np.testing.assert_allclose(
            weighted_correlation(gram, weights, weights), expected, atol=1e-5
        )


def test_gram_does_not_depend_on_blocks(monkeypatch):
    maps = np.random.default_rng(1).normal(size=(4, 1000))
    whole = gram_matrix(maps)
    monkeypatch.setattr(similarity, "CHUNK", 96)
    np.testing.assert_allclose(gram_matrix(maps), whole)


def test_constant_map_correlates_zero():
    gram = gram_matrix(np.array([[1.0, 2.0, 4.0], [3.0, 3.0, 3.0]]))
    r = weighted_correlation(gram, np.eye(2), np.eye(2))
    np.testing.assert_allclose(r, [[1, 0], [0, 0]], atol=1e-12)


@given(st.integers(2, 60), st.floats(0.02, 1), st.integers(0, 5))
def test_top_units_marks_as_many_as_asked(n_units, share, values):
    maps = (
        np.random.default_rng(n_units).integers(-values, values + 1, (2, 3, n_units)).astype(float)
    )
    count = round(share * n_units)
    if count < 1:
        with pytest.raises(NetworkError, match="take a larger share"):
            top_units(maps, share)
        return
    marked = top_units(maps, share)
    assert ((marked != 0).sum(axis=-1) == count).all()
    sizes = np.abs(maps)
    for index in np.ndindex(2, 3):
        chosen = marked[index] != 0
        if not chosen.all():
            assert sizes[index][chosen].min() >= sizes[index][~chosen].max()
    negative = (maps < 0) & (marked != 0)
    assert (marked[negative] == -1).all()
    assert (marked[(marked != 0) & ~negative] == 1).all()


def test_share_out_of_range_is_refused():
    with pytest.raises(NetworkError, match=r"found 1\.5 of 4 units"):
        top_units(np.arange(4.0), 1.5)


def test_dice_equals_scipy():
    rng = np.random.default_rng(2)
    sets = rng.random((3, 50)) < 0.3
    matrix = dice_matrix(sets)
    for i in range(3):
        for j in range(3):
            assert matrix[i, j] == pytest.approx(1 - scipy_dice(sets[i], sets[j]))


def test_dice_counts_agreeing_signs_and_knows_empty():
    one = np.array([1, -1, 0, 1], dtype=np.int8)
    assert dice(one, -one) == 0
    assert dice(one, one) == 1
    assert np.isnan(dice(np.zeros(3, bool), np.zeros(3, bool)))


def test_scales_go_back():
    shares = np.linspace(0, 1, 11)
    np.testing.assert_allclose(share_of_angle(angle(shares)), shares, atol=1e-12)
    assert fisher_mean(np.array([0.3, 0.3])) == pytest.approx(0.3)
    assert np.isfinite(fisher_mean(np.array([1.0, 0.0])))
