"""Sites from a configuration alone are those that the model with weights has."""

import json
import shutil

import pytest

from llm2bids.exceptions import ModelError, UsageError
from llm2bids.model.exactness import exact_sites
from llm2bids.model.load import load_model
from llm2bids.model.outline import outline
from llm2bids.model.sites import find_sites
from tests.tiny_models import CONFIGS, save_architecture


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_sites_are_those_of_the_model(architecture, tiny_loaded, tiny_model_dir, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(tiny_model_dir(architecture) / "config.json", folder)
    outlined = outline(folder)
    loaded = tiny_loaded(architecture)
    table = find_sites(loaded)
    assert outlined.sites.sites == table.sites
    assert [s.token_axis for s in outlined.sites.sites] == [s.token_axis for s in table.sites]
    assert outlined.sites.head == table.head
    assert outlined.n_parameters == sum(p.numel() for p in loaded.model.parameters())
    assert outlined.dtype == loaded.dtype


@pytest.mark.filterwarnings("ignore")  # the libraries' own, of old architectures
@pytest.mark.parametrize(
    "name",
    ["bart", "bert", "modernbert-decoder", "mixtral-top1", "qwen3_5_text", "gemma4", "moshi"],
)
def test_units_are_those_of_the_record(name, tmp_path):
    folder = save_architecture(name, tmp_path / name)
    _, table, _ = exact_sites(load_model(folder, device="cpu"))
    assert outline(folder).sites.sites == table.sites


def test_dtype_decides_the_bytes_of_the_weights(tiny_model_dir):
    full = outline(tiny_model_dir("llama"), dtype="float32")
    half = outline(tiny_model_dir("llama"), dtype="bfloat16")
    assert full.weight_bytes == 2 * half.weight_bytes == 4 * full.n_parameters
    with pytest.raises(UsageError, match="float8"):
        outline(tiny_model_dir("llama"), dtype="float8")


def test_what_is_no_model_is_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match=str(tmp_path)):
        outline(tmp_path)
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "config.json").write_text(json.dumps({"model_type": "vit"}), encoding="utf-8")
    with pytest.raises(ModelError, match="causal"):
        outline(encoder)


def test_embedded_model_without_its_cache(own_cache):
    found = outline("embedded")
    assert (found.sites.n_units, len(found.sites.sites)) == (254592, 332)
    assert found.n_parameters == 134515008
    assert found.dtype == "float32"
    assert not any(own_cache.rglob("*.safetensors"))
