"""Measuring: every null run and group through every pipeline, then rates and verdicts."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from llm2bids.exceptions import UsageError
from llm2bids.inference.null.groups import CLUSTER_P, FLIPS, draw_groups, tally_group
from llm2bids.inference.null.pipelines import PIPELINES, Pipeline, RunTest, Tally, tally_run
from llm2bids.inference.null.rates import (
    LEVELS,
    Rate,
    Verdict,
    family_rate,
    overall_verdict,
    unit_rate,
    widening_of,
)
from llm2bids.inference.null.source import NullSource
from llm2bids.paradigm.seed import derive_seed


@dataclass(frozen=True, kw_only=True, eq=False)
class NullMeasurement:
    """Measured error rates."""

    rates: tuple[Rate, ...]  # in the order of `PIPELINES`
    # one row for each pipeline, run or group and level: ``pipeline``, ``index``, ``nominal``,
    # ``share`` of the units
    shares: pd.DataFrame
    about: Mapping[str, Any]  # model, design, numbers of runs, groups, units and permutations, seed

    def of(self, pipeline: str) -> list[Rate]:
        """Give the rates of one pipeline."""
        return [rate for rate in self.rates if rate.pipeline == pipeline]

    def verdict(self, pipeline: str) -> Verdict:
        """Judge one pipeline, as `overall_verdict`.

        Verdict over all its rates.
        """
        return overall_verdict(self.of(pipeline))

    @property
    def pipelines(self) -> list[Pipeline]:
        """Pipelines that were measured, in the order of tables."""
        measured = {rate.pipeline for rate in self.rates}
        return [pipeline for pipeline in PIPELINES if pipeline.key in measured]


def measure_null(
    source: NullSource,
    *,
    n_groups: int = 200,
    group_size: int = 8,
    tfce_groups: int = 0,
    n_perm: int = 1999,
    seed: int = 0,
    n_cpus: int = 1,
    progress: bool = True,
) -> NullMeasurement:
    """Measure the error rates of all pipelines.

    Groups are resampled from the pool of null runs, so they share runs: their rates are unbiased;
    the intervals of single units are widened for it, those of any detection take
    groups as independent and are too narrow.
    """
    if n_cpus < 1 or n_perm < 19 or tfce_groups < 0:
        raise UsageError(
            f"n_cpus={n_cpus}, n_perm={n_perm}, tfce_groups={tfce_groups}: expected at least 1 "
            "process, 19 permutations (for 0.05) and 0 groups"
        )
    groups = draw_groups(source.participants, n_groups=n_groups, group_size=group_size, seed=seed)
    runs = list(_tested_runs(source, n_perm=n_perm, seed=seed, n_cpus=n_cpus, progress=progress))
    tallies: list[tuple[str, int, Tally]] = [
        (key, index, tally) for index, run in enumerate(runs) for key, tally in run.tallies.items()
    ]
    jobs = (
        delayed(tally_group)(
            [runs[place] for place in places],
            source.draw,
            n_perm=n_perm,
            tfce=index < tfce_groups,
            random_state=derive_seed(seed, "null", "group", index),
        )
        for index, places in enumerate(groups)
    )
    done = Parallel(n_jobs=n_cpus, return_as="generator")(jobs)
    with _bar(len(groups), "groups", progress) as bar:
        for index, found in enumerate(done):
            tallies += [(key, index, tally) for key, tally in found.items()]
            bar.update()
    widening = widening_of(n_groups, group_size, len(set(source.participants)))
    return NullMeasurement(
        rates=tuple(rates_of(tallies, widening=widening)),
        shares=_shares(tallies),
        about={
            **source.about,
            "n_runs": len(runs),
            "n_participants": len(set(source.participants)),
            "n_groups": n_groups,
            "group_size": group_size,
            "n_units": source.draw.n_units,
            "n_tested": int(source.draw.tested.size),
            "panel_site": source.draw.panel_site,
            "panel_voxels": int(source.draw.panel.size),
            "n_perm": n_perm,
            "n_flips": FLIPS,
            "cluster_forming_p": CLUSTER_P,
            "seed": seed,
        },
    )


def rates_of(tallies: Sequence[tuple[str, int, Tally]], *, widening: float = 1.0) -> list[Rate]:
    """Turn tallies into rates.

    Examples
    --------
    >>> tally = Tally(exceed={0.05: 1}, n_tests=20, detections={"fdr": False})
    >>> [(rate.kind, rate.measured) for rate in rates_of([("prompt_ols", 0, tally)])]
    [('unit', 0.05), ('fdr', 0.0)]
    """
    rates: list[Rate] = []
    for pipeline in PIPELINES:
        own = [tally for key, _, tally in tallies if key == pipeline.key]
        if not own:
            continue
        rates += [
            unit_rate(
                pipeline.key,
                level,
                [tally.exceed[level] for tally in own],
                [tally.n_tests for tally in own],
                widening=widening if pipeline.level == "group" else 1.0,
            )
            for level in LEVELS
            if all(level in tally.exceed for tally in own)
        ]
        rates += [
            family_rate(pipeline.key, kind, [tally.detections[kind] for tally in own])
            for kind in own[0].detections
        ]
    return rates


def _tested_runs(
    source: NullSource, *, n_perm: int, seed: int, n_cpus: int, progress: bool
) -> Iterator[RunTest]:
    """Take runs in small lots: the first process records, then all processes test."""
    with _bar(source.n_runs, "null runs", progress) as bar, Parallel(n_jobs=n_cpus) as parallel:
        runs = enumerate(source.runs())
        while lot := list(islice(runs, n_cpus)):
            yield from parallel(
                delayed(tally_run)(
                    run,
                    source.draw,
                    n_perm=n_perm,
                    random_state=derive_seed(seed, "null", "run", index),
                )
                for index, run in lot
            )
            bar.update(len(lot))


def _shares(tallies: Sequence[tuple[str, int, Tally]]) -> pd.DataFrame:
    rows = [
        (key, index, level, count / tally.n_tests)
        for key, index, tally in tallies
        for level, count in tally.exceed.items()
    ]
    return pd.DataFrame(rows, columns=["pipeline", "index", "nominal", "share"])


def _bar(total: int, description: str, progress: bool) -> "tqdm[Any]":
    return tqdm(
        total=total,
        desc=description,
        disable=not progress or total == 0,
        file=sys.stderr,
        dynamic_ncols=True,
    )
