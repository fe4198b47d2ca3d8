"""What the statistics take from a recorded dataset."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.bids_filter import filtered_runs, read_bids_filter
from llm2bids.dataset.layout import Run
from llm2bids.dataset.read import RECORD_AGAIN, Dataset, open_dataset
from llm2bids.exceptions import InferenceError, UsageError
from llm2bids.inference.design import same_conditions, volume_rows
from llm2bids.inference.options import ParticipantSelection, Source
from llm2bids.inference.runs import RunData
from llm2bids.space.grid import open_image
from llm2bids.space.header import fingerprint_differs
from llm2bids.space.space import Space

_EVERYTHING = ParticipantSelection()


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Runs of a dataset, and the units to model: bool (n_units,) in recording order.

    `participants` are all, also those without a run; `use` is the table that is right where a run's
    events and transcript differ; `session` is that of the runs, None where the dataset has none.
    """

    dataset: Dataset
    units: npt.NDArray[np.bool_]
    runs: tuple[Run, ...]
    participants: tuple[str, ...]
    use: Source | None = None
    session: str | None = None

    @property
    def bids_dir(self) -> Path:
        """The raw dataset."""
        return self.dataset.path

    @property
    def space(self) -> Space:
        """The space of all runs."""
        return self.dataset.space

    @cached_property
    def voxels(self) -> npt.NDArray[np.int32]:
        """Voxel of each unit that is modelled, (n_units, 3)."""
        return self.space.voxels[self.units]

    def within(
        self,
        units: npt.NDArray[np.bool_],
        use: Source | None = None,
        *,
        run_names: Collection[str] | None = None,
    ) -> "Inputs":
        """Model only some units of the space, bool of shape (n_units,), and some runs."""
        runs = tuple(run for run in self.runs if run_names is None or run.name in run_names)
        return replace(self, units=units, use=use, runs=runs)

    def load(self, run: Run) -> RunData:
        """Open a run."""
        series = open_image(run.preproc, self.space, remedy=RECORD_AGAIN)
        other = fingerprint_differs(series.header, self.dataset.fingerprint)
        if other is not None:
            raise InferenceError(
                f"{run.preproc}: mixed spaces: the image has the fingerprint {other}, the dataset "
                f"{self.dataset.fingerprint[:16]}; record the run again"
            )
        t_r = self.dataset.t_r(run)
        rows = volume_rows(self.dataset.transcript(run), series.n_volumes)
        events, name = self.dataset.events(run), str(run.events)
        rows, events = same_conditions(rows, events, t_r=t_r, use=self.use, name=name)
        return RunData(
            run=run,
            series=series,
            voxels=self.voxels,
            t_r=t_r,
            rows=rows,
            events=events,
            counts_per_sd=self.dataset.calibration.counts_per_sd,
            confounds=self.dataset.confounds(run) if run.confounds.exists() else None,
        )

    def choose(
        self, *, participant_label: Sequence[str] | None = None, task: Sequence[str] | None = None
    ) -> dict[tuple[str, str], tuple[Run, ...]]:
        """Group the runs by participant and task."""
        labels = self.participants
        tasks = list(dict.fromkeys(run.task for run in self.runs))
        wanted = _chosen_labels(participant_label, labels, prefix="sub-", where=self.bids_dir)
        kept = _chosen_labels(task, tasks, prefix="task-", where=self.bids_dir)
        runs = defaultdict(list)
        for run in self.runs:
            runs[run.participant_label, run.task].append(run)
        return {(label, name): tuple(runs[label, name]) for label in wanted for name in kept}


def _chosen_labels(
    wanted: Sequence[str] | None, there: Sequence[str], *, prefix: str, where: Path
) -> tuple[str, ...]:
    """Check labels that were asked for against those that exist.

    >>> _chosen_labels(["sub-02", "01"], ["01", "02"], prefix="sub-", where=Path("d"))
    ('02', '01')
    """
    if wanted is None:
        return tuple(there)
    labels = tuple(dict.fromkeys(label.removeprefix(prefix) for label in wanted))
    known = set(there)
    unknown = [label for label in labels if label not in known]
    if unknown or not labels:
        raise UsageError(
            f"{where}: has no {prefix}{f', {prefix}'.join(unknown)}; expected some of "
            f"{', '.join(there) or '(there are none)'}"
        )
    return labels


def open_inputs(bids_dir: Path, *, use: Source | None = None) -> Inputs:
    """Open a recorded dataset for statistics; of one with sessions, that of the intact model."""
    return open_sessions(bids_dir, use=use)[0]


def open_sessions(
    bids_dir: Path, selection: ParticipantSelection = _EVERYTHING, *, use: Source | None = None
) -> tuple[Inputs, ...]:
    """Open a recorded dataset for statistics, each session by itself, the intact model's first."""
    dataset = open_dataset(bids_dir)
    if dataset.paradigm.order == "story":
        raise InferenceError(
            f"{bids_dir}: stories that were read: words are no blocks of prompts to test; model "
            "them with nilearn's first level on the derivative, a localizer with `llm2bids "
            "localize`, or with `llm2bids features` and an encoding toolkit"
        )
    if not dataset.runs:
        raise InferenceError(f"{bids_dir}: has no run; record one with `llm2bids record`")
    file = selection.bids_filter_file
    filters = {} if file is None else read_bids_filter(Path(file))
    runs = tuple(filtered_runs(dataset, filters) if filters else dataset.runs)
    listed = set(dataset.participants["participant_id"].str.removeprefix("sub-"))
    if "subject" in filters:  # the others are not missing, they are not asked for
        listed.clear()
    units = np.ones(dataset.space.n_units, dtype=np.bool_)
    if selection.mask_img is not None:
        units = _read_mask(Path(selection.mask_img), dataset.space)
    there = {run.session for run in runs}
    if selection.session_label is not None:
        asked = _chosen_labels(
            selection.session_label, dataset.sessions, prefix="ses-", where=bids_dir
        )
        there &= set(asked)
        if not there:
            raise UsageError(f"{bids_dir}: ses-{', ses-'.join(asked)} has no run that is chosen")
    return tuple(
        Inputs(
            dataset=dataset,
            units=units,
            runs=tuple(run for run in runs if run.session == session),
            participants=tuple(sorted(listed | {run.participant_label for run in runs})),
            use=use,
            session=session,
        )
        for session in dataset.sessions or (None,)
        if session in there
    )


def _read_mask(path: Path, space: Space) -> npt.NDArray[np.bool_]:
    """Read which units a mask in the space holds, (n_units,)."""
    units = np.asarray(space.to_units(open_image(path, space).volume()) > 0)
    if not units.any():
        raise InferenceError(f"{path}: holds no unit of space {space.label}; nothing to model")
    return units
