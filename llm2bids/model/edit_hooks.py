"""Applying an edit to a running model: one hook on each edited module.

The hooks come before those that read values, so what is recorded is the edited model's.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from llm2bids.exceptions import InterventionError
from llm2bids.model.edit import Edit, SiteEdit
from llm2bids.model.hooks import first_tensor, hooked
from llm2bids.model.load import LoadedModel
from llm2bids.model.probe import CACHES, given_tokens
from llm2bids.model.sites import SiteTable, find_sites
from llm2bids.model.units import Site

# Sites by model: looking for them runs the model.
_tables: "WeakKeyDictionary[LoadedModel, SiteTable]" = WeakKeyDictionary()


@contextmanager
def applied(
    model: nn.Module, edit: Edit, sites: Mapping[str, Site] | None = None
) -> Iterator[None]:
    """Edit a model for the length of a ``with`` block; `sites`, by name, know their axes."""
    known = sites or {}
    positions = _Positions()
    hooks = [_PartHook(edit, part, known.get(part.site.name), positions) for part in edit.parts]
    with ExitStack() as stack:
        if any(part.values.ndim == 2 for part in edit.parts):
            stack.enter_context(model.register_forward_pre_hook(positions, with_kwargs=True))
        stack.enter_context(hooked(model, edit.sites, hooks.__getitem__))
        yield


def editable_sites(loaded: LoadedModel, edit: Edit) -> dict[str, Site]:
    """Find the edited sites in a model, by name, with their axes; refuse what cannot be edited."""
    table = _tables.get(loaded)
    if table is None:
        table = _tables[loaded] = find_sites(loaded)
    known = {site.name: site for site in (*table.sites, *table.head)}
    for site in edit.sites:
        fault, own = "", known.get(site.name)
        if own is None:
            reason = dict(table.skipped).get(site.name, "the model has no module of this name")
            fault = (
                f"cannot be edited: {reason}; leave it out with --sites (`llm2bids sites` lists "
                "what can be edited)"
            )
        elif own.scores is not None:
            fault = (
                "cannot be edited: its units are probabilities of experts, which the module itself "
                "does not return; edit the experts or the residual stream instead"
            )
        elif own.width != site.width:
            fault = (
                f"has {own.width} units in {loaded.name}, expected {site.width}: the edit is for "
                "another model"
            )
        if fault:
            raise InterventionError(f"edit {edit.label}: site {site.name} {fault}")
    return {site.name: known[site.name] for site in edit.sites}


def check_modules(model: nn.Module, edit: Edit) -> None:
    """Refuse an edit whose modules a model does not have."""
    names = {name for name, _ in model.named_modules()}
    for site in edit.sites:
        if site.name not in names:
            raise InterventionError(
                f"edit {edit.label}: {type(model).__name__} has no module {site.name}; expected "
                f"the model that the edit was made for, {edit.model_name}"
            )


class _Positions:
    """Notes where in its text each token of a forward pass stands, (n_prompts, n_tokens)."""

    def __init__(self) -> None:
        self.now = torch.empty((0, 0), dtype=torch.long)
        self._cache: Any = None

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given = given_tokens(args, kwargs)
        n_prompts, n_new = given.shape[:2]
        cache = next((kwargs[name] for name in CACHES if kwargs.get(name) is not None), None)
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= n_new:
            self.now = (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -n_new:]
        else:  # a model without attention is given no mask when it goes on
            goes_on = cache is not None and cache is self._cache and len(self.now) == n_prompts
            first = self.now[:, -1:] + 1 if goes_on else 0
            steps = torch.arange(n_new, device=given.device).expand(n_prompts, -1)
            self.now = first + steps
        self._cache = cache


class _PartHook:
    """Changes the output of a site, out of place: gradients pass, views stay whole."""

    def __init__(
        self, edit: Edit, part: SiteEdit, known: Site | None, positions: _Positions
    ) -> None:
        self.kind, self.positions = edit.kind, positions
        self.name = f"edit {edit.label}: site {part.site.name}"
        self.site, self.knows_axes = known or part.site, known is not None
        width, units = part.site.width, torch.from_numpy(part.units)
        values = torch.from_numpy(part.values) * (edit.strength if edit.kind == "add" else 1)
        self.chosen = torch.zeros(width, dtype=torch.bool)
        self.chosen[units] = True
        self.dense = torch.full((*values.shape[:-1], width), float(edit.kind == "scale"))
        self.dense[..., units] = values
        self.laid_out: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return self._changed(output)
        tensor = first_tensor(output)
        if tensor is None or not isinstance(output, tuple | list):
            raise InterventionError(
                f"{self.name} cannot be edited: its module returned {type(output).__name__}, "
                "expected a tensor or a tuple with one"
            )
        changed = [self._changed(tensor) if item is tensor else item for item in output]
        return type(output)(*changed) if hasattr(output, "_fields") else type(output)(changed)

    def _changed(self, output: Tensor) -> Tensor:
        key = (output.dtype, output.device, output.dim())
        if key not in self.laid_out:
            shape = self._unit_shape(output)
            rows = self.dense.to(output)
            marks = self.chosen.to(output.device).reshape(shape)
            self.laid_out[key] = marks, rows.reshape(shape) if rows.dim() == 1 else rows
        marks, rows = self.laid_out[key]
        if self.kind == "add":
            return output + rows
        if self.kind == "scale":
            return output * rows
        if self.dense.dim() == 2:
            rows = self._by_token(rows, output)
        return torch.where(marks, rows, output)

    def _unit_shape(self, output: Tensor) -> list[int]:
        """Give the shape in which a row of units (width,) is laid over an output."""
        site, shape = self.site, list(output.shape)
        if not self.knows_axes:
            if shape[-1] != site.width:
                raise InterventionError(
                    f"{self.name} gave an output of shape {tuple(shape)}, expected {site.width} "
                    "units on the last axis; load the model with llm2bids.model.load.load_model, "
                    "which finds the axes"
                )
            shape[:-1] = [1] * (len(shape) - 1)
        else:
            shape[site.prompt_axis] = shape[site.token_axis] = 1
        return shape

    def _by_token(self, rows: Tensor, output: Tensor) -> Tensor:
        """Take for each token the row (n_rows, width) of its position, in the output's axes."""
        by_token = rows[self.positions.now.to(rows.device) % len(rows)]
        if self.site.joins_axes or output.dim() == 2:
            return by_token.reshape(output.shape)
        axes = (self.site.prompt_axis, self.site.token_axis)
        rest = [size for axis, size in enumerate(output.shape) if axis not in axes]
        return by_token.reshape(*by_token.shape[:2], *rest).movedim((0, 1), axes)
