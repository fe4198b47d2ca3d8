import dataclasses

import numpy as np
import pytest

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import OFF, PromptMeans, TaskEffects, task_effects


def test_effects_equal_differences_of_means(simulate, patterns):
    means = simulate(patterns, n_participants=3)
    effects = task_effects(means)
    assert effects.effects.shape == (3, 4, 700)
    assert effects.participants == ("01", "02", "03")
    rows = (means.participants == "02") & (means.runs == "taskC")
    on = rows & (means.trial_types == "taskC")
    off = rows & (means.trial_types == OFF)
    expected = means.values[on].mean(axis=0) - means.values[off].mean(axis=0)
    np.testing.assert_allclose(effects.effects[1, 2], expected, atol=1e-5)
    assert effects.on[1][2].prompts == set(means.prompt_ids[on])
    assert effects.off[1][2].prompts == set(means.prompt_ids[off])
    assert effects.on[1][2].runs == {"sub-02_taskC"}
    assert effects.provenance == means.provenance()


def test_several_runs_are_averaged_run_by_run():
    values = np.array([[1, 5], [0, 0], [0, 0], [9, 1], [4, 4]], dtype=np.float32)
    means = PromptMeans(
        values=values,
        participants=["01"] * 5,
        runs=["r1", "r1", "r1", "r2", "r2"],
        trial_types=["tea", "", "", "tea", ""],
        prompt_ids=list("abcde"),
    )
    np.testing.assert_allclose(task_effects(means).effects[0, 0], [(1 + 5) / 2, (5 - 3) / 2])


def test_tasks_of_one_run_share_its_baseline():
    values = np.array([[1, 5], [7, 2], [1, 0]], dtype=np.float32)
    means = PromptMeans(
        values=values,
        participants=["01"] * 3,
        runs=["multi"] * 3,
        trial_types=["tea", "coffee", ""],
        prompt_ids=list("abc"),
    )
    effects = task_effects(means)
    np.testing.assert_allclose(effects.effects[0], [[0, 5], [6, 2]])
    assert effects.off[0][0].prompts == effects.off[0][1].prompts == {"c"}


def test_against_others_sums_to_zero(simulate, patterns):
    effects = task_effects(simulate(patterns, n_participants=2))
    specific = effects.against_others()
    np.testing.assert_allclose(specific.effects.sum(axis=1), 0, atol=1e-4)
    others = effects.effects[:, [0, 2, 3]].mean(axis=1)
    np.testing.assert_allclose(specific.effects[:, 1], effects.effects[:, 1] - others, atol=1e-5)


def test_bad_input_is_named(simulate, patterns):
    means = simulate(patterns, n_participants=2)
    fields = {field.name: getattr(means, field.name) for field in dataclasses.fields(means)}
    with pytest.raises(NetworkError, match=r"80 maps and 79 runs"):
        PromptMeans(**{**fields, "runs": means.runs[:-1]})
    with pytest.raises(NetworkError, match=r"shape \(80, 700, 1\)"):
        PromptMeans(**{**fields, "values": means.values[..., np.newaxis]})
    broken = means.values.copy()
    broken[3, 5] = np.nan
    with pytest.raises(NetworkError, match=r"prompt on-taskA-01-3 of sub-01: values that are NaN"):
        PromptMeans(**{**fields, "values": broken})
    rows = ~((means.participants == "02") & (means.trial_types == "taskB"))
    with pytest.raises(NetworkError, match="sub-02 has no prompt of task taskB"):
        task_effects(means, rows)
    rows = ~((means.participants == "02") & (means.runs == "taskB") & (means.trial_types == OFF))
    with pytest.raises(NetworkError, match="sub-02 taskB has no off prompt beside task taskB"):
        task_effects(means, rows)


def test_bad_effects_are_named(simulate, patterns):
    effects = task_effects(simulate(patterns, n_participants=2))
    fields = {field.name: getattr(effects, field.name) for field in dataclasses.fields(effects)}
    with pytest.raises(NetworkError, match="expected 2 participants x 4 tasks"):
        TaskEffects(**{**fields, "effects": effects.effects[:, :3]})
    with pytest.raises(NetworkError, match="participants 01, 01: expected each label once"):
        TaskEffects(**{**fields, "participants": ("01", "01")})
    constant = effects.effects.copy()
    constant[1, 0] = 3
    with pytest.raises(NetworkError, match="task taskA of sub-02: the same value"):
        TaskEffects(**{**fields, "effects": constant})
    single = TaskEffects(
        effects=effects.effects[:, :1],
        participants=effects.participants,
        tasks=("taskA",),
        on=tuple(row[:1] for row in effects.on),
        off=tuple(row[:1] for row in effects.off),
    )
    with pytest.raises(NetworkError, match="found one task, expected two"):
        single.against_others()


def test_take_keeps_provenance(simulate, patterns):
    effects = task_effects(simulate(patterns, n_participants=3))
    taken = effects.take([2, 0])
    assert taken.participants == ("03", "01")
    np.testing.assert_array_equal(taken.effects[0], effects.effects[2])
    assert taken.provenance == effects.provenance_of([0, 2])
    assert not taken.provenance.overlap(effects.provenance_of([1]))
