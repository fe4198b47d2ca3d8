"""The same architecture with weights that were never trained: the control of every finding.

What a recording of such a model shows comes from the architecture, the tokenizer and the prompts,
and from nothing that was learned.
"""

import hashlib
from typing import Any

import torch

from llm2bids.exceptions import UsageError

LARGEST_SEED = 2**32 - 1
"""Largest seed of random weights."""


def check_seed(seed: int) -> int:
    """Check the seed of random weights.

    Parameters
    ----------
    seed : int
        The seed.

    Returns
    -------
    int
        The seed.

    Raises
    ------
    UsageError
        If it is no whole number from 0 to `LARGEST_SEED`.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise UsageError(
            f"random weights: seed {seed!r}; expected a whole number from 0 to {LARGEST_SEED}"
        )
    return seed


def random_model(
    config: Any, *, seed: int, dtype: torch.dtype | str = "auto", trust_remote_code: bool = False
) -> Any:
    """Build a model of a configuration with weights from transformers' own initialisation.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The configuration of the trained model.
    seed : int
        Seed of the weights. They are drawn on the cpu in float32, so that a seed means the same
        weights on every device and in every type.
    dtype : torch.dtype or "auto"
        Type that the model runs in; ``"auto"`` takes the configuration's.
    trust_remote_code : bool
        Whether code that comes with the model may run.

    Returns
    -------
    transformers.PreTrainedModel
        The model.

    Raises
    ------
    UsageError
        If `seed` is not usable.
    """
    from transformers import AutoModelForCausalLM

    if hasattr(config, "quantization_config"):  # a property of the trained weights' file
        del config.quantization_config
    stored = getattr(config, "dtype", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_seed(seed))
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    wanted = (stored or torch.float32) if dtype == "auto" else dtype
    return model.to(wanted)


def state_sha256(model: Any) -> str:
    """Hash the weights that a model has in memory.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model.

    Returns
    -------
    str
        SHA-256 over name, type, shape and bytes of each tensor, sorted by name: 64 hexadecimal
        digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def random_name(name: str, seed: int) -> str:
    """Name a model with random weights.

    Parameters
    ----------
    name : str
        Name of the trained model.
    seed : int
        Seed of the weights.

    Returns
    -------
    str
        What every file of a dataset calls it.

    Examples
    --------
    >>> random_name("SmolLM2-135M-Instruct", 3)
    'SmolLM2-135M-Instruct with random weights (seed 3)'
    """
    return f"{name} with random weights (seed {seed})"


def random_label(label: str, seed: int) -> str:
    """Label the space of a model with random weights.

    Parameters
    ----------
    label : str
        Label of the trained model's space.
    seed : int
        Seed of the weights.

    Returns
    -------
    str
        A BIDS label of its own, as the calibration is another.

    Examples
    --------
    >>> random_label("SmolLM2135M", 3)
    'SmolLM2135MRandom3'
    """
    return f"{label}Random{seed}"
