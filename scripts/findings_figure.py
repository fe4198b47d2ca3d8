#!/usr/bin/env python3
"""Draw the findings of an analysis as one figure, and print its small table as Markdown.

    scripts/findings_figure.py demo-dataset/analysis docs/figures/findings.png

Needs what `scripts/demo` installs, and an output folder of `llm2bids analyze ... group`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

FINDINGS = Path("group") / "findings"
INK, ACCENT, MUTE = "#1d2126", "#a63c17", "#6b7280"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, draw, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("analysis", type=Path, help="output folder of llm2bids analyze")
    parser.add_argument("figure", type=Path, help="file to write (.png, .svg, .pdf)")
    args = parser.parse_args(arguments)
    folder = args.analysis / FINDINGS
    if not (folder / "findings.json").is_file():
        sys.stderr.write(f"{folder}: no findings.json; run `llm2bids analyze ... group` first\n")
        return 1
    found = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    draw(found, args.figure)
    print(markdown(pd.read_csv(folder / "findings.tsv", sep="\t")))
    return 0


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw overlap, repeatability, identification and its growth with prompts."""
    mpl.rcParams.update({"font.size": 8, "axes.edgecolor": MUTE, "svg.fonttype": "none"})
    figure, axes = plt.subplots(2, 2, figsize=(8.4, 7.2), layout="constrained")
    draw_matrix(
        axes[0, 0],
        np.array(found["overlap"]["correlation"], dtype=float),
        found["overlap"]["tasks"],
        title="Overlap: r between group maps",
        form="{:.2f}",
    )
    confusion = found["identification"]["confusion"]
    draw_matrix(
        axes[0, 1],
        np.array(confusion, dtype=float),
        found["identification"]["tasks"],
        title=f"Identification: {found['identification']['n_correct']} of "
        f"{found['identification']['n_tests']} maps",
        form="{:.0f}",
    )
    axes[0, 1].set(xlabel="identified", ylabel="shown")
    draw_repeatability(axes[1, 0], found["repeatability"]["tasks"])
    draw_curve(axes[1, 1], found["identification"]["curve"])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_matrix(
    axis: Any, values: np.ndarray[Any, Any], tasks: Sequence[str], *, title: str, form: str
) -> None:
    """Draw a matrix with its values written in it."""
    largest = np.nanmax(np.abs(values)) or 1.0
    axis.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        if np.isfinite(value):
            strong = abs(value) > 0.6 * largest
            axis.text(column, row, form.format(value), ha="center", va="center",
                      color="white" if strong else INK)  # fmt: skip
    axis.set_xticks(range(len(tasks)), tasks, rotation=35, ha="right")
    axis.set_yticks(range(len(tasks)), tasks)
    axis.spines[:].set_visible(False)
    axis.set_title(title, loc="left", fontsize=9)


def draw_repeatability(axis: Any, tasks: Sequence[dict[str, Any]]) -> None:
    """Draw three kinds of agreement for each task, with intervals."""
    kinds = (
        ("single_run_r", "one participant, another one", "o", ACCENT),
        ("participants_r", "half of the participants, the others", "s", INK),
        ("prompts_r", "half of the prompts, the others", "^", MUTE),
    )
    for offset, (key, label, marker, color) in enumerate(kinds):
        x = np.arange(len(tasks)) + 0.2 * (offset - 1)
        r = np.array([task[key] for task in tasks], dtype=float)
        low = np.array([task[f"{key}_low"] for task in tasks], dtype=float)
        high = np.array([task[f"{key}_high"] for task in tasks], dtype=float)
        axis.errorbar(x, r, yerr=[r - low, high - r], fmt=marker, color=color, ms=4, lw=1,
                      label=label)  # fmt: skip
    axis.axhline(0, color=MUTE, lw=0.6)
    axis.set_ylim(-0.2, 1.3)
    axis.set_yticks(np.arange(0, 1.1, 0.2))
    axis.set_xticks(range(len(tasks)), [task["task"] for task in tasks], rotation=35, ha="right")
    axis.set_title("Repeatability: r between effect maps", loc="left", fontsize=9)
    axis.legend(frameon=False, fontsize=7, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)


def draw_curve(axis: Any, curve: dict[str, list[dict[str, Any]]]) -> None:
    """Draw identification against the number of prompts and of tokens."""
    parts = (("prompts", "n_prompts", "o-", ACCENT), ("tokens", "n_tokens", "s--", INK))
    labels = {"prompts": "prompts per block (all tokens)", "tokens": "tokens (all prompts)"}
    for key, column, style, color in parts:
        table = pd.DataFrame(curve[key])
        axis.plot(table[column], table["accuracy"], style, color=color, ms=4, label=labels[key])
        if key == "prompts":
            axis.fill_between(table[column], table["low"], table["high"], color=color, alpha=0.12)
    axis.axhline(curve["prompts"][0]["chance"], color=MUTE, lw=0.8, ls=":", label="chance")
    axis.set_ylim(0, 1.02)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("number of prompts, of tokens")
    axis.set_title("Identification of held-out participants", loc="left", fontsize=9)
    axis.legend(frameon=False, fontsize=7, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)


def markdown(table: pd.DataFrame) -> str:
    """Write the small table as Markdown."""
    lines = ["| finding | measure | value | interval | |", "|---|---|---|---|---|"]
    for row in table.to_dict("records"):
        value = f"{row['value']:.2f}" if row["value"] < 10 else f"{row['value']:,.0f}"
        has_interval = row["low"] == row["low"]
        interval = f"{row['low']:.2f} to {row['high']:.2f}" if has_interval else ""
        cells = (row["finding"], row["measure"], value, interval, row["text"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
