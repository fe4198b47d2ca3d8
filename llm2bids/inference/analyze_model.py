"""The verb of BIDS Stats Models: a dataset's series are chosen, everything planned, then fitted."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bids.layout import BIDSLayout
from joblib import delayed
from tqdm import tqdm

from llm2bids.dataset.bids_filter import filtered_files, pybids_layout, read_bids_filter
from llm2bids.dataset.layout import DERIVATIVE
from llm2bids.exceptions import UsageError
from llm2bids.inference.options import Memory, Processors, StatsModelOptions
from llm2bids.inference.runs import in_parallel
from llm2bids.inference.statmap import start_output
from llm2bids.inference.stats_model import LEVELS, StatsModel, read_stats_model
from llm2bids.inference.stats_model_fit import Fit
from llm2bids.inference.stats_model_plan import ENTITIES, REFUSALS, SERIES, Plan
from llm2bids.options import split_options, takes_options
from llm2bids.store.commit import replace_text
from llm2bids.store.files import data_files
from llm2bids.store.json import to_json

# The model that a folder holds results of.
MODEL_COPY = "model_smdl.json"

# Memory of a block of voxels where nothing is said: larger ones are hardly faster.
_MEM_GB = 0.1


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """What a Stats Model's run wrote.

    Parameters
    ----------
    out_dir : Path
        The output folder.
    files : tuple of Path
        Images and tables, relative to it.
    """

    out_dir: Path
    files: tuple[Path, ...]


@takes_options(StatsModelOptions, Processors, Memory)
def analyze_model(
    bids_dir: Path | str,
    out_dir: Path | str,
    *,
    level: str = "dataset",
    progress: bool = True,
    **options: Any,
) -> ModelResult:
    """Run a BIDS Stats Model on a dataset and its derivative, ours or of people.

    Its nodes are run up to a level; all that is not computed is refused before anything is fitted.
    Effects are per cent of each voxel's mean, as in FitLins.

    Parameters
    ----------
    bids_dir : Path or str
        The raw dataset.
    out_dir : Path or str
        Output folder, empty, new, or made by an earlier call.
    level : str
        ``run``, ``session``, ``subject`` or ``dataset``: the highest nodes that are run.
    progress : bool
        Show a progress bar on stderr.
    **options
        The options of a model.

    Returns
    -------
    ModelResult
        The files.

    Raises
    ------
    Llm2bidsError
        If the model or the dataset does not fit, or a series cannot be read.
    """
    asked, processors, memory = split_options(options, StatsModelOptions, Processors, Memory)
    if asked.model is None:
        raise UsageError("model: found None, expected the file of a BIDS Stats Model")
    if level not in LEVELS:
        raise UsageError(f"level: found {level!r}, expected one of {', '.join(LEVELS)}")
    bids_dir, out_dir = Path(bids_dir), Path(out_dir)
    model = read_stats_model(Path(asked.model))
    derivatives = _derivatives(bids_dir, asked)
    with open_layout(bids_dir, derivatives) as layout:
        selectors = _selectors(layout, model, asked, bids_dir)
        files = None
        if asked.bids_filter_file is not None:
            filters = read_bids_filter(Path(asked.bids_filter_file))
            chosen = filtered_files(layout, filters, bids_dir, **{**SERIES, **selectors})
            files = [str(path) for path in chosen]
        plan = Plan(
            layout=layout, model=model, files=files, level=level, drop_missing=asked.drop_missing
        )
        estimates = plan.make(selectors)
    fits = [
        Fit(
            estimate=estimate,
            out_dir=out_dir,
            model=model,
            options=asked,
            work_dir=memory.folder,
            mem_gb=_MEM_GB if memory.mem_gb is None else memory.mem_gb / processors.n_cpus,
            roots={"raw": bids_dir, **{path.name: path for path in derivatives}},
        )
        for estimate in estimates
    ]
    _start(out_dir, bids_dir, derivatives[0], model)
    of_runs = [delayed(fit.write)() for fit in fits if fit.estimate.series is not None]
    # a node's maps lie in files when it is reached
    of_maps = (fit.write() for fit in fits if fit.estimate.series is None)
    bar = tqdm(
        chain(in_parallel(of_runs, processors.n_cpus), of_maps),
        "models", len(fits), file=sys.stderr, disable=not progress,
    )  # fmt: skip
    written = [path for paths in bar for path in paths]
    return ModelResult(out_dir=out_dir, files=tuple(sorted(written)))


@contextmanager
def open_layout(bids_dir: Path, derivatives: Sequence[Path]) -> Iterator[BIDSLayout]:
    """Index a dataset and its derivatives with pybids, or say why that is not possible."""
    for path in (bids_dir, *derivatives):
        if not (path / "dataset_description.json").is_file():
            raise UsageError(
                f"{path}: has no dataset_description.json; expected a BIDS dataset"
                + ("" if path == bids_dir else ", or name the derivative: --derivatives DIR")
            )
    with ExitStack() as stack:
        try:
            layout = stack.enter_context(pybids_layout(bids_dir, derivatives))
        except REFUSALS as error:
            raise UsageError(f"{bids_dir}: pybids cannot read it: {error}") from None
        yield layout


def _derivatives(bids_dir: Path, asked: StatsModelOptions) -> list[Path]:
    """Find the derivatives with the series: named ones, ours, or the only one there is."""
    if asked.derivatives:
        return [Path(path) for path in asked.derivatives]
    if (bids_dir / DERIVATIVE).is_dir():
        return [bids_dir / DERIVATIVE]
    parent = bids_dir / "derivatives"
    patterns = ("dataset_description.json", "*/dataset_description.json")
    there = [path.parent for pattern in patterns for path in data_files(parent, pattern)]
    if len(there) != 1:
        names = ", ".join(str(path) for path in there) or "none"
        raise UsageError(
            f"{bids_dir}: found {len(there)} derivatives ({names}); name the one with the "
            "preprocessed series: --derivatives DIR"
        )
    return there


def _selectors(
    layout: Any, model: StatsModel, asked: StatsModelOptions, bids_dir: Path
) -> dict[str, Any]:
    """Choose series by the model's Input and what was asked; each value must be there."""
    selectors: dict[str, list[Any]] = dict(model.content.get("Input") or {})
    asked_for = {
        "subject": asked.participant_label,
        "session": asked.session_label,
        "task": asked.task,
        "space": None if asked.space is None else [asked.space],
    }
    for name, given in asked_for.items():
        if given is not None:
            values = [value.removeprefix(f"{ENTITIES[name]}-") for value in given]
            both = [value for value in values if value in selectors.get(name, values)]
            if not both:
                raise UsageError(
                    f"{name} {', '.join(values)}: the model's Input takes only "
                    f"{', '.join(map(str, selectors[name]))}"
                )
            selectors[name] = both
    for name, values in selectors.items():
        there = layout.get(return_type="id", target=name, **SERIES)
        absent = [str(value) for value in values if value not in there]
        if absent:
            raise UsageError(
                f"{bids_dir}: no desc-preproc series of {name} {', '.join(absent)}; there are "
                f"{', '.join(map(str, there)) or 'none'}"
            )
    if "space" not in selectors:
        spaces = layout.get(return_type="id", target="space", **{**SERIES, **selectors})
        if len(spaces) > 1:
            raise UsageError(
                f"{bids_dir}: series in {len(spaces)} spaces, {', '.join(spaces)}; choose: --space"
            )
        selectors |= {"space": spaces} if spaces else {}
    return selectors


def _start(out_dir: Path, bids_dir: Path, derivative: Path, model: StatsModel) -> None:
    """Make the output a derivative dataset; results of another model are not mixed in."""
    copy = out_dir / MODEL_COPY
    text = to_json(model.content)
    if copy.exists() and copy.read_text(encoding="utf-8") != text:
        raise UsageError(
            f"{out_dir}: holds results of another model ({MODEL_COPY}); name another folder"
        )
    start_output(out_dir, bids_dir, derivative)
    replace_text(copy, text)
