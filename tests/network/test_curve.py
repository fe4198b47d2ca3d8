import dataclasses

import numpy as np
import pytest

from llm2bids.exceptions import NetworkError
from llm2bids.network.curve import accuracy_curve, mean_first_tokens
from llm2bids.network.effects import task_effects
from llm2bids.network.identify import identify_left_out


def test_more_prompts_and_tokens_identify_better(simulate, patterns):
    weak = patterns[:, ::4] * 1.6
    samples = {
        n_tokens: simulate(weak, n_on=8, n_off=8, noise=2.0, within_noise=8 / np.sqrt(n_tokens))
        for n_tokens in (2, 12)
    }
    curve = accuracy_curve(samples, n_prompts=[1, 3, 8], n_draws=10)
    mean = curve.accuracies.mean(axis=2)
    assert (np.diff(mean, axis=1) > 0).all()
    assert (mean[1] > mean[0]).all()
    table = curve.table()
    assert table.columns[:3].tolist() == ["n_tokens", "n_prompts", "accuracy"]
    assert len(table) == 6
    assert ((table["low"] < table["accuracy"]) & (table["accuracy"] < table["high"] + 1e-9)).all()
    assert table["chance"].unique().tolist() == [0.25]


def test_all_prompts_give_the_plain_accuracy(simulate, patterns):
    means = simulate(patterns, n_participants=4, noise=5)
    curve = accuracy_curve({12: means}, n_prompts=[4], n_draws=2)
    plain = identify_left_out(task_effects(means)).accuracy
    np.testing.assert_allclose(curve.accuracies, plain)
    assert 0 < plain < 1


def test_null_curve_is_at_chance(simulate):
    accuracies = [
        accuracy_curve(
            {1: simulate(np.zeros((4, 200), np.float32), seed=seed)}, n_prompts=[2], n_draws=5
        ).accuracies.mean()
        for seed in range(20)
    ]
    assert np.mean(accuracies) == pytest.approx(0.25, abs=0.05)


def test_leaks_are_refused(simulate):
    means = simulate(np.zeros((3, 90), np.float32), share="on")
    with pytest.raises(NetworkError, match="prompts"):
        accuracy_curve({1: means}, n_prompts=[1])
    curve = accuracy_curve({1: means}, n_prompts=[4], n_draws=3, allow_circular=True)
    assert curve.shared and curve.accuracies.mean() > 0.8


def test_bad_input_is_refused(simulate, patterns):
    means = simulate(patterns)
    with pytest.raises(NetworkError, match="prompts per run: found 5, expected 1 to 4"):
        accuracy_curve({1: means}, n_prompts=[5])
    with pytest.raises(NetworkError, match="samples: found none"):
        accuracy_curve({}, n_prompts=[1])
    fields = {field.name: getattr(means, field.name) for field in dataclasses.fields(means)}
    other = type(means)(**{**fields, "prompt_ids": means.prompt_ids[::-1]})
    with pytest.raises(NetworkError, match="the prompt_ids for 2 tokens differ"):
        accuracy_curve({1: means, 2: other}, n_prompts=[1])
    with pytest.raises(NetworkError, match="found 3, expected 1 to 2"):
        mean_first_tokens(np.zeros((5, 3)), np.array([0, 0, 0, 1, 1]), 3)
