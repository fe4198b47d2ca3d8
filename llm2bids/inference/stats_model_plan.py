"""What a BIDS Stats Model fits on a dataset: pybids' nodes, taken apart before anything is fitted.

pybids reads tables, transforms variables and groups maps; each model of a node is an `Estimate`.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from bids.layout import BIDSLayout
from bids.modeling import BIDSStatsModelsGraph
from nilearn.glm.first_level import make_first_level_design_matrix

from llm2bids.exceptions import InferenceError, Llm2bidsError, UsageError
from llm2bids.inference.design import checked_design
from llm2bids.inference.stats_model import LEVELS, StatsModel, contrast_weights

log = logging.getLogger(__name__)

SERIES = {"suffix": "bold", "desc": "preproc", "extension": [".nii", ".nii.gz"]}
# pybids' names of the entities that a map's name has, in the order of BIDS.
ENTITIES = {
    "subject": "sub", "session": "ses", "task": "task", "acquisition": "acq",
    "reconstruction": "rec", "run": "run", "echo": "echo", "space": "space",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelContrast:
    """A contrast of an estimate: weights (n_columns,), or (q, n_columns) of an F test."""

    label: str  # of files: letters and digits
    weights: npt.NDArray[np.float64]
    test: str  # t, F or pass
    info: Any  # pybids' `ContrastInfo`, the input of the next node
    estimate: "Estimate"

    def path(self, stat: str) -> Path:
        """File of one of its maps, relative to the output folder."""
        names = {"contrast": self.label, "stat": stat}
        return self.estimate.path("statmap.nii.gz", **names)


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """One model of a node: a run's series, or the maps of the node before it, and a design."""

    node: str  # label of its folder
    level: str
    meta: bool  # weighted sums of maps with their variances, in place of a linear model
    entities: dict[str, Any]
    design: pd.DataFrame  # a row for each volume or map
    series: Path | None = None  # of a run
    mask: Path | None = None
    metadata: Mapping[str, Any]  # of the series
    inputs: tuple[ModelContrast, ...] = ()
    contrasts: list[ModelContrast]

    @property
    def name(self) -> str:
        """What messages call it."""
        parts = [f"{key}-{value}" for key, value in self.entities.items() if key != "space"]
        return f"node {self.node}{', ' if parts else ''}{' '.join(parts)}"

    def path(self, suffix: str, **more: str) -> Path:
        """File relative to the output folder, as FitLins names it, with the space."""
        parts = [
            f"{short}-{self.entities[entity]}"
            for entity, short in ENTITIES.items()
            if entity in self.entities and not (suffix.startswith("design") and short == "space")
        ]
        folder = Path(f"node-{self.node}", *(p for p in parts if p.startswith(("sub-", "ses-"))))
        return folder / "_".join([*parts, *(f"{k}-{v}" for k, v in more.items()), suffix])

    def runs(self) -> list["Estimate"]:
        """List the runs that it was made from."""
        if self.series is not None:
            return [self]
        of_inputs = [run for item in self.inputs for run in item.estimate.runs()]
        return list({id(run): run for run in of_inputs}.values())


def _alphanumeric(name: str) -> str:
    """Make a label of letters and digits, as FitLins does.

    >>> _alphanumeric("pathology_edited"), _alphanumeric("trial_type.tea"), _alphanumeric("run")
    ('pathologyEdited', 'trialTypeTea', 'run')
    """
    first, *rest = re.sub("[^a-zA-Z0-9]", "_", name).split("_")
    return first + "".join(word.title() for word in rest)


# What pybids raises where a model or a table does not fit.
REFUSALS = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError),
    NotImplementedError,
)


@contextmanager
def _refused(where: str) -> Iterator[None]:
    """Say of what part of a model pybids complains."""
    try:
        yield
    except Llm2bidsError:
        raise
    except REFUSALS as error:
        raise InferenceError(f"{where}: {str(error) or type(error).__name__}") from None


@dataclass(kw_only=True)
class Plan:
    """The estimates as they are found, node after node up to a level."""

    layout: BIDSLayout
    model: StatsModel
    files: Sequence[str] | None  # of a BIDS filter: some of the series
    level: str
    drop_missing: bool
    estimates: list[Estimate] = field(default_factory=list)

    def make(self, selectors: Mapping[str, Any]) -> list[Estimate]:
        """List what is to be fitted, each after what it takes its maps from.

        `selectors` choose series by entity.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pybids' own, of pandas and of what is checked below
            with _refused(f"{self.model.path}: pybids"):
                graph = BIDSStatsModelsGraph(self.layout, self.model.content)
                graph.load_collections(**{**SERIES, **selectors})
            self._add_runs(graph.root_node)
        names: dict[Path, str] = {}
        for contrast in chain(*(estimate.contrasts for estimate in self.estimates)):
            other = names.setdefault(contrast.path("effect"), contrast.info.name)
            if other is not contrast.info.name:
                raise UsageError(
                    f"{self.model.path}: {contrast.estimate.name}: contrasts {other!r} and "
                    f"{contrast.info.name!r} would be the same file; rename one, or group by an "
                    "entity that tells them apart"
                )
        return self.estimates

    def _at(self, node: Any) -> str:
        """Say where a message is about."""
        return f"{self.model.path}: node {node.name}"

    def _run_node(self, node: Any, infos: list[Any] | None = None, **chosen: Any) -> list[Any]:
        """Let pybids make the designs and contrasts of a node."""
        invalid = "drop" if self.drop_missing else "error"
        options = {"missing_values": "ignore", "invalid_inputs": invalid}
        with _refused(self._at(node)):
            return list(node.run(infos, group_by=node.group_by, **chosen, **options))

    def _add_runs(self, node: Any) -> None:
        """Add the estimates of the runs, and of all nodes after."""
        done: dict[str, Estimate] = {}
        for output in self._run_node(node):
            collections = node.get_collections(**output.entities)
            infos = {info.image: info for each in collections for info in _run_infos(each)}
            series = sorted(infos)
            if len(series) != 1:
                raise UsageError(
                    f"{self._at(node)}: {len(series)} series in one model, "
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
            raise UsageError(f"{self._at(node)}: no series is chosen")
        self._add(node, list(done.values()))

    def _run(self, node: Any, output: Any, info: Any) -> Estimate:
        path, of_file = Path(info.image), self.layout.get_file(info.image).get_entities()
        entities = {name: of_file[name] for name in ENTITIES if name in of_file}
        mask = self.layout.get(**{**entities, **SERIES, "suffix": "mask", "desc": "brain"})
        estimate = Estimate(
            node=_alphanumeric(node.name),
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
            named["contrast"] = contrast.name
            self._add_contrast(estimate, contrast._replace(entities=dict(named)))
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
        if self.drop_missing:
            data = data.dropna(axis="columns", how="all")
        last = data.iloc[-1].drop("intercept", errors="ignore")
        if len(data) == info.n_vols + 1 and last.isna().all():
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
        try:
            return checked_design(design)
        except InferenceError as error:
            raise InferenceError(f"{self._at(node)}: {path.name}: {error}") from None

    def _numbers(self, node: Any, data: pd.DataFrame, where: str) -> pd.DataFrame:
        numbers: pd.DataFrame = data.apply(pd.to_numeric, errors="coerce").astype(np.float64)
        for name in numbers.columns[numbers.isna().any()]:
            missing = numbers[name].isna()
            n, first = int(missing.sum()), int(np.argmax(missing))
            raise InferenceError(
                f"{self._at(node)}: {where}: {name} is no number in {n} of {len(data)} rows, first "
                f"in row {first + 1}; leave the column out, complete the table or transform it "
                "(Factor makes numbers of words)"
                + ("; --drop-missing leaves out empty columns" if n == len(data) else "")
            )
        return numbers

    def _add(self, node: Any, estimates: Sequence[Estimate]) -> None:
        """Take a node's estimates, and go on with the nodes that take their maps."""
        made = [item for estimate in estimates for item in estimate.contrasts]
        dummies = (node.dummy_contrasts or {}).get("contrasts") or []
        unmade = [
            str(name)
            for name in [*(contrast["name"] for contrast in node.contrasts), *dummies]
            # pybids puts the name of the maps that came in before a contrast's own
            if name != 1 and not any(f"_{item.info.name}".endswith(f"_{name}") for item in made)
        ]
        columns = dict.fromkeys(str(c) for estimate in estimates for c in estimate.design.columns)
        message = (
            f"{self._at(node)}: contrast {', '.join(unmade) or '(any)'} has a "
            f"condition that no design has; the columns are {', '.join(columns)}"
        )
        if not made or (unmade and not self.drop_missing):
            raise UsageError(f"{message}; --drop-missing leaves such contrasts out")
        if unmade:
            log.warning("%s; it is left out", message)
        self.estimates += [estimate for estimate in estimates if estimate.contrasts]
        for edge in node.children:
            if LEVELS.index(edge.destination.level) <= LEVELS.index(self.level):
                # the specification's: F contrasts are terminal
                inputs = [item for item in made if item.test != "F"]
                self._add_higher(edge.destination, inputs, edge.filter or {})

    def _add_higher(
        self, node: Any, made: Sequence[ModelContrast], chosen: Mapping[str, Any]
    ) -> None:
        """Add the estimates of a node that takes maps."""
        estimates = []
        for output in self._run_node(node, [item.info for item in made], **chosen):
            wanted = {**chosen, **output.entities}
            group = [item for item in made if _matches(item.info.entities, wanted)]
            inputs = []
            for row in pd.concat([output.data, output.metadata], axis=1).to_dict("records"):
                matching = [item for item in group if _matches(item.info.entities, row)]
                if len(matching) != 1:
                    raise InferenceError(
                        f"{self._at(node)}: a row of its design matches {len(matching)} maps; "
                        "expected one"
                    )
                inputs += matching
            if not inputs and not group:
                continue  # a group of tables alone
            if len(inputs) != len(group):
                lost = [item.path("effect").name for item in group if item not in inputs]
                raise InferenceError(
                    f"{self._at(node)}: {len(group)} maps, the tables have "
                    f"rows for {len(inputs)}; {', '.join(lost[:3])} lacks one"
                )
            estimates.append(self._higher(node, output, inputs))
        if not estimates:
            raise UsageError(
                f"{self._at(node)}: no map reaches it; filter {dict(chosen)}, "
                f"GroupBy {', '.join(node.group_by)}"
            )
        self._add(node, estimates)

    def _higher(self, node: Any, output: Any, inputs: Sequence[ModelContrast]) -> Estimate:
        meta = self.model.node(node.name)["Model"]["Type"] == "meta"
        entities = {key: value for key, value in output.entities.items() if key in ENTITIES}
        spaces = {item.estimate.entities.get("space") for item in inputs}
        entities |= {} if None in spaces else {"space": spaces.pop()}
        estimate = Estimate(
            node=_alphanumeric(node.name),
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
                label=_alphanumeric(info.name),
                weights=weights if info.test == "F" else weights[0],
                test=info.test,
                info=info,
                estimate=estimate,
            )
        )


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
