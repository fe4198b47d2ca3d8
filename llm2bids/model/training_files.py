"""What an edit or a choice of weights is for peft and for torch: tensors, masks, names."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llm2bids.exceptions import InterventionError
from llm2bids.model.neurons import mlp_neurons
from llm2bids.model.units import Site

MaskFn = Callable[..., Tensor]

_IA3_PREFIX = "base_model.model."
"""What peft puts before the names of a model's modules."""


def down_projections(model: nn.Module, sites: Sequence[Site]) -> dict[str, str]:
    """Name the projection that each activation site goes into, by the site's name."""
    holder: Any = type("Holder", (), {"model": model})()
    return {
        layer.site.name: part.parameter.removesuffix(".weight")
        for layer in mlp_neurons(holder, sites)
        for part in layer.parts
        if part.is_output
    }


def write_ia3(path: Path, factors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write factors of projections' inputs, (n_inputs,) by module, as peft's (IA)^3 weights."""
    save_file(
        {
            f"{_IA3_PREFIX}{name}.ia3_l": torch.from_numpy(values)[None].clone()
            for name, values in factors.items()
        },
        path,
    )


def write_masks(path: Path, masks: Mapping[str, Tensor]) -> None:
    """Write masks of parameters as bool tensors."""
    save_file(dict(masks), path)


def shira_masks(
    model: nn.Module, order: Sequence[tuple[Site, npt.NDArray[np.intp]]], r: int
) -> tuple[tuple[str, ...], MaskFn]:
    """Make peft's ``mask_fn`` for SHiRA and name its modules.

    `order`: neurons of each site, most important first. SHiRA trains exactly r * (inputs +
    outputs) entries of a module: whole rows or columns of these neurons, the last one in part. A
    module whose neurons have fewer entries is left out.
    """
    holder: Any = type("Holder", (), {"model": model})()
    masks: dict[int, Tensor] = {}
    names = []
    for layer, (_, neurons) in zip(
        mlp_neurons(holder, [site for site, _ in order]), order, strict=True
    ):
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
