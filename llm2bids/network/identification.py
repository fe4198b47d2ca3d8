"""What identification finds: the task given to every tested map, accuracy and its interval."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from llm2bids.network.provenance import Provenance, circularity_note
from llm2bids.network.similarity import Floats

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Identification:
    """The task given to every tested map.

    Parameters
    ----------
    tasks : tuple of str
        Labels, in the order of the templates.
    participants : tuple of str, length n_tests
        Whose map was tested.
    true : ndarray of int64, shape (n_tests,)
        Index of the task that was shown.
    predicted : ndarray of int64, shape (n_tests,)
        Index of the task that was identified.
    scores : ndarray of float64, shape (n_tests, n_tasks)
        Correlation with each template (or the classifier's decision values).
    method : str
        What identified, in words.
    shared : Provenance
        Data that both defined and tested (with ``allow_circular``), empty where none did.
    provenance : Provenance
        All that defined or tested.
    """

    tasks: tuple[str, ...]
    participants: tuple[str, ...]
    true: Ints
    predicted: Ints
    scores: Floats
    method: str
    shared: Provenance
    provenance: Provenance

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
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / len(self.tasks)

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

    def interval(
        self, confidence: float = 0.95, method: Literal["wilson", "exact"] = "wilson"
    ) -> tuple[float, float]:
        """Give the binomial interval of the accuracy.

        Parameters
        ----------
        confidence : float, default=0.95
            Coverage.
        method : {"wilson", "exact"}
            Wilson's score interval, or Clopper and Pearson's.

        Returns
        -------
        tuple of (float, float)
            Bounds. Tests count as independent, though folds share templates.
        """
        return binomial_interval(self.n_correct, self.n_tests, confidence, method)

    def table(self) -> pd.DataFrame:
        """List the tests.

        Returns
        -------
        DataFrame
            Columns ``participant``, ``shown``, ``identified``, ``correct``, ``score`` (of the task
            shown) and ``margin`` (over the best of the others).
        """
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
            }
        )

    def __str__(self) -> str:
        low, high = self.interval()
        said = (
            f"{self.n_correct} of {self.n_tests} maps identified by {self.method}: accuracy "
            f"{self.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}, chance {self.chance:.3f})"
        )
        return f"{said}. {circularity_note(self.shared)}".strip()


def binomial_interval(
    n_correct: int,
    n_tests: int,
    confidence: float = 0.95,
    method: Literal["wilson", "exact"] = "wilson",
) -> tuple[float, float]:
    """Give the interval of a share, with `scipy.stats.binomtest`.

    Parameters
    ----------
    n_correct, n_tests : int
        Successes and trials.
    confidence : float, default=0.95
        Coverage.
    method : {"wilson", "exact"}
        Wilson's score interval, or Clopper and Pearson's.

    Returns
    -------
    tuple of (float, float)
        Bounds.

    Examples
    --------
    >>> [round(bound, 3) for bound in binomial_interval(47, 48)]
    [0.891, 0.996]
    """
    interval = stats.binomtest(n_correct, n_tests).proportion_ci(confidence, method=method)
    return float(interval.low), float(interval.high)
