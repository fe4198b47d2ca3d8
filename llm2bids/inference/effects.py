"""Effects: what the participant level found, participants x tasks x units, with its model.

Everything after the participant level takes its numbers from here: group maps, networks, overlap,
repeatability, identification and controls.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.layout import sidecar
from llm2bids.exceptions import InferenceError
from llm2bids.inference.inputs import Inputs
from llm2bids.inference.options import AnalysisOptions
from llm2bids.inference.participant import task_provenance
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.runs import fit_task
from llm2bids.inference.statmap import map_path, read_map
from llm2bids.store.checksums import is_edited, list_file, read_list
from llm2bids.store.files import data_files
from llm2bids.store.json import read_json

log = logging.getLogger(__name__)

Floats32 = npt.NDArray[np.float32]

# A map, the model that made it, and the units of its space that it has.
_Modelled = tuple[Path, AnalysisOptions, npt.NDArray[np.bool_]]

_AGAIN = "run the participant level again"


@dataclass(frozen=True, kw_only=True, order=True)
class Condition:
    """A contrast of one task's runs: its BIDS label, and its expression over trial types."""

    task: str
    label: str
    expression: str

    @property
    def is_trial_type(self) -> bool:
        """Whether it is one trial type against the off prompts."""
        return self.label == self.expression


@dataclass(frozen=True, kw_only=True, eq=False)
class Effects:
    """The effect map of every participant in every condition, and the model that made it.

    `values`: float32, shape (n_participants, n_conditions, n_units), the units inside `mask` in
    recording order, in standard deviations of the calibration; NaN where a participant lacks a
    condition, whose `made_from` (shape (n_participants, n_conditions)) is then empty.
    `mask`: bool, over all units of the space in recording order.
    """

    values: Floats32
    participants: tuple[str, ...]
    conditions: tuple[Condition, ...]
    made_from: npt.NDArray[Any]  # of `Provenance`
    mask: npt.NDArray[np.bool_]
    options: AnalysisOptions

    def __post_init__(self) -> None:
        for who, row, made in zip(self.participants, self.values, self.made_from, strict=True):
            for condition, values, there in zip(self.conditions, row, made, strict=True):
                if there:
                    _check_map(values, f"task {condition.label} of sub-{who}")

    @property
    def tasks(self) -> tuple[str, ...]:
        """A name for each condition."""
        return condition_names(self.conditions)

    @property
    def has(self) -> npt.NDArray[np.bool_]:
        """Which participants have which conditions, shape (n_participants, n_conditions)."""
        return self.made_from.astype(np.bool_)

    @cached_property
    def provenance(self) -> Provenance:
        """All that the maps were made from."""
        return Provenance.union(self.made_from.flat)

    def provenance_of(self, participants: Sequence[int]) -> Provenance:
        """Say which data the maps of some participants come from."""
        return Provenance.union(self.made_from[list(participants)].flat)

    def take(
        self, participants: Sequence[int] | None = None, conditions: Sequence[int] | None = None
    ) -> "Effects":
        """Take some participants and conditions, by index."""
        rows = range(len(self.participants)) if participants is None else participants
        columns = range(len(self.conditions)) if conditions is None else conditions
        return replace(
            self,
            values=self.values[np.ix_(rows, columns)],
            participants=tuple(self.participants[row] for row in rows),
            conditions=tuple(self.conditions[column] for column in columns),
            made_from=self.made_from[np.ix_(rows, columns)],
        )

    def complete(self) -> "Effects":
        """Take the participants who have every condition."""
        return self.take(np.flatnonzero(self.has.all(axis=1)).tolist())

    def against_others(self) -> "Effects":
        """Contrast each task with the mean of the other tasks, within participant."""
        n_tasks = len(self.conditions)
        if n_tasks < 2:
            raise InferenceError(
                "contrast against the other tasks: found one task, expected two or more"
            )
        mean = self.values.mean(axis=1, keepdims=True)
        factor = np.float32(n_tasks / (n_tasks - 1))
        made_from = np.array([[Provenance.union(row)] * n_tasks for row in self.made_from])
        return replace(self, values=(self.values - mean) * factor, made_from=made_from)


def effects_difference(edited: Effects, intact: Effects, session: str) -> Effects:
    """Subtract the intact model's effects from an edited one's, within participant."""
    participants = [who for who in intact.participants if who in edited.participants]
    conditions = [known for known in intact.conditions if known in edited.conditions]
    if not np.array_equal(edited.mask, intact.mask) or edited.options != intact.options:
        raise InferenceError(
            f"ses-{session}: analysed over other units or by another model than the intact one; "
            "run the participant level again for both"
        )
    first, second = (
        effects.take(
            list(map(effects.participants.index, participants)),
            list(map(effects.conditions.index, conditions)),
        )
        for effects in (edited, intact)
    )
    made_from = first.made_from | second.made_from
    made_from[~(first.has & second.has)] = Provenance()
    return replace(first, values=first.values - second.values, made_from=made_from)


def condition_names(conditions: Sequence[Condition]) -> tuple[str, ...]:
    """Name conditions by their labels, after the task where several tasks have the label."""
    shared = Counter(condition.label for condition in conditions)
    return tuple(
        condition.label
        if shared[condition.label] == 1
        else f"{condition.task}{condition.label.capitalize()}"
        for condition in conditions
    )


def read_effects(
    inputs: Inputs,
    out_dir: Path,
    *,
    participant_label: Sequence[str] | None = None,
    task: Sequence[str] | None = None,
) -> Effects:
    """Read the effect maps that the participant level wrote: one space, one mask, one model."""
    maps: dict[tuple[str, Condition], tuple[Path, Provenance]] = {}
    first: _Modelled | None = None
    session = "" if inputs.session is None else f"ses-{inputs.session}/"
    for path in data_files(out_dir, f"sub-*/{session}func/*_stat-effect_statmap.nii.gz"):
        metadata = read_json(sidecar(path), remedy=_AGAIN)
        made_from = Provenance.read(metadata, sidecar(path))
        condition = _condition(metadata, path)
        label = next(iter(made_from.participants), "")
        if not path.name.startswith(f"sub-{label}_"):
            raise InferenceError(
                f"{sidecar(path)}: of participant {label!r}, its name says another; {_AGAIN}"
            )
        if participant_label is not None and label not in participant_label:
            continue
        if task is not None and condition.task not in task:
            continue
        _check_space(metadata, inputs, path)
        names = {"sub": label, "ses": inputs.session, "task": condition.task}
        mask = map_path("mask.nii.gz", **names, space=inputs.space.label, desc="brain")
        inside = read_map(out_dir / mask, inputs.space) > 0
        modelled = (path, AnalysisOptions.read(metadata, sidecar(path)), inside)
        first = first or modelled
        _check_model(modelled, first)
        maps[label, condition] = (path, made_from)
    if first is None:
        raise InferenceError(
            f"{out_dir}: no effect map of the participants and tasks asked for; expected "
            f"sub-*/{session}func/*_stat-effect_statmap.nii.gz; run the participant level first"
        )
    _, options, inside = first
    paths = [path for path, _ in maps.values()]
    _tell_changed(out_dir, [*paths, *map(sidecar, paths)])
    effects = {
        key: (read_map(path, inputs.space)[inside], made_from)
        for key, (path, made_from) in maps.items()
    }
    return _stacked(effects, mask=inside, options=options)


def _tell_changed(out_dir: Path, files: Sequence[Path]) -> None:
    """Name files that are not as the participant level wrote them: other tools may store them."""
    names = {path: PurePosixPath(path.relative_to(out_dir).as_posix()) for path in files}
    lists = {path: read_list(out_dir / path) for path in set(map(list_file, names.values()))}
    changed = [
        path for path, name in names.items() if is_edited(out_dir, name, lists[list_file(name)])
    ]
    if changed:
        log.warning(
            "%s%s: changed after llm2bids wrote it, and taken as it is; if that was not meant, "
            "run the participant level again",
            changed[0],
            f" and {len(changed) - 1} others" if len(changed) > 1 else "",
        )


def fit_effects(
    inputs: Inputs,
    options: AnalysisOptions,
    *,
    task: Sequence[str] | None = None,
    mem_gb: float | None = 1.0,
    work_dir: Path | None = None,
) -> Effects:
    """Fit the participant level of a dataset without writing its maps."""
    maps = {}
    for (label, name), there in inputs.choose(task=task).items():
        if not there:
            continue
        runs = [inputs.load(run) for run in there]
        model = fit_task(runs, options, mem_gb=mem_gb, work_dir=work_dir)
        for contrast, expression in model.contrasts.items():
            condition = Condition(task=name, label=contrast, expression=expression)
            maps[label, condition] = (model.fit.maps[contrast, "effect"], task_provenance(runs))
    return _stacked(maps, mask=inputs.units, options=options)


def _stacked(
    maps: dict[tuple[str, Condition], tuple[Floats32, Provenance]],
    *,
    mask: npt.NDArray[np.bool_],
    options: AnalysisOptions,
) -> Effects:
    """Put single maps, each (n_units,), into one array."""
    participants = tuple(sorted({label for label, _ in maps}))
    conditions = tuple(dict.fromkeys(condition for _, condition in maps))
    shape = (len(participants), len(conditions), int(mask.sum()))
    values = np.full(shape, np.nan, dtype=np.float32)
    made_from = np.full(shape[:2], Provenance())
    for (label, condition), (effect, made) in maps.items():
        row, column = participants.index(label), conditions.index(condition)
        values[row, column] = effect
        made_from[row, column] = made
    return Effects(
        values=values,
        participants=participants,
        conditions=conditions,
        made_from=made_from,
        mask=mask,
        options=options,
    )


def _check_map(values: Floats32, name: str) -> None:
    """Refuse a map that is not finite, or the same everywhere."""
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise InferenceError(
            f"effect map of {name}: values that are NaN or infinite; expected finite values in all "
            "units; mask these units or leave the run out"
        )
    if values.max() == values.min():
        raise InferenceError(
            f"effect map of {name}: the same value ({values[0]:g}) in all {values.size} units; "
            "expected values that differ; look at this run"
        )


def _condition(metadata: dict[str, object], path: Path) -> Condition:
    try:
        names = ("TaskLabel", "ContrastLabel", "Contrast")
        task, label, expression = (str(metadata[name]) for name in names)
    except KeyError as error:
        raise InferenceError(f"{sidecar(path)}: no key {error.args[0]}; {_AGAIN}") from None
    return Condition(task=task, label=label, expression=expression)


def _check_space(metadata: dict[str, object], inputs: Inputs, path: Path) -> None:
    fingerprint, expected = str(metadata.get("SpaceFingerprint")), inputs.dataset.fingerprint
    if fingerprint != expected:
        raise InferenceError(
            f"mixed spaces: {path} is of {metadata.get('SpaceLabel')} ({fingerprint[:12]}), "
            f"{inputs.bids_dir} has {inputs.space.label} ({expected[:12]}); expected one "
            "model, choice of sites and calibration; give the dataset that the maps were made from"
        )


def _check_model(modelled: _Modelled, first: _Modelled) -> None:
    """Refuse participants or tasks that were analysed in different ways."""
    path, options, mask = modelled
    expected_path, expected, expected_mask = first
    again = f"expected one model for the group; {_AGAIN} into an empty folder"
    if options != expected:
        raise InferenceError(
            f"{path}: first-level model: {options.describe()}; {expected_path.name} has: "
            f"{expected.describe()}; {again}"
        )
    if not np.array_equal(mask, expected_mask):
        raise InferenceError(
            f"{path}: first-level model over {int(mask.sum()):,} units, {expected_path.name} over "
            f"{int(expected_mask.sum()):,} or others (--mask); {again}"
        )
