"""Finding what a report is made from: the dataset and the analysis of a folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.read import Dataset, Run, open_dataset
from llm2bids.dataset.settings import is_dataset
from llm2bids.exceptions import UsageError

REPORT_NAME = "report.html"
"""File name of the page in the folder that it is made from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sources:
    """What a report is made from.

    Parameters
    ----------
    dataset : Dataset
        The recording.
    analysis : Path or None
        Results of ``llm2bids analyze``; None where there are none.
    analysis_dir : Path
        Where the analysis is, or would be: for the commands that the page names.
    """

    dataset: Dataset
    analysis: Path | None
    analysis_dir: Path

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the paradigm's order, so that a task has one colour on the whole page."""
        listed = _read(self.dataset.path / "code" / "tasks.json")
        known = [task for task in listed if task in self.dataset.tasks]
        return (*known, *(task for task in self.dataset.tasks if task not in known))

    def color(self, *names: str) -> int:
        """Give the number of the colour of the first name that is a task or a trial type."""
        known = [*self.tasks, *self.trial_types]
        return next((known.index(name) for name in names if name in known), len(self.tasks))

    @property
    def trial_types(self) -> tuple[str, ...]:
        """Trial types of tasks with several, which take colours after the tasks."""
        listed = _read(self.dataset.path / "code" / "tasks.json")
        kinds = [kind for task in self.tasks for kind in listed.get(task, {})]
        return tuple(kind for kind in dict.fromkeys(kinds) if kind not in self.tasks)

    def first_runs(self) -> tuple[Run, ...]:
        """List the runs of the first participant, in the order of the tasks."""
        label = self.dataset.runs[0].participant_label
        runs = [run for run in self.dataset.runs if run.participant_label == label]
        return tuple(sorted(runs, key=lambda run: (self.tasks.index(run.task), run.run or 0)))

    def command(self, verb: str) -> str:
        """Give the command that makes a part of the analysis, without folders of someone's disk."""
        return f"llm2bids analyze {self.dataset.path.name} {self.analysis_dir.name} {verb}"


def find_sources(
    out_dir: Path, *, bids_dir: Path | None = None, analysis_dir: Path | None = None
) -> Sources:
    """Find dataset and analysis.

    Parameters
    ----------
    out_dir : Path
        A folder with ``dataset`` and ``analysis`` in it (as ``llm2bids demo`` makes), an output
        folder of ``llm2bids analyze``, or a dataset.
    bids_dir : Path, optional
        The dataset, where it lies elsewhere.
    analysis_dir : Path, optional
        The analysis, where it lies elsewhere.

    Returns
    -------
    Sources
        What is there.

    Raises
    ------
    UsageError
        If there is no dataset.
    DatasetError
        If it is damaged.
    """
    if not out_dir.is_dir():
        raise UsageError(
            f"{out_dir}: is not a folder; expected one that `llm2bids demo` or `llm2bids analyze` "
            "wrote, or a dataset"
        )
    analysis = analysis_dir or (out_dir if is_analysis(out_dir) else out_dir / "analysis")
    if analysis_dir is not None and not is_analysis(analysis_dir):
        raise UsageError(
            f"{analysis_dir}: holds no results of llm2bids analyze; run "
            f"`llm2bids analyze BIDS_DIR {analysis_dir} participant` first"
        )
    found = is_analysis(analysis)
    candidates = [bids_dir] if bids_dir else [out_dir, out_dir / "dataset", *_linked(analysis)]
    for candidate in candidates:
        if is_dataset(candidate):
            dataset = open_dataset(candidate)
            break
    else:
        raise UsageError(
            f"{bids_dir or out_dir}: no dataset of llm2bids there, in its folder 'dataset' or "
            "linked from an analysis; name it: --dataset BIDS_DIR"
        )
    if not dataset.runs:
        raise UsageError(
            f"{dataset.path}: the dataset has no run to report on; record one with "
            f"`llm2bids record {dataset.path}`"
        )
    return Sources(dataset=dataset, analysis=analysis if found else None, analysis_dir=analysis)


def is_analysis(folder: Path) -> bool:
    """Tell whether a folder holds results of ``llm2bids analyze``."""
    tools = _read(folder / "dataset_description.json").get("GeneratedBy")
    return isinstance(tools, list) and any(
        isinstance(tool, dict) and tool.get("Description") == "llm2bids analyze" for tool in tools
    )


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one where the file is missing or holds none."""
    return _read(path)


def unit_map(sources: Sources, image: Path) -> npt.NDArray[np.float32]:
    """Read a map of the analysis.

    Parameters
    ----------
    sources : Sources
        Its dataset.
    image : Path
        The image.

    Returns
    -------
    ndarray of float32, shape (n_units,)
        Values in recording order.

    Raises
    ------
    NetworkError, SpaceError
        If the image is damaged, on another grid or carries another fingerprint.
    """
    from llm2bids.space.stat_map import unit_values

    dataset = sources.dataset
    fingerprints = (dataset.fingerprint, dataset.space.fingerprint())
    values = unit_values(image, dataset.space, fingerprint=fingerprints)
    return np.nan_to_num(values).astype(np.float32)


def _linked(analysis: Path) -> list[Path]:
    links = _read(analysis / "dataset_description.json").get("DatasetLinks")
    raw = links.get("raw") if isinstance(links, dict) else None
    return [analysis / raw] if isinstance(raw, str) and "://" not in raw else []


def _read(path: Path) -> dict[str, Any]:
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return contents if isinstance(contents, dict) else {}
