"""Known leaks on synthetic data without any effect: there with the guard off, gone with it on."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GroupKFold, KFold, cross_val_score

from llm2bids.exceptions import NetworkError
from llm2bids.inference.design import prompt_design
from llm2bids.inference.first_level import fit_first_level
from llm2bids.inference.prompts import effects_of
from llm2bids.inference.provenance import require_disjoint
from llm2bids.inference.runs import prompt_means

TASKS = ("a", "b", "c", "d")
N_UNITS, N_PROMPTS = 150, 6


def fake_maps(make_prompts, rng, *, share_prompts):
    """Four people, four fake tasks: maps are the prompts' own and noise, tasks add nothing."""
    prompts, values, rows = {}, [], []
    for person in ("01", "02", "03", "04"):
        for task in TASKS:
            for kind in (task, ""):
                for index in range(N_PROMPTS):
                    owner = "all" if share_prompts and kind else person
                    name = f"{owner}-{task}-{kind}-{index}"
                    own = prompts.setdefault(name, rng.standard_normal(N_UNITS))
                    values.append(own + 0.5 * rng.standard_normal(N_UNITS))
                    rows.append((person, task, kind, name))
    people, runs, kinds, names = zip(*rows, strict=True)
    return make_prompts(np.array(values, dtype=np.float32), people, runs, kinds, names)


def accuracy(effects):
    """Name the tasks of each participant by the mean map of the others."""
    hits = []
    for person in range(len(effects.participants)):
        others = np.delete(effects.values, person, axis=0).mean(axis=0)
        r = np.corrcoef(effects.values[person], others)[: len(TASKS), len(TASKS) :]
        hits.extend(r.argmax(axis=1) == np.arange(len(TASKS)))
    return np.mean(hits)


def test_reused_prompts_identify_fake_tasks_and_are_refused(make_prompts):
    rng = np.random.default_rng(0)
    shared, apart = (
        [effects_of(fake_maps(make_prompts, rng, share_prompts=share)) for _ in range(8)]
        for share in (True, False)
    )
    assert np.mean([accuracy(one) for one in shared]) > 0.9
    assert 0.1 < np.mean([accuracy(one) for one in apart]) < 0.4  # chance is 0.25
    first, rest = shared[0].provenance_of([0]), shared[0].provenance_of([1, 2, 3])
    with pytest.raises(NetworkError, match="all-a-a-0"):
        require_disjoint(rest, first, what="identification", levels=("prompts",))
    first, rest = apart[0].provenance_of([0]), apart[0].provenance_of([1, 2, 3])
    assert not require_disjoint(rest, first, what="identification", levels=("prompts",))


def test_a_shared_off_baseline_fakes_overlap(make_prompts):
    rng = np.random.default_rng(1)
    own = fake_maps(make_prompts, rng, share_prompts=False)
    off = own.trial_types == ""
    runs = own.run_names
    values = own.values.copy()
    for person in own.people:  # every task takes the off prompts of the first
        first = off & (runs == f"sub-{person}_task-a")
        for task in TASKS[1:]:
            values[off & (runs == f"sub-{person}_task-{task}")] = own.values[first]
    common = dataclasses.replace(own, values=values)
    pairs = np.triu_indices(len(TASKS), 1)
    faked, true = (
        np.mean([np.corrcoef(maps)[pairs].mean() for maps in effects_of(means).values])
        for means in (common, own)
    )
    assert faked == pytest.approx(0.5, abs=0.06)  # half of an effect's variance is the baseline
    assert true == pytest.approx(0, abs=0.06)


def sham_tokens(rng, n_prompts=16, n_tokens=6):
    own = np.repeat(rng.standard_normal((n_prompts, N_UNITS)), n_tokens, axis=0)
    values = own + rng.standard_normal(own.shape)
    on = rng.permutation(n_prompts) < n_prompts // 2
    return values, on, np.repeat(np.arange(n_prompts), n_tokens)


def test_tokens_of_one_prompt_in_two_folds_decode_a_sham_label():
    rng = np.random.default_rng(2)
    leaked, closed, averaged = [], [], []
    for _ in range(12):
        values, on, prompts = sham_tokens(rng)
        model = RidgeClassifier(alpha=N_UNITS)
        split = KFold(4, shuffle=True, random_state=0)
        leaked.append(cross_val_score(model, values, on[prompts], cv=split).mean())
        groups = {"cv": GroupKFold(4), "groups": prompts}
        closed.append(cross_val_score(model, values, on[prompts], **groups).mean())
        means = prompt_means([(0, values.astype(np.float32))], prompts, N_UNITS)[0]
        averaged.append(cross_val_score(model, means, on, cv=split).mean())
    assert np.mean(leaked) > 0.9
    assert 0.3 < np.mean(closed) < 0.6
    assert 0.3 < np.mean(averaged) < 0.6  # the project's own unit, one image for each prompt


def test_length_is_found_as_a_task_unless_it_is_a_covariate():
    rng = np.random.default_rng(3)
    rates = {"off": [], "on": []}
    for _ in range(60):
        length = rng.integers(5, 15, 24).astype(float)
        on = np.argsort(np.argsort(length + rng.normal(0, 2, 24))) >= 12
        values = rng.standard_normal((24, N_UNITS)) + 0.3 * (length - 10)[:, np.newaxis]
        kinds = ["long" if is_on else "" for is_on in on]
        covariate = (length - length.mean())[:, np.newaxis]
        designs = {"off": prompt_design(kinds), "on": prompt_design(kinds)}
        designs["on"].insert(1, "length", covariate)
        for guard, design in designs.items():
            fit = fit_first_level(
                lambda _, values=values: [values], np.array([0, N_UNITS]), [design],
                {"long": "long"}, noise_model="ols",
            )  # fmt: skip
            z = fit.maps["long", "z"]
            rates[guard].append(np.mean(np.abs(z) > 1.959964))
    assert np.mean(rates["off"]) > 0.5
    assert np.mean(rates["on"]) == pytest.approx(0.05, abs=0.02)
