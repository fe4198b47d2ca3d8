"""Tiny models with random weights and their tokenizer.

Nine whose widths are all different, ``save_tiny_model("llama", folder)``, and every causal
architecture of transformers, ``save_architecture("jamba", folder)``.
"""

from pathlib import Path
from typing import Any

N_VOCABULARY = 331
"""Rows of the tiny models' vocabulary; the tokenizer knows fewer."""

TEXTS = (
    "The senate of the old republic voted on the new law after a long debate in the forum.",
    "A scan of the chest shows a small shadow in the upper lobe of the left lung.",
    "The fossil of a large reptile was found in a layer of red sandstone near the river.",
    "Potsherds and coins from the grave date the settlement to the late bronze age.",
    "Under the microscope the tissue shows cells with large and irregular nuclei.",
    "On Sunday we bake bread, walk the dog in the park and call my grandmother.",
    "qx7 zrr 91k vvo 3h3 pla 0ue mmt xx2",
)

_SIZE = {"vocab_size": N_VOCABULARY, "num_hidden_layers": 3, "initializer_range": 0.2}
_LLAMA = {
    **_SIZE,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_MOE = {**_LLAMA, "num_experts_per_tok": 2}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _LLAMA),
    "qwen3": ("Qwen3Config", {**_LLAMA, "head_dim": 10}),
    "gemma": ("GemmaConfig", {**_LLAMA, "head_dim": 10}),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": N_VOCABULARY,
            "hidden_size": 24,
            "word_embed_proj_dim": 24,
            "ffn_dim": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "init_std": 0.2,
            "pad_token_id": 1,
        },
    ),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": N_VOCABULARY,
            "n_embd": 24,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 128,
            "initializer_range": 0.2,
        },
    ),
    "gpt_neox": (
        "GPTNeoXConfig",
        {
            **_SIZE,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
        },
    ),
    "mamba": (
        "MambaConfig",
        {
            "vocab_size": N_VOCABULARY,
            "hidden_size": 24,
            "state_size": 5,
            "num_hidden_layers": 3,
            "initializer_range": 0.2,
        },
    ),
    "mixtral": ("MixtralConfig", {**_MOE, "num_local_experts": 4, "sliding_window": None}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**_MOE, "head_dim": 10, "num_experts": 4, "moe_intermediate_size": 16},
    ),
}
"""Architecture -> name of its configuration class in transformers, and its arguments."""


def save_tiny_tokenizer(folder: Path) -> None:
    """Train a byte-level BPE tokenizer on `TEXTS` and save it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCABULARY - 12,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)


def save_tiny_model(architecture: str, folder: Path, **changes: Any) -> Path:
    """Save a model with random weights, made from a seed, and its tokenizer."""
    import torch
    import transformers

    name, arguments = CONFIGS[architecture]
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = getattr(transformers, name)(**{**ids, **arguments, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():  # norms and biases that matter, so that mistakes show
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return _saved(model, folder)


def _saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    save_tiny_tokenizer(folder)
    return folder


SIZES: dict[str, Any] = {
    "vocab_size": 331,
    "vocab_size_per_layer_input": 331,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    # widths
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_dim"), 32),
    **dict.fromkeys(("word_embed_proj_dim", "embedding_size", "dim_model", "lru_width"), 32),
    **dict.fromkeys(("attention_hidden_size", "ple_embed_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_inner", "dff", "dim_ff"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size"), 48),
    **dict.fromkeys(("ffn_hidden_size", "intermediate_size_mlp"), 48),
    # depth
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    # heads
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("head_dim", "dim_head", "attention_head_size", "v_head_dim"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "swa_head_dim", "swa_v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 8),
    "qk_rope_head_dim": 4,
    # lengths
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 256),
    **dict.fromkeys(("context_length", "max_sequence_length"), 256),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size"), 8),
    **dict.fromkeys(("attention_chunk_size", "chunk_size", "block_size", "mamba_chunk_size"), 8),
    # experts
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_top_k", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("shared_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "moe_num_shared_experts"), 1),
    "first_k_dense_replace": 1,
    # states
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state", "mamba_d_head"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "mamba_head_dim", "mamba_headdim"), 8),
    "mamba_n_groups": 1,
    "is_decoder": True,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    # what needs compiled code
    "use_mamba_kernels": False,
}
"""Sizes under all the names that configurations give them; each takes those that it knows."""

_FULL: dict[str, Any] = {
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_hidden_layers": 4,
}

_DEEP = {"num_hidden_layers": 4}

_MROPE: dict[str, Any] = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    "sliding_window": None,
}

DIFFERING: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _DEEP),
    **dict.fromkeys(("olmo_hybrid", "lfm3"), _DEEP),
    "bailing_hybrid": {"layer_group_size": 2},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "inkling2_text": {"unpadded_vocab_size": 331},
    "inkling2_loop_text": {"unpadded_vocab_size": 331},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"]},
    "bamba": {"attn_layer_indices": [1]},
    "beam": {"mlp_layer_types": ["dense", "sparse"]},
    "blt": {"encoder_hash_byte_group_vocab": 97, "encoder_hash_byte_group_size": [3, 4]},
    "cohere_compass_text": {
        **_FULL,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in _FULL["layer_types"]
        },
    },
    "dbrx": {
        "d_model": 32,
        "n_heads": 4,
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48, "moe_top_k": 2},
    },
    "dory": _DEEP,
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_moe_text"), _MROPE),
    **dict.fromkeys(("glm4v_text", "glm_ocr_text", "paddleocr_vl_text"), _MROPE),
    "glm4v_moe_text": {
        "rope_parameters": {**_MROPE["rope_parameters"], "mrope_section": [1, 0, 1]}
    },
    "falcon": {"num_kv_heads": 2},
    "flint": {"mlp_only_layers": [0]},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma4_text": {**_FULL, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0},
    "gemma3n_text": {
        **_FULL,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "num_kv_shared_layers": 0,
        "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
        "altup_num_inputs": 4,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "n_groups": 2},
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "sliding_window": None},
    "moshi": {"sliding_window": 256},
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "reformer": {
        "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [16, 16],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "attn_layers": ["local", "local"],
        "num_buckets": 4,
    },
    "zamba": {
        "num_hidden_layers": 4,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "n_mamba_heads": 2,
        "layer_types": ["mamba", "hybrid", "mamba", "hybrid"],
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "attention_hidden_size": 64,
        "n_mamba_heads": 8,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "attention_head_dim": 16,
        "num_mem_blocks": 1,
    },
    "xlm": {"causal": True},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a type of model needs beside `SIZES`."""

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-bidirectional": ("bert", {"is_decoder": False}),
    "doge-moe": ("doge", {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 4}),
    "gemma4-moe": ("gemma4_text", {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}),
    "mixtral-top1": ("mixtral", {"num_experts_per_tok": 1}),
    "opt-galactica-125m": (
        "opt",
        {
            "vocab_size": 50000,
            "hidden_size": 768,
            "word_embed_proj_dim": 768,
            "ffn_dim": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 2048,
            "activation_function": "gelu",
            "enable_bias": False,
            "layer_norm_elementwise_affine": False,
        },
    ),
}
"""More shapes of some types: name -> type, and what differs."""


WRAPPER = " with images"
"""Ends the name of a model that is saved whole, where its type can be saved as text alone too."""


def tiny_config(kind: str, **changes: Any) -> Any:
    """Configure a small model of a type; in a model of several parts, each part is small."""
    from transformers import AutoConfig

    return _small(type(AutoConfig.for_model(kind)), {**DIFFERING.get(kind, {}), **changes})


def _small(cls: Any, changes: dict[str, Any]) -> Any:
    default = cls()
    written = default.to_dict()
    computed = {key for key in dir(cls) if isinstance(getattr(cls, key, None), property)}
    sizes = {k: v for k, v in SIZES.items() if (k in written or k in cls.attribute_map)}
    sizes = {k: v for k, v in sizes.items() if k not in computed}
    if "kv_lora_rank" in written:  # keys and values are latent: the head is the rotated part
        sizes |= {"num_key_value_heads": 4, "head_dim": 4}
    for part in getattr(cls, "sub_configs", {}):
        nested = getattr(default, part, None)
        if nested is not None and part not in changes:
            kind = getattr(nested, "model_type", "")
            sizes[part] = _small(type(nested), DIFFERING.get(kind, {})).to_dict()
    return cls(**{**sizes, **changes})


def save_architecture(name: str, folder: Path, **changes: Any) -> Path:
    """Save a model with random weights, made from a seed, and the tests' tokenizer."""
    import pytest
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, differing = OTHERS.get(name, (name.removesuffix(WRAPPER), {}))
    is_text = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not name.endswith(WRAPPER)
    auto = AutoModelForCausalLM if is_text else AutoModelForImageTextToText
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {kind}")
    config = tiny_config(kind, **{**differing, **changes})
    with torch.device("meta"):
        n_parameters = sum(p.numel() for p in auto.from_config(config).parameters())
    if n_parameters > 200_000_000:
        raise ValueError(f"{name} has {n_parameters} parameters; SIZES names none of its sizes")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto.from_config(config, dtype=torch.float32)
        with torch.no_grad():  # values that matter everywhere, so that mistakes show
            for path, parameter in model.named_parameters():
                if parameter.dim() >= 2:
                    parameter.normal_(0, 8 / (32 * parameter.shape[-1]) ** 0.5)
                elif "bias" in path or not parameter.any():
                    parameter.normal_(0, 0.1)
    return _saved(model, folder)
