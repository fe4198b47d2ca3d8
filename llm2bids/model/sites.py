"""Which module outputs can be recorded: found by running the model, not by its architecture.

A short generation (two prompts of five random tokens, then two decode steps) runs with a hook on
every candidate: modules without children, modules that hold weights of their own (fused experts),
and the decoder layers (the residual stream). What a candidate returned decides.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import permutations
from typing import Any

import numpy as np
from torch import Tensor, nn

from llm2bids.exceptions import ModelError
from llm2bids.model.heads import split_heads
from llm2bids.model.hooks import first_line, forward_errors, raising_module
from llm2bids.model.load import LoadedModel
from llm2bids.model.probe import (
    N_TOKENS,
    Calls,
    Probe,
    outline_model,
    plain_tokens,
    probe_model,
)
from llm2bids.model.routers import find_routers, find_scores
from llm2bids.model.units import Site

RESIDUAL = "residual"
"""Role of a decoder layer's own output."""


@dataclass(frozen=True, kw_only=True)
class SiteTable:
    """What can be recorded from a model, and what cannot."""

    sites: tuple[Site, ...]
    skipped: tuple[tuple[str, str], ...]
    head: tuple[Site, ...] = ()

    @property
    def n_units(self) -> int:
        """Number of units of `sites`, without the head."""
        return sum(site.width for site in self.sites)


def find_sites(loaded: LoadedModel) -> SiteTable:
    """Find every module output that can be recorded."""
    model = loaded.model
    candidates, skipped = _candidates(model)
    table = _judge_all(model, loaded.name, candidates, skipped, probe_model(loaded, candidates))
    with forward_errors(loaded):
        scores = find_scores(model, plain_tokens(loaded, 3, N_TOKENS))
    sites = tuple(replace(site, scores=scores.get(site.name)) for site in table.sites)
    return replace(table, sites=sites)


def outline_sites(model: Any, name: str) -> SiteTable:
    """Find what could be recorded from a model that has a configuration and no weights."""
    candidates, skipped = _candidates(model)
    failures: list[Exception] = []
    for masked in (False, True):  # some models look at values of a mask, and some where none is
        try:
            probe = outline_model(model, candidates, masked=masked)
            break
        except Exception as error:  # shapes alone do not suffice for every model
            failures.append(error)
    else:
        failure = failures[0]
        raise ModelError(
            f"model {name}: {raising_module(model, failure)} cannot be planned from its "
            f"configuration ({type(failure).__name__}: {first_line(failure)}); `llm2bids sites` "
            "finds its sites with weights"
        ) from failure
    return _judge_all(model, name, candidates, skipped, probe)


def _candidates(model: nn.Module) -> tuple[dict[str, nn.Module], list[tuple[str, str]]]:
    """List the modules whose output may be a site, and those that are left out beforehand."""
    layers_name, layers = find_layers(model)
    names = {f"{layers_name}.{index}" for index in range(len(layers))}
    routers = find_routers(model)
    skipped: list[tuple[str, str]] = []
    candidates: dict[str, nn.Module] = {}
    experts = ""
    for name, module in model.named_modules():
        if experts and name.startswith(experts):
            skipped.append((name, "runs on the tokens of each expert, in the experts' order"))
            continue
        if "expert" in name and any(p.dim() == 3 for p in module.parameters(recurse=False)):
            experts = name + "."  # one module for all experts, with their weights stacked
        leaf = next(module.children(), None) is None
        weighted = next(module.parameters(recurse=False), None) is not None
        if not name or not (leaf or weighted or name in names or name in routers):
            continue
        if isinstance(module, nn.Dropout | nn.Identity):
            skipped.append((name, "passes its input on unchanged"))
        else:
            candidates[name] = module
    return candidates, skipped


def _judge_all(
    model: Any,
    model_name: str,
    candidates: Mapping[str, nn.Module],
    skipped: list[tuple[str, str]],
    probe: Probe,
) -> SiteTable:
    """Decide on all candidates by what they returned."""
    layers_name, layers = find_layers(model)
    names = {f"{layers_name}.{index}": index for index in range(len(layers))}
    head, calls, routers = model.get_output_embeddings(), probe.calls, find_routers(model)
    sites: list[Site] = []
    heads: tuple[Site, ...] = ()
    leaves = {
        name: noted
        for name, noted in calls.items()
        if next(candidates[name].children(), None) is None
    }
    for name in [*calls, *(name for name in candidates if name not in calls)]:
        module = candidates[name]
        parts = any(other.startswith(f"{name}.") for other in calls) if name in routers else False
        if parts and next(module.parameters(recurse=False), None) is None:
            continue  # a part of it gives its scores
        verdict = _judge(module, calls.get(name, {}), probe, is_head=module is head)
        if isinstance(verdict, str):
            skipped.append((name, verdict))
            continue
        prompt_axis, token_axis, shape = verdict
        width = math.prod(shape)
        twin = None if name in leaves or name in names else _twin(calls[name], leaves)
        if twin is not None:
            skipped.append((name, f"passes on the output of {twin}"))
            continue
        layer, role = _layer_and_role(name, layers_name, names)
        site = Site(
            name=name, layer=layer, role=role, width=width,
            token_axis=token_axis, prompt_axis=prompt_axis,
        )  # fmt: skip
        if module is head:
            heads = (site,)
            continue
        parent = model.get_submodule(name.rpartition(".")[0])
        config = model.config.get_text_config()
        n_heads, head_size = split_heads(config, role, width, shape, parent)
        sites.append(replace(site, n_heads=n_heads, head_size=head_size))
    if not sites:
        reasons = Counter(reason for _, reason in skipped if not reason.startswith("passes its"))
        raise ModelError(
            f"model {model_name}: none of its {len(skipped)} modules with an output can be "
            f"recorded; most often: {', '.join(r for r, _ in reasons.most_common(1))}"
        )
    return SiteTable(sites=tuple(sites), skipped=tuple(skipped), head=heads)


def find_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the list of decoder layers."""
    config: Any = getattr(model, "config", None)
    depth = getattr(config.get_text_config(), "num_hidden_layers", None) if config else None
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    lists = _beside_embedding(model, lists)
    if not lists:
        raise ModelError(
            f"model {type(model).__name__}: no list of layers in its modules; expected a decoder "
            "with its layers in a ModuleList"
        )
    fitting = [(name, module) for name, module in lists if len(module) == depth] or lists
    return max(fitting, key=lambda item: sum(p.numel() for p in item[1].parameters()))


def _beside_embedding(
    model: nn.Module, lists: list[tuple[str, nn.ModuleList]]
) -> list[tuple[str, nn.ModuleList]]:
    """Leave the lists that lie in one module with the token embedding: towers for images do not."""
    get: Any = getattr(model, "get_input_embeddings", None)
    embedding = None if get is None else get()
    parent = next((name for name, module in model.named_modules() if module is embedding), "")
    while parent:
        parent = parent.rpartition(".")[0]
        near = [item for item in lists if item[0].startswith(parent + ".")] if parent else lists
        if near:
            return near
    return lists


def select_sites(table: SiteTable, patterns: Sequence[str]) -> tuple[Site, ...]:
    """Choose sites by presets and patterns."""
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
        matching = [site for site in table.sites if site.role == RESIDUAL]
    elif pattern == "attention":
        matching = [site for site in table.sites if _is_attention(site)]
    elif pattern == "mlp":
        matching = [site for site in table.sites if is_mlp(site)]
    else:
        matching = [
            site
            for site in (*table.sites, *table.head)
            if fnmatchcase(site.name, pattern) or fnmatchcase(site.role, pattern)
        ]
    if matching:
        return matching
    is_residual = pattern == RESIDUAL  # a layer is named by its number
    reasons = [
        (name, why)
        for name, why in table.skipped
        if (name.rpartition(".")[2].isdigit() if is_residual else fnmatchcase(name, pattern))
    ]
    if reasons:
        raise ModelError(
            f"site pattern {pattern!r} matches only modules that cannot be recorded: "
            f"{reasons[0][0]} ({reasons[0][1]}); `llm2bids sites` lists the others"
        )
    names = list({name: None for s in table.sites for name in (s.role, s.name)})
    presets = ["all", RESIDUAL, "attention", "mlp"]
    others = [name for name in dict.fromkeys(presets + names) if name != pattern]
    near = get_close_matches(pattern, others, n=3, cutoff=0.5)
    near = near or names[:3]
    raise ModelError(
        f"site pattern {pattern!r} matches no module; near it: {', '.join(near)}; expected "
        f"{', '.join(presets)} or a pattern on names or roles: `llm2bids sites` lists them"
    )


def _is_attention(site: Site) -> bool:
    parents = site.role.split(".")[:-1] if site.layer is not None else []
    return any("attn" in part or "attention" in part for part in parents)


def is_mlp(site: Site) -> bool:
    """Tell whether a site is part of a layer's feed-forward block."""
    if site.layer is None:
        return False
    *parents, last = site.role.split(".")
    words = ("mlp", "ffn", "feed_forward", "feedforward", "moe", "experts")
    # OPT and its kin keep the feed-forward block's parts directly in the layer.
    bare = last.startswith("fc") or last in ("activation_fn", "act_fn", "act")
    return any(word in part for part in parents for word in words) or (not parents and bare)


def _layer_and_role(name: str, layers_name: str, layers: dict[str, int]) -> tuple[int | None, str]:
    if name in layers:
        return layers[name], RESIDUAL
    if name.startswith(layers_name + "."):
        index, _, role = name.removeprefix(layers_name + ".").partition(".")
        return int(index), role
    return None, name


def _judge(
    module: nn.Module, calls: Calls, probe: Probe, *, is_head: bool
) -> tuple[int, int, tuple[int, ...]] | str:
    """Decide on one module: axes of prompts and tokens and one token's shape, or the reason."""
    lengths = probe.lengths
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
    axes = _find_axes([call.shape for call in seen], lengths, probe.n_prompts)
    if isinstance(axes, str):
        return axes
    owns = next(module.parameters(), None) is not None
    varies = not all(call.constant for call in seen)
    if not owns and varies and all(call.alike for call in seen):
        return "a table of positions: the same for any text"
    return axes


def _find_axes(
    shapes: list[tuple[int, ...]], lengths: list[int], n_prompts: int
) -> tuple[int, int, tuple[int, ...]] | str:
    """Find the axes of prompts and tokens that leave one shape behind in every forward pass."""
    if len({len(shape) for shape in shapes}) > 1:
        return f"number of axes varies: {shapes[0]} then {shapes[-1]}"
    for prompts, tokens in permutations(range(len(shapes[0])), 2):
        rest = {tuple(np.delete(np.array(shape, dtype=int), (prompts, tokens))) for shape in shapes}
        fits = all(
            shape[prompts] == n_prompts and shape[tokens] == length
            for shape, length in zip(shapes, lengths, strict=True)
        )
        if fits and len(rest) == 1:
            return prompts, tokens, tuple(map(int, rest.pop()))
    flat = {shape[1:] for shape in shapes}
    joined = all(
        shape[0] == n_prompts * length for shape, length in zip(shapes, lengths, strict=True)
    )
    if joined and len(flat) == 1:
        return 0, 0, flat.pop()
    if all(n_prompts not in shape for shape in shapes) and not joined:
        return f"output has no axis of prompts: {shapes[0]} for {n_prompts} prompts"
    return f"width varies or no axis of tokens: {shapes[0]} then {shapes[-1]}"


def _twin(calls: Calls, leaves: dict[str, Calls]) -> str | None:
    """Find the leaf whose very output a module with children passes on."""
    for name, other in leaves.items():
        last = other.get(0) or [None]
        mine = calls[0][0]
        theirs = last[-1]
        if mine is None or theirs is None or mine.shape != theirs.shape:
            continue
        if _same_memory(mine.tensor, theirs.tensor):
            return name
    return None


def _same_memory(first: Tensor, second: Tensor) -> bool:
    if first.is_meta:  # no addresses, but storages of their own
        same = first.untyped_storage()._cdata == second.untyped_storage()._cdata
        return bool(same and first.storage_offset() == second.storage_offset())
    return first.data_ptr() == second.data_ptr()
