"""Sections: overlap, repeatability, identification, controls, calibration of false positives."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from llm2bids.exceptions import NetworkError
from llm2bids.inference.null_results import JSON_NAME, NAMES
from llm2bids.inference.rates import LEVELS, Rate
from llm2bids.network.controls import P_VALUE
from llm2bids.network.findings import NOTE
from llm2bids.network.identification import AccuracyCurve
from llm2bids.network.stored import from_plain
from llm2bids.report.draw.chart import Line, interval_chart, line_chart
from llm2bids.report.section import heat_table, interval, listed, missing, number, render
from llm2bids.report.sources import Sources, read_object

# Controls of identification, which come first: random units, and shuffled labels
N_IDENTIFICATION = 2

MEASURES = {"correlation": "Correlation of the group effect maps", "dice": "Dice of the networks"}

_FEW = "was not computed: it takes two tasks and three participants who did every one."

# What is said where no calibration was run
_NOT_CALIBRATED = (
    "The false-positive rate of this pipeline was not measured on this dataset: nothing on this "
    "page tells whether its nominal rates hold for this model."
)


def summary_body(sources: Sources) -> Markup:
    """Put the findings in short, with doubts; empty where nothing was computed."""
    findings = sources.findings
    if findings is None:
        return Markup()
    table = findings.table()
    table = table[table["finding"] != "networks"]  # they have their section
    table["again"] = table["finding"] == table["finding"].shift()
    omitted: dict[str, list[str]] = {}
    for part, reason in findings.omitted.items():
        omitted.setdefault(reason, []).append(part.replace("_", " "))
    return render("summary.html", rows=table.to_dict("records"), findings=findings, omitted=omitted)


def overlap_body(sources: Sources) -> Markup:
    """Show correlation and Dice of all pairs of tasks."""
    findings = sources.findings
    if findings is None:
        return missing(f"Overlap {_FEW}", sources.command("group"))
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
        table = pd.DataFrame(matrix, tasks, tasks)
        limit = max(float(np.nanmax(matrix)), 0.1)
        tables.append(heat_table(table, caption=caption, limit=limit, titles=tips))
    rows = overlap.pairs().to_dict("records")
    return render("overlap.html", tables=tables, pairs=rows, bounds=_bounds, overlap=overlap)


def repeatability_body(sources: Sources) -> Markup:
    """Show how much maps of the halves of the data, and single maps, are alike."""
    if sources.findings is None:
        return missing(f"Repeatability {_FEW}", sources.command("group"))
    part = sources.findings.repeatability
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
    share = part.participants.share
    return render("repeatability.html", figures=figures, icc=part.icc, share=share)


def _estimates(sources: Sources, table: pd.DataFrame, measure: str, alt: str) -> Markup:
    columns = {"task": "name", measure: "value", f"{measure}_low": "low", f"{measure}_high": "high"}
    rows = table.rename(columns=columns)
    rows["color"] = rows["name"].map(sources.color)
    there = rows.dropna(subset="value")
    values = [f"{name} {r:.2f}" for name, r in zip(there["name"], there["value"], strict=True)]
    return interval_chart(rows, x_label=measure, alt=f"{alt}: {', '.join(values)}.")


def identification_body(sources: Sources) -> Markup:
    """Show which task was identified, with fewer prompts and tokens too, and its controls."""
    findings = sources.findings
    if findings is None:
        return missing(f"Identification of tasks {_FEW}", sources.command("group"))
    counts = findings.identification.confusion
    confusion = heat_table(
        counts,
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
    return render(
        "identification.html",
        findings=findings,
        confusion=confusion,
        curves=curves,
        controls=findings.controls[:N_IDENTIFICATION],
        note=NOTE,
        p_value=P_VALUE,
    )


def controls_body(sources: Sources) -> Markup:
    """Show what the data and each control give, side by side."""
    findings = sources.findings
    controls = () if findings is None else findings.controls[N_IDENTIFICATION:]
    if not controls:
        return missing(
            "No control was measured: the same analysis with shuffled labels, random networks, and "
            "on a recording of the model with random weights (record --random-weights).",
            f"{sources.command('group')} --control shuffled-labels --control random-networks "
            "--control-dataset RANDOM_WEIGHTS_DIR",
        )
    texts = {measure.measure: measure.text for control in controls for measure in control.measures}
    cells = [{measure.measure: measure for measure in control.measures} for control in controls]
    rows = [(text, [cell.get(measure) for cell in cells]) for measure, text in texts.items()]
    return render("controls.html", controls=controls, rows=rows)


def _curve(curve: AccuracyCurve, by: str) -> Markup:
    """Draw accuracy by ``n_prompts`` or ``n_tokens``, with the interval of one draw's tests."""
    table = curve.table().sort_values(by)
    x, y = table[by].tolist(), table["accuracy"].tolist()
    label = {"n_prompts": "on prompts in a map", "n_tokens": "first tokens of each prompt"}[by]
    points = ", ".join(f"{n:g}: {accuracy:.0%}" for n, accuracy in zip(x, y, strict=True))
    return line_chart(
        [Line(x, y, "var(--c0)", low=table["low"], high=table["high"])],
        x_label=label,
        y_label="accuracy",
        y_range=(0.0, 1.04),
        x_ticks={n: f"{n:g}" for n in x},
        alt=f"Accuracy of identification by {label}: {points}.",
        references={"chance": curve.chance},
    )


def _bounds(low: float, high: float) -> str:
    bounds = interval(low, high)
    return f" [{bounds}]" if bounds else ""


def _calibration_command(sources: Sources) -> str:
    """Give the ``llm2bids null`` that measures the rates of the model that was recorded."""
    model = str(sources.dataset.settings.get("model"))
    name = "embedded" if model == "SmolLM2-135M-Instruct" else model
    return f"llm2bids null {name} {sources.analysis_dir.name}"


def calibration_body(sources: Sources) -> Markup:
    """Show the measured rates of every pipeline with their verdicts."""
    measured = _measured(sources)
    if measured is None:
        return missing(_NOT_CALIBRATED, _calibration_command(sources))
    rows, metadata, differing = measured
    return render(
        "calibration.html", rows=rows, levels=LEVELS, metadata=metadata, differing=differing
    )


def null_rates(sources: Sources) -> dict[str, Any] | None:
    """Say how often the default pipeline is wrong, in parts of a sentence, where that is known."""
    rows, _, differing = _measured(sources) or ([], {}, [])
    for row in rows:
        if row["default"]:
            rates = [rate for rate in row["units"] if rate is not None]
            shares = [f"{rate.measured:.2g} of the units at {rate.nominal:g}" for rate in rates]
            return {"units": listed(shares), "verdict": row["verdict"], "differing": differing}
    return None


def _measured(sources: Sources) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]] | None:
    """Read the rates: a row a pipeline, what was run, and in what that differs from the dataset."""
    path = sources.analysis_dir / JSON_NAME
    content = read_object(path) if sources.analysis else {}
    if not content:
        return None
    try:
        rates = [from_plain(Rate, rate) for rate in content["rates"]]
        rows = [_row(pipeline, rates) for pipeline in content["pipelines"]]
        metadata = dict(content["about"])
        return rows, metadata, _differences(metadata, sources.dataset.settings)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NetworkError(
            f"{path}: is not what llm2bids writes ({type(error).__name__}: {error}); run "
            f"`{_calibration_command(sources)}` again"
        ) from None


def _differences(metadata: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Say in what the null runs differ from the dataset; empty where the rates hold for it.

    >>> _differences({"model": "a", "prompts_on": 8}, {"model": "a", "prompts_per_block": 6})
    ['8 prompts per block instead of 6']
    """
    differing = []
    if metadata.get("weights_sha256") != settings.get("weights_sha256"):
        differing.append(f"the model {metadata.get('model')} instead of {settings.get('model')}")
    for name, key, what in (
        ("prompts_on", "prompts_per_block", "prompts per block"),
        ("tokens_per_prompt", "tokens_per_prompt", "tokens per prompt"),
    ):
        if metadata.get(name) != settings.get(key):
            differing.append(f"{metadata.get(name)} {what} instead of {settings.get(key)}")
    if metadata.get("confounds"):
        differing.append(
            f"the confounds {', '.join(map(str, metadata['confounds']))} in the models"
        )
    return differing


def _row(pipeline: Mapping[str, Any], rates: list[Rate]) -> dict[str, Any]:
    """Put a pipeline's rates of single units, by level, and of any detection beside its verdict."""
    own = [rate for rate in rates if rate.pipeline == pipeline["key"]]
    units = {rate.nominal: rate for rate in own if rate.kind == "unit"}
    names = ("label", "default", "options", "verdict")
    return {
        **{name: pipeline[name] for name in names},
        "units": [units.get(level) for level in LEVELS],
        "found": [
            f"{NAMES.get(rate.kind, rate.kind)} {round(rate.measured * rate.n)} of {rate.n}"
            for rate in own
            if rate.kind != "unit"
        ],
    }
