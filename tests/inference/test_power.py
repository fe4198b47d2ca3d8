"""Power against simulations with known truth."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from estimate_components import estimate_components
from scipy import stats

from llm2bids.exceptions import InferenceError, UsageError
from llm2bids.inference.power import (
    VarianceComponents,
    design_power,
    mean_variance,
    read_components,
    recommend_designs,
    shipped_components,
    unit_alpha,
)

TRUTH = VarianceComponents(participant=0.02, prompt=0.15, token=0.6, autocorrelation=0.4)


def tokens(rng, shape, components):
    """Draw volumes of prompts, shape (..., n_tokens, n_units): prompt + autocorrelated tokens."""
    *prompts, n_tokens, n_units = shape
    step = components.autocorrelation
    noise = rng.standard_normal(shape)
    for token in range(1, n_tokens):
        noise[..., token, :] *= np.sqrt(1 - step**2)
        noise[..., token, :] += step * noise[..., token - 1, :]
    own = rng.standard_normal((*prompts, 1, n_units))
    return np.sqrt(components.prompt) * own + np.sqrt(components.token) * noise


def scan(rng, components, *, n_participants, n_prompts, n_tokens, n_units, effect=0.0):
    """Draw the on and off volumes of all participants in one task."""
    sd = np.sqrt(components.participant)
    person = sd * rng.standard_normal((n_participants, 1, 1, n_units))
    on = tokens(rng, (n_participants, n_prompts, n_tokens, n_units), components) + person + effect
    off = tokens(rng, (n_participants, 2 * n_prompts, n_tokens, n_units), components)
    return on, off


@pytest.mark.parametrize(
    ("n_participants", "n_prompts", "n_tokens", "effect_size", "alpha"),
    [(8, 4, 3, 0.4, 0.05), (5, 7, 1, 0.6, 0.05), (12, 3, 6, 0.5, 0.001), (6, 4, 2, 0.0, 0.05)],
)
def test_power_is_that_of_simulated_experiments(
    n_participants, n_prompts, n_tokens, effect_size, alpha
):
    design = {"n_participants": n_participants, "n_prompts": n_prompts, "n_tokens": n_tokens}
    n_units = 8000
    effect = effect_size * np.sqrt(TRUTH.volume)
    on, off = scan(np.random.default_rng(3), TRUTH, **design, n_units=n_units, effect=effect)
    effects = on.mean(axis=(1, 2)) - off.mean(axis=(1, 2))
    found = (stats.ttest_1samp(effects, 0).pvalue < alpha).mean()
    expected = design_power(TRUTH, effect_size, **design, alpha=alpha)
    assert found == pytest.approx(expected, abs=4 * np.sqrt(expected / n_units))
    if effect_size == 0:
        assert expected == pytest.approx(alpha)


def test_the_variance_of_a_participants_effect():
    on, off = scan(
        np.random.default_rng(5), TRUTH, n_participants=400, n_prompts=5, n_tokens=4, n_units=60
    )
    effects = on.mean(axis=(1, 2)) - off.mean(axis=(1, 2))
    expected = TRUTH.effect_variance(n_prompts=5, n_tokens=4)
    assert effects.var(axis=0, ddof=1).mean() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("participant", [0.0, 0.08])
def test_components_are_recovered(participant):
    truth = VarianceComponents(participant=participant, prompt=0.2, token=0.7, autocorrelation=0.5)
    on, off = scan(
        np.random.default_rng(1), truth, n_participants=40, n_prompts=6, n_tokens=7, n_units=90
    )
    parts = [(on, True), (off, False)]
    values = np.concatenate([part.reshape(-1, 7, 90) for part, _ in parts])
    who = np.concatenate([np.repeat(np.arange(40), part.shape[1]) for part, _ in parts])
    kinds = np.concatenate([np.full(part.shape[0] * part.shape[1], kind) for part, kind in parts])
    found = estimate_components(values, who, np.full(who.size, "task"), kinds, source="drawn")
    assert found.prompt == pytest.approx(truth.prompt, abs=0.04)
    assert found.token == pytest.approx(truth.token, abs=0.04)
    assert found.autocorrelation == pytest.approx(truth.autocorrelation, abs=0.06)
    assert found.participant == pytest.approx(truth.participant, abs=0.015)
    assert found.source == "drawn"
    assert read_components(json.loads(json.dumps(asdict(found)))) == found


def test_the_rate_left_after_a_correction_holds_the_false_discoveries():
    power, share, n_units = 0.8, 0.1, 20_000
    alpha = unit_alpha(0.05, "fdr", n_units=n_units, share=share, power=power)
    shift = stats.norm.isf(alpha / 2) + stats.norm.ppf(power)
    rng = np.random.default_rng(2)
    z = rng.standard_normal(n_units)
    real = np.arange(n_units) < share * n_units
    z[real] += shift
    found = stats.false_discovery_control(2 * stats.norm.sf(np.abs(z))) < 0.05
    assert found[real].mean() == pytest.approx(power, abs=0.03)
    # Benjamini and Hochberg control 0.05 * (1 - share); the formula takes all of 0.05
    assert found[~real].sum() / found.sum() < 0.06
    assert unit_alpha(0.05, "none", n_units=7) == 0.05


def test_recommended_designs_reach_the_power_and_no_smaller_one_does():
    wanted = {"effect_size": 0.3, "alpha": 0.001}
    designs = recommend_designs(TRUTH, **wanted, power=0.9)
    assert designs
    assert [one.cost for one in designs] == sorted(one.cost for one in designs)
    for one in designs:
        chosen = {"n_prompts": one.n_prompts, "n_tokens": one.n_tokens}
        assert one.power == design_power(
            TRUTH, **wanted, n_participants=one.n_participants, **chosen
        )
        assert one.power >= 0.9
        if one.n_participants > 8:
            fewer = one.n_participants - 1
            assert design_power(TRUTH, **wanted, n_participants=fewer, **chosen) < 0.9
        assert one.cost == one.n_participants * one.n_prompts * 3 * (one.n_tokens + 1)


def test_banks_limit_a_design():
    free = recommend_designs(TRUTH, 0.2, alpha=0.001)
    limited = recommend_designs(TRUTH, 0.2, alpha=0.001, max_prompts=170)
    assert all(one.n_participants * one.n_prompts <= 170 for one in limited)
    assert not limited or free[0].cost <= limited[0].cost
    assert recommend_designs(TRUTH, 0.001, max_prompts=170) == ()


def test_more_of_anything_gives_more_power():
    design = {"n_participants": 8, "n_prompts": 8, "n_tokens": 4}
    powers = [design_power(TRUTH, 0.3, **{**design, name: 2 * design[name]}) for name in design]
    assert min(powers) > design_power(TRUTH, 0.3, **design)
    assert mean_variance(12, 0.4) > 1 / 12
    assert design_power(TRUTH, 50.0, **design) == pytest.approx(1)


def test_the_shipped_components_say_their_source():
    shipped = shipped_components()
    assert "SmolLM2-135M" in shipped.source
    assert 0 < shipped.prompt < shipped.token


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: design_power(TRUTH, 1, n_participants=1, n_prompts=2, n_tokens=3), UsageError,
         "1 participants x 2 prompts x 3 tokens; expected two"),
        (lambda: recommend_designs(TRUTH, 0.0), UsageError, "effect size: found 0; expected"),
        (lambda: recommend_designs(TRUTH, 1.0, power=1.0), UsageError, "power: found 1; expected"),
        (lambda: unit_alpha(0.0, "none", n_units=3), UsageError, "alpha: found 0; expected"),
        (lambda: unit_alpha(0.1, "holm", n_units=3), UsageError, "correction 'holm'; expected"),
        (lambda: VarianceComponents(participant=0, prompt=-1, token=2, autocorrelation=0),
         InferenceError, "expected variances from 0"),
        (lambda: read_components({"prompt": 1}), InferenceError, "'participant' is missing"),
        (lambda: estimate_components(np.ones((4, 1, 3)), np.array([1, 1, 2, 2]), np.ones(4),
                                     np.array([True] * 4)), InferenceError, "1 volumes per prompt"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
