from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.exceptions import NetworkError
from llm2bids.inference.prompts import effects_of
from llm2bids.network import similarity
from llm2bids.network.options import FindingsOptions
from llm2bids.network.repeatability import (
    agreement,
    compare_single_maps,
    half_splits,
    split_participants,
    split_prompts,
)
from llm2bids.network.similarity import intraclass_correlation

HOW, CIRCULAR = FindingsOptions(), FindingsOptions(allow_circular=True)


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
    halves = split_participants(effects_of(means), HOW)
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
    halves = split_prompts(means, HOW, n_splits=5)
    noise = 1.5**2 * (1 / 2 + 1 / 3) / 4
    np.testing.assert_allclose(halves.mean_r, _expected_r(1, noise), atol=0.02)
    assert halves.r.shape == halves.dice.shape == (5, 3)
    assert (halves.dice_low <= halves.mean_dice).all()
    assert (halves.mean_dice <= halves.dice_high).all()


def test_null_halves_are_at_chance(simulate):
    means = simulate(np.zeros((3, 4000), np.float32), n_participants=4)
    for halves in (
        split_participants(effects_of(means), HOW),
        split_prompts(means, HOW, n_splits=4),
    ):
        np.testing.assert_allclose(halves.mean_r, 0, atol=0.05)
        np.testing.assert_allclose(halves.mean_dice, 0.025, atol=0.02)


def test_shared_prompts_fake_repeatability_and_are_refused(simulate):
    means = simulate(np.zeros((3, 800), np.float32), n_participants=4, share="on")
    with pytest.raises(NetworkError, match=r"participants \(01 and 02\).*on-taskA-all-0"):
        split_participants(effects_of(means), HOW)
    faked = split_participants(effects_of(means), CIRCULAR)
    assert (faked.mean_r > 0.5).all()
    assert len(faked.shared.prompts) == 12
    with pytest.raises(NetworkError, match="split halves of prompts"):
        split_prompts(means, HOW)


def test_bad_input_is_refused(simulate, patterns):
    with pytest.raises(NetworkError, match="found 1 participant; expected two"):
        split_participants(effects_of(simulate(patterns, n_participants=1)), HOW)
    with pytest.raises(NetworkError, match="sub-01_task-taskA has one prompt of taskA"):
        split_prompts(simulate(patterns, n_on=1), HOW)
    with pytest.raises(NetworkError, match="sub-01 saw prompt off-any-01-0 more than once"):
        split_prompts(simulate(patterns, shared_baseline=True), HOW)


def test_single_runs_reach_the_known_reliability(simulate):
    rng = np.random.default_rng(5)
    common = rng.normal(size=3000)
    patterns = (common + rng.normal(size=(3, 3000))).astype(np.float32)
    effects = effects_of(simulate(patterns, n_participants=4, noise=1.5))
    runs = compare_single_maps(effects, HOW)
    noise = 1.5**2 * (1 / 4 + 1 / 6)
    np.testing.assert_allclose(runs.mean_r, 2 / (2 + noise), atol=0.03)
    np.testing.assert_allclose(runs.other_tasks_r, 1 / (2 + noise), atol=0.05)
    pairs = np.corrcoef(effects.values[:, 2])[np.triu_indices(4, k=1)]
    assert runs.mean_r[2] == pytest.approx(np.tanh(np.arctanh(pairs).mean()), abs=1e-5)
    assert ((runs.r_low < runs.mean_r) & (runs.mean_r < runs.r_high)).all()


def test_null_runs_do_not_correlate(simulate):
    runs = compare_single_maps(
        effects_of(simulate(np.zeros((3, 3000), np.float32), n_participants=4)), HOW
    )
    np.testing.assert_allclose(runs.mean_r, 0, atol=0.04)


def test_shared_off_prompts_fake_it_and_are_refused(simulate):
    effects = effects_of(simulate(np.zeros((3, 900), np.float32), n_participants=3, share="off"))
    with pytest.raises(NetworkError, match="correlation between participants"):
        compare_single_maps(effects, HOW)
    assert (compare_single_maps(effects, CIRCULAR).mean_r > 0.3).all()


def test_one_participant_is_refused(simulate, patterns):
    with pytest.raises(NetworkError, match="found 1 participant"):
        compare_single_maps(effects_of(simulate(patterns, n_participants=1)), HOW)


def test_known_variances_are_recovered():
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(40, 1, 600)) * np.sqrt(0.6)
    judges = rng.normal(size=(1, 5, 600)) * 2
    noise = rng.normal(size=(40, 5, 600)) * np.sqrt(0.4)
    plain, biased = targets + noise, targets + judges + noise
    assert intraclass_correlation(plain).mean() == pytest.approx(0.6, abs=0.02)
    assert intraclass_correlation(biased).mean() == pytest.approx(0.6, abs=0.02)


def test_null_agreement_is_zero_and_bounds_hold(monkeypatch):
    monkeypatch.setattr(similarity, "CHUNK", 333)
    values = intraclass_correlation(np.random.default_rng(1).normal(size=(8, 3, 2000)))
    assert values.mean() == pytest.approx(0, abs=0.03)
    assert values.min() >= -0.5 and values.max() <= 1
    exact = intraclass_correlation(np.arange(5.0)[:, None, None] + np.zeros((5, 3, 2)))
    np.testing.assert_allclose(exact, 1)


def test_still_unit_is_nan():
    ratings = np.random.default_rng(2).normal(size=(4, 3, 2)).astype(np.float32)
    ratings[..., 1] = 0.1
    values = intraclass_correlation(ratings)
    assert np.isfinite(values[0]) and np.isnan(values[1])


def test_agreement_over_tasks(simulate, patterns):
    effects = effects_of(simulate(patterns, noise=0.5))
    values = intraclass_correlation(effects.values.swapaxes(0, 1))
    active = (patterns != 0).any(axis=0)
    assert values[active].mean() > 0.9
    assert abs(values[~active].mean()) < 0.1
    found = agreement(effects)
    assert found.quantiles["0.5"] == pytest.approx(np.median(values))
    assert (found.kind, found.targets, found.measurements) == (
        *("ICC(3,1)", "tasks", "participants"),
    )
