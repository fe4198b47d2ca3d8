"""False positives: null runs through what `analyze` offers, and what is found there counted.

A null run has off prompts throughout and a sham on block among them. Its dataset is recorded as any
other; its runs, and groups of them, go through the same functions as those of a real design.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib import delayed
from tqdm import tqdm

from llm2bids.exceptions import InferenceError, UsageError
from llm2bids.inference.inputs import Inputs
from llm2bids.inference.null_pipelines import (
    CLUSTER_P,
    FLIPS,
    PIPELINES,
    Count,
    Pipeline,
    count_group,
    count_run,
    cropped,
    pipeline_models,
)
from llm2bids.inference.rates import Rate, Verdict, estimate_rate, overall_verdict, widening_of
from llm2bids.inference.runs import in_parallel
from llm2bids.paradigm.seed import derive_generator, derive_seed
from llm2bids.space.space import Space

# Null runs below which nothing is measured: a single one ranges from 0.02 to 0.13 at 0.05.
MINIMUM_RUNS = 10

# Units of the panel that clusters are measured on.
LARGEST_PANEL = 640


@dataclass(frozen=True, kw_only=True, eq=False)
class NullMeasurement:
    """Measured error rates, in the order of `PIPELINES`.

    `shares`: ``pipeline``, ``index`` of the run or group, ``nominal``, ``share`` of the units;
    `metadata`: model, design, numbers of runs, groups, units and permutations, seed.
    """

    rates: tuple[Rate, ...]
    shares: pd.DataFrame
    metadata: Mapping[str, Any]

    def of(self, pipeline: str) -> list[Rate]:
        """Give the rates of one pipeline; none where it was not measured."""
        return [rate for rate in self.rates if rate.pipeline == pipeline]

    def verdict(self, pipeline: str) -> Verdict:
        """Judge one pipeline over all its rates."""
        return overall_verdict(self.of(pipeline))

    @property
    def pipelines(self) -> list[Pipeline]:
        """Pipelines that were measured, in the order of tables."""
        measured = {rate.pipeline for rate in self.rates}
        return [pipeline for pipeline in PIPELINES if pipeline.key in measured]


def measure_null(
    inputs: Inputs,
    *,
    n_units: int = 8000,
    n_groups: int = 200,
    group_size: int = 8,
    n_perm: int = 1999,
    confounds: Sequence[str] = (),
    seed: int = 0,
    n_cpus: int = 1,
    progress: bool = True,
) -> NullMeasurement:
    """Measure the error rates of all pipelines on the runs of a null dataset.

    Groups are resampled from the pool of runs, so they share runs: their rates are unbiased; the
    intervals of single units are widened for it, those of any detection take groups as independent
    and are too narrow.
    """
    if n_cpus < 1 or n_perm < 19:
        raise UsageError(
            f"n_cpus={n_cpus}, n_perm={n_perm}: expected at least 1 process, and 19 permutations "
            "(for 0.05)"
        )
    replicates = null_replicates(inputs)
    groups = draw_groups(replicates, n_groups=n_groups, group_size=group_size, seed=seed)
    tested, panel = draw_units(inputs.space, n_units, seed=seed)
    chosen = inputs.within(tested | panel)
    parts = tested[chosen.units], panel[chosen.units]
    models = pipeline_models(confounds)
    runs = _in_parallel(
        "null runs", n_cpus, progress,
        [
            delayed(count_run)(
                chosen, run, parts[0], models,
                n_perm=n_perm, random_state=derive_seed(seed, "null", "run", index),
            )
            for index, run in enumerate(chosen.runs)
        ],
    )  # fmt: skip
    crop = cropped(chosen, parts[1])
    of_groups = _in_parallel(
        "groups", n_cpus, progress,
        [
            delayed(count_group)(
                [runs[number] for number in numbers], *parts, crop,
                n_perm=n_perm, random_state=derive_seed(seed, "null", "group", index),
            )
            for index, numbers in enumerate(groups)
        ],
    )  # fmt: skip
    counts = _count_table([run.counts for run in runs], of_groups)
    n_replicates = len(set(replicates))
    widening = widening_of(n_groups, group_size, n_replicates)
    sizes = {
        "n_runs": len(runs), "n_participants": n_replicates, "n_groups": n_groups,
        "group_size": group_size, "n_units": inputs.space.n_units, "n_tested": int(tested.sum()),
        "panel_site": _panel_site(inputs.space), "panel_voxels": int(panel.sum()),
        "n_perm": n_perm, "n_flips": FLIPS, "cluster_forming_p": CLUSTER_P, "seed": seed,
    }  # fmt: skip
    shares = counts[counts["kind"] == "unit"].assign(share=counts["hits"] / counts["n_tests"])
    return NullMeasurement(
        rates=tuple(_rates(counts, widening)),
        shares=shares[["pipeline", "index", "nominal", "share"]].reset_index(drop=True),
        metadata={**_design(inputs), "confounds": list(confounds), **sizes},
    )


def _count_table(*levels: Sequence[Mapping[str, Sequence[Count]]]) -> pd.DataFrame:
    """Make one table of what was counted in each run and each group."""
    rows = [
        (pipeline, index, *count)
        for level in levels
        for index, counted in enumerate(level)
        for pipeline, counts in counted.items()
        for count in counts
    ]
    return pd.DataFrame(rows, columns=["pipeline", "index", *Count._fields])


def null_replicates(inputs: Inputs) -> list[str]:
    """Check that all runs are null runs, and say which of them are replicates of one another.

    Runs without a prompt in common are replicates of their own; otherwise participants are.
    """
    name = inputs.bids_dir
    if len(inputs.runs) < MINIMUM_RUNS:
        raise InferenceError(
            f"{name}: found {len(inputs.runs)} null runs, expected at least {MINIMUM_RUNS}, and 60 "
            "for a verdict: units of a run are correlated, so a single run says little. Record "
            "more: --participants with `llm2bids record`, --runs with `llm2bids null`"
        )
    table = inputs.dataset.prompts
    banks = dict(zip(table["prompt_id"], table["condition"], strict=True))
    prompts: list[str] = []
    for run in inputs.runs:
        trials = inputs.load(run).trials
        shown = trials["prompt_id"].map(banks).fillna("no bank")
        on = set(shown[trials["trial_type"] != ""])
        off = set(shown[trials["trial_type"] == ""])
        if on != off or len(on) != 1:
            raise not_null(f"{name}, {run.name}", run.task, on, off)
        prompts += trials["prompt_id"].tolist()
    if len(set(prompts)) == len(prompts):
        return [f"{index}" for index in range(len(inputs.runs))]
    return [run.participant_label for run in inputs.runs]


def not_null(where: str, task: str, on: set[str], off: set[str]) -> UsageError:
    """Make the error that says why a design is no null design."""
    shown, rest = (", ".join(sorted(banks)) or "no bank" for banks in (on, off))
    return UsageError(
        f"{where}: no null design: task {task} shows prompts of {shown} on and of {rest} off; "
        "expected both from one bank. Record one with `llm2bids record BIDS_DIR --paradigm null`, "
        "or give a model"
    )


def draw_groups(
    replicates: Sequence[str], *, n_groups: int, group_size: int, seed: int
) -> list[tuple[int, ...]]:
    """Resample groups of runs, of distinct replicates.

    >>> draw_groups(["01", "01", "02"], n_groups=1, group_size=2, seed=0)
    [(0, 2)]
    """
    labels = list(dict.fromkeys(replicates))
    if n_groups < 0 or group_size < 2:
        raise UsageError(
            f"--groups {n_groups}, --group-size {group_size}: expected 0 or more groups of 2 or "
            "more participants"
        )
    if n_groups and len(labels) < group_size:
        raise UsageError(
            f"--group-size {group_size}: there are {len(labels)} participants to resample groups "
            "from; expected at least as many; record more, take smaller groups, or --groups 0"
        )
    runs_of = {label: np.flatnonzero(np.asarray(replicates) == label) for label in labels}
    rng = derive_generator(seed, "null", "groups")
    return [
        tuple(
            int(rng.choice(runs_of[labels[number]]))
            for number in sorted(rng.choice(len(labels), group_size, replace=False))
        )
        for _ in range(n_groups)
    ]


def draw_units(
    space: Space, n_units: int, *, seed: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Draw random units to test, and one whole panel for clusters: bool, shape (n_units,) each."""
    if n_units < 1:
        raise UsageError(f"n_units (--units) is {n_units}; expected 1 or more")
    rng = derive_generator(seed, "null", "units")
    tested, panel = np.zeros((2, space.n_units), dtype=np.bool_)
    tested[rng.choice(space.n_units, min(n_units, space.n_units), replace=False)] = True
    panel[space.site_slices[_panel_site(space)]] = True
    return tested, panel


def _panel_site(space: Space) -> str:
    """Name the site in the middle of the model among the largest with few enough units."""
    widths = [site.width for site in space.sites]
    wanted = max((width for width in widths if width <= LARGEST_PANEL), default=min(widths))
    candidates = [
        (abs(2 * number - len(space.sites)), site.name)
        for number, site in enumerate(space.sites)
        if site.width == wanted
    ]
    return min(candidates)[1]


def _rates(counts: pd.DataFrame, widening: float) -> Iterator[Rate]:
    """Turn counts into rates; intervals of groups that share participants are widened."""
    of_group = {pipeline.key for pipeline in PIPELINES if pipeline.level == "group"}
    groups: Any = counts.groupby(["pipeline", "kind", "nominal"], sort=False)
    for (key, kind, nominal), rows in groups[["hits", "n_tests"]]:
        wider = widening if key in of_group else 1.0
        yield estimate_rate(key, kind, nominal, *rows.to_numpy().T, widening=wider)


def _design(inputs: Inputs) -> dict[str, Any]:
    """Say what the rates hold for: model, paradigm, prompts and tokens."""
    settings = inputs.dataset.settings
    kinds = inputs.load(inputs.runs[0]).trials["trial_type"]
    return {
        "model": settings.get("model"),
        "weights_sha256": settings.get("weights_sha256"),
        "paradigm": settings.get("paradigm"),
        "prompts_on": int((kinds != "").sum()),
        "prompts_off": int((kinds == "").sum()),
        "tokens_per_prompt": settings.get("tokens_per_prompt"),
        "sites": len(inputs.space.sites),
        "recording_seed": settings.get("seed"),
        "shared_prompts": bool(settings.get("allow_shared_prompts")),
    }


def _in_parallel(what: str, n_cpus: int, progress: bool, jobs: Sequence[Any]) -> list[Any]:
    """Run jobs in processes, with a bar on stderr; results in the order of the jobs."""
    done = in_parallel(jobs, n_cpus, ordered=True)
    hidden = not progress or not jobs
    return list(tqdm(done, what, len(jobs), disable=hidden, file=sys.stderr, dynamic_ncols=True))
