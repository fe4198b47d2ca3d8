"""Writing a dataset: one run after the other, each there whole or not at all."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.first_files import (
    ALL_TASKS_MODEL,
    EXACTNESS,
    write_all_tasks_model,
    write_static_files,
)
from llm2bids.dataset.layout import check_label, edit_file, list_bolds, parse_path
from llm2bids.dataset.participants import (
    PARTICIPANTS,
    count_runs,
    counted,
    read_participants,
    with_participant,
)
from llm2bids.dataset.read import Dataset
from llm2bids.dataset.resume import (
    changed_runs,
    check_unchanged,
    mend_participants,
    participants_to_extend,
    refuse_missing_content,
    remove_leftovers,
    sources,
    stage_participants,
    undo_creation,
)
from llm2bids.dataset.run import check_run, run_name, stage_run
from llm2bids.dataset.settings import (
    SETTINGS,
    compare_settings,
    is_dataset,
    normal_settings,
    read_settings,
    space_label,
)
from llm2bids.dataset.shard import (
    finished_shard,
    list_shards,
    refuse_changed,
    remove_shard,
    run_files,
    shard_root,
    stage_runs,
)
from llm2bids.dataset.sidecar import base_fields
from llm2bids.dataset.size import MARGIN, RunSize, run_size
from llm2bids.dataset.space_template import read_template, write_template
from llm2bids.exceptions import DatasetError
from llm2bids.model.edit import Edit
from llm2bids.paradigm.design import RunDesign
from llm2bids.paradigm.prompts import load_banks
from llm2bids.paradigm.task import Paradigm, Prompt
from llm2bids.recording.calibration import Calibration
from llm2bids.recording.record import Recording
from llm2bids.space.smoothness import Stability
from llm2bids.space.space import Space
from llm2bids.store.checksums import list_file, read_list
from llm2bids.store.commit import HIDDEN, Staging, check_space, clear_staging, recover, staging
from llm2bids.store.files import refuse_missing
from llm2bids.store.json import to_json
from llm2bids.store.lock import DatasetLock

_TEMPLATE_BYTES_PER_UNIT = 40
"""Bytes allowed for each unit in the template: its row in tables, its voxels in maps."""

_SMALL_FILES = 2_000_000
"""Bytes allowed for the rest of the template."""


Templates = dict[frozenset[tuple[PurePosixPath, str]], tuple[Space, Calibration]]
"""Templates that were read, by the checksums of their files: shards of a scan share one."""


def _read_template(root: Path, label: str, known: Templates) -> tuple[Space, Calibration]:
    """Read a template whose files were found to be as their checksums say, or take a known one."""
    key = frozenset(sources(root).items())
    if not key:
        return read_template(root, label)
    if key not in known:
        known[key] = read_template(root, label)
    return known[key]


class _Bolds:
    """Raw series of a dataset, by participant, and the tasks that they are of."""

    def __init__(self, files: Iterable[PurePosixPath]) -> None:
        self.of_participant: dict[str, set[PurePosixPath]] = defaultdict(set)
        self.tasks: set[str] = set()
        for file in files:
            self.add(file)

    def add(self, file: PurePosixPath) -> None:
        entities = parse_path(file)
        self.of_participant[str(entities.sub)].add(file)
        self.tasks.add(str(entities.task))


class DatasetWriter:
    """A dataset that runs are added to, by one process at a time."""

    # A run is there if and only if its raw series is: all its files are made in a hidden folder and
    # renamed, the raw series last. Files that were changed since they were written are not
    # overwritten
    # unless that is asked for.

    def __init__(
        self,
        dataset: Dataset,
        lock: DatasetLock,
        *,
        overwrite: bool = False,
        changed: Iterable[PurePosixPath] = (),
    ) -> None:
        self._dataset = dataset
        self._root = dataset.path
        self._lock = lock
        self._overwrite = overwrite
        self._changed = set(changed)
        self._failed = False

    @staticmethod
    def check_target(bids_dir: Path | str) -> None:
        """Refuse a folder that is neither new, nor empty, nor a dataset of ours."""
        root = Path(bids_dir)
        if root.exists() and not root.is_dir():
            raise DatasetError(f"{root} is a file; expected a folder: name another one")
        if is_dataset(root):
            refuse_missing_content(root)  # before a model is loaded
        if not root.exists() or is_dataset(root) or (root / HIDDEN).is_dir():
            return
        refuse_missing(root / SETTINGS)
        names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
        if names:
            raise DatasetError(
                f"{root} is not empty and not a dataset that llm2bids wrote; found {names[0]}"
                f"{f' and {len(names) - 1} more' if len(names) > 1 else ''}. Name a new or an "
                "empty folder"
            )

    @classmethod
    def create(
        cls,
        bids_dir: Path | str,
        *,
        space: Space,
        calibration: Calibration,
        paradigm: Paradigm,
        settings: Mapping[str, Any],
        weight_norms: npt.NDArray[np.float32],
        authors: Sequence[str] = (),
        banks: Mapping[str, Sequence[Prompt]] | None = None,
        stability: Stability | None = None,
        exactness: Mapping[str, Any] | None = None,
        edit: Edit | None = None,
    ) -> "DatasetWriter":
        """Begin a dataset: all files but those of runs; weight_norms (n_units,)."""
        root = Path(bids_dir)
        cls.check_target(root)
        if is_dataset(root):
            raise DatasetError(f"{root} has a dataset already; open it, or name another folder")
        check_label(space.label, what="space")
        for task in paradigm.tasks:
            check_label(task.label, what="task")
        lock = DatasetLock(root)
        try:
            undo_creation(root)
            needed = _TEMPLATE_BYTES_PER_UNIT * space.n_units + _SMALL_FILES
            check_space(root, needed=needed, doing="the template")
            normal = normal_settings({**settings, "space_label": space.label})
            fields = base_fields(space, settings=normal, paradigm=paradigm)
            with staging(root, doing="writing the template") as stage:
                write_static_files(
                    stage,
                    settings=normal,
                    paradigm=paradigm,
                    banks=load_banks(paradigm) if banks is None else banks,
                    authors=authors,
                    fields=fields,
                )
                write_template(
                    stage, space, calibration, weight_norms=weight_norms, fields=fields,
                    stability=stability,
                )  # fmt: skip
                if exactness is not None:
                    stage.text(PurePosixPath(EXACTNESS), to_json(exactness))
                if edit is not None:
                    stage.text(edit_file(edit.label), to_json(edit.metadata()))
                stage.commit(last=(SETTINGS,))
        except BaseException:
            lock.release()
            raise
        dataset = Dataset(path=root, space=space, calibration=calibration, settings=normal)
        return cls(dataset, lock)

    @classmethod
    def open(
        cls,
        bids_dir: Path | str,
        *,
        settings: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        known: Templates | None = None,
    ) -> "DatasetWriter":
        """Open a dataset of ours to add runs; what a killed process left is finished or removed."""
        root = Path(bids_dir)
        stored = read_settings(root)
        if settings is not None:
            compare_settings(root, {"space_label": space_label(root, stored), **settings})
        lock = DatasetLock(root)
        try:
            refuse_missing_content(root)
            recover(root)
            clear_staging(root)
            check_unchanged(root, overwrite=overwrite)
            label = space_label(root, stored)
            changed = changed_runs(root, label) if overwrite else set()
            mend_participants(root, stored, overwrite=overwrite)
            space, calibration = _read_template(root, label, {} if known is None else known)
            dataset = Dataset(path=root, space=space, calibration=calibration, settings=stored)
            _ = dataset.paradigm  # refused now, if it is damaged
        except BaseException:
            lock.release()
            raise
        return cls(dataset, lock, overwrite=overwrite, changed=changed)

    @property
    def space(self) -> Space:
        """The space of the dataset."""
        return self._dataset.space

    @property
    def calibration(self) -> Calibration:
        """The calibration of the dataset."""
        return self._dataset.calibration

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the dataset."""
        return self._dataset.settings

    def has_run(self, design: RunDesign) -> bool:
        """Tell whether a run is in the dataset, and is not to be recorded anew."""
        bold = self.bold(design)
        return bold not in self._changed and (self._root / bold).is_file()

    def bold(self, design: RunDesign) -> PurePosixPath:
        """Place the raw series of a run."""
        return self._dataset.names(design).bold

    def write_run(self, recording: Recording, *, t_r: float) -> None:
        """Add a run, raw and derived."""
        design = recording.design
        name = run_name(design)
        self._failed = True  # until it is written
        self._lock.check()
        if self.has_run(design):
            raise DatasetError(f"{name} is in {self._root} already; remove it to record it anew")
        check_run(self._dataset, recording, t_r=t_r)
        needed = round(MARGIN * self._run_size.of(design.n_volumes))
        check_space(self._root, needed=needed, doing=name)
        bold = self.bold(design)
        try:
            with self._staging(f"writing {name}") as stage:
                stage_run(stage, self._dataset, recording, t_r=t_r)
                stage.commit(last=(bold,))
        except BaseException:
            with suppress(OSError, DatasetError):  # the first error is the one to tell
                recover(self._root)
            raise
        self._bolds.add(bold)
        self._changed.discard(bold)
        self._failed = False

    def take_shards(self, *, verify: bool = False) -> None:
        """Take in the whole runs of every shard that is there; one that is written is refused."""
        for label in list_shards(self._root):
            self.take_shard(label, verify=verify)

    def take_shard(self, participant_label: str, *, verify: bool = False) -> None:
        """Take in the runs of a participant's shard, and remove it; `verify` reads every file."""
        self._lock.check()
        shard = shard_root(self._root, participant_label)
        if not is_dataset(shard):  # nothing was begun
            return
        with finished_shard(self._root, shard):
            runs = {bold: run_files(shard, bold) for bold in list_bolds(shard)}
            new = {bold: runs[bold] for bold in runs if self._is_new(shard, bold, runs[bold])}
            for files in new.values() if verify else ():
                refuse_changed(shard, files)
            if new:
                self._take(shard, participant_label, new)
            remove_shard(shard)
        if runs:
            self.finish_participant(participant_label)

    def _is_new(self, shard: Path, bold: PurePosixPath, files: Mapping[PurePosixPath, str]) -> bool:
        """Tell whether a run of a shard is to be taken in; refuse another recording of one."""
        if bold in self._changed or not (self._root / bold).is_file():
            return True
        if read_list(self._root / list_file(bold)).get(bold) == files[bold]:
            return False  # taken in by a process that was cut off before it removed the shard
        if self._overwrite:
            return True
        raise DatasetError(
            f"{shard}: {bold} is in the dataset already, recorded otherwise (on another machine, "
            "say). Remove the shard to keep the dataset's, or take the shard's with --overwrite"
        )

    def _take(
        self,
        shard: Path,
        participant_label: str,
        runs: Mapping[PurePosixPath, Mapping[PurePosixPath, str]],
    ) -> None:
        """Put runs of a shard in place, all or none of them."""
        try:
            with self._staging(f"merging sub-{participant_label}") as stage:
                stage_runs(stage, self._dataset, shard, participant_label, runs)
                stage.commit(last=runs)
        except BaseException:
            with suppress(OSError, DatasetError):  # the first error is the one to tell
                recover(self._root)
            raise
        for bold in runs:
            self._bolds.add(bold)
            self._changed.discard(bold)

    def finish_participant(self, participant_label: str) -> None:
        """Count a participant's runs, prompts and volumes in ``participants.tsv``."""
        self._lock.check()
        mine = sorted(self._bolds.of_participant[participant_label])
        if mine and self._n_counted.get(participant_label) == len(mine):
            return
        settings = self._dataset.settings
        table = participants_to_extend(self._root, settings, overwrite=self._overwrite)
        table = with_participant(table, participant_label, settings)
        table = counted(table, participant_label, self._root, mine)
        recorded = self._bolds.tasks
        tasks = [task for task in self._dataset.paradigm.tasks if task.label in recorded]
        with self._staging("writing participants.tsv") as stage:
            stage_participants(stage, table)
            if not write_all_tasks_model(stage, tasks, self._dataset.fields):
                stage.remove(ALL_TASKS_MODEL)
            stage.commit(last=(PARTICIPANTS,))
        self._n_counted[participant_label] = len(mine)

    @cached_property
    def _run_size(self) -> RunSize:
        gain = self.calibration.counts_per_sd
        return run_size(self.space, self.settings, counts_per_sd=gain)

    @cached_property
    def _bolds(self) -> "_Bolds":
        """Raw series of all runs: listed once, as listing a thousand participants takes a while."""
        return _Bolds(list_bolds(self._root))

    @cached_property
    def _n_counted(self) -> dict[str, int]:
        """Number of runs of each participant that is counted; the table is read once for it."""
        return count_runs(read_participants(self._root))

    def close(self) -> None:
        """Release the lock; nothing can be written afterwards."""
        clear_staging(self._root)
        self._lock.release()

    def _staging(self, doing: str) -> AbstractContextManager[Staging]:
        return staging(self._root, doing=doing, overwrite=self._overwrite)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None and not self._failed:
                remove_leftovers(self._root, overwrite=self._overwrite)
        finally:
            self.close()
