"""From a configuration to a model: its class, and all weights that it takes, none left out.

Or weights that were never trained, the control of every finding: what a recording of such a model
shows comes from the architecture, the tokenizer and the prompts, and from nothing that was learned.
"""

import atexit
import hashlib
import re
import shutil
import tempfile
from typing import Any

import torch

from llm2bids.exceptions import ModelError, UsageError
from llm2bids.model.adapter import merge_adapter
from llm2bids.model.location import Location

# Largest seed of random weights.
LARGEST_SEED = 2**32 - 1


def load_weights(
    location: Location, auto: Any, config: Any, *, dtype: torch.dtype | str, device: Any
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
            location.path,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            # With peft installed, transformers would put an adapter that it sees on top of the
            # modules, which hides their outputs; it looks elsewhere, and the adapter is merged.
            adapter_kwargs={"subfolder": "no-adapter"},
            **keywords,
            **location.keywords,
        )
    finally:
        logging.set_verbosity(verbosity)
    _check_complete(location, model, info)
    return language_model(
        model if location.adapter is None else merge_adapter(model, location.adapter)
    )


def _check_complete(location: Location, model: Any, info: dict[str, Any]) -> None:
    """Refuse weights that are missing, and those that the model would leave out."""
    wrong = sorted(info["mismatched_keys"])
    if wrong:
        name, stored, made = wrong[0]
        raise ModelError(
            f"model {location.source}: {len(wrong)} weights have other shapes in the checkpoint "
            f"than config.json says (first {name}: {tuple(stored)}, not {tuple(made)}); expected "
            "the config.json that was saved with the weights"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"model {location.source}: {len(missing)} weights are not in the checkpoint (first "
            f"{missing[0]}) and would be random; expected all weights of {type(model).__name__}"
        )
    left_out = sorted(name for name in info["unexpected_keys"] if not _can_be_left_out(name, model))
    if left_out:
        raise ModelError(
            f"model {location.source}: the checkpoint has {len(left_out)} weights that "
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
        attention = dict(model.named_modules()).get(module)
        # GPT-2's and NeoX's causal mask, kept in old files; a linear layer's bias is no mask
        return attention is not None and not isinstance(attention, torch.nn.Linear)
    return name == "lm_head.weight" and bool(model.config.get_text_config().tie_word_embeddings)


def auto_class(config: Any, source: str, *, trust_remote_code: bool = False) -> Any:
    """Choose the auto class that makes a configuration's model; what is not causal is refused.

    A model of text and images (Gemma 3, Qwen2.5-VL, Llava, ...) is made whole: given text alone,
    its language model runs as its own code runs it, and its vision tower is never called.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto import modeling_auto as names

    remote = getattr(config, "auto_map", None) or {}
    if trust_remote_code and "AutoModelForCausalLM" in remote:
        return AutoModelForCausalLM
    stored = set(getattr(config, "architectures", None) or [])
    what = ", ".join(sorted(stored)) or type(config).__name__
    wrappers = set(names.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values())
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(_refusal(source, what))
    # A checkpoint trained without a causal head (BertForMaskedLM) must not be given one.
    is_causal = not stored or stored & set(names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if is_causal and type(config) in AutoModelForCausalLM._model_mapping:
        masked = config.model_type in names.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        if masked and getattr(config, "is_decoder", None) is False:
            raise ModelError(
                f"model {source}: {what} with is_decoder false reads in both directions, so each "
                "token would see those after it; expected a causal language model (its own "
                "configuration says is_decoder true)"
            )
        return AutoModelForCausalLM
    is_wrapper = not stored or stored & wrappers
    if is_wrapper and type(config) in AutoModelForImageTextToText._model_mapping:
        return AutoModelForImageTextToText
    if any(name.endswith(("ForCausalLM", "ForConditionalGeneration")) for name in stored):
        raise ModelError(
            f"model {source}: {what} with a {type(config).__name__} is none of the models that "
            "transformers' AutoModelForCausalLM and AutoModelForImageTextToText make; expected one "
            "of those"
        )
    raise ModelError(_refusal(source, what))


def language_model(model: Any) -> Any:
    """Take the causal model that some wrappers hold whole (Llama 4, BLIP-2), else the model itself.

    Their own forward passes expect images.
    """
    part = getattr(model, "language_model", None)
    if part is None or not hasattr(part, "generate") or part.get_output_embeddings() is None:
        return model
    part.generation_config = model.generation_config
    return part


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
    stored = getattr(config, "dtype", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_seed(seed))
        model = model_of(config, type(config).__name__, trust_remote_code=trust_remote_code)
    return model.to((stored or torch.float32) if dtype == "auto" else dtype)


def model_of(config: Any, source: str, *, trust_remote_code: bool, **keywords: Any) -> Any:
    """Make a configuration's model in float32, without the weights that it was made for."""
    auto = auto_class(config, source, trust_remote_code=trust_remote_code)
    if hasattr(config, "quantization_config"):  # a property of the trained weights' file
        del config.quantization_config
    keywords["trust_remote_code"] = trust_remote_code
    return language_model(auto.from_config(config, dtype=torch.float32, **keywords))


def state_sha256(model: Any) -> str:
    """Hash a model's weights in memory: name, type, shape and bytes of each tensor, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def count_from_padding(model: Any) -> int:
    """Let RoBERTa and its kin count positions in generation as their forward pass does.

    They count from the padding token's id, and generation from 0. Gives how many positions of
    their table no token has.
    """
    unused = 0
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        first = getattr(table, "padding_idx", None)
        if first is None or not hasattr(module, "create_position_ids_from_input_ids"):
            continue
        unused = first + 1

        def shift(_: Any, args: Any, kwargs: dict[str, Any], n: int = unused) -> Any:
            if kwargs.get("position_ids") is not None:
                kwargs = kwargs | {"position_ids": kwargs["position_ids"] + n}
            return args, kwargs

        module.register_forward_pre_hook(shift, with_kwargs=True)
    if unused:  # a padding token within a text would not be counted: like an end, never chosen
        ends = model.generation_config.eos_token_id or ()
        model.generation_config.eos_token_id = sorted({*ends, unused - 1})
    return unused


def package_of(error: BaseException) -> str:
    """Say how to install what an ImportError of transformers misses; empty of other errors."""
    command = re.search(r"pip install [\w.\[\]'-]+", str(error))
    if not isinstance(error, ImportError) or command is None:
        return ""
    return f"a package that it needs is not installed; install it with: {command[0]}"


def _refusal(source: str, what: str) -> str:
    return (
        f"model {source}: {what} has no causal head, so it cannot generate text token by token; "
        "expected a causal language model (Llama, GPT-2, OPT, Mamba, ...)"
    )


# Method -> the package on PyPI that reads it.
_PACKAGES = {
    "aqlm": "aqlm",
    "auto-round": "auto-round",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "eetq",
    "fbgemm_fp8": "fbgemm-gpu",
    "gptq": "optimum gptqmodel",
    "higgs": "flute-kernel",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "torchao": "torchao",
    "vptq": "vptq",
}


def quantization_of(config: Any) -> str | None:
    """Name the method and the bits of a configuration's quantized weights, None of plain ones.

    >>> from types import SimpleNamespace
    >>> quantization_of(SimpleNamespace(quantization_config={"quant_method": "gptq", "bits": 4}))
    'gptq, 4 bits'
    """
    settings = _settings(config)
    if not settings:
        return None
    bits = [settings.get(key) for key in ("bits", "nbits", "num_bits", "w_bit")]
    details = [f"{number} bits" for number in bits if isinstance(number, int)]
    details += [f"{n} bits" for n in (4, 8) if settings.get(f"load_in_{n}bit")]
    if settings.get("load_in_4bit"):
        details.append(str(settings.get("bnb_4bit_quant_type")))
    kind = settings.get("quant_type")
    while isinstance(kind, dict):  # torchao: {"default": {"_type": "Int8WeightOnlyConfig", ...}}
        kind = kind.get("default", kind.get("_type"))
    details += [named for named in (settings.get("weights"), kind) if isinstance(named, str)]
    for group in (settings.get("config_groups") or {}).values():  # compressed-tensors
        weights = group.get("weights") or {}
        if weights.get("num_bits"):
            details.append(f"{weights['num_bits']} bits ({weights.get('type', 'int')})")
    return ", ".join([_method(settings), *dict.fromkeys(details)])


def package_hint(config: Any) -> str:
    """Say which package a configuration's quantized weights need; empty of plain weights."""
    name = quantization_of(config)
    if name is None:
        return ""
    package = _PACKAGES.get(_method(_settings(config)))
    install = f": pip install {package}" if package else ""
    return (
        f"its weights are quantized ({name}), which needs a package or a device that is not here"
        f"{install}; or give a checkpoint in float16, bfloat16 or float32"
    )


def _settings(config: Any) -> dict[str, Any]:
    """Read the quantization of a configuration, a dictionary as stored or an object as loaded."""
    stored = getattr(config, "quantization_config", None)
    if stored is None or isinstance(stored, dict):
        return stored or {}
    settings: dict[str, Any] = stored.to_dict()
    return settings


def _method(settings: dict[str, Any]) -> str:
    method = settings.get("quant_method") or "unnamed method"
    return str(getattr(method, "value", method)).lower()
