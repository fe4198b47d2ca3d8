"""Which outputs are made of attention heads. No torch in this file."""

import re
from typing import Any

_SEPARATE = re.compile(r"(^|_)(q|k|v|query|key|value)(_|$|proj|norm|lin)", re.IGNORECASE)
_FUSED = re.compile(r"c_attn|qkv|query_key_value|in_proj|att_proj", re.IGNORECASE)


def split_heads(
    config: Any, role: str, width: int, shape: tuple[int, ...]
) -> tuple[int | None, int | None]:
    """Split an output's width into attention heads.

    An output that comes with an axis of heads (Qwen3's ``q_norm``) is split as it is. Projections
    to queries, keys or values, separate or fused, are split where the width is the number of heads
    (of key-value heads; of both, for a fused one) times the head size that the configuration
    states. A fused output keeps its own order: GPT-2 has all query heads first, GPT-NeoX has query,
    key and value of the first head first. The output projection mixes heads, so it has none.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The text configuration.
    role : str
        Module path within its layer.
    width : int
        Number of units.
    shape : tuple of int
        Shape of one token's output.

    Returns
    -------
    tuple of (int or None, int or None)
        Number of heads and units per head, both None without heads.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(num_attention_heads=9, num_key_value_heads=3, hidden_size=576)
    >>> split_heads(config, "self_attn.k_proj", 192, (192,))
    (3, 64)
    >>> split_heads(config, "self_attn.o_proj", 576, (576,))
    (None, None)
    """
    parents, _, last = role.rpartition(".")
    attention = "attn" in parents.lower() or "attention" in parents.lower()
    if not attention:
        return None, None
    if len(shape) == 2:
        return shape[0], shape[1]
    n_heads = getattr(config, "num_attention_heads", None)
    if not isinstance(n_heads, int) or n_heads < 1:
        return None, None
    size = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // n_heads
    n_shared = getattr(config, "num_key_value_heads", None) or n_heads
    if getattr(config, "multi_query", False):  # Falcon, GPTBigCode
        n_shared = 1
    fused = bool(_FUSED.search(last))
    counts = {n_heads + 2 * n_shared, 3 * n_heads} if fused else {n_heads, n_shared}
    if (fused or _SEPARATE.search(last)) and size and width % size == 0:
        count = width // size
        if count in counts:
            return count, size
    return None, None
