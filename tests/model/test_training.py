"""Neurons and their weights, first-order gains, and training that is undone."""

import numpy as np
import pytest
import torch

from llm2bids.exceptions import InterventionError
from llm2bids.model.read import text_nll
from llm2bids.model.sites import find_layers, find_sites
from llm2bids.model.tokenizer import encode
from llm2bids.model.training import (
    added_lora,
    added_rows,
    first_order_gains,
    layer_weights,
    lora_size,
    mean_nll,
    row_size,
    trained,
)
from llm2bids.model.weights import mlp_neurons, neuron_masks, parameter_names
from tests.tiny_models import TEXTS

ACTIVATIONS = {
    "llama": "mlp.act_fn",
    "gemma": "mlp.act_fn",
    "gpt2": "mlp.act",
    "opt": "activation_fn",
    "gpt_neox": "mlp.act",
}


def neurons_of(loaded, architecture):
    sites = [s for s in find_sites(loaded).sites if s.role == ACTIVATIONS[architecture]]
    return mlp_neurons(loaded.model, sites)


def chosen_of(layers, *units):
    return [np.isin(np.arange(layer.width), units) for layer in layers]


@pytest.mark.parametrize("architecture", ACTIVATIONS)
def test_without_its_weights_a_neuron_is_silent(tiny_loaded, architecture):
    loaded = tiny_loaded(architecture)
    layers = neurons_of(loaded, architecture)
    # three matrices, or two and a bias
    assert [len(layer.parts) for layer in layers] == [3, 3, 3]
    masks = neuron_masks(loaded.model, layers, chosen_of(layers, 5))
    parameters = dict(loaded.model.named_parameters())
    kept = {name: parameters[name].clone() for name in masks}
    seen = {}

    def note(module, args, output):
        seen["inputs"] = args[0]

    layer = layers[1]
    outward = next(part for part in layer.parts if part.is_output)
    handle = loaded.model.get_submodule(
        outward.parameter.removesuffix(".weight")
    ).register_forward_hook(note)
    text = torch.tensor([encode(loaded, TEXTS[0])])
    try:
        with torch.no_grad():
            for name, mask in masks.items():
                parameters[name][mask] = 0
            loaded.model(input_ids=text)
            assert not seen["inputs"][..., 5].any()  # gate, up and bias all 0: nothing comes out
            assert seen["inputs"][..., 4].any()
            assert not masks[outward.parameter].all(dim=outward.axis).any()
    finally:
        handle.remove()
        with torch.no_grad():
            for name, value in kept.items():
                parameters[name].copy_(value)


def test_units_that_are_no_neurons_are_refused(tiny_loaded):
    loaded = tiny_loaded("llama")
    sites = [s for s in find_sites(loaded).sites if s.role == "self_attn.q_proj"]
    with pytest.raises(InterventionError, match=r"no neurons of an MLP; expected the sites of"):
        mlp_neurons(loaded.model, sites)


def test_mean_nll_is_that_of_the_texts_one_by_one(tiny_loaded):
    loaded = tiny_loaded("llama")
    texts = [encode(loaded, text) for text in TEXTS[:4]]
    alone = np.mean([nll.mean() for nll in text_nll(loaded, texts)])
    assert float(mean_nll(loaded, texts)) == pytest.approx(alone, abs=1e-5)


def test_first_order_gain_is_what_a_small_step_gains(tiny_loaded):
    loaded = tiny_loaded("llama")
    layers = neurons_of(loaded, "llama")
    texts = [encode(loaded, text) for text in TEXTS]
    modules = layer_weights(loaded, find_layers(loaded.model)[0])
    assert len(modules) == 3 * 7
    gains = first_order_gains(loaded, layers, modules, texts[:3], {"own": texts[3:5]})
    unit, step = 17, 1e-3
    with torch.enable_grad():
        parameters = dict(loaded.model.named_parameters())
        masks = neuron_masks(loaded.model, layers, chosen_of(layers, unit))
        for name in masks:
            parameters[name].requires_grad_(True)
        sum(mean_nll(loaded, [text]) for text in texts[:3]).backward()
        signs = {name: parameters[name].grad.sign() * masks[name] for name in masks}
    before = [nll.mean() for nll in text_nll(loaded, texts[3:5])]
    with torch.no_grad():
        for name, sign in signs.items():
            parameters[name].grad = None
            parameters[name].requires_grad_(False)
            parameters[name] -= step * sign
    after = [nll.mean() for nll in text_nll(loaded, texts[3:5])]
    with torch.no_grad():
        for name, sign in signs.items():
            parameters[name] += step * sign
    columns = [unit + sum(layer.width for layer in layers[:index]) for index in range(3)]
    predicted = gains.gains["own"][:, columns].sum(axis=1)
    np.testing.assert_allclose(np.subtract(before, after) / step, predicted, rtol=0.05)
    # a matrix is the sum of its rows, and the neurons' three matrices are all that they have
    mlp = [index for index, name in enumerate(modules) if ".mlp." in name]
    np.testing.assert_allclose(
        gains.gains["own"].sum(axis=1), gains.module_gains["own"][:, mlp].sum(axis=1), rtol=1e-4
    )
    np.testing.assert_allclose(gains.fisher.sum(), gains.module_fisher[mlp].sum(), rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_trained_rows_are_those_of_masked_gradients(tiny_loaded, architecture):
    """Added by hooks or changed in place: the same training."""
    loaded = tiny_loaded(architecture)
    layers = neurons_of(loaded, architecture)
    chosen = chosen_of(layers, 3, 9)
    texts = [encode(loaded, text) for text in TEXTS]
    batches = [texts[:3], texts[3:5]]
    before = text_nll(loaded, texts)
    added = added_rows(loaded, layers, chosen)
    with trained(loaded, added, batches, learning_rate=0.02) as losses:
        after = text_nll(loaded, texts)
    for nll, again in zip(before, text_nll(loaded, texts), strict=True):
        np.testing.assert_array_equal(nll, again)

    masks = neuron_masks(loaded.model, layers, chosen)
    parameters = {n: p for n, p in loaded.model.named_parameters() if n in masks}
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with torch.enable_grad():
            for name, parameter in parameters.items():
                parameter.requires_grad_(True)
                parameter.register_hook(lambda grad, mask=masks[name]: grad * mask)
            optimizer = torch.optim.Adam(parameters.values(), lr=0.02)
            for batch, loss in zip(batches, losses, strict=True):
                optimizer.zero_grad()
                own = mean_nll(loaded, batch)
                own.backward()
                optimizer.step()
                assert float(own.detach()) == pytest.approx(loss, abs=1e-4)
        for mine, theirs in zip(after, text_nll(loaded, texts), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=2e-3)
        for name, parameter in parameters.items():
            changed = parameter.detach() != kept[name]
            assert changed.any() and not (changed & ~masks[name]).any()
    finally:
        for name, parameter in parameters.items():
            parameter._backward_hooks.clear()
            parameter.requires_grad_(False)
            parameter.grad = None
            parameter.detach().copy_(kept[name])
    entries = sum(int(mask.sum()) for mask in masks.values())
    assert entries == 2 * 3 * row_size(layers, loaded)


def test_lora_is_trained_and_gone_afterwards(tiny_loaded):
    loaded = tiny_loaded("llama")
    names = parameter_names(neurons_of(loaded, "llama"))
    assert lora_size(loaded, names) == 3 * 3 * (24 + 40)
    texts = [encode(loaded, text) for text in TEXTS]

    def loss():
        return mean_nll(loaded, texts[:2]).item()

    before = loss()
    batches = [texts[:2]] * 4
    added = added_lora(loaded, names, rank=2, seed=1)
    with trained(loaded, added, batches, learning_rate=0.02) as losses:
        assert losses[0] == pytest.approx(before, abs=1e-6)  # the second factor begins with 0
        assert loss() < before - 0.1
    assert loss() == before


def test_training_that_gives_no_number_is_stopped(tiny_loaded):
    loaded = tiny_loaded("llama")
    layers = neurons_of(loaded, "llama")
    batches = [[encode(loaded, TEXTS[0])]] * 3
    added = added_rows(loaded, layers, chosen_of(layers, 1))
    with (
        pytest.raises(InterventionError, match=r"loss of step \d is (nan|inf).*learning rate"),
        trained(loaded, added, batches, learning_rate=1e30),
    ):
        pass
