"""The pooled prompt test on simulations with known truth."""

import numpy as np
import pytest
from scipy import stats

from llm2bids.exceptions import InferenceError
from llm2bids.inference.second_level import pooled_test


def simulate(rng, *, n_units=60, n_participants=4, n_prompts=12, effect=0.0, n_active=0):
    participants = np.repeat(np.arange(n_participants), n_prompts)
    on = np.tile(np.arange(n_prompts) >= n_prompts // 2, n_participants)
    values = rng.standard_normal((on.size, n_units))
    values += 3 * rng.standard_normal((n_participants, n_units))[participants]
    values[np.ix_(on, np.arange(n_active))] += effect
    return values, on, participants


def test_one_participant_is_the_two_sample_t_test():
    values, on, participants = simulate(np.random.default_rng(0), n_participants=1)
    result = pooled_test(values, on, participants, n_perm=10)
    expected = stats.ttest_ind(values[on], values[~on])
    np.testing.assert_allclose(result.t, expected.statistic, rtol=1e-4)
    np.testing.assert_allclose(result.effect, values[on].mean(0) - values[~on].mean(0), rtol=1e-4)
    assert result.dof == values.shape[0] - 2


def test_participants_have_their_own_intercept():
    values, on, participants = simulate(np.random.default_rng(1))
    design = np.column_stack([on, *(participants == label for label in range(4))]).astype(float)
    beta, residual, *_ = np.linalg.lstsq(design, values, rcond=None)
    error = np.sqrt(residual / 43 * np.linalg.inv(design.T @ design)[0, 0])
    result = pooled_test(values, on, participants, n_perm=10)
    assert result.dof == 43
    np.testing.assert_allclose(result.t, beta[0] / error, rtol=1e-4)
    np.testing.assert_allclose(result.d, beta[0] / np.sqrt(residual / 43), rtol=1e-4)


def test_family_wise_rate_and_uncorrected_rate_under_the_null():
    rng = np.random.default_rng(2)
    hits, exceed = 0, []
    for simulation in range(200):
        result = pooled_test(*simulate(rng), n_perm=199, random_state=simulation)
        hits += bool((result.p_fwe <= 0.05).any())
        exceed.append((result.p <= 0.05).mean())
    assert 3 <= hits <= 19  # binomial, 200 draws at 0.05: 99.8 % of outcomes
    assert np.mean(exceed) == pytest.approx(0.05, abs=0.006)


def test_planted_units_are_found_and_no_others():
    rng = np.random.default_rng(3)
    result = pooled_test(*simulate(rng, effect=2.0, n_active=5), n_perm=999)
    assert (result.p_fwe[:5] <= 0.05).all()
    assert (result.p_fwe[5:] > 0.05).all()
    np.testing.assert_allclose(result.effect[:5], 2, atol=1)
    assert (np.abs(result.t) >= result.threshold(0.05)).tolist() == (result.p_fwe <= 0.05).tolist()
    assert result.threshold(0.0005) == np.inf


def test_shared_baseline_shift_of_a_participant_is_no_effect():
    values, on, participants = simulate(np.random.default_rng(4))
    shifted = values + 50.0 * participants[:, np.newaxis]
    first, second = (pooled_test(v, on, participants, n_perm=49) for v in (values, shifted))
    np.testing.assert_allclose(first.t, second.t, rtol=1e-3, atol=1e-4)


def test_a_still_unit_has_no_evidence():
    values, on, participants = simulate(np.random.default_rng(5))
    values[:, 7] = 1.5
    result = pooled_test(values, on, participants, n_perm=49)
    assert (result.t[7], result.p[7], result.p_fwe[7], result.d[7]) == (0, 1, 1, 0)


def test_bad_input_is_refused():
    values, on, participants = simulate(np.random.default_rng(6))
    with pytest.raises(InferenceError, match="participant 2 has 0 on and 12 off prompts"):
        pooled_test(values, on & (participants != 2), participants)
    with pytest.raises(InferenceError, match="leave no residual"):
        pooled_test(values[5:7], on[5:7], participants[5:7])
