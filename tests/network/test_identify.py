import dataclasses

import numpy as np
import pytest
from scipy import stats

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import TaskEffects, task_effects
from llm2bids.network.identification import Identification, binomial_interval
from llm2bids.network.identify import identify, identify_left_out
from llm2bids.network.provenance import Provenance

NOTHING = np.zeros((4, 300), np.float32)


def _by_hand(effects, *, centre):
    """Leave one participant out, with numpy's corrcoef."""
    maps = effects - effects.mean(axis=1, keepdims=True) if centre else effects
    scores = []
    for left_out in range(len(maps)):
        templates = np.delete(maps, left_out, axis=0).mean(axis=0)
        scores += [
            [np.corrcoef(one, template)[0, 1] for template in templates] for one in maps[left_out]
        ]
    return np.array(scores)


@pytest.mark.parametrize("centre", [True, False])
def test_scores_equal_plain_correlations(simulate, patterns, centre):
    effects = task_effects(simulate(patterns, n_participants=3))
    result = identify_left_out(effects, centre=centre)
    np.testing.assert_allclose(result.scores, _by_hand(effects.effects, centre=centre), atol=1e-5)


def test_planted_tasks_are_identified(simulate, patterns):
    effects = task_effects(simulate(patterns))
    result = identify_left_out(effects)
    assert result.accuracy == 1
    assert result.n_tests == 20
    assert result.confusion.to_numpy().tolist() == (5 * np.eye(4, dtype=int)).tolist()
    assert result.confusion.index.tolist() == ["taskA", "taskB", "taskC", "taskD"]
    assert (result.table()["margin"] > 0).all()
    assert result.participants[:5] == ("01", "01", "01", "01", "02")
    assert result.p_value < 1e-9
    assert result.provenance == effects.provenance
    assert str(result).startswith(
        "20 of 20 maps identified by template correlation: accuracy 1.000"
    )


def test_networks_identify_too(simulate, patterns):
    result = identify_left_out(task_effects(simulate(patterns)), share=0.1)
    assert result.accuracy >= 0.95


def test_split_cohorts_equal_folds(simulate, patterns):
    effects = task_effects(simulate(patterns, n_participants=6, noise=4))
    folds = [[0, 3], [1, 2, 4, 5]]
    both = identify_left_out(effects, folds=folds)
    first = identify(effects.take(folds[0]), defining=effects.take(folds[1]))
    np.testing.assert_allclose(both.scores[:8], first.scores, atol=1e-6)
    assert both.participants[:8] == first.participants


def test_null_is_at_chance(simulate):
    """One test over many cohorts: the binomial interval holds chance."""
    correct = tests = 0
    for seed in range(40):
        effects = task_effects(simulate(NOTHING, n_on=2, n_off=2, seed=seed))
        result = identify_left_out(effects)
        correct, tests = correct + result.n_correct, tests + result.n_tests
    low, high = binomial_interval(correct, tests, 0.99)
    assert low < 0.25 < high


def test_interval_is_scipys():
    expected = stats.binomtest(17, 20).proportion_ci(0.9, method="exact")
    assert binomial_interval(17, 20, 0.9, "exact") == (expected.low, expected.high)


def test_reused_prompts_identify_fake_tasks_and_are_refused(simulate):
    """The leak of reused prompts: with the guard off, tasks that do not exist are identified."""
    effects = task_effects(simulate(NOTHING, share="on"))
    with pytest.raises(NetworkError, match=r"identification of 01: .*16 prompts \(on-taskA-all-0"):
        identify_left_out(effects)
    leaked = identify_left_out(effects, allow_circular=True)
    assert leaked.accuracy > 0.9
    assert len(leaked.shared.prompts) == 16
    assert "CIRCULAR, no evidence" in str(leaked)
    clean = identify_left_out(task_effects(simulate(NOTHING)))
    assert clean.accuracy < 0.55
    assert not clean.shared and "CIRCULAR" not in str(clean)


def test_shared_off_prompts_of_a_task_identify_it_too(simulate):
    effects = task_effects(simulate(NOTHING, share="off"))
    with pytest.raises(NetworkError, match="off-taskA-all-0"):
        identify_left_out(effects)
    assert identify_left_out(effects, allow_circular=True).accuracy > 0.9


def test_templates_from_the_tested_are_refused(simulate):
    effects = task_effects(simulate(NOTHING, n_participants=4))
    with pytest.raises(NetworkError, match=r"share 1 participant \(02\); 4 runs"):
        identify(effects.take([1]), defining=effects.take([0, 1]))
    leaked = identify(effects.take([1]), defining=effects.take([0, 1]), allow_circular=True)
    assert leaked.accuracy == 1


def test_units_chosen_on_the_tested_are_refused(simulate):
    effects = task_effects(simulate(NOTHING, n_participants=4))
    spread = effects.effects.mean(axis=0).var(axis=0)
    chosen = np.argsort(spread)[-20:]
    with pytest.raises(NetworkError, match="identification of 01"):
        identify_left_out(effects, units=chosen, units_from=effects.provenance)
    leaked = identify_left_out(
        effects, units=chosen, units_from=effects.provenance, allow_circular=True
    )
    honest = identify_left_out(effects, units=np.arange(20))
    assert leaked.accuracy > honest.accuracy + 0.3
    mask = np.arange(300) < 20
    assert identify_left_out(effects, units=mask).accuracy == honest.accuracy


def test_bad_input_is_refused(simulate, patterns):
    effects = task_effects(simulate(patterns, n_participants=2))
    fields = {field.name: getattr(effects, field.name) for field in dataclasses.fields(effects)}
    renamed = TaskEffects(**{**fields, "tasks": ("a", "b", "c", "d")})
    with pytest.raises(NetworkError, match="tested with templates of a, b, c, d"):
        identify(effects, defining=renamed)
    fewer = TaskEffects(**{**fields, "effects": effects.effects[..., :99]})
    with pytest.raises(NetworkError, match="maps of 700 units are tested with templates of 99"):
        identify(effects, defining=fewer)
    with pytest.raises(NetworkError, match="leave nobody to define"):
        identify_left_out(effects.take([0]))
    with pytest.raises(NetworkError, match=r"found \[\[0\], \[0\]\]"):
        identify_left_out(effects, folds=[[0], [0]])
    single = TaskEffects(
        effects=effects.effects[:, :1],
        participants=effects.participants,
        tasks=("taskA",),
        on=tuple(row[:1] for row in effects.on),
        off=tuple(row[:1] for row in effects.off),
    )
    with pytest.raises(NetworkError, match="found one task"):
        identify_left_out(single)
    with pytest.raises(NetworkError, match="map of task taskA of sub-01 is constant"):
        identify_left_out(effects, units=np.array([5]))


def test_confusion_counts_shown_against_identified():
    result = Identification(
        tasks=("tea", "coffee"),
        participants=("01",) * 3,
        true=np.array([0, 0, 1]),
        predicted=np.array([0, 1, 1]),
        scores=np.array([[0.9, 0.1], [0.2, 0.3], [0.1, 0.4]]),
        method="hand",
        shared=Provenance(),
        provenance=Provenance(),
    )
    assert result.confusion.loc["tea", "coffee"] == 1
    assert result.confusion.loc["coffee", "tea"] == 0
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.table()["margin"].round(6).tolist() == [0.8, -0.1, 0.3]
