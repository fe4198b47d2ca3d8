"""The weights of a checkpoint: all that a model takes, and nothing that it leaves out."""

import atexit
import re
import shutil
import tempfile
from typing import Any

import torch

from llm2bids.exceptions import ModelError
from llm2bids.model.adapter import merge_adapter
from llm2bids.model.architecture import language_model
from llm2bids.model.place import Place
from llm2bids.model.quantization import quantization_of


def load_weights(
    place: Place, auto: Any, config: Any, *, dtype: torch.dtype | str, device: Any
) -> Any:
    """Load a model's weights onto a device, or by a device map, and merge an adapter into them."""
    from transformers.utils import logging

    keywords: dict[str, Any] = {}
    if not isinstance(device, torch.device):
        offloaded = tempfile.mkdtemp(prefix="llm2bids-offload-")
        atexit.register(shutil.rmtree, offloaded, ignore_errors=True)
        keywords = {"device_map": device, "offload_folder": offloaded}
    elif quantization_of(config) is not None:  # packed weights cannot be moved everywhere later
        keywords["device_map"] = {"": device}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of what does not fit is one message of ours
    try:
        model, info = auto.from_pretrained(
            place.path,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            # With peft installed, transformers would put an adapter that it sees on top of the
            # modules, which hides their outputs; it looks elsewhere, and the adapter is merged.
            adapter_kwargs={"subfolder": "no-adapter"},
            **keywords,
            **place.keywords,
        )
    finally:
        logging.set_verbosity(verbosity)
    _check_complete(place, model, info)
    return language_model(model if place.adapter is None else merge_adapter(model, place.adapter))


def _check_complete(place: Place, model: Any, info: dict[str, Any]) -> None:
    """Refuse weights that are missing, and those that the model would leave out."""
    wrong = sorted(info["mismatched_keys"])
    if wrong:
        name, stored, made = wrong[0]
        raise ModelError(
            f"model {place.source}: {len(wrong)} weights have other shapes in the checkpoint than "
            f"config.json says (first {name}: {tuple(stored)}, not {tuple(made)}); expected the "
            "config.json that was saved with the weights"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"model {place.source}: {len(missing)} weights are not in the checkpoint (first "
            f"{missing[0]}) and would be random; expected all weights of {type(model).__name__}"
        )
    left_out = sorted(name for name in info["unexpected_keys"] if not _can_be_left_out(name, model))
    if left_out:
        raise ModelError(
            f"model {place.source}: the checkpoint has {len(left_out)} weights that "
            f"{type(model).__name__} does not take with this configuration ("
            f"{', '.join(left_out[:5])}{' ...' if len(left_out) > 5 else ''}); what would be "
            "recorded is another model: expected the config.json that was saved with the weights"
        )


def _can_be_left_out(name: str, model: Any) -> bool:
    """Tell weights that a model makes itself, so that nothing is lost where it does not take them.

    What an architecture leaves out on purpose (heads that draft several tokens, for instance) it
    says itself: transformers does not report those.
    """
    module = name.rpartition(".")[0]
    if re.search(r"(^|\.)rotary\w*\.(inv_freq|cos_cached|sin_cached)$|\.rotary_emb\.", name):
        return True  # from the configuration
    if re.search(r"\.attn\.(masked_bias|bias)$|\.attention\.(masked_bias|bias)$", name):
        return not _has_biases(model, module)  # GPT-2's and NeoX's causal mask, kept in old files
    return name == "lm_head.weight" and bool(model.config.get_text_config().tie_word_embeddings)


def _has_biases(model: Any, module: str) -> bool:
    """Whether an attention module computes by a linear layer of its own, so with a bias."""
    try:
        return isinstance(model.get_submodule(module), torch.nn.Linear)
    except AttributeError:
        return True
