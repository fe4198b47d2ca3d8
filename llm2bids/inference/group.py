"""Group: the questions to a group, and each participant's answer from the effects."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import InferenceError
from llm2bids.inference.design import contrast_vector, named_contrasts
from llm2bids.inference.effects import Condition, Effects

OTHERS = "VsOthers"
"""End of the label of a contrast against the other tasks."""


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
    simple = [condition for condition in effects.conditions if condition.is_trial_type]
    questions = [
        GroupContrast(
            label=condition.label,
            task=condition.task,
            description=f"{condition.label} (task {condition.task}) against the off prompts.",
            weights=((condition, 1.0),),
            against="off" if condition.is_trial_type else None,
        )
        for condition in effects.conditions
    ]
    if len(simple) > 1:
        questions += [_versus_others(simple, index) for index in range(len(simple))]
    names = [condition.label for condition in simple]
    for label, expression in named_contrasts(contrasts or [], []).items():
        shared = sorted({name for name in names if names.count(name) > 1})
        if shared:
            raise InferenceError(
                f"contrast {expression!r}: trial type {', '.join(shared)} occurs in several tasks; "
                "expected trial types that belong to one task; choose tasks"
            )
        vector = contrast_vector(expression, pd.DataFrame(columns=names))
        weights = zip(simple, vector.tolist(), strict=True)
        questions.append(
            GroupContrast(
                label=label,
                task=None,
                description=f"{expression}, within participant.",
                weights=tuple((condition, weight) for condition, weight in weights if weight),
            )
        )
    if change:
        return tuple(
            replace(question, description=f"{question.description} {change}", against=None)
            for question in questions
        )
    return tuple(questions)


def asked_effects(effects: Effects, question: GroupContrast) -> Effects:
    """Take the conditions of a question, and the participants who have all of them."""
    columns = [effects.conditions.index(condition) for condition, _ in question.weights]
    return effects.take(conditions=columns).complete()


def contrast_values(effects: Effects, question: GroupContrast) -> npt.NDArray[np.float64]:
    """Compute a question's contrast of every participant, shape (n_participants, n_units)."""
    values = np.zeros((len(effects.participants), effects.values.shape[2]))
    for column, (_, weight) in enumerate(question.weights):
        values += weight * effects.values[:, column]
    return values


def shared_prompts(effects: Effects) -> int:
    """Count the prompts that several participants were shown: 0 where draws are disjoint."""
    shown = Counter(
        prompt
        for index in range(len(effects.participants))
        for prompt in effects.provenance_of([index]).prompts
    )
    return sum(count > 1 for count in shown.values())


def _versus_others(simple: Sequence[Condition], index: int) -> GroupContrast:
    others = -1 / (len(simple) - 1)
    return GroupContrast(
        label=f"{simple[index].label}{OTHERS}",
        task=simple[index].task,
        description=f"{simple[index].label} against the mean of the other tasks, within "
        "participant.",
        weights=tuple(
            (condition, 1.0 if position == index else others)
            for position, condition in enumerate(simple)
        ),
        against="others",
    )
