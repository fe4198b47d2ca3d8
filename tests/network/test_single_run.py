import numpy as np
import pytest

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import task_effects
from llm2bids.network.single_run import single_run


def test_single_runs_reach_the_known_reliability(simulate):
    rng = np.random.default_rng(5)
    common = rng.normal(size=3000)
    patterns = (common + rng.normal(size=(3, 3000))).astype(np.float32)
    effects = task_effects(simulate(patterns, n_participants=4, noise=1.5))
    runs = single_run(effects)
    noise = 1.5**2 * (1 / 4 + 1 / 6)
    np.testing.assert_allclose(runs.mean_r, 2 / (2 + noise), atol=0.03)
    np.testing.assert_allclose(runs.other_tasks_r, 1 / (2 + noise), atol=0.05)
    assert runs.r.shape == (3, 4, 4)
    expected = np.corrcoef(effects.effects[1, 2], effects.effects[3, 2])[0, 1]
    assert runs.r[2, 1, 3] == pytest.approx(expected, abs=1e-5)
    assert ((runs.r_low < runs.mean_r) & (runs.mean_r < runs.r_high)).all()


def test_null_runs_do_not_correlate(simulate):
    runs = single_run(task_effects(simulate(np.zeros((3, 3000), np.float32), n_participants=4)))
    np.testing.assert_allclose(runs.mean_r, 0, atol=0.04)


def test_shared_off_prompts_fake_it_and_are_refused(simulate):
    effects = task_effects(simulate(np.zeros((3, 900), np.float32), n_participants=3, share="off"))
    with pytest.raises(NetworkError, match="correlation between participants"):
        single_run(effects)
    assert (single_run(effects, allow_circular=True).mean_r > 0.3).all()


def test_one_participant_is_refused(simulate, patterns):
    with pytest.raises(NetworkError, match="found 1 participant"):
        single_run(task_effects(simulate(patterns, n_participants=1)))
