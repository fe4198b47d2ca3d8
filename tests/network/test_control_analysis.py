import numpy as np
import pytest

from llm2bids.exceptions import NetworkError
from llm2bids.network.control_analysis import (
    ABOUT,
    compare_controls,
    compare_dataset,
    measure_maps,
    shuffled_labels_maps,
)
from llm2bids.network.effects import task_effects
from llm2bids.network.identify import identify_left_out
from llm2bids.network.overlap import measure_overlap
from llm2bids.network.repeatability import split_participants
from llm2bids.network.single_run import single_run


@pytest.fixture
def means(simulate, patterns):
    return simulate(patterns)


@pytest.fixture
def sites():
    return np.repeat([0, 1, 2], [150, 250, 300])


def test_the_measures_are_those_of_the_findings(means):
    effects = task_effects(means)
    found = measure_maps(effects.effects)
    assert found["identification"] == identify_left_out(effects).accuracy
    assert found["network_identification"] == identify_left_out(effects, share=0.05).accuracy
    assert found["single_run_r"] == pytest.approx(single_run(effects).mean_r.mean())
    halves = split_participants(effects)
    assert found["split_half_r"] == pytest.approx(halves.mean_r.mean(), abs=1e-5)
    assert found["split_half_dice"] == pytest.approx(halves.mean_dice.mean(), abs=1e-5)
    pairs = measure_overlap(effects, n_boot=3, n_perm=3).pairs()
    assert found["overlap_r"] == pytest.approx(pairs["correlation"].max(), abs=1e-5)
    contrast = pairs["correlation"].max() - pairs["correlation"].mean()
    assert found["overlap_contrast"] == pytest.approx(contrast, abs=1e-5)
    assert found["overlap_dice"] == pytest.approx(pairs["dice"].max(), abs=1e-5)


def test_where_there_is_something_controls_find_less(means, sites):
    effects = task_effects(means)
    controls = compare_controls(means, effects, tuple(ABOUT), sites=sites, n_draws=15)
    tables = {one.name: one.table().set_index("measure") for one in controls}
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
    means = simulate(patterns)
    control = compare_controls(
        means, task_effects(means), ["random-networks"], sites=sites, n_draws=15
    )[0]
    table = control.table().set_index("measure")
    assert table.loc["network_identification", "real"] == 1
    assert table.loc["network_identification", "value"] < 0.5


def test_where_there_is_nothing_the_data_look_like_their_controls(simulate, sites):
    inside = []
    for seed in range(6):
        means = simulate(np.zeros((4, 700), np.float32), seed=seed)
        labels = compare_controls(
            means, task_effects(means), ["shuffled-labels"], sites=sites, n_draws=19, seed=seed
        )[0].table()
        inside += (labels["p_value"] > 0.05).tolist()
    assert np.mean(inside) > 0.8


def test_shuffled_labels_use_the_same_prompts(means):
    one, other = (shuffled_labels_maps(means, seed=seed) for seed in (1, 2))
    assert one.shape == task_effects(means).effects.shape == (5, 4, 700)
    assert not np.array_equal(one, other)
    assert np.array_equal(one, shuffled_labels_maps(means, seed=1))
    # A prompt weighs 1 / n_on or -1 / n_off, so the mean over all shuffles is 0.
    many = np.mean([shuffled_labels_maps(means, seed=seed) for seed in range(60)], axis=0)
    assert np.abs(many).mean() < 0.2 * np.abs(one).mean()


def test_a_control_dataset_stands_beside_the_data(simulate, patterns):
    real = task_effects(simulate(patterns))
    drawn = task_effects(simulate(np.zeros_like(patterns), n_participants=4, seed=3))
    table = compare_dataset(real, drawn, name="random", about="random weights").table()
    found = table.set_index("measure")
    assert found.loc["identification", "real"] == 1
    assert found.loc["identification", "value"] < 0.6
    assert found["n_draws"].eq(1).all()
    assert found["p_value"].isna().all()
    four = measure_maps(real.effects[:4])
    assert found.loc["split_half_r", "real"] == pytest.approx(four["split_half_r"])


def test_fewer_participants_of_the_control_are_said(simulate, patterns):
    real = task_effects(simulate(patterns))
    drawn = task_effects(simulate(patterns, n_participants=4, seed=3))
    control = compare_dataset(real, drawn, name="random", about="x", warnings=["one"])
    assert control.warnings == ("one", "random: both over 4 participants")
    assert compare_dataset(real, real, name="same", about="x").warnings == ()


def test_controls_that_do_not_serve_are_refused(simulate, patterns, means, sites):
    real = task_effects(means)
    few = task_effects(simulate(patterns, n_participants=2))
    with pytest.raises(NetworkError, match=r"\(a\): 2 participants; expected three"):
        compare_dataset(real, few, name="a", about="x")
    less = task_effects(simulate(patterns[:3]))
    with pytest.raises(NetworkError, match="without task taskD; expected"):
        compare_dataset(real, less, name="a", about="x")
    leaky = task_effects(simulate(patterns, share="on"))
    with pytest.raises(NetworkError, match="prompts"):
        compare_dataset(real, leaky, name="a", about="x")
    with pytest.raises(NetworkError, match="found bootstrap; expected two draws or more of shuf"):
        compare_controls(means, real, ["bootstrap"], sites=sites)
    with pytest.raises(NetworkError, match="found 1; expected two draws"):
        compare_controls(means, real, ["shuffled-labels"], sites=sites, n_draws=1)
