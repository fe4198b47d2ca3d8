"""Pooled prompt-level test: the prompts of all participants as observations, labels permuted.

Exact under the null that a prompt's label does not matter within its participant, so the test
generalises over prompts (for these participants), not over participants.

References
----------
Winkler et al. (2014), Permutation inference for the general linear model, NeuroImage 92;
Phipson and Smyth (2010), Permutation p-values should never be zero, SAGMB 9.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import InferenceError
from llm2bids.inference.effects import Effects
from llm2bids.inference.group import GroupContrast
from llm2bids.inference.inputs import Inputs
from llm2bids.inference.runs import prompt_series

Floats = npt.NDArray[np.float64]
FloatType = TypeVar("FloatType", np.float32, np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class PooledTest:
    """Result of the pooled test, all arrays of shape (n_units,)."""

    # mean of on minus mean of off within participant, averaged with the weights of least squares
    effect: Floats
    t: Floats  # t with one intercept for each participant
    # Cohen's d: effect over the standard deviation of prompts within participant and condition
    d: Floats
    # two-sided permutation p of each unit, uncorrected (with `n_perm` draws, at least 1 / (n_perm
    # + 1))
    p: Floats
    # two-sided p corrected for the family of units, from the largest abs(t) of each permutation
    p_fwe: Floats
    max_t: Floats  # (n_perm,): Largest abs(t) over the units in each permutation
    dof: int  # degrees of freedom of `t`

    def threshold(self, alpha: float = 0.05) -> float:
        """Give the abs(t) above which a unit is significant, family-wise."""
        ranked = np.sort(self.max_t)[::-1]
        allowed = int(np.floor(alpha * (ranked.size + 1) + 1e-9)) - 1
        return float(np.inf if allowed < 0 else ranked[min(allowed, ranked.size - 1)])


def pooled_test(
    values: npt.NDArray[np.floating[Any]],
    on: npt.NDArray[np.bool_],
    participants: npt.NDArray[Any],
    *,
    n_perm: int = 1000,
    random_state: int | None = 0,
    chunk: int = 128,
) -> PooledTest:
    """Compare on and off prompts over all participants, permuting labels within participant.

    Shapes: values (n_prompts, n_units), on (n_prompts,), participants (n_prompts,).
    """
    dof = _check_labels(on, participants)
    design = _within(on.astype(np.float64), participants)
    centred = _within(np.asarray(values, dtype=np.float32), participants)
    norm = np.sqrt(np.einsum("tv,tv->v", centred, centred, dtype=np.float64))
    still = norm == 0
    centred /= np.where(still, 1, norm).astype(np.float32)
    weight = float(np.sqrt(design @ design))

    observed = (design / weight).astype(np.float32) @ centred
    rng = np.random.default_rng(random_state)
    max_r: Floats = np.zeros(n_perm)
    exceed = np.zeros(observed.size, dtype=np.int64)
    for start in range(0, n_perm, chunk):
        n = min(chunk, n_perm - start)
        shuffled = np.stack([_shuffled(design, participants, rng) for _ in range(n)])
        null = np.abs((shuffled / weight).astype(np.float32) @ centred)
        max_r[start : start + n] = null.max(axis=1)
        exceed += (null >= np.abs(observed) - 1e-6).sum(axis=0)

    r: Floats = np.where(still, 0, observed).astype(np.float64)
    t = _t_of_r(r, dof)
    effect = r * norm / weight
    sd = np.sqrt(np.maximum(norm**2 * (1 - r**2), 0) / dof)
    max_t = _t_of_r(max_r, dof)
    larger = n_perm - np.searchsorted(np.sort(max_t), np.abs(t) - 1e-5, side="left")
    return PooledTest(
        effect=effect,
        t=t,
        d=np.divide(effect, sd, out=np.zeros_like(effect), where=sd > 0),
        p=np.where(still, 1, (exceed + 1) / (n_perm + 1)),
        p_fwe=np.where(still, 1, (larger + 1) / (n_perm + 1)),
        max_t=max_t,
        dof=dof,
    )


def _check_labels(on: npt.NDArray[np.bool_], participants: npt.NDArray[Any]) -> int:
    """Refuse what cannot be compared; give the degrees of freedom."""
    labels = np.unique(participants)
    for label in labels:
        chosen = on[participants == label]
        if chosen.all() or not chosen.any():
            raise InferenceError(
                f"pooled test: participant {label} has {int(chosen.sum())} on and "
                f"{int((~chosen).sum())} off prompts; expected both; leave the participant out"
            )
    dof = on.size - labels.size - 1
    if dof < 1:
        raise InferenceError(
            f"pooled test: {on.size} prompts of {labels.size} participants leave no residual; "
            "record more prompts per block"
        )
    return dof


def _within(
    values: npt.NDArray[FloatType], participants: npt.NDArray[Any]
) -> npt.NDArray[FloatType]:
    centred = values.copy()
    for label in np.unique(participants):
        rows = participants == label
        centred[rows] -= centred[rows].mean(axis=0, dtype=np.float64).astype(values.dtype)
    return centred


def _shuffled(design: Floats, participants: npt.NDArray[Any], rng: np.random.Generator) -> Floats:
    shuffled = np.empty_like(design)
    for label in np.unique(participants):
        rows = np.flatnonzero(participants == label)
        shuffled[rows] = design[rng.permutation(rows)]
    return shuffled


def _t_of_r(r: Floats, dof: int) -> Floats:
    r = np.clip(r, -1, 1)
    return np.asarray(r * np.sqrt(dof / np.maximum(1 - r**2, 1e-12)))


def pooled_contrast(
    inputs: Inputs, question: GroupContrast, effects: Effects, *, n_perm: int, random_state: int = 0
) -> PooledTest:
    """Test a trial type against off or the other tasks over the prompts of all participants.

    Against off, labels are permuted within each run. Against the other tasks, the on prompts of
    all tasks are compared, and labels are permuted within participant: prompts are contexts of
    their own, so runs do not matter.
    """
    options = effects.options
    if options.unit_of_analysis == "token" or options.noise != "ols" or options.confounds:
        raise InferenceError(
            "pooled test: it compares the prompts' images as they are, and the participant level "
            f"is another model ({options.describe()}); leave it out (--pooled-n-perm 0), or "
            "analyse one image per prompt with 'ols' and without confounds"
        )
    trial_types = {condition.task: condition.label for condition, _ in question.weights}
    is_against_off = question.against == "off"
    series, labels, groups = [], [], []
    chosen = inputs.choose(participant_label=effects.participants, task=sorted(trial_types))
    for (label, name), runs in chosen.items():
        for run in map(inputs.load, runs):
            kinds = run.trials["trial_type"].to_numpy()
            kept = kinds == trial_types[name]
            if is_against_off:
                kept |= kinds == ""
            images = prompt_series(run, smoothing_fwhm=options.smoothing_fwhm)[0]
            series.append(images[kept].astype(np.float32))
            labels.append((kinds[kept] != "") & (name == question.task))
            block = f"{label}-{run.run.run}" if is_against_off else label
            groups.append(np.full(int(kept.sum()), block))
    return pooled_test(
        np.concatenate(series),
        np.concatenate(labels),
        np.concatenate(groups),
        n_perm=n_perm,
        random_state=random_state,
    )
