"""Baking an edit into weights: a checkpoint that does without hooks what the edit does."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm2bids.exceptions import InterventionError
from llm2bids.model.edit import Edit, SiteEdit, check_weights
from llm2bids.model.edit_hooks import applied, editable_sites
from llm2bids.model.load import LoadedModel
from llm2bids.model.probe import plain_tokens
from llm2bids.model.sites import RESIDUAL
from llm2bids.model.weights import is_projection, weight_rows

# Largest difference of logits between the baked model and the edited one, in float32.
TOLERANCE = 1e-5


def bake(loaded: LoadedModel, edit: Edit, folder: str | Path) -> float:
    """Write the edited model as a checkpoint; give the largest difference of its logits."""
    check_weights(loaded, edit)
    sites = editable_sites(loaded, edit)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InterventionError(f"{target}: is not empty; expected a new or an empty folder")
    model = _with_biases(loaded.model)
    for part in edit.parts:
        try:
            with torch.no_grad():
                _bake_part(model, edit, part)
        except _CannotBakeError as reason:
            raise InterventionError(
                f"edit {edit.label}, site {part.site.name}: {edit.kind} {edit.method} cannot be "
                f"baked into weights: {reason}; edit the model with hooks"
            ) from None
    ids = plain_tokens(loaded, 3, 11)
    with torch.no_grad(), applied(loaded.model, edit, sites):
        expected = loaded.model(ids, use_cache=False).logits
    with torch.no_grad():
        difference = float((model(ids, use_cache=False).logits - expected).abs().max())
    scale = TOLERANCE * max(1.0, float(expected.abs().max()) / 10)
    if not difference <= scale and loaded.dtype == "float32":
        raise InterventionError(
            f"edit {edit.label}: the baked model's logits differ by {difference:.2g} from those of "
            f"the edited one; expected {scale:.2g} at most: this architecture does more with "
            "these weights than is known here; edit it with hooks"
        )
    model.save_pretrained(target)
    loaded.tokenizer.save_pretrained(target)
    edit.save(target / "llm2bids_edit.json")
    return difference


def _with_biases(model: Any) -> Any:
    """Copy a model; where its configuration can give it biases, with biases of zero."""
    config = copy.deepcopy(model.config)
    known = ("mlp_bias", "attention_bias", "use_bias")
    flags = [flag for flag in known if getattr(config, flag, None) is False]
    if not flags:
        return copy.deepcopy(model)
    for flag in flags:
        setattr(config, flag, True)
    device = next(model.parameters()).device
    made = type(model)(config).to(device=device, dtype=model.dtype).eval().requires_grad_(False)
    result = made.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for name in result.missing_keys:
            if not name.endswith(".bias"):
                return copy.deepcopy(model)
            made.get_parameter(name).zero_()
    made.tie_weights()
    made.generation_config = copy.deepcopy(model.generation_config)
    return made


class _CannotBakeError(Exception):
    """Why the weights cannot do what a part of an edit does."""


def _bake_part(model: nn.Module, edit: Edit, part: SiteEdit) -> None:
    """Change the weights of a model as a part of an edit says."""
    if part.values.ndim == 2:
        raise _CannotBakeError("its values change from token to token")
    module = model.get_submodule(part.site.name)
    if is_projection(module):
        _bake_linear(edit, part, module)
    elif part.site.role == RESIDUAL:
        _bake_stream(edit, part, module)
    elif next(module.parameters(), None) is None:
        parent = model.get_submodule(part.site.name.rpartition(".")[0])
        _bake_activation(edit, part, module, parent)
    else:
        raise _CannotBakeError(f"a {type(module).__name__} cannot carry it")


def _bake_linear(edit: Edit, part: SiteEdit, module: Any) -> None:
    units, values = _tensors(part, module)
    rows, bias = weight_rows(module), module.bias
    if edit.kind == "scale":
        rows[units] *= values[:, None]
        if bias is not None:
            bias[units] *= values
    elif bias is None:
        raise _CannotBakeError("the module has no bias, and its configuration offers none")
    elif edit.kind == "set":
        rows[units] = 0
        bias[units] = values
    else:
        bias[units] += values * edit.strength


def _bake_stream(edit: Edit, part: SiteEdit, layer: nn.Module) -> None:
    """Add to a layer's output through the bias of what it adds last."""
    if edit.kind != "add":
        raise _CannotBakeError("the residual stream passes by every weight of the layer")
    writing = {
        name: module
        for name, module in layer.named_modules()
        if is_projection(module) and len(weight_rows(module)) == part.site.width
    }
    name, last = list(writing.items())[-1] if writing else ("no module", None)
    if getattr(last, "bias", None) is None:
        raise _CannotBakeError(f"{name} that writes to the stream has no bias for it")
    _bake_linear(edit, part, last)


def _bake_activation(edit: Edit, part: SiteEdit, activation: nn.Module, parent: nn.Module) -> None:
    """Set or scale an activation through the projections around it."""
    linear = {name: child for name, child in parent.named_children() if is_projection(child)}
    shapes = {name: weight_rows(child).shape for name, child in linear.items()}
    into = {name: linear[name] for name, (n, _) in shapes.items() if n == part.site.width}
    after = [linear[m] for m, (_, n) in shapes.items() if n == part.site.width and m not in into]
    if len(after) != 1 or not into:
        raise _CannotBakeError("what its output goes into cannot be told from the modules")
    down: Any = after[0]
    units, values = _tensors(part, down)
    rows = weight_rows(down)
    if edit.kind == "scale":
        rows[:, units] *= values
    elif not bool(values.any()):
        if edit.kind == "set":
            rows[:, units] = 0
    elif len(into) == 1:  # a constant that is projected is a bias
        if down.bias is None:
            raise _CannotBakeError("the projection after it has no bias for it")
        down.bias += (rows[:, units] @ values) * edit.strength
        if edit.kind == "set":
            rows[:, units] = 0
    elif edit.kind == "set":
        _bake_gate(part, into, units, activation)
    else:
        raise _CannotBakeError("it is multiplied by a second projection after it")


def _bake_gate(
    part: SiteEdit, into: Mapping[str, Any], units: Tensor, activation: nn.Module
) -> None:
    """Make the gate's input the number whose activation is the constant."""
    gates = [module for name, module in into.items() if "gate" in name]
    if len(gates) != 1:
        raise _CannotBakeError("which of its projections is the gate cannot be told")
    if gates[0].bias is None:
        raise _CannotBakeError(
            "a constant other than 0 takes a bias of the gate, which this architecture has not"
        )
    weight_rows(gates[0])[units] = 0
    gates[0].bias[units] = _inverse(part, activation).to(gates[0].bias)


def _inverse(part: SiteEdit, activation: nn.Module) -> Tensor:
    """Find what an activation turns into the values, on the branch where it rises."""
    grid = torch.linspace(-12, 12, 24001, dtype=torch.float64)  # its smallest value lies there
    outputs = activation(grid)
    wanted = torch.from_numpy(part.values.astype(np.float64))
    low = torch.full_like(wanted, float(grid[int(outputs.argmin())]))
    high = low + 1 + 2 * wanted.abs() + 24
    below = wanted < activation(low)
    if bool(below.any()):
        index = int(below.nonzero()[0, 0])
        raise _CannotBakeError(
            f"unit {int(part.units[index])} is set to {float(wanted[index]):.4g}, below the "
            f"least that the activation gives ({float(outputs.min()):.4g})"
        )
    for _ in range(80):
        middle = (low + high) / 2
        above = activation(middle) > wanted
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def _tensors(part: SiteEdit, module: Any) -> tuple[Tensor, Tensor]:
    units = torch.from_numpy(part.units).to(module.weight.device)
    return units, torch.from_numpy(part.values).to(module.weight)
