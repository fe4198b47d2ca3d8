"""Group: the questions to a group, their tests, and the maps, thresholds and clusters."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import InferenceError
from llm2bids.inference.design import contrast_vector, named_contrasts
from llm2bids.inference.effects import Condition, Effects
from llm2bids.inference.inputs import Inputs
from llm2bids.inference.options import GroupOptions
from llm2bids.inference.participant import caution
from llm2bids.inference.prompts import OFF, read_prompts
from llm2bids.inference.second_level import (
    PooledTest,
    check_size,
    cluster,
    group_statistics,
    height_threshold,
    permutation_test,
    pooled_test,
    thresholds,
    true_discoveries,
)
from llm2bids.inference.statmap import MapWriter, grid_of, map_entries, sentence
from llm2bids.space.grid import open_image
from llm2bids.store.tables import write_table

# End of the label of a contrast against the other tasks.
OTHERS = "VsOthers"


_DESCRIPTIONS = {
    "effect": ("Mean effect over participants.", "calibration standard deviations"),
    "variance": ("Variance of the mean effect.", "squared calibration standard deviations"),
    "t": ("t of the mean effect.", "arbitrary"),
    "z": ("z of the mean effect.", "arbitrary"),
    "pfdr": ("Two-sided p, adjusted by Benjamini and Hochberg over the units.", "arbitrary"),
    "cohensd": ("Cohen's d: mean over standard deviation of the effects.", "arbitrary"),
}


@dataclass(frozen=True, kw_only=True)
class GroupContrast:
    """One question to the group: weights of conditions, within participant.

    `task` is None for a contrast between tasks. `against`: what one trial type stands against,
    where the pooled test can take it (the off prompts of its runs, or the other tasks' prompts).
    """

    label: str
    task: str | None
    description: str
    weights: tuple[tuple[Condition, float], ...]
    against: Literal["off", "others"] | None = None


def group_contrasts(
    effects: Effects,
    contrasts: Mapping[str, str] | Sequence[str] | None = None,
    *,
    change: str = "",
) -> tuple[GroupContrast, ...]:
    """List every condition against off, every trial type against the others, and what is asked for.

    `contrasts` are expressions over trial types of any task, by label or alone; `change` says of
    what change all is asked, which the pooled test of prompts cannot take.
    """
    questions = [
        GroupContrast(
            label=own.label,
            task=own.task,
            description=f"{own.label} (task {own.task}) against the off prompts.",
            weights=((own, 1.0),),
            against="off" if own.is_trial_type else None,
        )
        for own in effects.conditions
    ]
    simple = [condition for condition in effects.conditions if condition.is_trial_type]
    for own in simple if len(simple) > 1 else ():
        others = -1 / (len(simple) - 1)
        question = GroupContrast(
            label=f"{own.label}{OTHERS}",
            task=own.task,
            description=f"{own.label} against the mean of the other tasks, within participant.",
            weights=tuple((each, 1.0 if each is own else others) for each in simple),
            against="others",
        )
        questions.append(question)
    names = [condition.label for condition in simple]
    usual = {question.label for question in questions}
    for label, expression in named_contrasts(contrasts or [], []).items():
        if label in usual and label != expression:
            raise InferenceError(
                f"contrast {expression!r}: its label {label!r} is that of a contrast that every "
                "group has; give it another one: {label: expression}"
            )
        shared = sorted({name for name in names if names.count(name) > 1})
        if shared:
            raise InferenceError(
                f"contrast {expression!r}: trial type {', '.join(shared)} occurs in several tasks; "
                "expected trial types that belong to one task; choose tasks"
            )
        vector = contrast_vector(expression, pd.DataFrame(columns=names)).tolist()
        asked = tuple((own, weight) for own, weight in zip(simple, vector, strict=True) if weight)
        text = f"{expression}, within participant."
        questions.append(GroupContrast(label=label, task=None, description=text, weights=asked))
    if not change:
        return tuple(questions)
    return tuple(
        replace(question, description=f"{question.description} {change}", against=None)
        for question in questions
    )


def shared_prompts(effects: Effects) -> int:
    """Count the prompts that several participants were shown: 0 where draws are disjoint."""
    people = range(len(effects.participants))
    shown = Counter(chain(*(effects.provenance_of([index]).prompts for index in people)))
    return sum(count > 1 for count in shown.values())


@dataclass(frozen=True, kw_only=True)
class GroupContrastResult:
    """What became of one group contrast: participants, units above each threshold, files."""

    label: str
    task: str | None
    participants: tuple[str, ...]
    left_out: tuple[str, ...]
    n_units: dict[str, int]
    largest_d: float
    files: tuple[Path, ...]
    session: str | None = None


def analyze_contrast(
    inputs: Inputs,
    out_dir: Path,
    effects: Effects,
    question: GroupContrast,
    options: GroupOptions,
    *,
    n_cpus: int,
) -> GroupContrastResult:
    """Test one contrast of the group, and write its maps, thresholds and clusters."""
    columns = [effects.conditions.index(condition) for condition, _ in question.weights]
    asked = effects.take(conditions=columns).complete()
    check_size(len(asked.participants), what=f"contrast {question.label}")
    label, task, space = question.label, question.task, inputs.space
    writer = MapWriter(
        out_dir=out_dir,
        space=space,
        voxels=inputs.voxels,
        names={"ses": inputs.session, "task": task, "space": space.label, "contrast": label},
        metadata=_metadata(question, asked, inputs),
        question=question.description,
    )
    values = np.zeros((len(asked.participants), asked.values.shape[2]))
    for column, (_, weight) in enumerate(question.weights):
        values += weight * asked.values[:, column]
    fit = group_statistics(values)
    above = thresholds(fit.z, alpha=options.alpha)
    files = []
    for stat, (description, units) in _DESCRIPTIONS.items():
        more: dict[str, object] = {"Units": units, "DegreesOfFreedom": len(values) - 1}
        if stat == "z":
            more |= {"Alpha": options.alpha, "TwoSidedThresholds": above}
        files.append(writer.write(getattr(fit, stat), description, more=more, stat=stat))
    files += _write_thresholded(writer, fit.z, options)
    if options.n_perm:
        files += _write_permutation(writer, values, options, n_cpus)
    if options.pooled_n_perm and question.against is not None:
        files += _write_pooled(writer, _pooled(inputs, question, asked, options), options.alpha)
    return GroupContrastResult(
        label=label,
        task=task,
        participants=asked.participants,
        left_out=tuple(who for who in effects.participants if who not in asked.participants),
        n_units={name: int(level["n_units"] or 0) for name, level in above.items()},
        largest_d=float(np.abs(fit.cohensd).max()),
        files=tuple(files),
        session=inputs.session,
    )


def _metadata(contrast: GroupContrast, effects: Effects, inputs: Inputs) -> dict[str, object]:
    """Say what every sidecar of a group contrast says, from the effects that it takes."""
    made_from, n_shared = effects.provenance, shared_prompts(effects)
    warning = caution(effects.options)
    shared = sentence("shared_prompts", count=n_shared, total=len(made_from.prompts))
    return {
        "TaskLabel": contrast.task,
        "ContrastLabel": contrast.label,
        "ContrastWeights": {
            f"{condition.task}:{condition.label}": round(weight, 6)
            for condition, weight in contrast.weights
        },
        "NumberOfParticipants": len(made_from.participants),
        "NumberOfUnits": int(effects.mask.sum()),
        "Generalisation": sentence("generalisation"),
        "UnitOfAnalysis": effects.options.unit_of_analysis,
        "ModelParameters": effects.options.parameters(),
        **({} if warning is None else {"Caution": warning}),
        **({"SharedPromptsCaution": shared} if n_shared else {}),
        **map_entries(inputs.dataset, made_from),
    }


def _pooled(
    inputs: Inputs, question: GroupContrast, effects: Effects, how: GroupOptions
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
    prompts = read_prompts(
        inputs, options, participant_label=effects.participants, task=sorted(trial_types)
    ).prompts
    kinds, tasks = prompts.trial_types, prompts.shown["task"]
    shown_on = kinds == tasks.map(trial_types).to_numpy(dtype=np.str_)
    kept = shown_on | (is_against_off & (kinds == OFF))
    return pooled_test(
        prompts.values[kept],
        (shown_on & (tasks == question.task).to_numpy())[kept],
        (prompts.run_names if is_against_off else prompts.participants)[kept],
        n_perm=how.pooled_n_perm,
        random_state=how.random_state,
    )


def _write_pooled(writer: MapWriter, result: PooledTest, alpha: float) -> list[Path]:
    """Write the maps of the pooled prompt test."""
    threshold = result.threshold(alpha)
    more: dict[str, object] = {
        "Permutations": int(result.max_t.size),
        "DegreesOfFreedom": result.dof,
        "Alpha": alpha,
        "MaxTThreshold": threshold if np.isfinite(threshold) else None,
        "PooledGeneralisation": "Labels permuted within participant: generalises over prompts "
        "for these participants.",
    }
    difference = (
        "Mean of the task's prompts minus mean of those that it stands against, within participant."
    )
    return [
        writer.write(values, description, more=more, stat=stat, desc="pooled")
        for stat, values, description in (
            ("effect", result.effect, difference),
            ("t", result.t, "t over the prompts of all participants."),
            ("cohensd", result.d, "Cohen's d over prompts."),
            ("logp", -np.log10(result.p), "Negative log10 of the two-sided permutation p."),
            ("logpmaxt", -np.log10(result.p_fwe), "Negative log10 of the family-wise p (max t)."),
        )
    ]


def _write_thresholded(
    writer: MapWriter, z: npt.NDArray[np.float64], options: GroupOptions
) -> list[Path]:
    """Write what stays of z (n_units,) above the threshold, and the table of its clusters."""
    control, alpha, affine = options.height_control, options.alpha, writer.space.affine
    grid = grid_of(z.astype(np.float32), writer.voxels, writer.space)
    threshold = height_threshold(z, alpha=alpha, height_control=control)
    kept, table = cluster(grid, affine, threshold, options.cluster_threshold, options.min_distance)
    more: dict[str, object] = {
        "Alpha": alpha,
        "Threshold": threshold if np.isfinite(threshold) else None,
        "ClusterThreshold": options.cluster_threshold,
    }
    description = f"z above the two-sided {control} threshold."
    files = [writer.write(kept, description, more=more, stat="z", desc=control)]
    files.append(writer.path("clusters.tsv", desc=control))
    write_table(files[-1], table)
    height = options.true_discovery_threshold
    if height is not None:
        bound = true_discoveries(
            writer.image(z), mask_img=_mask_img(writer), threshold=height, alpha=alpha
        )
        description = "Lower bound of the share of active units in each cluster (one-sided)."
        more, share = {"ClusterFormingZ": height, "Alpha": alpha}, open_image(bound).volume()
        files.append(writer.write(share, description, more=more, stat="truediscoveries"))
    return files


def _write_permutation(
    writer: MapWriter, effects: npt.NDArray[np.floating[Any]], options: GroupOptions, n_cpus: int
) -> list[Path]:
    """Write the maps of a test of effects (n_participants, n_units) with sign flips."""
    order = np.lexsort(writer.voxels.T[::-1])  # nilearn's, of the mask's voxels
    asked = {name: getattr(options, name) for name in ("n_perm", "two_sided_test", "threshold")}
    maps = permutation_test(
        effects[:, order],
        mask_img=_mask_img(writer),
        **asked,
        tfce=options.tfce,
        n_jobs=n_cpus,
        random_state=options.random_state,
    )
    return [
        writer.write(
            open_image(image).volume(),
            f"Sign-flip permutation, {key} (logp: negative log10 of the family-wise p).",
            # two-sided: a flip and its opposite are the same
            more={**asked, "SmallestP": 2.0 ** (1 - len(effects))},
            stat=key.replace("_", ""),
            desc="permutation",
        )
        for key, image in maps.items()
    ]


def _mask_img(writer: MapWriter) -> nib.Nifti1Image:
    return writer.image(np.ones(len(writer.voxels), dtype=np.uint8))
