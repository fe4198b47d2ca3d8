"""Which outputs are made of attention heads, from what names and sizes mean. No torch here.

A width that happens to be a multiple of the head size is no head: where the configuration does not
say how an output is laid out, it has no heads.
"""

from typing import Any

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
    n_heads = _number(attention, "num_heads", "num_attention_heads") or _number(
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
    groups = _number(attention, "num_key_value_groups")
    if groups:
        return n_heads // groups
    if _number(config, "new_decoder_architecture"):  # Falcon
        return _number(config, "num_kv_heads") or n_heads
    if _number(config, "multi_query"):  # Falcon, GPTBigCode
        return 1
    return _number(config, "num_key_value_heads") or n_heads


def _head_size(config: Any, n_heads: int, attention: Any, last: str) -> int:
    latent = _number(config, "qk_nope_head_dim"), _number(config, "qk_rope_head_dim")
    if all(latent):  # DeepSeek: queries have a part with positions and one without
        return sum(latent) if last in ("q_proj", "q_b_proj") else 0
    return (
        _number(attention, "head_dim", "attention_head_size")
        or _number(config, "head_dim")
        or _number(config, "hidden_size") // n_heads
    )


def _number(holder: Any, *names: str) -> int:
    """Read the first attribute that is a number; 0 without."""
    for name in names:
        try:
            value = getattr(holder, name, None)
        except Exception:  # a configuration may refuse what differs from layer to layer
            continue
        if isinstance(value, int):
            return int(value)
    return 0
