"""Events and the repetition time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.exceptions import UsageError
from llm2bids.recording.events import events_table, repetition_time


def test_one_row_for_each_on_prompt_and_three_columns(design_of):
    events = events_table(design_of(), 0.25)
    assert list(events.columns) == ["onset", "duration", "trial_type"]
    assert events.onset.tolist() == [5.0, 6.25, 7.5]
    assert events.duration.tolist() == [1.25] * 3
    assert events.trial_type.tolist() == ["fossils"] * 3


def test_run_without_on_prompts_keeps_its_columns(design_of):
    events = events_table(design_of(on=()), 0.5)
    assert len(events) == 0
    assert events.onset.dtype == float


def test_repetition_time_above_zero(design_of):
    with pytest.raises(UsageError, match="repetition time 0"):
        events_table(design_of(), 0)


@pytest.mark.parametrize(
    ("n_prompts", "tokens", "on", "expected"),
    [
        (24, 12, (1,), 0.25),  # 288 volumes, 72 s
        (24, 12, (1, 2), 0.25),  # two on blocks of one type join: one stretch
        (3, 2, (1,), 0.5),  # never above a half
        (24, 50, (1,), 0.0625),  # 1,200 volumes
        (200, 1, (1,), 0.25),  # 100 s would not be under 100 s
        (48, 12, (1, 3, 5), 0.25),  # 96 + 96 volumes in 48 s
        (32, 4, (1, 3), 0.5),  # 32 + 32 volumes in 32 s
    ],
)
def test_repetition_time(n_prompts, tokens, on, expected, design_of):
    per_block = n_prompts // (3 if max(on) == 1 else 2 * max(1, (max(on) + 1) // 2))
    design = design_of(["x"] * n_prompts, tokens_per_prompt=tokens, on=on, per_block=per_block)
    assert repetition_time([design]) == expected


@given(tokens=st.integers(1, 400), prompts=st.integers(1, 20))
def test_repetition_time_is_the_largest_power_of_two_that_fits(tokens, prompts, design_of):
    design = design_of(["x"] * (3 * prompts), tokens_per_prompt=tokens, on=(1,), per_block=prompts)
    t_r = repetition_time([design])
    assert math.log2(t_r).is_integer()
    assert design.n_volumes * t_r < 100
    assert t_r == 0.5 or design.n_volumes * t_r * 2 >= 100


def test_the_longest_run_decides(design_of):
    short, long = design_of(), design_of(["x"] * 24, tokens_per_prompt=12, on=(1,), per_block=8)
    assert repetition_time([short, long]) == repetition_time([long, short]) == 0.25


def test_no_runs(design_of):
    with pytest.raises(UsageError, match="no runs"):
        repetition_time([])
    with pytest.raises(UsageError, match="no trials"):
        repetition_time([design_of([])])
