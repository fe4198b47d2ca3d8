"""Sections: the paradigm, what was asked and answered; the design matrices of the first level."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from llm2bids.dataset.layout import Run
from llm2bids.report.draw.color import diverging_indices, diverging_palette
from llm2bids.report.draw.svg import drawing, element, palette_png, pixels, rect
from llm2bids.report.section import Section, listed, missing, render
from llm2bids.report.sources import Sources, sidecar
from llm2bids.store.tables import checked_columns, read_table

N_EXAMPLES = 2  # prompts of each condition that are shown with their answers
MOST_DESIGNS, MOST_BLOCKS = 12, 40
"""Design matrices that are shown, and blocks of equal values that are drawn one by one."""

_STEP, _LEFT, _WIDTH = 28.0, 142.0, 640.0
_MATRIX_LEFT, _MATRIX_TOP, _MATRIX_HEIGHT, _COLUMN = 34.0, 88.0, 200.0, 26.0


def design_section(sources: Sources) -> Section:
    """Show the timeline of the first participant's runs, and examples of prompts and answers."""
    runs = sources.first_runs()
    tables = {run.name: _prompt_table(sources.dataset.token_table(run)) for run in runs}
    body = render(
        "design.html",
        metadata=about_design(sources),
        participant=runs[0].participant_label,
        n_participants=len({run.participant_label for run in sources.dataset.runs}),
        timeline=_timeline(sources, runs, tables, t_r=sources.dataset.t_r(runs[0])),
        examples=_examples(sources, tables),
    )
    return Section(name="design", title="Design", body=body)


def about_design(sources: Sources) -> dict[str, Any]:
    """Gather the facts of the paradigm, those of a run from the first one."""
    dataset = sources.dataset
    run = sources.first_runs()[0]
    metadata, table = dataset.sidecar(run), _prompt_table(dataset.token_table(run))
    try:
        paradigm = tomllib.loads((dataset.path / "code" / "paradigm.toml").read_text("utf-8"))
    except (OSError, ValueError):
        paradigm = {}
    return {
        "description": paradigm.get("description", ""),
        "baseline": paradigm.get("baseline", "off"),
        "sampling": _sampling(metadata.get("Sampling")),
        "n_prompts": len(table),
        "n_blocks": int(table["block"].nunique()),
        "volumes_per_prompt": metadata.get("VolumesPerPrompt"),
        "n_volumes": metadata.get("NumberOfVolumes"),
        "t_r": metadata["RepetitionTime"],
        "seed": dataset.settings.get("seed"),
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
    scale = (_WIDTH - _LEFT - 12) / (end or 1.0)
    parts = []
    for row, run in enumerate(runs):
        top = 8 + row * _STEP
        name = run.task if run.run is None else f"{run.task} {run.run}"
        parts.append(element("text", name, x=_LEFT - 12, y=top + 15, class_="label end"))
        for prompt in tables[run.name].to_dict("records"):
            tip = element("title", f"{prompt['condition']}: {prompt['text']}")
            left = _LEFT + prompt["prompt_onset"] * scale
            width = max(prompt["seconds"] * scale - 1.5, 0.75)
            color = sources.trial_color(prompt["trial_type"])
            parts.append(rect(left, top, width, 20, tip, rx=2, fill=color))
    bottom = 8 + len(runs) * _STEP
    for seconds in np.linspace(0, end, 5):
        at = _LEFT + float(seconds) * scale
        parts.append(element("text", f"{seconds:g}", x=at, y=bottom + 14, class_="tick mid"))
    label = f"nominal seconds (one token = {t_r:g} s)"
    middle = (_LEFT + _WIDTH) / 2
    parts.append(element("text", label, x=middle, y=bottom + 34, class_="label mid"))
    alt = (
        f"Timeline of {len(runs)} runs of {end:g} seconds: blocks of prompts of "
        f"{listed([run.task for run in runs])} among blocks of off prompts."
    )
    return drawing(parts, width=_WIDTH, height=bottom + 42, alt=alt)


def designs_section(sources: Sources) -> Section:
    """Show the design matrices of the first participant who has any, and the model's parameters."""
    title = "Design matrix"
    paths = sources.files("sub-*/**/func/*_design.tsv")
    if not paths:
        what = "There is no first level yet: no design matrices and no participants' maps."
        body = missing(what, sources.command("participant"))
        return Section(name="designs", title=title, body=body)
    participants = list(dict.fromkeys(path.name.partition("_")[0] for path in paths))
    shown = [path for path in paths if path.name.startswith(f"{participants[0]}_")]
    metadata = sidecar(shown[0])
    body = render(
        "designs.html",
        figures=[_matrix_drawing(sources, path) for path in shown[:MOST_DESIGNS]],
        participant=participants[0],
        n_participants=len(participants),
        rows=metadata.get("Rows", "rows"),
        parameters=metadata.get("ModelParameters", {}),
        quantiles=_residual_checks(sources),
    )
    return Section(name="designs", title=title, body=body)


def _matrix_drawing(sources: Sources, path: Path) -> tuple[Markup, float]:
    """Draw a design matrix, columns scaled to their largest value; give its width too."""
    table = read_table(path)
    checked_columns(table, path, list(table.columns))
    width = max(_COLUMN * table.shape[1], 60.0)
    step = width / max(table.shape[1], 1)
    parts = [
        rect(_MATRIX_LEFT, _MATRIX_TOP, width, _MATRIX_HEIGHT, class_="panel"),
    ]
    known = (*sources.tasks, *sources.trial_types)
    for index, column in enumerate(map(str, table.columns)):
        left = _MATRIX_LEFT + index * step
        color = sources.trial_color(column if column in known else "")
        parts += _column(table[column].to_numpy(dtype=np.float64), left, step, color)
        at, above = left + step / 2 + 4, _MATRIX_TOP - 6
        turned = f"rotate(-55 {at:.1f} {above:.1f})"
        parts.append(element("text", column, x=at, y=above, transform=turned, class_="tick"))
    for row in (0, len(table) - 1):
        at = _MATRIX_TOP + (row + 0.5) / len(table) * _MATRIX_HEIGHT + 4
        parts.append(element("text", row + 1, x=_MATRIX_LEFT - 6, y=at, class_="tick end"))
    name = path.name.removesuffix("_design.tsv").partition("_task-")[2]
    columns = ", ".join(map(str, table.columns))
    alt = f"Design matrix of {name}: {len(table)} rows, columns {columns}."
    total = _MATRIX_LEFT + width + 56
    return drawing(parts, width=total, height=_MATRIX_TOP + _MATRIX_HEIGHT + 6, alt=alt), total


def _column(values: npt.NDArray[np.float64], left: float, width: float, color: str) -> list[Markup]:
    """Draw a column: blocks of equal values in one colour, or an image where it varies or falls."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    step, largest = _MATRIX_HEIGHT / len(values), float(np.abs(values).max()) or 1.0
    if values.min() < 0 or len(starts) > MOST_BLOCKS:
        image = diverging_indices(values[:, np.newaxis] / largest, 1.0)
        png = palette_png(image, diverging_palette())
        return [pixels(png, left, _MATRIX_TOP, width, _MATRIX_HEIGHT)]
    stops = np.r_[starts[1:], len(values)]
    blocks = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        if values[start] > 0:
            strength = round(float(values[start]) / largest, 3)
            top, height = _MATRIX_TOP + start * step, (stop - start) * step
            blocks.append(rect(left, top, width, height, fill=color, fill_opacity=strength))
    return blocks


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
