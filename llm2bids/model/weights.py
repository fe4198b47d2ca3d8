"""Which weights belong to a unit: how strong they are, and those of the neurons of an MLP."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llm2bids.exceptions import InterventionError
from llm2bids.model.load import LoadedModel
from llm2bids.model.units import Site


def weight_norms(loaded: LoadedModel, sites: Sequence[Site]) -> npt.NDArray[np.float32]:
    """Measure the L2 norm of the weights that produce each unit: float32 (n_units,), finite.

    Rows of a linear layer, columns of GPT-2's transposed one and of an embedding, the absolute
    weight of a norm. Units of modules without weights of their own (activation functions, the
    residual stream, fused experts) take the median over all units that have some, 1 without any.
    """
    from accelerate.utils import align_module_device  # type: ignore[import-untyped]

    parts: list[npt.NDArray[np.float32] | None] = []
    for site in sites:
        module = loaded.model.get_submodule(site.name)
        with align_module_device(module):  # brings weights that a device map left on the disk
            parts.append(_norms(module, site.width))
    known = [part for part in parts if part is not None]
    median = np.float32(np.median(np.concatenate(known))) if known else np.float32(1)
    filled = [
        np.full(site.width, median, dtype=np.float32) if part is None else part
        for site, part in zip(sites, parts, strict=True)
    ]
    return np.concatenate(filled)


def _norms(module: nn.Module, width: int) -> npt.NDArray[np.float32] | None:
    weight: Tensor | None = module._parameters.get("weight")
    if weight is None or not weight.is_floating_point():
        return None
    if type(weight.data) not in (Tensor, nn.Parameter):  # packed (torchao), called a float
        weight = weight.dequantize()
    norms = _unit_norms(module, weight.detach(), width)
    values = None if norms is None else norms.float().cpu().numpy()
    return values if values is not None and np.isfinite(values).all() else None


def _unit_norms(module: nn.Module, weight: Tensor, width: int) -> Tensor | None:
    if weight.dim() == 1 and width % weight.shape[0] == 0:  # a norm, maybe one for each head
        return weight.abs().repeat(width // weight.shape[0])
    if weight.dim() != 2:
        return None
    columns = isinstance(module, nn.Embedding) or is_transposed(module)
    for axis in (0, 1) if columns else (1, 0):
        if weight.shape[1 - axis] == width:
            norms: Tensor = torch.linalg.vector_norm(weight, dim=axis, dtype=torch.float32)
            return norms
    return None


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


def mlp_neurons(model: nn.Module, sites: Sequence[Site]) -> tuple[NeuronLayer, ...]:
    """Find the weights of the neurons whose activations these sites are."""
    layers = []
    for site in sites:
        parent = site.name.rpartition(".")[0]
        parts = _parts(model, parent, site.width)
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
    linear = [
        (f"{parent}.{name}", child, *weight_rows(child).shape)
        for name, child in model.get_submodule(parent).named_children()
        if is_projection(child)
    ]
    # where an MLP is as wide as the stream, the last projection is the one out of it
    outward = next((name for name, _, _, n_in in reversed(linear) if n_in == width), None)
    parts = []
    for name, child, n_out, n_in in linear:
        axis = int(is_transposed(child))  # of the outputs
        if name == outward:
            parts.append(NeuronPart(parameter=f"{name}.weight", axis=1 - axis, is_output=True))
        elif n_out in (width, 2 * width) and n_in != width:
            axes = {"weight": axis} if child.bias is None else {"weight": axis, "bias": 0}
            parts += [
                NeuronPart(parameter=f"{name}.{kind}", axis=axis, start=start)
                for kind, axis in axes.items()
                for start in range(0, n_out, width)  # gate and up projection may be fused
            ]
    return tuple(parts)


def is_transposed(module: nn.Module) -> bool:
    """Tell whether a module stores its weight as inputs x outputs: transformers' Conv1D (GPT-2)."""
    return type(module).__name__ == "Conv1D"


def is_projection(module: nn.Module) -> bool:
    """Tell whether a module projects its input: by a matrix, with a bias or without."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 2 and hasattr(module, "bias")


def weight_rows(module: Any) -> Tensor:
    """View a projection's weight as (n_outputs, n_inputs)."""
    weight: Tensor = module.weight
    return weight.T if is_transposed(module) else weight


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


def write_masks(
    path: Path,
    model: nn.Module,
    layers: Sequence[NeuronLayer],
    chosen: Sequence[npt.NDArray[np.bool_]],
) -> None:
    """Write which entries chosen neurons have, (n_neurons,) of each layer: bool, by parameter."""
    save_file(neuron_masks(model, layers, chosen), path)


def neuron_masks(
    model: nn.Module, layers: Sequence[NeuronLayer], chosen: Sequence[npt.NDArray[np.bool_]]
) -> dict[str, Tensor]:
    """Mark the entries of chosen neurons, (n_neurons,) for each layer, by parameter."""
    masks: dict[str, Tensor] = {}
    for layer, neurons in zip(layers, chosen, strict=True):
        for part in layer.parts if neurons.any() else ():
            parameter = model.get_parameter(part.parameter)
            mask = masks.setdefault(
                part.parameter, torch.zeros_like(parameter, dtype=torch.bool, device="cpu")
            )
            index = torch.from_numpy(np.flatnonzero(neurons)) + part.start
            mask.index_fill_(part.axis, index, True)
    return masks


def down_projections(model: nn.Module, sites: Sequence[Site]) -> dict[str, str]:
    """Name the projection that each activation site goes into, by the site's name."""
    return {
        layer.site.name: part.parameter.removesuffix(".weight")
        for layer in mlp_neurons(model, sites)
        for part in layer.parts
        if part.is_output
    }


def write_ia3(path: Path, factors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write factors of projections' inputs, (n_inputs,) by module, as peft's (IA)^3 weights."""
    tensors = {
        f"base_model.model.{name}.ia3_l": torch.from_numpy(values)[None].clone()
        for name, values in factors.items()
    }
    save_file(tensors, path)


def shira_masks(
    model: nn.Module, order: Sequence[tuple[Site, npt.NDArray[np.intp]]], r: int
) -> tuple[tuple[str, ...], Callable[..., Tensor]]:
    """Make peft's ``mask_fn`` for SHiRA and name its modules.

    `order`: neurons of each site, most important first. SHiRA trains exactly r * (inputs +
    outputs) entries of a module: whole rows or columns of these neurons, the last one in part. A
    module whose neurons have fewer entries is left out.
    """
    masks: dict[int, Tensor] = {}
    names = []
    layers = mlp_neurons(model, [site for site, _ in order])
    for layer, (_, neurons) in zip(layers, order, strict=True):
        for part in layer.parts:
            name, _, kind = part.parameter.rpartition(".")
            module = model.get_submodule(name)
            if kind != "weight" or not isinstance(module, nn.Linear):
                continue
            n_entries = r * sum(module.weight.shape)
            across = module.weight.shape[1 - part.axis]
            if len(neurons) * across < n_entries:
                continue
            mask = torch.zeros_like(module.weight)
            view = mask if part.axis == 0 else mask.T
            rows = torch.tensor(neurons) + part.start
            whole, rest = divmod(n_entries, across)
            view[rows[:whole]] = 1
            if rest:
                view[rows[whole], :rest] = 1
            masks[id(module)] = mask
            names.append(name)
    if not names:
        raise InterventionError(
            f"SHiRA with r = {r}: no linear layer whose chosen neurons have the r * (inputs + "
            "outputs) entries that it trains; choose more neurons, a lower r, or take gradient "
            "masks, which are exact"
        )

    def mask_fn(base_layer: nn.Module, r: int, **kwargs: Any) -> Tensor:
        return masks[id(base_layer)]

    return tuple(names), mask_fn
