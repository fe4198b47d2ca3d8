"""MLP neurons: which rows and columns of which weights belong to each, found by their shapes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llm2bids.exceptions import InterventionError
from llm2bids.model.load import LoadedModel
from llm2bids.model.units import Site


@dataclass(frozen=True, kw_only=True)
class NeuronPart:
    """Entries of a layer's neurons in one parameter: index `start + neuron` of `axis`."""

    parameter: str
    axis: int
    start: int = 0
    is_output: bool = False  # of the down projection: what a neuron writes


@dataclass(frozen=True, kw_only=True)
class NeuronLayer:
    """The MLP neurons of one layer; neuron ``i`` is unit ``i`` of `site`."""

    site: Site
    parts: tuple[NeuronPart, ...]

    @property
    def width(self) -> int:
        """Number of neurons."""
        return self.site.width


def mlp_neurons(loaded: LoadedModel, sites: Sequence[Site]) -> tuple[NeuronLayer, ...]:
    """Find the weights of the neurons whose activations these sites are."""
    layers = []
    for site in sites:
        parent = site.name.rpartition(".")[0]
        parts = _parts(loaded.model, parent, site.width)
        if not any(part.is_output for part in parts) or all(part.is_output for part in parts):
            raise InterventionError(
                f"site {site.name}: no weights with {site.width} rows and with {site.width} "
                f"columns beside it in {parent}: its units are no neurons of an MLP; expected the "
                "sites of the MLP's activation function (--sites act_fn)"
            )
        layers.append(NeuronLayer(site=site, parts=parts))
    return tuple(layers)


def _parts(model: nn.Module, parent: str, width: int) -> tuple[NeuronPart, ...]:
    """Find the projections into and out of `width` neurons among a module's children."""
    weights = [
        (f"{parent}.{name}", child, projection_sizes(child))
        for name, child in model.get_submodule(parent).named_children()
    ]
    linear = [(name, child, sizes) for name, child, sizes in weights if sizes != (0, 0)]
    # where an MLP is as wide as the stream, the last projection is the one out of it
    outward = next((name for name, _, (n_in, _) in reversed(linear) if n_in == width), None)
    parts = []
    for name, child, (n_in, n_out) in linear:
        transposed = is_transposed(child)
        if name == outward:
            parts.append(
                NeuronPart(parameter=f"{name}.weight", axis=0 if transposed else 1, is_output=True)
            )
        elif n_out in (width, 2 * width) and n_in != width:
            starts = range(0, n_out, width)  # gate and up projection may be fused
            axis = 1 if transposed else 0
            parts += [
                NeuronPart(parameter=f"{name}.weight", axis=axis, start=start) for start in starts
            ]
            if child.bias is not None:
                parts += [
                    NeuronPart(parameter=f"{name}.bias", axis=0, start=start) for start in starts
                ]
    return tuple(parts)


def is_transposed(module: nn.Module) -> bool:
    """Tell whether a module stores its weight as inputs x outputs: transformers' Conv1D (GPT-2)."""
    return type(module).__name__ == "Conv1D"


def projection_sizes(module: nn.Module) -> tuple[int, int]:
    """Give a projection's numbers of inputs and outputs; 0 and 0 for another module."""
    weight = module._parameters.get("weight")
    if weight is None or weight.dim() != 2 or not hasattr(module, "bias"):
        return 0, 0
    first, second = weight.shape
    return (first, second) if is_transposed(module) else (second, first)


def neuron_sums(layer: NeuronLayer, values: "dict[str, Tensor]") -> Tensor:
    """Sum values of the parameters over each neuron's entries, (n_neurons,) in float64."""
    total = torch.zeros(layer.width, dtype=torch.float64)
    for part in layer.parts:
        taken = values[part.parameter].narrow(part.axis, part.start, layer.width)
        rest = [axis for axis in range(taken.dim()) if axis != part.axis]
        total += (taken.sum(dim=rest) if rest else taken).cpu().double()
    return total


def parameter_names(layers: Iterable[NeuronLayer]) -> tuple[str, ...]:
    """List the parameters that neurons have entries in, each once."""
    return tuple(dict.fromkeys(part.parameter for layer in layers for part in layer.parts))


def neuron_masks(
    loaded: LoadedModel, layers: Sequence[NeuronLayer], chosen: Sequence[npt.NDArray[np.bool_]]
) -> dict[str, Tensor]:
    """Mark the entries of chosen neurons, (n_neurons,) for each layer, by parameter."""
    parameters = dict(loaded.model.named_parameters())
    masks: dict[str, Tensor] = {}
    for layer, neurons in zip(layers, chosen, strict=True):
        for part in layer.parts if neurons.any() else ():
            parameter = parameters[part.parameter]
            mask = masks.setdefault(
                part.parameter, torch.zeros_like(parameter, dtype=torch.bool, device="cpu")
            )
            index = torch.from_numpy(np.flatnonzero(neurons)) + part.start
            mask.index_fill_(part.axis, index, True)
    return masks
