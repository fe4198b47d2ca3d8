from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import task_effects
from llm2bids.network.repeatability import half_splits, split_participants, split_prompts


@given(st.integers(2, 9), st.integers(1, 40))
def test_halves_are_distinct_and_even(n, n_splits):
    splits = half_splits(n, n_splits)
    ways = comb(n, n // 2) // (2 - n % 2)
    assert len(splits) == min(ways, n_splits)
    assert (splits.sum(axis=1) == n // 2).all()
    seen = {frozenset([tuple(row), tuple(~row)]) for row in splits}
    assert len(seen) == len(splits)


def _expected_r(power, noise):
    return power / (power + noise)


def test_halves_of_participants_reach_the_known_reliability(simulate):
    """With independent prompts r is the share of the pattern's variance in a half's map."""
    rng = np.random.default_rng(5)
    patterns = rng.normal(size=(3, 4000)).astype(np.float32)
    means = simulate(patterns, n_participants=6, n_on=4, n_off=6, noise=1.5)
    halves = split_participants(task_effects(means))
    noise = 1.5**2 * (1 / 4 + 1 / 6) / 3
    np.testing.assert_allclose(halves.mean_r, _expected_r(1, noise), atol=0.02)
    np.testing.assert_allclose(halves.full_r, _expected_r(1, noise / 2), atol=0.02)
    assert halves.r.shape == (10, 3)
    assert (halves.r_low <= halves.mean_r).all() and (halves.mean_r <= halves.r_high).all()
    assert halves.over == "participants"
    assert halves.table()["n_splits"].tolist() == [10] * 3
    assert not halves.shared


def test_halves_of_prompts_reach_the_known_reliability(simulate):
    patterns = np.random.default_rng(6).normal(size=(3, 4000)).astype(np.float32)
    means = simulate(patterns, n_participants=4, n_on=4, n_off=6, noise=1.5)
    halves = split_prompts(means, n_splits=5)
    noise = 1.5**2 * (1 / 2 + 1 / 3) / 4
    np.testing.assert_allclose(halves.mean_r, _expected_r(1, noise), atol=0.02)
    assert halves.r.shape == halves.dice.shape == (5, 3)
    assert (halves.dice_low <= halves.mean_dice).all()
    assert (halves.mean_dice <= halves.dice_high).all()


def test_null_halves_are_at_chance(simulate):
    means = simulate(np.zeros((3, 4000), np.float32), n_participants=4)
    for halves in (split_participants(task_effects(means)), split_prompts(means, n_splits=4)):
        np.testing.assert_allclose(halves.mean_r, 0, atol=0.05)
        np.testing.assert_allclose(halves.mean_dice, 0.025, atol=0.02)


def test_shared_prompts_fake_repeatability_and_are_refused(simulate):
    means = simulate(np.zeros((3, 800), np.float32), n_participants=4, share="on")
    with pytest.raises(NetworkError, match=r"participants \(01 and 02\).*on-taskA-all-0"):
        split_participants(task_effects(means))
    faked = split_participants(task_effects(means), allow_circular=True)
    assert (faked.mean_r > 0.5).all()
    assert len(faked.shared.prompts) == 12
    with pytest.raises(NetworkError, match="split halves of prompts"):
        split_prompts(means)


def test_two_participants_have_no_interval(simulate, patterns):
    halves = split_participants(task_effects(simulate(patterns, n_participants=2)))
    assert np.isfinite(halves.mean_r).all()
    assert np.isnan(halves.r_low).all()


def test_bad_input_is_refused(simulate, patterns):
    with pytest.raises(NetworkError, match="found 1 participant; expected two"):
        split_participants(task_effects(simulate(patterns, n_participants=1)))
    with pytest.raises(NetworkError, match="sub-01 taskA has one prompt of taskA"):
        split_prompts(simulate(patterns, n_on=1))
    with pytest.raises(NetworkError, match="sub-01 saw prompt off-any-01-0 more than once"):
        split_prompts(simulate(patterns, shared_baseline=True))
