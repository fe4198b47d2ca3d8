"""Sections: overlap, repeatability, identification, controls, calibration of false positives."""

import numpy as np
import pandas as pd
from markupsafe import Markup

from llm2bids.network.controls import P_VALUE
from llm2bids.network.findings import NOTE, Findings
from llm2bids.network.identification import AccuracyCurve
from llm2bids.report.calibration import NOT_CALIBRATED, calibration_body, calibration_command
from llm2bids.report.draw.chart import IntervalRow, Line, interval_chart, line_chart
from llm2bids.report.section import Section, heat_table, interval, missing, number, render
from llm2bids.report.sources import Sources

N_IDENTIFICATION = 2
"""Controls of identification, which come first: random units, and shuffled labels."""

MEASURES = {"correlation": "Correlation of the group effect maps", "dice": "Dice of the networks"}


def findings_sections(sources: Sources) -> list[Section]:
    """Show overlap, repeatability, identification, controls and false positives."""
    findings = sources.findings
    command = sources.command("group")
    few = "was not computed: it takes two tasks and three participants who did every one."
    bodies: dict[str, Markup | None] = {"calibration": calibration_body(sources)}
    if findings is not None:
        bodies["overlap"] = _overlap(sources, findings)
        bodies["repeatability"] = _repeatability(sources, findings)
        bodies["identification"] = _identification(findings)
        bodies["controls"] = _controls(findings)
    parts = {
        "overlap": ("Overlap", f"Overlap {few}", command),
        "repeatability": ("Repeatability", f"Repeatability {few}", command),
        "identification": ("Identification", f"Identification of tasks {few}", command),
        "controls": (
            "Real beside control",
            "No control was measured: the same analysis with shuffled labels, random networks, and "
            "on a recording of the model with random weights (record --random-weights).",
            f"{command} --control shuffled-labels --control random-networks "
            "--control-dataset RANDOM_WEIGHTS_DIR",
        ),
        "calibration": ("False positives", NOT_CALIBRATED, calibration_command(sources)),
    }
    return [
        Section(name=name, title=title, body=bodies.get(name) or missing(what, making))
        for name, (title, what, making) in parts.items()
    ]


def summary_section(sources: Sources) -> Section | None:
    """Put the findings in short, with doubts; None where nothing was computed."""
    findings = sources.findings
    if findings is None:
        return None
    table = findings.table()
    table = table[table["finding"] != "networks"]  # they have their section
    table["again"] = table["finding"] == table["finding"].shift()
    omitted: dict[str, list[str]] = {}
    for part, reason in findings.omitted.items():
        omitted.setdefault(reason, []).append(part.replace("_", " "))
    body = render("summary.html", rows=table.to_dict("records"), findings=findings, omitted=omitted)
    return Section(name="findings", title="In short", body=body)


def tile(sources: Sources) -> list[tuple[str, str]]:
    """Give the number for the top of the page: the share of maps identified."""
    findings = sources.findings
    if findings is None:
        return []
    return [(f"{findings.identification.accuracy:.0%}", "tasks identified")]


def _overlap(sources: Sources, findings: Findings) -> Markup:
    overlap = findings.overlap
    tasks = [task for task in sources.tasks if task in findings.tasks]
    order = [overlap.tasks.index(task) for task in tasks]
    pairs = np.ix_(order, order)
    tables = []
    for measure, caption in MEASURES.items():
        matrix, low, high = (
            np.where(np.eye(len(tasks), dtype=bool), np.nan, getattr(overlap, name)[pairs])
            for name in (measure, f"{measure}_low", f"{measure}_high")
        )
        tips = [
            [
                f"{first} and {second}: {number(matrix[i, j])}{_bounds(low[i, j], high[i, j])}"
                for j, second in enumerate(tasks)
            ]
            for i, first in enumerate(tasks)
        ]
        limit = max(float(np.nanmax(matrix)), 0.1)
        tables.append(heat_table(matrix, tasks, tasks, caption=caption, limit=limit, titles=tips))
    rows = overlap.pairs().to_dict("records")
    return render("overlap.html", tables=tables, pairs=rows, bounds=_bounds, overlap=overlap)


def _repeatability(sources: Sources, findings: Findings) -> Markup:
    part = findings.repeatability
    compared = {
        "Split halves of the participants": part.participants,
        "Split halves of the prompts": part.prompts,
        "Single participants": part.single_run,
    }
    labels = {"r": "correlation over units", "dice": "Dice of the networks"}
    figures = []
    for title, likeness in compared.items():
        table = pd.DataFrame() if likeness is None else likeness.table()
        for measure, label in labels.items():
            if measure in table:
                caption = f"{title}: {label}"
                figures.append((caption, _estimates(sources, table, measure, caption)))
    return render(
        "repeatability.html", figures=figures, icc=part.icc, share=part.participants.share
    )


def _estimates(sources: Sources, table: pd.DataFrame, measure: str, alt: str) -> Markup:
    rows = [
        IntervalRow(
            name=str(row["task"]),
            value=float(row[measure]),
            low=float(row[f"{measure}_low"]),
            high=float(row[f"{measure}_high"]),
            color=sources.color(str(row["task"])),
        )
        for row in table.to_dict("records")
    ]
    values = ", ".join(f"{row.name} {row.value:.2f}" for row in rows if np.isfinite(row.value))
    return interval_chart(rows, x_label=measure, alt=f"{alt}: {values}.")


def _identification(findings: Findings) -> Markup:
    identification = findings.identification
    counts = identification.confusion.to_numpy(dtype=np.float64)
    confusion = heat_table(
        counts,
        list(identification.tasks),
        list(identification.tasks),
        caption="Held-out maps by task shown (rows) and task identified (columns).",
        limit=float(counts.sum(axis=1).max()),
        digits=0,
        color="var(--c0)",
    )
    curves = [
        (title, _curve(curve, by))
        for title, by, curve in (
            ("By number of prompts", "n_prompts", findings.by_prompts),
            ("By number of tokens", "n_tokens", findings.by_tokens),
        )
        if curve is not None and len(curve.table()) > 1
    ]
    controls = [
        (control.name, control.measures[0]) for control in findings.controls[:N_IDENTIFICATION]
    ]
    return render(
        "identification.html",
        identification=identification,
        confusion=confusion,
        curves=curves,
        controls=controls,
        note=NOTE,
        p_value=P_VALUE,
    )


def _controls(findings: Findings) -> Markup | None:
    controls = findings.controls[N_IDENTIFICATION:]
    if not controls:
        return None
    texts = {measure.measure: measure.text for control in controls for measure in control.measures}
    cells = [{measure.measure: measure for measure in control.measures} for control in controls]
    rows = [(text, [cell.get(measure) for cell in cells]) for measure, text in texts.items()]
    return render("controls.html", controls=controls, rows=rows)


def _curve(curve: AccuracyCurve, by: str) -> Markup:
    """Draw accuracy by ``n_prompts`` or ``n_tokens``, with the interval of one draw's tests."""
    table = curve.table().sort_values(by)
    line = Line(
        name="accuracy",
        x=table[by].tolist(),
        y=table["accuracy"].tolist(),
        color="var(--c0)",
        low=table["low"].tolist(),
        high=table["high"].tolist(),
    )
    label = {"n_prompts": "on prompts in a map", "n_tokens": "first tokens of each prompt"}[by]
    points = ", ".join(f"{x:g}: {y:.0%}" for x, y in zip(line.x, line.y, strict=True))
    return line_chart(
        [line],
        x_label=label,
        y_label="accuracy",
        y_range=(0.0, 1.04),
        x_ticks={x: f"{x:g}" for x in line.x},
        alt=f"Accuracy of identification by {label}: {points}.",
        references={"chance": curve.chance},
    )


def _bounds(low: float, high: float) -> str:
    bounds = interval(low, high)
    return f" [{bounds}]" if bounds else ""
