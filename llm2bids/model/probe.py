"""What the modules of a model return: noted in a short generation, or worked out on shapes."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from llm2bids.model.hooks import first_tensor, forward_errors, hooked
from llm2bids.model.load import LoadedModel
from llm2bids.model.units import Site

# Size of the probe: tokens of each prompt, forward passes (prefill and decode steps).
N_TOKENS, N_STEPS = 5, 3

# Names under which models return what the next step goes on from (transformers renamed it).
CACHES = ("cache", "past_key_values", "cache_params")


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one call of a module returned."""

    tensor: Tensor  # kept: a freed tensor's address could be another one's a moment later
    alike: bool  # all prompts have the same values
    constant: bool  # all values are the same


# Calls of one module by forward pass.
Calls = dict[int, list[Call | None]]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Calls by module, in the order in which the modules first ran."""

    calls: Mapping[str, Calls]
    n_prompts: int
    lengths: list[int]  # positions that each forward pass was given


def _count_prompts(model: nn.Module) -> int:
    """Choose how many prompts probe a model: no number of its configuration.

    An output's axis of prompts is known by its length, and could be one of heads, streams or
    experts as well.
    """
    numbers: set[int] = set()
    config: Any = getattr(model, "config", None)
    pending: list[Any] = [config.to_dict()] if config is not None else []
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            pending.extend(value)
        elif isinstance(value, int):
            numbers.add(value)
    return next(number for number in chain((5, 7, 3), count(11, 2)) if number not in numbers)


def probe_model(loaded: LoadedModel, candidates: Mapping[str, nn.Module]) -> Probe:
    """Generate a few tokens and note what every candidate returns in each forward pass."""
    from transformers import GenerationConfig, LogitsProcessorList

    n_prompts = _count_prompts(loaded.model)
    lengths: list[int] = []
    tokens = plain_tokens(loaded, n_prompts, N_TOKENS + N_STEPS)

    def begin(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        lengths.append(given_tokens(args, kwargs).shape[1])

    def force(input_ids: Tensor, scores: Tensor) -> Tensor:
        return torch.zeros_like(scores).scatter_(1, tokens[:, N_TOKENS + len(lengths) - 1, None], 1)

    def generate() -> None:
        with loaded.model.register_forward_pre_hook(begin, with_kwargs=True):
            loaded.model.generate(
                tokens[:, :N_TOKENS],
                attention_mask=torch.ones_like(tokens[:, :N_TOKENS]),
                generation_config=GenerationConfig(max_new_tokens=N_STEPS, do_sample=False),
                logits_processor=LogitsProcessorList([force]),
            )

    with forward_errors(loaded):
        return _noted(loaded.model, candidates, lengths, generate, n_prompts)


def outline_model(model: nn.Module, candidates: Mapping[str, nn.Module], *, masked: bool) -> Probe:
    """Work out what every candidate would return, on a model that lies on the meta device.

    Nothing is computed: the forward passes of prefill and decode steps run on shapes alone.
    Positions are given once for all prompts, so that a module that only looks at positions
    shows by its batch axis of length 1.
    """
    n_prompts = _count_prompts(model)
    lengths: list[int] = []
    accepted = inspect.signature(model.forward).parameters
    last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}  # as generation asks

    def forward() -> None:
        state: dict[str, Any] = {}
        with torch.no_grad(), torch.device("meta"):
            for length in (N_TOKENS, *[1] * (N_STEPS - 1)):
                lengths.append(length)
                given = torch.zeros((n_prompts, length), dtype=torch.long)
                if masked:
                    state["attention_mask"] = torch.ones((n_prompts, sum(lengths)))
                output = model(input_ids=given, use_cache=True, **last, **state)
                # by the names that are there: asking for an old one warns in newer transformers
                state = {name: value for name, value in output.items() if name in CACHES}

    return _noted(model, candidates, lengths, forward, n_prompts)


def _noted(
    model: nn.Module,
    candidates: Mapping[str, nn.Module],
    lengths: list[int],
    run: Callable[[], None],
    n_prompts: int,
) -> Probe:
    """Run something under hooks that note what the candidates return."""
    names = list(candidates)
    calls: dict[str, Calls] = defaultdict(lambda: defaultdict(list))

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        tensor = first_tensor(output)
        call = None
        if tensor is not None and tensor.dim() > 0:
            if len(tensor) == 1 and next(module.parameters(), None) is not None:
                tensor = tensor.expand(n_prompts, *tensor.shape[1:])  # learned positions
            alike, constant = _patterns(n_prompts, module, tensor)
            call = Call(tensor=tensor, alike=alike, constant=constant)
        calls[name][len(lengths) - 1].append(call)

    sites = [Site(name=name, layer=None, role=name, width=1) for name in names]
    with hooked(model, sites, lambda index: partial(note, names[index])):
        run()
    return Probe(calls=dict(calls), n_prompts=n_prompts, lengths=lengths)


def given_tokens(args: Any, kwargs: Mapping[str, Any]) -> Tensor:
    """Take what a forward pass was given, (n_prompts, n_tokens, ...): token ids or embeddings."""
    for name in ("input_ids", "inputs_embeds"):
        if kwargs.get(name) is not None:
            return cast(Tensor, kwargs[name])
    return cast(Tensor, args[0])


def plain_tokens(loaded: LoadedModel, n_prompts: int, n_tokens: int) -> Tensor:
    """Draw tokens (n_prompts, n_tokens): none special, no two prompts alike at any position."""
    vocabulary = min(len(loaded.tokenizer), loaded.n_vocabulary)
    special = {*loaded.tokenizer.all_special_ids, *loaded.end_token_ids, loaded.pad_token_id}
    plain = [token for token in range(vocabulary) if token not in special]
    drawn = np.random.default_rng(0).permutation(plain)
    drawn = np.resize(drawn, n_prompts * n_tokens).reshape(n_prompts, n_tokens)
    return torch.from_numpy(drawn).to(loaded.device)


def _patterns(n_prompts: int, module: nn.Module, tensor: Tensor) -> tuple[bool, bool]:
    """Tell whether all prompts have the same values, and whether all values are the same."""
    if tensor.is_meta:  # of a shape alone: rotary positions
        alike = any("inv_freq" in name for name, _ in module.named_buffers()) or (
            "SinusoidalPositional" in type(module).__name__
        )
        return alike, False
    axis = tensor.shape.index(n_prompts) if n_prompts in tensor.shape else None
    alike = axis is not None and bool((tensor == tensor.narrow(axis, 0, 1)).all())
    return alike, tensor.numel() > 0 and bool((tensor == tensor.flatten()[0]).all())
