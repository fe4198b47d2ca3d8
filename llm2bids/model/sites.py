"""Which module outputs can be recorded: found by running the model, not by its architecture.

A short generation (two prompts of five random tokens, then two decode steps) runs with a hook on
every candidate: modules without children, modules that hold weights of their own (fused experts),
and the decoder layers (the residual stream). What a candidate returned decides.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm2bids.exceptions import ModelError
from llm2bids.model.heads import split_heads
from llm2bids.model.hooks import first_tensor, hooked
from llm2bids.model.load import LoadedModel
from llm2bids.model.units import Site

N_PROMPTS, N_TOKENS, N_STEPS = 2, 5, 3
"""Size of the probe: prompts, tokens of each, forward passes (prefill and decode steps)."""

RESIDUAL = "residual"
"""Role of a decoder layer's own output."""


@dataclass(frozen=True, kw_only=True)
class SiteTable:
    """What can be recorded from a model, and what cannot.

    Parameters
    ----------
    sites : tuple of Site
        In the order in which the modules run.
    skipped : tuple of (str, str)
        Module name and the reason, in words.
    head : tuple of Site
        The vocabulary head: recorded only when a pattern names it.
    """

    sites: tuple[Site, ...]
    skipped: tuple[tuple[str, str], ...]
    head: tuple[Site, ...] = ()

    @property
    def n_units(self) -> int:
        """Number of units of `sites`, without the head."""
        return sum(site.width for site in self.sites)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What one call of a module returned."""

    shape: tuple[int, ...]
    floating: bool
    alike: bool
    constant: bool
    tensor: Tensor  # kept: a freed tensor's address could be another one's a moment later


_Calls = dict[int, list[_Call | None]]
"""Calls of one module by forward pass."""


def find_sites(loaded: LoadedModel) -> SiteTable:
    """Find every module output that can be recorded.

    Parameters
    ----------
    loaded : LoadedModel
        The model.

    Returns
    -------
    SiteTable
        Sites in running order; skipped modules with reasons; the vocabulary head apart.

    Raises
    ------
    ModelError
        If no module output can be recorded.
    """
    model = loaded.model
    layers_name, layers = find_layers(model)
    names = {f"{layers_name}.{index}": index for index in range(len(layers))}
    head = model.get_output_embeddings()
    skipped: list[tuple[str, str]] = []
    candidates: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        leaf = next(module.children(), None) is None
        weighted = next(module.parameters(recurse=False), None) is not None
        if not name or not (leaf or weighted or name in names):
            continue
        if isinstance(module, nn.Dropout | nn.Identity):
            skipped.append((name, "passes its input on unchanged"))
        else:
            candidates[name] = module
    calls, order, lengths = _probe(loaded, candidates)
    found: list[Site] = []
    heads: tuple[Site, ...] = ()
    leaves = {
        name: noted
        for name, noted in calls.items()
        if next(candidates[name].children(), None) is None
    }
    for name in order + [name for name in candidates if name not in calls]:
        module = candidates[name]
        verdict = _judge(module, calls.get(name, {}), lengths, is_head=module is head)
        if isinstance(verdict, str):
            skipped.append((name, verdict))
            continue
        width, axis, shape = verdict
        twin = None if name in leaves or name in names else _twin(calls[name], leaves)
        if twin is not None:
            skipped.append((name, f"passes on the output of {twin}"))
            continue
        layer, role = _place(name, layers_name, names)
        site = Site(name=name, layer=layer, role=role, width=width, token_axis=axis)
        if module is head:
            heads = (site,)
            continue
        n_heads, head_size = split_heads(model.config.get_text_config(), role, width, shape)
        found.append(replace(site, n_heads=n_heads, head_size=head_size))
    if not found:
        raise ModelError(f"model {loaded.name}: no module output could be recorded: {skipped[:5]}")
    return SiteTable(sites=tuple(found), skipped=tuple(skipped), head=heads)


def find_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the list of decoder layers.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model.

    Returns
    -------
    tuple of (str, ModuleList)
        Name and module: of the module lists with ``config.num_hidden_layers`` elements (of all
        lists, where none has that length) the one with the most weights.

    Raises
    ------
    ModelError
        If the model has no list of modules.
    """
    config: Any = getattr(model, "config", None)
    depth = getattr(config.get_text_config(), "num_hidden_layers", None) if config else None
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise ModelError(
            f"model {type(model).__name__}: no list of layers in its modules; expected a decoder "
            "with its layers in a ModuleList"
        )
    fitting = [(name, module) for name, module in lists if len(module) == depth] or lists
    return max(fitting, key=lambda item: sum(p.numel() for p in item[1].parameters()))


def select_sites(table: SiteTable, patterns: Sequence[str]) -> tuple[Site, ...]:
    """Choose sites by presets and patterns.

    Parameters
    ----------
    table : SiteTable
        What the model offers.
    patterns : sequence of str
        Each one or several, with commas between: ``all`` (everything but the vocabulary head),
        ``residual``, ``attention``, ``mlp``, or a shell pattern on the module's name or role
        (``*.down_proj``, ``model.layers.[0-3].*``). A leading ``!`` takes sites away:
        ``all,!residual``.

    Returns
    -------
    tuple of Site
        In the order of the table, each once.

    Raises
    ------
    ModelError
        If a pattern matches nothing, or nothing remains.
    """
    wanted = [part.strip() for pattern in patterns for part in pattern.split(",") if part.strip()]
    if all(pattern.startswith("!") for pattern in wanted):
        wanted.insert(0, "all")
    chosen: set[str] = set()
    for pattern in wanted:
        matched = {site.name for site in _match(table, pattern.removeprefix("!"))}
        chosen = chosen - matched if pattern.startswith("!") else chosen | matched
    sites = tuple(site for site in (*table.sites, *table.head) if site.name in chosen)
    if not sites:
        raise ModelError(f"sites {','.join(patterns)!r}: no site remains; expected at least one")
    return sites


def _match(table: SiteTable, pattern: str) -> list[Site]:
    if pattern == "all":
        return list(table.sites)
    if pattern == RESIDUAL:
        found = [site for site in table.sites if site.role == RESIDUAL]
    elif pattern == "attention":
        found = [site for site in table.sites if _is_attention(site)]
    elif pattern == "mlp":
        found = [site for site in table.sites if _is_mlp(site)]
    else:
        found = [
            site
            for site in (*table.sites, *table.head)
            if fnmatchcase(site.name, pattern) or fnmatchcase(site.role, pattern)
        ]
    if found:
        return found
    reasons = [(n, why) for n, why in table.skipped if fnmatchcase(n, pattern)]
    if reasons:
        raise ModelError(
            f"site pattern {pattern!r} matches only modules that cannot be recorded: "
            f"{reasons[0][0]} ({reasons[0][1]}); `llm2bids sites` lists the others"
        )
    names = list({name: None for s in table.sites for name in (s.role, s.name)})
    presets = ["all", RESIDUAL, "attention", "mlp"]
    near = get_close_matches(pattern, list(dict.fromkeys(presets + names)), n=3, cutoff=0.5)
    near = near or names[:3]
    raise ModelError(
        f"site pattern {pattern!r} matches no module; near it: {', '.join(near)}; expected "
        f"{', '.join(presets)} or a pattern on names or roles: `llm2bids sites` lists them"
    )


def _is_attention(site: Site) -> bool:
    parents = site.role.split(".")[:-1] if site.layer is not None else []
    return any("attn" in part or "attention" in part for part in parents)


def _is_mlp(site: Site) -> bool:
    if site.layer is None:
        return False
    *parents, last = site.role.split(".")
    words = ("mlp", "ffn", "feed_forward", "feedforward", "moe", "experts")
    # OPT and its kin keep the feed-forward block's parts directly in the layer.
    bare = last.startswith("fc") or last in ("activation_fn", "act_fn", "act")
    return any(word in part for part in parents for word in words) or (not parents and bare)


def _place(name: str, layers_name: str, layers: dict[str, int]) -> tuple[int | None, str]:
    if name in layers:
        return layers[name], RESIDUAL
    if name.startswith(layers_name + "."):
        index, _, role = name.removeprefix(layers_name + ".").partition(".")
        return int(index), role
    return None, name


def _probe(
    loaded: LoadedModel, candidates: dict[str, nn.Module]
) -> tuple[dict[str, _Calls], list[str], list[int]]:
    """Generate a few tokens and note what every candidate returns in each forward pass."""
    from transformers import GenerationConfig

    names = list(candidates)
    calls: dict[str, _Calls] = defaultdict(lambda: defaultdict(list))
    lengths: list[int] = []
    tokens = _probe_tokens(loaded)

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        calls[name][len(lengths) - 1].append(_describe(first_tensor(output)))

    def begin(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        lengths.append(_sequence_length(args, kwargs))

    def force(input_ids: Tensor, scores: Tensor) -> Tensor:
        return torch.zeros_like(scores).scatter_(1, tokens[:, N_TOKENS + len(lengths) - 1, None], 1)

    sites = [Site(name=name, layer=None, role=name, width=1) for name in names]
    start = loaded.model.register_forward_pre_hook(begin, with_kwargs=True)
    try:
        with hooked(loaded.model, sites, lambda index: partial(note, names[index])):
            loaded.model.generate(
                tokens[:, :N_TOKENS],
                attention_mask=torch.ones_like(tokens[:, :N_TOKENS]),
                generation_config=GenerationConfig(max_new_tokens=N_STEPS, do_sample=False),
                logits_processor=_processors(force),
            )
    finally:
        start.remove()
    return dict(calls), list(calls), lengths


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


def _describe(tensor: Tensor | None) -> _Call | None:
    if tensor is None or tensor.dim() == 0:
        return None
    return _Call(
        shape=tuple(tensor.shape),
        floating=tensor.is_floating_point(),
        alike=len(tensor) == N_PROMPTS and bool((tensor[0] == tensor[1]).all()),
        constant=tensor.numel() > 0 and bool((tensor == tensor.flatten()[0]).all()),
        tensor=tensor,
    )


def _judge(
    module: nn.Module, calls: _Calls, lengths: list[int], *, is_head: bool
) -> tuple[int, int, tuple[int, ...]] | str:
    """Decide on one module: width, token axis and shape of one token, or the reason against it."""
    counts = [len(calls.get(step, [])) for step in range(len(lengths))]
    if counts[0] != 1 or len(set(counts)) > 1:
        if not any(counts):
            return "not called"
        if not any(counts[1:]):
            return "not called when decoding"
        return f"called {' + '.join(map(str, counts))} times in {len(counts)} forward passes"
    noted = [calls[step][0] for step in range(len(lengths))]
    seen = [call for call in noted if call is not None]
    if len(seen) < len(noted):
        return "output is not a tensor"
    if not all(call.floating for call in seen):
        return "output is not floating point"
    if is_head:  # generation asks for the last position's logits only
        lengths = [call.shape[1] for call in seen]
    found = _find_axes([call.shape for call in seen], lengths)
    if isinstance(found, str):
        return found
    owns = next(module.parameters(), None) is not None
    varies = not all(call.constant for call in seen)
    if not owns and varies and all(call.alike for call in seen):
        return "a table of positions: the same for any text"
    return found


def _find_axes(
    shapes: list[tuple[int, ...]], lengths: list[int]
) -> tuple[int, int, tuple[int, ...]] | str:
    """Find the token axis that leaves the same shape behind in every forward pass."""
    if len({len(shape) for shape in shapes}) > 1:
        return f"number of axes varies: {shapes[0]} then {shapes[-1]}"
    for axis in range(1, len(shapes[0])):
        rest = {shape[1:axis] + shape[axis + 1 :] for shape in shapes}
        fits = all(
            shape[0] == N_PROMPTS and shape[axis] == length
            for shape, length in zip(shapes, lengths, strict=True)
        )
        if fits and len(rest) == 1:
            token = rest.pop()
            return int(np.prod(token, dtype=int)), axis, token
    flat = {shape[1:] for shape in shapes}
    joined = all(
        shape[0] == N_PROMPTS * length for shape, length in zip(shapes, lengths, strict=True)
    )
    if joined and len(flat) == 1:
        token = flat.pop()
        return int(np.prod(token, dtype=int)), 0, token
    if all(shape[0] != N_PROMPTS for shape in shapes) and not joined:
        return f"output has no axis of prompts: {shapes[0]} for {N_PROMPTS} prompts"
    return f"width varies or no axis of tokens: {shapes[0]} then {shapes[-1]}"


def _twin(calls: _Calls, leaves: dict[str, _Calls]) -> str | None:
    """Find the leaf whose very output a module with children passes on."""
    for name, other in leaves.items():
        last = other.get(0) or [None]
        mine = calls[0][0]
        theirs = last[-1]
        if mine is None or theirs is None or mine.shape != theirs.shape:
            continue
        if mine.tensor.data_ptr() == theirs.tensor.data_ptr():
            return name
    return None
