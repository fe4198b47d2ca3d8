"""Section: quality of the recording."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup
from tqdm import tqdm

from llm2bids.dataset.layout import Run
from llm2bids.report.draw.chart import Line, line_chart
from llm2bids.report.draw.color import diverging_indices, diverging_palette
from llm2bids.report.draw.svg import drawing, element, palette_png, pixels, rect
from llm2bids.report.layers import Depth, depth_of
from llm2bids.report.section import Section, heat_table, render
from llm2bids.report.sources import Sources
from llm2bids.space.image import BASELINE

MOST_RUNS, MOST_CARPETS = 12, 6
"""Runs whose volumes are read, spread over tasks and participants, and those that are drawn."""

N_ROWS, LIMIT = 300, 2.5  # units in a carpet, about, and standard deviations of full colour
OUTLIER = 5.0  # robust standard deviations from the median
_BLOCK = 32_768  # units that are summed up at once
_LEFT, _WIDTH, _TOP, _HEIGHT = 42.0, 340.0, 16.0, 230.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _RunQuality:
    """What the volumes of a run tell: medians over the units of each level, (n_levels,)."""

    run: Run
    tsnr: Floats  # mean over standard deviation in time, in stored counts
    spread: Floats  # standard deviation in time, in calibration sd
    positions: pd.DataFrame  # position in the answer, is_on, rms over units in calibration sd
    n_outliers: int  # volumes whose rms is more than `OUTLIER` robust sd from the run's median
    carpet: Markup = field(repr=False)


def quality_section(sources: Sources, *, progress: bool = True) -> Section:
    """Show clipped values, carpet plots, signal-to-noise, and what the first token does."""
    dataset, depth = sources.dataset, depth_of(sources.dataset.space)
    chosen = _spread_runs(sources)
    bar = tqdm(chosen, desc="quality", file=sys.stderr, disable=not progress)
    read = [_run_quality(sources, run, depth) for run in bar]
    tokens = pd.concat([dataset.transcript(run) for run in dataset.runs], ignore_index=True)
    tokens["is_on"] = tokens["trial_type"].fillna("").astype(str) != ""
    rows = _run_rows(sources, read)
    body = render(
        "quality.html",
        rows=rows,
        worst=max(row["clipped"] for row in rows),
        outlier=OUTLIER,
        confounds=_confounds_table(sources),
        constant=sum(
            int(dataset.sidecar(run).get("NumberOfConstantUnits", 0)) for run in dataset.runs
        ),
        carpets=[(run_quality.run, run_quality.carpet) for run_quality in read[:MOST_CARPETS]],
        n_read=len(read),
        n_runs=len(dataset.runs),
        tsnr=_by_layer(sources, read, depth, "tsnr"),
        spread=_by_layer(sources, read, depth, "spread"),
        tasks=[(task, sources.color(task)) for task in sources.tasks],
        surprisal=_by_position(tokens, "surprisal", "surprisal (bit)", "Mean surprisal"),
        size=_by_position(
            pd.concat([run_quality.positions for run_quality in read]),
            "rms",
            "size (rest sd)",
            "Root mean square of the recorded values",
        ),
        at_rest=BASELINE / dataset.calibration.counts_per_sd,
        first_kept=bool(dataset.settings.get("keep_first")),
    )
    return Section(name="quality", title="Quality: runs, carpet plots, confounds", body=body)


def _spread_runs(sources: Sources, most: int = MOST_RUNS) -> list[Run]:
    """Choose runs to read: every task in turn, each time from the next participant."""
    by_task = {
        task: [run for run in sources.dataset.runs if run.task == task] for task in sources.tasks
    }
    chosen: list[Run] = []
    for turn in range(max(len(runs) for runs in by_task.values())):
        for number, runs in enumerate(by_task.values()):
            if turn < len(runs) and len(chosen) < most:
                chosen.append(runs[(number + turn) % len(runs)])
    return chosen


def _run_quality(sources: Sources, run: Run, depth: Depth) -> _RunQuality:
    """Read the volumes of a run and sum them up, by level and by position in the answer."""
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
        BASELINE + calibration.counts_per_sd * mean,
        calibration.counts_per_sd * sd,
        out=np.full(n_units, np.nan),
        where=sd > 0,
    )
    tokens = dataset.transcript(run).dropna(subset=["volume"])
    is_on = tokens["trial_type"].fillna("").astype(str) != ""
    rms = np.sqrt(squares / n_units)[tokens["volume"].to_numpy(dtype=np.intp)]
    units = _carpet_units(depth)
    return _RunQuality(
        run=run,
        tsnr=_medians(tsnr, depth),
        spread=_medians(sd, depth),
        positions=pd.DataFrame({"position": tokens["position"], "is_on": is_on, "rms": rms}),
        n_outliers=int(outliers(np.sqrt(squares / n_units)).sum()),
        carpet=_carpet_drawing(sources, run, values[:, units], depth, units),
    )


def outliers(values: Sequence[float] | Floats) -> npt.NDArray[np.bool_]:
    """Find what is far from the median of values, (n,), in robust standard deviations.

    >>> outliers([1.0, 1.1, 0.9, 1.0, 8.0]).tolist()
    [False, False, False, False, True]
    """
    sizes = np.asarray(values, dtype=np.float64)
    far = np.abs(sizes - np.nanmedian(sizes))
    return np.asarray(far > OUTLIER * 1.4826 * np.nanmedian(far))


def _run_rows(sources: Sources, read: Sequence[_RunQuality]) -> list[dict[str, Any]]:
    """Describe every run: its answers, what was clipped or constant, outliers, and its files."""
    dataset = sources.dataset
    n_outliers = {run_quality.run.name: run_quality.n_outliers for run_quality in read}
    rows: list[dict[str, Any]] = []
    for run in dataset.runs:
        metadata, tokens = dataset.sidecar(run), dataset.transcript(run)
        size = int(metadata.get("NumberOfVolumes", 0)) * int(metadata.get("NumberOfUnits", 0))
        files = {
            "series": run.bold,
            "events": run.events,
            "confounds": run.confounds,
            "transcript": run.transcript,
            "mask": run.mask,
        }
        rows.append(
            {
                "name": run.name,
                "color": sources.color(run.task),
                "n_volumes": int(metadata.get("NumberOfVolumes", 0)),
                "surprisal": float(tokens["surprisal"].mean()),
                "clipped": 1e6 * int(metadata.get("NumberOfClippedValues", 0)) / (size or 1),
                "constant": int(metadata.get("NumberOfConstantUnits", 0)),
                "outliers": n_outliers.get(run.name),
                "files": [(name, sources.link(path)) for name, path in files.items()],
                "task": run.task,
            }
        )
    # from the task's median, as tasks differ; over all runs, as few of one task tell no spread
    table = pd.DataFrame(rows)
    usual = table.groupby("task")["surprisal"].transform("median")
    unusual = outliers((table["surprisal"] - usual).to_numpy())
    return [row | {"unusual": bool(flag)} for row, flag in zip(rows, unusual, strict=True)]


def confound_correlations(sources: Sources) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Correlate on blocks and confounds within runs: mean over runs, and the largest in size."""
    matrices = []
    for run in sources.dataset.runs:
        tokens = sources.dataset.transcript(run).dropna(subset=["volume"])
        is_on = tokens["trial_type"].fillna("").astype(str) != ""
        confounds = sources.dataset.confounds(run).select_dtypes("number")
        volumes = tokens["volume"].to_numpy(dtype=np.intp)
        table = confounds.iloc[volumes].reset_index(drop=True)
        table.insert(0, "on block", is_on.to_numpy(dtype=np.float64))
        matrices.append(table.loc[:, table.std() > 0].corr())
    names = list(dict.fromkeys(name for matrix in matrices for name in matrix))
    if len(names) < 2:
        return None
    stacked = np.stack([matrix.reindex(names, columns=names).to_numpy() for matrix in matrices])
    size = np.nanmax(np.abs(stacked), axis=0)
    mean = np.nanmean(stacked, axis=0)
    return pd.DataFrame(mean, names, names), pd.DataFrame(size, names, names)


def _confounds_table(sources: Sources) -> Markup | None:
    correlations = confound_correlations(sources)
    if correlations is None:
        return None
    mean, size = correlations
    names = [str(name) for name in mean]
    shown = mean.to_numpy(copy=True)
    np.fill_diagonal(shown, np.nan)
    titles = [
        [
            f"{row} and {column}: at most {largest:.2f} in size"
            for column, largest in zip(names, line, strict=True)
        ]
        for row, line in zip(names, size.to_numpy().tolist(), strict=True)
    ]
    caption = "Correlation matrix of on blocks and confounds, mean over runs"
    return heat_table(shown, names, names, caption=caption, titles=titles, of_size=True)


def _carpet_units(depth: Depth, n_rows: int = N_ROWS) -> npt.NDArray[np.intp]:
    """Choose units evenly from every level, in order of depth."""
    each = max(2, n_rows // len(depth.labels))
    chosen = []
    for level in range(len(depth.labels)):
        units = np.flatnonzero(depth.of_unit == level)
        at = np.linspace(0, len(units) - 1, min(each, len(units)))
        chosen.append(units[np.rint(at).astype(np.intp)])
    return np.concatenate(chosen).astype(np.intp)


def _carpet_drawing(
    sources: Sources,
    run: Run,
    values: npt.NDArray[np.float32],
    depth: Depth,
    units: npt.NDArray[np.intp],
) -> Markup:
    """Draw values, (n_volumes, n_rows), of some units over time, each by its mean and sd."""
    sd = values.std(axis=0)
    scaled = (values - values.mean(axis=0)) / np.where(sd > 0, sd, 1)
    png = palette_png(diverging_indices(scaled.T, LIMIT), diverging_palette())
    n_volumes = len(values)
    width = _WIDTH - _LEFT - 4
    parts = [
        rect(_LEFT, _TOP, width, _HEIGHT, fill="var(--panel)"),
        pixels(png, _LEFT, _TOP, width, _HEIGHT),
    ]
    tokens = sources.dataset.transcript(run).dropna(subset=["volume"])
    tokens["kind"] = tokens["trial_type"].fillna("").astype(str)
    for (_, kind), block in tokens.groupby(["block", "kind"]):
        first, last = int(block["volume"].min()), int(block["volume"].max()) + 1
        left, right = (_LEFT + at / n_volumes * width for at in (first, last))
        color = sources.trial_color(str(kind))
        parts.append(rect(left, _TOP - 11, right - left - 1, 8, fill=color))
    levels = depth.of_unit[units]
    for level, label in depth.ticks(8).items():
        rows = np.flatnonzero(levels == int(level))
        at = _TOP + (rows.mean() + 0.5) / len(units) * _HEIGHT
        parts.append(element("text", label, x=_LEFT - 6, y=at + 4, class_="tick end"))
    below = _TOP + _HEIGHT + 16
    parts.append(element("text", "volumes", x=_LEFT + width / 2, y=below, class_="tick mid"))
    alt = (
        f"Carpet plot of sub-{run.participant_label} {run.task}: {len(units)} units from input "
        f"(top) to output (bottom) over {n_volumes} volumes."
    )
    return drawing(parts, width=_WIDTH, height=_TOP + _HEIGHT + 24, alt=alt)


def _medians(values: Floats, depth: Depth) -> Floats:
    medians = pd.Series(values).groupby(depth.of_unit).median()
    return np.asarray(medians, dtype=np.float64)


def _by_layer(sources: Sources, read: Sequence[_RunQuality], depth: Depth, name: str) -> Markup:
    """Draw the mean over runs of ``tsnr`` or ``spread`` by layer, one line a task."""
    lines = [
        Line(
            name=task,
            x=list(range(len(depth.labels))),
            y=np.mean(
                [
                    getattr(run_quality, name)
                    for run_quality in read
                    if run_quality.run.task == task
                ],
                axis=0,
            ).tolist(),
            color=sources.color(task),
        )
        for task in sources.tasks
        if any(run_quality.run.task == task for run_quality in read)
    ]
    label, title = {
        "tsnr": ("mean over sd in time", "Temporal signal-to-noise by layer"),
        "spread": ("sd in time, in rest sd", "Standard deviation in time by layer"),
    }[name]
    values = np.concatenate([line.y for line in lines])
    alt = f"{title}, one line a task: {np.nanmin(values):.1f} to {np.nanmax(values):.1f}."
    return line_chart(lines, x_label="layer", y_label=label, alt=alt, x_ticks=depth.ticks())


def _by_position(table: pd.DataFrame, column: str, y_label: str, title: str) -> Markup | None:
    """Draw the mean of a column by position in the answer, on and off prompts."""
    if table["position"].nunique() < 2:
        return None
    lines = []
    for is_on, name, color in ((True, "on", "var(--accent)"), (False, "off", "var(--mute)")):
        mean = table[table["is_on"] == is_on].groupby("position")[column].mean()
        if len(mean):
            lines.append(
                Line(
                    name=name, x=mean.index.tolist(), y=mean.tolist(), color=color, dashed=not is_on
                )
            )
    positions = sorted({float(n) for line in lines for n in line.x})
    step = max(1, len(positions) // 12)
    first = ", ".join(f"{line.name} {line.y[0]:.1f}" for line in lines)
    return line_chart(
        lines,
        x_label="position in the answer",
        y_label=y_label,
        alt=f"{title} by position in the answer; at the first one: {first}.",
        x_ticks={n: f"{n:g}" for n in positions if n % step == 0},
        height=200,
    )
