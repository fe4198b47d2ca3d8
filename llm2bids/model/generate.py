"""Generating the answers of a batch of prompts, and reading a given text in one pass.

``model.generate`` runs the loop, so every architecture's cache and positions are handled by its own
code. Which token comes is chosen in :mod:`llm2bids.model.choose`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm2bids.model.choose import Answers, Chooser, information
from llm2bids.model.hooks import PositionReader, StepReader, hooked
from llm2bids.model.load import LoadedModel
from llm2bids.model.units import Site
from llm2bids.paradigm.task import Sampling


def generate_batch(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[Site],
    values: npt.NDArray[np.float32],
    *,
    sampling: Sampling,
    uniforms: npt.NDArray[np.float64],
    first_step: int = 1,
    on_step: Callable[[int], None] | None = None,
) -> Answers:
    """Generate the answers of a batch under the hooks.

    Parameters
    ----------
    loaded : LoadedModel
        The model.
    prompts : sequence of sequences of int
        Token ids of each prompt; shorter ones are padded on the left.
    sites : sequence of Site
        What to record.
    values : ndarray of float32, shape (n_prompts, n_steps, n_units)
        Written to: row ``i`` of the second axis holds the outputs at the position that produces
        token ``first_step + i``.
    sampling : Sampling
        How tokens are chosen.
    uniforms : ndarray of float64, shape (n_prompts, n_tokens)
        One number in [0, 1) for each token: the place in the cumulative distribution (in the order
        of the vocabulary) where the token is taken.
    first_step : {0, 1}
        First token that is recorded: 0 is produced by the prompt's last position.
    on_step : callable, optional
        Told the number of prompts after each recorded step.

    Returns
    -------
    Answers
        ``uniforms.shape[1]`` tokens for each prompt.

    Raises
    ------
    MemoryError
        If the device's memory does not hold the batch.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    token_ids, mask = _pad_left(prompts, loaded)
    n_tokens = uniforms.shape[1]
    reader = StepReader(sites, values, device=loaded.device)
    chooser = Chooser(loaded, sampling, uniforms, reader, first_step, on_step)
    with _memory_errors(), hooked(loaded.model, sites, reader.hook), torch.no_grad():
        reader.open(0 if first_step == 0 else None)
        loaded.model.generate(
            token_ids,
            attention_mask=mask,
            generation_config=GenerationConfig(max_new_tokens=n_tokens, do_sample=False),
            logits_processor=LogitsProcessorList([chooser]),
        )
        reader.wait()
        return chooser.answers()


def read_batch(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    sites: Sequence[Site],
    values: npt.NDArray[np.float32],
    *,
    first_step: int = 1,
) -> Answers:
    """Read given answers in one forward pass (teacher forcing).

    Parameters
    ----------
    loaded : LoadedModel
        The model.
    prompts : sequence of sequences of int
        Token ids of each prompt.
    answers : sequence of sequences of int
        Token ids of each answer, all of one length ``n_tokens``.
    sites : sequence of Site
        What to record.
    values : ndarray of float32, shape (n_prompts, n_tokens - first_step, n_units)
        Written to, as by :func:`generate_batch`.
    first_step : {0, 1}
        First token that is recorded.

    Returns
    -------
    Answers
        The same tokens, with surprisal and entropy.

    Raises
    ------
    MemoryError
        If the device's memory does not hold the batch.
    """
    chosen = np.asarray(answers, dtype=np.int64)
    n_tokens = chosen.shape[1]
    fed = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, fed))
    padded = torch.full((len(fed), longest), loaded.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, text in enumerate(fed):  # on the right: earlier positions do not see it
        padded[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    starts = np.array([len(prompt) - 1 for prompt in prompts], dtype=np.int64)
    positions = starts[:, None] + np.arange(n_tokens)
    reader = PositionReader(sites, values, positions[:, first_step:], device=loaded.device)
    with _memory_errors(), hooked(loaded.model, sites, reader.hook), torch.no_grad():
        output = loaded.model(
            input_ids=padded.to(loaded.device),
            attention_mask=mask.to(loaded.device),
            use_cache=False,
        )
        rows = torch.arange(len(fed))[:, None]
        logits = output.logits[rows, torch.from_numpy(positions)].float()
        log_p = torch.log_softmax(logits, dim=-1)
        surprisal, entropy = information(log_p, torch.from_numpy(chosen).to(log_p.device))
        return Answers(
            token_ids=chosen,
            surprisal=surprisal.double().cpu().numpy(),
            entropy=entropy.double().cpu().numpy(),
        )


def _pad_left(prompts: Sequence[Sequence[int]], loaded: LoadedModel) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    padded = torch.full((len(prompts), longest), loaded.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, prompt in enumerate(prompts):
        padded[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return padded.to(loaded.device), mask.to(loaded.device)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Raise what says that memory ran out as ``MemoryError``, and free what is cached."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise MemoryError(str(error).split("\n")[0]) from None


def is_memory_error(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out.

    Parameters
    ----------
    error : BaseException
        What was raised.

    Returns
    -------
    bool
        True for ``torch.OutOfMemoryError`` and for the CPU allocator's ``RuntimeError``.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
