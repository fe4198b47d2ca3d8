"""What lesions of the tasks' networks cost: a part of the page, and figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from llm2bids.intervention.answers import MEASURES
from llm2bids.intervention.lesion_tables import OFF, SHOWS
from llm2bids.intervention.results import InterventionResult
from llm2bids.report.draw.chart import Line, line_chart
from llm2bids.report.section import heat_table, interval, render
from llm2bids.report.sources import Sources

CAPTIONS = {
    "given": "Held-out text of each topic, as given",
    "answers": "What the intact model answered to it",
}


def lesions(sources: Sources, result: InterventionResult) -> Markup:
    """Show the matrix of networks by texts, and dose curves with the cloud of random draws."""
    charts = [
        (f"{CAPTIONS[measure]}: own topic, by dose", _dose_chart(sources, result, measure))
        for measure in MEASURES
    ]
    return render(
        "lesions.html",
        settings=result.metadata,
        tables=[_matrix(result, measure) for measure in MEASURES],
        charts=charts,
        names=[(name, sources.color(name)) for name in _networks(result)],
        rows=result.tables["selectivity"].to_dict("records"),
        shows=SHOWS,
        off=OFF,
    )


def _networks(result: InterventionResult) -> list[str]:
    return [str(name) for name in dict.fromkeys(result.tables["selectivity"]["network"])]


def _main(result: InterventionResult, table: pd.DataFrame) -> pd.DataFrame:
    """Take the rows at the main dose."""
    return table[np.isclose(table["dose"], result.metadata["MainDose"], rtol=1e-3)]


def _cells(result: InterventionResult, measure: str, name: str) -> pd.DataFrame:
    """Put one column of the matrix into a table of networks by texts."""
    table = _main(result, result.tables["matrix"])
    table = table[table["measure"] == measure]
    cells = table.pivot_table(index="network", columns="text", values=name, sort=False)
    return cells.reindex(index=table["network"].unique(), columns=table["text"].unique())


def _matrix(result: InterventionResult, measure: str) -> Markup:
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


def _dose_chart(sources: Sources, result: InterventionResult, measure: str) -> Markup:
    doses = sorted(result.tables["selectivity"]["dose"].unique())
    x_of = {dose: float(index) for index, dose in enumerate(doses)}
    table = result.tables["selectivity"][result.tables["selectivity"]["measure"] == measure]
    draws = result.tables["draws"][
        (result.tables["draws"]["measure"] == measure)
        & (result.tables["draws"]["kind"] == "matched")
    ]
    jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(draws))
    lines = [
        Line(
            name="random draws",
            x=(draws["dose"].map(x_of).to_numpy() + jitter).tolist(),
            y=draws["own"].tolist(),
            color="var(--mute)",
            is_cloud=True,
        )
    ]
    for name in _networks(result):
        rows = table[table["network"] == name]
        x = rows["dose"].map(x_of).tolist()
        color = sources.color(name)
        lines.append(Line(name=name, x=x, y=rows["own"].tolist(), color=color))
        lines.append(Line(name=f"{name}, off", x=x, y=rows[OFF].tolist(), color=color, dashed=True))
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
                left.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8)
        left.set(title=f"{CAPTIONS[measure]}: network by text", xlabel="text")
        figure.colorbar(shown, ax=left, label="change of NLL, nats a token")
        _draw_doses(right, result, measure)
        path = out_dir / "group/lesion" / f"lesion_{measure}.png"
        figure.savefig(path, dpi=110)
        files.append(path)
    return files


def _draw_doses(axes: Any, result: InterventionResult, measure: str) -> None:
    table = result.tables["selectivity"][result.tables["selectivity"]["measure"] == measure]
    draws = result.tables["draws"][
        (result.tables["draws"]["measure"] == measure)
        & (result.tables["draws"]["kind"] == "matched")
    ]
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
