"""Sections: the paradigm, what was asked and answered; the design matrices of the first level."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from llm2bids.dataset.layout import Run
from llm2bids.exceptions import DatasetError
from llm2bids.report.draw.color import diverging_indices, diverging_palette
from llm2bids.report.draw.svg import palette_png
from llm2bids.report.section import listed, missing, render
from llm2bids.report.sources import Sources, sidecar
from llm2bids.store.tables import checked_columns, read_table

N_EXAMPLES = 2  # prompts of each condition that are shown with their answers
# Design matrices that are shown, and blocks of equal values that are drawn one by one
MOST_DESIGNS, MOST_BLOCKS = 12, 40


def design_body(sources: Sources) -> Markup:
    """Show the timeline of the first participant's runs, and examples of prompts and answers."""
    runs = sources.first_runs()
    tables = {run.name: _prompt_table(sources.dataset.token_table(run)) for run in runs}
    return render(
        "design.html",
        metadata=about_design(sources),
        participants=sources.participants,
        timeline=_timeline(sources, runs, tables, t_r=sources.dataset.t_r(runs[0])),
        examples=_examples(sources, tables),
    )


def about_design(sources: Sources) -> dict[str, Any]:
    """Gather the facts of the paradigm, those of a run from the first one."""
    dataset = sources.dataset
    run = sources.first_runs()[0]
    metadata, table = dataset.sidecar(run), _prompt_table(dataset.token_table(run))
    return {
        "description": dataset.paradigm.description,
        "baseline": dataset.paradigm.baseline,
        "sampling": _sampling(metadata.get("Sampling")),
        "n_prompts": len(table),
        "n_blocks": int(table["block"].nunique()),
        "volumes_per_prompt": metadata.get("VolumesPerPrompt"),
        "t_r": metadata["RepetitionTime"],
        "shared": bool(dataset.settings.get("allow_shared_prompts")),
    }


def _prompt_table(tokens: pd.DataFrame) -> pd.DataFrame:
    """Take a row for each prompt, with its seconds and answer (``↵``: a new line), from tokens."""
    tokens = tokens.assign(token=tokens["token"].fillna("").astype(str))
    grouped = tokens.groupby("trial", sort=True)
    table = grouped[["block", "condition", "prompt_id", "text", "prompt_onset"]].first()
    table["trial_type"] = grouped["trial_type"].max()
    table["seconds"] = grouped["duration"].sum().astype(float)
    table["answer"] = grouped["token"].agg("".join).str.replace("\n", "↵").str.strip()
    return table.reset_index()


def _timeline(
    sources: Sources, runs: tuple[Run, ...], tables: Mapping[str, pd.DataFrame], *, t_r: float
) -> Markup:
    """Draw when each prompt of `_prompt_table` was shown, one row for each run."""
    end = max(float((table["prompt_onset"] + table["seconds"]).max()) for table in tables.values())
    names = [run.task if run.run is None else f"{run.task} {run.run}" for run in runs]
    prompts = [tables[run.name].to_dict("records") for run in runs]
    return render(
        "timeline.svg",
        runs=list(zip(names, prompts, strict=True)),
        end=end,
        t_r=t_r,
        color=sources.trial_color,
        alt=f"Timeline of {len(runs)} runs of {end:g} seconds: blocks of prompts of "
        f"{listed([run.task for run in runs])} among blocks of off prompts.",
    )


def designs_body(sources: Sources) -> Markup:
    """Show the design matrices of the first participant who has any, and the model's parameters."""
    paths = sources.files("sub-*/**/func/*_design.tsv")
    if not paths:
        what = "There is no first level yet: no design matrices and no participants' maps."
        return missing(what, sources.command("participant"))
    participants = list(dict.fromkeys(path.name.partition("_")[0] for path in paths))
    shown = [path for path in paths if path.name.startswith(f"{participants[0]}_")]
    metadata = sidecar(shown[0])
    tables = {path: read_table(path) for path in shown[:MOST_DESIGNS]}
    longest = max((len(str(name)) for table in tables.values() for name in table), default=0)
    return render(
        "designs.html",
        figures=[_matrix_drawing(sources, *item, longest=longest) for item in tables.items()],
        participant=participants[0],
        n_participants=len(participants),
        rows=metadata.get("Rows", "rows"),
        parameters=metadata.get("ModelParameters", {}),
        quantiles=_residual_checks(sources),
    )


def _matrix_drawing(
    sources: Sources, path: Path, table: pd.DataFrame, *, longest: int
) -> tuple[Markup, float]:
    """Draw a design matrix, columns scaled to their largest value; give its width too.

    `longest`: letters of the longest name above any of the matrices, so that all begin at one line.
    """
    checked_columns(table, path, list(table.columns))
    if not len(table):
        raise DatasetError(f"{path}: no row in it; run llm2bids analyze again")
    known = (*sources.tasks, *sources.trial_types)
    names = [str(name) for name in table.columns]
    columns = [
        {
            "name": name,
            "color": sources.trial_color(name if name in known else ""),
            **_column(table[name].to_numpy(dtype=np.float64)),
        }
        for name in names
    ]
    run = path.name.removesuffix("_design.tsv").partition("_task-")[2]
    alt = f"Design matrix of {run}: {len(table)} rows, columns {', '.join(names)}."
    plot = max(26.0 * len(names), 60.0)
    # names stand aslant, a letter 6.8 high and 4.8 wide on a telephone: room for all of them
    ends = [plot * (i + 0.5) / len(names) + 14 + 4.8 * len(name) for i, name in enumerate(names)]
    width = 34 + max(plot + 56.0, *ends)
    size = {"width": width, "plot": plot, "top": max(88.0, 18 + 6.8 * longest)}
    return render("matrix.svg", **size, columns=columns, n_rows=len(table), alt=alt), width


def _column(values: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Take a column as blocks of equal values, or as an image where it varies or falls."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    largest = float(np.abs(values).max()) or 1.0
    if values.min() < 0 or len(starts) > MOST_BLOCKS:
        image = diverging_indices(values[:, np.newaxis] / largest, 1.0)
        return {"png": palette_png(image, diverging_palette()), "blocks": []}
    stops = np.r_[starts[1:], len(values)]
    blocks = [
        (start, stop, float(values[start]) / largest)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        if values[start] > 0
    ]
    return {"png": "", "blocks": blocks}


def _residual_checks(sources: Sources) -> dict[str, tuple[float, float]]:
    """Give the range over participants of the median of each residual check."""
    ranges = {}
    for stat in ("rsquared", "residualar1"):
        maps = sources.files(f"sub-*/**/func/*_stat-{stat}_statmap.nii.gz")
        quantiles = [sidecar(path).get("Quantiles", {}) for path in maps]
        medians = [known["0.5"] for known in quantiles if "0.5" in known]
        if medians:
            ranges[stat] = (min(medians), max(medians))
    return ranges


def _examples(sources: Sources, tables: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Show a few prompts of each condition with what the model wrote, off prompts last."""
    every = pd.concat(list(tables.values())).drop_duplicates("prompt_id")
    every["trial_type"] = every["trial_type"].fillna("").astype(str)
    examples = []
    for condition, prompts in every.groupby("condition"):
        shown = prompts.head(N_EXAMPLES)
        kind = prompts["trial_type"].iloc[0]
        examples.append(
            {
                "condition": condition,
                "is_off": bool((prompts["trial_type"] == "").all()),
                "color": sources.trial_color(kind),
                "rows": list(zip(shown["text"], shown["answer"], strict=True)),
            }
        )
    return sorted(examples, key=lambda example: (example["is_off"], example["condition"]))


def _sampling(sampling: object) -> str:
    if not isinstance(sampling, dict) or not sampling.get("do_sample", True):
        return "greedy decoding"
    settings = [f"temperature {sampling.get('temperature', 1):g}"]
    if sampling.get("top_k"):
        settings.append(f"top-k {sampling['top_k']}")
    if sampling.get("top_p", 1.0) < 1:
        settings.append(f"top-p {sampling['top_p']:g}")
    return f"sampled with {listed(settings)}" + ("" if len(settings) > 1 else " from all tokens")
