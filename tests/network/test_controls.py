import numpy as np
import pytest

from llm2bids.exceptions import NetworkError
from llm2bids.network.controls import random_units, shuffled_labels
from llm2bids.network.effects import task_effects
from llm2bids.network.identify import identify_left_out


def test_random_units_identify_dense_patterns(simulate):
    patterns = np.random.default_rng(1).normal(size=(4, 900)).astype(np.float32)
    effects = task_effects(simulate(patterns))
    control = random_units(effects, n_units=100, n_draws=20)
    assert control.observed == identify_left_out(effects).accuracy == 1
    assert control.accuracies.shape == (20,)
    assert control.mean > 0.95
    few = random_units(effects, n_units=2, n_draws=20)
    assert few.mean < control.mean


def test_random_units_miss_a_localised_pattern(simulate):
    patterns = np.zeros((4, 900), np.float32)
    patterns[np.arange(4), np.arange(4)] = 20
    control = random_units(task_effects(simulate(patterns)), n_units=20, n_draws=20)
    assert control.observed == 1
    assert control.mean < 0.5


def test_shuffled_labels_are_at_chance(simulate, patterns):
    effects = task_effects(simulate(patterns))
    control = shuffled_labels(effects, n_perm=300)
    assert control.mean == pytest.approx(0.25, abs=0.03)
    assert control.observed == 1
    assert control.p_value == pytest.approx(1 / 301)
    low, high = control.quantiles()
    assert low < 0.25 < high


def test_permutation_p_is_uniform_without_tasks(simulate):
    p = [
        shuffled_labels(
            task_effects(simulate(np.zeros((3, 80), np.float32), n_on=2, n_off=2, seed=seed)),
            n_perm=99,
            seed=seed,
        ).p_value
        for seed in range(60)
    ]
    assert np.mean(np.array(p) <= 0.1) <= 0.2
    assert np.mean(p) > 0.4


def test_leaks_are_refused(simulate):
    effects = task_effects(simulate(np.zeros((3, 190), np.float32), share="on"))
    for control in (random_units, shuffled_labels):
        with pytest.raises(NetworkError, match="prompts"):
            control(effects)
    assert shuffled_labels(effects, n_perm=9, allow_circular=True).shared.prompts


def test_too_many_units_are_refused(simulate, patterns):
    with pytest.raises(NetworkError, match="found 701, expected 2 to 700"):
        random_units(task_effects(simulate(patterns)), n_units=701)
