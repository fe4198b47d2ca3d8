"""Held-out text sets, and how well a model foresees them: given text, and its own answers."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import InterventionError
from llm2bids.intervention.answers import Answered, answer
from llm2bids.intervention.subject import Subject
from llm2bids.paradigm.seed import derive_generator

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

MEASURES = ("given", "answers")
"""Text whose likelihood is measured: the prompts as given, and the intact model's own answers."""

N_BOOT = 2000

Floats = npt.NDArray[np.float64]


def text_sets(
    subject: Subject,
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
        tokens = subject.tokens(prompts, n_tokens=n_answer_tokens)
        for prompt, text in zip(prompts, tokens, strict=True):
            if len(text) < 2:
                raise InterventionError(
                    f"prompt {prompt.prompt_id}: {len(text)} token; expected two or more to "
                    "measure how well a text is foreseen: take it out of the bank"
                )
        sets[label] = answer(subject, prompts, n_tokens=n_answer_tokens, contexts=tokens)
    return sets


def measure(
    loaded: "LoadedModel", sets: Mapping[str, Answered], *, on_text: Callable[[int], object]
) -> dict[str, Floats]:
    """Average the NLL, in nats a token, of each text: (n_prompts, 2) a set, as `MEASURES`."""
    from llm2bids.model.likelihood import text_nll

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


def boot_means(label: str, values: Floats, seed: int) -> Floats:
    """Average values (n_prompts, ...) of a text set in every bootstrap draw, (N_BOOT, ...).

    The draws of a text set are the same whatever is measured on it.
    """
    rng = derive_generator(seed, "bootstrap", label)
    drawn = rng.integers(len(values), size=(N_BOOT, len(values)))
    return np.asarray(values[drawn].mean(axis=1))


def interval(draws: Floats) -> Floats:
    """Give where 95 % of draws (n, ...) lie, (2, ...)."""
    return np.asarray(np.quantile(draws, [0.025, 0.975], axis=0, method="inverted_cdf"))
