"""Gradients of the likelihood of texts, and what they say of a weight before anything is trained.

To first order a step of an optimiser that normalises gradients (Adam, sign descent) along the
training texts lowers the NLL of another text by the sum of sign(g_train) * g_text over the trained
weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llm2bids.exceptions import InterventionError
from llm2bids.model.generate import padded, text_logits
from llm2bids.model.hooks import forward_errors
from llm2bids.model.load import LoadedModel
from llm2bids.model.neurons import NeuronLayer, neuron_sums, parameter_names

Floats = npt.NDArray[np.float64]
OnText = Callable[[int], object]


@dataclass(frozen=True, kw_only=True, eq=False)
class Gains:
    """What gradients say of each MLP neuron and of each weight matrix of the layers."""

    fisher: Floats  # (n_neurons,): squared gradient of a training text, mean over texts
    gains: Mapping[str, Floats]  # by text set, (n_texts, n_neurons): first-order gain
    modules: tuple[str, ...]
    sizes: npt.NDArray[np.int64]  # (n_modules,): parameters
    module_fisher: Floats  # (n_modules,)
    module_gains: Mapping[str, Floats]  # by text set, (n_texts, n_modules)


@contextmanager
def trainable(loaded: LoadedModel, names: Sequence[str]) -> Iterator[dict[str, nn.Parameter]]:
    """Let some parameters have gradients for the length of a ``with`` block."""
    parameters = {
        name: parameter for name, parameter in loaded.model.named_parameters() if name in set(names)
    }
    if loaded.quantization and not all(p.is_floating_point() for p in parameters.values()):
        raise InterventionError(
            f"model {loaded.name}: its weights are {loaded.quantization} and have no gradients; "
            "expected floating point: take the unquantized model"
        )
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        yield parameters
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None


def mean_nll(loaded: LoadedModel, texts: Sequence[Sequence[int]]) -> Tensor:
    """Give the NLL per token (nats) of texts, mean over texts, as a scalar with a gradient."""
    token_ids, mask = padded(texts, loaded, left=False)
    with forward_errors(loaded):
        logits = text_logits(loaded, token_ids, mask)
    targets = token_ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    nll = nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, reduction="none"
    )
    counted = (targets != -100).sum(dim=1)
    return (nll.sum(dim=1) / counted).mean()


def layer_weights(loaded: LoadedModel, prefix: str) -> tuple[str, ...]:
    """List the weight matrices of the decoder layers, those of stacked experts among them."""
    return tuple(
        name
        for name, parameter in loaded.model.named_parameters()
        if name.startswith(prefix + ".") and parameter.dim() >= 2 and parameter.is_floating_point()
    )


def first_order_gains(
    loaded: LoadedModel,
    layers: Sequence[NeuronLayer],
    modules: Sequence[str],
    training: Sequence[Sequence[int]],
    testing: Mapping[str, Sequence[Sequence[int]]],
    *,
    on_text: OnText = lambda n: None,
) -> Gains:
    """Measure each neuron's and each weight matrix's gain, with one backward pass a text."""
    names = tuple(dict.fromkeys([*parameter_names(layers), *modules]))
    n_neurons = sum(layer.width for layer in layers)
    fisher, module_fisher = np.zeros(n_neurons), np.zeros(len(modules))
    gains = {name: np.zeros((len(texts), n_neurons)) for name, texts in testing.items()}
    module_gains = {name: np.zeros((len(texts), len(modules))) for name, texts in testing.items()}

    def summed(values: dict[str, Tensor]) -> tuple[Floats, Floats]:
        neurons = [neuron_sums(layer, values).numpy() for layer in layers]
        whole = [float(values[name].sum()) for name in modules]
        return np.concatenate([np.zeros(0), *neurons]), np.array(whole)

    with trainable(loaded, names) as parameters:
        total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for text in training:
            grads = _gradients(loaded, text, parameters)
            neurons, whole = summed({name: grad.square() for name, grad in grads.items()})
            fisher += neurons / len(training)
            module_fisher += whole / len(training)
            for name, grad in grads.items():
                total[name] += grad
            on_text(1)
        directions = {name: grad.sign_() for name, grad in total.items()}
        for kind, texts in testing.items():
            for row, text in enumerate(texts):
                grads = _gradients(loaded, text, parameters)
                for name, grad in grads.items():
                    grad *= directions[name]
                gains[kind][row], module_gains[kind][row] = summed(grads)
                on_text(1)
        sizes = np.array([parameters[name].numel() for name in modules], dtype=np.int64)
    return Gains(
        fisher=fisher, gains=gains, modules=tuple(modules), sizes=sizes,
        module_fisher=module_fisher, module_gains=module_gains,
    )  # fmt: skip


def _gradients(
    loaded: LoadedModel, text: Sequence[int], parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    grads = torch.autograd.grad(
        mean_nll(loaded, [text]), list(parameters.values()), allow_unused=True
    )
    return {  # an expert that no token of the text went to has no gradient
        name: torch.zeros_like(parameter) if grad is None else grad.detach()
        for (name, parameter), grad in zip(parameters.items(), grads, strict=True)
    }
