"""What a generated text is about, by its words, and whether it loops."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import InterventionError
from llm2bids.inference.rates import binomial_interval

Floats = npt.NDArray[np.float64]

LEAST_TEXTS = 4
"""Texts of a class from which word counts learn anything."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextClassifier:
    """Word and character n-gram counts (TF-IDF) with logistic regression, and how good it is.

    `accuracy` is that on `n_tests` texts of prompts that it has not learned from.
    """

    classes: tuple[str, ...]
    pipeline: Any
    accuracy: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    n_tests: int = 0

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Sequence[str]) -> "TextClassifier":
        """Learn the classes of texts."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline, make_union

        names, counts = np.unique(labels, return_counts=True)
        if len(names) < 2 or counts.min() < LEAST_TEXTS:
            raise InterventionError(
                f"text classifier: {len(names)} classes with at least {counts.min()} texts; "
                f"expected two or more with {LEAST_TEXTS}: record more prompts or more tasks"
            )
        pipeline = make_pipeline(
            make_union(
                TfidfVectorizer(sublinear_tf=True, stop_words="english"),
                TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True),
            ),
            LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced"),
        )
        pipeline.fit(texts, labels)
        return cls(classes=tuple(map(str, names)), pipeline=pipeline)

    def tested(self, texts: Sequence[str], labels: Sequence[str]) -> "TextClassifier":
        """Give the same with its accuracy on texts that it has not learned from."""
        hits = int((self.predict(texts) == np.asarray(labels)).sum())
        low, high = binomial_interval(hits, len(texts))
        n = len(texts)
        return replace(self, accuracy=hits / n, low=low, high=high, n_tests=n)

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Give the probability of each class, (n_texts, n_classes)."""
        return np.asarray(self.pipeline.predict_proba(list(texts)), dtype=np.float64)

    def predict(self, texts: Sequence[str]) -> npt.NDArray[np.str_]:
        """Give the most probable class of each text."""
        return np.asarray(self.pipeline.predict(list(texts)))


def distinct_2(token_ids: npt.NDArray[np.int64]) -> Floats:
    """Share of the pairs of neighbouring tokens that are distinct, for each text (n_texts, n).

    Li et al. 2016, A diversity-promoting objective function for neural conversation models,
    arXiv:1510.03055.

    >>> distinct_2(np.array([[1, 2, 3, 4], [1, 2, 1, 2]])).round(3).tolist()
    [1.0, 0.667]
    """
    pairs = [set(pairwise(row)) for row in token_ids.tolist()]
    return np.array([len(seen) / (token_ids.shape[1] - 1) for seen in pairs])
