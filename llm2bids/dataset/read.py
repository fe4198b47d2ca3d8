"""Reading a dataset of ours: space, runs, and values in the model's own scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.dataset.layout import (
    DERIVATIVE,
    INTACT,
    Run,
    RunNames,
    list_bolds,
    parse_path,
    run_key,
    run_names,
)
from llm2bids.dataset.participants import read_participants
from llm2bids.dataset.samples import By, run_image, run_labels
from llm2bids.dataset.settings import read_settings, read_sidecar, recorded_paradigm, space_label
from llm2bids.dataset.sidecar import base_fields
from llm2bids.dataset.space_template import read_template
from llm2bids.dataset.transcript import read_transcript
from llm2bids.exceptions import DatasetError
from llm2bids.options import checked
from llm2bids.paradigm.design import RunDesign
from llm2bids.paradigm.prompts import COLUMNS as PROMPT_COLUMNS
from llm2bids.paradigm.task import Paradigm
from llm2bids.recording.calibration import Calibration
from llm2bids.space.grid import GridImage, open_image
from llm2bids.space.image import decode
from llm2bids.space.space import Space
from llm2bids.store.files import data_files, inside, walk_files
from llm2bids.store.tables import checked_columns, read_table

# What to do about a series that cannot be read.
RECORD_AGAIN = "call `llm2bids record` as before with --overwrite: the run is recorded anew"


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A dataset of ours.

    Parameters
    ----------
    path : Path
        The raw dataset.
    space : Space
        Unit <-> voxel.
    calibration : Calibration
        Mean and standard deviation of each unit.
    settings : dict
        What the dataset was recorded with.
    """

    path: Path
    space: Space
    calibration: Calibration
    settings: dict[str, Any]

    @cached_property
    def participants(self) -> pd.DataFrame:
        """Content of ``participants.tsv``, also of columns that were added to it."""
        return read_participants(self.path)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Runs that are there, sorted by name."""
        return tuple(
            Run(root=self.path, names=RunNames(parse_path(file), self.space.label))
            for file in list_bolds(self.path)
        )

    @cached_property
    def paradigm(self) -> Paradigm:
        """What was to be shown; its banks are in ``stimuli/``."""
        return recorded_paradigm(self.path, self.settings)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """Values of the blanks in the static files."""
        return base_fields(self.space, settings=self.settings, paradigm=self.paradigm)

    def names(self, design: RunDesign) -> RunNames:
        """Name the files of a run that is to be written."""
        extension = ".nii.gz" if self.settings["compress"] else ".nii"
        return run_names(run_key(design), self.space.label, extension=extension)

    @property
    def derivative(self) -> Path:
        """The derivative's folder."""
        return self.path / DERIVATIVE

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of space and calibration, which the series carry."""
        return self.space.fingerprint(self.calibration)

    @property
    def sessions(self) -> tuple[str, ...]:
        """Labels of the sessions, ``intact`` first; none where the dataset has no sessions."""
        there = {run.session for run in self.runs} - {None}
        return tuple(sorted(map(str, there), key=lambda label: (label != INTACT, label)))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Labels of the tasks that have runs, sorted."""
        return tuple(sorted({run.task for run in self.runs}))

    @checked
    def select(
        self, *, participant_label: Sequence[str] | None = None, task: str | None = None
    ) -> tuple[Run, ...]:
        """Choose runs.

        Parameters
        ----------
        participant_label : sequence of str, optional
            Labels, with or without ``sub-``; all by default.
        task : str, optional
            Label, with or without ``task-``; all by default.

        Returns
        -------
        tuple of Run
            In the order of `runs`.

        Raises
        ------
        DatasetError
            If a participant or the task has no run; the message lists those that have.
        UsageError
            If an argument is something else than labels.
        """
        labels = {run.participant_label for run in self.runs}
        wanted = [label.removeprefix("sub-") for label in participant_label or sorted(labels)]
        if unknown := [label for label in wanted if label not in labels]:
            raise DatasetError(
                f"{self.path}: no run of participant {', '.join(unknown)}; there are "
                f"{', '.join(sorted(labels)) or 'none'}"
            )
        name = None if task is None else task.removeprefix("task-")
        if name is not None and name not in self.tasks:
            raise DatasetError(
                f"{self.path}: no run of task {name}; there are {', '.join(self.tasks) or 'none'}"
            )
        chosen = set(wanted)
        return tuple(
            run for run in self.runs if run.participant_label in chosen and name in (None, run.task)
        )

    def load_run(self, run: Run) -> Any:
        """Open a run's series.

        Parameters
        ----------
        run : Run
            One of `runs`.

        Returns
        -------
        nibabel.Nifti1Image
            Counts, shape ``(n_x, n_y, n_z, n_volumes)``, in the axes of the space; data are read
            when they are needed.

        Raises
        ------
        SpaceError
            If the file is missing, damaged or not on the grid of the space.
        """
        return self.open_series(run).as_nibabel()

    def open_series(self, run: Run) -> GridImage:
        """Open a run's series in the axes of the space; refuse one on another grid."""
        return open_image(run.bold, self.space, remedy=RECORD_AGAIN)

    @checked
    def values(self, run: Run) -> npt.NDArray[np.float32]:
        """Read the values of a run in the model's own scale.

        Parameters
        ----------
        run : Run
            One of `runs`.

        Returns
        -------
        ndarray of float32, shape (n_volumes, n_units)
            Layer outputs, within half a count for int16 (0.005 standard deviations; datasets of
            earlier versions 0.001).

        Raises
        ------
        SpaceError
            If the file is missing, damaged or not on the grid of the space.
        """
        self.sidecar(run)  # refuses another gain
        image = self.open_series(run)
        values = np.empty((image.n_volumes, self.space.n_units), dtype=np.float32)
        for start, block in image.blocks():
            rows = slice(start, start + len(block))
            values[rows] = decode(block.T, self.space, self.calibration, name=image.label)
        return values

    @checked
    def events(self, run: Run) -> pd.DataFrame:
        """Read a run's events: ``onset`` and ``duration`` in seconds, ``trial_type``."""
        table = read_table(run.events, text=("trial_type",))
        return checked_columns(table, run.events, ("onset", "duration"), text=("trial_type",))

    @checked
    def confounds(self, run: Run) -> pd.DataFrame:
        """Read a run's confounds, one row for each volume."""
        return read_table(run.confounds)

    @checked
    def transcript(self, run: Run) -> pd.DataFrame:
        """Read every generated token of a run.

        Parameters
        ----------
        run : Run
            One of `runs`.

        Returns
        -------
        DataFrame
            Columns `llm2bids.dataset.transcript.COLUMNS`.
        """
        return read_transcript(run.transcript)

    def labels(self, run: Run, *, by: By = "volume") -> pd.DataFrame:
        """Label the volumes or the prompts of a run, for decoders.

        Parameters
        ----------
        run : Run
            One of `runs`.
        by : {"volume", "prompt"}
            What a sample is. The tokens of a prompt are no independent samples: decode prompts, or
            keep those of a prompt on one side of every split (``groups=labels["prompt_id"]``).

        Returns
        -------
        DataFrame
            One row for each sample, in the order of `image`: ``label`` (the trial type, ``off``
            where there is none), ``topic``, and what can be grouped by: ``prompt_id``, ``trial``,
            ``run``, ``participant``.

        Raises
        ------
        DatasetError
            If the run is a story, whose volumes belong to no prompt.
        """
        return run_labels(self, run, by)

    def image(
        self, run: Run, *, sites: str | Sequence[str] | None = None, by: By = "volume"
    ) -> nib.Nifti1Image:
        """Read the volumes or the prompts of a run, of some sites alone.

        Parameters
        ----------
        run : Run
            One of `runs`.
        sites : str or sequence of str, optional
            As in `Space.crop`; the whole space by default.
        by : {"volume", "prompt"}
            A volume a token, or the mean of each prompt's volumes.

        Returns
        -------
        nibabel.Nifti1Image
            Counts, shape ``(n_x, n_y, n_z, n_samples)``, on the grid of ``space.crop(sites)``; of
            the series' data type, float32 for prompts. Voxels without one of the units are 0.

        Raises
        ------
        ModelError
            If a pattern matches no site.
        SpaceError
            If the file is missing, damaged or not on the grid of the space.
        DatasetError
            If the run is a story, or lacks volumes.
        """
        return run_image(self, run, self.space if sites is None else self.space.crop(sites), by)

    @checked
    def sidecar(self, run: Run) -> dict[str, Any]:
        """Read the sidecar of a run's raw series.

        Raises
        ------
        DatasetError
            If it is missing, damaged or says another gain than the calibration.
        """
        path = inside(self.path, self.path / run.names.bold_json)
        metadata = read_sidecar(path)
        gain = self.calibration.counts_per_sd
        if metadata.get("CountsPerSD", gain) != gain:
            raise DatasetError(
                f"{path}: CountsPerSD is {metadata['CountsPerSD']}, the calibration of the dataset "
                f"has {gain}; restore the file that was changed"
            )
        return metadata

    def t_r(self, run: Run) -> float:
        """Read a run's repetition time, in seconds."""
        return float(self.sidecar(run)["RepetitionTime"])

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """All prompts of ``stimuli/``: ``prompt_id``, ``condition``, ``topic``, ``text``."""
        files = data_files(self.path / "stimuli", "*.tsv")
        if not files:
            raise DatasetError(f"{self.path / 'stimuli'}: no prompts; restore the folder")
        tables = [_read_prompts(inside(self.path, file)) for file in files]
        return pd.concat(tables, ignore_index=True).drop_duplicates("prompt_id")

    def token_table(self, run: Run) -> pd.DataFrame:
        """Join tokens, their times, events and prompts in one table.

        Parameters
        ----------
        run : Run
            One of `runs`.

        Returns
        -------
        DataFrame
            One row for each generated token: the columns of the transcript, then ``condition``,
            ``topic`` and ``text`` of its prompt, then ``prompt_onset`` (seconds, also for off
            prompts). The rows of on prompts have the ``onset`` and ``trial_type`` of ``events``.
        """
        tokens = self.transcript(run)
        joined = tokens.merge(self.prompts, on="prompt_id", how="left", validate="many_to_one")
        return joined.assign(prompt_onset=joined.groupby("trial")["onset"].transform("min"))

    def describe(self) -> str:
        """Say in a few lines what is in the dataset."""
        files = {file.stat().st_ino: file for file in walk_files(self.path) if file.is_file()}
        size = sum(file.stat().st_size for file in files.values())
        n_participants = len({run.participant_label for run in self.runs})
        return "\n".join(
            [
                f"{self.path}: {n_participants} participants, {len(self.runs)} runs of "
                f"{len(self.tasks)} tasks ({', '.join(self.tasks)}), {size / 1e6:.0f} MB",
                f"model {self.settings.get('model')}, space {self.space.label}: "
                f"{self.space.n_units:,} units at {len(self.space.sites)} sites, grid "
                f"{' x '.join(str(n) for n in self.space.shape)}",
                f"derivative: {self.derivative}",
            ]
        )


def _read_prompts(file: Path) -> pd.DataFrame:
    """Read a table of ``stimuli/``, in which a text may hold line breaks and tabs in quotes."""
    try:
        table = pd.read_csv(file, sep="\t", dtype="str", keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{file}: not a readable table of prompts ({error}); restore the file"
        ) from None
    return checked_columns(table, file, (), text=PROMPT_COLUMNS)


@checked
def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset that llm2bids wrote.

    Parameters
    ----------
    path : str or Path
        The raw dataset.

    Returns
    -------
    Dataset
        Volumes are read when they are asked for.

    Raises
    ------
    DatasetError
        If the folder is missing, is not a dataset of ours, lacks its template, or a path in it
        leads out of it.
    """
    root = Path(path)
    settings = read_settings(root)
    space, calibration = read_template(root, space_label(root, settings))
    dataset = Dataset(path=root, space=space, calibration=calibration, settings=settings)
    # what is damaged or leads out of the dataset is refused now
    _ = dataset.participants, dataset.paradigm
    for run in dataset.runs:
        for file in run.names.all():
            inside(root, root / file)
    return dataset
