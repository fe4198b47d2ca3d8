"""What the model is given at each trial of a run, in tokens. No torch at import time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import RecordingError
from llm2bids.paradigm.design import RunDesign
from llm2bids.paradigm.task import Prompt

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

SEPARATOR = "\n\n"
"""What parts a prompt from the answer before it, where one context is carried through the run."""


def first_step(keep_first: bool) -> int:
    """Index of the first generated token that gives a volume."""
    return 0 if keep_first else 1


def token_uniforms(seed: int, trials: Sequence[int], n_tokens: int) -> npt.NDArray[np.float64]:
    """Draw the random numbers that choose the tokens.

    Each trial has a generator of its own, so a run's tokens do not depend on how it is split into
    batches.

    Examples
    --------
    >>> float(token_uniforms(1, [3], 2)[0, 1]) == float(token_uniforms(1, [0, 3], 2)[1, 1])
    True
    """
    draws = [np.random.default_rng([seed, trial]).random(n_tokens) for trial in trials]
    return np.stack(draws)


def prompt_tokens(
    loaded: "LoadedModel", prompts: Sequence[Prompt], *, n_tokens: int
) -> list[list[int]]:
    """Tokenize prompts, each a context of its own, and check their length."""
    from llm2bids.model.text import encode

    tokens = []
    for prompt in prompts:
        try:
            tokens.append(encode(loaded, prompt.text))
        except RecordingError as error:
            raise RecordingError(f"prompt {prompt.prompt_id}: {error}") from None
        _check_prompt(loaded, prompt.prompt_id, tokens[-1], n_tokens)
    return tokens


def carried_tokens(
    loaded: "LoadedModel", design: RunDesign, trial: int, context: Sequence[int], *, n_tokens: int
) -> list[int]:
    """Tokenize a prompt that follows what was said before it."""
    from llm2bids.model.text import encode

    prompt = design.trials[trial].prompt
    if context:
        tokens = [*context, *encode(loaded, SEPARATOR + prompt.text, special=False)]
    else:
        tokens = encode(loaded, prompt.text)
    _check_prompt(loaded, f"{prompt.prompt_id} (trial {trial}, carried)", tokens, n_tokens)
    return tokens


def _check_prompt(loaded: "LoadedModel", what: str, tokens: Sequence[int], n_tokens: int) -> None:
    """Refuse a prompt that the model cannot take, with the tokens that it will generate."""
    n_prompt, n_known = len(tokens), loaded.model.get_input_embeddings().num_embeddings
    if max(tokens) >= n_known:
        raise RecordingError(
            f"prompt {what}: token id {max(tokens)}; {loaded.name} knows 0 to {n_known - 1}: its "
            "tokenizer is larger than its vocabulary; expected the tokenizer that it was trained "
            "with"
        )
    if n_prompt < loaded.shortest_prompt:
        raise RecordingError(
            f"prompt {what}: {n_prompt} token; {loaded.name} goes on from the text before it where "
            f"a prompt has fewer than {loaded.shortest_prompt}: make it longer"
        )
    if n_prompt + n_tokens > loaded.max_length:
        raise RecordingError(
            f"prompt {what}: {n_prompt} tokens and {n_tokens} to generate exceed the context of "
            f"{loaded.name} ({loaded.max_length} tokens); shorten it or take fewer tokens"
        )
