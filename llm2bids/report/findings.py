"""Sections: overlap, repeatability, identification, controls, calibration of false positives."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from llm2bids.report.calibration import (
    NOT_CALIBRATED,
    calibration_body,
    calibration_command,
)
from llm2bids.report.draw.chart import Estimate, Line, interval_chart, line_chart
from llm2bids.report.draw.color import task_color
from llm2bids.report.heat import heat_table
from llm2bids.report.results import COMPARED, Results
from llm2bids.report.section import Missing, Section, interval, missing, number, render
from llm2bids.report.sources import Sources

MEASURES = {"correlation": "Correlation of the group effect maps", "dice": "Dice of the networks"}


def findings_sections(sources: Sources) -> list[Section]:
    """Show overlap, repeatability, identification, controls and false positives."""
    results = sources.results
    command = sources.command("group")
    few = "was not computed: it takes two tasks and three participants who did every one."
    parts = [
        ("overlap", "Overlap", _overlap(sources, results), f"Overlap {few}", command),
        (
            *("repeatability", "Repeatability", _repeatability(sources, results)),
            *(f"Repeatability {few}", command),
        ),
        (
            *("identification", "Identification", _identification(results)),
            *(f"Identification of tasks {few}", command),
        ),
        (
            *("controls", "Real beside control", _controls(results)),
            "No control was measured: the same analysis with shuffled labels, random networks, and "
            "on a recording of the model with random weights (record --random-weights).",
            f"{command} --control shuffled-labels --control random-networks "
            "--control-dataset RANDOM_WEIGHTS_DIR",
        ),
        (
            *("calibration", "False positives", calibration_body(sources)),
            *(NOT_CALIBRATED, calibration_command(sources)),
        ),
    ]
    return [
        Section(name=name, title=title, body=body or missing(Missing(what=what, command=making)))
        for name, title, body, what, making in parts
    ]


def summary_section(sources: Sources) -> Section | None:
    """Put the findings in short, with doubts; None where nothing was computed."""
    results = sources.results
    if not results.table:
        return None
    shown = [row for row in results.table if row["finding"] != "networks"]  # have their section
    before = [None, *(row["finding"] for row in shown)]
    rows = [
        {
            **row,
            "finding": "" if row["finding"] == last else row["finding"],
            "shown": number(row["value"]),
            "range": interval(row.get("low"), row.get("high")),
        }
        for row, last in zip(shown, before, strict=False)
    ]  # fmt: skip
    body = render("summary.html", rows=rows, warnings=results.warnings)
    return Section(name="findings", title="In short", body=body)


def tile(sources: Sources) -> list[tuple[str, str]]:
    """Give the number for the top of the page: the share of maps identified."""
    one = sources.results.identification
    return [] if one is None else [(f"{one.accuracy:.0%}", "tasks identified")]


def pair_matrix(pairs: pd.DataFrame, tasks: Sequence[str], measure: str) -> pd.DataFrame:
    """Put a measure of pairs into a symmetric matrix, NaN on the diagonal."""
    values = np.full((len(tasks), len(tasks)), np.nan)
    place = {task: number for number, task in enumerate(tasks)}
    for row in pairs.to_dict("records"):
        first, second = place[row["task_a"]], place[row["task_b"]]
        values[first, second] = values[second, first] = row[measure]
    return pd.DataFrame(values, index=list(tasks), columns=list(tasks))


def _overlap(sources: Sources, results: Results) -> Markup | None:
    pairs = results.pairs
    if pairs is None or pairs.empty:
        return None
    named = set(pairs["task_a"]) | set(pairs["task_b"])
    tasks = [task for task in sources.tasks if task in named] or sorted(named)
    tables = []
    for measure, caption in MEASURES.items():
        matrix = pair_matrix(pairs, tasks, measure)
        tips = _tips(pairs, tasks, measure)
        tables.append(
            heat_table(
                matrix.to_numpy(), tasks, tasks, caption=caption,
                limit=max(float(np.nanmax(matrix.to_numpy())), 0.1), titles=tips,
            )
        )  # fmt: skip
    ranked = pairs.sort_values("correlation", ascending=False)
    return render(
        "overlap.html",
        tables=tables,
        pairs=ranked.to_dict("records"),
        bounds=_bounds,
        about=results.overlap,
    )


def _repeatability(sources: Sources, results: Results) -> Markup | None:
    figures = []
    for name, table in results.repeatability.items():
        for measure, label in (("r", "correlation over units"), ("dice", "Dice of the networks")):
            if measure in table:
                title = f"{COMPARED[name]}: {label}"
                figures.append((title, _estimates(sources, table, measure, title)))
    if not figures:
        return None
    return render("repeatability.html", figures=figures, icc=results.icc, about=results.overlap)


def _estimates(sources: Sources, table: pd.DataFrame, measure: str, alt: str) -> Markup:
    rows = [
        Estimate(
            name=str(row["task"]),
            value=float(row[measure]),
            low=float(row.get(f"{measure}_low", np.nan)),
            high=float(row.get(f"{measure}_high", np.nan)),
            color=task_color(sources.color(str(row["task"]))),
        )
        for row in table.to_dict("records")
    ]
    said = ", ".join(f"{row.name} {row.value:.2f}" for row in rows if np.isfinite(row.value))
    return interval_chart(rows, x_label=measure, alt=f"{alt}: {said}.")


def _identification(results: Results) -> Markup | None:
    one = results.identification
    if one is None:
        return None
    counts = one.confusion.to_numpy(dtype=np.float64)
    confusion = heat_table(
        counts,
        list(one.confusion.index),
        list(one.confusion.columns),
        caption="Held-out maps by task shown (rows) and task identified (columns).",
        limit=float(counts.sum(axis=1).max()) if counts.size else 1.0,
        digits=0,
        color="var(--c0)",
    )
    curves = [
        (title, _curve(one.curves[name], name, one.chance))
        for name, title in (("prompts", "By number of prompts"), ("tokens", "By number of tokens"))
        if name in one.curves and len(one.curves[name]) > 1
    ]
    return render("identification.html", one=one, confusion=confusion, curves=curves)


def _controls(results: Results) -> Markup | None:
    if not results.controls:
        return None
    names = list(dict.fromkeys(row["control"] for row in results.controls))
    measures = dict.fromkeys((row["measure"], row["text"]) for row in results.controls)
    cells = {(row["measure"], row["control"]): row for row in results.controls}
    rows = [(text, [cells.get((measure, name)) for name in names]) for measure, text in measures]
    return render("controls.html", names=names, about=results.control_about, rows=rows)


def _curve(table: pd.DataFrame, by: str, chance: float) -> Markup:
    """Draw accuracy by the number of prompts or of tokens, with the interval of one draw."""
    part = table.sort_values(f"n_{by}").astype(float)
    line = Line(
        name="accuracy",
        x=part[f"n_{by}"].tolist(),
        y=part["accuracy"].tolist(),
        color="var(--c0)",
        low=part["low"].tolist(),
        high=part["high"].tolist(),
    )
    label = {"prompts": "on prompts in a map", "tokens": "first tokens of each prompt"}[by]
    said = ", ".join(f"{x:g}: {y:.0%}" for x, y in zip(line.x, line.y, strict=True))
    return line_chart(
        [line],
        x_label=label,
        y_label="accuracy",
        y_range=(0.0, 1.04),
        x_ticks={x: f"{x:g}" for x in line.x},
        alt=f"Accuracy of identification by {label}: {said}.",
        references={"chance": chance},
    )


def _bounds(row: Mapping[Any, Any], measure: str) -> str:
    low, high = row.get(f"{measure}_low"), row.get(f"{measure}_high")
    if low is None or high is None or not np.isfinite([float(low), float(high)]).all():
        return ""
    return f" [{number(low)}, {number(high)}]"


def _tips(pairs: pd.DataFrame, tasks: Sequence[str], measure: str) -> list[list[str]]:
    said = {}
    for row in pairs.to_dict("records"):
        tip = f"{row['task_a']} and {row['task_b']}: {number(row[measure])}{_bounds(row, measure)}"
        said[row["task_a"], row["task_b"]] = said[row["task_b"], row["task_a"]] = tip
    return [[said.get((first, second), "") for second in tasks] for first in tasks]
