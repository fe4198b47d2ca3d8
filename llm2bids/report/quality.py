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

from llm2bids.comparison.means import deviations
from llm2bids.dataset.layout import Run
from llm2bids.inference.design import volume_rows
from llm2bids.recording.calibration import Moments
from llm2bids.report.draw.chart import Line, line_chart
from llm2bids.report.draw.color import diverging_indices, diverging_palette
from llm2bids.report.draw.svg import palette_png
from llm2bids.report.layers import Depth, depth_of
from llm2bids.report.section import heat_table, render
from llm2bids.report.sources import Sources
from llm2bids.space.image import BASELINE

# Runs whose volumes are read, spread over tasks and participants, and those that are drawn
MOST_RUNS, MOST_CARPETS = 12, 6

N_ROWS, LIMIT = 300, 2.5  # units in a carpet, about, and standard deviations of full colour
OUTLIER = 5.0  # robust standard deviations from the median

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _RunQuality:
    """What the volumes of a run tell."""

    run: Run
    # medians over the units of each level: ``tsnr``, mean over standard deviation in time, in
    # stored counts; ``spread``, standard deviation in time, in calibration sd
    by_level: pd.DataFrame
    positions: pd.DataFrame  # position in the answer, is_on, rms over units in calibration sd
    n_outliers: int  # volumes whose rms is more than `OUTLIER` robust sd from the run's median
    carpet: Markup = field(repr=False)


def quality_body(sources: Sources, *, progress: bool = True) -> Markup:
    """Show clipped values, carpet plots, signal-to-noise, and what the first token does."""
    dataset, depth = sources.dataset, depth_of(sources.dataset.space)
    chosen = _spread_runs(sources)
    bar = tqdm(chosen, desc="quality", file=sys.stderr, disable=not progress)
    read = [_run_quality(sources, run, depth) for run in bar]
    tokens = pd.concat([dataset.transcript(run) for run in dataset.runs], ignore_index=True)
    tokens["is_on"] = tokens["trial_type"].fillna("") != ""
    positions = pd.concat([run_quality.positions for run_quality in read])
    return render(
        "quality.html",
        sources=sources,
        rows=_run_rows(sources, read),
        outlier=OUTLIER,
        confounds=_confounds_table(sources),
        carpets=[(run_quality.run, run_quality.carpet) for run_quality in read[:MOST_CARPETS]],
        n_read=len(read),
        tsnr=_by_layer(sources, read, depth, "tsnr"),
        spread=_by_layer(sources, read, depth, "spread"),
        tasks=[(task, sources.color(task)) for task in sources.tasks],
        surprisal=_by_position(tokens, "surprisal", "surprisal (bit)", "Mean surprisal"),
        size=_by_position(
            positions, "rms", "size (rest sd)", "Root mean square of the recorded values"
        ),
        at_rest=BASELINE / dataset.calibration.counts_per_sd,
    )


def _spread_runs(sources: Sources) -> list[Run]:
    """Choose runs to read: every task in turn, each time from the next participant."""
    by_task = [[run for run in sources.dataset.runs if run.task == task] for task in sources.tasks]
    turns = range(max(map(len, by_task)))
    return [
        runs[(number + turn) % len(runs)]
        for turn in turns
        for number, runs in enumerate(by_task)
        if turn < len(runs)
    ][:MOST_RUNS]


def _run_quality(sources: Sources, run: Run, depth: Depth) -> _RunQuality:
    """Read the volumes of a run and sum them up, by level and by position in the answer."""
    dataset, units = sources.dataset, _carpet_units(depth)
    moments, sizes, carpet = Moments(dataset.space.n_units), [], []
    for _, values in deviations(dataset, run):
        moments.add(values)
        sizes.append(np.square(np.clip(values, -10, 10)).mean(axis=1, dtype=np.float64))
        carpet.append(values[:, units])
    mean, sd = moments.mean_sd()
    gain = dataset.calibration.counts_per_sd
    tsnr = np.full(len(sd), np.nan)
    np.divide(BASELINE + gain * mean, gain * sd, out=tsnr, where=sd > 0)
    by_level = pd.DataFrame({"tsnr": tsnr, "spread": sd}).groupby(depth.of_unit).median()
    rms = np.sqrt(np.concatenate(sizes))
    rows = volume_rows(dataset.transcript(run), len(rms))
    return _RunQuality(
        run=run,
        by_level=by_level,
        positions=rows[["position"]].assign(is_on=rows["trial_type"] != "", rms=rms),
        n_outliers=int(outliers(rms).sum()),
        carpet=_carpet_drawing(sources, run, rows, np.concatenate(carpet), depth, units),
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
        metadata = dataset.sidecar(run)
        n_volumes = int(metadata.get("NumberOfVolumes", 0))
        size = n_volumes * int(metadata.get("NumberOfUnits", 0))
        files = ("series", "events", "confounds", "transcript", "mask")
        paths = (run.bold, run.events, run.confounds, run.transcript, run.mask)
        rows.append(
            {
                "name": run.name,
                "color": sources.color(run.task),
                "n_volumes": n_volumes,
                "surprisal": float(dataset.transcript(run)["surprisal"].mean()),
                "clipped": 1e6 * int(metadata.get("NumberOfClippedValues", 0)) / (size or 1),
                "constant": int(metadata.get("NumberOfConstantUnits", 0)),
                "outliers": n_outliers.get(run.name),
                "files": list(zip(files, map(sources.link, paths), strict=True)),
            }
        )
    # from the task's median, as tasks differ; over all runs, as few of one task tell no spread
    surprisal = pd.Series([row["surprisal"] for row in rows])
    usual = surprisal.groupby([run.task for run in dataset.runs]).transform("median")
    unusual = outliers((surprisal - usual).to_numpy())
    return [row | {"unusual": bool(flag)} for row, flag in zip(rows, unusual, strict=True)]


def confound_correlations(sources: Sources) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Correlate on blocks and confounds within runs: mean over runs, and the largest in size."""
    matrices = []
    for run in sources.dataset.runs:
        table = sources.dataset.confounds(run).select_dtypes("number")
        rows = volume_rows(sources.dataset.transcript(run), len(table))
        table.insert(0, "on block", (rows["trial_type"] != "").astype(float))
        matrices.append(table.loc[:, table.std() > 0].corr())
    names = list(dict.fromkeys(str(name) for matrix in matrices for name in matrix))
    if len(names) < 2:
        return None
    stacked = np.stack([matrix.reindex(names, columns=names).to_numpy() for matrix in matrices])
    largest, mean = np.nanmax(np.abs(stacked), axis=0), np.nanmean(stacked, axis=0)
    return pd.DataFrame(mean, names, names), pd.DataFrame(largest, names, names)


def _confounds_table(sources: Sources) -> Markup | None:
    correlations = confound_correlations(sources)
    if correlations is None:
        return None
    mean, largest = correlations
    titles = [
        [f"{row} and {column}: at most {size:.2f} in size" for column, size in sizes.items()]
        for row, sizes in largest.iterrows()
    ]
    caption = "Correlation matrix of on blocks and confounds, mean over runs"
    shown = mean.mask(np.eye(len(mean), dtype=bool))
    return heat_table(shown, caption=caption, titles=titles, of_size=True)


def _carpet_units(depth: Depth) -> npt.NDArray[np.intp]:
    """Choose units evenly from every level, in order of depth."""
    each = max(2, N_ROWS // len(depth.labels))
    chosen = []
    for level in range(len(depth.labels)):
        units = np.flatnonzero(depth.of_unit == level)
        at = np.linspace(0, len(units) - 1, min(each, len(units)))
        chosen.append(units[np.rint(at).astype(np.intp)])
    return np.concatenate(chosen).astype(np.intp)


def _carpet_drawing(
    sources: Sources,
    run: Run,
    rows: pd.DataFrame,
    values: npt.NDArray[np.float32],
    depth: Depth,
    units: npt.NDArray[np.intp],
) -> Markup:
    """Draw values, (n_volumes, n_rows), of some units over time, each by its mean and sd."""
    sd = values.std(axis=0)
    scaled = (values - values.mean(axis=0)) / np.where(sd > 0, sd, 1)
    png = palette_png(diverging_indices(scaled.T, LIMIT), diverging_palette())
    n_volumes = len(values)
    blocks = rows["volume"].groupby([rows["block"], rows["trial_type"]]).agg(["min", "max"])
    levels = depth.of_unit[units]
    return render(
        "carpet.svg",
        png=png,
        blocks=[
            (int(first) / n_volumes, (int(last) + 1) / n_volumes, sources.trial_color(kind))
            for (_, kind), first, last in blocks.itertuples()
        ],
        levels=[
            ((np.flatnonzero(levels == int(level)).mean() + 0.5) / len(units), label)
            for level, label in depth.ticks(8).items()
        ],
        alt=f"Carpet plot of sub-{run.participant_label} {run.task}: {len(units)} units from input "
        f"(top) to output (bottom) over {n_volumes} volumes.",
    )


def _by_layer(sources: Sources, read: Sequence[_RunQuality], depth: Depth, name: str) -> Markup:
    """Draw the mean over runs of ``tsnr`` or ``spread`` by layer, one line a task."""
    runs: dict[str, list[Any]] = {task: [] for task in sources.tasks}
    for run_quality in read:
        runs[run_quality.run.task].append(run_quality.by_level[name])
    means = {task: np.mean(levels, axis=0) for task, levels in runs.items() if levels}
    lines = [Line(range(len(mean)), mean, sources.color(task)) for task, mean in means.items()]
    label, title = {
        "tsnr": ("mean over sd in time", "Temporal signal-to-noise by layer"),
        "spread": ("sd in time, in rest sd", "Standard deviation in time by layer"),
    }[name]
    values = np.concatenate(list(means.values()))
    alt = f"{title}, one line a task: {np.nanmin(values):.1f} to {np.nanmax(values):.1f}."
    return line_chart(lines, x_label="layer", y_label=label, alt=alt, x_ticks=depth.ticks())


def _by_position(table: pd.DataFrame, column: str, y_label: str, title: str) -> Markup | None:
    """Draw the mean of a column by position in the answer, on and off prompts."""
    if table["position"].nunique() < 2:
        return None
    lines, first = [], []
    for is_on, name, color in ((True, "on", "var(--accent)"), (False, "off", "var(--mute)")):
        mean = table[table["is_on"] == is_on].groupby("position")[column].mean()
        if len(mean):
            lines.append(Line(mean.index, mean, color, dashed=not is_on))
            first.append(f"{name} {mean.iloc[0]:.1f}")
    positions = sorted(table["position"].dropna().unique().tolist())
    step = max(1, len(positions) // 12)
    return line_chart(
        lines,
        x_label="position in the answer",
        y_label=y_label,
        alt=f"{title} by position in the answer; at the first one: {', '.join(first)}.",
        x_ticks={n: f"{n:g}" for n in positions if n % step == 0},
        height=200,
    )
