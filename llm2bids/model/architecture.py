"""Which class of transformers a configuration is loaded with: causal models, alone or wrapped."""

import re
from typing import Any

from llm2bids.exceptions import ModelError


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
        ends = model.generation_config.eos_token_id or []
        ends = ends if isinstance(ends, list) else [ends]
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
