"""The table of generated tokens, and what is said about how they came about."""

import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from llm2bids.paradigm.design import RunDesign

if TYPE_CHECKING:
    from llm2bids.model.choose import ChosenTokens
    from llm2bids.model.load import LoadedModel


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
        "source": loaded.source,
        "revision": loaded.revision,
        "weights_sha256": loaded.weights_sha256,
        "random_weights": loaded.random_weights,
        "adapter": loaded.adapter,
        "quantization": loaded.quantization,
        "chat_template": chat.template_sha256(loaded.tokenizer) if chat else None,
        "system": chat.system if chat else None,
        "dtype": loaded.dtype,
        "device": loaded.device,
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


def versions() -> dict[str, str | None]:
    """List the versions that values depend on."""
    packages = ("llm2bids", "torch", "transformers", "numpy")
    return {**{name: _version(name) for name in packages}, "python": platform.python_version()}


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
