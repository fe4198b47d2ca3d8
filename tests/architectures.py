"""Tiny random models of many architectures: their configurations, and how they are saved."""

from pathlib import Path
from typing import Any

_IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}

BASE: dict[str, Any] = {
    "vocab_size": 331,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
    **_IDS,
}
"""Sizes that every configuration is given; it takes those that it knows."""

_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
}
_LINEAR = {
    "num_hidden_layers": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_LATENT = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 4,
    "num_key_value_heads": 4,
}
_DEEPSEEK = {
    **_LATENT,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 16,
}
_WINDOW = {"sliding_window": 8}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "recurrent_gemma": (
        "recurrent_gemma",
        {
            "num_hidden_layers": 3,
            "lru_width": 32,
            "attention_window_size": 8,
            "block_types": ["recurrent", "recurrent", "attention"],
        },
    ),
    "minimax": (
        "minimax",
        {**_EXPERTS, "layer_types": ["linear_attention", "full_attention"], "block_size": 8},
    ),
    "rwkv": ("rwkv", {"attention_hidden_size": 32, "context_length": 256}),
    "mixtral_top1": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 1}),
    "bert_decoder": ("bert", {"is_decoder": True}),
    "bert_bidirectional": ("bert", {}),
    "roberta_decoder": ("roberta", {"is_decoder": True}),
    "xlstm": ("xlstm", {"embedding_dim": 32, "num_heads": 4, "num_blocks": 2, "chunk_size": 8}),
    "gemma3n": (
        "gemma3n_text",
        {
            **_WINDOW,
            "num_hidden_layers": 4,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 331,
            "laurel_rank": 4,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "intermediate_size": [48] * 4,
            "activation_sparsity_pattern": [0.0] * 4,
            "altup_num_inputs": 4,
        },
    ),
    "qwen3_next": (
        "qwen3_next",
        {
            **_LINEAR,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
}
"""Name of a test model -> its type in transformers, and what differs from `BASE`."""


def save_architecture(name: str, folder: Path, **changes: Any) -> Path:
    """Save a model with random weights, made from a seed, and the tests' tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.conftest import save_tiny_tokenizer

    kind, differing = CONFIGS[name]
    config = type(AutoConfig.for_model(kind))(**{**BASE, **differing, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():  # values that matter everywhere, so that mistakes show
            for path, parameter in model.named_parameters():
                if parameter.dim() >= 2:
                    parameter.normal_(0, 0.25)
                elif "bias" in path or not parameter.any():
                    parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    save_tiny_tokenizer(folder)
    return folder
