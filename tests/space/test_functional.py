"""Functional arrangements: permutations, made from responses, that leave heads in place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.space.arrange import cells_of, index_space, rearrange
from llm2bids.space.definition import Layout
from llm2bids.space.functional import check_widths, learn_cells, random_cells, random_space
from llm2bids.space.smoothness import (
    arrangement_stability,
    grid_pairs,
    morans_i,
    neighbour_correlation,
    split_half_stability,
)
from llm2bids.space.space import Space
from tests.synthetic import one_site

LAYOUT = Layout(method="ward", prompt_ids=("p1", "p2"), n_tokens=24, n_constant=1)


@pytest.fixture
def responses(space):
    """Responses to 6 off prompts and 18 of three tasks: each unit mixes two patterns."""
    rng = np.random.default_rng(3)
    patterns = rng.standard_normal((24, 2))
    patterns[6:] += np.tile([[2, 0], [-1, 2], [-1, -2]], (6, 1))
    angle = rng.uniform(0, 2 * np.pi, space.n_units)
    weights = np.stack([np.cos(angle), np.sin(angle)])
    noise = rng.standard_normal((24, space.n_units))
    return (patterns @ weights + 0.1 * noise).astype(np.float32)


def learned_cells(space, responses, **options):
    """Learn from the first 24 prompts: 6 off prompts, then tasks a, b and c in turn."""
    conditions = options.pop("conditions", ["off"] * 6 + ["a", "b", "c"] * 6)
    return learn_cells(space, responses, conditions[: len(responses)], baseline="off", **options)


def functional(space, responses, **options):
    learned = learned_cells(space, responses, **options)
    return rearrange(space, learned.cells, arrangement="functional", layout=LAYOUT)


def test_units_stay_in_their_panel_and_head_and_every_voxel_is_used(space, responses):
    made = functional(space, responses)
    for site in space.sites:
        units = space.site_slices[site.name]
        size = site.head_size or site.width
        for first in range(units.start, units.stop, size):
            block = slice(first, first + size)
            assert set(map(tuple, made.voxels[block])) == set(map(tuple, space.voxels[block]))
    assert np.any(made.voxels != space.voxels)
    assert np.array_equal(made.tissue, space.tissue)


@pytest.mark.slow
def test_two_processes_give_the_same_as_one(space, responses):
    one, two = (learned_cells(space, responses, n_jobs=n).cells for n in (1, 2))
    assert np.array_equal(one, two)


def test_the_residual_stream_has_one_order_for_all_layers(space, responses):
    learned = learned_cells(space, responses)
    for cells in (learned.cells, random_cells(space, seed=5)):
        stream = [space.site_slices[site.name] for site in space.sites if site.role == "residual"]
        orders = [cells[units] - units.start for units in stream]
        assert len(orders) == 3
        assert all(np.array_equal(order, orders[0]) for order in orders[1:])


def test_constant_units_come_last(space, responses):
    units = space.site_slices["model.layers.1.mlp.act_fn"]
    still = [units.start + 3, units.start + 20]
    responses[:, still] = 7.5
    learned = learned_cells(space, responses)
    assert np.flatnonzero(learned.constant).tolist() == still
    assert learned.cells[still].tolist() == [units.stop - 2, units.stop - 1]


def test_held_out_maps_are_smooth_in_functional_order_alone(space, responses):
    train, test = responses[:21], responses[21:]
    wide = [place for place, site in enumerate(space.sites) if site.width == 37]
    shuffled = random_space(space, seed=1)
    smooth = morans_i(test, functional(space, train))[:, wide]
    assert smooth.mean() > 0.5
    assert abs(morans_i(test, space)[:, wide].mean()) < 0.15
    assert abs(morans_i(test, shuffled)[:, wide].mean()) < 0.15


def test_morans_i_is_that_of_the_formula():
    space = one_site(9)
    board = 1.0 - 2 * (space.voxels.sum(axis=1)[np.newaxis] % 2)
    values = board - board.mean()
    distance = np.abs(space.voxels[:, np.newaxis] - space.voxels).sum(axis=2)
    first, second = np.nonzero(np.triu(distance == 1))  # all axes
    assert first.size == grid_pairs(space)[0].size
    products = (values[0, first] * values[0, second]).sum()
    expected = 9 / first.size * float(products / (values**2).sum())
    assert morans_i(board, space)[0, 0] == pytest.approx(expected)
    assert expected < -0.9
    assert np.isnan(morans_i(np.ones((1, 9)), space)[0, 0])


def test_morans_i_leaves_units_without_a_value_out():
    space = one_site(9)
    values = np.array([[2.0, 1, 0, 3, -1, 4, 5, 1, -2]])
    values[0, [2, 4]] = np.nan
    first, second = grid_pairs(space)
    both = np.isfinite(values[0, first] * values[0, second])
    assert 0 < both.sum() < both.size
    centred = values[0] - np.nanmean(values)
    products = (centred[first] * centred[second])[both].mean()
    assert morans_i(values, space)[0, 0] == pytest.approx(products / np.nanmean(centred**2))
    assert np.isnan(morans_i(np.full((1, 9), np.nan), space)[0, 0])


def test_neighbour_correlation_falls_with_distance(space, responses):
    table = neighbour_correlation(responses, functional(space, responses), (1, 3))
    assert table["correlation"].iloc[0] > table["correlation"].iloc[1] > -0.3
    first, second = grid_pairs(space, 1)
    index = neighbour_correlation(responses, space, (1,))
    pairs = np.corrcoef(responses.T)[first, second]
    assert index["n_pairs"].iloc[0] == first.size
    assert index["correlation"].iloc[0] == pytest.approx(np.mean(pairs), abs=1e-5)


def test_stability_is_one_with_itself_and_none_with_a_shuffle(space, responses):
    made = functional(space, responses)
    heads = np.array([site.head_size is not None for site in space.sites])
    assert heads.any() and not heads.all()
    assert np.allclose(arrangement_stability(made, made), 1)
    shuffled = random_space(space, seed=1)
    assert abs(np.mean(arrangement_stability(made, shuffled))) < 0.3


def test_a_rearranged_space_is_read_back_from_its_table(space, responses):
    made = functional(space, responses)
    back = Space.from_table(made.unit_table(), made.metadata())
    assert back.layout == LAYOUT
    assert back.fingerprint() == made.fingerprint() != space.fingerprint()
    assert index_space(back).fingerprint() == space.fingerprint()
    assert np.array_equal(
        rearrange(space, cells_of(back), arrangement="functional", layout=LAYOUT).voxels,
        made.voxels,
    )


def test_method_and_prompts_are_part_of_the_fingerprint(space, responses):
    cells = learned_cells(space, responses).cells
    layouts = [LAYOUT, Layout(method="random", prompt_ids=("p1", "p2")), Layout(method="ward")]
    made = {
        rearrange(space, cells, arrangement="functional", layout=one).fingerprint()
        for one in layouts
    }
    assert len(made) == 3


def test_prompts_of_the_baseline_alone_serve_too(space, responses):
    learned = learn_cells(space, responses, ["off"] * 24, baseline="off")
    made = rearrange(space, learned.cells, arrangement="functional", layout=LAYOUT)
    near, far = neighbour_correlation(responses, made, (1, 3))["correlation"]
    assert near > far


def test_a_panel_that_is_too_wide_is_refused_by_name():
    site = Site(name="lm_head", layer=None, role="lm_head", width=262_145)
    with pytest.raises(SpaceError, match=r"site lm_head has 262,145 units.*262,144.*--sites"):
        check_widths([site])


@settings(max_examples=40)
@given(width=st.integers(1, 90), head=st.sampled_from([None, 1, 5, 6]), seed=st.integers(0, 99))
def test_every_panel_is_a_permutation(width, head, seed):
    """Of any width, flat or with heads: each unit has a voxel of its own panel (and head)."""
    heads = {} if head is None else {"n_heads": width, "head_size": head}
    space = one_site(width * (head or 1), **heads)
    rows = np.random.default_rng(seed).standard_normal((24, space.n_units)).astype(np.float32)
    rows[:, seed % space.n_units] = 3  # one constant unit
    cells = learned_cells(space, rows).cells
    size = head or space.n_units
    for first in range(0, space.n_units, size):
        assert sorted(cells[first : first + size]) == list(range(first, first + size))


def test_like_units_come_together():
    """Responses that are a shuffled map of the panel itself are laid out as that map again."""
    space = one_site(144)
    rng = np.random.default_rng(0)
    x, y, z = space.voxels[rng.permutation(144)].T
    noise = np.append(np.tile([1.0, -1.0], 16), 0)  # the same for all units, as sd are taken off
    means = np.concatenate([np.zeros((6, 144)), np.repeat([x, y, z], 9, axis=0)])
    learned = learned_cells(
        space,
        (means + noise[:, np.newaxis]).astype(np.float32),
        conditions=["off"] * 6 + ["a"] * 9 + ["b"] * 9 + ["c"] * 9,
    )
    made = rearrange(space, learned.cells, arrangement="functional", layout=LAYOUT)
    first, second = grid_pairs(made)
    steps = sum(np.abs(axis[first] - axis[second]) for axis in (x, y, z))
    assert np.median(steps) == 1  # what were neighbours are neighbours again; shuffled, 4 and more


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_units_without_a_map_stay_a_permutation(width):
    space = one_site(width)
    rows = np.random.default_rng(1).standard_normal((24, 1)).repeat(width, axis=1)
    for values in (rows, np.zeros_like(rows)):
        learned = learned_cells(space, values.astype(np.float32))
        assert sorted(learned.cells.tolist()) == list(range(width))


def test_halves_of_a_localizer_agree_more_than_other_orders(space, responses):
    twice = np.concatenate([responses, responses + 0.01])
    conditions = ["off"] * 6 + ["a", "b", "c"] * 6
    found = split_half_stability(space, twice, conditions * 2, baseline="off")
    assert found.n_prompts == (24, 24)
    whole = found.correlation["all panels"]
    assert whole["functional"] > 0.3 > max(abs(whole["index"]), abs(whole["random"]))
    assert set(found.correlation) <= {"all panels"} | {site.role for site in space.sites}
    assert split_half_stability(space, responses, conditions, baseline="off") is None


def test_cells_that_are_no_permutation_are_refused(space):
    cells = np.arange(space.n_units)
    cells[0] = 1
    with pytest.raises(SpaceError, match=r"site model\.embed_tokens are no permutation"):
        rearrange(space, cells, arrangement="functional", layout=LAYOUT)


@pytest.mark.parametrize(
    "spoil",
    [
        {"layout": None},
        {"arrangement": "index"},
        {"arrangement": "sorted"},
        {"layout": {"method": "ward"}},
        {"layout": {**LAYOUT.metadata(), "prompt_ids": "p1"}},
        {"layout": {**LAYOUT.metadata(), "n_tokens": -1}},
        {"layout": {**LAYOUT.metadata(), "prompt_ids": ["other"]}},
    ],
)
def test_spoiled_metadata_of_an_arrangement_are_refused(space, responses, spoil):
    made = functional(space, responses)
    with pytest.raises(SpaceError):
        Space.from_table(made.unit_table(), {**made.metadata(), **spoil})


def test_a_strong_condition_does_not_hide_a_weak_one():
    """Held out: the map of a condition whose effects are a tenth of the other's is smooth too."""
    space = one_site(576)
    rng = np.random.default_rng(5)
    strong, _, weak = 30 * rng.standard_normal((3, 576))
    weak, third = weak / 10, rng.standard_normal(576)
    kinds = ["off"] * 16 + ["a"] * 16 + ["b"] * 16 + ["c"] * 16
    means = np.repeat([np.zeros(576), strong, weak, third], 16, axis=0)
    learned = learn_cells(
        space, (means + rng.standard_normal(means.shape)).astype(np.float32), kinds, baseline="off"
    )
    made = rearrange(space, learned.cells, arrangement="functional", layout=LAYOUT)
    smooth = morans_i(np.stack([strong, weak]), made)[:, 0]
    assert smooth[1] > 0.72  # 0.67 where features are taken as they are
