"""Group: the participants' effect maps, the contrasts between them, and their tests."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import InferenceError
from llm2bids.inference.contrast import contrast_vector, named_contrasts
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.second_level import against_others
from llm2bids.inference.statmap import map_path, read_json, read_map, sidecar_of
from llm2bids.space.grid import open_image
from llm2bids.space.space import Space

Condition = tuple[str, str]
"""Task label and contrast label."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EffectMaps:
    """Effect maps of the participants, as the participant level wrote them.

    Parameters
    ----------
    paths : dict of (str, str) to dict of str to Path
        By condition, then by participant label.
    provenance : dict of (str, str) to dict of str to Provenance
        Likewise.
    simple : tuple of (str, str)
        Conditions that are one trial type against the off prompts.
    mask : ndarray of bool, shape (n_x, n_y, n_z)
        Units that every participant has.
    model : dict
        ``UnitOfAnalysis``, ``ModelParameters`` and ``Caution`` of the participant level.
    """

    paths: dict[Condition, dict[str, Path]]
    provenance: dict[Condition, dict[str, Provenance]]
    simple: tuple[Condition, ...]
    mask: npt.NDArray[np.bool_]
    space: Space
    model: dict[str, object]

    def values(self, condition: Condition, participant_label: str) -> npt.NDArray[np.float32]:
        """Read one effect map.

        Parameters
        ----------
        condition : tuple of (str, str)
            Task and contrast label.
        participant_label : str
            The participant.

        Returns
        -------
        ndarray of float32, shape (n_voxels,)
            In nilearn's order of the mask.
        """
        return read_map(self.paths[condition][participant_label], self.mask, self.space)


@dataclass(frozen=True, kw_only=True)
class GroupContrast:
    """One question to the group.

    Parameters
    ----------
    label : str
        BIDS label.
    task : str or None
        Task, None for a contrast between tasks.
    description : str
        One sentence.
    weights : tuple of ((str, str), float)
        Conditions and their weights, within participant.
    against : {"off", "others"}, optional
        What one trial type stands against, where the pooled test can take it: the off prompts of
        its runs, or the prompts of the other tasks.
    """

    label: str
    task: str | None
    description: str
    weights: tuple[tuple[Condition, float], ...]
    against: Literal["off", "others"] | None = None


def collect_effects(
    out_dir: Path,
    space: Space,
    *,
    participant_label: Sequence[str] | None = None,
    task: Sequence[str] | None = None,
) -> EffectMaps:
    """Find the effect maps that the participant level wrote.

    Parameters
    ----------
    out_dir : Path
        Output folder of the participant level.
    space : Space
        The space; units that a participant lacks are taken out.
    participant_label, task : sequence of str, optional
        Only these.

    Returns
    -------
    EffectMaps
        Maps of one space and one model.

    Raises
    ------
    InferenceError
        If there are none, or they mix spaces or models, or one cannot be read.
    """
    paths: dict[Condition, dict[str, Path]] = {}
    provenance: dict[Condition, dict[str, Provenance]] = {}
    simple: dict[Condition, None] = {}
    model: dict[str, object] | None = None
    masks: dict[Path, None] = {}
    for image in sorted(out_dir.glob("sub-*/func/*_stat-effect_statmap.nii.gz")):
        sidecar = read_json(sidecar_of(image))
        made_from = Provenance.read(sidecar, sidecar_of(image))
        label = made_from.participants[0]
        condition = (_key(sidecar, "TaskLabel", image), _key(sidecar, "ContrastLabel", image))
        if participant_label is not None and label not in participant_label:
            continue
        if task is not None and condition[0] not in task:
            continue
        model = _same_model(model, sidecar, image)
        paths.setdefault(condition, {})[label] = image
        provenance.setdefault(condition, {})[label] = made_from
        if sidecar.get("Contrast") == condition[1]:
            simple[condition] = None
        names = {"sub": label, "task": condition[0], "space": made_from.space}
        masks[out_dir / map_path("mask.nii.gz", **names, desc="brain")] = None
    if model is None:
        raise InferenceError(
            f"{out_dir}: no effect map of the participants and tasks asked for; expected "
            "sub-*/func/*_stat-effect_statmap.nii.gz; run the participant level first"
        )
    Provenance.union(*(one for found in provenance.values() for one in found.values()))
    return EffectMaps(
        paths=paths,
        provenance=provenance,
        simple=tuple(simple),
        mask=reduce(np.logical_and, (_grid(path, space) for path in masks)),
        space=space,
        model=model,
    )


def group_contrasts(
    effects: EffectMaps, contrasts: Mapping[str, str] | Sequence[str] | None = None
) -> tuple[GroupContrast, ...]:
    """List the questions to a group.

    Every condition against the off prompts; every trial type against the mean of the others; and
    the expressions that are asked for, over trial types of any task, within participant.

    Parameters
    ----------
    effects : EffectMaps
        What the participant level gave.
    contrasts : mapping of str to str, or sequence of str, optional
        Expressions, e.g. ``"paleontology - archeology"``, by label or alone.

    Returns
    -------
    tuple of GroupContrast
        In this order.

    Raises
    ------
    InferenceError
        If an expression names a trial type that does not exist, or one that several tasks share.
    """
    found = [
        GroupContrast(
            label=label,
            task=task,
            description=f"{label} (task {task}) against the off prompts.",
            weights=(((task, label), 1.0),),
            against="off" if (task, label) in effects.simple else None,
        )
        for task, label in effects.paths
    ]
    if len(effects.simple) > 1:
        found += [_versus_others(effects.simple, index) for index in range(len(effects.simple))]
    names = [label for _, label in effects.simple]
    for label, expression in named_contrasts(contrasts or [], []).items():
        shared = sorted({name for name in names if names.count(name) > 1})
        if shared:
            raise InferenceError(
                f"contrast {expression!r}: trial type {', '.join(shared)} occurs in several tasks; "
                "expected trial types that belong to one task; choose tasks"
            )
        vector = contrast_vector(expression, pd.DataFrame(columns=names))
        weights = zip(effects.simple, vector.tolist(), strict=True)
        found.append(
            GroupContrast(
                label=label,
                task=None,
                description=f"{expression}, within participant.",
                weights=tuple((condition, weight) for condition, weight in weights if weight),
            )
        )
    return tuple(found)


def contrast_participants(
    effects: EffectMaps, contrast: GroupContrast
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the participants into those who have every condition of a contrast, and the others.

    Parameters
    ----------
    effects : EffectMaps
        The maps.
    contrast : GroupContrast
        The question.

    Returns
    -------
    tuple of (tuple of str, tuple of str)
        Labels that take part, labels that are left out.
    """
    everyone = sorted({label for found in effects.paths.values() for label in found})
    needed = [set(effects.paths[condition]) for condition, _ in contrast.weights]
    complete = set.intersection(*needed)
    return (
        tuple(label for label in everyone if label in complete),
        tuple(label for label in everyone if label not in complete),
    )


def contrast_effects(
    effects: EffectMaps, contrast: GroupContrast, participants: Sequence[str]
) -> tuple[npt.NDArray[np.float64], Provenance]:
    """Compute a contrast of every participant.

    Parameters
    ----------
    effects : EffectMaps
        The maps.
    contrast : GroupContrast
        The question.
    participants : sequence of str
        Labels that have every condition.

    Returns
    -------
    tuple of (ndarray of float64, shape (n_participants, n_voxels), Provenance)
        Effects in calibration sd, and what they were made from.
    """
    values = np.zeros((len(participants), int(effects.mask.sum())))
    made_from = []
    for row, label in enumerate(participants):
        for condition, weight in contrast.weights:
            values[row] += weight * effects.values(condition, label)
            made_from.append(effects.provenance[condition][label])
    return values, Provenance.union(*made_from)


def shared_prompts(
    effects: EffectMaps, contrast: GroupContrast, participants: Sequence[str]
) -> int:
    """Count the prompts that several participants of a contrast were shown.

    Parameters
    ----------
    effects : EffectMaps
        The maps.
    contrast : GroupContrast
        The question.
    participants : sequence of str
        Labels that take part.

    Returns
    -------
    int
        0 where participants drew disjoint prompts, as they should.
    """
    shown: Counter[str] = Counter()
    for label in participants:
        found = (effects.provenance[condition][label] for condition, _ in contrast.weights)
        shown.update({prompt for one in found for prompt in one.prompts})
    return sum(count > 1 for count in shown.values())


def _versus_others(simple: Sequence[Condition], index: int) -> GroupContrast:
    task, label = simple[index]
    weights = against_others(np.eye(len(simple)), index)
    return GroupContrast(
        label=f"{label}VsOthers",
        task=task,
        description=f"{label} against the mean of the other tasks, within participant.",
        weights=tuple(zip(simple, weights.tolist(), strict=True)),
        against="others",
    )


def _key(sidecar: Mapping[str, Any], key: str, path: Path) -> str:
    if key not in sidecar:
        raise InferenceError(f"{sidecar_of(path)}: no key {key!r}; run the participant level again")
    return str(sidecar[key])


def _same_model(
    model: dict[str, object] | None, sidecar: Mapping[str, Any], path: Path
) -> dict[str, object]:
    keys = ("UnitOfAnalysis", "ModelParameters", "Caution")
    found = {key: sidecar[key] for key in keys if key in sidecar}
    if model is not None and model != found:
        raise InferenceError(
            f"{path}: first-level model {found}, the other participants have {model}; expected one "
            "model for the group; run the participant level again into an empty folder"
        )
    return found


def _grid(path: Path, space: Space) -> npt.NDArray[np.bool_]:
    image = open_image(path, space, remedy="run the participant level again")
    return np.asarray(image.volume() > 0) & space.grey
