"""Routers' sites hold probabilities of all experts, as each architecture makes them."""

import pytest
import torch

from llm2bids.model.exactness import exact_sites
from llm2bids.model.hooks import required_tensor
from llm2bids.model.load import load_model
from llm2bids.model.probe import plain_tokens
from llm2bids.model.sites import find_sites
from llm2bids.recording.record import record_run
from tests.synthetic import make_design
from tests.tiny_models import save_architecture

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of old architectures

QUICK = {
    "deepseek_v3": ("mlp.gate", "sigmoid"),
    "deepseek_v4": ("mlp.gate", "sqrtsoftplus"),
    "gpt_oss": ("mlp.router", "softmax"),
    "granitemoe": ("block_sparse_moe.router", "softmax"),
    "hunyuan_v1_moe": ("mlp.gate.wg", "softmax"),
    "longcat_flash": ("mlp.router", "softmax"),
    "qwen3_moe": ("mlp.gate", "softmax"),
}
"""Architecture -> the router's site, and what it makes of its scores (by their source code)."""

OTHERS = {
    **dict.fromkeys(("axk1", "axk2", "bailing_hybrid", "beam", "dots1"), ("mlp.gate", "sigmoid")),
    **dict.fromkeys(("deepseek_v32", "dots3_note_text", "exaone_moe"), ("mlp.gate", "sigmoid")),
    **dict.fromkeys(("flint", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa"), ("mlp.gate", "sigmoid")),
    **dict.fromkeys(("hy_v3", "hy_v4", "kimi_linear", "kolibri1"), ("mlp.gate", "sigmoid")),
    **dict.fromkeys(("laguna", "mimo_v2_flash", "minimax_m2"), ("mlp.gate", "sigmoid")),
    **dict.fromkeys(("sarvam_mla", "sarvam_moe", "solar_open"), ("mlp.gate", "sigmoid")),
    **dict.fromkeys(("cohere2_moe", "deepseek_v2", "ernie4_5_moe"), ("mlp.gate", "softmax")),
    **dict.fromkeys(("flex_olmo", "lara_mini", "mellum", "minimax"), ("mlp.gate", "softmax")),
    **dict.fromkeys(("mixtral", "olmoe", "qwen2_moe", "qwen3_5_moe"), ("mlp.gate", "softmax")),
    **dict.fromkeys(("qwen3_5_moe_text", "qwen3_next"), ("mlp.gate", "softmax")),
    **dict.fromkeys(
        ("granitemoe_swa", "granitemoehybrid", "granitemoeshared"),
        ("block_sparse_moe.router", "softmax"),
    ),
    "afmoe": ("mlp.router.gate", "sigmoid"),
    "aria_text": ("mlp.router", "softmax"),
    "jamba": ("feed_forward.router", "softmax"),
    "lfm2_moe": ("feed_forward.gate", "sigmoid"),
    "minimax_m3_vl_text": ("mlp.gate", "sigmoid"),
    "nemotron_h": ("mixer.gate", "sigmoid"),
}


def routers(name, tmp_path):
    """Save a tiny model, and list the sites of its routers."""
    loaded = load_model(save_architecture(name, tmp_path / name), device="cpu")
    sites = [site for site in find_sites(loaded).sites if site.scores is not None]
    return loaded, sites


def outputs(loaded, names):
    """What modules return in a plain forward pass over a few tokens, by name."""
    kept = {}
    handles = [
        loaded.model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: kept.__setitem__(name, output)
        )
        for name in names
    ]
    with torch.no_grad():
        loaded.model(input_ids=plain_tokens(loaded, 3, 11), use_cache=False)
    for handle in handles:
        handle.remove()
    return kept


@pytest.mark.parametrize(
    ("name", "role", "function"),
    [
        *((name, *expected) for name, expected in QUICK.items()),
        *(
            pytest.param(name, *expected, marks=pytest.mark.slow)
            for name, expected in OTHERS.items()
        ),
    ],
)
def test_probabilities_are_what_the_chosen_experts_are_weighted_by(name, role, function, tmp_path):
    loaded, sites = routers(name, tmp_path)
    assert {(site.role, site.scores.function) for site in sites} == {(role, function)}
    top = [site.name.removesuffix(".wg").removesuffix("router.gate") for site in sites]
    top = [name + "router" if name.endswith(".mlp.") else name for name in top]
    returned = outputs(loaded, {*top, *(site.name for site in sites)})
    for site, router in zip(sites, top, strict=True):
        probabilities = required_tensor(returned[site.name], site)
        assert probabilities.shape == (33, site.width)
        assert probabilities.min() >= 0
        if function == "softmax":
            torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(33))
        _, weights, chosen = returned[router][:3]
        expected = probabilities.gather(1, chosen)
        torch.testing.assert_close(
            expected / expected.sum(dim=-1, keepdim=True),
            (weights / weights.sum(dim=-1, keepdim=True)).float(),
            rtol=1e-4,
            atol=1e-6,
        )


def test_llama4_returns_only_those_of_chosen_experts(tmp_path):
    loaded, sites = routers("llama4_text", tmp_path)
    assert {(site.role, site.width) for site in sites} == {("feed_forward.router", 4)}
    for name, (masked, scores) in outputs(loaded, [site.name for site in sites]).items():
        site = next(site for site in sites if site.name == name)
        probabilities = required_tensor((masked, scores), site)
        torch.testing.assert_close(probabilities, scores.sigmoid())
        assert (probabilities > 0).all()
        torch.testing.assert_close(probabilities[masked > 0], masked[masked > 0])


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("jetmoe", {"mlp.router.layer", "self_attention.experts.router.layer"}),
        ("phimoe", {"mlp.router"}),
        ("gemma4-moe", {"router.proj"}),
        ("dbrx", {"ffn.router.layer"}),
        ("zaya", {"mlp.gate", "mlp.gate.router_mlp.out_proj"}),
    ],
)
def test_other_routers(name, roles, tmp_path):
    """Softmax over all experts, whatever follows: only the chosen ones, or an expert to skip."""
    loaded, sites = routers(name, tmp_path)
    assert {site.role for site in sites} == roles
    for name, output in outputs(loaded, [site.name for site in sites]).items():
        site = next(site for site in sites if site.name == name)
        scores = output if isinstance(output, torch.Tensor) else output[0]
        torch.testing.assert_close(required_tensor(output, site), scores.softmax(dim=-1))


def test_gemma4_returns_its_probabilities_itself(tmp_path):
    loaded, sites = routers("gemma4-moe", tmp_path)
    names = [site.name for site in sites]
    routers_of = [name.removesuffix(".proj") for name in names]
    returned = outputs(loaded, [*names, *routers_of])
    for site, router in zip(sites, routers_of, strict=True):
        torch.testing.assert_close(required_tensor(returned[site.name], site), returned[router][0])


@pytest.mark.parametrize("name", ["mixtral", "llama4_text", "jetmoe", "deepseek_v3"])
def test_recorded_values_are_probabilities(name, tmp_path):
    loaded, table, exactness = exact_sites(
        load_model(save_architecture(name, tmp_path / name), device="cpu")
    )
    sites = [site for site in table.sites if site.scores is not None]
    assert exactness.metadata()["RouterProbabilities"] == {
        site.name: site.scores.function for site in sites
    }
    values = record_run(loaded, make_design(), sites).values
    assert 0 <= values.min() < values.max() <= 1
    sums = values.reshape(len(values), len(sites), 4).sum(axis=2)
    assert (abs(sums - 1) < 1e-5).all() == (sites[0].scores.function == "softmax")


def test_a_model_without_experts_has_no_probabilities(tiny_loaded):
    assert all(site.scores is None for site in find_sites(tiny_loaded("llama")).sites)


@pytest.mark.filterwarnings("ignore")
def test_routing_that_mixes_tokens_is_refused(tmp_path):
    """Doge's router sees other tokens in a forward pass than in generation."""
    from llm2bids.exceptions import ModelError

    loaded = load_model(save_architecture("doge-moe", tmp_path / "doge"), device="cpu")
    with pytest.raises(ModelError, match="doge"):
        exact_sites(loaded)
