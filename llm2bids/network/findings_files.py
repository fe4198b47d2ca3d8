"""The findings as files: one JSON object, tables, and the networks as tables and images."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from llm2bids.inference.checksums import list_group
from llm2bids.inference.group_maps import GENERALISATION
from llm2bids.inference.statmap import software, write_json, write_table, write_text
from llm2bids.network.controls import Control
from llm2bids.network.findings import Findings
from llm2bids.network.identification import Identification
from llm2bids.network.overlap import Overlap
from llm2bids.network.task_networks import TaskNetwork

FOLDER = Path("group", "findings")
"""Where findings lie in the output folder of ``llm2bids analyze``."""

NOTE = (
    "Identification is easy, and no evidence of localisation: random units do nearly as well as "
    "all. Templates never come from the participants and prompts that they are tested on."
)

MOST_SITES = 10

README = """# Findings

Networks of the tasks, their overlap, their repeatability, and identification of the task from a
left-out participant's map, measured by `llm2bids analyze ... group` on one image per prompt.
Effects are in units of each unit's calibration standard deviation.

- `findings.json`: everything, with the participants, runs and prompts that it was made from.
- `findings.tsv`: the same in a few rows.
- `networks/<task>_network.tsv`: the units with the largest effects of the task against the off
  prompts, most important first, in model coordinates, with effect, Cohen's d, t, adjusted p and
  cluster (units of one sign that touch; 1 is the largest). The `.json` says how they were chosen
  and from which data: test a network on other participants and prompts. The `.nii.gz` has the
  effect of these units, 0 elsewhere. `<task>VsOthers`: against the mean of the other tasks.
- `overlap.tsv`: pairs of tasks, most alike first: correlation of the group effect maps and Dice of
  the networks with intervals, chance level of Dice (for random sets of units, and for units
  permuted within their sites), and how often the pair came first when participants were resampled.
- `repeatability.tsv`: correlation between single participants' maps, and correlation and Dice of
  group maps from halves of the participants and of the prompts; `full_r` is the reliability of the
  map of all data (Spearman and Brown).
- `identification.tsv`, `confusion.tsv`: every tested map, and their numbers by task shown (rows)
  and task identified (columns).
- `identification_curve.tsv`: accuracy with fewer prompts, and with the prompts' first tokens only.
- `controls.tsv` (where controls were asked for): the same measures of the data and of controls:
  shuffled labels, random networks, another dataset such as one of random weights.
"""


def write_findings(findings: Findings, out_dir: Path) -> tuple[Path, ...]:
    """Write findings into the output folder of ``llm2bids analyze``.

    Parameters
    ----------
    findings : Findings
        What was found.
    out_dir : Path
        The output folder; `FOLDER` in it is written anew.

    Returns
    -------
    tuple of Path
        Images and tables that were written, then ``findings.json``.
    """
    folder = out_dir / FOLDER
    remove_findings(out_dir)
    (folder / "networks").mkdir(parents=True)
    files = [path for one in findings.networks for path in _write_network(one, findings, folder)]
    tables = {
        "findings": findings.table(),
        "overlap": findings.overlap.pairs(),
        "repeatability": repeatability_table(findings),
        "identification": findings.identification.table(),
        "confusion": findings.identification.confusion.reset_index(),
        "identification_curve": pd.concat(
            [findings.by_prompts.table(), findings.by_tokens.table()], ignore_index=True
        ).drop_duplicates(["n_tokens", "n_prompts"]),
    }
    if findings.control_analyses:
        tables["controls"] = controls_table(findings)
    for name, table in tables.items():
        write_table(folder / f"{name}.tsv", table)
    write_text(folder / "README.md", README)
    write_json(folder / "findings.json", findings_json(findings))
    files += [folder / f"{name}.tsv" for name in tables]
    list_group(out_dir)
    return (*files, folder / "findings.json")


def remove_findings(out_dir: Path) -> None:
    """Remove findings that an earlier call wrote.

    Parameters
    ----------
    out_dir : Path
        Output folder of ``llm2bids analyze``.
    """
    folder = out_dir / FOLDER
    if folder.exists():
        shutil.rmtree(folder)
        list_group(out_dir)


def findings_json(findings: Findings) -> dict[str, Any]:
    """Put findings into the form of ``findings.json``.

    Parameters
    ----------
    findings : Findings
        What was found.

    Returns
    -------
    dict
        Numbers, texts, lists and mappings; None for what is not a number.
    """
    space = findings.space
    content = {
        "space": {
            "label": space.label,
            "fingerprint": space.fingerprint(),
            "n_units": space.n_units,
        },
        "software": software(),
        "participants": findings.participants,
        "tasks": findings.tasks,
        "n_tokens": findings.n_tokens,
        "n_prompts": {"on": findings.n_on, "off": findings.n_off},
        "provenance": findings.provenance.to_dict(),
        "warnings": findings.warnings,
        "generalisation": GENERALISATION,
        "table": findings.table(),
        "networks": [_network(one, findings) for one in findings.networks],
        "overlap": _overlap(findings.overlap),
        "repeatability": _repeatability(findings),
        "identification": _identification(findings),
        "controls": {
            "about": {one.name: one.about for one in findings.control_analyses},
            "rows": controls_table(findings),
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(_plain(content), allow_nan=False))
    return plain


def repeatability_table(findings: Findings) -> pd.DataFrame:
    """List single-run and split-half likeness of each task.

    Parameters
    ----------
    findings : Findings
        What was found.

    Returns
    -------
    DataFrame
        One row for each task: ``task``, ``single_run_r`` and its interval, ``other_tasks_r``, and
        for halves of ``participants`` and ``prompts``: ``<halves>_r``, ``<halves>_full_r``,
        ``<halves>_dice`` with intervals.
    """
    single = findings.single_run
    table = pd.DataFrame(
        {
            "task": single.tasks,
            "single_run_r": single.mean_r,
            "single_run_r_low": single.r_low,
            "single_run_r_high": single.r_high,
            "other_tasks_r": single.other_tasks_r,
        }
    )
    for halves in (findings.over_participants, findings.over_prompts):
        part = halves.table().drop(columns=["task", "n_splits"])
        table = table.join(part.add_prefix(f"{halves.over}_"))
    return table


def controls_table(findings: Findings) -> pd.DataFrame:
    """List the measures of the data beside those of each control.

    Parameters
    ----------
    findings : Findings
        What was found.

    Returns
    -------
    DataFrame
        Columns as `llm2bids.network.control_analysis.ControlAnalysis.table`; empty where no
        control was asked for.
    """
    tables = [one.table() for one in findings.control_analyses]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def network_name(one: TaskNetwork) -> str:
    """Give the name of a network's files, without ending."""
    return f"{one.network.label}_network"


def _write_network(one: TaskNetwork, findings: Findings, folder: Path) -> list[Path]:
    path = folder / "networks" / f"{network_name(one)}.tsv"
    one.network.save(path)
    image = path.with_suffix(".nii.gz")
    nib.save(one.network.to_img(findings.space, statistic="effect"), image)
    return [path, image]


def _network(one: TaskNetwork, findings: Findings) -> dict[str, Any]:
    summary = one.network.summary(findings.space)
    return {
        "label": one.network.label,
        "task": one.task,
        "against": one.against,
        "n_units": len(one.network),
        "n_fdr": one.n_fdr,
        "n_fdr_anywhere": one.n_fdr_anywhere,
        "n_clusters": int(one.network.table["cluster"].max()),
        "top_percent": one.top_percent,
        "alpha": one.alpha,
        "criterion": one.network.criterion,
        "table": f"networks/{network_name(one)}.tsv",
        "image": f"networks/{network_name(one)}.nii.gz",
        "summary": summary.sort_values("n_units", ascending=False, kind="stable").head(MOST_SITES),
    }


def _overlap(overlap: Overlap) -> dict[str, Any]:
    matrices = (
        *("correlation", "correlation_low", "correlation_high"),
        *("dice", "dice_low", "dice_high"),
        *("chance", "chance_within_site", "chance_within_site_high", "first"),
    )
    return {
        "share": overlap.share,
        "confidence": overlap.confidence,
        "n_participants": overlap.n_participants,
        "n_boot": overlap.n_boot,
        "tasks": overlap.tasks,
        **{name: getattr(overlap, name) for name in matrices},
        "pairs": overlap.pairs(),
    }


def _repeatability(findings: Findings) -> dict[str, Any]:
    table = repeatability_table(findings)
    measures = [name for name in map(str, table) if not name.endswith(("task", "_low", "_high"))]
    icc = findings.icc
    return {
        "share": findings.over_participants.share,
        "confidence": 0.95,
        "n_participants": len(findings.participants),
        "tasks": table,
        "mean": {name: float(table[name].mean()) for name in measures},
        "n_splits": {
            halves.over: len(halves.r)
            for halves in (findings.over_participants, findings.over_prompts)
        },
        "icc": {
            "kind": icc.kind,
            "targets": icc.targets,
            "measurements": icc.measurements,
            "quantiles": {f"{at:g}": value for at, value in icc.quantiles().items()},
        },
    }


def _identification(findings: Findings) -> dict[str, Any]:
    found: Identification = findings.identification
    low, high = found.interval()
    return {
        "method": found.method,
        "accuracy": found.accuracy,
        "low": low,
        "high": high,
        "confidence": 0.95,
        "n_correct": found.n_correct,
        "n_tests": found.n_tests,
        "chance": found.chance,
        "p_value": found.p_value,
        "tasks": found.tasks,
        "confusion": found.confusion.to_numpy(),
        "tests": found.table(),
        "folds": [
            {"tested": [who], "defining": [one for one in findings.participants if one != who]}
            for who in findings.participants
        ],
        "controls": [_control(one) for one in findings.controls],
        "curve": {
            "prompts": findings.by_prompts.table(),
            "tokens": findings.by_tokens.table(),
        },
        "note": NOTE,
    }


def _control(one: Control) -> dict[str, Any]:
    low, high = one.quantiles()
    return {
        "name": one.name,
        "mean": one.mean,
        "low": low,
        "high": high,
        "n_draws": one.accuracies.size,
        "p_value": one.p_value,
    }


def _plain(value: Any) -> Any:
    """Turn tables, arrays and numpy's numbers into what JSON can hold."""
    if isinstance(value, pd.DataFrame):
        return _plain(value.to_dict("records"))
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is pd.NA:
        return None
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
