"""Fitting and writing the first level of one participant and task."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.dataset.layout import Run, sidecar
from llm2bids.exceptions import InferenceError, Llm2bidsError
from llm2bids.inference.first_level import STATS
from llm2bids.inference.inputs import Inputs, open_sessions
from llm2bids.inference.options import AnalysisOptions, Memory, ParticipantSelection
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.runs import RunData, TaskFit, fit_task
from llm2bids.inference.statmap import MapWriter, map_entries, map_path, sentence, write_json
from llm2bids.store.files import data_files
from llm2bids.store.tables import write_table

# Units of each map: an effect of 1 is one standard deviation of the unit at rest.
UNITS = {
    "effect": "calibration standard deviations",
    "variance": "squared calibration standard deviations",
    "t": "arbitrary",
    "z": "arbitrary",
}


def caution(options: AnalysisOptions) -> str | None:
    """Say the measured inflation of a model that does not keep its nominal error rate."""
    if options.unit_of_analysis == "token":
        return sentence("tokens")
    return None if options.noise == "ols" else sentence("prompts_autoregressive")


# Participant and task, the files that were written, and why not more.
Fit = tuple[tuple[str, str], list[Path], str | None]


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The participant level of a dataset: what is fitted, how, and where its maps go."""

    bids_dir: Path
    out_dir: Path
    selection: ParticipantSelection
    options: AnalysisOptions
    memory: Memory
    n_cpus: int = 1

    def choose(self) -> list[tuple[Inputs, tuple[str, str], Sequence[Run]]]:
        """Choose the runs of each session, participant and task."""
        asked = {"participant_label": self.selection.participant_label, "task": self.selection.task}
        return [
            (session, key, runs)
            for session in open_sessions(self.bids_dir, self.selection, use=self.options.use)
            for key, runs in session.choose(**asked).items()
        ]

    def fit_on_cluster(self, participants: Sequence[str]) -> Iterator[Fit]:
        """Let workers of a cluster fit participants: one each, or `n_cpus` where that is more."""
        from llm2bids.scan.workers import cluster_pool, run_tasks

        n_workers = self.n_cpus if self.n_cpus > 1 else len(participants)
        alone = [replace(self.selection, participant_label=(label,)) for label in participants]
        tasks = [(replace(self, selection=selection, n_cpus=1),) for selection in alone]
        with cluster_pool(str(self.selection.cluster), n_workers) as pool:
            for fits in run_tasks(pool, Analysis.fit_all, tasks):
                yield from fits

    def fit_all(self) -> list[Fit]:
        """Fit everything, in a process that opens the dataset by itself."""
        return [self.fit(*chosen) for chosen in self.choose()]

    def fit(self, inputs: Inputs, key: tuple[str, str], runs: Sequence[Run]) -> Fit:
        """Fit and write one participant and task; give the reason where that is not possible."""
        stale = self.out_dir / map_path("*", sub=key[0], ses=inputs.session, task=key[1])
        for path in data_files(stale.parent, stale.name):  # what an earlier call wrote
            path.unlink()
        try:
            if not runs:
                raise InferenceError(
                    "the run is missing, other participants have it; record the dataset again to "
                    "add it"
                )
            loaded = [inputs.load(run) for run in runs]
            mem_gb = 1.0 if self.memory.mem_gb is None else self.memory.mem_gb / self.n_cpus
            model = fit_task(loaded, self.options, mem_gb=mem_gb, work_dir=self.memory.folder)
            files = self._write(inputs, loaded, model)
        except Llm2bidsError as error:
            session = "" if inputs.session is None else f"ses-{inputs.session}: "
            return key, [], f"{session}{error}"
        return key, files, None

    def _write(self, inputs: Inputs, runs: Sequence[RunData], model: TaskFit) -> list[Path]:
        """Write the maps, mask and design matrices of one participant and task."""
        run, fit, warning = runs[0].run, model.fit, caution(self.options)
        derivative = inputs.dataset.derivative
        names = {"sub": run.participant_label, "ses": run.session, "task": run.task}
        metadata = {
            **({} if warning is None else {"Caution": warning}),
            "Sources": [
                f"bids:llm2bids:{data.run.preproc.relative_to(derivative).as_posix()}"
                for data in runs
            ],
            "TaskLabel": run.task,
            "UnitOfAnalysis": self.options.unit_of_analysis,
            "ModelParameters": self.options.parameters(),
            "DegreesOfFreedom": fit.dof,
            "ConstantUnits": int(fit.constant.sum()),
            **map_entries(inputs.dataset, task_provenance(runs)),
        }
        writer = MapWriter(
            out_dir=self.out_dir,
            space=inputs.space,
            voxels=inputs.voxels,
            names={**names, "space": inputs.space.label},
            metadata=metadata,
        )
        files: list[Path] = []
        more: dict[str, object] = {}
        for (label, expression), stat in product(model.contrasts.items(), STATS):
            description = f"{stat} of the contrast {expression!r} of one participant."
            more = {"ContrastLabel": label, "Contrast": expression}
            more |= {"StatisticType": stat, "Units": UNITS[stat]}
            values = fit.maps[label, stat]
            files.append(writer.write(values, description, more=more, contrast=label, stat=stat))
        for stat, description, values in (
            ("rsquared", "Share of variance that the design explains.", fit.r_squared),
            ("residualar1", "Lag-1 autocorrelation of the residuals.", fit.residual_ar1),
        ):
            more = {"Quantiles": _quantiles(values)}
            files.append(writer.write(values, description, more=more, stat=stat))
        modelled, more = np.ones(len(inputs.voxels), dtype=np.bool_), {"Type": "Brain"}
        description = "Units that were modelled."
        files.append(writer.write(modelled, description, more=more, suffix="mask", desc="brain"))
        return files + [
            self._write_design(data, design)
            for data, design in zip(runs, model.designs, strict=True)
        ]

    def _write_design(self, data: RunData, design: pd.DataFrame) -> Path:
        run = data.run
        names = {"sub": run.participant_label, "ses": run.session, "task": run.task, "run": run.run}
        path = self.out_dir / map_path("design.tsv", **names)
        write_table(path, design)
        rows = (
            {"Rows": "prompts", "PromptIds": data.trials["prompt_id"].tolist()}
            if self.options.unit_of_analysis == "prompt"
            else {"Rows": "volumes", "RepetitionTime": data.t_r}
        )
        metadata = {
            "Description": "Design matrix.",
            "Columns": [str(column) for column in design.columns],
            **rows,
            "ModelParameters": self.options.parameters(),
        }
        write_json(sidecar(path), metadata)
        return path


def task_provenance(runs: Sequence[RunData]) -> Provenance:
    """Say what the maps of one participant and task are made from."""
    return Provenance.union(Provenance.of_run(data.run, data.trials["prompt_id"]) for data in runs)


def _quantiles(values: npt.NDArray[np.float32]) -> dict[str, float]:
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    quantiles = np.quantile(values, shares) if values.size else np.zeros(len(shares))
    return {f"{share}": round(float(q), 4) for share, q in zip(shares, quantiles, strict=True)}
