"""Fine-tuning a few weights for a few steps, and putting the model back as it was."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llm2bids.exceptions import InterventionError
from llm2bids.model.gradients import mean_nll
from llm2bids.model.load import LoadedModel
from llm2bids.model.neurons import NeuronLayer, NeuronPart, projection_sizes

Texts = Sequence[Sequence[int]]


@contextmanager
def trained_rows(
    loaded: LoadedModel,
    layers: Sequence[NeuronLayer],
    chosen: Sequence[npt.NDArray[np.bool_]],
    batches: Sequence[Texts],
    *,
    learning_rate: float,
) -> Iterator[list[float]]:
    """Train the weights of chosen neurons with Adam, one step a batch, for the length of a block.

    `chosen`: (n_neurons,) for each layer. What is trained is added by hooks, so that only the
    chosen rows and columns need gradients, and nothing has to be put back.
    """
    with ExitStack() as stack:
        changes: list[nn.Parameter] = []
        for layer, neurons in zip(layers, chosen, strict=True):
            for part in layer.parts if neurons.any() else ():
                name, _, kind = part.parameter.rpartition(".")
                module = loaded.model.get_submodule(name)
                index = torch.from_numpy(np.flatnonzero(neurons)).to(module.weight.device)
                n_in, n_out = projection_sizes(module)
                size = {"bias": ()}.get(kind, (n_out if part.is_output else n_in,))
                change = nn.Parameter(module.weight.new_zeros((len(index), *size)))
                hook = _added(part, index, change)
                stack.callback(module.register_forward_hook(hook).remove)
                changes.append(change)
        yield _train(loaded, changes, batches, learning_rate)


def row_size(layers: Sequence[NeuronLayer], loaded: LoadedModel) -> int:
    """Count the parameters of one neuron; the smallest where layers differ."""
    parameters = dict(loaded.model.named_parameters())
    sizes = [
        sum(
            parameters[part.parameter].numel() // parameters[part.parameter].shape[part.axis]
            for part in layer.parts
        )
        for layer in layers
    ]
    return int(min(sizes))


def _added(part: NeuronPart, index: Tensor, change: Tensor) -> Any:
    """Make the hook that adds what was learned, (n_chosen, n_inputs or n_outputs)."""

    def add(module: nn.Module, args: Any, output: Any) -> Any:
        if part.is_output:
            return output + args[0][..., index] @ change
        values = change if change.dim() == 1 else args[0] @ change.T
        return output.index_add(-1, index + part.start, values.expand(*output.shape[:-1], -1))

    return add


@contextmanager
def trained_lora(
    loaded: LoadedModel,
    modules: Sequence[str],
    batches: Sequence[Texts],
    *,
    rank: int,
    learning_rate: float,
    seed: int,
) -> Iterator[list[float]]:
    """Train a LoRA (Hu et al. 2021, arXiv:2106.09685) of some projections, as `trained_rows`.

    The second matrix begins with zeros, the scale is 1, as with peft's ``lora_alpha = r``.
    """
    generator = torch.Generator().manual_seed(seed)
    with ExitStack() as stack:
        factors: list[nn.Parameter] = []
        for name in modules:
            module = loaded.model.get_submodule(name.removesuffix(".weight"))
            n_in, n_out = projection_sizes(module)
            device, dtype = module.weight.device, module.weight.dtype
            first = (torch.rand(rank, n_in, generator=generator) * 2 - 1) / math.sqrt(n_in)
            down = nn.Parameter(first.to(device=device, dtype=dtype))
            up = nn.Parameter(torch.zeros(n_out, rank, device=device, dtype=dtype))
            stack.callback(module.register_forward_hook(_low_rank(down, up)).remove)
            factors += [down, up]
        yield _train(loaded, factors, batches, learning_rate)


def lora_size(loaded: LoadedModel, modules: Sequence[str]) -> int:
    """Count the parameters of a LoRA of rank 1."""
    sizes = (
        projection_sizes(loaded.model.get_submodule(name.removesuffix(".weight")))
        for name in modules
    )
    return sum(n_in + n_out for n_in, n_out in sizes)


def _low_rank(down: Tensor, up: Tensor) -> Any:
    def add(module: nn.Module, args: Any, output: Any) -> Any:
        return output + args[0] @ down.T @ up.T

    return add


def _train(
    loaded: LoadedModel,
    parameters: Sequence[nn.Parameter],
    batches: Sequence[Texts],
    learning_rate: float,
) -> list[float]:
    """Take one step a batch; give the loss before each."""
    optimizer = torch.optim.Adam(list(parameters), lr=learning_rate)
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
    return losses
