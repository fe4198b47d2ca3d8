import numpy as np
import pytest

from llm2bids.exceptions import NetworkError
from llm2bids.network import icc
from llm2bids.network.effects import OFF, task_effects
from llm2bids.network.icc import icc_over_runs, icc_over_tasks, intraclass_correlation


def test_known_variances_are_recovered():
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(40, 1, 600)) * np.sqrt(0.6)
    judges = rng.normal(size=(1, 5, 600)) * 2
    noise = rng.normal(size=(40, 5, 600)) * np.sqrt(0.4)
    plain, biased = targets + noise, targets + judges + noise
    for kind in ("ICC(1,1)", "ICC(3,1)"):
        assert intraclass_correlation(plain, kind).mean() == pytest.approx(0.6, abs=0.02)
    assert intraclass_correlation(biased, "ICC(3,1)").mean() == pytest.approx(0.6, abs=0.02)
    assert intraclass_correlation(biased, "ICC(1,1)").mean() < 0.3


def test_null_is_zero_and_bounds_hold(monkeypatch):
    monkeypatch.setattr(icc, "CHUNK", 333)
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


def test_over_tasks_and_runs(simulate, patterns):
    means = simulate(patterns, noise=0.5)
    effects = task_effects(means)
    result = icc_over_tasks(effects)
    active = (patterns != 0).any(axis=0)
    assert result.values[active].mean() > 0.9
    assert abs(result.values[~active].mean()) < 0.1
    assert result.quantiles((0.5,)).index.tolist() == [0.5]
    assert (result.targets, result.measurements) == ("tasks", "participants")
    half = np.zeros(len(means.values), dtype=bool)
    half[::2] = True
    runs = [task_effects(means, rows) for rows in (half, ~half)]
    over = icc_over_runs(runs, kind="ICC(1,1)")
    spread = patterns.var(axis=0, ddof=0)[active] * 20 / 19
    expected = spread / (spread + 0.25 * (1 / 2 + 1 / 3))
    assert over.values[active].mean() == pytest.approx(expected.mean(), abs=0.03)
    assert over.provenance == effects.provenance
    assert (means.trial_types == OFF).any()


def test_bad_input_is_refused(simulate, patterns):
    effects = task_effects(simulate(patterns, n_participants=2))
    with pytest.raises(NetworkError, match=r"ratings of shape \(4, 1, 700\)"):
        icc_over_tasks(effects.take([0]))
    with pytest.raises(NetworkError, match=r"found 'ICC\(2,1\)'"):
        icc_over_tasks(effects, kind="ICC(2,1)")
    with pytest.raises(NetworkError, match="found 2 different lists"):
        icc_over_runs([effects, effects.take([0])])
