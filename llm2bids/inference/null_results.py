"""What a measurement of error rates leaves behind: JSON for the report, a table, a figure."""

from pathlib import Path
from typing import Any

import pandas as pd

from llm2bids.inference.null import NullMeasurement
from llm2bids.inference.null_pipelines import Pipeline
from llm2bids.inference.rates import LEVELS, Rate
from llm2bids.inference.statmap import software, write_json
from llm2bids.store.tables import aligned, write_table

JSON_NAME = "calibration.json"

# Corrections, for readers.
NAMES = {
    "bonferroni": "Bonferroni",
    "fdr": "FDR",
    "max_t": "largest t",
    "cluster_size": "cluster size",
    "cluster_mass": "cluster mass",
}

# Colour, mark, and rows above the middle of a pipeline's row, by kind and nominal rate.
_STYLES = {
    ("unit", 0.05): ("#1f6fb4", "o", 0.22),
    ("unit", 0.01): ("#c2571a", "o", 0),
    ("unit", 0.001): ("#3f8f3f", "o", -0.22),
    ("bonferroni", 0.05): ("#1f6fb4", "o", 0.13),
    ("fdr", 0.05): ("#c2571a", "s", -0.13),
    ("max_t", 0.05): ("#333333", "D", 0.0),
    ("cluster_size", 0.05): ("#333333", "^", 0.13),
    ("cluster_mass", 0.05): ("#333333", "v", -0.13),
}


def write_measurement(out_dir: Path, measured: NullMeasurement) -> list[Path]:
    """Write a measurement into a folder."""
    names = (JSON_NAME, "calibration.tsv", "calibration_shares.tsv", "calibration.png")
    paths = [out_dir / name for name in names]
    write_json(paths[0], as_json(measured))
    write_table(paths[1], rate_table(measured).round(6))
    write_table(paths[2], measured.shares)
    draw_rates(measured, paths[3])
    return paths


def as_json(measured: NullMeasurement) -> dict[str, Any]:
    """Put a measurement into the form that the report reads."""
    return {
        "about": {**measured.metadata, "software": software()},
        "pipelines": [
            {
                **dict(zip(pipeline._fields[:-1], pipeline, strict=False)),  # without its model
                "verdict": measured.verdict(pipeline.key),
                "sentence": sentence(measured, pipeline),
            }
            for pipeline in measured.pipelines
        ],
        "rates": rate_table(measured).to_dict("records"),
    }


def rate_table(measured: NullMeasurement) -> pd.DataFrame:
    """List the rates."""
    return pd.DataFrame([{**rate._asdict(), "factor": rate.factor} for rate in measured.rates])


def sentence(measured: NullMeasurement, pipeline: Pipeline) -> str:
    """Say in one sentence what was measured of a pipeline."""
    rates = measured.of(pipeline.key)
    units = [rate for rate in rates if rate.kind == "unit"]
    families = [rate for rate in rates if rate.kind != "unit"]
    what = "null runs" if pipeline.level == "run" else "null groups"
    clauses = [f"{pipeline.label}: {_judged(measured.verdict(pipeline.key), rates)}"]
    if units:
        nominal = " / ".join(f"{rate.nominal:g}" for rate in units)
        shares = " / ".join(f"{rate.measured:.2g}" for rate in units)
        clauses.append(f"nominal {nominal} are {shares} of units")
    clauses += [
        f"{NAMES[rate.kind]} finds something in {rate.measured:.0%} of {rate.n} {what}"
        for rate in families
    ]
    return "; ".join(clauses) + "."


def _judged(verdict: str, rates: list[Rate]) -> str:
    if verdict != "inflated":
        return verdict
    worst = max((rate for rate in rates if rate.verdict == "inflated"), key=lambda r: r.factor)
    at = f"at {worst.nominal:g}" if worst.kind == "unit" else f"after {NAMES[worst.kind]}"
    return f"inflated, by a factor of {worst.factor:.2g} {at}"


def text_table(measured: NullMeasurement) -> str:
    """Put the rates into a table for the terminal."""
    rows = [("pipeline", *(f"{level:g}" for level in LEVELS), "anything found", "verdict")]
    for pipeline in measured.pipelines:
        rates = measured.of(pipeline.key)
        units = {rate.nominal: f"{rate.measured:.3g}" for rate in rates if rate.kind == "unit"}
        any_hit = ", ".join(
            f"{NAMES[r.kind]} {round(r.measured * r.n)}/{r.n}" for r in rates if r.kind != "unit"
        )
        label = pipeline.label + (" *" if pipeline.default else "")
        shares = [units.get(level, "") for level in LEVELS]
        rows.append((label, *shares, any_hit, _judged(measured.verdict(pipeline.key), rates)))
    return f"{aligned(rows)}\n* what analyze does by default"


def draw_rates(measured: NullMeasurement, path: Path) -> None:
    """Draw the rates with their intervals: of single units on the left, of any detection right."""
    from matplotlib.figure import Figure

    pipelines, metadata = measured.pipelines, measured.metadata
    rows = {pipeline.key: -number for number, pipeline in enumerate(pipelines)}
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(pipelines)), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    right.axvline(0.05, color="#555555", linewidth=0.8, linestyle="--")
    for (kind, nominal), (color, marker, shift) in _STYLES.items():
        rates = [rate for rate in measured.rates if (rate.kind, rate.nominal) == (kind, nominal)]
        if not rates:
            continue
        if kind == "unit":
            left.axvline(nominal, color=color, linewidth=0.8, linestyle="--")
        errors = [(rate.measured - rate.low, rate.high - rate.measured) for rate in rates]
        (left if kind == "unit" else right).errorbar(
            [rate.measured for rate in rates],
            [rows[rate.pipeline] + shift for rate in rates],
            xerr=list(zip(*errors, strict=True)), fmt=marker, color=color,
            label=f"nominal {nominal:g}" if kind == "unit" else NAMES[kind],
            markersize=4.5, linewidth=1.2,
        )  # fmt: skip
    left.set_xscale("log")
    shares = [rate.measured for rate in measured.rates if rate.kind == "unit"]
    left.set_xlim(2e-4, max(0.2, 1.5 * max(shares, default=0.0)))
    left.set_xlabel("share of units called significant")
    right.set_xlim(-0.02, 1.02)
    right.set_xlabel("share with any detection")
    for axes in (left, right):
        axes.legend(
            fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False
        )
    labels = [pipeline.label + (" *" if pipeline.default else "") for pipeline in pipelines]
    left.set_yticks(list(rows.values()), labels)
    left.set_ylim(0.6 - len(pipelines), 0.6)
    confounds = "".join(f", {name}" for name in metadata.get("confounds", ()))
    figure.suptitle(
        f"{metadata['model']}{confounds}: {metadata['n_runs']} null runs, "
        f"{metadata['n_groups']} null groups of {metadata['group_size']}, "
        f"{metadata['n_tested']:,} units; 95 % intervals; * default of analyze",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
