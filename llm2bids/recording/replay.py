"""Replaying a run: the tokens are given, the model only reads them."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import RecordingError
from llm2bids.model.units import Site
from llm2bids.paradigm.design import RunDesign
from llm2bids.recording.batches import OnToken, check_finite, in_batches
from llm2bids.recording.record import Recording, make_recording, shaped
from llm2bids.recording.tokens import carried_tokens, first_step, prompt_tokens

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

REPLAY_BATCH_SIZE = 8
"""Texts in a batch, where the caller names none: all positions are computed, and all logits."""


def replay_run(
    loaded: "LoadedModel",
    design: RunDesign,
    sites: Sequence[Site],
    answers: Sequence[str] | Sequence[Sequence[int]],
    *,
    keep_first: bool = False,
    batch_size: int | None = None,
    on_token: OnToken | None = None,
    out: npt.NDArray[np.float32] | None = None,
) -> Recording:
    """Record a run whose answers are given, as text or token ids, in one forward pass a batch.

    On the tokens of :func:`~llm2bids.recording.record.record_run` it equals that recording.
    """
    from llm2bids.model.choose import ChosenTokens
    from llm2bids.model.generate import read_batch
    from llm2bids.model.hooks import new_values

    n_volumes, first = design.tokens_per_prompt, first_step(keep_first)
    n_trials, n_units = len(design.trials), sum(site.width for site in sites)
    given = answer_tokens(loaded, design, answers, n_tokens=n_volumes + first)
    contexts = _contexts(loaded, design, given)
    shape = (n_trials, n_volumes, n_units)
    values = new_values(shape, loaded.device) if out is None else shaped(out, shape)

    def read(part: slice, tell: OnToken) -> ChosenTokens:
        done = read_batch(
            loaded, contexts[part], given[part], sites, values[part], first_step=first
        )
        tell((part.stop - part.start) * n_volumes)
        return done

    began = time.perf_counter()
    size, parts = in_batches(
        n_trials, read, batch_size=batch_size or REPLAY_BATCH_SIZE, on_token=on_token
    )
    seconds = time.perf_counter() - began
    check_finite(values, sites, [trial.prompt.prompt_id for trial in design.trials], first)
    return make_recording(
        loaded, design, sites, values, ChosenTokens.joined(parts), [len(text) for text in contexts],
        method="replay", first=first, batch_size=size, seconds=seconds,
    )  # fmt: skip


def answer_tokens(
    loaded: "LoadedModel",
    design: RunDesign,
    answers: Sequence[str] | Sequence[Sequence[int]],
    *,
    n_tokens: int,
) -> list[list[int]]:
    """Turn the given answers into token ids, all of one length."""
    from llm2bids.model.text import encode

    if len(answers) != len(design.trials):
        raise RecordingError(
            f"transcript of task {design.task}: {len(answers)} answers for "
            f"{len(design.trials)} trials; expected one for each"
        )
    n_vocabulary = loaded.model.get_input_embeddings().num_embeddings
    given = []
    for index, trial in enumerate(design.trials):
        answer = answers[index]
        what = f"answer to prompt {trial.prompt.prompt_id} (trial {index})"
        if isinstance(answer, str):
            tokens = encode(loaded, answer, special=False) if answer else []
        else:
            tokens = [int(token) for token in answer]
        if len(tokens) < n_tokens:
            raise RecordingError(
                f"{what}: {len(tokens)} tokens; expected at least {n_tokens} for "
                f"{design.tokens_per_prompt} volumes: give a longer answer or take fewer tokens "
                "per prompt"
            )
        unknown = [token for token in tokens if not 0 <= token < n_vocabulary]
        if unknown:
            raise RecordingError(
                f"{what}: token id {unknown[0]}; expected 0 to {n_vocabulary - 1}, the vocabulary "
                f"of {loaded.name}"
            )
        given.append(tokens[:n_tokens])
    return given


def _contexts(
    loaded: "LoadedModel", design: RunDesign, given: Sequence[Sequence[int]]
) -> list[list[int]]:
    n_tokens = len(given[0]) if given else 0
    if design.context != "carry":
        prompts = [trial.prompt for trial in design.trials]
        return prompt_tokens(loaded, prompts, n_tokens=n_tokens)
    contexts: list[list[int]] = []
    said: list[int] = []
    for index, answer in enumerate(given):
        contexts.append(carried_tokens(loaded, design, index, said, n_tokens=n_tokens))
        said = [*contexts[-1], *answer]
    return contexts
