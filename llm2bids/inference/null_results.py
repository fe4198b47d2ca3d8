"""What a measurement of error rates leaves behind: JSON for the report, a table, a figure."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from llm2bids.inference.null import NullMeasurement
from llm2bids.inference.null_pipelines import Pipeline
from llm2bids.inference.rates import LEVELS, Rate
from llm2bids.inference.statmap import software, write_json
from llm2bids.store.tables import aligned, write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

JSON_NAME = "calibration.json"
TABLE_NAME = "calibration.tsv"
SHARES_NAME = "calibration_shares.tsv"
FIGURE_NAME = "calibration.png"

COLORS = {0.05: "#1f6fb4", 0.01: "#c2571a", 0.001: "#3f8f3f"}
MARKERS = {"bonferroni": "o", "fdr": "s", "max_t": "D", "cluster_size": "^", "cluster_mass": "v"}
NAMES = {"bonferroni": "Bonferroni", "fdr": "FDR", "max_t": "largest t",
         "cluster_size": "cluster size", "cluster_mass": "cluster mass"}  # fmt: skip
"""Corrections, for readers."""


def write_measurement(out_dir: Path, measured: NullMeasurement) -> list[Path]:
    """Write a measurement into a folder."""
    paths = [out_dir / name for name in (JSON_NAME, TABLE_NAME, SHARES_NAME)]
    write_json(paths[0], as_json(measured))
    write_table(paths[1], rate_table(measured))
    write_table(paths[2], measured.shares)
    picture = out_dir / FIGURE_NAME
    return [*paths, picture] if draw_rates(measured, picture) else paths


def as_json(measured: NullMeasurement) -> dict[str, Any]:
    """Put a measurement into the form that the report reads."""
    return {
        "about": {**measured.metadata, "software": software()},
        "pipelines": [
            {
                "key": pipeline.key,
                "label": pipeline.label,
                "level": pipeline.level,
                "options": pipeline.options,
                "default": pipeline.default,
                "verdict": measured.verdict(pipeline.key),
                "sentence": sentence(measured, pipeline),
            }
            for pipeline in measured.pipelines
        ],
        "rates": [{**asdict(rate), "factor": rate.factor} for rate in measured.rates],
    }


def rate_table(measured: NullMeasurement) -> pd.DataFrame:
    """List the rates."""
    rows = [{**asdict(rate), "factor": rate.factor} for rate in measured.rates]
    table = pd.DataFrame(rows)
    numbers = table.select_dtypes("float").columns
    return table.assign(**{name: table[name].round(6) for name in numbers})


def sentence(measured: NullMeasurement, pipeline: Pipeline) -> str:
    """Say in one sentence what was measured of a pipeline."""
    rates = measured.of(pipeline.key)
    units = [rate for rate in rates if rate.kind == "unit"]
    families = [rate for rate in rates if rate.kind != "unit"]
    what = "null runs" if pipeline.level == "run" else "null groups"
    said = [f"{pipeline.label}: {_judged(measured.verdict(pipeline.key), rates)}"]
    if units:
        nominal = " / ".join(f"{rate.nominal:g}" for rate in units)
        shares = " / ".join(f"{rate.measured:.2g}" for rate in units)
        said.append(f"nominal {nominal} are {shares} of units")
    said += [
        f"{NAMES[rate.kind]} finds something in {rate.measured:.0%} of {rate.n} {what}"
        for rate in families
    ]
    return "; ".join(said) + "."


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


def draw_rates(measured: NullMeasurement, path: Path) -> bool:
    """Draw the rates with their intervals."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    pipelines = measured.pipelines
    places = {pipeline.key: -number for number, pipeline in enumerate(pipelines)}
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(pipelines)), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _draw_units(left, measured, places)
    _draw_families(right, measured, places)
    left.set_yticks(
        list(places.values()),
        [pipeline.label + (" *" if pipeline.default else "") for pipeline in pipelines],
    )
    left.set_ylim(0.6 - len(pipelines), 0.6)
    metadata = measured.metadata
    confounds = "".join(f", {name}" for name in metadata.get("confounds", ()))
    figure.suptitle(
        f"{metadata['model']}{confounds}: {metadata['n_runs']} null runs, "
        f"{metadata['n_groups']} null groups of {metadata['group_size']}, "
        f"{metadata['n_tested']:,} units; 95 % intervals; * default of analyze",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return True


def _draw_units(axes: "Axes", measured: NullMeasurement, places: Mapping[str, int]) -> None:
    for shift, (level, color) in zip((0.22, 0.0, -0.22), COLORS.items(), strict=True):
        rates = [r for r in measured.rates if r.kind == "unit" and r.nominal == level]
        if not rates:
            continue
        axes.axvline(level, color=color, linewidth=0.8, linestyle="--")
        _draw(axes, rates, places, shift, color=color, marker="o", label=f"nominal {level:g}")
    axes.set_xscale("log")
    shares = [rate.measured for rate in measured.rates if rate.kind == "unit"]
    axes.set_xlim(2e-4, max(0.2, 1.5 * max(shares, default=0.0)))
    axes.set_xlabel("share of units called significant")
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _draw_families(axes: "Axes", measured: NullMeasurement, places: Mapping[str, int]) -> None:
    kinds = [k for k in MARKERS if any(rate.kind == k for rate in measured.rates)]
    colors = {"bonferroni": "#1f6fb4", "fdr": "#c2571a"}
    axes.axvline(0.05, color="#555555", linewidth=0.8, linestyle="--")
    for kind in kinds:
        shift = {"bonferroni": 0.13, "fdr": -0.13, "cluster_size": 0.13, "cluster_mass": -0.13}
        rates = [rate for rate in measured.rates if rate.kind == kind]
        _draw(
            axes, rates, places, shift.get(kind, 0.0), color=colors.get(kind, "#333333"),
            marker=MARKERS[kind], label=NAMES[kind],
        )  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share with any detection")
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _draw(
    axes: "Axes", rates: list[Rate], places: Mapping[str, int], shift: float,
    *, color: str, marker: str, label: str,
) -> None:  # fmt: skip
    axes.errorbar(
        [rate.measured for rate in rates],
        [places[rate.pipeline] + shift for rate in rates],
        xerr=[
            [rate.measured - rate.low for rate in rates],
            [rate.high - rate.measured for rate in rates],
        ],
        fmt=marker, color=color, label=label, markersize=4.5, linewidth=1.2,
    )  # fmt: skip
