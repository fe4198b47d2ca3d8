"""What the modules of a model return: noted in a short generation, or worked out on shapes."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm2bids.model.hooks import first_tensor, hooked
from llm2bids.model.load import LoadedModel
from llm2bids.model.units import Site

N_PROMPTS, N_TOKENS, N_STEPS = 2, 5, 3
"""Size of the probe: prompts, tokens of each, forward passes (prefill and decode steps)."""

_CACHES = ("cache", "past_key_values", "cache_params")
"""Names under which models return what the next step goes on from (transformers renamed it)."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one call of a module returned.

    Parameters
    ----------
    shape : tuple of int
        Shape of the output.
    floating : bool
        Whether it is floating point.
    alike : bool
        Whether both prompts have the same values.
    constant : bool
        Whether all values are the same.
    tensor : Tensor
        The output itself: a freed tensor's address could be another one's a moment later.
    """

    shape: tuple[int, ...]
    floating: bool
    alike: bool
    constant: bool
    tensor: Tensor


Calls = dict[int, list[Call | None]]
"""Calls of one module by forward pass."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Calls of all modules.

    Parameters
    ----------
    calls : mapping of str to Calls
        Calls by module name, in the order in which the modules first ran.
    lengths : list of int
        Positions that each forward pass was given.
    """

    calls: Mapping[str, Calls]
    lengths: list[int]


def probe_model(loaded: LoadedModel, candidates: Mapping[str, nn.Module]) -> Probe:
    """Generate a few tokens and note what every candidate returns in each forward pass.

    Parameters
    ----------
    loaded : LoadedModel
        The model.
    candidates : mapping of str to Module
        Modules to note, by name.

    Returns
    -------
    Probe
        Their calls.
    """
    from transformers import GenerationConfig

    lengths: list[int] = []
    tokens = _probe_tokens(loaded)

    def begin(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        lengths.append(_sequence_length(args, kwargs))

    def force(input_ids: Tensor, scores: Tensor) -> Tensor:
        return torch.zeros_like(scores).scatter_(1, tokens[:, N_TOKENS + len(lengths) - 1, None], 1)

    def generate() -> None:
        start = loaded.model.register_forward_pre_hook(begin, with_kwargs=True)
        try:
            loaded.model.generate(
                tokens[:, :N_TOKENS],
                attention_mask=torch.ones_like(tokens[:, :N_TOKENS]),
                generation_config=GenerationConfig(max_new_tokens=N_STEPS, do_sample=False),
                logits_processor=_processors(force),
            )
        finally:
            start.remove()

    return _noted(loaded.model, candidates, lengths, generate, lambda module, t: _describe(t))


def outline_model(model: nn.Module, candidates: Mapping[str, nn.Module]) -> Probe:
    """Work out what every candidate would return, on a model that lies on the meta device.

    Nothing is computed: the forward passes of prefill and decode steps run on shapes alone.
    Positions are given once for both prompts, so that a module that only looks at positions
    shows by its batch axis of length 1.

    Parameters
    ----------
    model : Module
        A causal language model on the meta device.
    candidates : mapping of str to Module
        Modules to note, by name.

    Returns
    -------
    Probe
        Their calls.
    """
    lengths: list[int] = []

    def forward() -> None:
        state: dict[str, Any] = {}
        with torch.no_grad(), torch.device("meta"):
            for length in (N_TOKENS, *[1] * (N_STEPS - 1)):
                lengths.append(length)
                given = torch.zeros((N_PROMPTS, length), dtype=torch.long)
                output = model(input_ids=given, use_cache=True, **state)
                # by the names that are there: asking for an old one warns in newer transformers
                state = {name: value for name, value in output.items() if name in _CACHES}

    return _noted(model, candidates, lengths, forward, _outlined)


def _noted(
    model: nn.Module,
    candidates: Mapping[str, nn.Module],
    lengths: list[int],
    run: Callable[[], None],
    describe: Callable[[nn.Module, Tensor | None], Call | None],
) -> Probe:
    """Run something under hooks that note what the candidates return."""
    names = list(candidates)
    calls: dict[str, Calls] = defaultdict(lambda: defaultdict(list))

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        calls[name][len(lengths) - 1].append(describe(module, first_tensor(output)))

    sites = [Site(name=name, layer=None, role=name, width=1) for name in names]
    with hooked(model, sites, lambda index: partial(note, names[index])):
        run()
    return Probe(calls=dict(calls), lengths=lengths)


def _sequence_length(args: Any, kwargs: dict[str, Any]) -> int:
    """Count the positions that a forward pass was given."""
    given = kwargs.get("input_ids")
    if given is None:
        given = kwargs.get("inputs_embeds")
    if given is None:
        given = args[0]
    return int(given.shape[1])


def _processors(process: Any) -> Any:
    from transformers import LogitsProcessorList

    return LogitsProcessorList([process])


def _probe_tokens(loaded: LoadedModel) -> Tensor:
    """Draw the probe's tokens: none special, no two prompts alike at any position."""
    vocabulary = min(len(loaded.tokenizer), loaded.model.get_input_embeddings().num_embeddings)
    special = {*loaded.tokenizer.all_special_ids, *loaded.end_token_ids, loaded.pad_token_id}
    plain = [token for token in range(vocabulary) if token not in special]
    drawn = np.random.default_rng(0).permutation(plain)
    wanted = N_PROMPTS * (N_TOKENS + N_STEPS)
    drawn = np.resize(drawn, wanted).reshape(N_PROMPTS, -1)
    return torch.from_numpy(drawn).to(loaded.device)


def _describe(tensor: Tensor | None) -> Call | None:
    if tensor is None or tensor.dim() == 0:
        return None
    return Call(
        shape=tuple(tensor.shape),
        floating=tensor.is_floating_point(),
        alike=len(tensor) == N_PROMPTS and bool((tensor[0] == tensor[1]).all()),
        constant=tensor.numel() > 0 and bool((tensor == tensor.flatten()[0]).all()),
        tensor=tensor,
    )


def _outlined(module: nn.Module, tensor: Tensor | None) -> Call | None:
    if tensor is None or tensor.dim() == 0:
        return None
    if len(tensor) == 1 and next(module.parameters(), None) is not None:
        # learned positions: generation gives every prompt its own
        tensor = tensor.expand(N_PROMPTS, *tensor.shape[1:])
    return Call(
        shape=tuple(tensor.shape),
        floating=tensor.is_floating_point(),
        alike=False,
        constant=False,
        tensor=tensor,
    )
