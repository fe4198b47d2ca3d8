"""Section: the paradigm, its timeline, and what was asked and answered."""

import tomllib
from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from llm2bids.dataset.read import Run
from llm2bids.report.draw.color import task_color
from llm2bids.report.draw.svg import element, figure
from llm2bids.report.section import Section, listed, render
from llm2bids.report.sources import Sources

N_EXAMPLES = 2
"""Prompts of each condition that are shown with their answers."""

_STEP, _LEFT, _WIDTH = 28.0, 142.0, 640.0


def design_section(sources: Sources) -> Section:
    """Describe the paradigm of a dataset.

    Parameters
    ----------
    sources : Sources
        The dataset.

    Returns
    -------
    Section
        Timeline of the first participant's runs, and examples of prompts and answers.
    """
    runs = sources.first_runs()
    tables = {run.name: prompt_table(sources.dataset.token_table(run)) for run in runs}
    t_r = sources.dataset.t_r(runs[0])
    return Section(
        name="design",
        title="Design",
        body=render(
            "design.html",
            about=about_design(sources),
            participant=runs[0].participant_label,
            n_participants=len({run.participant_label for run in sources.dataset.runs}),
            timeline=timeline(sources, runs, tables, t_r=t_r),
            examples=_examples(sources, tables),
        ),
    )


def about_design(sources: Sources) -> dict[str, Any]:
    """Gather the facts of the paradigm.

    Parameters
    ----------
    sources : Sources
        The dataset.

    Returns
    -------
    dict
        ``description``, ``baseline``, ``sampling`` (sentence), ``n_prompts``, ``n_blocks``,
        ``volumes_per_prompt``, ``n_volumes``, ``t_r`` and ``seconds`` of the first run, ``seed``,
        ``shared`` (whether participants may share prompts).
    """
    dataset = sources.dataset
    run = sources.first_runs()[0]
    about, table = dataset.sidecar(run), prompt_table(dataset.token_table(run))
    try:
        paradigm = tomllib.loads((dataset.path / "code" / "paradigm.toml").read_text("utf-8"))
    except (OSError, ValueError):
        paradigm = {}
    return {
        "description": paradigm.get("description", ""),
        "baseline": paradigm.get("baseline", "off"),
        "sampling": _sampling(about.get("Sampling")),
        "n_prompts": len(table),
        "n_blocks": int(table["block"].nunique()),
        "volumes_per_prompt": about.get("VolumesPerPrompt"),
        "n_volumes": about.get("NumberOfVolumes"),
        "t_r": about["RepetitionTime"],
        "seconds": float(table["prompt_onset"].max() + table["seconds"].iloc[-1]),
        "seed": dataset.settings.get("seed"),
        "shared": bool(dataset.settings.get("allow_shared_prompts")),
    }


def prompt_table(tokens: pd.DataFrame) -> pd.DataFrame:
    """Take one row for each prompt out of a table of tokens.

    Parameters
    ----------
    tokens : DataFrame
        From `Dataset.token_table`.

    Returns
    -------
    DataFrame
        ``trial``, ``block``, ``condition``, ``trial_type``, ``prompt_id``, ``text``,
        ``prompt_onset``, ``seconds`` and ``answer`` (the tokens joined, ``↵`` for a new line).
    """
    tokens = tokens.assign(token=tokens["token"].fillna("").astype(str))
    grouped = tokens.groupby("trial", sort=True)
    table = grouped[["block", "condition", "prompt_id", "text", "prompt_onset"]].first()
    table["trial_type"] = grouped["trial_type"].max()
    table["seconds"] = grouped["duration"].sum().astype(float)
    table["answer"] = grouped["token"].agg("".join).str.replace("\n", "↵").str.strip()
    return table.reset_index()


def timeline(
    sources: Sources, runs: tuple[Run, ...], tables: Mapping[str, pd.DataFrame], *, t_r: float
) -> Markup:
    """Draw when each prompt was shown, one row for each run.

    Parameters
    ----------
    sources : Sources
        For the colours of tasks.
    runs : tuple of Run
        Rows.
    tables : mapping of str to DataFrame
        From `prompt_table`, by the name of the run.
    t_r : float
        Seconds from volume to volume.

    Returns
    -------
    Markup
        The drawing.
    """
    end = max(float((tab["prompt_onset"] + tab["seconds"]).max()) for tab in tables.values())
    scale = (_WIDTH - _LEFT - 12) / (end or 1.0)
    parts = []
    for row, run in enumerate(runs):
        top = 8 + row * _STEP
        name = run.task if run.run is None else f"{run.task} {run.run}"
        parts.append(element("text", name, x=_LEFT - 12, y=top + 15, class_="label end"))
        for prompt in tables[run.name].to_dict("records"):
            kind = prompt["trial_type"]
            is_on = isinstance(kind, str) and kind != ""
            color = task_color(sources.color(kind)) if is_on else "var(--off)"
            parts.append(
                element(
                    "rect",
                    element("title", f"{prompt['condition']}: {prompt['text']}"),
                    x=_LEFT + prompt["prompt_onset"] * scale,
                    y=top,
                    width=max(prompt["seconds"] * scale - 1.5, 0.75),
                    height=20,
                    rx=2,
                    fill=color,
                )
            )
    bottom = 8 + len(runs) * _STEP
    for share in range(5):
        at, seconds = _LEFT + share / 4 * end * scale, share / 4 * end
        parts.append(element("text", f"{seconds:g}", x=at, y=bottom + 14, class_="tick mid"))
    parts.append(
        element("text", f"nominal seconds (one token = {t_r:g} s)", x=(_LEFT + _WIDTH) / 2,
                y=bottom + 34, class_="label mid")
    )  # fmt: skip
    alt = (
        f"Timeline of {len(runs)} runs of {end:g} seconds: blocks of prompts of "
        f"{listed([run.task for run in runs])} among blocks of off prompts."
    )
    return figure(parts, width=_WIDTH, height=bottom + 42, alt=alt)


def _examples(sources: Sources, tables: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Show a few prompts of each condition, with what the model wrote."""
    every = pd.concat(list(tables.values())).drop_duplicates("prompt_id")
    off = every["trial_type"].fillna("").astype(str) == ""
    examples = []
    for condition, prompts in sorted(
        every.groupby("condition"), key=lambda item: (bool(off[item[1].index].all()), item[0])
    ):
        shown = prompts.head(N_EXAMPLES)
        kind = str(prompts["trial_type"].fillna("").iloc[0])
        examples.append(
            {
                "condition": condition,
                "color": task_color(sources.color(kind)) if kind else "var(--off)",
                "rows": list(zip(shown["text"], shown["answer"], strict=True)),
            }
        )
    return examples


def _sampling(sampling: object) -> str:
    if not isinstance(sampling, dict) or not sampling.get("do_sample", True):
        return "greedy decoding"
    said = [f"temperature {sampling.get('temperature', 1):g}"]
    if sampling.get("top_k"):
        said.append(f"top-k {sampling['top_k']}")
    if sampling.get("top_p", 1.0) < 1:
        said.append(f"top-p {sampling['top_p']:g}")
    return f"sampled with {listed(said)}" + ("" if len(said) > 1 else " from all tokens")
