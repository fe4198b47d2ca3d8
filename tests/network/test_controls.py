import numpy as np
import pytest

from llm2bids.exceptions import NetworkError
from llm2bids.inference.prompts import effects_of
from llm2bids.network.controls import (
    ABOUT,
    compare_control,
    compare_dataset,
    measure_maps,
    random_units,
    shuffled_effects,
    shuffled_labels,
)
from llm2bids.network.identification import accuracy_of, identify_left_out, network_scores
from llm2bids.network.options import FindingsOptions
from llm2bids.network.overlap import measure_overlap
from llm2bids.network.repeatability import compare_single_maps, split_participants

HOW = FindingsOptions()


def test_random_units_identify_dense_patterns(simulate):
    patterns = np.random.default_rng(1).normal(size=(4, 900)).astype(np.float32)
    effects = effects_of(simulate(patterns))
    (control,) = random_units(effects, HOW, n_units=100, n_draws=20).measures
    assert control.real == identify_left_out(effects, HOW).accuracy == 1
    assert control.n_draws == 20
    assert control.value > 0.95
    (few,) = random_units(effects, HOW, n_units=2, n_draws=20).measures
    assert few.value < control.value


def test_random_units_miss_a_localised_pattern(simulate):
    patterns = np.zeros((4, 900), np.float32)
    patterns[np.arange(4), np.arange(4)] = 20
    effects = effects_of(simulate(patterns))
    (control,) = random_units(effects, HOW, n_units=20, n_draws=20).measures
    assert control.real == 1
    assert control.value < 0.5


def test_shuffled_labels_are_at_chance(simulate, patterns):
    effects = effects_of(simulate(patterns))
    (control,) = shuffled_labels(effects, FindingsOptions(n_perm=300)).measures
    assert control.value == pytest.approx(0.25, abs=0.03)
    assert control.real == 1
    assert control.p_value == pytest.approx(1 / 301)
    assert control.low < 0.25 < control.high


def test_permutation_p_is_uniform_without_tasks(simulate):
    p = [
        shuffled_labels(
            effects_of(simulate(np.zeros((3, 80), np.float32), n_on=2, n_off=2, seed=seed)),
            FindingsOptions(n_perm=99, seed=seed),
        )
        .measures[0]
        .p_value
        for seed in range(60)
    ]
    assert np.mean(np.array(p) <= 0.1) <= 0.2
    assert np.mean(p) > 0.4


@pytest.fixture
def means(simulate, patterns):
    return simulate(patterns)


@pytest.fixture
def sites():
    return np.repeat([0, 1, 2], [150, 250, 300])


def test_the_measures_are_those_of_the_findings(means):
    effects = effects_of(means)
    found = measure_maps(effects.values, HOW)
    assert found["identification"] == identify_left_out(effects, HOW).accuracy
    assert found["network_identification"] == accuracy_of(network_scores(effects.values, 0.05))
    assert found["single_run_r"] == pytest.approx(compare_single_maps(effects, HOW).mean_r.mean())
    halves = split_participants(effects, HOW)
    assert found["split_half_r"] == pytest.approx(halves.mean_r.mean(), abs=1e-5)
    assert found["split_half_dice"] == pytest.approx(halves.mean_dice.mean(), abs=1e-5)
    few = FindingsOptions(n_boot=3, n_perm=3)
    pairs = measure_overlap(effects, few, np.zeros(700)).pairs()
    assert found["overlap_r"] == pytest.approx(pairs["correlation"].max(), abs=1e-5)
    contrast = pairs["correlation"].max() - pairs["correlation"].mean()
    assert found["overlap_contrast"] == pytest.approx(contrast, abs=1e-5)
    assert found["overlap_dice"] == pytest.approx(pairs["dice"].max(), abs=1e-5)


def compared(name, means, sites, **options):
    """Measure a control beside the data, a row for each measure."""
    effects, how = effects_of(means), FindingsOptions(**options)
    real = measure_maps(effects.values, how)
    control = compare_control(name, effects, means, how, real=real, sites=sites)
    return control.table().set_index("measure")


def test_where_there_is_something_controls_find_less(means, sites):
    tables = {name: compared(name, means, sites, n_control_draws=15) for name in ABOUT}
    labels = tables["shuffled-labels"]
    assert labels.loc["identification", "value"] < 0.5 < labels.loc["identification", "real"]
    assert abs(labels.loc["single_run_r", "value"]) < 0.1 < labels.loc["single_run_r", "real"]
    assert labels.loc["fdr_share", "value"] < 0.02 < labels.loc["fdr_share", "real"]
    tasks = tables["shuffled-tasks"]
    assert tasks.loc["identification", "value"] == pytest.approx(0.25, abs=0.1)
    assert tasks.loc["identification", "p_value"] == pytest.approx(1 / 16)
    assert tasks.loc["overlap_contrast", "high"] < tasks.loc["overlap_contrast", "real"]
    networks = tables["random-networks"]
    assert set(networks.index) == {"network_identification", "split_half_dice", "overlap_dice"}
    assert networks.loc["split_half_dice", "high"] < networks.loc["split_half_dice", "real"]
    assert (networks["n_draws"] == 15).all()


def test_random_networks_miss_a_localised_pattern(simulate, sites):
    patterns = np.zeros((4, 700), np.float32)
    patterns[np.arange(4), np.arange(4)] = 20
    table = compared("random-networks", simulate(patterns), sites, n_control_draws=15)
    assert table.loc["network_identification", "real"] == 1
    assert table.loc["network_identification", "value"] < 0.5


def test_where_there_is_nothing_the_data_look_like_their_controls(simulate, sites):
    inside = []
    for seed in range(6):
        means = simulate(np.zeros((4, 700), np.float32), seed=seed)
        labels = compared("shuffled-labels", means, sites, n_control_draws=19, seed=seed)
        inside += (labels["p_value"] > 0.05).tolist()
    assert np.mean(inside) > 0.8


def test_shuffled_labels_use_the_same_prompts(means):
    one, other = (shuffled_effects(means, seed=seed).values for seed in (1, 2))
    assert one.shape == effects_of(means).values.shape == (5, 4, 700)
    assert not np.array_equal(one, other)
    assert np.array_equal(one, shuffled_effects(means, seed=1).values)
    # A prompt weighs 1 / n_on or -1 / n_off, so the mean over all shuffles is 0.
    many = np.mean([shuffled_effects(means, seed=seed).values for seed in range(60)], axis=0)
    assert np.abs(many).mean() < 0.2 * np.abs(one).mean()


def test_a_control_dataset_stands_beside_the_data(simulate, patterns):
    real = effects_of(simulate(patterns))
    drawn = effects_of(simulate(np.zeros_like(patterns), n_participants=4, seed=3))
    table = compare_dataset(real, drawn, HOW, name="random", about="random weights").table()
    found = table.set_index("measure")
    assert found.loc["identification", "real"] == 1
    assert found.loc["identification", "value"] < 0.6
    assert found["n_draws"].eq(1).all()
    assert found["p_value"].isna().all()
    four = measure_maps(real.values[:4], HOW)
    assert found.loc["split_half_r", "real"] == pytest.approx(four["split_half_r"])


def test_fewer_participants_of_the_control_are_said(simulate, patterns):
    real = effects_of(simulate(patterns))
    drawn = effects_of(simulate(patterns, n_participants=4, seed=3))
    control = compare_dataset(real, drawn, HOW, name="random", about="x", warnings=["one"])
    assert control.warnings == ("one", "random: both over 4 participants")
    assert compare_dataset(real, real, HOW, name="same", about="x").warnings == ()


def test_controls_that_do_not_serve_are_refused(simulate, patterns, means):
    real = effects_of(means)
    few = effects_of(simulate(patterns, n_participants=2))
    with pytest.raises(NetworkError, match=r"\(a\): 2 participants; expected three"):
        compare_dataset(real, few, HOW, name="a", about="x")
    less = effects_of(simulate(patterns[:3]))
    with pytest.raises(NetworkError, match="without task taskD; expected"):
        compare_dataset(real, less, HOW, name="a", about="x")
    leaky = effects_of(simulate(patterns, share="on"))
    with pytest.raises(NetworkError, match="prompts"):
        compare_dataset(real, leaky, HOW, name="a", about="x")
