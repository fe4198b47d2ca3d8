"""Which class a configuration is loaded with."""

import numpy as np
import pytest
import torch
import transformers

from llm2bids.exceptions import ModelError, UsageError
from llm2bids.model.checkpoint import LARGEST_SEED, auto_class, state_sha256
from llm2bids.model.exactness import exact_sites
from llm2bids.model.load import load_model
from llm2bids.model.outline import outline
from llm2bids.model.sites import find_sites
from tests.tiny_models import save_architecture


@pytest.mark.parametrize("kind", ["llava", "mistral3"])
def test_a_wrappers_language_model_is_recorded_and_nothing_else(tmp_path, kind, own_cache):
    folder = save_architecture(kind, tmp_path / kind)
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


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
def test_a_seed_gives_its_weights(tiny_model_dir, architecture):
    folder = tiny_model_dir(architecture)
    trained = load_model(folder)
    one, again, other = (load_model(folder, random_weights=seed) for seed in (3, 3, 4))
    assert one.weights_sha256 == again.weights_sha256
    assert len({trained.weights_sha256, one.weights_sha256, other.weights_sha256}) == 3
    assert [site.name for site in find_sites(one).sites] == [
        site.name for site in find_sites(trained).sites
    ]
    was, now = (each.model.get_input_embeddings().weight for each in (trained, one))
    assert was.shape == now.shape
    assert abs(np.corrcoef(was.flatten(), now.flatten())[0, 1]) < 0.1
    assert one.tokenizer("a scan")["input_ids"] == trained.tokenizer("a scan")["input_ids"]


def test_it_is_named_for_what_it_is(tiny_model_dir):
    trained = load_model(tiny_model_dir("llama"))
    drawn = load_model(tiny_model_dir("llama"), random_weights=12)
    assert trained.random_weights is None
    assert drawn.random_weights == 12
    assert drawn.name == f"{trained.name} with random weights (seed 12)"
    assert drawn.label == f"{trained.label}Random12"
    assert not drawn.model.training
    assert not any(weight.requires_grad for weight in drawn.model.parameters())


def test_a_seed_means_the_same_in_every_type(tiny_model_dir):
    folder = tiny_model_dir("llama")
    full, half = (
        load_model(folder, random_weights=5, dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    was, now = full.model.lm_head.weight, half.model.lm_head.weight
    assert now.dtype == torch.bfloat16
    assert torch.equal(was.to(torch.bfloat16), now)
    assert full.weights_sha256 != half.weights_sha256


def test_the_generator_of_torch_goes_on_as_if_nothing_happened(tiny_model_dir):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_model(tiny_model_dir("llama"), random_weights=2)
    assert torch.equal(torch.rand(3), expected)


def test_the_hash_sees_a_single_changed_weight(tiny_model_dir):
    drawn = load_model(tiny_model_dir("llama"), random_weights=2)
    before = state_sha256(drawn.model)
    with torch.no_grad():
        drawn.model.get_input_embeddings().weight[3, 5] += 1e-3
    assert state_sha256(drawn.model) != before


@pytest.mark.parametrize("seed", [-1, LARGEST_SEED + 1])
def test_a_wrong_seed_is_refused(tiny_model_dir, seed):
    with pytest.raises(UsageError, match=r"random weights: seed .*expected a whole number"):
        load_model(tiny_model_dir("llama"), random_weights=seed)
