"""Simulated experiments with known truth."""

from collections.abc import Callable

import numpy as np
import pytest

from llm2bids.network.effects import PromptMeans


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
    return PromptMeans(
        values=np.array(values, dtype=np.float32),
        participants=participants,
        runs=runs,
        trial_types=trial_types,
        prompt_ids=prompts,
    )


@pytest.fixture
def simulate() -> Callable[..., PromptMeans]:
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
