"""The tokens of a run: what the model is given at each trial, and the table of what it gave."""

import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids import __version__
from llm2bids.exceptions import RecordingError
from llm2bids.model.tokenizer import encode
from llm2bids.options import chosen
from llm2bids.paradigm.design import RunDesign
from llm2bids.paradigm.task import Prompt

if TYPE_CHECKING:
    from llm2bids.model.generate import ChosenTokens
    from llm2bids.model.load import LoadedModel

# What parts a prompt from the answer before it, where one context is carried through the run.
SEPARATOR = "\n\n"


def first_step(keep_first: bool) -> int:
    """Index of the first generated token that gives a volume."""
    return 0 if keep_first else 1


def token_uniforms(seed: int, trials: Sequence[int], n_tokens: int) -> npt.NDArray[np.float64]:
    """Draw the random numbers that choose the tokens, (n_trials, n_tokens)."""
    # a generator for each trial: tokens do not depend on how a run is split into batches
    draws = [np.random.default_rng([seed, trial]).random(n_tokens) for trial in trials]
    return np.stack(draws)


def prompt_tokens(
    loaded: "LoadedModel", prompts: Sequence[Prompt], *, n_tokens: int
) -> list[list[int]]:
    """Tokenize prompts, each a context of its own, and check their length."""
    tokens = []
    for prompt in prompts:
        try:
            tokens.append(encode(loaded, prompt.text))
        except RecordingError as error:
            raise RecordingError(f"prompt {prompt.prompt_id}: {error}") from None
        _check_prompt(loaded, prompt.prompt_id, tokens[-1], n_tokens)
    return tokens


def carried_tokens(
    loaded: "LoadedModel",
    design: RunDesign,
    contexts: Sequence[Sequence[int]],
    answer: Sequence[int],
    *,
    n_tokens: int,
) -> list[int]:
    """Tokenize the next trial's prompt, after the `contexts` and the `answer` to the last."""
    trial = len(contexts)
    prompt = design.trials[trial].prompt
    if contexts:
        follows = encode(loaded, SEPARATOR + prompt.text, special=False)
        tokens = [*contexts[-1], *answer, *follows]
    else:
        tokens = encode(loaded, prompt.text)
    _check_prompt(loaded, f"{prompt.prompt_id} (trial {trial}, carried)", tokens, n_tokens)
    return tokens


def _check_prompt(loaded: "LoadedModel", what: str, tokens: Sequence[int], n_tokens: int) -> None:
    """Refuse a prompt that the model cannot take, with the tokens that it will generate."""
    n_prompt, n_known = len(tokens), loaded.n_vocabulary
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


def token_table(
    design: RunDesign,
    answers: "ChosenTokens",
    texts: Sequence[str],
    lengths: Sequence[int],
    first: int,
) -> pd.DataFrame:
    """Tabulate the tokens of a run and their texts, with the columns of `Recording.tokens`."""
    token_ids = answers.token_ids
    n_trials, n_tokens = token_ids.shape
    position = np.tile(np.arange(n_tokens), n_trials)
    volume = pd.Series(pd.NA, index=range(n_trials * n_tokens), dtype="Int64")
    kept = position >= first
    volume[kept] = np.arange(kept.sum())
    trial = np.repeat(np.arange(n_trials), n_tokens)
    trials = [design.trials[index] for index in trial]
    return pd.DataFrame(
        {
            "volume": volume,
            "trial": trial,
            "block": [trial.block for trial in trials],
            "trial_type": pd.array([trial.trial_type for trial in trials], dtype="string"),
            "prompt_id": [trial.prompt.prompt_id for trial in trials],
            "position": position,
            "token_id": token_ids.ravel(),
            "token": texts,
            "surprisal": answers.surprisal.ravel(),
            "entropy": answers.entropy.ravel(),
            "prompt_tokens": np.repeat(np.asarray(lengths, dtype=np.int64), n_tokens),
        }
    )


def provenance(
    loaded: "LoadedModel",
    *,
    method: str,
    seed: int,
    keep_first: bool,
    batch_size: int,
    n_tokens: int,
    seconds: float,
) -> dict[str, object]:
    """Say how values came about."""
    from llm2bids.model.device import host

    chat = loaded.chat
    return {
        "method": method,
        "model": loaded.name,
        **chosen(loaded, "source", "revision", "weights_sha256"),
        **chosen(loaded, "random_weights", "adapter", "quantization"),
        "chat_template": chat.template_sha256(loaded.tokenizer) if chat else None,
        "system": chat.system if chat else None,
        **chosen(loaded, "dtype", "device"),
        **host(loaded.device),
        "batch_size": batch_size,
        "prompt_batching": loaded.batching,
        "keep_first": keep_first,
        "end_of_text_suppressed": method == "record",
        "seed": seed,
        "n_tokens": n_tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(n_tokens / seconds, 2) if seconds > 0 else None,
        "versions": versions(),
    }


@cache
def versions() -> Mapping[str, str]:
    """List the versions that values depend on."""
    libraries = {name: version(name) for name in ("torch", "transformers", "numpy")}
    return {"llm2bids": __version__, **libraries, "python": platform.python_version()}
