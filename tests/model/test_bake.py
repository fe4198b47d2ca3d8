"""A baked checkpoint does what the edit does with hooks."""

import json

import numpy as np
import pytest
import torch

from llm2bids.exceptions import InterventionError
from llm2bids.model.bake import bake
from llm2bids.model.edit_hooks import applied, editable_sites
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites
from tests.model.test_edit_hooks import make_edit


def of_role(loaded, role):
    return [site for site in find_sites(loaded).sites if site.role == role]


def compared(loaded, edit, folder):
    """Logits of the checkpoint, read again, and of the model under the edit."""
    told = bake(loaded, edit, folder)
    baked = load_model(folder, device="cpu")
    ids = torch.tensor([[5, 9, 30, 7, 4], [8, 44, 90, 2, 6]])
    with torch.no_grad():
        with applied(loaded.model, edit, editable_sites(loaded, edit)):
            expected = loaded.model(ids).logits
        intact = loaded.model(ids).logits
        given = baked.model(ids).logits
    assert told <= 1e-5 and not torch.allclose(expected, intact, atol=1e-3)
    return float((given - expected).abs().max())


UNITS = [0, 7, 41, 85, 119]  # of three layers of 40


def weighed(loaded, **changes):
    return {"weights_sha256": loaded.weights_sha256, **changes}


@pytest.mark.parametrize(
    ("architecture", "role", "kind", "values"),
    [
        ("llama", "mlp.act_fn", "set", [0.0] * 5),
        ("llama", "mlp.act_fn", "set", [0.3, -0.25, 1.4, 0.0, 2.0]),
        ("llama", "mlp.act_fn", "scale", [2.0, 0.5, -1.0, 0.0, 3.0]),
        ("llama", "mlp.gate_proj", "set", [0.3, -0.9, 1.4, 0.0, 2.0]),
        ("llama", "mlp.up_proj", "add", [0.3, -0.9, 1.4, 0.5, 2.0]),
        ("llama", "mlp.up_proj", "scale", [2.0, 0.5, -1.0, 0.0, 3.0]),
        ("qwen3", "mlp.act_fn", "set", [0.0] * 5),
        ("qwen3", "mlp.act_fn", "scale", [2.0, 0.5, -1.0, 0.0, 3.0]),
        ("opt", "activation_fn", "set", [0.3, 0.0, 1.4, 0.5, 2.0]),
        ("opt", "fc1", "set", [0.3, -0.7, 1.4, 0.5, 2.0]),
        ("gpt_neox", "mlp.act", "set", [0.3, -0.1, 1.4, 0.5, 2.0]),
        ("gpt_neox", "mlp.act", "add", [0.3, -0.1, 1.4, 0.5, 2.0]),
    ],
)
def test_units_of_the_mlp(architecture, role, kind, values, tiny_loaded, tmp_path):
    loaded = tiny_loaded(architecture)
    sites = of_role(loaded, role)
    edit = make_edit(sites, UNITS, values, kind, **weighed(loaded))
    assert compared(loaded, edit, tmp_path / "baked") <= 1e-5


def test_conv1d_of_gpt2(tiny_loaded, tmp_path):
    loaded = tiny_loaded("gpt2")
    sites = of_role(loaded, "mlp.act")
    edit = make_edit(sites, [3, 100, 200], [0.4, -0.1, 1.0], **weighed(loaded))
    assert compared(loaded, edit, tmp_path / "baked") <= 1e-5


@pytest.mark.parametrize("architecture", ["llama", "opt", "gpt_neox"])
def test_a_vector_added_to_the_stream(architecture, tiny_loaded, tmp_path):
    loaded = tiny_loaded(architecture)
    site = of_role(loaded, "residual")[1]
    vector = np.random.default_rng(0).normal(size=24)
    edit = make_edit([site], np.arange(24), vector, "add", strength=1.5, **weighed(loaded))
    assert compared(loaded, edit, tmp_path / "baked") <= 1e-5
    kept = json.loads((tmp_path / "baked/llm2bids_edit.json").read_text())
    assert kept == edit.metadata()


@pytest.mark.parametrize(
    ("architecture", "role", "kind", "values", "reason"),
    [
        ("qwen3", "mlp.act_fn", "set", [0.3], "takes a bias of the gate, which this architecture"),
        ("qwen3", "mlp.up_proj", "add", [0.3], "has no bias, and its configuration offers none"),
        (
            "qwen3",
            "residual",
            "add",
            [0.3],
            r"mlp\.down_proj that writes to the stream has no bias",
        ),
        ("llama", "mlp.act_fn", "set", [-0.4], r"unit 3 is set to -0\.4, below the least.*-0\.278"),
        ("llama", "mlp.act_fn", "add", [0.4], "multiplied by a second projection"),
        ("llama", "residual", "set", [0.4], "passes by every weight"),
        ("llama", "input_layernorm", "scale", [0.4], "LlamaRMSNorm cannot carry it"),
        ("llama", "mlp.act_fn", "set", [[0.3], [0.4]], "from token to token"),
    ],
)
def test_what_cannot_be_baked_says_why(
    architecture, role, kind, values, reason, tiny_loaded, tmp_path
):
    loaded = tiny_loaded(architecture)
    edit = make_edit(of_role(loaded, role), [3], values, kind, **weighed(loaded))
    with pytest.raises(
        InterventionError, match=rf"site .*cannot be baked into weights: .*{reason}"
    ):
        bake(loaded, edit, tmp_path / "baked")
    assert not (tmp_path / "baked").exists()


def test_a_full_folder_and_other_weights(tiny_loaded, tmp_path):
    loaded = tiny_loaded("llama")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").write_text("a")
    edit = make_edit(of_role(loaded, "mlp.act_fn"), [3], [0.0], **weighed(loaded))
    with pytest.raises(InterventionError, match="is not empty"):
        bake(loaded, edit, tmp_path / "full")
    with pytest.raises(InterventionError, match="is for tiny"):
        bake(loaded, make_edit(of_role(loaded, "mlp.act_fn"), [3], [0.0]), tmp_path / "new")
