"""Generating the answers of a batch of prompts, and reading a given text in one pass.

``model.generate`` runs the loop, so every architecture's cache and positions are handled by its own
code. Which token comes is chosen in :mod:`llm2bids.model.choose`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm2bids.model.choose import Chooser, ChosenTokens, information
from llm2bids.model.hooks import (
    PositionReader,
    StepReader,
    contiguous_head,
    forward_errors,
    hooked,
    new_values,
)
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
) -> ChosenTokens:
    """Generate answers as `uniforms` (n_prompts, n_tokens) choose them.

    Row ``i`` of the second axis of `values` (n_prompts, n_steps, n_units) gets the outputs at the
    position that produces token ``first_step + i``; `on_step` is told the prompts of each step.
    """

    def generate(rows: list[int], part: npt.NDArray[np.float32]) -> ChosenTokens:
        texts = [prompts[row] for row in rows]
        return _generate(loaded, texts, sites, part, sampling, uniforms[rows], first_step, on_step)

    return _in_groups(loaded, prompts, values, generate)


def read_batch(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    sites: Sequence[Site],
    values: npt.NDArray[np.float32],
    *,
    first_step: int = 1,
) -> ChosenTokens:
    """Read given answers, all of one length, in one forward pass (teacher forcing).

    `values` (n_prompts, n_tokens - first_step, n_units) is written as by :func:`generate_batch`.
    """

    def read(rows: list[int], part: npt.NDArray[np.float32]) -> ChosenTokens:
        texts, said = [prompts[row] for row in rows], [answers[row] for row in rows]
        return _read(loaded, texts, said, sites, part, first_step=first_step, masked=True)

    return _in_groups(loaded, prompts, values, read)


def read_alone(
    loaded: LoadedModel,
    prompt: Sequence[int],
    answer: Sequence[int],
    sites: Sequence[Site],
    values: npt.NDArray[np.float32],
) -> ChosenTokens:
    """Read one finished text in a plain forward pass: the standard that the others are held to."""
    return _read(loaded, [prompt], [answer], sites, values, first_step=0, masked=False)


def _in_groups(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    values: npt.NDArray[np.float32],
    work: Callable[[list[int], npt.NDArray[np.float32]], ChosenTokens],
) -> ChosenTokens:
    """Work on the prompts that may run together: all, those of one length, or one by one."""
    groups = together(loaded, prompts, range(len(prompts)))
    if len(groups) == 1:
        return work(list(range(len(prompts))), values)
    parts = []
    for rows in groups:
        part = new_values((len(rows), *values.shape[1:]), loaded.device)
        parts.append(work(rows, part))
        values[rows] = part
    return ChosenTokens.joined(parts)[np.argsort(np.concatenate(groups))]


def together(
    loaded: LoadedModel, texts: Sequence[Sequence[int]], rows: Iterable[int]
) -> list[list[int]]:
    """Sort texts, by their numbers, into groups that may run together."""
    groups: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        groups[{"padded": 0, "equal": len(texts[row]), "single": row}[loaded.batching]].append(row)
    return list(groups.values())


def _generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[Site],
    values: npt.NDArray[np.float32],
    sampling: Sampling,
    uniforms: npt.NDArray[np.float64],
    first_step: int,
    on_step: Callable[[int], None] | None,
) -> ChosenTokens:
    from transformers import GenerationConfig, LogitsProcessorList

    token_ids, mask = padded(prompts, loaded, left=True)
    reader = StepReader(sites, values, device=loaded.device)
    chooser = Chooser(loaded, sampling, uniforms, reader, first_step, on_step)
    with ExitStack() as stack:
        stack.enter_context(forward_errors(loaded))
        stack.enter_context(hooked(loaded.model, sites, reader.hook))
        stack.enter_context(contiguous_head(loaded.model))
        stack.enter_context(torch.no_grad())
        reader.open(0 if first_step == 0 else None)
        loaded.model.generate(
            token_ids,
            attention_mask=mask,
            generation_config=GenerationConfig(max_new_tokens=uniforms.shape[1], do_sample=False),
            logits_processor=LogitsProcessorList([chooser]),
        )
        reader.wait()
        return chooser.answers()


def _read(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    sites: Sequence[Site],
    values: npt.NDArray[np.float32],
    *,
    first_step: int,
    masked: bool,
) -> ChosenTokens:
    chosen = np.asarray(answers, dtype=np.int64)
    fed = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
    # padded on the right: earlier positions do not see it
    token_ids, mask = padded(fed, loaded, left=False)
    starts = np.array([len(prompt) - 1 for prompt in prompts], dtype=np.int64)
    positions = starts[:, None] + np.arange(chosen.shape[1])
    reader = PositionReader(sites, values, positions[:, first_step:], device=loaded.device)
    with forward_errors(loaded), hooked(loaded.model, sites, reader.hook), torch.no_grad():
        others = {"attention_mask": mask} if masked else {}
        output = loaded.model(input_ids=token_ids, use_cache=False, **others)
        rows = torch.arange(len(fed))[:, None]
        logits = output.logits[rows, torch.from_numpy(positions)].float()
        log_p = torch.log_softmax(logits, dim=-1)
        surprisal, entropy = information(log_p, torch.from_numpy(chosen).to(log_p.device))
        return ChosenTokens(
            token_ids=chosen,
            surprisal=surprisal.double().cpu().numpy(),
            entropy=entropy.double().cpu().numpy(),
        )


def text_logits(loaded: LoadedModel, token_ids: Tensor, mask: Tensor) -> Tensor:
    """Read texts that may run together: logits (n_texts, n_tokens, n_vocabulary)."""
    others = {} if loaded.batching == "single" else {"attention_mask": mask}
    logits: Tensor = loaded.model(input_ids=token_ids, use_cache=False, **others).logits
    return logits


def padded(
    texts: Sequence[Sequence[int]], loaded: LoadedModel, *, left: bool
) -> tuple[Tensor, Tensor]:
    """Fill up texts to one length: token ids and mask, each (n_texts, longest)."""
    longest = max(map(len, texts))
    n_known = loaded.model.get_input_embeddings().num_embeddings
    filler = loaded.pad_token_id if loaded.pad_token_id < n_known else 0
    padded = torch.full((len(texts), longest), filler, dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, text in enumerate(texts):
        part = slice(longest - len(text), None) if left else slice(len(text))
        padded[row, part] = torch.tensor(list(text))
        mask[row, part] = 1
    return padded.to(loaded.device), mask.to(loaded.device)
