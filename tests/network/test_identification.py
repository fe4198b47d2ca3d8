"""Identification of the task, and its accuracy with fewer prompts and tokens."""

import dataclasses

import numpy as np
import pytest

from llm2bids.exceptions import InferenceError, NetworkError
from llm2bids.inference.prompts import effects_of
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.rates import binomial_interval
from llm2bids.network.identification import (
    Identification,
    accuracy_of,
    gram_scores,
    identify_left_out,
    network_scores,
    prompt_curve,
    token_curve,
)
from llm2bids.network.options import FindingsOptions
from llm2bids.network.similarity import gram_matrix

NOTHING = np.zeros((4, 300), np.float32)
HOW, CIRCULAR = FindingsOptions(), FindingsOptions(allow_circular=True)


def curve_of(means, *, n_tokens=1, omitted=None, **options):
    """Draw the curve over numbers of prompts."""
    n_prompts = options.pop("n_prompts")
    how = FindingsOptions(**options)
    omitted = {} if omitted is None else omitted
    return prompt_curve(means, how, n_tokens=n_tokens, n_prompts=n_prompts, omitted=omitted)


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
    effects = effects_of(simulate(patterns, n_participants=3))
    scores = gram_scores(gram_matrix(effects.values.reshape(12, 700)), 4, centre=centre)
    np.testing.assert_allclose(scores, _by_hand(effects.values, centre=centre), atol=1e-5)
    found = identify_left_out(effects, HOW)
    hits = (scores.argmax(axis=1) == found.true).sum()
    assert hits == (found.n_correct if centre else found.n_correct_with_mean)


def test_planted_tasks_are_identified(simulate, patterns):
    effects = effects_of(simulate(patterns))
    result = identify_left_out(effects, HOW)
    assert result.accuracy == 1
    assert result.n_tests == 20
    assert result.confusion.to_numpy().tolist() == (5 * np.eye(4, dtype=int)).tolist()
    assert result.confusion.index.tolist() == ["taskA", "taskB", "taskC", "taskD"]
    assert (result.table()["margin"] > 0).all()
    assert result.participants[:5] == ("01", "01", "01", "01", "02")
    assert result.p_value < 1e-9
    assert set(result.table()["taken_off"]) == {"mean map of the participant"}
    assert str(result).startswith(
        "20 of 20 maps identified by correlation with the others' mean maps, each participant's "
        "mean map over the tasks taken off first: accuracy 1.000"
    )


def test_networks_identify_too(simulate, patterns):
    scores = network_scores(effects_of(simulate(patterns)).values, 0.1)
    assert accuracy_of(scores) >= 0.95


def test_null_is_at_chance(simulate):
    """One test over many cohorts: the binomial interval holds chance."""
    correct = tests = 0
    for seed in range(40):
        effects = effects_of(simulate(NOTHING, n_on=2, n_off=2, seed=seed))
        result = identify_left_out(effects, HOW)
        correct, tests = correct + result.n_correct, tests + result.n_tests
    low, high = binomial_interval(correct, tests, 0.99)
    assert low < 0.25 < high


def test_reused_prompts_identify_fake_tasks_and_are_refused(simulate):
    """The leak of reused prompts: with the guard off, tasks that do not exist are identified."""
    effects = effects_of(simulate(NOTHING, share="on"))
    with pytest.raises(NetworkError, match=r"identification of 01: .*16 prompts \(on-taskA-all-0"):
        identify_left_out(effects, HOW)
    leaked = identify_left_out(effects, CIRCULAR)
    assert leaked.accuracy > 0.9
    assert len(leaked.shared.prompts) == 16
    assert "CIRCULAR, no evidence" in str(leaked)
    clean = identify_left_out(effects_of(simulate(NOTHING)), HOW)
    assert clean.accuracy < 0.55
    assert not clean.shared and "CIRCULAR" not in str(clean)


def test_shared_off_prompts_of_a_task_identify_it_too(simulate):
    effects = effects_of(simulate(NOTHING, share="off"))
    with pytest.raises(NetworkError, match="off-taskA-all-0"):
        identify_left_out(effects, HOW)
    assert identify_left_out(effects, CIRCULAR).accuracy > 0.9


def test_confusion_counts_shown_against_identified():
    result = Identification(
        tasks=("tea", "coffee"),
        participants=("01",) * 3,
        true=np.array([0, 0, 1]),
        predicted=np.array([0, 1, 1]),
        scores=np.array([[0.9, 0.1], [0.2, 0.3], [0.1, 0.4]]),
        n_correct_with_mean=1,
        shared=Provenance(),
    )
    assert result.confusion.loc["tea", "coffee"] == 1
    assert result.confusion.loc["coffee", "tea"] == 0
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.table()["margin"].round(6).tolist() == [0.8, -0.1, 0.3]


def test_more_prompts_and_tokens_identify_better(simulate, patterns):
    weak = patterns[:, ::4] * 1.6
    samples = {
        n_tokens: simulate(weak, n_on=8, n_off=8, noise=2.0, within_noise=8 / np.sqrt(n_tokens))
        for n_tokens in (2, 12)
    }
    curve = curve_of(samples[12], n_tokens=12, n_prompts=[1, 3, 8], n_draws=10)
    assert (np.diff(curve.accuracies.mean(axis=2), axis=1) > 0).all()
    table = curve.table()
    assert table.columns[:3].tolist() == ["n_tokens", "n_prompts", "accuracy"]
    assert len(table) == 3
    assert ((table["low"] < table["accuracy"]) & (table["accuracy"] < table["high"] + 1e-9)).all()
    assert table["chance"].unique().tolist() == [0.25]
    tokens = token_curve({n: effects_of(part) for n, part in samples.items()}, HOW, n_prompts=8)
    assert tokens.accuracies[1] > tokens.accuracies[0]
    assert tokens.table()["n_tokens"].tolist() == [2, 12]


def test_all_prompts_give_the_plain_accuracy(simulate, patterns):
    means = simulate(patterns, n_participants=4, noise=5)
    curve = curve_of(means, n_tokens=12, n_prompts=[4], n_draws=2)
    plain = identify_left_out(effects_of(means), HOW).accuracy
    np.testing.assert_allclose(curve.accuracies, plain)
    assert 0 < plain < 1


def test_null_curve_is_at_chance(simulate):
    accuracies = [
        curve_of(
            simulate(np.zeros((4, 200), np.float32), seed=seed), n_prompts=[2], n_draws=5
        ).accuracies.mean()
        for seed in range(20)
    ]
    assert np.mean(accuracies) == pytest.approx(0.25, abs=0.05)


def test_a_leak_makes_the_curve_good(simulate):
    means = simulate(np.zeros((3, 90), np.float32), share="on")
    assert curve_of(means, n_prompts=[4], n_draws=3).accuracies.mean() > 0.8


def test_fewer_prompts_than_the_model_needs_are_left_out_with_the_reason(simulate, patterns):
    means = simulate(patterns, n_on=4, n_off=4)
    rng = np.random.default_rng(1)
    designs = {
        name: design.assign(length=rng.normal(size=len(design)))
        for name, design in means.designs.items()
    }
    confounded = dataclasses.replace(means, designs=designs)
    omitted = {}
    curve = curve_of(confounded, n_tokens=3, n_prompts=[1, 4], n_draws=2, omitted=omitted)
    assert curve.n_prompts == (4,)
    assert "2 prompts of sub-01_task-taskA do not determine the model" in omitted["by_prompts, 1"]
    with pytest.raises(InferenceError, match="do not determine"):
        curve_of(confounded, n_tokens=3, n_prompts=[1], n_draws=2)
