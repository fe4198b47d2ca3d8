"""Hooks on modules as a context manager, and the two ways to read values out of them.

The habit is that of baukit's ``nethook`` (github.com/davidbau/baukit): hooks live as long as a
``with`` block and are gone after it, also after an error.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llm2bids.exceptions import ModelError
from llm2bids.model.units import Site

Hook = Callable[[nn.Module, Any, Any], Any]
"""A forward hook; what it returns other than None replaces the module's output."""


@contextmanager
def hooked(model: nn.Module, sites: Sequence[Site], make: Callable[[int], Hook]) -> Iterator[None]:
    """Put hooks on the modules of some sites for the length of a ``with`` block.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    sites : sequence of Site
        Where to hook.
    make : callable
        Given the index of a site, makes its hook.

    Raises
    ------
    ModelError
        If the model has no module of a site's name.
    """
    handles = []
    try:
        for index, site in enumerate(sites):
            try:
                module = model.get_submodule(site.name)
            except AttributeError:
                raise ModelError(
                    f"site {site.name}: the model has no module of this name; "
                    "`llm2bids sites` lists the modules"
                ) from None
            handles.append(module.register_forward_hook(make(index)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: Any) -> Tensor | None:
    """Take the tensor that counts as a module's output.

    Parameters
    ----------
    output : Tensor, tuple or mapping
        What a module returned.

    Returns
    -------
    Tensor or None
        The tensor itself, or the first one in a tuple or ``ModelOutput``.
    """
    if isinstance(output, Tensor):
        return output
    parts = output.values() if hasattr(output, "values") else output
    if isinstance(output, tuple | list) or hasattr(output, "values"):
        for part in parts:
            if isinstance(part, Tensor):
                return part
    return None


def required_tensor(output: Any, site: Site) -> Tensor:
    """Take the tensor that counts as a site's output.

    Parameters
    ----------
    output : Tensor, tuple or mapping
        What the module returned.
    site : Site
        Where it came from, for the message.

    Returns
    -------
    Tensor
        See :func:`first_tensor`.

    Raises
    ------
    ModelError
        If there is none.
    """
    tensor = first_tensor(output)
    if tensor is None:
        raise ModelError(
            f"site {site.name}: the module returned {type(output).__name__} without a tensor; "
            "leave it out with --sites"
        )
    return tensor


def by_token(output: Tensor, site: Site, n_prompts: int) -> Tensor:
    """View a module's output as prompts, tokens, units.

    Parameters
    ----------
    output : Tensor
        Output with the token axis of the site.
    site : Site
        Where it came from.
    n_prompts : int
        Prompts in the batch.

    Returns
    -------
    Tensor, shape (n_prompts, n_tokens, width)
        The same values; a batch axis of length 1 is expanded.
    """
    if site.token_axis == 0:
        return output.reshape(n_prompts, -1, site.width)
    moved = output.movedim(site.token_axis, 1)
    return moved.reshape(moved.shape[0], moved.shape[1], site.width).expand(n_prompts, -1, -1)


def new_values(shape: tuple[int, ...], device: str) -> npt.NDArray[np.float32]:
    """Allocate the array that values are written to.

    Parameters
    ----------
    shape : tuple of int
        Its shape.
    device : str
        Device of the model: for cuda the memory is pinned, so that copies run beside the model.

    Returns
    -------
    ndarray of float32
        Not initialised.
    """
    pinned = torch.device(device).type == "cuda"
    values: npt.NDArray[np.float32] = torch.empty(
        shape, dtype=torch.float32, pin_memory=pinned
    ).numpy()
    return values


class StepReader:
    """Reads the last position of every decode step into an array.

    On the CPU each hook copies its output at once, straight to its place. On another device the
    hooks only keep references; at the end of the step one kernel joins all outputs and the copies
    to the host are queued without waiting (call :meth:`wait` before the values are used). Outputs
    that the model changes in place after the hook are found in the first step, by the version
    counter of autograd, and copied at once from then on.

    Parameters
    ----------
    sites : sequence of Site
        What to read.
    values : ndarray of float32, shape (n_prompts, n_steps, n_units)
        Where to write; float16 and bfloat16 outputs are widened.
    device : str
        Device of the model.
    deferred : bool, optional
        Whether to read at the end of a step; by default on any device but the CPU.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        values: npt.NDArray[np.float32],
        *,
        device: str,
        deferred: bool | None = None,
    ) -> None:
        self.sites = tuple(sites)
        self.deferred = torch.device(device).type != "cpu" if deferred is None else deferred
        self._values = torch.from_numpy(values)
        self._n_prompts = values.shape[0]
        self._widths = [site.width for site in self.sites]
        self._reading = False
        self._targets: Sequence[Tensor] = ()
        self._held: list[Tensor | None] = [None] * len(self.sites)
        self._originals: dict[int, tuple[Tensor, int]] = {}
        self._at_once: set[int] | None = None

    def open(self, step: int | None) -> None:
        """Begin a forward pass.

        Parameters
        ----------
        step : int or None
            Index along the second axis of `values`; None does not read this pass.
        """
        self._reading = step is not None
        if step is not None and not self.deferred:
            self._targets = torch.split(self._values[:, step : step + 1], self._widths, dim=2)

    def close(self, step: int) -> None:
        """End a forward pass that was read: on another device than the CPU, send it off.

        Parameters
        ----------
        step : int
            Index along the second axis of `values`.
        """
        self._reading = False
        if not self.deferred:
            return
        if self._at_once is None:
            self._at_once = {
                index
                for index, (tensor, version) in self._originals.items()
                if tensor._version != version
            }
            self._originals.clear()
        held = [tensor for tensor in self._held if tensor is not None]
        joined = torch.cat(held, dim=1).float()
        for prompt in range(self._n_prompts):
            self._values[prompt, step].copy_(joined[prompt], non_blocking=True)
        self._held = [None] * len(self.sites)

    def wait(self) -> None:
        """Wait until all values have arrived."""
        if self.deferred and torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def hook(self, index: int) -> Hook:
        """Make the hook of one site.

        Parameters
        ----------
        index : int
            Index in `sites`.

        Returns
        -------
        callable
            A forward hook that leaves the output as it is.
        """
        return self._defer(index) if self.deferred else self._copy(index)

    def _copy(self, index: int) -> Hook:
        site, n_prompts = self.sites[index], self._n_prompts

        def copy(module: nn.Module, args: Any, output: Any) -> None:
            if not self._reading:
                return
            target = self._targets[index]
            tensor = output if isinstance(output, Tensor) else required_tensor(output, site)
            if tensor.shape == target.shape:
                target.copy_(tensor)
            else:
                target.copy_(by_token(tensor, site, n_prompts)[:, -1:])

        return copy

    def _defer(self, index: int) -> Hook:
        site, n_prompts = self.sites[index], self._n_prompts

        def defer(module: nn.Module, args: Any, output: Any) -> None:
            if not self._reading:
                return
            tensor = output if isinstance(output, Tensor) else required_tensor(output, site)
            last = by_token(tensor, site, n_prompts)[:, -1]
            if self._at_once is None:
                self._originals[index] = (tensor, tensor._version)
                last = last.clone()
            elif index in self._at_once or tensor.shape[site.token_axis] > 1:
                last = last.clone()  # a long output is not kept alive for its last position
            self._held[index] = last

        return defer


class PositionReader:
    """Reads chosen positions of one forward pass over whole texts into an array.

    Parameters
    ----------
    sites : sequence of Site
        What to read.
    values : ndarray of float32, shape (n_prompts, n_positions, n_units)
        Where to write.
    positions : ndarray of int64, shape (n_prompts, n_positions)
        Positions of each text, counted from 0.
    device : str
        Device of the model.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        values: npt.NDArray[np.float32],
        positions: npt.NDArray[np.int64],
        *,
        device: str,
    ) -> None:
        self.sites = tuple(sites)
        self._n_prompts = values.shape[0]
        widths = [site.width for site in self.sites]
        self._targets = torch.split(torch.from_numpy(values), widths, dim=2)
        self._columns = torch.from_numpy(positions).to(device)
        self._rows = torch.arange(self._n_prompts, device=device)[:, None]

    def hook(self, index: int) -> Hook:
        """Make the hook of one site.

        Parameters
        ----------
        index : int
            Index in `sites`.

        Returns
        -------
        callable
            A forward hook that leaves the output as it is.
        """
        site = self.sites[index]

        def read(module: nn.Module, args: Any, output: Any) -> None:
            tensor = by_token(required_tensor(output, site), site, self._n_prompts)
            self._targets[index].copy_(tensor[self._rows, self._columns])

        return read
