"""What a BIDS Stats Model fits on a dataset: pybids' nodes, taken apart before anything is fitted.

pybids reads tables, transforms variables and groups maps; each model of a node is an `Estimate`.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bids.layout import BIDSLayout, BIDSLayoutIndexer
from bids.modeling import BIDSStatsModelsGraph
from nilearn.glm.first_level import make_first_level_design_matrix

from llm2bids.exceptions import InferenceError, Llm2bidsError, UsageError
from llm2bids.inference.design import checked_design
from llm2bids.inference.stats_model import LEVELS, StatsModel, contrast_weights
from llm2bids.inference.stats_model_estimate import (
    ENTITIES,
    Estimate,
    ModelContrast,
    alphanumeric,
)

log = logging.getLogger(__name__)

SERIES = {"suffix": "bold", "desc": "preproc", "extension": [".nii", ".nii.gz"]}
_REFUSALS = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError),
    NotImplementedError,
)
"""What pybids raises where a model or a table does not fit."""


@contextmanager
def open_layout(bids_dir: Path, derivatives: Sequence[Path]) -> Iterator[BIDSLayout]:
    """Index a dataset with pybids, and close its database at the end."""
    for path in (bids_dir, *derivatives):
        if not (path / "dataset_description.json").is_file():
            raise UsageError(
                f"{path}: has no dataset_description.json; expected a BIDS dataset"
                + ("" if path == bids_dir else ", or name the derivative: --derivatives DIR")
            )
    try:
        layout = BIDSLayout(
            bids_dir,
            derivatives=list(derivatives),
            validate=False,
            indexer=BIDSLayoutIndexer(validate=False),
        )
    except _REFUSALS as error:
        raise UsageError(f"{bids_dir}: pybids cannot read it: {error}") from None
    try:
        yield layout
    finally:
        layout.session.close()
        layout.connection_manager.engine.dispose()


def plan_estimates(
    layout: BIDSLayout,
    model: StatsModel,
    selectors: Mapping[str, Any],
    files: Sequence[str] | None,
    *,
    level: str,
    drop_missing: bool,
) -> list[Estimate]:
    """List what is to be fitted up to a level, each after what it takes its maps from.

    `selectors` choose series by entity, `files` (of a BIDS filter) some of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pybids' own, of pandas and of what is checked below
        with _refused(model.path, "pybids"):
            graph = BIDSStatsModelsGraph(layout, model.content)
            graph.load_collections(**{**SERIES, **selectors})
        plan = _Plan(layout, model, files, LEVELS.index(level), drop_missing)
        plan.add_runs(graph.root_node)
    paths: dict[Path, str] = {}
    for estimate in plan.estimates:
        for contrast in estimate.contrasts:
            other = paths.setdefault(contrast.path("effect"), contrast.info.name)
            if other is not contrast.info.name:
                raise UsageError(
                    f"{model.path}: {estimate.name}: contrasts {other!r} and "
                    f"{contrast.info.name!r} would be the same file; rename one, or group by an "
                    "entity that tells them apart"
                )
    return plan.estimates


@contextmanager
def _refused(path: Path, where: str) -> Iterator[None]:
    try:
        yield
    except Llm2bidsError:
        raise
    except _REFUSALS as error:
        raise InferenceError(f"{path}: {where}: {str(error) or type(error).__name__}") from None


class _Plan:
    """The estimates as they are found, node after node."""

    def __init__(
        self,
        layout: BIDSLayout,
        model: StatsModel,
        files: Sequence[str] | None,
        highest: int,
        drop_missing: bool,
    ) -> None:
        self.layout, self.model, self.files, self.highest = layout, model, files, highest
        self.estimates: list[Estimate] = []
        self._run_options = {
            "missing_values": "ignore",
            "invalid_inputs": "drop" if drop_missing else "error",
        }
        self._drop_missing = drop_missing

    def add_runs(self, node: Any) -> None:
        """Add the estimates of the runs, and of all nodes after."""
        with _refused(self.model.path, f"node {node.name}"):
            outputs = node.run(None, group_by=node.group_by, **self._run_options)
        done: dict[str, Estimate] = {}
        for output in outputs:
            collections = node.get_collections(**output.entities)
            infos = {info.image: info for each in collections for info in _run_infos(each)}
            series = sorted(infos)
            if len(series) != 1:
                raise UsageError(
                    f"{self.model.path}: node {node.name}: {len(series)} series in one model, "
                    f"{', '.join(Path(name).name for name in series[:3])}; GroupBy is "
                    f"{', '.join(node.group_by)}, expected the entities that tell runs apart "
                    "(subject, session, task, run)"
                )
            (path,) = series
            # pybids gives a run without an entity to every value of it: it is fitted once
            if path in done or (self.files is not None and path not in self.files):
                continue
            done[path] = self._run(node, output, infos[path])
        if not done:
            raise UsageError(f"{self.model.path}: node {node.name}: no series is chosen")
        self._add(node, list(done.values()))

    def _run(self, node: Any, output: Any, info: Any) -> Estimate:
        path, of_file = Path(info.image), self.layout.get_file(info.image).get_entities()
        entities = {name: of_file[name] for name in ENTITIES if name in of_file}
        mask = self.layout.get(
            **{**entities, "suffix": "mask", "desc": "brain", "extension": SERIES["extension"]}
        )
        estimate = Estimate(
            node=alphanumeric(node.name),
            level=node.level,
            meta=False,
            entities=entities,
            design=self._run_design(node, output.data, info, path),
            series=path,
            mask=Path(mask[0].path) if mask else None,
            metadata=self.layout.get_metadata(info.image),
            contrasts=[],
        )
        named = {key: value for key, value in entities.items() if key != "space"}
        for contrast in output.contrasts:
            own = {**named, "contrast": contrast.name}
            self._add_contrast(estimate, contrast._replace(entities=own))
        return estimate

    def _run_design(self, node: Any, data: pd.DataFrame, info: Any, path: Path) -> pd.DataFrame:
        """Complete a run's design as FitLins does: first values, a constant, in its order."""
        data = data.copy()
        for name in data.columns[data.iloc[0].isna()]:
            # defined between a volume and the one before it
            if name in ("framewise_displacement", "std_dvars", "dvars"):
                data.loc[data.index[0], name] = data.loc[data[name] != 0, name].mean()
            elif "derivative1" in name:
                data.loc[data.index[0], name] = 0
        empty = list(data.columns[data.isna().all()])
        if empty and self._drop_missing:
            data = data.drop(columns=empty)
        if (
            len(data) == info.n_vols + 1
            and data.iloc[-1].drop("intercept", errors="ignore").isna().all()
        ):
            data = data.iloc[:-1]
        if len(data) != info.n_vols:
            raise InferenceError(
                f"{path}: {info.n_vols} volumes, its variables have {len(data)} rows; check "
                "RepetitionTime and the confounds"
            )
        data = self._numbers(node, data, path.name).drop(columns="intercept", errors="ignore")
        cutoff = self.model.high_pass(node.name)
        design = make_first_level_design_matrix(
            np.arange(info.n_vols) * info.tr,
            add_regs=data.to_numpy() if data.shape[1] else None,
            add_reg_names=list(data.columns),
            drift_model=None if cutoff is None else "cosine",
            high_pass=cutoff or 0.01,
        ).rename(columns={"constant": "intercept"})
        with _named(f"{self.model.path}: node {node.name}: {path.name}"):
            return checked_design(design)

    def _numbers(self, node: Any, data: pd.DataFrame, where: str) -> pd.DataFrame:
        for name in data.columns:
            column = pd.to_numeric(data[name], errors="coerce")
            if column.isna().any():
                n, first = int(column.isna().sum()), int(np.argmax(column.isna()))
                raise InferenceError(
                    f"{self.model.path}: node {node.name}: {where}: {name} is no number in {n} of "
                    f"{len(data)} rows, first in row {first + 1}; leave the column out, complete "
                    "the table or transform it (Factor makes numbers of words)"
                    + ("; --drop-missing leaves out empty columns" if n == len(data) else "")
                )
            data = data.assign(**{name: column.astype(np.float64)})
        return data

    def _add(self, node: Any, estimates: Sequence[Estimate]) -> None:
        """Take a node's estimates, and go on with the nodes that take their maps."""
        made_names = {item.info.name for estimate in estimates for item in estimate.contrasts}
        dummies = (node.dummy_contrasts or {}).get("contrasts") or []
        unmade = [
            str(name)
            for name in [*(contrast["name"] for contrast in node.contrasts), *dummies]
            # pybids puts the name of the maps that came in before a contrast's own
            if name != 1 and not any(f"_{made}".endswith(f"_{name}") for made in made_names)
        ]
        columns = dict.fromkeys(str(c) for estimate in estimates for c in estimate.design.columns)
        said = (
            f"{self.model.path}: node {node.name}: contrast {', '.join(unmade) or '(any)'} has a "
            f"condition that no design has; the columns are {', '.join(columns)}"
        )
        if not made_names or (unmade and not self._drop_missing):
            raise UsageError(f"{said}; --drop-missing leaves such contrasts out")
        if unmade:
            log.warning("%s; it is left out", said)
        self.estimates += [estimate for estimate in estimates if estimate.contrasts]
        made = {
            id(item.info): item
            for estimate in estimates
            for item in estimate.contrasts
            if item.test != "F"  # the specification's: F contrasts are terminal
        }
        for edge in node.children:
            if LEVELS.index(edge.destination.level) > self.highest:
                continue
            self._add_higher(edge.destination, made, edge.filter or {})

    def _add_higher(
        self, node: Any, made: Mapping[int, ModelContrast], chosen: Mapping[str, Any]
    ) -> None:
        """Add the estimates of a node that takes maps."""
        infos = [item.info for item in made.values()]
        with _refused(self.model.path, f"node {node.name}"):
            outputs = node.run(infos, group_by=node.group_by, **chosen, **self._run_options)
        estimates = []
        for output in outputs:
            rows = pd.concat([output.data, output.metadata], axis=1)
            group = [
                item
                for item in made.values()
                if _matches(item.info.entities, {**chosen, **output.entities})
            ]
            inputs = [self._input(node, row, group) for row in rows.to_dict("records")]
            if not inputs and not group:
                continue  # a group of tables alone
            if len(inputs) != len(group):
                lost = [item.path("effect").name for item in group if item not in inputs]
                raise InferenceError(
                    f"{self.model.path}: node {node.name}: {len(group)} maps, the tables have "
                    f"rows for {len(inputs)}; {', '.join(lost[:3])} lacks one"
                )
            estimates.append(self._higher(node, output, inputs))
        if not estimates:
            raise UsageError(
                f"{self.model.path}: node {node.name}: no map reaches it; filter {dict(chosen)}, "
                f"GroupBy {', '.join(node.group_by)}"
            )
        self._add(node, estimates)

    def _input(
        self, node: Any, row: Mapping[str, Any], group: Sequence[ModelContrast]
    ) -> ModelContrast:
        matching = [item for item in group if _matches(item.info.entities, row)]
        if len(matching) != 1:
            raise InferenceError(
                f"{self.model.path}: node {node.name}: a row of its design matches "
                f"{len(matching)} maps; expected one"
            )
        return matching[0]

    def _higher(self, node: Any, output: Any, inputs: Sequence[ModelContrast]) -> Estimate:
        meta = self.model.node(node.name)["Model"]["Type"] == "meta"
        entities = {key: value for key, value in output.entities.items() if key in ENTITIES}
        spaces = {item.estimate.entities.get("space") for item in inputs}
        entities |= {} if None in spaces else {"space": spaces.pop()}
        estimate = Estimate(
            node=alphanumeric(node.name),
            level=node.level,
            meta=meta,
            entities=entities,
            design=self._numbers(node, output.data, str(dict(output.entities))),
            metadata=inputs[0].estimate.metadata,
            inputs=tuple(inputs),
            contrasts=[],
        )
        n_maps, n_columns = estimate.design.shape
        rank = int(np.linalg.matrix_rank(estimate.design.to_numpy()))
        if rank < n_columns:
            raise InferenceError(
                f"{self.model.path}: {estimate.name}: columns "
                f"{', '.join(map(str, estimate.design.columns))} are linearly dependent over "
                f"{n_maps} maps"
            )
        if not meta and n_maps <= rank:
            raise InferenceError(
                f"{self.model.path}: {estimate.name}: {n_maps} map(s) for {n_columns} column(s) "
                "leave nothing to estimate a variance from; Model.Type 'meta' takes the variances "
                "of the maps"
            )
        for contrast in output.contrasts:
            if meta and contrast.test == "F":
                raise UsageError(
                    f"{self.model.path}: {estimate.name}: contrast {contrast.name}: test F of a "
                    "meta-analysis is not computed; expected t or pass"
                )
            self._add_contrast(estimate, contrast)
        return estimate

    def _add_contrast(self, estimate: Estimate, info: Any) -> None:
        columns = list(estimate.design.columns)
        if any(name not in columns for name in info.conditions):
            return  # left out with --drop-missing
        rows = np.array(contrast_weights(info.weights))
        weights = np.zeros((len(rows), len(columns)))
        for name, of_condition in zip(info.conditions, rows.T, strict=True):
            weights[:, columns.index(name)] += of_condition
        estimate.contrasts.append(
            ModelContrast(
                label=alphanumeric(info.name),
                weights=weights if info.test == "F" else weights[0],
                test=info.test,
                info=info,
                estimate=estimate,
            )
        )


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say of which run an error is."""
    try:
        yield
    except InferenceError as error:
        raise InferenceError(f"{where}: {error}") from None


def _run_infos(collection: Any) -> list[Any]:
    """Give pybids' facts of the series of a collection's variables."""
    infos = next(iter(collection.variables.values())).run_info
    return infos if isinstance(infos, list) else [infos]


def _matches(entities: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether entities agree with values, or with one of a list of them, where both say."""
    return all(
        entities[key] in value if isinstance(value, list) else entities[key] == value
        for key, value in wanted.items()
        if key in entities
    )
