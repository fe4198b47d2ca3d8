import dataclasses

import numpy as np
import pytest

from llm2bids.inference.prompts import effects_of
from llm2bids.network.options import FindingsOptions
from llm2bids.network.overlap import (
    chance_dice,
    measure_overlap,
    permuted_dice,
    shared_between_tasks,
)
from llm2bids.network.similarity import dice, top_units

UPPER = np.triu_indices(4, k=1)


def overlap_of(effects, **options):
    """Measure the overlap where all units are of one site."""
    return measure_overlap(effects, FindingsOptions(**options), np.zeros(effects.values.shape[2]))


def test_planted_overlap_is_found(simulate, patterns):
    effects = effects_of(simulate(patterns, noise=0.7))
    overlap = overlap_of(effects, top_percent=10, n_boot=60, n_perm=200)
    assert overlap.dice[0, 1] == pytest.approx(0.5, abs=0.06)
    assert overlap.dice_low[0, 1] <= overlap.dice[0, 1] <= overlap.dice_high[0, 1]
    best = overlap.pairs().iloc[0]
    assert (best["task_a"], best["task_b"]) == ("taskA", "taskB")
    assert best["first"] == 1
    assert best["dice"] > best["chance_within_site_high"]
    assert overlap.correlation[0, 1] == pytest.approx(
        np.corrcoef(effects.values.mean(axis=0)[:2])[0, 1], abs=1e-5
    )
    assert np.diag(overlap.dice).tolist() == [1] * 4
    assert overlap.warnings == ()
    assert len(overlap.pairs()) == 6


def test_null_overlap_is_at_chance(simulate):
    measured, expected, above, r = [], [], [], []
    for seed in range(25):
        means = simulate(np.zeros((4, 900), np.float32), n_participants=3, seed=seed)
        overlap = overlap_of(effects_of(means), top_percent=10, n_boot=2, n_perm=200, seed=seed)
        measured.append(overlap.dice[UPPER])
        expected.append(overlap.chance[UPPER])
        above.append(overlap.dice[UPPER] > overlap.chance_within_site_high[UPPER])
        r.append(overlap.correlation[UPPER])
    assert np.mean(measured) == pytest.approx(np.mean(expected), abs=0.004)
    assert np.mean(expected) == pytest.approx(0.05, abs=0.003)
    assert np.mean(r) == pytest.approx(0, abs=0.01)
    assert np.mean(above) < 0.1


def test_shared_baseline_fakes_overlap_and_is_said(simulate):
    nothing = np.zeros((4, 900), np.float32)
    clean = overlap_of(effects_of(simulate(nothing)), n_boot=2)
    faked = overlap_of(effects_of(simulate(nothing, shared_baseline=True)), n_boot=2)
    assert abs(clean.correlation[UPPER].mean()) < 0.06
    assert faked.correlation[UPPER].mean() == pytest.approx(0.4, abs=0.06)
    assert faked.dice[UPPER].mean() > 2 * faked.chance[UPPER].mean()
    assert len(faked.warnings) == 6
    assert faked.warnings[0] == (
        "tasks taskA and taskB share 30 prompts within participants: a shared baseline makes "
        "their maps alike"
    )
    assert shared_between_tasks(effects_of(simulate(nothing))) == ()


def test_chance_equals_permutation_of_units_within_sites():
    rng = np.random.default_rng(3)
    sites = np.repeat([5, 2, 9], [40, 100, 23])
    maps = rng.normal(size=(2, 163)) * np.where(sites == 5, 3, 1)
    networks = top_units(maps, 0.25)
    moved = np.empty(4000)
    for draw in range(4000):
        order = np.arange(163)
        for site in np.unique(sites):
            order[sites == site] = rng.permutation(order[sites == site])
        moved[draw] = dice(networks[0], networks[1][order])
    drawn = permuted_dice(networks, sites, 4000, rng)[:, 0, 1]
    assert drawn.mean() == pytest.approx(moved.mean(), abs=0.005)
    assert drawn.std() == pytest.approx(moved.std(), rel=0.06)
    assert chance_dice(networks, sites)[0, 1] == pytest.approx(moved.mean(), abs=0.005)
    assert chance_dice(networks, sites)[0, 1] > 1.5 * chance_dice(networks, np.zeros(163))[0, 1]


def test_chance_of_unsigned_sets_is_their_share():
    maps = np.abs(np.random.default_rng(0).normal(size=(2, 1000)))
    assert chance_dice(top_units(maps, 0.05), np.zeros(1000))[0, 1] == pytest.approx(0.05)


@pytest.mark.slow
def test_interval_covers_what_another_cohort_would_give(simulate):
    """Participants differ in their maps; the interval is for cohorts of the same size."""
    rng = np.random.default_rng(11)
    n_units, n_participants = 400, 8
    truth = rng.normal(size=(3, n_units))
    truth[1] += truth[0]
    template = effects_of(
        simulate(np.ones((3, n_units), np.float32), n_participants=n_participants)
    )

    def cohort():
        mixture = rng.normal(size=(n_participants, 3, n_units)) * 1.5
        gain = 1 + 0.4 * rng.normal(size=(n_participants, 3, 1))
        return dataclasses.replace(template, values=(gain * truth + mixture).astype(np.float32))

    results = [overlap_of(cohort(), top_percent=10, n_boot=150, n_perm=2) for _ in range(120)]
    for name in ("correlation", "dice"):
        target = np.mean([getattr(result, name)[0, 1] for result in results])
        covered = [
            getattr(result, f"{name}_low")[0, 1] <= target <= getattr(result, f"{name}_high")[0, 1]
            for result in results
        ]
        assert np.mean(covered) >= 0.89
        if name == "correlation":
            assert np.mean(covered) <= 0.99
