"""Fixtures shared by the tests: tiny models with random weights and a real tokenizer.

``tiny_model_dir("llama")`` is the folder of a saved model, ``tiny_loaded("llama")`` the same loaded
by :func:`llm2bids.model.load.load_model`. Architectures: the keys of `CONFIGS`.
"""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

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
    model.save_pretrained(folder)
    save_tiny_tokenizer(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Tests write thousands of small files; that they reach the disk has a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda opened: None)
        yield


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make (once) the folder of a tiny model: ``tiny_model_dir("llama")``."""

    @cache
    def make(architecture: str = "llama") -> Path:
        folder = tmp_path_factory.mktemp("models") / f"tiny-{architecture}"
        return save_tiny_model(architecture, folder)

    return make


@pytest.fixture(scope="session")
def tiny_loaded(
    tiny_model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], "LoadedModel"]:
    """Load (once) a tiny model: ``tiny_loaded("llama")``."""

    @cache
    def load(architecture: str = "llama") -> "LoadedModel":
        from llm2bids.model.load import load_model

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.mktemp("cache")))
            return load_model(tiny_model_dir(architecture), device="cpu")

    return load
