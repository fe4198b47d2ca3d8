#!/usr/bin/env python3
"""Measure what participants, prompts and tokens are worth, by leaving some of a dataset out.

    scripts/power_figure.py full/dataset docs/figures/power.png

writes the figure, its numbers beside it (.json), and with --components the variance components
that `llm2bids plan` reads. Needs what `scripts/demo` installs, and a dataset of 4 participants,
2 tasks, 2 prompts and 2 tokens or more.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from estimate_components import estimate_components
from matplotlib import pyplot as plt

from llm2bids.dataset.settings import read_settings
from llm2bids.inference.inputs import Inputs, open_inputs
from llm2bids.inference.power import (
    VarianceComponents,
    design_power,
    recommend_designs,
    unit_alpha,
)
from llm2bids.inference.prompts import OFF, powers_below
from llm2bids.inference.runs import in_sd
from llm2bids.network.controls import measure_maps
from llm2bids.network.options import FindingsOptions
from llm2bids.store.json import to_json

MEASURES = ("fdr_share", "split_half_r", "identification")
WANTED = (0.1, 0.2, 0.3, 0.5)
BANK = 143  # on prompts a task that the shipped banks serve: 1,722 off prompts are 12 for each
COLORS = ("#9aa5b1", "#5b8db8", "#2a6f97", "#d98c3f", "#a63c17", "#1d2126")


@dataclass(frozen=True)
class TokenValues:
    """Volumes of some units by prompt, (n_prompts, n_tokens, n_units), and what each prompt was."""

    values: npt.NDArray[np.float32]
    participants: npt.NDArray[np.str_]
    runs: npt.NDArray[np.str_]
    trial_types: npt.NDArray[np.str_]

    def take(self, rows: npt.NDArray[np.bool_]) -> "TokenValues":
        """Take some prompts."""
        return TokenValues(**{one.name: getattr(self, one.name)[rows] for one in fields(self)})


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, measure, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="a dataset that llm2bids recorded")
    parser.add_argument("figure", type=Path, help="file to write (.png, .svg, .pdf)")
    parser.add_argument("--components", type=Path, help="file to write the components to (.json)")
    parser.add_argument("--values", type=Path, help="keep the volumes here (.npz), or take them")
    parser.add_argument("--units", type=int, default=8000, help="units drawn at random (8000)")
    parser.add_argument("--draws", type=int, default=10, help="draws of each part (10)")
    args = parser.parse_args(arguments)
    volumes = load_values(args.dataset, args.units, args.values)
    found = measure(volumes, read_settings(args.dataset), n_draws=args.draws)
    draw(found, args.figure)
    text = json.dumps(found, indent=1, allow_nan=False)
    args.figure.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    if args.components:
        VarianceComponents(**found["components"])  # checks them
        args.components.write_text(to_json(found["components"]), encoding="utf-8")
    print(text)
    return 0


def load_values(dataset: Path, n_units: int, kept: Path | None) -> TokenValues:
    """Read the volumes at some units, or what an earlier call kept of them."""
    names = [one.name for one in fields(TokenValues)]
    if kept is not None and kept.exists():
        with np.load(kept) as stored:
            return TokenValues(**{name: stored[name] for name in names})
    inputs = open_inputs(dataset)
    rng = np.random.default_rng(0)
    units = np.sort(rng.choice(inputs.space.n_units, n_units, replace=False))
    chosen = np.zeros(inputs.space.n_units, dtype=np.bool_)
    chosen[units] = True
    volumes = read_volumes(inputs.within(chosen))
    if kept is not None:
        np.savez(kept, **{name: getattr(volumes, name) for name in names})
    return volumes


def read_volumes(inputs: Inputs) -> TokenValues:
    """Read the volumes of all prompts, in calibration sd."""
    parts, labels = [], []
    for run in inputs.runs:
        data = inputs.load(run)
        trials = data.rows["trial"].to_numpy()
        counts = set(np.bincount(trials).tolist())
        if len(counts) > 1 or (parts and parts[0].shape[1] not in counts):
            raise SystemExit(f"{run.name}: prompts of {counts} volumes; expected one number")
        blocks = [block for _, block in data.series.at(data.voxels)]
        values = in_sd(np.concatenate(blocks).astype(np.float64), data)
        values = values[np.argsort(trials, kind="stable")].astype(np.float32)
        parts.append(values.reshape(-1, counts.pop(), values.shape[1]))
        kinds = data.trials["trial_type"].tolist()
        labels += [(run.participant_label, run.name.partition("_")[2], kind) for kind in kinds]
    who, runs, kinds = (np.asarray(names) for names in zip(*labels, strict=True))
    return TokenValues(np.concatenate(parts), who, runs, kinds)


def effect_maps(means: TokenValues) -> npt.NDArray[np.float32]:
    """On minus off of the images, run by run, (n_participants, n_tasks, n_units)."""
    people = sorted(set(means.participants.tolist()))
    tasks = sorted(set(means.trial_types.tolist()) - {OFF})
    maps = np.zeros((len(people), len(tasks), means.values.shape[-1]), dtype=np.float32)
    for row, person in enumerate(people):
        for column, task in enumerate(tasks):
            on = (means.participants == person) & (means.trial_types == task)
            differences = []
            for run in sorted(set(means.runs[on].tolist())):
                here = (means.participants == person) & (means.runs == run)
                off = means.values[here & (means.trial_types == OFF)]
                differences.append(means.values[here & on].mean(axis=0) - off.mean(axis=0))
            maps[row, column] = np.mean(differences, axis=0)
    return maps


def measure(volumes: TokenValues, settings: dict[str, Any], *, n_draws: int) -> dict[str, Any]:
    """Measure the components, and what is found with parts of the data."""
    on = volumes.trial_types != OFF
    n_tokens, n_units = volumes.values.shape[1:]
    labels = np.unique(volumes.participants)
    n_prompts = int(settings["prompts_per_block"])
    components = estimate_components(
        volumes.values,
        volumes.participants,
        volumes.runs,
        on,
        source=f"{settings['model']}, {labels.size} participants x {n_prompts} prompts per block x "
        f"{n_tokens} tokens, paradigm {settings['paradigm']}, median of {n_units} units",
    )
    rng = np.random.default_rng(1)
    rows = []
    for tokens in (*powers_below(n_tokens), n_tokens):
        means = replace(volumes, values=volumes.values[:, :tokens].mean(axis=1))
        for prompts in (*powers_below(n_prompts), n_prompts):
            for count in range(3, labels.size + 1):
                full = count == labels.size
                if not full and (tokens, prompts) != (n_tokens, n_prompts):
                    continue
                drawn = [
                    measure_part(means, labels, count, prompts, n_prompts, rng)
                    for _ in range(1 if full and prompts == n_prompts else n_draws)
                ]
                row = {"n_participants": count, "n_prompts": prompts, "n_tokens": tokens}
                for name in drawn[0]:
                    values = [one[name] for one in drawn]
                    row[name] = float(np.mean(values))
                    row[f"{name}_sd"] = float(np.std(values))
                row["effect_variance_formula"] = components.effect_variance(
                    n_prompts=prompts, n_tokens=tokens
                )
                rows.append(row)
    return {
        "components": asdict(components),
        "n_units": n_units,
        "n_draws": n_draws,
        "parts": rows,
        "effects": effect_sizes(volumes, components),
        "designs": list(designs(components)),
    }


def measure_part(
    means: TokenValues,
    labels: Any,
    n_participants: int,
    n_prompts: int,
    all_prompts: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Measure with some of the participants and some of each run's prompts."""
    who = np.sort(rng.choice(labels, n_participants, replace=False))
    kept = np.zeros(len(means.values), dtype=bool)
    for label in who:
        mine = means.participants == label
        for run in np.unique(means.runs[mine]):
            for off in (True, False):
                rows = np.flatnonzero(
                    mine & (means.runs == run) & ((means.trial_types == OFF) == off)
                )
                kept[rng.permutation(rows)[: rows.size * n_prompts // all_prompts]] = True
    maps = effect_maps(means.take(kept))
    found = measure_maps(maps, FindingsOptions())
    variance = maps.var(axis=0, ddof=1).mean(axis=0)  # over participants, then tasks
    return {
        **{name: found[name] for name in MEASURES},
        "effect_variance": float(np.median(variance)),
    }


def effect_sizes(volumes: TokenValues, components: VarianceComponents) -> list[dict[str, Any]]:
    """Give the size of the tasks' effects in standard deviations of single volumes."""
    maps = effect_maps(replace(volumes, values=volumes.values.mean(axis=1)))
    tasks = sorted(set(volumes.trial_types.tolist()) - {OFF})
    sd = np.sqrt(components.volume)
    rows = []
    for task, effects in zip(tasks, np.moveaxis(maps, 1, 0), strict=True):
        mean, noise = effects.mean(axis=0), effects.var(axis=0, ddof=1) / len(maps)
        rows.append(
            {
                "task": task,
                # of the mean map, and without the noise that it has
                "rms": float(np.sqrt((mean**2).mean()) / sd),
                "rms_true": float(np.sqrt(max((mean**2 - noise).mean(), 0.0)) / sd),
                "top_5_percent": float(np.quantile(np.abs(mean), 0.95) / sd),
            }
        )
    return rows


def designs(components: VarianceComponents) -> Iterator[dict[str, Any]]:
    """Recommend designs for some effect sizes, at power 0.8."""
    for effect_size in WANTED:
        for correction in ("none", "fdr", "bonferroni"):
            alpha = unit_alpha(0.05, correction, n_units=254_592)
            for limit in (None, BANK):
                found = recommend_designs(components, effect_size, alpha=alpha, max_prompts=limit)
                yield {
                    "effect_size": effect_size,
                    "correction": correction,
                    "max_prompts": limit,
                    **(asdict(found[0]) if found else {"n_participants": None, "alpha": alpha}),
                }


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw what was found by participants, by prompts and tokens, and the formula's check."""
    mpl.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.6), layout="constrained")
    parts = found["parts"]
    most = {name: max(row[name] for row in parts) for name in ("n_participants", "n_prompts")}
    tokens = sorted({row["n_tokens"] for row in parts})
    by_people = [
        row for row in parts
        if row["n_prompts"] == most["n_prompts"] and row["n_tokens"] == tokens[-1]
    ]  # fmt: skip
    for axis, (name, title) in zip(
        (axes[0, 0], axes[1, 0], axes[1, 1]),
        zip(MEASURES, ("units past FDR", "split-half r", "identification"), strict=True),
        strict=True,
    ):
        for color, count in zip(COLORS, tokens, strict=False):
            rows = [
                row for row in parts
                if row["n_tokens"] == count and row["n_participants"] == most["n_participants"]
            ]  # fmt: skip
            axis.plot(
                [row["n_prompts"] for row in rows], [row[name] for row in rows], "o-",
                color=color, markersize=3, label=f"{count} tokens",
            )  # fmt: skip
        axis.set(title=f"{title}, {most['n_participants']} participants", ylim=(0, None))
        axis.set_xlabel("prompts per block")
        axis.set_xscale("log", base=2)
    axes[0, 0].legend(frameon=False)
    for color, name, title in zip(
        COLORS[2:], MEASURES, ("units past FDR (share)", "split-half r", "identification"),
        strict=False,
    ):  # fmt: skip
        x, y = ([row[key] for row in by_people] for key in ("n_participants", name))
        axes[0, 1].plot(x, y, "o-", color=color, markersize=3, label=title)
    axes[0, 1].set(title="all prompts and tokens", xlabel="participants", ylim=(0, 1.03))
    axes[0, 1].legend(frameon=False)
    _check_formula(axes[0, 2], [row for row in parts if row["n_participants"] > 7] or parts)
    _draw_power(axes[1, 2], VarianceComponents(**found["components"]))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _check_formula(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    x, y = ([row[key] for row in rows] for key in ("effect_variance_formula", "effect_variance"))
    ends = [min(*x, *y) * 0.8, max(*x, *y) * 1.2]
    axis.plot(ends, ends, color=COLORS[0], linewidth=1)
    axis.loglog(x, y, "o", color=COLORS[4], markersize=4)
    axis.set(title="variance of a participant's effect", xlabel="formula", ylabel="measured")


def _draw_power(axis: Any, components: VarianceComponents) -> None:
    counts = range(3, 33)
    alpha = unit_alpha(0.05, "fdr", n_units=254_592)
    for color, effect_size in zip(COLORS[1:], WANTED, strict=False):
        powers = [
            design_power(
                components, effect_size, n_participants=count, n_prompts=8, n_tokens=12, alpha=alpha
            )
            for count in counts
        ]
        axis.plot(counts, powers, color=color, label=f"d {effect_size:g}")
    axis.axhline(0.8, color=COLORS[0], linewidth=0.8)
    axis.set(title="power, 8 prompts x 12 tokens, FDR", xlabel="participants", ylim=(0, 1.03))
    axis.legend(frameon=False)


if __name__ == "__main__":
    raise SystemExit(main())
