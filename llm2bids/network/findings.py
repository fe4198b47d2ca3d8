"""The paper's four findings: networks, overlap, repeatability, identification.

After Nencka et al. (arXiv 2311.10898): the tasks have networks, alike tasks have alike networks,
networks come again with other prompts, and tell which task was shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pandas as pd

from llm2bids.exceptions import NetworkError
from llm2bids.network.control_analysis import ControlAnalysis, ControlName, compare_controls
from llm2bids.network.controls import Control, random_units, shuffled_labels
from llm2bids.network.curve import AccuracyCurve, accuracy_curve
from llm2bids.network.effects import OFF, PromptMeans, TaskEffects, task_effects
from llm2bids.network.icc import Reliability, icc_over_tasks
from llm2bids.network.identification import Identification
from llm2bids.network.identify import identify_left_out
from llm2bids.network.overlap import Overlap, measure_overlap
from llm2bids.network.prompt_means import PromptSamples, powers_below
from llm2bids.network.provenance import Provenance, circularity_note
from llm2bids.network.repeatability import SplitHalf, split_participants, split_prompts
from llm2bids.network.single_run import SingleRun, single_run
from llm2bids.network.task_networks import TaskNetwork, task_networks
from llm2bids.space.space import Space

LEAST_PARTICIPANTS, LEAST_TASKS = 3, 2
"""What the findings need: intervals over participants, and tasks to tell apart."""

ENOUGH_PARTICIPANTS = 8
"""Participants from which on network fingerprints are stable."""

FEW_UNITS = 100
"""Units of the control with random units."""

TABLE_COLUMNS = ("finding", "measure", "value", "low", "high", "text")


class _Options(TypedDict):
    seed: int
    allow_circular: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What was found about the networks of a dataset.

    Parameters
    ----------
    space : Space
        The space.
    networks : tuple of TaskNetwork
        Every task against the off prompts, then every task against the others.
    overlap : Overlap
        How much the tasks' maps and networks have in common.
    single_run : SingleRun
        Likeness of single participants' maps.
    over_participants, over_prompts : SplitHalf
        Likeness of group maps from halves of the participants, and of the prompts.
    icc : Reliability
        Intraclass correlation of every unit.
    identification : Identification
        Tasks of left-out participants.
    controls : tuple of Control
        Identification with random units, and with shuffled labels.
    by_prompts, by_tokens : AccuracyCurve
        Accuracy with fewer prompts, and with the prompts' first tokens only.
    n_on, n_off, n_tokens : int
        On prompts, off prompts, and volumes per prompt, of the smallest run.
    provenance : Provenance
        All data.
    control_analyses : tuple of ControlAnalysis
        The same measures under controls, where they were asked for.
    """

    space: Space
    networks: tuple[TaskNetwork, ...]
    overlap: Overlap
    single_run: SingleRun
    over_participants: SplitHalf
    over_prompts: SplitHalf
    icc: Reliability
    identification: Identification
    controls: tuple[Control, ...]
    by_prompts: AccuracyCurve
    by_tokens: AccuracyCurve
    n_on: int
    n_off: int
    n_tokens: int
    provenance: Provenance
    control_analyses: tuple[ControlAnalysis, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Labels of the tasks."""
        return self.overlap.tasks

    @property
    def participants(self) -> tuple[str, ...]:
        """Labels of the participants."""
        return self.single_run.participants

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the findings doubtful."""
        found = list(self.overlap.warnings)
        if len(self.participants) < ENOUGH_PARTICIPANTS:
            found.append(
                f"{len(self.participants)} participants: networks are stable from "
                f"{ENOUGH_PARTICIPANTS} on"
            )
        shared = self.identification.shared | self.over_prompts.shared | self.single_run.shared
        found += [said for one in self.control_analyses for said in one.warnings]
        return tuple(found + [note for note in (circularity_note(shared),) if note])

    def table(self) -> pd.DataFrame:
        """Give the findings in a few rows.

        Returns
        -------
        DataFrame
            Columns `TABLE_COLUMNS`: ``finding`` and ``measure`` (str), ``value`` and its interval
            ``low``, ``high`` (float64, NaN where there is none), and ``text``, what else to know.
        """
        rows = [*self._identified(), *self._overlaps(), *self._repeated(), *self._sizes()]
        return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))

    def _identified(self) -> Iterator[tuple[object, ...]]:
        found = self.identification
        yield (
            "identification",
            "accuracy",
            found.accuracy,
            *found.interval(),
            f"{found.n_correct} of {found.n_tests} maps of left-out participants, "
            f"chance {found.chance:.2f}",
        )
        for control in self.controls:
            yield (
                "identification",
                control.name,
                control.mean,
                *control.quantiles(),
                f"mean of {control.accuracies.size} draws, and where 95 % of them lie",
            )

    def _overlaps(self) -> Iterator[tuple[object, ...]]:
        for place, pair in enumerate(self.overlap.pairs().head(2).to_dict("records")):
            yield (
                "overlap",
                f"{('first', 'second')[place]} pair, r",
                pair["correlation"],
                pair["correlation_low"],
                pair["correlation_high"],
                f"{pair['task_a']} and {pair['task_b']}: Dice {pair['dice']:.2f}, "
                f"chance {pair['chance']:.3f}",
            )

    def _repeated(self) -> Iterator[tuple[object, ...]]:
        dice = f"split-half Dice of the top {self.overlap.share:.0%}, participants"
        measures = {
            "single-run r": self.single_run.mean_r,
            "split-half r, participants": self.over_participants.mean_r,
            "split-half r, prompts": self.over_prompts.mean_r,
            dice: self.over_participants.mean_dice,
        }
        for name, values in measures.items():
            low, high = int(values.argmin()), int(values.argmax())
            yield (
                *("repeatability", name, float(values.mean()), np.nan, np.nan),
                f"mean over tasks; {values[low]:.2f} ({self.tasks[low]}) to {values[high]:.2f} "
                f"({self.tasks[high]})",
            )

    def _sizes(self) -> Iterator[tuple[object, ...]]:
        for one in self.networks:
            if one.against == "off":
                yield (
                    *("networks", one.task, float(len(one.network)), np.nan, np.nan),
                    f"units ({one.network.criterion}); {one.n_fdr} of them and "
                    f"{one.n_fdr_anywhere} of all survive false discovery rate {one.alpha:g}",
                )


def measure_findings(
    samples: PromptSamples,
    space: Space,
    *,
    top_percent: float = 5.0,
    alpha: float = 0.05,
    min_cohens_d: float | None = None,
    n_boot: int = 200,
    n_perm: int = 1000,
    n_draws: int = 20,
    controls: Sequence[ControlName] = (),
    n_control_draws: int = 20,
    seed: int = 0,
    allow_circular: bool = False,
) -> Findings:
    """Measure networks, overlap, repeatability and identification.

    Parameters
    ----------
    samples : PromptSamples
        The prompts' images over all units of the space, from
        `llm2bids.network.prompt_means.read_samples`.
    space : Space
        Their space.
    top_percent : float, default=5
        Share of the units in a network.
    alpha : float, default=0.05
        False discovery rate of the networks' units.
    min_cohens_d : float, optional
        Networks are the units above this abs(d) that survive `alpha`; overlap and repeatability
        compare the top share all the same.
    n_boot, n_perm, n_draws : int
        Bootstrap samples of the overlap, permutations of the controls, draws of the curve.
    controls : sequence of {"shuffled-labels", "shuffled-tasks", "random-networks"}
        Measure these controls too, see `llm2bids.network.control_analysis`.
    n_control_draws : int, default=20
        Draws of each of them.
    seed : int, default=0
        Seed of all draws.
    allow_circular : bool, default=False
        Go on where participants share prompts, and say so in the warnings.

    Returns
    -------
    Findings
        Numbers that test a network come from participants or prompts that did not define it.

    Raises
    ------
    NetworkError
        If there are fewer than `LEAST_PARTICIPANTS` participants or `LEAST_TASKS` tasks, or data
        that define and data that test overlap.
    """
    means = samples.means
    effects = task_effects(means)
    _require_enough(effects)
    share = top_percent / 100
    options: _Options = {"seed": seed, "allow_circular": allow_circular}
    sites = np.repeat(np.arange(len(space.sites)), [site.width for site in space.sites])
    n_on, n_off = _fewest(means, on=True), _fewest(means, on=False)
    few = min(FEW_UNITS, space.n_units // 2)
    return Findings(
        space=space,
        networks=tuple(
            one
            for against in ("off", "others")
            for one in task_networks(
                effects,
                space,
                against=against,
                top_percent=top_percent,
                alpha=alpha,
                min_cohens_d=min_cohens_d,
            )
        ),
        overlap=measure_overlap(
            effects, share=share, sites=sites, n_boot=n_boot, n_perm=n_perm, seed=seed
        ),
        single_run=single_run(effects, allow_circular=allow_circular),
        over_participants=split_participants(effects, share=share, **options),
        over_prompts=split_prompts(means, share=share, **options),
        icc=icc_over_tasks(effects),
        identification=identify_left_out(effects, allow_circular=allow_circular),
        controls=(
            random_units(effects, n_units=few, **options),
            shuffled_labels(effects, n_perm=n_perm, **options),
        ),
        by_prompts=accuracy_curve(
            {samples.n_tokens: means},
            n_prompts=(*powers_below(n_on), n_on),
            n_draws=n_draws,
            **options,
        ),
        by_tokens=_by_tokens(samples, effects, n_on, allow_circular=allow_circular),
        n_on=n_on,
        n_off=n_off,
        n_tokens=samples.n_tokens,
        provenance=means.provenance(),
        control_analyses=compare_controls(
            means,
            effects,
            controls,
            sites=sites,
            share=share,
            alpha=alpha,
            n_draws=n_control_draws,
            seed=seed,
        ),
    )


def _require_enough(effects: TaskEffects) -> None:
    n_participants, n_tasks = effects.effects.shape[:2]
    if n_participants < LEAST_PARTICIPANTS or n_tasks < LEAST_TASKS:
        raise NetworkError(
            f"findings: found {n_participants} participants and {n_tasks} tasks; expected "
            f"{LEAST_PARTICIPANTS} or more and {LEAST_TASKS} or more; record more"
        )


def _fewest(means: PromptMeans, *, on: bool) -> int:
    """Count the prompts of a kind in the run that has fewest, per trial type."""
    rows = (means.trial_types != OFF) == on
    labels = (means.participants, means.runs, means.trial_types)
    shown = zip(*(names[rows].tolist() for names in labels), strict=True)
    return int(pd.Series(list(shown)).value_counts().min())


def _by_tokens(
    samples: PromptSamples, effects: TaskEffects, n_on: int, *, allow_circular: bool
) -> AccuracyCurve:
    """Identify with all prompts, but their first tokens only."""
    every = {**samples.first_tokens, samples.n_tokens: effects}
    found = [identify_left_out(one, allow_circular=allow_circular) for one in every.values()]
    return AccuracyCurve(
        n_tokens=tuple(every),
        n_prompts=(n_on,),
        accuracies=np.array([one.accuracy for one in found]).reshape(-1, 1, 1),
        n_tests=found[0].n_tests,
        chance=found[0].chance,
        shared=found[0].shared,
        provenance=found[0].provenance,
    )
