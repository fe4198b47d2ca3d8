"""Which module outputs can be recorded: found by running the model, not by its architecture.

A short generation (two prompts of five random tokens, then two decode steps) runs with a hook on
every candidate: modules without children, modules that hold weights of their own (fused experts),
and the decoder layers (the residual stream). What a candidate returned decides.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from itertools import permutations
from typing import Any

from torch import nn

from llm2bids.exceptions import ModelError, first_line
from llm2bids.model.hooks import forward_errors, raising_module
from llm2bids.model.load import LoadedModel
from llm2bids.model.probe import N_TOKENS, Calls, Probe, outline_model, plain_tokens, probe_model
from llm2bids.model.routers import find_routers, find_scores
from llm2bids.model.units import Site, split_heads

# Role of a decoder layer's own output.
RESIDUAL = "residual"


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

    def without(self, reasons: Mapping[str, str]) -> "SiteTable":
        """Leave sites out, by name, with the reason of each."""
        sites, head = (
            tuple(site for site in sites if site.name not in reasons)
            for sites in (self.sites, self.head)
        )
        return SiteTable(sites=sites, skipped=(*self.skipped, *reasons.items()), head=head)


def find_sites(loaded: LoadedModel) -> SiteTable:
    """Find every module output that can be recorded."""
    table = _site_table(loaded.model, loaded.name, partial(probe_model, loaded))
    with forward_errors(loaded):
        scores = find_scores(loaded.model, plain_tokens(loaded, 3, N_TOKENS))
    sites = tuple(replace(site, scores=scores.get(site.name)) for site in table.sites)
    return replace(table, sites=sites)


def outline_sites(model: Any, name: str) -> SiteTable:
    """Find what could be recorded from a model that has a configuration and no weights."""

    def run(candidates: Mapping[str, nn.Module]) -> Probe:
        try:  # some models look at values of a mask, and some where none is
            return outline_model(model, candidates, masked=False)
        except Exception as error:  # shapes alone do not suffice for every model
            with suppress(Exception):
                return outline_model(model, candidates, masked=True)
            raise ModelError(
                f"model {name}: {raising_module(model, error)} cannot be planned from its "
                f"configuration ({type(error).__name__}: {first_line(error)}); `llm2bids sites` "
                "finds its sites with weights"
            ) from error

    return _site_table(model, name, run)


def _site_table(
    model: Any, model_name: str, run: Callable[[Mapping[str, nn.Module]], Probe]
) -> SiteTable:
    """Decide on every module whose output may be a site by what it returns when the model runs."""
    layers_name, layers = find_layers(model)
    names = {f"{layers_name}.{index}": index for index in range(len(layers))}
    routers, head = find_routers(model), model.get_output_embeddings()
    candidates, skipped = _candidates(model, {*names, *routers})
    probe = run(candidates)
    calls = probe.calls
    leaves = {name: calls[name] for name in calls if _is_leaf(candidates[name])}
    sites: list[Site] = []
    heads: tuple[Site, ...] = ()
    for name in dict.fromkeys([*calls, *candidates]):
        module = candidates[name]
        in_parts = name in routers and any(other.startswith(f"{name}.") for other in calls)
        if in_parts and not _has_weights(module):
            continue  # a part of it gives its scores
        verdict = _judge(module, calls.get(name, {}), probe, is_head=module is head)
        if isinstance(verdict, str):
            skipped.append((name, verdict))
            continue
        if name not in leaves and name not in names and (twin := _twin(calls[name], leaves)):
            skipped.append((name, f"passes on the output of {twin}"))
            continue
        prompt_axis, token_axis, shape = verdict
        layer, role = _layer_and_role(name, layers_name, names)
        width = math.prod(shape)
        axes: dict[str, Any] = {"token_axis": token_axis, "prompt_axis": prompt_axis}
        if module is head:
            heads = (Site(name=name, layer=layer, role=role, width=width, **axes),)
            continue
        parent = model.get_submodule(name.rpartition(".")[0])
        config = model.config.get_text_config()
        n_heads, head_size = split_heads(config, role, width, shape, parent)
        axes |= {"n_heads": n_heads, "head_size": head_size}
        sites.append(Site(name=name, layer=layer, role=role, width=width, **axes))
    if not sites:
        reasons = Counter(reason for _, reason in skipped if not reason.startswith("passes its"))
        raise ModelError(
            f"model {model_name}: none of its {len(skipped)} modules with an output can be "
            f"recorded; most often: {', '.join(r for r, _ in reasons.most_common(1))}"
        )
    return SiteTable(sites=tuple(sites), skipped=tuple(skipped), head=heads)


def _candidates(
    model: nn.Module, wanted: Collection[str]
) -> tuple[dict[str, nn.Module], list[tuple[str, str]]]:
    """List leaves, modules with weights and those `wanted`; and what is left out beforehand."""
    skipped: list[tuple[str, str]] = []
    candidates: dict[str, nn.Module] = {}
    experts = ""
    for name, module in model.named_modules():
        if experts and name.startswith(experts):
            skipped.append((name, "runs on the tokens of each expert, in the experts' order"))
            continue
        if "expert" in name and any(p.dim() == 3 for p in module.parameters(recurse=False)):
            experts = name + "."  # one module for all experts, with their weights stacked
        if isinstance(module, nn.Dropout | nn.Identity):
            skipped.append((name, "passes its input on unchanged"))
        elif name and (_is_leaf(module) or _has_weights(module) or name in wanted):
            candidates[name] = module
    return candidates, skipped


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def find_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the list of decoder layers."""
    config: Any = getattr(model, "config", None)
    depth = getattr(config.get_text_config(), "num_hidden_layers", None) if config else None
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise ModelError(
            f"model {type(model).__name__}: no list of layers in its modules; expected a decoder "
            "with its layers in a ModuleList"
        )
    # those that lie in one module with the token embedding: towers for images do not
    get: Any = getattr(model, "get_input_embeddings", lambda: None)
    embedding = get()
    path = next((name for name, module in model.named_modules() if module is embedding), "")
    parents = path.split(".")[:-1]
    for n_parents in range(len(parents), 0, -1):
        prefix = ".".join(parents[:n_parents]) + "."
        if near := [item for item in lists if item[0].startswith(prefix)]:
            lists = near
            break
    fitting = [(name, module) for name, module in lists if len(module) == depth] or lists
    return max(fitting, key=lambda item: sum(p.numel() for p in item[1].parameters()))


def select_sites(table: SiteTable, patterns: Sequence[str]) -> tuple[Site, ...]:
    """Choose sites by presets and patterns."""
    wanted = [part.strip() for pattern in patterns for part in pattern.split(",") if part.strip()]
    if wanted and all(pattern.startswith("!") for pattern in wanted):
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
    presets: dict[str, Callable[[Site], bool]] = {
        "all": lambda site: True,
        RESIDUAL: lambda site: site.role == RESIDUAL,
        "attention": _is_attention,
        "mlp": is_mlp,
    }
    if pattern in presets:
        matching = [site for site in table.sites if presets[pattern](site)]
    else:
        matching = [
            site
            for site in (*table.sites, *table.head)
            if fnmatchcase(site.name, pattern) or fnmatchcase(site.role, pattern)
        ]
    if matching:
        return matching
    for name, reason in table.skipped:
        is_layer = pattern == RESIDUAL and name.rpartition(".")[2].isdigit()  # by its number
        if is_layer or fnmatchcase(name, pattern):
            raise ModelError(
                f"site pattern {pattern!r} matches only modules that cannot be recorded: "
                f"{name} ({reason}); `llm2bids sites` lists the others"
            )
    names = list(dict.fromkeys(name for s in table.sites for name in (s.role, s.name)))
    others = [name for name in dict.fromkeys([*presets, *names]) if name != pattern]
    near = get_close_matches(pattern, others, n=3, cutoff=0.5) or names[:3]
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
    if not all(call.tensor.is_floating_point() for call in seen):
        return "output is not floating point"
    shapes = [tuple(call.tensor.shape) for call in seen]
    if is_head:  # generation asks for the last position's logits only
        lengths = [shape[1] for shape in shapes]
    axes = _find_axes(shapes, lengths, probe.n_prompts)
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
    passes = list(zip(shapes, lengths, strict=True))
    for prompts, tokens in permutations(range(len(shapes[0])), 2):
        rest = {
            tuple(size for axis, size in enumerate(shape) if axis not in (prompts, tokens))
            for shape in shapes
        }
        fits = all(s[prompts] == n_prompts and s[tokens] == length for s, length in passes)
        if fits and len(rest) == 1:
            return prompts, tokens, rest.pop()
    flat = {shape[1:] for shape in shapes}
    joined = all(shape[0] == n_prompts * length for shape, length in passes)
    if joined and len(flat) == 1:
        return 0, 0, flat.pop()
    if all(n_prompts not in shape for shape in shapes) and not joined:
        return f"output has no axis of prompts: {shapes[0]} for {n_prompts} prompts"
    return f"width varies or no axis of tokens: {shapes[0]} then {shapes[-1]}"


def _twin(calls: Calls, leaves: dict[str, Calls]) -> str | None:
    """Find the leaf whose very output a module with children passes on."""
    own = calls[0][0]
    for name, other in leaves.items():
        last = (other.get(0) or [None])[-1]
        if own is None or last is None or own.tensor.shape != last.tensor.shape:
            continue
        mine, theirs = own.tensor, last.tensor
        if not mine.is_meta:
            same = mine.data_ptr() == theirs.data_ptr()
        else:  # no addresses, but storages of their own
            storages = (tensor.untyped_storage()._cdata for tensor in (mine, theirs))
            same = len(set(storages)) == 1 and mine.storage_offset() == theirs.storage_offset()
        if same:
            return name
    return None
