"""Per-prompt means and the effect maps of participants and tasks, with their provenance."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import NetworkError
from llm2bids.network.provenance import Provenance

Floats32 = npt.NDArray[np.float32]
Labels = npt.NDArray[np.str_]
Provenances = tuple[tuple[Provenance, ...], ...]

OFF = ""
"""Trial type of the off prompts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptMeans:
    """One map per prompt (the mean of its tokens), and what each prompt was.

    Parameters
    ----------
    values : ndarray of float32, shape (n_prompts, n_units)
        Mean over the prompt's volumes, in standard deviations of the calibration.
    participants : sequence of str, length n_prompts
        Labels without ``sub-``.
    runs : sequence of str, length n_prompts
        Name of the run within the participant, e.g. ``"task-pathology_run-1"``.
    trial_types : sequence of str, length n_prompts
        Label of the task, ``""`` for the off prompts.
    prompt_ids : sequence of str, length n_prompts
        Identifiers of the prompts.

    Raises
    ------
    NetworkError
        If lengths differ or a value is not finite.
    """

    values: Floats32
    participants: Labels
    runs: Labels
    trial_types: Labels
    prompt_ids: Labels

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise NetworkError(
                f"per-prompt means: found an array of shape {self.values.shape}; expected "
                "(n_prompts, n_units)"
            )
        for name in ("participants", "runs", "trial_types", "prompt_ids"):
            labels = np.asarray(getattr(self, name), dtype=np.str_)
            object.__setattr__(self, name, labels)
            if labels.shape != (len(self.values),):
                raise NetworkError(
                    f"per-prompt means: {len(self.values)} maps and {labels.size} {name}; expected "
                    "one for each map"
                )
        sums = self.values.sum(axis=1, dtype=np.float64)
        _refuse_not_finite(
            sums,
            [
                f"prompt {name} of sub-{who}"
                for name, who in zip(self.prompt_ids, self.participants, strict=True)
            ],
        )

    def provenance(self, rows: npt.NDArray[Any] | None = None) -> Provenance:
        """Say which data the maps come from.

        Parameters
        ----------
        rows : ndarray, optional
            Indices or mask of the prompts that are meant; all by default.

        Returns
        -------
        Provenance
            Their participants, runs and prompts.
        """
        chosen = slice(None) if rows is None else rows
        pairs = zip(self.participants[chosen], self.runs[chosen], strict=True)
        return Provenance.of(
            participants=self.participants[chosen],
            runs={f"sub-{participant}_{run}" for participant, run in pairs},
            prompts=self.prompt_ids[chosen],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskEffects:
    """The effect map (on minus off) of every participant in every task.

    Parameters
    ----------
    effects : ndarray of float, shape (n_participants, n_tasks, n_units)
        Effect sizes in one unit for all.
    participants : tuple of str
        Labels without ``sub-``.
    tasks : tuple of str
        Labels of the tasks.
    on, off : tuple of tuple of Provenance
        For each participant and task: where its on prompts and its off prompts come from.

    Raises
    ------
    NetworkError
        If shapes and labels differ, a label is given twice, or a map is not finite or constant.
    """

    effects: npt.NDArray[np.floating[Any]]
    participants: tuple[str, ...]
    tasks: tuple[str, ...]
    on: Provenances
    off: Provenances

    def __post_init__(self) -> None:
        labelled = (len(self.participants), len(self.tasks))
        shapes = [self.effects.shape[:-1]]
        shapes += [(len(rows), *{len(row) for row in rows}) for rows in (self.on, self.off)]
        if any(shape != labelled for shape in shapes):
            raise NetworkError(
                f"effects: shape {self.effects.shape} and provenances of shapes {shapes[1:]}; "
                f"expected {labelled[0]} participants x {labelled[1]} tasks x units"
            )
        for name in ("participants", "tasks"):
            labels = getattr(self, name)
            if len(set(labels)) < len(labels):
                raise NetworkError(
                    f"effects: {name} {', '.join(labels)}: expected each label once; join the maps "
                    "of one label first"
                )
        names = [f"task {task} of sub-{who}" for who in self.participants for task in self.tasks]
        maps = self.effects.reshape(len(names), -1)
        _refuse_not_finite(maps.sum(axis=1, dtype=np.float64), names)
        for name, one in zip(names, maps, strict=True):
            if one.max() == one.min():
                raise NetworkError(
                    f"effect map of {name}: the same value ({one[0]:g}) in all {one.size} units; "
                    "expected values that differ; look at this run"
                )

    @cached_property
    def provenance(self) -> Provenance:
        """All that the maps were made from."""
        return Provenance.union(p for rows in (*self.on, *self.off) for p in rows)

    def provenance_of(self, participants: Sequence[int]) -> Provenance:
        """Say which data the maps of some participants come from.

        Parameters
        ----------
        participants : sequence of int
            Their indices.

        Returns
        -------
        Provenance
            Participants, runs and prompts.
        """
        return Provenance.union(
            p for index in participants for rows in (self.on, self.off) for p in rows[index]
        )

    def take(self, participants: Sequence[int]) -> "TaskEffects":
        """Take some participants.

        Parameters
        ----------
        participants : sequence of int
            Their indices.

        Returns
        -------
        TaskEffects
            Their maps (a copy).
        """
        return TaskEffects(
            effects=self.effects[list(participants)],
            participants=tuple(self.participants[index] for index in participants),
            tasks=self.tasks,
            on=tuple(self.on[index] for index in participants),
            off=tuple(self.off[index] for index in participants),
        )

    def against_others(self) -> "TaskEffects":
        """Contrast each task with the mean of the other tasks, within participant.

        Returns
        -------
        TaskEffects
            Maps that hold what is specific to a task. Note that this alone makes the maps of two
            tasks correlate by -1 / (n_tasks - 1) where they have nothing in common.

        Raises
        ------
        NetworkError
            If there is one task only.
        """
        n_tasks = len(self.tasks)
        if n_tasks < 2:
            raise NetworkError(
                "contrast against the other tasks: found one task, expected two or more"
            )
        mean = self.effects.mean(axis=1, keepdims=True)
        return TaskEffects(
            effects=(self.effects - mean) * self.effects.dtype.type(n_tasks / (n_tasks - 1)),
            participants=self.participants,
            tasks=self.tasks,
            on=self.on,
            off=self.off,
        )


def task_effects(means: PromptMeans, rows: npt.NDArray[np.bool_] | None = None) -> TaskEffects:
    """Subtract the mean of the off prompts from the mean of the on prompts, run by run.

    Parameters
    ----------
    means : PromptMeans
        Maps of the prompts.
    rows : ndarray of bool, shape (n_prompts,), optional
        The prompts to use; all by default.

    Returns
    -------
    TaskEffects
        Participants and tasks in the order of their labels' first appearance. A task shown in
        several runs of a participant has the mean of its runs' differences.

    Raises
    ------
    NetworkError
        If a participant lacks a task, or a run of it lacks on or off prompts.
    """
    weights, participants, tasks = effect_weights(means, rows)
    maps = combine(means.values, weights)
    off = means.trial_types == OFF
    parts = [
        tuple(
            tuple(means.provenance((weights[i, j] != 0) & part) for j in range(len(tasks)))
            for i in range(len(participants))
        )
        for part in (~off, off)
    ]
    return TaskEffects(
        effects=maps, participants=participants, tasks=tasks, on=parts[0], off=parts[1]
    )


def effect_weights(
    means: PromptMeans, rows: npt.NDArray[np.bool_] | None = None
) -> tuple[Floats32, tuple[str, ...], tuple[str, ...]]:
    """Give the weights of the prompts in the effect of every participant and task.

    Parameters
    ----------
    means : PromptMeans
        Maps of the prompts; only their labels are looked at.
    rows : ndarray of bool, shape (n_prompts,), optional
        The prompts to use; all by default.

    Returns
    -------
    weights : ndarray of float32, shape (n_participants, n_tasks, n_prompts)
        Weights, which add up to 0.
    participants : tuple of str
        Labels of the first axis.
    tasks : tuple of str
        Labels of the second axis.

    Raises
    ------
    NetworkError
        As `task_effects`.
    """
    used = np.ones(len(means.values), dtype=bool) if rows is None else rows
    participants = tuple(dict.fromkeys(means.participants.tolist()))
    tasks = tuple(name for name in dict.fromkeys(means.trial_types.tolist()) if name != OFF)
    weights = np.zeros((len(participants), len(tasks), used.size), dtype=np.float32)
    for i, participant in enumerate(participants):
        mine = used & (means.participants == participant)
        for j, task in enumerate(tasks):
            on = mine & (means.trial_types == task)
            runs = dict.fromkeys(means.runs[on].tolist())
            if not runs:
                raise NetworkError(
                    f"effects: sub-{participant} has no prompt of task {task}; expected every "
                    "participant in every task; leave the participant or the task out"
                )
            for run in runs:
                chosen = on & (means.runs == run)
                off = mine & (means.runs == run) & (means.trial_types == OFF)
                if not off.any():
                    raise NetworkError(
                        f"effects: sub-{participant} {run} has no off prompt beside task {task}; "
                        "expected both; leave the run out"
                    )
                weights[i, j, chosen] += 1 / (chosen.sum() * len(runs))
                weights[i, j, off] -= 1 / (off.sum() * len(runs))
    return weights, participants, tasks


def combine(values: Floats32, weights: Floats32) -> Floats32:
    """Sum maps with weights, of which most are 0.

    Parameters
    ----------
    values : ndarray of float32, shape (n_maps, n_units)
        The maps.
    weights : ndarray of float32, shape (..., n_maps)
        Weights of each sum.

    Returns
    -------
    ndarray of float32, shape (..., n_units)
        The sums.
    """
    sums = np.empty((*weights.shape[:-1], values.shape[1]), dtype=np.float32)
    for index in np.ndindex(weights.shape[:-1]):
        chosen = np.flatnonzero(weights[index])
        sums[index] = weights[index][chosen] @ values[chosen]
    return sums


def _refuse_not_finite(sums: npt.NDArray[np.float64], names: Sequence[str]) -> None:
    bad = [name for name, fine in zip(names, np.isfinite(sums), strict=True) if not fine]
    if bad:
        raise NetworkError(
            f"{bad[0]}{f' and {len(bad) - 1} more' if len(bad) > 1 else ''}: values that are NaN "
            "or infinite; expected finite values in all units; mask these units or leave the run "
            "out"
        )
