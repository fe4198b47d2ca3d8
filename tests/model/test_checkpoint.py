"""Which class a configuration is loaded with."""

import pytest
import torch
import transformers

from llm2bids.exceptions import ModelError
from llm2bids.model.checkpoint import auto_class
from llm2bids.model.exactness import exact_sites
from llm2bids.model.load import load_model
from llm2bids.model.outline import outline
from tests.tiny_models import save_tiny_tokenizer

TEXT = {
    "vocab_size": 331,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def wrapper(kind):
    if kind == "llava":
        return transformers.LlavaConfig(
            text_config=transformers.LlamaConfig(**TEXT),
            vision_config=transformers.CLIPVisionConfig(**VISION),
            image_token_index=320,
        )
    return transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**TEXT),
        vision_config=transformers.PixtralVisionConfig(**VISION, head_dim=8),
        image_token_index=320,
    )


@pytest.mark.parametrize("kind", ["llava", "mistral3"])
def test_a_wrappers_language_model_is_recorded_and_nothing_else(tmp_path, kind, monkeypatch):
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "cache"))
    config = wrapper(kind)
    folder = tmp_path / kind
    torch.manual_seed(3)
    transformers.AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    save_tiny_tokenizer(folder)
    _, table, exactness = exact_sites(load_model(folder))
    assert [site.name for site in table.sites if site.role == "residual"] == [
        f"model.language_model.layers.{layer}" for layer in range(2)
    ]
    assert all("language_model" in site.name for site in table.sites)
    assert [site.width for site in table.head] == [331]
    assert max(exactness.errors.values()) < 1e-4
    assert outline(folder).sites.sites == table.sites


@pytest.mark.parametrize("name", ["Bert", "Roberta"])
def test_a_model_that_reads_in_both_directions_is_no_causal_one(name):
    config = getattr(transformers, f"{name}Config")()
    config.architectures = ["BertLMHeadModel" if name == "Bert" else "RobertaForCausalLM"]
    with pytest.raises(ModelError, match="is_decoder false reads in both directions"):
        auto_class(config, "m")
    config.is_decoder = True
    assert auto_class(config, "m") is transformers.AutoModelForCausalLM
