"""Sections: lesions, steering and its text side by side, targets, monitor."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from llm2bids.intervention.results import InterventionResult, load_results
from llm2bids.report.draw.chart import Line, line_chart
from llm2bids.report.lesions import lesions
from llm2bids.report.section import Section, missing, number, render
from llm2bids.report.sources import Sources

N_TEXTS = 4
"""Prompts of each topic whose texts are shown."""

_SIDE_BY_SIDE = ("none", "direction", "random", "shuffled", "other topic", "prompt")


def intervention_sections(sources: Sources) -> list[Section]:
    """Show what lesions, steering, targets and monitor wrote; say what makes those not done."""
    sections, notes = [], []
    where = f"{sources.dataset.path.name} {sources.analysis_dir.name}"
    for name, title, show, question, more in (
        ("lesion", "Lesions", lesions, "Does the model need a network's units for its topic?", ""),
        ("steer", "Steering", _steering, "Can it be steered towards or away from a topic?", ""),
        ("targets", "Targets", _targets, "Which weights should be trained for a topic?",
         " --task LABEL"),
        ("monitor", "Monitor", _monitor,
         "What does a network's activity tell apart, token by token?", ""),
    ):  # fmt: skip
        results = () if sources.analysis is None else load_results(sources.analysis, name)
        if results:
            body = Markup("").join(show(sources, result) for result in results)
            sections.append(Section(name=name, title=title, body=body))
        else:
            notes.append(missing(question, f"llm2bids {name} {where}{more}"))
    if notes:
        title = "From a network to the model"
        sections.append(Section(name="interventions", title=title, body=Markup("").join(notes)))
    return sections


def _steering(sources: Sources, result: InterventionResult) -> Markup:
    table, texts = result.tables["steer"], result.tables["texts"]
    methods = [name for name in _SIDE_BY_SIDE if name in set(texts["method"])]
    rows = []
    for _, mine in texts.groupby("task", sort=False):
        for prompt_id in list(dict.fromkeys(mine["prompt_id"]))[:N_TEXTS]:
            same = mine[mine["prompt_id"] == prompt_id]
            first = {m: same[same["method"] == m].iloc[0].to_dict() for m in methods}
            rows.append((str(mine["task"].iloc[0]), str(first["none"]["prompt"]), first))
    return render(
        "steering.html",
        meta=result.metadata,
        chart=_trade_off(sources, result.tables["search"], table),
        names=[(name, sources.color(name)) for name in dict.fromkeys(table["task"])],
        rows=table.to_dict("records"),
        methods=methods,
        texts=rows,
        notes=result.notes,
    )


def _trade_off(sources: Sources, search: pd.DataFrame, table: pd.DataFrame) -> Markup:
    """Draw hits against NLL: the search as a cloud, what was reported joined to no steering."""
    controls = table[table["method"].isin(["random", "shuffled", "other topic"])]
    lines = [
        Line(
            name="controls", x=controls["nll"].tolist(), y=controls["hit"].tolist(),
            color="var(--mute)", is_cloud=True,
        )
    ]  # fmt: skip
    for name, mine in search.groupby("task", sort=False):
        color = sources.color(str(name))
        x, y = mine["nll"].tolist(), mine["hit"].tolist()
        lines.append(Line(name=f"{name}, search", x=x, y=y, color=color, is_cloud=True))
        kept = table[(table["task"] == name) & table["method"].isin(["none", "direction"])]
        x, y = kept["nll"].tolist(), kept["hit"].tolist()
        lines.append(Line(name=str(name), x=x, y=y, color=color))
    return line_chart(
        lines,
        x_label="NLL under the intact model, nats a token",
        y_label="classified as the topic",
        y_range=(-0.04, 1.04),
        alt="Share of texts about the topic against their NLL under the intact model, for every "
        "layer and strength that was searched, and for what was chosen.",
    )


def _targets(sources: Sources, result: InterventionResult) -> Markup:
    modules = result.tables["modules"].sort_values("fisher", ascending=False).head(10)
    tables = [_shown("What each choice gains, to first order", result.tables["choices"])]
    if "trial" in result.tables:
        tables += [
            _shown("Trained: change of NLL, nats a token", result.tables["trial"]),
            _shown("The network's rows less other methods", result.tables["differences"]),
        ]
    tables.append(_shown("The ten modules with the most Fisher information", modules))
    meta = result.metadata
    lead = (
        f"{meta['Task']}: {meta['Budget']} MLP neurons ({meta['TopPercent']:g} %). Rank "
        "correlation of a module's share of the network with its gain per parameter: "
        f"{number(meta['ModuleShareRankCorrelation']) or 'not defined'}."
    )
    return render("results.html", lead=lead, tables=tables, notes=result.notes)


def _monitor(sources: Sources, result: InterventionResult) -> Markup:
    table = result.tables["monitor"]
    areas = ["auroc_off", "auroc_others"]
    means = table.groupby(["score", "position"], sort=False)[areas].mean().reset_index()
    tables = [
        _shown("Areas under the ROC curve, means over topics", means),
        _shown("By topic", table),
        _shown("Detections by tokens of reading", result.tables["detection"]),
    ]
    lead = (
        f"Scores of networks on {result.metadata['NumberOfPrompts']} held-out prompts of each "
        "kind: on against off, and against all other topics."
    )
    return render("results.html", lead=lead, tables=tables, notes=result.notes)


def _shown(caption: str, table: pd.DataFrame) -> dict[str, Any]:
    """Spell a table out, numbers with three digits."""
    return {
        "caption": caption,
        "columns": [str(name).replace("_", " ") for name in table.columns],
        "rows": [_cells(row) for row in table.itertuples(index=False)],
    }


def _cells(row: Sequence[Any]) -> list[tuple[str, bool]]:
    cells = []
    for value in row:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        text = "" if value != value or value is None else f"{value:.3g}" if is_number else value
        cells.append(
            (str(text).replace("-", "\N{MINUS SIGN}") if is_number else str(text), is_number)
        )
    return cells
