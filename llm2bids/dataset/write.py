"""Writing a dataset: one run after the other, each there whole or not at all."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from llm2bids.dataset import resume
from llm2bids.dataset import shard as shards
from llm2bids.dataset.first_files import EXACTNESS, write_all_tasks_model, write_static_files
from llm2bids.dataset.layout import edit_file, list_bolds, parse_path
from llm2bids.dataset.participants import (
    PARTICIPANTS,
    by_participant,
    count_runs,
    counts_of,
    read_participants,
    with_participant,
)
from llm2bids.dataset.read import Dataset
from llm2bids.dataset.run import run_name, stage_run
from llm2bids.dataset.settings import (
    SETTINGS,
    compare_settings,
    is_dataset,
    normal_settings,
    read_settings,
    space_label,
)
from llm2bids.dataset.sidecar import base_fields
from llm2bids.dataset.space_template import read_template, write_template
from llm2bids.dataset.volumes import MARGIN, RunSize, run_size
from llm2bids.exceptions import DatasetError, Llm2bidsError
from llm2bids.model.edit import Edit
from llm2bids.paradigm.design import RunDesign
from llm2bids.paradigm.prompts import load_banks
from llm2bids.paradigm.task import Paradigm, Prompt
from llm2bids.recording.calibration import Calibration
from llm2bids.recording.record import Recording
from llm2bids.space.smoothness import Stability
from llm2bids.space.space import Space
from llm2bids.store.checksums import list_file, read_list
from llm2bids.store.commit import (
    HIDDEN,
    DatasetLock,
    Staging,
    check_space,
    clear_staging,
    recover,
    staging,
)
from llm2bids.store.files import refuse_missing
from llm2bids.store.json import to_json

# Bytes allowed for each unit in the template: its row in tables, its voxels in maps.
_TEMPLATE_BYTES_PER_UNIT = 40

_SMALL_FILES = 2_000_000  # bytes allowed for the rest of the template


# Templates that were read, by the checksums of their files: shards of a scan share one.
Templates = dict[frozenset[tuple[PurePosixPath, str]], tuple[Space, Calibration]]


class DatasetWriter:
    """A dataset that runs are added to, by one process at a time."""

    # A run is there if and only if its raw series is: all its files are made in a hidden folder and
    # renamed, the raw series last. Files that were changed since they were written are not
    # overwritten unless that is asked for.

    def __init__(
        self,
        dataset: Dataset,
        lock: DatasetLock,
        *,
        overwrite: bool = False,
        changed: Iterable[PurePosixPath] = (),
    ) -> None:
        self.dataset = dataset
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
            resume.refuse_missing_content(root)  # before a model is loaded
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
        with ExitStack() as held:
            lock = held.enter_context(DatasetLock(root))
            resume.undo_creation(root)
            needed = _TEMPLATE_BYTES_PER_UNIT * space.n_units + _SMALL_FILES
            check_space(root, needed=needed, doing="the template")
            normal = normal_settings({**settings, "space_label": space.label})
            fields = base_fields(space, settings=normal, paradigm=paradigm)
            with staging(root, doing="writing the template", last=(SETTINGS,)) as stage:
                write_static_files(
                    stage,
                    settings=normal,
                    paradigm=paradigm,
                    banks=load_banks(paradigm) if banks is None else banks,
                    authors=authors,
                    fields=fields,
                )
                how: dict[str, Any] = {"fields": fields, "stability": stability}
                write_template(stage, space, calibration, weight_norms=weight_norms, **how)
                if exactness is not None:
                    stage.text(PurePosixPath(EXACTNESS), to_json(exactness))
                if edit is not None:
                    stage.text(edit_file(edit.label), to_json(edit.metadata()))
            dataset = Dataset(path=root, space=space, calibration=calibration, settings=normal)
            held.pop_all()
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
        label = space_label(root, stored)
        if settings is not None:
            compare_settings(root, {"space_label": label, **settings})
        with ExitStack() as held:
            lock = held.enter_context(DatasetLock(root))
            resume.refuse_missing_content(root)
            recover(root)
            resume.check_unchanged(root, overwrite=overwrite)
            changed = resume.changed_runs(root) if overwrite else set()
            resume.mend_participants(root, stored, overwrite=overwrite)
            templates = {} if known is None else known
            key = frozenset(resume.sources(root).items())
            if key not in templates:  # their files were found to be as their checksums say
                templates[key] = read_template(root, label)
            space, calibration = templates[key]
            dataset = Dataset(path=root, space=space, calibration=calibration, settings=stored)
            _ = dataset.paradigm  # refused now, if it is damaged
            held.pop_all()
        return cls(dataset, lock, overwrite=overwrite, changed=changed)

    def has_run(self, design: RunDesign) -> bool:
        """Tell whether a run is in the dataset, and is not to be recorded anew."""
        bold = self.bold(design)
        return bold not in self._changed and (self._root / bold).is_file()

    def bold(self, design: RunDesign) -> PurePosixPath:
        """Place the raw series of a run."""
        return self.dataset.names(design).bold

    def write_run(self, recording: Recording, *, t_r: float) -> None:
        """Add a run, raw and derived."""
        design = recording.design
        name = run_name(design)
        self._failed = True  # until it is written
        self._lock.check()
        if self.has_run(design):
            raise DatasetError(f"{name} is in {self._root} already; remove it to record it anew")
        if self.dataset.settings["hrf_model"]:
            raise DatasetError(
                f"{self._root}: its raw series are convolved with a haemodynamic response, as an "
                "earlier version did; record into another folder"
            )
        needed = round(MARGIN * self._run_size.of(design.n_volumes))
        check_space(self._root, needed=needed, doing=name)
        bold = self.bold(design)
        with self._staging(f"writing {name}", (bold,)) as stage:
            stage_run(stage, self.dataset, recording, t_r=t_r)
        self._added([bold])
        self._failed = False

    def take_shards(self, *, verify: bool = False, keep_going: bool = False) -> None:
        """Take in the whole runs of every shard that is there; one that is written is refused.

        With `keep_going`, a shard that cannot be taken in stays, and the next one is taken.
        """
        for label in shards.list_shards(self._root):
            try:
                self.take_shard(label, verify=verify)
            except (Llm2bidsError, OSError):
                if not keep_going:
                    raise
        for label in () if keep_going else sorted(self._bolds):
            self.finish_participant(label)  # of a process that was cut off before it counted

    def take_shard(self, participant_label: str, *, verify: bool = False) -> None:
        """Take in the runs of a participant's shard, and remove it; `verify` reads every file."""
        self._lock.check()
        shard = shards.shard_root(self._root, participant_label)
        if not is_dataset(shard):
            shards.remove_unbegun(shard)
            return
        with shards.finished_shard(self._root, shard):
            runs = {bold: shards.run_files(shard, bold) for bold in list_bolds(shard)}
            new = {bold: runs[bold] for bold in runs if self._is_new(shard, bold, runs[bold])}
            for files in new.values() if verify else ():
                shards.refuse_changed(shard, files)
            if new:
                with self._staging(f"merging sub-{participant_label}", new) as stage:
                    shards.stage_runs(stage, self.dataset, shard, participant_label, new)
                self._added(new)
            shards.remove_shard(shard)
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

    def finish_participant(self, participant_label: str) -> None:
        """Count a participant's runs, prompts and volumes in ``participants.tsv``."""
        self._lock.check()
        mine = sorted(self._bolds[participant_label])
        if mine and self._n_counted.get(participant_label) == len(mine):
            return
        settings = self.dataset.settings
        table = resume.participants_to_extend(self._root, settings, overwrite=self._overwrite)
        table = with_participant(table, participant_label, settings, counts_of(self._root, mine))
        tasks = [task for task in self.dataset.paradigm.tasks if task.label in self._tasks]
        with self._staging("writing participants.tsv", (PARTICIPANTS,)) as stage:
            resume.stage_participants(stage, table)
            write_all_tasks_model(stage, tasks, self.dataset.fields)
        self._n_counted[participant_label] = len(mine)

    def _staging(
        self, doing: str, last: Collection[PurePosixPath]
    ) -> AbstractContextManager[Staging]:
        return staging(self._root, doing=doing, overwrite=self._overwrite, last=last)

    def _added(self, bolds: Iterable[PurePosixPath]) -> None:
        """Know of raw series that are in place now."""
        for label, files in by_participant(bolds).items():
            self._bolds[label] |= files
            self._tasks.update(str(parse_path(file).task) for file in files)
            self._changed.difference_update(files)

    @cached_property
    def _run_size(self) -> RunSize:
        gain = self.dataset.calibration.counts_per_sd
        return run_size(self.dataset.space, self.dataset.settings, counts_per_sd=gain)

    @cached_property
    def _bolds(self) -> defaultdict[str, set[PurePosixPath]]:
        """Raw series by participant: listed once, as listing a thousand of them takes a while."""
        return by_participant(list_bolds(self._root))

    @cached_property
    def _tasks(self) -> set[str]:
        """Tasks that have runs."""
        return {str(parse_path(file).task) for files in self._bolds.values() for file in files}

    @cached_property
    def _n_counted(self) -> dict[str, int]:
        """Number of runs of each participant that is counted; the table is read once for it."""
        return count_runs(read_participants(self._root))

    def close(self) -> None:
        """Release the lock; nothing can be written afterwards."""
        clear_staging(self._root)
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None and not self._failed:
                resume.remove_leftovers(self._root, overwrite=self._overwrite)
        finally:
            self.close()
