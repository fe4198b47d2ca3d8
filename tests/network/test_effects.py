"""Effects of prompts, and the value that everything after the participant level takes."""

import dataclasses

import numpy as np
import pytest

from llm2bids.exceptions import InferenceError
from llm2bids.inference.effects import Condition, Effects
from llm2bids.inference.prompts import OFF, Prompts, effects_of


def test_effects_equal_differences_of_means(simulate, patterns):
    means = simulate(patterns, n_participants=3)
    effects = effects_of(means)
    assert effects.values.shape == (3, 4, 700)
    assert effects.participants == ("01", "02", "03")
    rows = means.run_names == "sub-02_task-taskC"
    on = rows & (means.trial_types == "taskC")
    off = rows & (means.trial_types == OFF)
    expected = means.values[on].mean(axis=0) - means.values[off].mean(axis=0)
    np.testing.assert_allclose(effects.values[1, 2], expected, atol=1e-5)
    assert effects.made_from[1][2].prompts == set(means.prompt_ids[rows])
    assert effects.made_from[1][2].runs == {"sub-02_task-taskC"}
    assert effects.provenance == means.provenance(rows | ~rows)


def test_several_runs_are_averaged_run_by_run(make_prompts):
    values = np.array([[1, 5], [0, 0], [0, 0], [9, 1], [4, 4], [4, 4]], dtype=np.float32)
    means = make_prompts(
        values, ["01"] * 6, ["tea"] * 6, ["tea", "", "", "tea", "", ""], "abcdef", runs="111222"
    )
    np.testing.assert_allclose(effects_of(means).values[0, 0], [(1 + 5) / 2, (5 - 3) / 2])


def test_tasks_of_one_run_share_its_baseline(make_prompts):
    values = np.array([[1, 5], [7, 2], [1, 0], [1, 0]], dtype=np.float32)
    means = make_prompts(values, ["01"] * 4, ["any"] * 4, ["tea", "coffee", "", ""], "abcd")
    effects = effects_of(means)
    assert effects.tasks == ("tea", "coffee")
    np.testing.assert_allclose(effects.values[0], [[0, 5], [6, 2]], atol=1e-6)


def test_shuffled_labels_leave_confounds_with_their_prompts(simulate, patterns):
    means = simulate(patterns[:2], n_participants=2)
    rng = np.random.default_rng(4)
    designs = {
        name: design.assign(length=rng.normal(size=len(design)))
        for name, design in means.designs.items()
    }
    confounded = dataclasses.replace(means, designs=designs)
    order = np.arange(len(means.values))
    order[:10] = rng.permutation(10)
    shuffled = effects_of(confounded, labels=order).values[0, 0]
    design = next(iter(designs.values())).to_numpy().copy()
    design[:, 0] = design[order[:10], 0]
    expected = np.linalg.lstsq(design, means.values[:10], rcond=None)[0][0]
    np.testing.assert_allclose(shuffled, expected, atol=1e-5)
    assert not np.allclose(shuffled, effects_of(confounded).values[0, 0])


def test_against_others_sums_to_zero(simulate, patterns):
    effects = effects_of(simulate(patterns, n_participants=2))
    specific = effects.against_others()
    np.testing.assert_allclose(specific.values.sum(axis=1), 0, atol=1e-4)
    others = effects.values[:, [0, 2, 3]].mean(axis=1)
    np.testing.assert_allclose(specific.values[:, 1], effects.values[:, 1] - others, atol=1e-5)


def test_bad_prompts_are_named(simulate, patterns):
    means = simulate(patterns, n_participants=2)
    fields = {field.name: getattr(means, field.name) for field in dataclasses.fields(means)}
    broken = means.values.copy()
    broken[3, 5] = np.nan
    with pytest.raises(InferenceError, match=r"prompt on-taskA-01-3 of sub-01: values that are"):
        Prompts(**{**fields, "values": broken})
    rows = means.run_names != "sub-02_task-taskB"
    designs = {name: means.designs[name] for name in np.unique(means.run_names[rows])}
    part = {"values": means.values[rows], "shown": means.shown[rows], "designs": designs}
    with pytest.raises(InferenceError, match="sub-02 has no prompt of task taskB"):
        effects_of(Prompts(**{**fields, **part}))
    rows = rows | (means.trial_types != OFF)
    with pytest.raises(InferenceError, match="4 prompts of sub-02_task-taskB do not determine"):
        effects_of(means, rows)


def test_bad_effects_are_named(simulate, patterns):
    effects = effects_of(simulate(patterns, n_participants=2))
    fields = {field.name: getattr(effects, field.name) for field in dataclasses.fields(effects)}
    constant = effects.values.copy()
    constant[1, 0] = 3
    with pytest.raises(InferenceError, match="task taskA of sub-02: the same value"):
        Effects(**{**fields, "values": constant})
    with pytest.raises(InferenceError, match="found one task, expected two"):
        effects.take(conditions=[0]).against_others()


def test_take_keeps_provenance(simulate, patterns):
    effects = effects_of(simulate(patterns, n_participants=3))
    taken = effects.take([2, 0], [1, 3])
    assert taken.participants == ("03", "01")
    assert taken.tasks == ("taskB", "taskD")
    np.testing.assert_array_equal(taken.values[0], effects.values[2, [1, 3]])
    assert not taken.provenance.overlap(effects.provenance_of([1]))


def test_trial_types_that_several_tasks_have_are_named_after_their_task(simulate, patterns):
    effects = effects_of(simulate(patterns[:2], n_participants=2))
    same = tuple(
        Condition(task=condition.task, label="on", expression="on")
        for condition in effects.conditions
    )
    assert dataclasses.replace(effects, conditions=same).tasks == ("taskAOn", "taskBOn")
