"""Quantized weights: what they are called, what they need, and that those of the cpu run."""

import json
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from llm2bids.exceptions import ModelError
from llm2bids.model.exactness import exact_sites
from llm2bids.model.load import load_model
from llm2bids.model.quantization import quantization_of
from llm2bids.model.weights import weight_norms
from tests.tiny_models import save_tiny_model

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
PACKED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {"weights": {"num_bits": 4, "type": "int"}, "targets": ["Linear"]}
    },
}
TORCHAO = {
    "quant_method": "torchao",
    "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}},
}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "llm2bids-cache"))


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        (None, None),
        (GPTQ, "gptq, 4 bits"),
        (PACKED, "compressed-tensors, 4 bits (int)"),
        (TORCHAO, "torchao, Int8WeightOnlyConfig"),
        (NF4, "bitsandbytes, 4 bits, nf4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes, 8 bits"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "quanto", "weights": "int8"}, "quanto, int8"),
        (transformers.BitsAndBytesConfig(load_in_4bit=True), "bitsandbytes, 4 bits, fp4"),
    ],
)
def test_what_quantized_weights_are_called(stored, name):
    assert quantization_of(SimpleNamespace(quantization_config=stored)) == name


def is_missing(package):
    try:
        __import__(package)
    except ImportError:
        return True
    return False


@pytest.mark.parametrize(
    ("stored", "package"),
    [(GPTQ, "gptqmodel"), (PACKED, "compressed-tensors"), (NF4, "bitsandbytes")],
)
def test_a_package_that_is_missing_is_named(tiny_model_dir, tmp_path, stored, package):
    if not is_missing(package.replace("-", "_")):
        pytest.skip(f"{package} is installed")
    folder = shutil.copytree(tiny_model_dir("llama"), tmp_path / "packed")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": stored}))
    with pytest.raises(ModelError, match=f"quantized .*pip install {package}") as caught:
        load_model(folder)
    assert "expected a causal language model" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bitsandbytes", "torchao"])
def test_quantized_weights_on_the_cpu(tmp_path, method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the packages' own
        pytest.importorskip(method)
        if method == "torchao":
            from torchao.quantization import Int8WeightOnlyConfig

            how = transformers.TorchAoConfig(Int8WeightOnlyConfig())
        else:
            how = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        base = save_tiny_model(
            "llama", tmp_path / "base", hidden_size=64, intermediate_size=128, head_dim=16
        )
        folder = shutil.copytree(base, tmp_path / method)
        transformers.AutoModelForCausalLM.from_pretrained(
            base, quantization_config=how, dtype=torch.float32, device_map={"": "cpu"}
        ).save_pretrained(folder)
        loaded, table, exactness = exact_sites(load_model(folder, device="cpu"))
        norms = weight_norms(loaded, table.sites)
    assert (
        loaded.quantization
        == {
            "bitsandbytes": "bitsandbytes, 4 bits, nf4",
            "torchao": "torchao, Int8WeightOnlyConfig",
        }[method]
    )
    assert max(exactness.errors.values()) < 1e-4
    assert np.isfinite(norms).all()
    assert table.sites == exact_sites(load_model(base, device="cpu"))[1].sites
