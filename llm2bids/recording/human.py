"""The runs of a human BIDS dataset: their clock, and the words that people saw or heard."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib

from llm2bids.exceptions import RecordingError, UsageError


@dataclass(frozen=True, kw_only=True)
class HumanRun:
    """The clock of one run of a person."""

    name: str
    participant_label: str
    run: int | None
    t_r: float
    n_volumes: int
    start_time: float  # from the onset of a volume to the time that it stands for, seconds
    events: Path | None


def human_runs(
    root: Path, task: str, *, participant_labels: Sequence[str] = ()
) -> tuple[HumanRun, ...]:
    """List the runs of a task."""
    layout = _layout(root)
    tasks = layout.get_tasks()
    if task not in tasks:
        raise UsageError(f"--task {task}: {root} has the tasks {', '.join(tasks) or 'none'}")
    wanted: dict[str, Any] = {"suffix": "bold", "extension": [".nii.gz", ".nii"], "task": task}
    images = layout.get(**wanted, **_subjects(layout, root, participant_labels))
    if not images:
        raise RecordingError(f"{root}: no series (_bold.nii.gz) of task {task}")
    return tuple(_run(layout, image) for image in images)


def event_files(
    root: Path, tasks: Sequence[str], participant_labels: Sequence[str]
) -> list[tuple[Path, dict[str, str]]]:
    """List the events of a dataset with the entities of their names."""
    layout = _layout(root)
    known = layout.get_tasks()
    if unknown := [task for task in tasks if task not in known]:
        raise UsageError(f"--task {unknown[0]}: {root} has the tasks {', '.join(known) or 'none'}")
    chosen: dict[str, Any] = {"task": list(tasks)} if tasks else {}
    chosen |= _subjects(layout, root, participant_labels)
    files = layout.get(suffix="events", extension=".tsv", **chosen)
    if not files:
        raise RecordingError(f"{root}: no events (_events.tsv) in it; expected words with onsets")
    listed = [
        (Path(file.path), {name: str(value) for name, value in file.get_entities().items()})
        for file in files
    ]
    runs = [tuple(e.get(key) for key in ("subject", "task", "run")) for _, e in listed]
    if len(set(runs)) < len(runs):
        twice = next(run for run in runs if runs.count(run) > 1)
        raise RecordingError(
            f"{root}: sub-{twice[0]} has task {twice[1]} in several sessions; give one session's "
            "events as a folder of its own"
        )
    return listed


def one_clock(runs: Sequence[HumanRun], root: Path, task: str) -> HumanRun:
    """Take the clock that all runs share, or say where they differ."""
    clocks = {(run.t_r, run.n_volumes, run.start_time): run for run in runs}
    if len(clocks) > 1:
        differing = "; ".join(
            f"{run.name}: {run.n_volumes} volumes of {run.t_r:g} s" for run in clocks.values()
        )
        raise RecordingError(
            f"{root}, task {task}: its runs are not of one clock ({differing}); name the "
            "participants to read for (--participant-label), each of whom gets runs of their own, "
            "and give each run its own stimuli (task-NAME_run-N_...)"
        )
    return runs[0]


@cache
def _layout(root: Path) -> Any:
    from bids import BIDSLayout

    if not (root / "dataset_description.json").is_file():
        raise UsageError(f"{root}: expected a BIDS dataset (no dataset_description.json)")
    return BIDSLayout(root, validate=False, derivatives=False)


def _subjects(layout: Any, root: Path, participant_labels: Sequence[str]) -> dict[str, Any]:
    labels = [label.removeprefix("sub-") for label in participant_labels]
    known = layout.get_subjects()
    if unknown := [label for label in labels if label not in known]:
        raise UsageError(
            f"--participant-label {', '.join(unknown)}: {root} has {', '.join(known) or 'none'}"
        )
    return {"subject": labels} if labels else {}


def _run(layout: Any, image: Any) -> HumanRun:
    path = Path(image.path)
    metadata = image.get_metadata()
    try:
        shape = nib.load(path).shape
    except Exception as error:  # an empty placeholder, a pointer to data elsewhere
        raise RecordingError(
            f"{path}: not a readable image ({str(error).splitlines()[0]}); expected the series, "
            "whose header says its number of volumes: fetch it (datalad get)"
        ) from None
    t_r = metadata.get("RepetitionTime")
    if len(shape) != 4 or isinstance(t_r, bool) or not isinstance(t_r, int | float) or not t_r > 0:
        raise RecordingError(
            f"{path}: shape {shape}, RepetitionTime {t_r}; expected a series of volumes, and "
            "seconds in its sidecar"
        )
    events = layout.get_nearest(
        path, suffix="events", extension=".tsv", strict=False, full_search=False
    )
    entities = image.get_entities()
    return HumanRun(
        name=path.name,
        participant_label=str(entities["subject"]),
        run=int(entities["run"]) if "run" in entities else None,
        t_r=float(t_r),
        n_volumes=int(shape[3]),
        start_time=float(metadata.get("StartTime", t_r / 2)),
        events=Path(events) if events else None,
    )
