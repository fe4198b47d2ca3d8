"""Quantized weights: what they are called, what they need, and that those of the cpu run."""

import json
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from llm2bids.exceptions import ModelError
from llm2bids.model.checkpoint import quantization_of
from llm2bids.model.exactness import exact_sites
from llm2bids.model.load import load_model
from llm2bids.model.outline import outline
from llm2bids.model.weights import weight_norms
from tests.brought import runs_elsewhere
from tests.tiny_models import save_architecture, save_tiny_model

pytestmark = pytest.mark.usefixtures("own_cache")

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}
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
    [
        (GPTQ, "optimum gptqmodel"),
        (AWQ, "gptqmodel"),
        (PACKED, "compressed-tensors"),
        (NF4, "bitsandbytes"),
    ],
)
def test_a_package_that_is_missing_is_named(tiny_model_dir, tmp_path, stored, package):
    if not is_missing(package.split()[0].replace("-", "_")):
        pytest.skip(f"{package} is installed")
    folder = shutil.copytree(tiny_model_dir("llama"), tmp_path / "packed")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": stored}))
    with pytest.raises(ModelError, match=f"quantized .*pip install {package}") as caught:
        load_model(folder)
    assert "expected a causal language model" not in str(caught.value)


def save_quantized(plain, folder, quantize, settings):
    """Save a model with quantized weights, and beside it the plain weights that they come to."""
    shutil.copytree(plain, folder)
    stored, dequantized = {}, {}
    for name, weight in load_file(plain / "model.safetensors").items():
        packed, values = quantize(name, weight) or ({name: weight}, weight)
        stored |= packed
        dequantized[name] = values.contiguous()
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    save_file(dequantized, plain / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return folder


def assert_same_model(folder, plain, name):
    """A quantized model is named, and computes what its dequantized weights do."""
    loaded, table, exactness = exact_sites(load_model(folder, device="cpu"))
    assert loaded.quantization == name
    assert max(exactness.errors.values()) < 1e-4
    expected = load_model(plain, device="cpu")
    tokens = torch.arange(5, 40)[None]
    logits, own = (m.model(input_ids=tokens).logits for m in (expected, loaded))
    torch.testing.assert_close(own, logits, rtol=1e-4, atol=1e-4)
    assert table.sites == exact_sites(expected)[1].sites == outline(folder).sites.sites
    np.testing.assert_allclose(
        weight_norms(loaded, table.sites), weight_norms(expected, table.sites), rtol=1e-5
    )


WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}


def test_fp8(tmp_path):
    """Blocks of 16 x 16 with a scale each, as DeepSeek V3 has them (128 x 128)."""

    def quantize(name, weight):
        if not name.endswith("proj.weight"):
            return None
        blocks = weight.reshape(weight.shape[0] // 16, 16, -1, 16)
        scale = blocks.abs().amax((1, 3)) / 448
        packed = (blocks / scale[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
        values = packed.float().reshape(blocks.shape) * scale[:, None, :, None]
        return {name: packed, f"{name}_scale_inv": scale}, values.reshape(weight.shape)

    settings = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    settings["weight_block_size"] = [16, 16]
    plain = save_tiny_model("llama", tmp_path / "plain", **WIDE)
    folder = save_quantized(plain, tmp_path / "fp8", quantize, settings)
    assert_same_model(folder, plain, "fp8, dequantized to float32")


def test_mxfp4(tmp_path):
    """Experts of gpt-oss: 32 numbers of 4 bits with a power of two."""
    numbers = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    numbers = torch.cat([numbers, -numbers])

    def quantize(name, weight):
        if not name.endswith(("gate_up_proj", "down_proj")):
            return None
        rows = weight.transpose(1, 2)
        groups = rows.reshape(*rows.shape[:2], -1, 32)
        exponent = torch.ceil(torch.log2(groups.abs().amax(-1) / 6))
        scaled = groups / 2 ** exponent[..., None]
        index = (scaled[..., None] - numbers).abs().argmin(-1)
        packed = {
            f"{name}_blocks": (index[..., 0::2] | index[..., 1::2] << 4).to(torch.uint8),
            f"{name}_scales": (exponent + 127).to(torch.uint8),
        }
        values = numbers[index] * 2 ** exponent[..., None]
        return packed, values.reshape(rows.shape).transpose(1, 2)

    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"]
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": [*kept, "model.embed_tokens"]}
    plain = save_architecture("gpt_oss", tmp_path / "p", hidden_size=64, intermediate_size=64)
    folder = save_quantized(plain, tmp_path / "mxfp4", quantize, settings)
    assert_same_model(folder, plain, "mxfp4, dequantized to float32")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the package's own
def test_compressed_tensors(tmp_path, request):
    wheels = ("compressed-tensors==0.20.0", "loguru==0.7.3")
    if runs_elsewhere(request, "compressed_tensors", *wheels):
        return
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    def quantize(name, weight):
        if not name.endswith("proj.weight"):
            return None
        scale = weight.abs().amax(1, keepdim=True) / 127
        whole = (weight / scale).round().to(torch.int8)
        stem = name.removesuffix("weight")
        packed = {
            f"{stem}weight_packed": pack_to_int32(whole, 8),
            f"{stem}weight_scale": scale,
            f"{stem}weight_shape": torch.tensor(weight.shape),
        }
        return packed, whole.float() * scale

    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    settings = PACKED | {"quantization_status": "compressed", "ignore": ["lm_head"]}
    settings["config_groups"] = {"group_0": {"targets": ["Linear"], "weights": weights}}
    plain = save_tiny_model("llama", tmp_path / "plain", **WIDE)
    folder = save_quantized(plain, tmp_path / "packed", quantize, settings)
    assert_same_model(folder, plain, "compressed-tensors, 8 bits (int)")


VERSIONS = {"bitsandbytes": "bitsandbytes==0.50.2", "torchao": "torchao==0.18.0"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bitsandbytes", "torchao"])
def test_quantized_weights_on_the_cpu(tmp_path, method, request):
    if runs_elsewhere(request, method, VERSIONS[method]):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the packages' own
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
