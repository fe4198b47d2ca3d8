"""Known leaks on synthetic data without any effect: there with the guard off, gone with it on."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GroupKFold, KFold, cross_val_score

from llm2bids.inference.design import prompt_design
from llm2bids.inference.first_level import fit_first_level
from llm2bids.inference.runs import prompt_means

N_UNITS = 150


def sham_tokens(rng, n_prompts=16, n_tokens=6):
    own = np.repeat(rng.standard_normal((n_prompts, N_UNITS)), n_tokens, axis=0)
    values = own + rng.standard_normal(own.shape)
    on = rng.permutation(n_prompts) < n_prompts // 2
    return values, on, np.repeat(np.arange(n_prompts), n_tokens)


def test_tokens_of_one_prompt_in_two_folds_decode_a_sham_label():
    rng = np.random.default_rng(2)
    leaked, closed, averaged = [], [], []
    for _ in range(12):
        values, on, prompts = sham_tokens(rng)
        model = RidgeClassifier(alpha=N_UNITS)
        split = KFold(4, shuffle=True, random_state=0)
        leaked.append(cross_val_score(model, values, on[prompts], cv=split).mean())
        groups = {"cv": GroupKFold(4), "groups": prompts}
        closed.append(cross_val_score(model, values, on[prompts], **groups).mean())
        means = prompt_means([(0, values.astype(np.float32))], prompts, N_UNITS)[0]
        averaged.append(cross_val_score(model, means, on, cv=split).mean())
    assert np.mean(leaked) > 0.9
    assert 0.3 < np.mean(closed) < 0.6
    assert 0.3 < np.mean(averaged) < 0.6  # the project's own unit, one image for each prompt


def test_length_is_found_as_a_task_unless_it_is_a_covariate():
    rng = np.random.default_rng(3)
    rates = {"off": [], "on": []}
    for _ in range(60):
        length = rng.integers(5, 15, 24).astype(float)
        on = np.argsort(np.argsort(length + rng.normal(0, 2, 24))) >= 12
        values = rng.standard_normal((24, N_UNITS)) + 0.3 * (length - 10)[:, np.newaxis]
        kinds = ["long" if is_on else "" for is_on in on]
        covariate = (length - length.mean())[:, np.newaxis]
        designs = {"off": prompt_design(kinds), "on": prompt_design(kinds)}
        designs["on"].insert(1, "length", covariate)
        for guard, design in designs.items():
            fit = fit_first_level(
                lambda _, values=values: [values], np.array([0, N_UNITS]), [design],
                {"long": "long"}, noise_model="ols",
            )  # fmt: skip
            z = fit.maps["long", "z"]
            rates[guard].append(np.mean(np.abs(z) > 1.959964))
    assert np.mean(rates["off"]) > 0.5
    assert np.mean(rates["on"]) == pytest.approx(0.05, abs=0.02)
