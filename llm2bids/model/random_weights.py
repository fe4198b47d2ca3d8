"""The same architecture with weights that were never trained: the control of every finding.

What a recording of such a model shows comes from the architecture, the tokenizer and the prompts,
and from nothing that was learned.
"""

import hashlib
from typing import Any

import torch

from llm2bids.exceptions import UsageError
from llm2bids.model.checkpoint import auto_class, language_model

LARGEST_SEED = 2**32 - 1
"""Largest seed of random weights."""


def check_seed(seed: int) -> int:
    """Check that the seed of random weights is a whole number from 0 to `LARGEST_SEED`."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise UsageError(
            f"random weights: seed {seed!r}; expected a whole number from 0 to {LARGEST_SEED}"
        )
    return seed


def random_model(
    config: Any, *, seed: int, dtype: torch.dtype | str = "auto", trust_remote_code: bool = False
) -> Any:
    """Build a model of a configuration with weights from transformers' own initialisation.

    They are drawn on the cpu in float32, so that a seed means the same weights on every device and
    in every type. `dtype` ``"auto"`` takes the configuration's.
    """
    auto = auto_class(config, type(config).__name__, trust_remote_code=trust_remote_code)
    if hasattr(config, "quantization_config"):  # a property of the trained weights' file
        del config.quantization_config
    stored = getattr(config, "dtype", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_seed(seed))
        model = auto.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    wanted = (stored or torch.float32) if dtype == "auto" else dtype
    return language_model(model).to(wanted)


def state_sha256(model: Any) -> str:
    """Hash a model's weights in memory: name, type, shape and bytes of each tensor, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
