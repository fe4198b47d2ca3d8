"""Events and the repetition time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.glm.first_level import make_first_level_design_matrix

from llm2bids.exceptions import UsageError
from llm2bids.recording.events import (
    events_table,
    high_pass_warning,
    kept_by_high_pass,
    repetition_time,
)
from llm2bids.scan.options import ScanOptions


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


@pytest.mark.parametrize(("t_r", "on"), [(0.3, (1,)), (2.0, (1,)), (4.0, (1, 3)), (0.7, (1, 3))])
def test_what_a_high_pass_filter_leaves_is_what_nilearns_drifts_leave(t_r, on, design_of):
    design = design_of(["x"] * 45, tokens_per_prompt=3, on=on, per_block=9)
    signal = np.repeat([trial.trial_type is not None for trial in design.trials], 3).astype(float)
    drifts = make_first_level_design_matrix(
        np.arange(len(signal)) * t_r, drift_model="cosine", high_pass=0.01
    )
    matrix = drifts.to_numpy()
    residual = signal - matrix @ np.linalg.lstsq(matrix, signal, rcond=None)[0]
    expected = residual.var() / signal.var()
    assert kept_by_high_pass(design, t_r) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("paradigm", ["off_on_off", "multi_task", "interleaved", "null"])
def test_the_repetition_time_that_is_chosen_is_not_warned_of(paradigm):
    scan = ScanOptions(paradigm=paradigm, n_participants=1).draw(localizer_prompts=0)
    assert high_pass_warning(scan.designs, scan.t_r) is None
    warned = high_pass_warning(scan.designs, 8.0)
    assert "takes" in warned and f"expected --tr {repetition_time(scan.designs[:1]):g} or" in warned
