"""Gradients of the likelihood of texts: what they say of a weight, and a few steps along them.

To first order a step of an optimiser that normalises gradients (Adam, sign descent) along the
training texts lowers the NLL of another text by the sum of sign(g_train) * g_text over the trained
weights.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llm2bids.exceptions import InterventionError
from llm2bids.model.generate import text_logits
from llm2bids.model.hooks import Hook, forward_errors
from llm2bids.model.load import LoadedModel
from llm2bids.model.weights import (
    NeuronLayer,
    NeuronPart,
    neuron_sums,
    parameter_names,
    weight_rows,
)

Floats = npt.NDArray[np.float64]
Texts = Sequence[Sequence[int]]

# A module, the hook that adds to its output, and the parameters of what is added.
Added = tuple[nn.Module, Hook, list[nn.Parameter]]


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
    parameters = {name: loaded.model.get_parameter(name) for name in names}
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


def mean_nll(loaded: LoadedModel, texts: Texts) -> Tensor:
    """Give the NLL per token (nats) of texts, mean over texts, as a scalar with a gradient."""
    with forward_errors(loaded):
        token_ids, mask, logits = text_logits(loaded, texts)
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
    training: Texts,
    testing: Mapping[str, Texts],
    *,
    on_text: Callable[[int], object] = lambda n: None,
) -> Gains:
    """Measure each neuron's and each weight matrix's gain, with one backward pass a text."""
    names = tuple(dict.fromkeys([*parameter_names(layers), *modules]))
    n_neurons = sum(layer.width for layer in layers)
    n_sums = n_neurons + len(modules)

    def sums(values: dict[str, Tensor]) -> Floats:
        """Sum over each neuron, then over each module, (n_sums,)."""
        neurons = [neuron_sums(layer, values).numpy() for layer in layers]
        return np.concatenate([*neurons, [float(values[name].sum()) for name in modules]])

    fisher = np.zeros(n_sums)
    gains = {name: np.zeros((len(texts), n_sums)) for name, texts in testing.items()}
    with trainable(loaded, names) as parameters:
        total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for text in training:
            grads = _gradients(loaded, text, parameters)
            fisher += sums({name: grad.square() for name, grad in grads.items()}) / len(training)
            for name, grad in grads.items():
                total[name] += grad
            on_text(1)
        directions = {name: grad.sign_() for name, grad in total.items()}
        for kind, texts in testing.items():
            for row, text in enumerate(texts):
                grads = _gradients(loaded, text, parameters)
                gains[kind][row] = sums({n: grad.mul_(directions[n]) for n, grad in grads.items()})
                on_text(1)
        sizes = np.array([parameters[name].numel() for name in modules], dtype=np.int64)
    return Gains(
        fisher=fisher[:n_neurons],
        gains={kind: values[:, :n_neurons] for kind, values in gains.items()},
        modules=tuple(modules),
        sizes=sizes,
        module_fisher=fisher[n_neurons:],
        module_gains={kind: values[:, n_neurons:] for kind, values in gains.items()},
    )


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


@contextmanager
def trained(
    loaded: LoadedModel, added: Iterable[Added], batches: Sequence[Texts], *, learning_rate: float
) -> Iterator[list[float]]:
    """Train with Adam, one step a batch, for the length of a block; gives the loss before each.

    What is trained is added by hooks: only that needs gradients, and nothing has to be put back.
    """
    with ExitStack() as stack:
        parameters: list[nn.Parameter] = []
        for module, hook, own in added:
            stack.enter_context(module.register_forward_hook(hook))
            parameters += own
        optimizer = torch.optim.Adam(parameters, lr=learning_rate)
        losses = []
        for step, batch in enumerate(batches):
            optimizer.zero_grad(set_to_none=True)
            loss = mean_nll(loaded, batch)
            if not torch.isfinite(loss):
                raise InterventionError(
                    f"training of {loaded.name}: the loss of step {step + 1} is {loss.item()}; "
                    f"expected a number: lower the learning rate ({learning_rate:g})"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        yield losses


def added_rows(
    loaded: LoadedModel, layers: Sequence[NeuronLayer], chosen: Sequence[npt.NDArray[np.bool_]]
) -> Iterator[Added]:
    """Make what is trained of the weights of chosen neurons, (n_neurons,) of each layer."""
    for layer, neurons in zip(layers, chosen, strict=True):
        for part in layer.parts if neurons.any() else ():
            name, _, kind = part.parameter.rpartition(".")
            module = loaded.model.get_submodule(name)
            index = torch.from_numpy(np.flatnonzero(neurons)).to(module.weight.device)
            n_out, n_in = weight_rows(module).shape
            size = () if kind == "bias" else (n_out if part.is_output else n_in,)
            change = nn.Parameter(module.weight.new_zeros((len(index), *size)))
            yield module, _row_hook(part, index, change), [change]


def _row_hook(part: NeuronPart, index: Tensor, change: Tensor) -> Hook:
    """Make the hook that adds what was learned, (n_chosen, n_inputs or n_outputs)."""

    def add(module: nn.Module, args: Any, output: Any) -> Any:
        if part.is_output:
            return output + args[0][..., index] @ change
        values = change if change.dim() == 1 else args[0] @ change.T
        return output.index_add(-1, index + part.start, values.expand(*output.shape[:-1], -1))

    return add


def added_lora(
    loaded: LoadedModel, weights: Sequence[str], *, rank: int, seed: int
) -> Iterator[Added]:
    """Make a LoRA (Hu et al. 2021, arXiv:2106.09685) of some projections.

    The second matrix begins with zeros, the scale is 1, as with peft's ``lora_alpha = r``.
    """
    generator = torch.Generator().manual_seed(seed)
    for name in weights:
        module = loaded.model.get_submodule(name.removesuffix(".weight"))
        n_out, n_in = weight_rows(module).shape
        first = (torch.rand(rank, n_in, generator=generator) * 2 - 1) / math.sqrt(n_in)
        down = nn.Parameter(first.to(module.weight))
        up = nn.Parameter(module.weight.new_zeros(n_out, rank))

        def add(_: Any, args: Any, output: Any, down: Tensor = down, up: Tensor = up) -> Any:
            return output + args[0] @ down.T @ up.T

        yield module, add, [down, up]


def row_size(layers: Sequence[NeuronLayer], loaded: LoadedModel) -> int:
    """Count the parameters of one neuron; the smallest where layers differ."""
    get = loaded.model.get_parameter
    sizes = (
        sum(get(p.parameter).numel() // get(p.parameter).shape[p.axis] for p in layer.parts)
        for layer in layers
    )
    return int(min(sizes))


def lora_size(loaded: LoadedModel, weights: Sequence[str]) -> int:
    """Count the parameters of a LoRA of rank 1."""
    return sum(sum(loaded.model.get_parameter(name).shape) for name in weights)
