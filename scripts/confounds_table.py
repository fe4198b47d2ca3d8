#!/usr/bin/env python3
"""Measure what confounds do to false positives and to power.

    llm2bids record NULL_DIR --paradigm null --participants 10
    llm2bids record BIDS_DIR --participants 8
    scripts/confounds_table.py NULL_DIR BIDS_DIR confounds.json

False positives: ``llm2bids null NULL_DIR --confounds NAME`` for each strategy. Power: the default
first level of every participant and task with the covariates, then the t test over participants.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from tqdm import tqdm

from llm2bids.inference.confounds import STRATEGIES
from llm2bids.inference.inputs import open_inputs
from llm2bids.inference.null import draw_units, measure_null
from llm2bids.inference.null_pipelines import pipeline_models
from llm2bids.inference.runs import fit_task
from llm2bids.inference.second_level import thresholds

CHOICES: dict[str, tuple[str, ...]] = {
    "none": (),
    **{name: (name,) for name in STRATEGIES},
    "length, surprisal, entropy": ("length", "surprisal", "entropy"),
}
PIPELINES = ("token_ols", "token_ar1", "prompt_ols", "second_level")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both, print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("null", type=Path, help="a dataset of the null paradigm")
    parser.add_argument("dataset", type=Path, help="a dataset with tasks")
    parser.add_argument("output", type=Path, help="file to write (.json)")
    parser.add_argument("--units", type=int, default=4000, help="units drawn at random (4000)")
    parser.add_argument("--groups", type=int, default=50, help="null groups (50)")
    args = parser.parse_args(arguments)
    found = {
        "false_positives": false_positives(args.null, args.units, args.groups),
        "power": power(args.dataset, args.units),
    }
    args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for table in found.values():
        columns = list(next(iter(table.values())))
        print("| confounds | " + " | ".join(columns) + " |")
        print("|---" * (len(columns) + 1) + "|")
        for name, row in table.items():
            print(f"| {name} | " + " | ".join(str(row[column]) for column in columns) + " |")
    return 0


def false_positives(path: Path, n_units: int, n_groups: int) -> dict[str, dict[str, Any]]:
    """Measure the rates of null runs with each choice of confounds."""
    inputs = open_inputs(path)
    table = {}
    for name, confounds in CHOICES.items():
        measured = measure_null(
            inputs, n_units=n_units, n_groups=n_groups, n_perm=19, confounds=confounds
        )
        rates = {(rate.pipeline, rate.kind, rate.nominal): rate for rate in measured.rates}
        table[name] = {
            f"{key} {level:g}": round(rates[key, "unit", level].measured, 4)
            for key in PIPELINES
            for level in (0.05, 0.001)
        }
    return table


def power(path: Path, n_units: int) -> dict[str, dict[str, Any]]:
    """Measure what the default pipeline finds with each choice of confounds."""
    inputs = open_inputs(path)
    inputs = inputs.within(draw_units(inputs.space, n_units, seed=0)[0])
    effects: dict[str, dict[tuple[str, str], Any]] = {name: {} for name in CHOICES}
    for run in tqdm(inputs.runs, desc="runs", file=sys.stderr):
        data = inputs.load(run)
        for name, confounds in CHOICES.items():
            options = pipeline_models(confounds)["prompt_ols"]
            fit = fit_task([data], options, mem_gb=None).fit
            effects[name][run.participant_label, run.task] = fit.maps[run.task, "effect"]
    return {name: group_power(maps, effects["none"]) for name, maps in effects.items()}


def group_power(maps: dict[tuple[str, str], Any], plain: dict[tuple[str, str], Any]) -> Any:
    """Count units of the group and compare effects with those without confounds."""
    people, tasks = (sorted({key[place] for key in maps}) for place in (0, 1))
    shares, slopes, repeated = [], [], []
    for task in tasks:
        own = np.stack([maps[person, task] for person in people])
        without = np.stack([plain[person, task] for person in people]).mean(axis=0)
        t = stats.ttest_1samp(own, 0.0).statistic
        z = stats.norm.isf(stats.t.sf(np.abs(t), len(people) - 1)) * np.sign(t)
        shares.append(thresholds(z, alpha=0.05)["fdr"]["n_units"] / z.size)
        slopes.append(float(without @ own.mean(axis=0) / (without @ without)))
        r = np.corrcoef(own)
        repeated.append(float(r[np.triu_indices(len(people), 1)].mean()))
    return {
        "units past FDR": round(float(np.mean(shares)), 3),
        "effect that is left": round(float(np.mean(slopes)), 2),
        "least of a task": f"{min(slopes):.2f} ({tasks[int(np.argmin(slopes))]})",
        "single-run r": round(float(np.mean(repeated)), 2),
    }


if __name__ == "__main__":
    raise SystemExit(main())
