"""Adapters: merged into their base model, or refused."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm2bids.exceptions import ModelError, UsageError
from llm2bids.model.load import load_model
from llm2bids.model.outline import outline
from llm2bids.model.sites import find_sites
from tests.tiny_models import save_tiny_model

pytestmark = pytest.mark.usefixtures("own_cache")

SCALE = 6 / 2
"""lora_alpha / r"""


@pytest.fixture
def base(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir("llama"), tmp_path / "Base-1")


def write_adapter(folder, base, *, seed=3, **changes):
    """A LoRA of rank 2 on the query projections, in the files that peft writes."""
    folder.mkdir(exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": 2,
        "lora_alpha": 6,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    drawn = torch.Generator().manual_seed(seed)
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{name}.weight": torch.randn(
            shape, generator=drawn
        )
        for layer in range(3)
        for name, shape in (("A", (2, 24)), ("B", (24, 2)))
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def adapter(base, tmp_path):
    return write_adapter(tmp_path / "My-lora", base)


def adapted_weight(base, adapter, layer):
    name = f"model.layers.{layer}.self_attn.q_proj"
    parts = load_file(adapter / "adapter_model.safetensors")
    low, high = (parts[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    return load_file(base / "model.safetensors")[f"{name}.weight"] + SCALE * high @ low


@pytest.mark.parametrize("where", ["apart", "beside", "alone"])
def test_an_adapter_is_in_the_weights(base, adapter, where, peft):
    if where == "apart":
        loaded = load_model(base, adapter=adapter)
    elif where == "alone":
        loaded = load_model(adapter)
    else:
        for path in adapter.iterdir():
            shutil.copy(path, base)
        loaded = load_model(base)
    got = loaded.model.get_submodule("model.layers.1.self_attn.q_proj").weight
    torch.testing.assert_close(got.data, adapted_weight(base, adapter, 1))
    assert loaded.adapter == f"LORA {base.name if where == 'beside' else 'My-lora'}"
    assert loaded.source == str(base)
    assert loaded.name == f"Base-1 with {loaded.adapter.replace('LORA', 'adapter')}"


def test_base_and_adapted_model_have_the_same_sites_and_heads(base, adapter, peft):
    plain, adapted = load_model(base), load_model(base, adapter=adapter)
    assert find_sites(adapted).sites == find_sites(plain).sites
    assert any(site.n_heads == 4 for site in find_sites(adapted).sites)
    assert adapted.label == "Base1Mylora"


def test_the_adapter_is_part_of_the_models_identity(base, adapter, tmp_path, peft):
    hashes = {
        load_model(base).weights_sha256,
        load_model(base, adapter=adapter).weights_sha256,
        load_model(base, adapter=write_adapter(tmp_path / "b", base, seed=4)).weights_sha256,
        load_model(base, adapter=write_adapter(tmp_path / "c", base, lora_alpha=8)).weights_sha256,
    }
    assert len(hashes) == 4
    write_adapter(tmp_path / "d", base)
    again = load_model(base, adapter=tmp_path / "d").weights_sha256
    assert again == load_model(base, adapter=adapter).weights_sha256


def test_an_adapter_that_cannot_be_merged_is_refused(tmp_path, peft):
    """Adapting a vocabulary head that is the embedding would change the embedding too."""
    base = save_tiny_model("llama", tmp_path / "tied", tie_word_embeddings=True)
    folder = write_adapter(tmp_path / "lora", base, target_modules=["lm_head"])
    name = "base_model.model.lm_head.lora_"
    tensors = {f"{name}A.weight": torch.ones(2, 24), f"{name}B.weight": torch.ones(331, 2)}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"merged into its base model .* something else"):
        load_model(base, adapter=folder)


@pytest.mark.parametrize("fault", ["left over", "missing", "shape"])
def test_an_adapter_of_another_model_is_refused(base, adapter, fault, peft):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    first = min(tensors)
    if fault == "left over":
        tensors[first.replace("layers.0", "layers.7")] = tensors[first].clone()
    elif fault == "missing":
        del tensors[first]
    else:
        tensors[first] = torch.ones(2, 25)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"do not fit|cannot be loaded|size mismatch"):
        load_model(base, adapter=adapter)


def test_a_trained_prompt_is_no_change_of_weights(base, tmp_path, peft):
    folder = write_adapter(tmp_path / "p", base, peft_type="PREFIX_TUNING", num_virtual_tokens=3)
    with pytest.raises(ModelError, match="PREFIX_TUNING is no change of weights"):
        load_model(base, adapter=folder)


@pytest.mark.parametrize("where", ["apart", "beside", "alone"])
def test_without_peft_an_adapter_is_refused(base, adapter, where, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    if where == "beside":
        for path in adapter.iterdir():
            shutil.copy(path, base)
    name = adapter if where == "alone" else base
    with pytest.raises(
        ModelError, match=r"an adapter \(LORA\).*pip install 'llm2bids\[adapters\]'"
    ):
        load_model(name, adapter=adapter if where == "apart" else None)


def test_random_weights_have_no_adapter(base, adapter, peft):
    with pytest.raises(UsageError, match="random weights and an adapter"):
        load_model(base, adapter=adapter, random_weights=1)


def test_what_an_adapters_folder_must_hold(base, adapter):
    with pytest.raises(ModelError, match=r"no adapter_config\.json in it"):
        load_model(base, adapter=base)
    path = adapter / "adapter_model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n")
    with pytest.raises(ModelError, match="pointer of Git LFS"):
        load_model(base, adapter=adapter)
    path.rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"without adapter_model\.safetensors"):
        load_model(base, adapter=adapter)
    write_adapter(adapter, base, base_model_name_or_path=None)
    with pytest.raises(ModelError, match="names no base model"):
        load_model(adapter)


def test_the_outline_of_an_adapted_model_is_its_base_models(base, adapter):
    plain, alone, given = outline(base), outline(adapter), outline(base, adapter=adapter)
    assert alone.sites.sites == plain.sites.sites == given.sites.sites
    assert alone.name == given.name == "Base-1 with adapter My-lora"
    assert alone.label == given.label == "Base1Mylora"
