from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.paradigm.partition import count_prompts, latin_square, order_blocks


@pytest.mark.parametrize(("n_conditions", "n_rows"), [(1, 1), (2, 2), (3, 6), (6, 6), (7, 14)])
def test_a_square_balances_places_and_neighbours(n_conditions, n_rows):
    square = latin_square(n_conditions)
    assert square.shape == (n_rows, n_conditions)
    for place in square.T:
        assert set(Counter(place.tolist()).values()) == {n_rows // n_conditions}
    followers = Counter(pair for row in square.tolist() for pair in pairwise(row))
    assert len(followers) == n_conditions * (n_conditions - 1)
    assert len(set(followers.values())) <= 1


@given(
    order=st.sampled_from(["off_on_off", "multi_task", "interleaved"]),
    n_types=st.integers(1, 5),
    prompts_per_block=st.integers(1, 9),
)
def test_off_and_on_alternate_and_mirror(order, n_types, prompts_per_block):
    trial_types = [f"t{number}" for number in range(n_types)]
    blocks = order_blocks(order, trial_types, prompts_per_block)
    is_on = [trial_type is not None for trial_type, _ in blocks]
    assert is_on == [number % 2 == 1 for number in range(len(blocks))]
    counts = count_prompts(blocks)
    assert {counts[name] for name in trial_types} == {prompts_per_block}
    series = np.repeat(is_on, [n_prompts for _, n_prompts in blocks])
    assert (series == series[::-1]).all()


def test_blocks_of_each_order():
    assert order_blocks("off_on_off", ["a"], 4) == ((None, 4), ("a", 4), (None, 4))
    assert order_blocks("multi_task", ["a", "b"], 4) == (
        (None, 4),
        ("a", 4),
        (None, 4),
        ("b", 4),
        (None, 4),
    )
    assert order_blocks("interleaved", ["a"], 2) == (
        (None, 1),
        ("a", 1),
        (None, 1),
        ("a", 1),
        (None, 1),
    )
