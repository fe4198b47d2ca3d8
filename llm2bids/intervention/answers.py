"""Answers of a model, edited or not: how well foreseen, what they are about, what they show."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import InterventionError
from llm2bids.intervention.edit import edited
from llm2bids.model.edit import Edit
from llm2bids.model.units import Site
from llm2bids.paradigm.task import Prompt, Sampling
from llm2bids.recording.batches import in_batches

if TYPE_CHECKING:
    from llm2bids.intervention.subject import Subject
    from llm2bids.model.load import LoadedModel

Floats = npt.NDArray[np.float64]

# Text whose likelihood is measured: the prompts as given, and the intact model's own answers.
MEASURES = ("given", "answers")

# Texts of a class from which word counts learn anything.
LEAST_TEXTS = 4

# Texts in a batch of which every unit is kept.
_REPLAYED = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """Prompts and their greedy answers."""

    prompts: tuple[Prompt, ...]
    contexts: tuple[tuple[int, ...], ...]  # what the model was given, in tokens
    token_ids: npt.NDArray[np.int64]  # (n_prompts, n_tokens)
    texts: tuple[str, ...]

    def whole_texts(self) -> list[list[int]]:
        """Give each prompt and its answer in tokens."""
        answers = self.token_ids.tolist()
        return [[*context, *row] for context, row in zip(self.contexts, answers, strict=True)]


def answer(
    subject: "Subject", prompts: Sequence[Prompt], *, n_tokens: int, edit: Edit | None = None
) -> Answered:
    """Let the model, edited or not, answer prompts; stop where it gives no numbers."""
    from llm2bids.model.generate import generate_batch

    loaded, given = subject.loaded, subject.tokens(prompts, n_tokens=n_tokens)

    def work(part: slice, tell: object) -> npt.NDArray[np.int64]:
        uniforms, greedy = np.zeros((part.stop - part.start, n_tokens)), Sampling(do_sample=False)
        done, _ = generate_batch(
            loaded, given[part], (), sampling=greedy, uniforms=uniforms, first_step=0
        )
        _check_numbers(done.surprisal, prompts[part], edit)
        return done.token_ids

    with nullcontext() if edit is None else edited(loaded, edit):
        token_ids = np.concatenate([chosen for _, chosen in in_batches(len(prompts), work)])
    return Answered(
        prompts=tuple(prompts),
        contexts=tuple(map(tuple, given)),
        token_ids=token_ids,
        texts=tuple(str(text) for text in loaded.tokenizer.batch_decode(token_ids)),
    )


def text_means(
    loaded: "LoadedModel", answered: Answered, sites: Sequence[Site]
) -> npt.NDArray[np.float32]:
    """Average sites over the tokens of each prompt and its answer, (n_prompts, n_units).

    The first token of a text is left out: attention that has nowhere to go makes its values larger
    than all others by orders.
    """
    from llm2bids.model.read import text_values

    texts = answered.whole_texts()
    means = np.empty((len(texts), sum(site.width for site in sites)), dtype=np.float32)
    for row, values in text_values(loaded, texts, sites):
        means[row] = values[1:].mean(axis=0)
    return means


def answer_nll(loaded: "LoadedModel", answered: Answered) -> Floats:
    """Measure the answers' NLL under the intact model, nats a token, (n_prompts,)."""
    return _read(loaded, answered, ())[0]


def replayed_map(subject: "Subject", answered: Answered) -> Floats:
    """Read answers in the intact model: mean over prompts and tokens of every unit, (n_units,)."""
    return _read(subject.loaded, answered, subject.dataset.space.sites)[1]


def _read(
    loaded: "LoadedModel", answered: Answered, sites: Sequence[Site]
) -> tuple[Floats, Floats]:
    """Give the answers' NLL in nats, (n_prompts,), and the mean of the sites' units, (n_units,)."""
    from llm2bids.model.generate import read_batch

    n_units, n_tokens = sum(site.width for site in sites), answered.token_ids.shape[1]
    total = np.zeros(n_units)

    def work(part: slice, tell: object) -> Floats:
        answers = answered.token_ids[part].tolist()
        done, values = read_batch(loaded, answered.contexts[part], answers, sites)
        total[:] += values.sum(axis=(0, 1), dtype=np.float64)
        return np.asarray(done.surprisal.mean(axis=1) * np.log(2))

    size = _REPLAYED if n_units else None
    batches = in_batches(len(answered.prompts), work, batch_size=size)
    nats = np.concatenate([nats for _, nats in batches])
    return nats, total / (len(answered.prompts) * (n_tokens - 1))


def text_sets(
    subject: "Subject",
    banks: Mapping[str, str],
    *,
    n_prompts: int,
    n_answer_tokens: int,
    used: frozenset[str] = frozenset(),
) -> dict[str, Answered]:
    """Draw held-out prompts from the bank of each label, and let the intact model answer them."""
    sets = {}
    for label, bank in banks.items():
        prompts = subject.held_out(bank, n_prompts, used)
        sets[label] = answer(subject, prompts, n_tokens=n_answer_tokens)
        for prompt, text in zip(prompts, sets[label].contexts, strict=True):
            if len(text) < 2:
                raise InterventionError(
                    f"prompt {prompt.prompt_id}: {len(text)} token; expected two or more to "
                    "measure how well a text is foreseen: take it out of the bank"
                )
    return sets


def measure(
    loaded: "LoadedModel", sets: Mapping[str, Answered], *, on_text: Callable[[int], object]
) -> dict[str, Floats]:
    """Average the NLL, in nats a token, of each text: (n_prompts, 2) a set, as `MEASURES`."""
    from llm2bids.model.read import text_nll

    nats = iter(
        text_nll(
            loaded,
            [text for answered in sets.values() for text in answered.whole_texts()],
            names=[f"prompt {p.prompt_id}" for answered in sets.values() for p in answered.prompts],
            on_text=on_text,
        )
    )
    return {
        label: np.array(
            [
                (nll[: len(prompt) - 1].mean(), nll[len(prompt) - 1 :].mean())
                for prompt, nll in zip(answered.contexts, nats, strict=False)
            ]
        )
        for label, answered in sets.items()
    }


def _check_numbers(surprisal: Floats, prompts: Sequence[Prompt], edit: Edit | None) -> None:
    wrong = np.argwhere(~np.isfinite(surprisal))
    if not wrong.size:
        return
    row, token = (int(n) for n in wrong[wrong[:, 1].argmin()])
    strength = "" if edit is None else f" at strength {edit.strength:g} ({edit.criterion})"
    raise InterventionError(
        f"prompt {prompts[row].prompt_id}: the model gives no numbers from token {token + 1} of "
        f"its answer on{strength}; expected finite likelihoods: lower the strength (--strengths)"
    )


def text_classifier(texts: Sequence[str], labels: Sequence[str]) -> Any:
    """Fit sklearn's logistic regression to counts of words and character n-grams (TF-IDF)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 2 or counts.min() < LEAST_TEXTS:
        raise InterventionError(
            f"text classifier: {len(names)} classes with at least {counts.min()} texts; "
            f"expected two or more with {LEAST_TEXTS}: record more prompts or more tasks"
        )
    counted = make_union(
        TfidfVectorizer(sublinear_tf=True, stop_words="english"),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True),
    )
    regression = LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced")
    return make_pipeline(counted, regression).fit(texts, labels)


def distinct_2(token_ids: npt.NDArray[np.int64]) -> Floats:
    """Share of the pairs of neighbouring tokens that are distinct, for each text (n_texts, n).

    Li et al. 2016, A diversity-promoting objective function for neural conversation models,
    arXiv:1510.03055.

    >>> distinct_2(np.array([[1, 2, 3, 4], [1, 2, 1, 2]])).round(3).tolist()
    [1.0, 0.667]
    """
    pairs = [set(pairwise(row)) for row in token_ids.tolist()]
    return np.array([len(seen) / (token_ids.shape[1] - 1) for seen in pairs])
