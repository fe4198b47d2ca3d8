"""Applying an edit to a running model: one hook on each edited module.

The hooks come before those that read values, so what is recorded is the edited model's.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from llm2bids.exceptions import InterventionError
from llm2bids.model.edit import Edit, SiteEdit
from llm2bids.model.hooks import Hook, first_tensor, hooked
from llm2bids.model.load import LoadedModel
from llm2bids.model.probe import CACHES, given_tokens
from llm2bids.model.sites import SiteTable, find_sites
from llm2bids.model.units import Site

Change = Callable[[Tensor], Tensor]
"""What an edit does to a module's output."""

_tables: "WeakKeyDictionary[LoadedModel, SiteTable]" = WeakKeyDictionary()
"""Sites by model: looking for them runs the model."""


@contextmanager
def applied(
    model: nn.Module, edit: Edit, sites: Mapping[str, Site] | None = None
) -> Iterator[None]:
    """Edit a model for the length of a ``with`` block; `sites`, by name, know their axes."""
    known = {} if sites is None else sites
    hooked_sites = [known.get(part.site.name, part.site) for part in edit.parts]
    with ExitStack() as stack:
        positions = None
        if any(part.values.ndim == 2 for part in edit.parts):
            positions = _Positions()
            stack.enter_context(model.register_forward_pre_hook(positions, with_kwargs=True))
        hooks = [
            _hook(edit, part, site, positions, axes_known=part.site.name in known)
            for part, site in zip(edit.parts, hooked_sites, strict=True)
        ]
        stack.enter_context(hooked(model, hooked_sites, hooks.__getitem__))
        yield


def editable_sites(loaded: LoadedModel, edit: Edit) -> dict[str, Site]:
    """Find the edited sites in a model, by name, with their axes; refuse what cannot be edited."""
    table = _tables.get(loaded)
    if table is None:
        table = _tables[loaded] = find_sites(loaded)
    known = {site.name: site for site in (*table.sites, *table.head)}
    reasons = dict(table.skipped)
    for site in edit.sites:
        if site.name not in known:
            reason = reasons.get(site.name, "the model has no module of this name")
            raise InterventionError(
                f"edit {edit.label}: site {site.name} cannot be edited: {reason}; leave it out "
                "with --sites (`llm2bids sites` lists what can be edited)"
            )
        if known[site.name].scores is not None:
            raise InterventionError(
                f"edit {edit.label}: site {site.name} cannot be edited: its units are "
                "probabilities of experts, which the module itself does not return; edit the "
                "experts or the residual stream instead"
            )
        if known[site.name].width != site.width:
            raise InterventionError(
                f"edit {edit.label}: site {site.name} has {known[site.name].width} units in "
                f"{loaded.name}, expected {site.width}: the edit is for another model"
            )
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


def _hook(
    edit: Edit, part: SiteEdit, site: Site, positions: _Positions | None, *, axes_known: bool
) -> Hook:
    change = _change(edit, part, site, positions, axes_known=axes_known)

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return change(output)
        tensor = first_tensor(output)
        if tensor is None or not isinstance(output, tuple | list):
            raise InterventionError(
                f"edit {edit.label}: site {site.name} cannot be edited: its module returned "
                f"{type(output).__name__}, expected a tensor or a tuple with one"
            )
        changed = [change(tensor) if item is tensor else item for item in output]
        return type(output)(*changed) if hasattr(output, "_fields") else type(output)(changed)

    return hook


def _change(
    edit: Edit, part: SiteEdit, site: Site, positions: _Positions | None, *, axes_known: bool
) -> Change:
    """Make the function that changes an output, out of place: gradients pass, views stay whole."""
    units = torch.from_numpy(part.units)
    values = torch.from_numpy(part.values)
    chosen = torch.zeros(site.width, dtype=torch.bool)
    chosen[units] = True
    dense = torch.full((*values.shape[:-1], site.width), 1.0 if edit.kind == "scale" else 0.0)
    dense[..., units] = values * float(edit.strength) if edit.kind == "add" else values
    ready: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def laid_out(output: Tensor) -> tuple[Tensor, Tensor]:
        key = (output.dtype, output.device, output.dim())
        if key not in ready:
            shape = _unit_shape(edit, output, site, axes_known=axes_known)
            marks = chosen.to(output.device).reshape(shape)
            rows = dense.to(device=output.device, dtype=output.dtype)
            ready[key] = marks, rows.reshape(shape) if rows.dim() == 1 else rows
        return ready[key]

    def change(output: Tensor) -> Tensor:
        marks, rows = laid_out(output)
        if edit.kind == "add":
            return output + rows
        if edit.kind == "scale":
            return output * rows
        if rows.dim() == 2 and positions is not None:
            rows = _rows_of_tokens(rows, positions, output, site)
        return torch.where(marks, rows, output)

    return change


def _unit_shape(edit: Edit, output: Tensor, site: Site, *, axes_known: bool) -> list[int]:
    """Give the shape in which a row of units (width,) is laid over an output."""
    if not axes_known and output.shape[-1] != site.width:
        raise InterventionError(
            f"edit {edit.label}: site {site.name} gave an output of shape {tuple(output.shape)}, "
            f"expected {site.width} units on the last axis; load the model with "
            "llm2bids.model.load.load_model, which finds the axes"
        )
    if not axes_known or (site.token_axis == 0 and site.prompt_axis == 0):
        n_rest = 1 if not axes_known else output.dim() - 1
        return [1] * (output.dim() - n_rest) + list(output.shape[output.dim() - n_rest :])
    shape = list(output.shape)
    shape[site.prompt_axis] = shape[site.token_axis] = 1
    return shape


def _rows_of_tokens(rows: Tensor, positions: _Positions, output: Tensor, site: Site) -> Tensor:
    """Take for each token the row (n_rows, width) that its position names, in the output's axes."""
    by_token = rows[positions.now.to(rows.device) % len(rows)]
    if (site.token_axis == 0 and site.prompt_axis == 0) or output.dim() == 2:
        return by_token.reshape(output.shape)
    axes = (site.prompt_axis, site.token_axis)
    rest = [size for axis, size in enumerate(output.shape) if axis not in axes]
    return by_token.reshape(*by_token.shape[:2], *rest).movedim((0, 1), axes)
