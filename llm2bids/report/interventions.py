"""Sections: lesions, steering and its text side by side, targets, monitor."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from llm2bids.intervention.answers import MEASURES
from llm2bids.intervention.lesion_tables import OFF
from llm2bids.intervention.results import InterventionResult, load_results
from llm2bids.report.draw.chart import Line, line_chart
from llm2bids.report.section import Section, heat_table, interval, missing, number, render
from llm2bids.report.sources import Sources

# What lesions were measured on
CAPTIONS = {
    "given": "Held-out text of each topic, as given",
    "answers": "What the intact model answered to it",
}

N_TEXTS = 4  # prompts of each topic whose texts are shown

_SIDE_BY_SIDE = ("none", "direction", "random", "shuffled", "other topic", "prompt")


def intervention_sections(sources: Sources) -> list[Section]:
    """Show what lesions, steering, targets and monitor wrote; say what makes those not done."""
    sections, notes = [], []
    where = f"{sources.dataset.path.name} {sources.analysis_dir.name}"
    for name, (title, show, question) in _COMMANDS.items():
        results = () if sources.analysis is None else load_results(sources.analysis, name)
        if results:
            body = Markup("").join(show(sources, result) for result in results)
            sections.append(Section(name, title, body))
        else:
            more = " --task LABEL" if name == "targets" else ""
            notes.append(missing(question, f"llm2bids {name} {where}{more}"))
    if notes:
        body = Markup("").join(notes)
        sections.append(Section("interventions", "From a network to the model", body))
    return sections


def _lesions(sources: Sources, result: InterventionResult) -> Markup:
    """Show the matrix of networks by texts, and dose curves with the cloud of random draws."""
    charts = [
        (f"{CAPTIONS[measure]}: own topic, by dose", _dose_chart(sources, result, measure))
        for measure in MEASURES
    ]
    return render(
        "lesions.html",
        settings=result.metadata,
        tables=[_lesion_matrix(result, measure) for measure in MEASURES],
        charts=charts,
        names=[(name, sources.color(name)) for name in _lesioned(result)],
        rows=result.tables["selectivity"].to_dict("records"),
        shows=result.notes[-1],
        off=OFF,
    )


def _lesioned(result: InterventionResult) -> list[str]:
    return [str(name) for name in result.tables["selectivity"]["network"].unique()]


def _cells(result: InterventionResult, measure: str, name: str) -> pd.DataFrame:
    """Put one column of the matrix at the main dose into a table of networks by texts."""
    table = result.tables["matrix"]
    table = table[
        np.isclose(table["dose"], result.metadata["MainDose"], rtol=1e-3)
        & (table["measure"] == measure)
    ]
    cells = table.pivot_table(index="network", columns="text", values=name, sort=False)
    return cells.reindex(index=table["network"].unique(), columns=table["text"].unique())


def _doses(result: InterventionResult, measure: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take the rows of a measure by dose: of the networks, and of the random draws."""
    table, draws = result.tables["selectivity"], result.tables["draws"]
    matched = (draws["measure"] == measure) & (draws["kind"] == "matched")
    return table[table["measure"] == measure], draws[matched]


def _lesion_matrix(result: InterventionResult, measure: str) -> Markup:
    cells, low, high = (_cells(result, measure, name) for name in ("change", "low", "high"))
    titles = [
        [f"95 % over prompts: {interval(a, b)}" for a, b in zip(*bounds, strict=True)]
        for bounds in zip(low.to_numpy(), high.to_numpy(), strict=True)
    ]
    return heat_table(
        cells,
        caption=f"{CAPTIONS[measure]}: change of NLL, nats a token; rows are lesioned networks",
        limit=max(float(np.nanmax(cells.to_numpy())), 0.1),
        titles=titles,
    )


def _dose_chart(sources: Sources, result: InterventionResult, measure: str) -> Markup:
    doses = sorted(result.tables["selectivity"]["dose"].unique())
    x_of = {dose: float(index) for index, dose in enumerate(doses)}
    table, draws = _doses(result, measure)
    jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(draws))
    lines = [Line(draws["dose"].map(x_of) + jitter, draws["own"], "var(--mute)", is_cloud=True)]
    for name in _lesioned(result):
        rows = table[table["network"] == name]
        x, color = rows["dose"].map(x_of), sources.color(name)
        lines += [Line(x, rows["own"], color), Line(x, rows[OFF], color, dashed=True)]
    return line_chart(
        lines,
        x_label="% of the units",
        y_label="nats a token",
        alt=f"{CAPTIONS[measure]}: change of NLL by dose, beside random draws",
        x_ticks={x_of[dose]: f"{dose:.3g}" for dose in doses},
    )


def write_figures(result: InterventionResult, out_dir: Path) -> list[Path]:
    """Write the matrix and the dose curves of each measure as pictures beside the tables."""
    from matplotlib.figure import Figure

    files = []
    for measure in MEASURES:
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        cells = _cells(result, measure, "change")
        limit = max(float(np.nanmax(np.abs(cells.to_numpy()))), 0.1)
        shown = left.imshow(cells.to_numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        left.set_xticks(range(cells.shape[1]), list(cells.columns), rotation=40, ha="right")
        left.set_yticks(range(cells.shape[0]), list(cells.index))
        for row, values in enumerate(cells.to_numpy()):
            for column, value in enumerate(values):
                ink = "white" if abs(value) > 0.6 * limit else "black"  # read on dark cells too
                text = {"ha": "center", "va": "center", "color": ink}
                left.text(column, row, f"{value:.2f}", fontsize=8, **text)
        left.set(title=f"{CAPTIONS[measure]}: network by text", xlabel="text")
        figure.colorbar(shown, ax=left, label="change of NLL, nats a token")
        _draw_doses(right, result, measure)
        path = out_dir / "group/lesion" / f"lesion_{measure}.png"
        figure.savefig(path, dpi=110)
        files.append(path)
    return files


def _draw_doses(axes: Any, result: InterventionResult, measure: str) -> None:
    table, draws = _doses(result, measure)
    axes.plot(draws["dose"], draws["own"], ".", color="0.7", label="random draws")
    for name, rows in table.groupby("network", sort=False):
        (line,) = axes.plot(rows["dose"], rows["own"], "o-", label=name)
        axes.plot(rows["dose"], rows[OFF], "x--", color=line.get_color(), lw=1)
    axes.set_xscale("log")
    doses = sorted(table["dose"].unique())
    axes.set_xticks(doses, [f"{dose:.3g}" for dose in doses])
    axes.minorticks_off()
    axes.set(
        title="Own topic (lines) and off text (dashed)",
        xlabel="% of the units",
        ylabel="change of NLL, nats a token",
    )
    axes.legend(fontsize=8)


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
    lines = [Line(controls["nll"], controls["hit"], "var(--mute)", is_cloud=True)]
    for name, mine in search.groupby("task", sort=False):
        color = sources.color(str(name))
        kept = table[(table["task"] == name) & table["method"].isin(["none", "direction"])]
        lines.append(Line(mine["nll"], mine["hit"], color, is_cloud=True))
        lines.append(Line(kept["nll"], kept["hit"], color))
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
    """Take what a template shows of a table."""
    columns = [str(name).replace("_", " ") for name in table.columns]
    return {"caption": caption, "columns": columns, "rows": table.to_numpy(object).tolist()}


# Commands, and of each the title of its section, what fills it, and what the command answers
_COMMANDS = {
    "lesion": ("Lesions", _lesions, "Does the model need a network's units for its topic?"),
    "steer": ("Steering", _steering, "Can it be steered towards or away from a topic?"),
    "targets": ("Targets", _targets, "Which weights should be trained for a topic?"),
    "monitor": ("Monitor", _monitor, "What does a network's activity tell apart, token by token?"),
}
