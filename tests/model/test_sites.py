"""Sites come from running the model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from llm2bids.exceptions import ModelError
from llm2bids.model.sites import SiteTable, find_layers, find_sites, select_sites
from llm2bids.model.units import Site, split_heads
from llm2bids.model.weights import weight_norms


def roles(table, layer=0):
    return {site.role: site for site in table.sites if site.layer == layer}


def test_llama(tiny_loaded):
    table = find_sites(tiny_loaded("llama"))
    layer = roles(table)
    assert list(layer) == [
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.act_fn",
        "mlp.up_proj",
        "mlp.down_proj",
        "residual",
    ]
    assert layer["residual"].name == "model.layers.0"
    assert [site.name for site in table.sites if site.layer is None] == [
        "model.embed_tokens",
        "model.norm",
    ]
    assert [site.name for site in table.head] == ["lm_head"]
    assert table.head[0].width == 331
    assert table.n_units == 24 * 2 + 3 * (24 * 7 + 12 * 2 + 40 * 3 - 24)
    assert table.skipped == (("model.rotary_emb", "a table of positions: the same for any text"),)


@pytest.mark.parametrize(
    ("architecture", "role", "n_heads", "head_size"),
    [
        ("llama", "self_attn.q_proj", 4, 6),
        ("llama", "self_attn.v_proj", 2, 6),
        ("llama", "self_attn.o_proj", None, None),
        ("llama", "mlp.down_proj", None, None),
        ("qwen3", "self_attn.q_norm", 4, 10),
        ("qwen3", "self_attn.k_norm", 2, 10),
        ("gemma", "self_attn.q_proj", 4, 10),
        ("opt", "self_attn.k_proj", 4, 6),
        ("gpt2", "attn.c_attn", 12, 6),
        ("gpt2", "mlp.c_fc", None, None),
        ("gpt_neox", "attention.query_key_value", 12, 6),
    ],
)
def test_heads(architecture, role, n_heads, head_size, tiny_loaded):
    site = roles(find_sites(tiny_loaded(architecture)), layer=1)[role]
    assert (site.n_heads, site.head_size) == (n_heads, head_size)
    assert n_heads is None or n_heads * head_size == site.width


@pytest.mark.parametrize(
    ("configuration", "role", "width", "heads"),
    [
        # 12288 / 256 is 3 * 16 by chance: the output is 16 groups of 768
        ({"num_attention_heads": 16, "head_dim": 256}, "linear_attn.in_proj_qkvz", 12288, None),
        # query and gate of each head in turn
        ({"num_attention_heads": 16, "head_dim": 256}, "self_attn.q_proj", 8192, None),
        # a latent of 1024 is not two heads of 512
        (
            {"num_attention_heads": 64, "num_key_value_heads": 2, "head_dim": 512},
            "self_attn.q_a_proj",
            1024,
            None,
        ),
        ({"num_attention_heads": 64, "head_dim": 512}, "self_attn.q_b_proj", 32768, (64, 512)),
        (
            {"num_attention_heads": 8, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64},
            "self_attn.q_b_proj",
            1536,
            (8, 192),
        ),
        (  # Falcon-40B: 8 groups of 16 queries, a key and a value
            {
                "num_attention_heads": 128,
                "num_kv_heads": 8,
                "hidden_size": 8192,
                "multi_query": True,
                "new_decoder_architecture": True,
            },
            "self_attention.query_key_value",
            9216,
            (144, 64),
        ),
        (
            {"num_attention_heads": 71, "hidden_size": 4544, "multi_query": True},
            "self_attention.query_key_value",
            4672,
            (73, 64),
        ),
        ({"num_attention_heads": 12, "hidden_size": 768}, "attn.c_attn", 2304, (36, 64)),
        # fewer keys than queries, and a width of 3 * heads: another layout than q, k, v
        (
            {"num_attention_heads": 12, "num_key_value_heads": 4, "hidden_size": 768},
            "self_attn.qkv_proj",
            2304,
            None,
        ),
    ],
)
def test_heads_come_from_what_a_configuration_means(configuration, role, width, heads):
    split = split_heads(SimpleNamespace(**configuration), role, width, (width,))
    assert split == (heads or (None, None))


def test_flattened_outputs_are_found(tiny_loaded):
    assert roles(find_sites(tiny_loaded("opt")))["fc1"].token_axis == 0
    mixtral = roles(find_sites(tiny_loaded("mixtral")))
    assert (mixtral["mlp.experts"].width, mixtral["mlp.experts"].token_axis) == (24, 0)
    assert mixtral["mlp.gate"].width == 4


def test_mamba_says_what_it_leaves_out(tiny_loaded):
    table = find_sites(tiny_loaded("mamba"))
    skipped = dict(table.skipped)
    assert "not called" in skipped["backbone.layers.0.mixer.conv1d"]
    assert skipped["backbone.layers.0.mixer"].endswith("output of backbone.layers.0.mixer.out_proj")
    assert {"mixer.in_proj", "mixer.out_proj", "residual"} <= set(roles(table))


def test_dropout_is_left_out(tiny_loaded):
    skipped = dict(find_sites(tiny_loaded("gpt2")).skipped)
    assert skipped["transformer.drop"] == "passes its input on unchanged"


def test_experts_called_with_a_part_of_the_tokens_are_left_out(tiny_loaded):
    skipped = dict(find_sites(tiny_loaded("mixtral")).skipped)
    assert "model.layers.0.mlp.experts.act_fn" in skipped


def test_odd_modules_are_refused_by_name(tiny_model_dir):
    """A module called twice, one of varying width, one of integers, one never called."""
    from llm2bids.model.load import load_model

    class Twice(nn.Module):
        def __init__(self, inner, odd):
            super().__init__()
            self.inner, self.odd = inner, odd

        def forward(self, x):
            self.odd["twice"](x)
            self.odd["twice"](x)
            self.odd["varies"](x)
            self.odd["integers"](x)
            self.odd["heads"](x)
            self.odd["none"](x)
            return self.inner(x)

    class Varies(nn.Module):
        def forward(self, x):
            return x.new_zeros(len(x), x.shape[1], 3 + x.shape[1])

    class Integers(nn.Module):
        def forward(self, x):
            return x.argmax(dim=-1, keepdim=True)

    class Heads(nn.Module):
        def forward(self, x):
            return (x.unflatten(2, (3, 8)).transpose(1, 2), None)

    class Nothing(nn.Module):
        def forward(self, x):
            return None

    loaded = load_model(tiny_model_dir("llama"), device="cpu")
    odd = nn.ModuleDict(
        {
            "twice": nn.Tanh(),
            "varies": Varies(),
            "integers": Integers(),
            "heads": Heads(),
            "none": Nothing(),
            "idle": nn.Tanh(),
        }
    )
    loaded.model.model.norm = Twice(loaded.model.model.norm, odd)
    table = find_sites(loaded)
    skipped = {name.rpartition(".")[2]: why for name, why in table.skipped}
    assert skipped["twice"] == "called 2 + 2 + 2 times in 3 forward passes"
    assert skipped["varies"].startswith("width varies")
    assert skipped["integers"] == "output is not floating point"
    assert skipped["none"] == "output is not a tensor"
    assert skipped["idle"] == "not called"
    heads = next(site for site in table.sites if site.name.endswith("heads"))
    assert (heads.width, heads.token_axis) == (24, 2)


def test_layers_are_the_deep_list(tiny_loaded):
    assert find_layers(tiny_loaded("gpt2").model)[0] == "transformer.h"
    assert find_layers(tiny_loaded("mamba").model)[0] == "backbone.layers"
    with pytest.raises(ModelError, match="Linear: no list of layers"):
        find_layers(nn.Linear(2, 3))


@pytest.fixture(scope="module")
def table(tiny_loaded):
    return find_sites(tiny_loaded("llama"))


@pytest.mark.parametrize(
    ("patterns", "n_sites"),
    [
        (["all"], 35),
        (["residual"], 3),
        (["attention"], 12),
        (["mlp"], 12),
        (["attention", "mlp"], 24),
        (["attention,mlp"], 24),
        (["*.down_proj"], 3),
        (["mlp.down_proj", "mlp.down_proj"], 3),
        (["model.layers.[0-1].*"], 20),
        (["lm_head"], 1),
        (["all", "lm_head"], 36),
        (["all,!residual"], 32),
        (["!mlp"], 23),
    ],
)
def test_patterns(table, patterns, n_sites):
    chosen = select_sites(table, patterns)
    assert len(chosen) == n_sites
    order = [site.name for site in (*table.sites, *table.head)]
    assert [order.index(site.name) for site in chosen] == sorted(
        order.index(site.name) for site in chosen
    )


def test_the_head_comes_only_by_name(table):
    assert "lm_head" not in [site.name for site in select_sites(table, ["all"])]


def test_mlp_of_opt_has_no_block_of_its_own(tiny_loaded):
    chosen = select_sites(find_sites(tiny_loaded("opt")), ["mlp"])
    assert {site.role for site in chosen} == {"fc1", "activation_fn", "fc2"}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["mlp.downproj"], "matches no module; near it: mlp.down_proj"),
        (["resdual"], "near it: residual"),
        (["*rotary*"], "only modules that cannot be recorded: model.rotary_emb .a table"),
        (["residual,!all"], "no site remains"),
    ],
)
def test_patterns_that_give_nothing(table, patterns, message):
    with pytest.raises(ModelError, match=message):
        select_sites(table, patterns)


def test_preset_that_a_model_does_not_have(tiny_loaded):
    with pytest.raises(ModelError, match="'attention' matches no module"):
        select_sites(find_sites(tiny_loaded("mamba")), ["attention"])


def test_the_token_axis_is_not_part_of_a_sites_identity():
    kept = Site(name="a", layer=0, role="a", width=2)
    assert kept == Site(name="a", layer=0, role="a", width=2, token_axis=0)


def norms_of(loaded):
    """The norms of each site, by name."""
    sites = find_sites(loaded).sites
    stops = np.cumsum([site.width for site in sites])[:-1]
    parts = np.split(weight_norms(loaded, sites), stops)
    return {site.name: part for site, part in zip(sites, parts, strict=True)}


@pytest.mark.parametrize(
    ("architecture", "name", "expected"),
    [
        ("gpt2", "transformer.h.1.attn.c_attn", lambda w: np.linalg.norm(w, axis=0)),
        ("gpt2", "transformer.wte", lambda w: np.linalg.norm(w, axis=0)),
        ("gpt2", "transformer.h.1.ln_1", np.abs),
        ("qwen3", "model.layers.2.mlp.down_proj", lambda w: np.linalg.norm(w, axis=1)),
        ("qwen3", "model.layers.2.self_attn.q_norm", lambda w: np.tile(np.abs(w), 4)),
    ],
)
def test_weight_norms(architecture, name, expected, tiny_loaded):
    loaded = tiny_loaded(architecture)
    weight = loaded.model.get_parameter(f"{name}.weight").detach().numpy()
    np.testing.assert_allclose(norms_of(loaded)[name], expected(weight), rtol=1e-5)


def test_weight_norms_of_what_has_no_weights_are_the_median(tiny_loaded):
    norms = norms_of(tiny_loaded("gpt2"))
    act = norms["transformer.h.1.mlp.act"]
    assert np.unique(act).size == 1
    assert norms["transformer.h.1.ln_1"].min() < act[0]


@pytest.mark.parametrize("architecture", ["llama", "opt", "mamba", "mixtral", "gemma"])
def test_weight_norms_are_finite_and_fit(architecture, tiny_loaded):
    loaded = tiny_loaded(architecture)
    table = find_sites(loaded)
    norms = weight_norms(loaded, table.sites)
    assert norms.shape == (table.n_units,)
    assert norms.dtype == np.float32
    assert np.isfinite(norms).all()


def test_no_weights_at_all(tiny_loaded):
    loaded = tiny_loaded("llama")
    act = [site for site in find_sites(loaded).sites if site.role == "mlp.act_fn"]
    assert weight_norms(loaded, act).tolist() == [1.0] * 120


def test_a_model_without_outputs(tiny_model_dir, monkeypatch):
    from llm2bids.model.load import load_model

    loaded = load_model(tiny_model_dir("llama"), device="cpu")
    for module in loaded.model.modules():  # every module claims to have run many times
        if next(module.children(), None) is None:
            forward = module.forward
            module.forward = lambda *a, f=forward, m=module, **k: _again(m, f, *a, **k)
    for layer in loaded.model.model.layers:
        forward = layer.forward
        layer.forward = lambda *a, f=forward, m=layer, **k: _again(m, f, *a, **k)
    with pytest.raises(
        ModelError,
        match=r"none of its \d+ modules with an output can be recorded; most often: called",
    ):
        find_sites(loaded)


def _again(module, forward, *args, **kwargs):
    """Run a module, and its hooks once more than they would."""
    output = forward(*args, **kwargs)
    for hook in list(module._forward_hooks.values()):
        hook(module, args, output)
    return output


def test_probing_leaves_no_hooks_and_no_random_state(tiny_loaded):
    loaded = tiny_loaded("llama")

    def hooks():  # transformers leaves some of its own, once a hidden state was asked for
        return [(*m._forward_hooks, *m._forward_pre_hooks) for m in loaded.model.modules()]

    before, state = hooks(), torch.random.get_rng_state()
    assert isinstance(find_sites(loaded), SiteTable)
    assert torch.equal(state, torch.random.get_rng_state())
    assert hooks() == before
