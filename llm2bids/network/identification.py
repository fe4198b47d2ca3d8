"""Identification of the task that was shown to participants who defined nothing.

Templates are the tasks' mean effect maps over all participants but one. Of the one left out, each
map gets the task whose template it correlates with best. Identification is easy, and no evidence
of localisation: 100 random units do nearly as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from llm2bids.exceptions import InferenceError
from llm2bids.inference.effects import Effects
from llm2bids.inference.prompts import OFF, Prompts
from llm2bids.inference.provenance import Provenance, circularity_note, require_disjoint
from llm2bids.inference.rates import binomial_interval, percentile_interval
from llm2bids.network.options import FindingsOptions
from llm2bids.network.repeatability import rows_by_kind
from llm2bids.network.similarity import Floats, Maps, gram_matrix, top_units, weighted_correlation

Ints = npt.NDArray[np.int64]

# What is done to the maps before they are correlated; it uses no labels
TAKEN_OFF = "each participant's mean map over the tasks taken off first"


@dataclass(frozen=True, kw_only=True, eq=False)
class Identification:
    """The task given to every map of a participant left out.

    `participants`, `true` and `predicted`: whose map, task shown and task identified (indices of
    `tasks`), shape (n_tests,); `scores`: correlation with each template, (n_tests, n_tasks).
    `n_correct_with_mean`: tasks identified where the participants' mean maps are left in.
    """

    tasks: tuple[str, ...]
    participants: tuple[str, ...]
    true: Ints
    predicted: Ints
    scores: Floats
    n_correct_with_mean: int
    shared: Provenance
    method: str = f"correlation with the others' mean maps, {TAKEN_OFF}"

    derived: ClassVar[tuple[str, ...]] = (
        *("n_tests", "n_correct", "accuracy", "low", "high", "chance", "p_value", "folds"),
    )

    @property
    def n_tests(self) -> int:
        """Number of tested maps."""
        return self.true.size

    @property
    def n_correct(self) -> int:
        """Number of maps whose task was identified."""
        return int((self.true == self.predicted).sum())

    @property
    def accuracy(self) -> float:
        """Share of maps whose task was identified."""
        return self.n_correct / self.n_tests

    @property
    def low(self) -> float:
        """Lower bound of the accuracy, 95 %."""
        return self.interval()[0]

    @property
    def high(self) -> float:
        """Upper bound of the accuracy, 95 %."""
        return self.interval()[1]

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / len(self.tasks)

    @property
    def folds(self) -> list[dict[str, list[str]]]:
        """Who was tested with templates of whom."""
        everybody = list(dict.fromkeys(self.participants))
        return [
            {"tested": [who], "defining": [other for other in everybody if other != who]}
            for who in everybody
        ]

    @property
    def confusion(self) -> pd.DataFrame:
        """Number of maps by task shown (rows) and task identified (columns)."""
        n_tasks = len(self.tasks)
        counts = np.bincount(self.true * n_tasks + self.predicted, minlength=n_tasks**2)
        return pd.DataFrame(
            counts.reshape(n_tasks, n_tasks),
            index=pd.Index(self.tasks, name="shown"),
            columns=pd.Index(self.tasks, name="identified"),
        )

    @property
    def p_value(self) -> float:
        """One-sided binomial p of doing no better than guessing."""
        test = stats.binomtest(self.n_correct, self.n_tests, self.chance, alternative="greater")
        return float(test.pvalue)

    def interval(self) -> tuple[float, float]:
        """Give the accuracy's 95 % interval, as if tests were independent; folds share maps."""
        return binomial_interval(self.n_correct, self.n_tests)

    def table(self) -> pd.DataFrame:
        """List the tests: participant, task shown and identified, score, margin over the others."""
        rows = np.arange(self.n_tests)
        own = self.scores[rows, self.true]
        others = self.scores.copy()
        others[rows, self.true] = -np.inf
        names = np.asarray(self.tasks, dtype=object)
        return pd.DataFrame(
            {
                "participant": self.participants,
                "shown": names[self.true],
                "identified": names[self.predicted],
                "correct": self.true == self.predicted,
                "score": own,
                "margin": own - others.max(axis=1),
                "taken_off": "mean map of the participant",
            }
        )

    def __str__(self) -> str:
        low, high = self.interval()
        sentence = (
            f"{self.n_correct} of {self.n_tests} maps identified by {self.method}: accuracy "
            f"{self.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}, chance {self.chance:.3f})"
        )
        return f"{sentence}. {circularity_note(self.shared)}".strip()


@dataclass(frozen=True, kw_only=True, eq=False)
class AccuracyCurve:
    """Accuracy by number of tokens and of on prompts, (len(n_tokens), len(n_prompts), n_draws)."""

    n_tokens: tuple[int, ...]
    n_prompts: tuple[int, ...]
    accuracies: Floats
    n_tests: int
    chance: float

    def table(self) -> pd.DataFrame:
        """List mean accuracies, their 95 % binomial intervals, and where 95 % of draws lie."""
        rows = []
        for i, tokens in enumerate(self.n_tokens):
            for j, prompts in enumerate(self.n_prompts):
                draws = self.accuracies[i, j]
                mean = float(draws.mean())
                low, high = binomial_interval(round(mean * self.n_tests), self.n_tests)
                rows.append((tokens, prompts, mean, low, high, *percentile_interval(draws)))
        names = ("n_tokens", "n_prompts", "accuracy", "low", "high", "draw_low", "draw_high")
        table = pd.DataFrame(rows, columns=list(names))
        return table.assign(n_tests=self.n_tests, chance=self.chance)


def identify_left_out(effects: Effects, options: FindingsOptions) -> Identification:
    """Identify the tasks of each participant with templates of the others."""
    n_participants, n_tasks, _ = effects.values.shape
    gram = gram_matrix(effects.values)
    scores = gram_scores(gram, n_tasks)
    true = np.tile(np.arange(n_tasks), n_participants)
    with_mean = gram_scores(gram, n_tasks, centre=False).argmax(axis=1)
    return Identification(
        tasks=effects.tasks,
        participants=tuple(np.repeat(effects.participants, n_tasks).tolist()),
        true=true,
        predicted=scores.argmax(axis=1),
        scores=scores,
        n_correct_with_mean=int((with_mean == true).sum()),
        shared=check_left_out(effects, options),
    )


def check_left_out(effects: Effects, options: FindingsOptions) -> Provenance:
    """Refuse participants who share data; give what is shared where it is allowed."""
    everybody = range(len(effects.participants))
    return Provenance.union(
        require_disjoint(
            effects.provenance_of([other for other in everybody if other != index]),
            effects.provenance_of([index]),
            what=f"identification of {effects.participants[index]}",
            allow_circular=options.allow_circular,
        )
        for index in everybody
    )


def gram_scores(
    gram: Floats, n_tasks: int, *, centre: bool = True, labels: Ints | None = None
) -> Floats:
    """Correlate each participant's maps with the others' mean maps, (n_tests, n_tasks).

    `gram`: of the maps, participant by participant. `centre`: each participant's mean map is taken
    off first. `labels`, (n_participants, n_tasks): what each map is taken for.
    """
    n_participants = len(gram) // n_tasks
    if labels is None:
        labels = np.tile(np.arange(n_tasks), (n_participants, 1))
    own = np.eye(n_tasks)[labels]
    if centre:
        own = own - 1 / n_tasks
    blocks = np.zeros((n_participants, n_tasks, n_participants, n_tasks))
    everybody = np.arange(n_participants)
    blocks[everybody, :, everybody] = own
    maps = blocks.reshape(n_participants, n_tasks, -1)
    scores = [
        weighted_correlation(gram, maps[index], np.delete(maps, index, axis=0).mean(axis=0))
        for index in range(n_participants)
    ]
    return np.concatenate(scores)


def network_scores(
    effects: Maps, share: float, *, moved: npt.NDArray[np.intp] | None = None
) -> Floats:
    """Score as `gram_scores` by the strongest units of each template alone, others set to 0.

    `effects`: (n_participants, n_tasks, n_units). `moved`: units that a template keeps are moved
    to these, shape (n_units,).
    """
    n_participants, n_tasks, _ = effects.shape
    maps = effects - effects.mean(axis=1, keepdims=True)
    scores = []
    for index in range(n_participants):
        templates = np.delete(maps, index, axis=0).mean(axis=0)
        kept = top_units(templates, share) != 0
        templates *= kept if moved is None else kept[:, moved]
        gram = gram_matrix(np.concatenate([maps[index], templates]))
        eye = np.eye(2 * n_tasks)
        scores.append(weighted_correlation(gram, eye[:n_tasks], eye[n_tasks:]))
    return np.concatenate(scores)


def accuracy_of(scores: Floats) -> float:
    """Give the share of tests, (n_tests, n_tasks), whose own task scores best."""
    n_tasks = scores.shape[1]
    true = np.tile(np.arange(n_tasks), len(scores) // n_tasks)
    return float((scores.argmax(axis=1) == true).mean())


def prompt_curve(
    prompts: Prompts,
    options: FindingsOptions,
    *,
    n_tokens: int,
    n_prompts: Sequence[int],
    omitted: dict[str, str],
) -> AccuracyCurve:
    """Identify with fewer on prompts, and off prompts in proportion, in templates and tests alike.

    `omitted` takes the numbers of prompts that do not determine the model, and why.
    """
    n_tasks = len(prompts.conditions)
    n_tests = len(prompts.people) * n_tasks
    rng = np.random.default_rng(options.seed)
    gram = gram_matrix(prompts.values, centre_maps=True)
    points: dict[int, list[float]] = {}
    for count in n_prompts:
        try:
            draws = []
            for _ in range(options.n_draws):
                kept = _draw_prompts(prompts, count, rng)
                weights = prompts.weights(kept)
                flat = weights.reshape(n_tests, -1)
                draws.append(accuracy_of(gram_scores(flat @ gram @ flat.T, n_tasks)))
            points[count] = draws
        except InferenceError as error:
            if count == max(n_prompts):
                raise
            omitted[f"by_prompts, {count}"] = str(error)
    return AccuracyCurve(
        n_tokens=(n_tokens,),
        n_prompts=tuple(points),
        accuracies=np.array([list(points.values())]),
        n_tests=n_tests,
        chance=1 / n_tasks,
    )


def token_curve(
    effects: Mapping[int, Effects], options: FindingsOptions, *, n_prompts: int
) -> AccuracyCurve:
    """Identify with all prompts, but effects of their first tokens, by number of tokens."""
    parts = [identify_left_out(part, options) for part in effects.values()]
    return AccuracyCurve(
        n_tokens=tuple(effects),
        n_prompts=(n_prompts,),
        accuracies=np.array([part.accuracy for part in parts]).reshape(-1, 1, 1),
        n_tests=parts[0].n_tests,
        chance=parts[0].chance,
    )


def _draw_prompts(prompts: Prompts, count: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Mark so many on prompts of each run and trial type, and off prompts in proportion."""
    kept = np.zeros(len(prompts.values), dtype=np.bool_)
    kinds = rows_by_kind(prompts)
    for (run, kind), rows in kinds.items():
        size = count
        if kind == OFF:
            fewest = min(len(on) for (name, k), on in kinds.items() if name == run and k != OFF)
            size = max(1, round(rows.size * count / fewest))
        kept[rng.permutation(rows)[:size]] = True
    return kept
