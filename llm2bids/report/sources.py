"""Finding what a report is made from: the dataset and the analysis of a folder."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from llm2bids.dataset import layout
from llm2bids.dataset.layout import INTACT, Run
from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.dataset.settings import is_dataset
from llm2bids.exceptions import UsageError
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.statmap import is_analysis
from llm2bids.network.findings import Findings
from llm2bids.network.network import Network, make_network
from llm2bids.network.task_networks import TaskNetwork
from llm2bids.report.draw.color import task_color
from llm2bids.space.stat_map import select_units, unit_values
from llm2bids.store.files import data_files
from llm2bids.store.json import read_json

SHARE = 0.05  # share of the units that make a network where the group level wrote none

REPORT_NAME = "report.html"  # file name of the page in the folder that it is made from

# Height controls as the page calls them
CONTROLS = {"fpr": "uncorrected", "fdr": "FDR", "bonferroni": "Bonferroni"}


@dataclass(frozen=True, eq=False)
class GroupMap:
    """The group's effect map of one contrast."""

    path: Path
    metadata: dict[str, Any]  # its sidecar

    @property
    def contrast(self) -> str:
        """Label of the contrast."""
        return str(self.metadata.get("ContrastLabel", self.path.name))

    @property
    def task(self) -> str:
        """Label of the task; empty for contrasts between tasks."""
        return str(self.metadata.get("TaskLabel") or "")

    @property
    def session(self) -> str:
        """Session of an edited model, or its change from the intact one; empty for the intact."""
        label = self.path.name.partition("_")[0].removeprefix("ses-")
        return label if self.path.name.startswith("ses-") and label != INTACT else ""

    @property
    def is_against_off(self) -> bool:
        """Whether it is one condition of the intact model against the off prompts."""
        return len(self.metadata.get("ContrastWeights", {})) == 1 and not self.session

    @property
    def is_against_others(self) -> bool:
        """Whether it is a task against the mean of the others."""
        others = self.contrast.endswith("VsOthers")
        return others and not (self.is_against_off or self.session)

    @property
    def title(self) -> str:
        """What the map shows, in words."""
        if self.session:
            return f"{self.contrast} (ses-{self.session})"
        return self.contrast.removesuffix("VsOthers") if self.is_against_others else self.contrast

    @property
    def prefix(self) -> str:
        """What the names of the contrast's files begin with."""
        return self.path.name.partition("_stat-")[0]

    def other(self, stat: str) -> Path:
        """Give the path of another statistic's map."""
        return self.path.with_name(self.path.name.replace("_stat-effect_", f"_stat-{stat}_"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Sources:
    """What a report is made from."""

    dataset: Dataset
    analysis: Path | None  # results of `llm2bids analyze`, where there are any
    analysis_dir: Path  # where they are, or would be: for the commands that the page names
    page_dir: Path | None = None  # where the page will be: links are relative to it
    views: Mapping[str, Path] = field(default_factory=dict)  # contrast -> its page for NiiVue
    localizers: tuple[Path, ...] = ()  # results of `llm2bids localize`

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the paradigm's order, so that a task has one colour on the whole page."""
        known = [task for task in self._trial_types if task in self.dataset.tasks]
        return (*known, *(task for task in self.dataset.tasks if task not in known))

    @cached_property
    def participants(self) -> tuple[str, ...]:
        """Labels of the participants who have runs."""
        return tuple(dict.fromkeys(run.participant_label for run in self.dataset.runs))

    @cached_property
    def n_volumes(self) -> int:
        """Volumes of all runs."""
        sidecars = map(self.dataset.sidecar, self.dataset.runs)
        return sum(int(metadata.get("NumberOfVolumes", 0)) for metadata in sidecars)

    @cached_property
    def n_layers(self) -> int:
        """Layers with a site."""
        return len({site.layer for site in self.dataset.space.sites} - {None})

    @cached_property
    def trial_types(self) -> tuple[str, ...]:
        """Trial types of tasks with several, which take colours after the tasks."""
        kinds = [kind for task in self.tasks for kind in self._trial_types.get(task, {})]
        return tuple(kind for kind in dict.fromkeys(kinds) if kind not in self.tasks)

    @cached_property
    def _trial_types(self) -> dict[str, Any]:
        return {task.label: dict(task.conditions) for task in self.dataset.paradigm.tasks}

    def color(self, *names: str) -> str:
        """Give the style variable of the first name that is a task or a trial type."""
        known = [*self.tasks, *self.trial_types]
        return task_color(next((known.index(n) for n in names if n in known), len(self.tasks)))

    def trial_color(self, trial_type: object) -> str:
        """Give the style variable of a trial type's colour, grey for off prompts (no text)."""
        name = trial_type if isinstance(trial_type, str) else ""
        return self.color(name) if name else "var(--off)"

    def first_runs(self) -> tuple[Run, ...]:
        """List the runs of the first participant, in the order of the tasks."""
        first = self.participants[0]
        runs = [run for run in self.dataset.runs if run.participant_label == first]
        return tuple(sorted(runs, key=lambda run: (self.tasks.index(run.task), run.run or 0)))

    def command(self, verb: str) -> str:
        """Give the command that makes a part of the analysis, without folders of someone's disk."""
        return f"llm2bids analyze {self.dataset.path.name} {self.analysis_dir.name} {verb}"

    def link(self, path: Path) -> str:
        """Give the address of a file beside the page or its folder; empty where it is elsewhere.

        A page is read on other machines: it names no folders of this one.
        """
        if self.page_dir is None:
            return ""
        here, there = self.page_dir.resolve(), path.parent.resolve() / path.name
        if not (there.is_relative_to(here) or there.is_relative_to(here.parent)):
            return ""
        return quote(os.path.relpath(there, here))

    def files(self, pattern: str) -> list[Path]:
        """List the files of the analysis that match; none without analysis."""
        return [] if self.analysis is None else data_files(self.analysis, pattern)

    @cached_property
    def analysed(self) -> npt.NDArray[np.bool_]:
        """Units in the masks of all runs that went into the group maps, (n_units,)."""
        made_from = [Provenance.read(image.metadata, image.path) for image in self.maps]
        runs = {run.partition("_run-")[0] for run in Provenance.union(made_from).runs}
        masks = self.files("sub-*/**/func/*_desc-brain_mask.nii.gz")
        grouped = [path for path in masks if path.name.partition("_space-")[0] in runs]
        distinct = {path.read_bytes(): path for path in grouped}  # most are alike
        analysed = np.ones(self.dataset.space.n_units, dtype=bool)
        for path in distinct.values():
            analysed &= self.values(path) > 0
        return analysed

    def unit_map(self, image: Path) -> npt.NDArray[np.float32]:
        """Read a map of the analysis: (n_units,), NaN outside the mask, where the image has 0."""
        return np.where(self.analysed, self.values(image), np.nan).astype(np.float32)

    @cached_property
    def maps(self) -> tuple[GroupMap, ...]:
        """The group's effect maps: those against the off prompts first, in the tasks' order."""
        paths = self.files("group/*_stat-effect_statmap.nii.gz")
        order = {task: number for number, task in enumerate(self.tasks)}
        maps = [GroupMap(path, sidecar(path)) for path in paths]
        maps.sort(key=lambda image: (not image.is_against_off, order.get(image.task, len(order))))
        return tuple(maps)

    @cached_property
    def condition_maps(self) -> tuple[GroupMap, ...]:
        """The maps of one condition against the off prompts."""
        return tuple(group_map for group_map in self.maps if group_map.is_against_off)

    @cached_property
    def findings(self) -> Findings | None:
        """What was found about the networks, where the group level found anything."""
        return None if self.analysis is None else Findings.load(self.analysis)

    @cached_property
    def networks(self) -> dict[str, TaskNetwork]:
        """The networks against the off prompts that the group level wrote, by label."""
        networks = () if self.findings is None else self.findings.networks
        return {network.label: network for network in networks if network.against == "off"}

    def network(self, group_map: GroupMap) -> Network:
        """Give the network of a contrast that the group level wrote, or the strongest `SHARE`."""
        if group_map.contrast in self.networks:
            return self.networks[group_map.contrast].network
        stats = [stat for stat in ("effect", "cohensd", "t") if group_map.other(stat).exists()]
        maps = {stat: self.unit_map(group_map.other(stat)).astype(float) for stat in stats}
        units = select_units(maps["effect"], top_percent=100 * SHARE)
        return make_network(
            self.dataset.space,
            units,
            {stat: values[units] for stat, values in maps.items()},
            label=group_map.contrast,
            provenance=Provenance(),
            criterion=f"top {100 * SHARE:g} % |effect|",
        )

    def values(self, image: Path) -> npt.NDArray[np.float64]:
        """Read any map of the dataset's units: (n_units,)."""
        prints = (self.dataset.fingerprint, self.dataset.space.fingerprint())
        return unit_values(image, self.dataset.space, fingerprint=prints)


def find_sources(
    out_dir: Path, *, bids_dir: Path | None = None, analysis_dir: Path | None = None
) -> Sources:
    """Find dataset and analysis, in a folder as `write_report` takes it or where they are named."""
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
    localizers = localizer_files(out_dir, analysis)
    linked = [*_linked(analysis), *map(localized_dataset, localizers)]
    candidates = [bids_dir] if bids_dir else [out_dir, out_dir / "dataset", *linked]
    folder = next(filter(is_dataset, candidates), None)
    if folder is None:
        raise UsageError(
            f"{bids_dir or out_dir}: no dataset of llm2bids there, in its folder 'dataset' or "
            "linked from an analysis; name it: --dataset BIDS_DIR"
        )
    dataset = open_dataset(folder)
    if not dataset.runs:
        raise UsageError(
            f"{dataset.path}: the dataset has no run to report on; record one with "
            f"`llm2bids record {dataset.path}`"
        )
    return Sources(
        dataset=dataset,
        analysis=analysis if is_analysis(analysis) else None,
        analysis_dir=analysis,
        localizers=tuple(localizers),
    )


def localizer_files(*folders: Path) -> list[Path]:
    """List what `llm2bids localize` wrote to folders, or to a folder in them."""
    patterns = ("*_localizer.json", "*/*_localizer.json")
    return sorted({path for folder in folders for p in patterns for path in data_files(folder, p)})


def localized_dataset(path: Path) -> Path:
    """Give the dataset that a localizer was read into, as its result has it."""
    return path.parent / str(read_object(path).get("dataset", ""))


def _linked(analysis: Path) -> list[Path]:
    links = read_object(analysis / "dataset_description.json").get("DatasetLinks")
    raw = links.get("raw") if isinstance(links, dict) else None
    return [analysis / raw] if isinstance(raw, str) and "://" not in raw else []


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one where there is no file."""
    return read_json(path) if path.exists() else {}


def sidecar(path: Path) -> dict[str, Any]:
    """Read what the sidecar of an image or a table says."""
    return read_json(layout.sidecar(path))
