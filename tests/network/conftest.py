"""Simulated experiments with known truth."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from llm2bids.inference.design import prompt_design
from llm2bids.inference.effects import Condition
from llm2bids.inference.options import AnalysisOptions
from llm2bids.inference.prompts import Prompts


def _simulate(
    patterns,
    *,
    n_participants=5,
    n_on=4,
    n_off=6,
    noise=1.0,
    seed=0,
    share=None,
    shared_baseline=False,
    within_noise=0.0,
):
    """Draw per-prompt means: task pattern + the prompt's own map.

    The prompt's own map depends on its identifier only, so that prompts shown twice bring their
    errors along. ``share``: None (no prompt twice), "on" (participants see the same on prompts),
    "off" (the same off prompts). ``shared_baseline``: tasks of a participant share off prompts.
    """
    rng = np.random.default_rng(seed)
    n_tasks, n_units = patterns.shape
    own = {}
    rows = []
    for participant in range(1, n_participants + 1):
        for task in range(n_tasks):
            for kind, count in (("on", n_on), ("off", n_off)):
                who = "all" if share == kind else f"{participant:02d}"
                what = "any" if kind == "off" and shared_baseline else f"task{'ABCDEF'[task]}"
                for number in range(count):
                    name = f"{kind}-{what}-{who}-{number}"
                    if name not in own:
                        own[name] = noise * rng.standard_normal(n_units, dtype=np.float32)
                    value = own[name] + (patterns[task] if kind == "on" else 0)
                    if within_noise:
                        value = value + within_noise * rng.standard_normal(n_units)
                    label = f"task{'ABCDEF'[task]}"
                    rows.append(
                        (value, f"{participant:02d}", label, label if kind == "on" else "", name)
                    )
    values, participants, runs, trial_types, prompts = zip(*rows, strict=True)
    return _prompts(np.array(values, dtype=np.float32), participants, runs, trial_types, prompts)


def _prompts(values, participants, tasks, trial_types, prompt_ids, *, runs=None):
    """Put prompts' images (n_prompts, n_units) into runs, one for each participant and task."""
    names = [
        f"sub-{who}_task-{task}" + (f"_run-{run}" if run else "")
        for who, task, run in zip(participants, tasks, runs or [None] * len(tasks), strict=True)
    ]
    columns = {"participant": participants, "task": tasks, "run": names}
    columns |= {"trial_type": trial_types, "prompt_id": prompt_ids}
    shown = pd.DataFrame({name: list(column) for name, column in columns.items()})
    by_run = shown.groupby("run", sort=False)["trial_type"]
    pairs = zip(tasks, trial_types, strict=True)
    return Prompts(
        values=values,
        shown=shown,
        designs={name: prompt_design(kinds.tolist()) for name, kinds in by_run},
        conditions=tuple(
            Condition(task=task, label=kind, expression=kind)
            for task, kind in dict.fromkeys(pair for pair in pairs if pair[1])
        ),
        mask=np.ones(values.shape[1], dtype=np.bool_),
        options=AnalysisOptions(),
    )


@pytest.fixture
def make_prompts() -> Callable[..., Prompts]:
    """Give the function that puts images and labels together."""
    return _prompts


@pytest.fixture
def simulate() -> Callable[..., Prompts]:
    """Give the simulator."""
    return _simulate


@pytest.fixture
def patterns() -> np.ndarray:
    """Four task patterns over 700 units; the first two have half of their 70 units in common."""
    rng = np.random.default_rng(7)
    maps = np.zeros((4, 700), dtype=np.float32)
    starts = (0, 35, 200, 400)
    for task, start in enumerate(starts):
        maps[task, start : start + 70] = 2.0
    signs = np.where(rng.random(700) < 0.5, -1, 1).astype(np.float32)
    return maps * signs
