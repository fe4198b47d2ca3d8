"""The runs of a human BIDS dataset: their clock, and the words that people saw or heard."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib

from llm2bids.exceptions import RecordingError, UsageError, first_line


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
    layout, wanted = _query(root, [task], participant_labels)
    images = layout.get(suffix="bold", extension=[".nii.gz", ".nii"], **wanted)
    if not images:
        raise RecordingError(f"{root}: no series (_bold.nii.gz) of task {task}")
    return tuple(_run(layout, image) for image in images)


def event_files(
    root: Path, tasks: Sequence[str], participant_labels: Sequence[str]
) -> dict[Path, dict[str, Any]]:
    """List the events of a dataset, each with the label, participant_label and run of its story."""
    layout, wanted = _query(root, tasks, participant_labels)
    files = layout.get(suffix="events", extension=".tsv", **wanted)
    if not files:
        raise RecordingError(f"{root}: no events (_events.tsv) in it; expected words with onsets")
    runs: dict[Path, dict[str, Any]] = {}
    for file in files:
        entities = file.get_entities()
        run = {
            "participant_label": str(entities.get("subject", "01")),
            "label": str(entities["task"]),
            "run": int(entities["run"]) if "run" in entities else None,
        }
        if run in runs.values():
            raise RecordingError(
                f"{root}: sub-{run['participant_label']} has task {run['label']} in several "
                "sessions; give one session's events as a folder of its own"
            )
        runs[Path(file.path)] = run
    return runs


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


def _query(
    root: Path, tasks: Sequence[str], participant_labels: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
    """Index a dataset, and make the filter of its files; what it does not have is refused."""
    layout = _layout(root)
    labels = [label.removeprefix("sub-") for label in participant_labels]
    known, people = layout.get_tasks(), layout.get_subjects()
    if unknown := [task for task in tasks if task not in known]:
        raise UsageError(f"--task {unknown[0]}: {root} has the tasks {', '.join(known) or 'none'}")
    if unknown := [label for label in labels if label not in people]:
        raise UsageError(
            f"--participant-label {', '.join(unknown)}: {root} has {', '.join(people) or 'none'}"
        )
    wanted = {"task": list(tasks), "subject": labels}
    return layout, {entity: values for entity, values in wanted.items() if values}


@cache
def _layout(root: Path) -> Any:
    from bids import BIDSLayout

    if not (root / "dataset_description.json").is_file():
        raise UsageError(f"{root}: expected a BIDS dataset (no dataset_description.json)")
    return BIDSLayout(root, validate=False, derivatives=False)


def _run(layout: Any, image: Any) -> HumanRun:
    path = Path(image.path)
    metadata = image.get_metadata()
    try:
        shape = nib.load(path).shape
    except Exception as error:  # an empty placeholder, a pointer to data elsewhere
        raise RecordingError(
            f"{path}: not a readable image ({first_line(error)}); expected the series, "
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
