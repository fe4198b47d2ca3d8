"""Section: what lesions of the tasks' networks cost, and figures of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from llm2bids.intervention.evaluation import MEASURES
from llm2bids.intervention.lesion_result import FOLDER, OFF, SHOWS, LesionResult, read_lesions
from llm2bids.report.draw.chart import Line, line_chart
from llm2bids.report.section import Section, heat_table, interval, render
from llm2bids.report.sources import Sources

CAPTIONS = {
    "given": "Held-out text of each topic, as given",
    "answers": "What the intact model answered to it",
}


def lesion_section(sources: Sources) -> Section | None:
    """Show the matrix of networks by texts, and dose curves with the cloud of random draws."""
    result = None if sources.analysis is None else read_lesions(sources.analysis)
    if result is None:
        return None
    rows = result.selectivity.to_dict("records")
    charts = [
        (f"{CAPTIONS[measure]}: own topic, by dose", _dose_chart(sources, result, measure))
        for measure in MEASURES
    ]
    body = render(
        "lesions.html",
        settings=result.settings,
        tables=[_matrix(result, measure) for measure in MEASURES],
        charts=charts,
        names=[(name, sources.color(name)) for name in _networks(result)],
        rows=rows,
        shows=SHOWS,
        off=OFF,
        captions=CAPTIONS,
    )
    return Section(name="lesions", title="Lesions", body=body)


def _networks(result: LesionResult) -> list[str]:
    return [str(name) for name in dict.fromkeys(result.selectivity["network"])]


def _main(result: LesionResult, table: pd.DataFrame) -> pd.DataFrame:
    """Take the rows at the main dose."""
    return table[np.isclose(table["dose"], result.settings["MainDose"], rtol=1e-3)]


def _cells(result: LesionResult, measure: str, name: str) -> pd.DataFrame:
    """Put one column of the matrix into a table of networks by texts."""
    table = _main(result, result.matrix)
    table = table[table["measure"] == measure]
    cells = table.pivot_table(index="network", columns="text", values=name, sort=False)
    return cells.reindex(index=table["network"].unique(), columns=table["text"].unique())


def _matrix(result: LesionResult, measure: str) -> Markup:
    cells, low, high = (_cells(result, measure, name) for name in ("change", "low", "high"))
    titles = [
        [f"95 % over prompts: {interval(a, b)}" for a, b in zip(*bounds, strict=True)]
        for bounds in zip(low.to_numpy(), high.to_numpy(), strict=True)
    ]
    return heat_table(
        cells.to_numpy(),
        [str(name) for name in cells.index],
        [str(name) for name in cells.columns],
        caption=f"{CAPTIONS[measure]}: change of NLL, nats a token; rows are lesioned networks",
        limit=max(float(np.nanmax(cells.to_numpy())), 0.1),
        titles=titles,
    )


def _dose_chart(sources: Sources, result: LesionResult, measure: str) -> Markup:
    doses = sorted(result.selectivity["dose"].unique())
    place = {dose: float(index) for index, dose in enumerate(doses)}
    table = result.selectivity[result.selectivity["measure"] == measure]
    draws = result.draws[(result.draws["measure"] == measure) & (result.draws["kind"] == "matched")]
    jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(draws))
    lines = [
        Line(
            name="random draws",
            x=(draws["dose"].map(place).to_numpy() + jitter).tolist(),
            y=draws["own"].tolist(),
            color="var(--mute)",
            is_cloud=True,
        )
    ]
    for name in _networks(result):
        rows = table[table["network"] == name]
        x = rows["dose"].map(place).tolist()
        color = sources.color(name)
        lines.append(Line(name=name, x=x, y=rows["own"].tolist(), color=color))
        lines.append(Line(name=f"{name}, off", x=x, y=rows[OFF].tolist(), color=color, dashed=True))
    return line_chart(
        lines,
        x_label="% of the units",
        y_label="nats a token",
        alt=f"{CAPTIONS[measure]}: change of NLL by dose, beside random draws",
        x_ticks={place[dose]: f"{dose:.3g}" for dose in doses},
    )


def write_figures(result: LesionResult, out_dir: Path) -> list[Path]:
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
                left.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8)
        left.set(title=f"{CAPTIONS[measure]}: network by text", xlabel="text")
        figure.colorbar(shown, ax=left, label="change of NLL, nats a token")
        _draw_doses(right, result, measure)
        path = out_dir / FOLDER / f"lesion_{measure}.png"
        figure.savefig(path, dpi=110)
        files.append(path)
    return files


def _draw_doses(axes: Any, result: LesionResult, measure: str) -> None:
    table = result.selectivity[result.selectivity["measure"] == measure]
    draws = result.draws[(result.draws["measure"] == measure) & (result.draws["kind"] == "matched")]
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
