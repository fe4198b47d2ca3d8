"""Section: quality of the recording."""

import logging
import sys
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup
from tqdm import tqdm

from llm2bids.dataset.read import Run
from llm2bids.report.carpet import carpet_figure, carpet_units
from llm2bids.report.draw.chart import Line, line_chart
from llm2bids.report.draw.color import task_color
from llm2bids.report.layers import Depth, depth_of
from llm2bids.report.section import Section, render
from llm2bids.report.sources import Sources
from llm2bids.space.image import BASELINE, COUNTS_PER_SD

log = logging.getLogger(__name__)

MOST_RUNS = 12
"""Runs whose volumes are read, spread over tasks and participants."""

_BLOCK = 32_768
"""Units that are summed up at once."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RunQuality:
    """What the volumes of a run tell.

    Parameters
    ----------
    run : Run
        The run.
    tsnr : ndarray of float64, shape (n_levels,)
        Median over the units of each level of mean over standard deviation in time.
    spread : ndarray of float64, shape (n_levels,)
        Median over the units of the standard deviation in time, in calibration sd.
    positions : DataFrame
        ``position``, ``is_on``, ``rms``: size of the values by position in the answer, as root
        mean square over units in calibration sd.
    carpet : Markup
        The carpet plot.
    """

    run: Run
    tsnr: Floats
    spread: Floats
    positions: pd.DataFrame
    carpet: Markup = field(repr=False)


def quality_section(sources: Sources, *, progress: bool = True) -> Section:
    """Judge the recording.

    Parameters
    ----------
    sources : Sources
        The dataset.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    Section
        Clipped values, effect of the first token, carpet plots, temporal signal-to-noise.
    """
    dataset, depth = sources.dataset, depth_of(sources.dataset.space)
    chosen = spread_runs(sources)
    bar = tqdm(chosen, desc="quality", file=sys.stderr, disable=not progress)
    found = [run_quality(sources, run, depth) for run in bar]
    tokens = pd.concat([dataset.transcript(run) for run in dataset.runs], ignore_index=True)
    clipped = clipped_table(sources)
    return Section(
        name="quality",
        title="Quality",
        body=render(
            "quality.html",
            clipped=clipped,
            worst=float(np.nanmax(clipped.to_numpy())),
            constant=sum(int(dataset.sidecar(run).get("NumberOfConstantUnits", 0))
                         for run in dataset.runs),
            carpets=[(one.run, one.carpet) for one in found],
            n_read=len(found),
            n_runs=len(dataset.runs),
            tsnr=_by_layer(sources, found, depth, "tsnr"),
            spread=_by_layer(sources, found, depth, "spread"),
            tasks=[(task, task_color(sources.color(task))) for task in sources.tasks],
            surprisal=_surprisal(tokens),
            size=_size(found),
            at_rest=BASELINE / COUNTS_PER_SD,
            first_kept=bool(dataset.settings.get("keep_first")),
        ),
    )  # fmt: skip


def spread_runs(sources: Sources, most: int = MOST_RUNS) -> list[Run]:
    """Choose runs to read: every task in turn, each time from the next participant.

    Parameters
    ----------
    sources : Sources
        The dataset.
    most : int
        Largest number of runs.

    Returns
    -------
    list of Run
        At least one of each task where `most` allows.
    """
    by_task = {
        task: [run for run in sources.dataset.runs if run.task == task] for task in sources.tasks
    }
    chosen: list[Run] = []
    for turn in range(max(len(runs) for runs in by_task.values())):
        for place, runs in enumerate(by_task.values()):
            if turn < len(runs) and len(chosen) < most:
                chosen.append(runs[(place + turn) % len(runs)])
    return chosen


def run_quality(sources: Sources, run: Run, depth: Depth) -> RunQuality:
    """Read the volumes of a run and sum them up.

    Parameters
    ----------
    sources : Sources
        The dataset.
    run : Run
        The run.
    depth : Depth
        Levels of the space.

    Returns
    -------
    RunQuality
        By level and by position in the answer.
    """
    dataset = sources.dataset
    values = dataset.values(run)
    calibration = dataset.calibration
    values -= calibration.mean
    values /= np.where(calibration.sd > 0, calibration.sd, 1)
    n_volumes, n_units = values.shape
    mean, sd = np.empty(n_units), np.empty(n_units)
    squares = np.zeros(n_volumes)
    for start in range(0, n_units, _BLOCK):
        block = slice(start, start + _BLOCK)
        mean[block] = values[:, block].mean(axis=0, dtype=np.float64)
        sd[block] = values[:, block].std(axis=0, dtype=np.float64)
        squares += np.square(np.clip(values[:, block], -10, 10)).sum(axis=1, dtype=np.float64)
    tsnr = np.divide(
        BASELINE + COUNTS_PER_SD * mean,
        COUNTS_PER_SD * sd,
        out=np.full(n_units, np.nan),
        where=sd > 0,
    )
    tokens = dataset.transcript(run).dropna(subset=["volume"])
    is_on = tokens["trial_type"].fillna("").astype(str) != ""
    positions = pd.DataFrame(
        {
            "position": tokens["position"].to_numpy(),
            "is_on": is_on.to_numpy(),
            "rms": np.sqrt(squares / n_units)[tokens["volume"].to_numpy(dtype=np.intp)],
        }
    )
    rows = carpet_units(depth)
    return RunQuality(
        run=run,
        tsnr=_medians(tsnr, depth),
        spread=_medians(sd, depth),
        positions=positions,
        carpet=carpet_figure(sources, run, values[:, rows], depth, rows),
    )


def clipped_table(sources: Sources) -> pd.DataFrame:
    """Count clipped values, from the sidecars of all runs.

    Parameters
    ----------
    sources : Sources
        The dataset.

    Returns
    -------
    DataFrame
        Clipped values in a million, float64; rows are participants, columns tasks; NaN without
        run.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for run in sources.dataset.runs:
        about = sources.dataset.sidecar(run)
        size = int(about.get("NumberOfVolumes", 0)) * int(about.get("NumberOfUnits", 0))
        one = counts.setdefault((run.participant_label, run.task), [0, 0])
        one[0] += int(about.get("NumberOfClippedValues", 0))
        one[1] += size
    table = pd.Series({key: 1e6 * n / (size or 1) for key, (n, size) in counts.items()}).unstack()
    return table.reindex(columns=list(sources.tasks))


def _medians(values: Floats, depth: Depth) -> Floats:
    return np.array(
        [np.nanmedian(values[depth.of_unit == level]) if np.isfinite(
            values[depth.of_unit == level]).any() else np.nan for level in range(len(depth.labels))]
    )  # fmt: skip


def _by_layer(sources: Sources, found: list[RunQuality], depth: Depth, name: str) -> Markup:
    lines = []
    for task in sources.tasks:
        levels = [getattr(one, name) for one in found if one.run.task == task]
        if levels:
            lines.append(
                Line(
                    name=task,
                    x=list(range(len(depth.labels))),
                    y=np.mean(levels, axis=0).tolist(),
                    color=task_color(sources.color(task)),
                )
            )
    what = {
        "tsnr": ("mean over sd in time", "Temporal signal-to-noise by layer"),
        "spread": ("sd in time, in rest sd", "Standard deviation in time by layer"),
    }[name]
    values = np.concatenate([line.y for line in lines])
    alt = f"{what[1]}, one line a task: {np.nanmin(values):.1f} to {np.nanmax(values):.1f}."
    return line_chart(lines, x_label="layer", y_label=what[0], alt=alt, x_ticks=depth.ticks())


def _surprisal(tokens: pd.DataFrame) -> Markup | None:
    """Draw how unexpected tokens are by their position, which shows what the first one is."""
    if tokens["position"].nunique() < 2:
        return None
    is_on = tokens["trial_type"].fillna("").astype(str) != ""
    lines = []
    for kind, color, dashed in ((True, "var(--accent)", False), (False, "var(--mute)", True)):
        mean = tokens[is_on == kind].groupby("position")["surprisal"].mean()
        if len(mean):
            lines.append(Line(name="on" if kind else "off", x=mean.index.tolist(),
                              y=mean.tolist(), color=color, dashed=dashed))  # fmt: skip
    first = {line.name: line.y[0] for line in lines}
    alt = "Mean surprisal by position in the answer; first token: " + ", ".join(
        f"{name} {value:.1f} bit" for name, value in first.items()
    )
    return _positions(lines, y_label="surprisal (bit)", alt=alt)


def _size(found: list[RunQuality]) -> Markup | None:
    """Draw the size of the recorded values by position in the answer."""
    every = pd.concat([one.positions for one in found])
    if every["position"].nunique() < 2:
        return None
    lines = []
    for kind, color, dashed in ((True, "var(--accent)", False), (False, "var(--mute)", True)):
        mean = every[every["is_on"] == kind].groupby("position")["rms"].mean()
        if len(mean):
            lines.append(Line(name="on" if kind else "off", x=mean.index.tolist(),
                              y=mean.tolist(), color=color, dashed=dashed))  # fmt: skip
    alt = "Root mean square of the recorded values by position in the answer, on and off prompts."
    return _positions(lines, y_label="size (rest sd)", alt=alt)


def _positions(lines: list[Line], *, y_label: str, alt: str) -> Markup:
    ticks = {float(n): str(n) for line in lines for n in line.x}
    step = max(1, len(ticks) // 12)
    ticks = {n: label for n, label in ticks.items() if n % step == 0}
    return line_chart(
        lines, x_label="position in the answer", y_label=y_label,
        alt=alt, x_ticks=ticks, height=200,
    )  # fmt: skip
