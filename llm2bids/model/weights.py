"""The anatomy: how strong the weights are that produce each unit."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llm2bids.model.load import LoadedModel
from llm2bids.model.neurons import is_transposed
from llm2bids.model.units import Site


def weight_norms(loaded: LoadedModel, sites: Sequence[Site]) -> npt.NDArray[np.float32]:
    """Measure the L2 norm of the weights that produce each unit: float32 (n_units,), finite.

    Rows of a linear layer, columns of GPT-2's transposed one and of an embedding, the absolute
    weight of a norm. Units of modules without weights of their own (activation functions, the
    residual stream, fused experts) take the median over all units that have some, 1 without any.
    """
    parts = [_norms(loaded.model.get_submodule(site.name), site.width) for site in sites]
    known = [part for part in parts if part is not None]
    median = np.float32(np.median(np.concatenate(known))) if known else np.float32(1)
    filled = [
        np.full(site.width, median, dtype=np.float32) if part is None else part
        for site, part in zip(sites, parts, strict=True)
    ]
    return np.concatenate(filled)


def _norms(module: nn.Module, width: int) -> npt.NDArray[np.float32] | None:
    from accelerate.utils import align_module_device  # type: ignore[import-untyped]

    with align_module_device(module):  # brings weights that a device map left on the disk
        return _norms_here(module, width)


def _norms_here(module: nn.Module, width: int) -> npt.NDArray[np.float32] | None:
    weight: Tensor | None = module._parameters.get("weight")
    if weight is None or not weight.is_floating_point():
        return None
    if type(weight.data) not in (Tensor, nn.Parameter):  # packed (torchao), called a float
        weight = weight.dequantize()
    norms = _unit_norms(module, weight.detach(), width)
    if norms is None:
        return None
    values: npt.NDArray[np.float32] = norms.float().cpu().numpy()
    return values if np.isfinite(values).all() else None


def _unit_norms(module: nn.Module, weight: Tensor, width: int) -> Tensor | None:
    if weight.dim() == 1 and width % weight.shape[0] == 0:  # a norm, maybe one for each head
        return weight.abs().repeat(width // weight.shape[0])
    if weight.dim() != 2:
        return None
    columns = isinstance(module, nn.Embedding) or is_transposed(module)
    axes = (0, 1) if columns else (1, 0)
    for axis in axes:
        if weight.shape[1 - axis] == width:
            norms: Tensor = torch.linalg.vector_norm(weight, dim=axis, dtype=torch.float32)
            return norms
    return None
