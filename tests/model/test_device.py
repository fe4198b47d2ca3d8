"""Modules spread over several devices by a device map."""

import json
import shutil

import numpy as np
import pytest
import torch

from llm2bids.exceptions import UsageError
from llm2bids.model.exactness import exact_sites
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites
from llm2bids.model.weights import weight_norms
from llm2bids.recording.record import record_run
from tests.plain import site_errors
from tests.synthetic import make_design

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("architecture", ["llama", "opt", "mixtral"])
def test_values_of_modules_on_the_disk(architecture, tiny_model_dir, tmp_path):
    folder = tiny_model_dir(architecture)
    modules = dict(load_model(folder, device="cpu").model.named_modules())
    layers = next(name for name in modules if name.endswith(".layers"))
    owners = [name for name, m in modules.items() if m._parameters or m._buffers]
    offloaded = (f"{layers}.1.", "model.norm")
    path = tmp_path / "devices.json"
    path.write_text(json.dumps({n: "disk" if n.startswith(offloaded) else "cpu" for n in owners}))
    loaded = load_model(folder, device_map=path)
    assert loaded.device == "cpu"
    assert {p.device.type for p in loaded.model.get_submodule(f"{layers}.1").parameters()} == {
        "meta"
    }
    whole, table = load_model(folder, device="cpu"), find_sites(load_model(folder, device="cpu"))
    loaded, found, exactness = exact_sites(loaded)
    assert found == table
    assert max(exactness.errors.values()) < 1e-4
    sites = (*table.sites, *table.head)
    recording = record_run(loaded, make_design(), sites)
    assert site_errors(whole, sites, recording).max() < 1e-5
    np.testing.assert_array_equal(weight_norms(loaded, sites), weight_norms(whole, sites))
    assert loaded.weights_sha256 == whole.weights_sha256
    assert exactness.metadata()["device"] == "cpu, disk"


def test_auto_without_a_gpu_is_the_cpu(tiny_model_dir):
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    loaded = load_model(tiny_model_dir("llama"), device_map="auto")
    assert (loaded.device, str(loaded.model.device)) == ("cpu", "cpu")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds no object"),
        ('{"model": 99}', "model is on 99, which is no device of this machine"),
        ('{"model": "gpu"}', "model is on 'gpu', which is no device"),
        ('{"model": true}', "model is on True"),
    ],
)
def test_maps_that_are_none(tiny_model_dir, tmp_path, text, says):
    path = tmp_path / "devices.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        load_model(tiny_model_dir("llama"), device_map=path)


def test_what_a_map_leaves_out_is_on_the_cpu(tiny_model_dir, tmp_path):
    path = tmp_path / "devices.json"
    path.write_text(json.dumps({"model.embed_tokens": "cpu"}))
    mapped = load_model(tiny_model_dir("llama"), device_map=path)
    whole, tokens = load_model(tiny_model_dir("llama"), device="cpu"), torch.arange(5, 30)[None]
    assert torch.equal(mapped.model(tokens).logits, whole.model(tokens).logits)


def test_what_excludes_a_device_map(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir("llama"), tmp_path / "m")
    with pytest.raises(UsageError, match="device map 'somewhere': no such file, and no way"):
        load_model(folder, device_map="somewhere")
    with pytest.raises(UsageError, match="device 'cpu' and device map 'auto': expected one"):
        load_model(folder, device="cpu", device_map="auto")
    with pytest.raises(UsageError, match="device map 'auto' and random weights"):
        load_model(folder, device_map="auto", random_weights=0)
