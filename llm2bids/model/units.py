"""Sites and units: the addresses of everything that is recorded. No torch in this file."""

import re
from dataclasses import dataclass, field, fields
from typing import Any

from llm2bids.exceptions import ModelError


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A router's scores of its experts, and what the model makes of them: what is recorded."""

    index: int  # among the tensors that the module returns
    function: str  # softmax, sigmoid or sqrtsoftplus, of each token's scores


@dataclass(frozen=True, kw_only=True)
class Site:
    """One hooked module output; a decoder layer itself is the residual stream after that layer."""

    name: str  # as in model.named_modules(), e.g. model.layers.5.mlp.down_proj
    layer: int | None  # None outside the decoder layers
    role: str  # module path within its layer; "residual" for a layer; the whole name outside
    width: int
    n_heads: int | None = None
    head_size: int | None = None  # n_heads * head_size == width
    # Axes of the output, found by the probe: (prompts, tokens, units) is 0 and 1, (prompts, heads,
    # tokens, units) 0 and 2; where both are 0, prompts and tokens are one axis. No part of the
    # site's identity: a site read back from a dataset equals the one of the model.
    token_axis: int = field(default=1, compare=False, repr=False)
    prompt_axis: int = field(default=0, compare=False, repr=False)
    scores: Scores | None = field(default=None, compare=False, repr=False)

    @property
    def joins_axes(self) -> bool:
        """Whether prompts and tokens are one axis of the output."""
        return self.token_axis == self.prompt_axis

    def identity(self) -> dict[str, str | int | None]:
        """Give what makes a site equal to another."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.compare}


class SiteError(ModelError):
    """One site cannot be read; the others may."""

    def __init__(self, site: Site, reason: str) -> None:
        super().__init__(f"site {site.name}: {reason}; leave it out with --sites")
        self.site, self.reason = site, reason


def parse_address(address: str) -> tuple[str, int]:
    """Split a unit's address into module name and index in the module's output.

    Examples
    --------
    >>> parse_address("model.layers.5.mlp.down_proj[123]")
    ('model.layers.5.mlp.down_proj', 123)
    """
    match = re.fullmatch(r"([^\[\]\s]+)\[(\d+)\]", str(address))
    if match is None:
        raise ModelError(
            f"unit address {address!r} is not of the form module.name[index]; "
            "`llm2bids sites` lists the modules"
        )
    return match[1], int(match[2])


# Heads are told from what names and sizes mean: a width that happens to be a multiple of the head
# size is no head. Where a configuration does not say how an output is laid out, it has no heads.
_QUERY = {"q_proj", "q_b_proj", "q_norm", "q_layernorm", "q_ln", "q_lin", "query", "wq"}
_SHARED = {
    *("k_proj", "k_norm", "k_layernorm", "k_ln", "k_lin", "key", "wk"),
    *("v_proj", "v_norm", "v_lin", "value", "wv"),
}
_FUSED = {"c_attn", "qkv", "qkv_proj", "query_key_value", "wqkv", "att_proj"}


def split_heads(
    config: Any, role: str, width: int, shape: tuple[int, ...], attention: Any = None
) -> tuple[int | None, int | None]:
    """Split one token's output of some shape into heads: their number and size, or None twice.

    `attention` is the module that the output belongs to: it knows its own sizes where they differ
    from layer to layer. A fused output keeps its own order (GPT-2 has all query heads first,
    GPT-NeoX has query, key and value of the first head first). The output projection mixes heads.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(num_attention_heads=9, num_key_value_heads=3, hidden_size=576)
    >>> split_heads(config, "self_attn.k_proj", 192, (192,))
    (3, 64)
    >>> split_heads(config, "self_attn.o_proj", 576, (576,))
    (None, None)
    """
    parents, _, last = role.lower().rpartition(".")
    n_heads = first_number(attention, "num_heads", "num_attention_heads") or first_number(
        config, "num_attention_heads"
    )
    if ("attn" not in parents and "attention" not in parents) or not n_heads:
        return None, None
    n_shared = _shared_heads(config, n_heads, attention)
    counts = {
        **dict.fromkeys(_QUERY, n_heads),
        **dict.fromkeys(_SHARED, n_shared),
        **dict.fromkeys(_FUSED, n_heads + 2 * n_shared),
    }
    count, size = counts.get(last), _head_size(config, n_heads, attention, last)
    if count is None or width != count * size or shape not in ((width,), (count, size)):
        return None, None
    return count, size


def _shared_heads(config: Any, n_heads: int, attention: Any) -> int:
    """Heads of keys and values."""
    groups = first_number(attention, "num_key_value_groups")
    if groups:
        return n_heads // groups
    if first_number(config, "new_decoder_architecture"):  # Falcon
        return first_number(config, "num_kv_heads") or n_heads
    if first_number(config, "multi_query"):  # Falcon, GPTBigCode
        return 1
    return first_number(config, "num_key_value_heads") or n_heads


def _head_size(config: Any, n_heads: int, attention: Any, last: str) -> int:
    latent = first_number(config, "qk_nope_head_dim"), first_number(config, "qk_rope_head_dim")
    if all(latent):  # DeepSeek: queries have a part with positions and one without
        return sum(latent) if last in ("q_proj", "q_b_proj") else 0
    return (
        first_number(attention, "head_dim", "attention_head_size")
        or first_number(config, "head_dim")
        or first_number(config, "hidden_size") // n_heads
    )


def first_number(holder: Any, *names: str) -> int:
    """Read the first attribute that is a number; 0 without."""
    for name in names:
        try:
            value = getattr(holder, name, None)
        except Exception:  # a configuration may refuse what differs from layer to layer
            continue
        if isinstance(value, int):
            return int(value)
    return 0
