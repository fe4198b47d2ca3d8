"""Held-out text sets, and how well a model foresees them: given text, and its own answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import InterventionError
from llm2bids.intervention.subject import Subject
from llm2bids.paradigm.seed import derive_generator
from llm2bids.paradigm.task import Prompt, Sampling

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

MEASURES = ("given", "answers")
"""Text whose likelihood is measured: the prompts as given, and the intact model's own answers."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """Held-out prompts of one bank, each followed by the intact model's greedy answer."""

    label: str
    prompts: tuple[Prompt, ...]
    tokens: tuple[tuple[int, ...], ...]  # prompt, then answer
    prompt_lengths: tuple[int, ...]


def text_sets(
    subject: Subject,
    banks: Mapping[str, str],
    *,
    n_prompts: int,
    n_answer_tokens: int,
    used: frozenset[str] = frozenset(),
) -> dict[str, TextSet]:
    """Draw a text set from the bank of each label."""
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
        answers = greedy_answers(subject.loaded, tokens, n_tokens=n_answer_tokens)
        sets[label] = TextSet(
            label=label,
            prompts=prompts,
            tokens=tuple((*text, *said) for text, said in zip(tokens, answers, strict=True)),
            prompt_lengths=tuple(map(len, tokens)),
        )
    return sets


def greedy_answers(
    loaded: "LoadedModel", prompts: Sequence[Sequence[int]], *, n_tokens: int, batch_size: int = 16
) -> list[list[int]]:
    """Let the model answer, each token the most probable, the end of the text suppressed."""
    from llm2bids.model.generate import generate_batch

    said: list[list[int]] = []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        done = generate_batch(
            loaded, part, (), np.empty((len(part), n_tokens, 0), dtype=np.float32),
            sampling=Sampling(do_sample=False), uniforms=np.zeros((len(part), n_tokens)),
            first_step=0,
        )  # fmt: skip
        said.extend(done.token_ids.tolist())
    return said


def measure(
    loaded: "LoadedModel",
    sets: Sequence[TextSet],
    *,
    on_text: Callable[[int], object] | None = None,
) -> dict[str, Floats]:
    """Average the NLL, in nats a token, of each text: (n_prompts, 2) a set, as `MEASURES`."""
    from llm2bids.model.likelihood import text_nll

    nats = text_nll(
        loaded,
        [text for texts in sets for text in texts.tokens],
        names=[f"prompt {p.prompt_id}" for texts in sets for p in texts.prompts],
        on_text=on_text,
    )
    measured, rows = {}, iter(nats)
    for texts in sets:
        measured[texts.label] = np.array(
            [
                (nll[: length - 1].mean(), nll[length - 1 :].mean())
                for length, nll in zip(texts.prompt_lengths, rows, strict=False)
            ]
        )
    return measured


class Bootstrap:
    """Draws prompts with replacement, the same ones of a text set whatever is measured on it."""

    def __init__(self, n_prompts: int, n_boot: int, seed: int) -> None:
        self.n_prompts, self.n_boot, self.seed = n_prompts, n_boot, seed
        self._drawn: dict[str, npt.NDArray[np.int64]] = {}

    def means(self, label: str, values: Floats) -> Floats:
        """Average (n_prompts,) values of a text set in every draw, (n_boot,)."""
        if label not in self._drawn:
            rng = derive_generator(self.seed, "bootstrap", label)
            self._drawn[label] = rng.integers(self.n_prompts, size=(self.n_boot, self.n_prompts))
        return np.asarray(values[self._drawn[label]].mean(axis=1))


def interval(draws: Floats) -> tuple[float, float]:
    """Give where 95 % of draws lie."""
    low, high = np.quantile(draws, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)
