"""Baking an edit into weights: a checkpoint that does without hooks what the edit does."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llm2bids.exceptions import InterventionError
from llm2bids.model.edit import Edit, SiteEdit, check_weights
from llm2bids.model.edit_hooks import applied, editable_sites
from llm2bids.model.load import LoadedModel
from llm2bids.model.neurons import is_transposed
from llm2bids.model.probe import plain_tokens
from llm2bids.model.sites import RESIDUAL

TOLERANCE = 1e-5
"""Largest difference of logits between the baked model and the edited one, in float32."""

_BIAS_FLAGS = ("mlp_bias", "attention_bias", "use_bias")
"""Options of configurations that give linear modules a bias."""

_GRID = (-12.0, 12.0, 24001)
"""Inputs among which an activation's inverse is sought first: its smallest value lies there."""


def bake(loaded: LoadedModel, edit: Edit, folder: str | Path) -> float:
    """Write the edited model as a checkpoint; give the largest difference of its logits."""
    check_weights(loaded, edit)
    sites = editable_sites(loaded, edit)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InterventionError(f"{target}: is not empty; expected a new or an empty folder")
    model = _with_biases(loaded.model)
    _Baker(model, edit).run()
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
    flags = [flag for flag in _BIAS_FLAGS if getattr(config, flag, None) is False]
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


class _Baker:
    """Changes the weights of a model as an edit says."""

    def __init__(self, model: nn.Module, edit: Edit) -> None:
        self.model, self.edit = model, edit

    def run(self) -> None:
        """Bake every part, or refuse with the reason."""
        for part in self.edit.parts:
            if part.values.ndim == 2:
                raise self._refused(part, "its values change from token to token")
            module = self.model.get_submodule(part.site.name)
            with torch.no_grad():
                if _is_linear(module):
                    self._linear(part, module)
                elif part.site.role == RESIDUAL:
                    self._stream(part, module)
                elif next(module.parameters(), None) is None:
                    self._activation(part)
                else:
                    raise self._refused(part, f"a {type(module).__name__} cannot carry it")

    def _linear(self, part: SiteEdit, module: Any) -> None:
        units, values = self._tensors(part, module)
        rows, bias = _rows(module), module.bias
        if self.edit.kind == "scale":
            rows[units] *= values[:, None]
            if bias is not None:
                bias[units] *= values
            return
        if bias is None:
            raise self._refused(part, "the module has no bias, and its configuration offers none")
        if self.edit.kind == "set":
            rows[units] = 0
            bias[units] = values
        else:
            bias[units] += values * self.edit.strength

    def _stream(self, part: SiteEdit, layer: nn.Module) -> None:
        """Add to a layer's output through the bias of what it adds last."""
        if self.edit.kind != "add":
            raise self._refused(part, "the residual stream passes by every weight of the layer")
        widths = [
            (name, module)
            for name, module in layer.named_modules()
            if _is_linear(module) and _rows(module).shape[0] == part.site.width
        ]
        name, last = widths[-1] if widths else ("", None)
        if last is None or getattr(last, "bias", None) is None:
            raise self._refused(
                part, f"{name or 'no module'} that writes to the stream has no bias for it"
            )
        units, values = self._tensors(part, last)
        last.bias[units] += values * self.edit.strength

    def _activation(self, part: SiteEdit) -> None:
        """Set or scale an activation through the projections around it."""
        parent_name = part.site.name.rpartition(".")[0]
        parent = self.model.get_submodule(parent_name)
        linear = {name: child for name, child in parent.named_children() if _is_linear(child)}
        width = part.site.width
        into = {n: m for n, m in linear.items() if _rows(m).shape[0] == width}
        after = {n: m for n, m in linear.items() if _rows(m).shape[1] == width and n not in into}
        if len(after) != 1 or not into:
            raise self._refused(part, "what its output goes into cannot be told from the modules")
        (down,) = after.values()
        units, values = self._tensors(part, down)
        if self.edit.kind == "scale" or not bool(values.any()):
            factor = values if self.edit.kind == "scale" else torch.zeros_like(values)
            if self.edit.kind == "add":
                return
            _rows(down)[:, units] *= factor
        elif len(into) == 1:
            self._through_bias(part, down, units, values)
        elif self.edit.kind == "set":
            self._through_gate(part, into, units)
        else:
            raise self._refused(part, "it is multiplied by a second projection after it")

    def _through_bias(self, part: SiteEdit, down: Any, units: Tensor, values: Tensor) -> None:
        """Turn a constant that is projected into a bias."""
        if down.bias is None:
            raise self._refused(part, "the projection after it has no bias for it")
        columns = _rows(down)[:, units]
        down.bias += (columns @ values) * self.edit.strength
        if self.edit.kind == "set":
            _rows(down)[:, units] = 0

    def _through_gate(self, part: SiteEdit, into: dict[str, Any], units: Tensor) -> None:
        """Make the gate's input the number whose activation is the constant."""
        gates = [module for name, module in into.items() if "gate" in name]
        if len(gates) != 1:
            raise self._refused(part, "which of its projections is the gate cannot be told")
        if gates[0].bias is None:
            raise self._refused(
                part,
                "a constant other than 0 takes a bias of the gate, which this architecture has not",
            )
        activation = self.model.get_submodule(part.site.name)
        _rows(gates[0])[units] = 0
        inverse = self._inverse(part, activation)
        gates[0].bias[units] = torch.from_numpy(inverse).to(gates[0].bias)

    def _inverse(self, part: SiteEdit, activation: nn.Module) -> npt.NDArray[np.float64]:
        """Find what an activation turns into the values, on the branch where it rises."""
        grid = torch.linspace(*_GRID, dtype=torch.float64)
        outputs = activation(grid)
        start = float(grid[int(outputs.argmin())])
        wanted = torch.from_numpy(part.values.astype(np.float64))
        low = torch.full_like(wanted, start)
        high = low + 1 + 2 * wanted.abs() + 24
        below = wanted < activation(low)
        if bool(below.any()):
            index = int(below.nonzero()[0, 0])
            raise self._refused(
                part,
                f"unit {int(part.units[index])} is set to {float(wanted[index]):.4g}, below the "
                f"least that the activation gives ({float(outputs.min()):.4g})",
            )
        for _ in range(80):
            middle = (low + high) / 2
            above = activation(middle) > wanted
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return np.asarray(((low + high) / 2).numpy())

    def _tensors(self, part: SiteEdit, module: Any) -> tuple[Tensor, Tensor]:
        weight = module.weight
        units = torch.from_numpy(part.units).to(weight.device)
        return units, torch.from_numpy(part.values).to(weight)

    def _refused(self, part: SiteEdit, reason: str) -> InterventionError:
        return InterventionError(
            f"edit {self.edit.label}, site {part.site.name}: {self.edit.kind} {self.edit.method} "
            f"cannot be baked into weights: {reason}; edit the model with hooks"
        )


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    is_known = isinstance(module, nn.Linear) or is_transposed(module)
    return is_known and isinstance(weight, Tensor) and weight.dim() == 2


def _rows(module: Any) -> Tensor:
    """View a linear module's weight as (n_outputs, n_inputs)."""
    weight: Tensor = module.weight
    return weight.T if is_transposed(module) else weight
