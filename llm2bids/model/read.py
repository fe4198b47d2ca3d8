"""Reading long texts: values go straight into volumes, and logits come in chunks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csc_array
from torch import Tensor, nn

from llm2bids.model.choose import information
from llm2bids.model.hooks import Hook, by_token, forward_errors, hooked, required_tensor
from llm2bids.model.load import LoadedModel
from llm2bids.model.units import Site

CHUNK = 256
"""Positions whose logits are there at a time."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Tokens that are read in one pass, after the lead-in."""

    start: int  # first token of the pass, counted over all tokens
    end: int
    first: int  # first token that is recorded; those before it are context


def read_windows(
    loaded: LoadedModel,
    token_ids: npt.NDArray[np.int64],
    windows: Sequence[Window],
    lead_in: Sequence[int],
    sites: Sequence[Site],
    weights: csc_array,
    values: npt.NDArray[np.float32],
    mean: npt.NDArray[np.float32],
    *,
    before: bool = False,
    on_token: Callable[[int], None] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Add each token's deviation from `mean` (n_units,) to `values` (n_volumes, n_units).

    `weights` (n_volumes, n_tokens) say how much of it; `before`: of the position that predicts the
    token. Returns surprisal and entropy of each token (n_tokens,), bit.
    """
    # the values of all tokens are never there: a site at a time, and only as volumes
    surprisal, entropy = np.full((2, len(token_ids)), np.nan)
    head = None
    for number, window in enumerate(windows):
        fed = [*lead_in, *token_ids[window.start : window.end].tolist()]
        if number == 0:
            head = _plain_head(loaded, fed[:8], sites)
        # position 0 is the sink: with `before`, the first token of a context has no value
        columns = np.arange(window.first, window.end)
        positions = len(lead_in) + columns - window.start - int(before)
        weight = weights[:, columns].tocsr().astype(np.float32)
        reader = _Accumulator(sites, values, mean, weight, positions)
        targets = torch.from_numpy(token_ids[columns]).to(loaded.device)
        rows = len(lead_in) + torch.from_numpy(columns - window.start).to(loaded.device) - 1
        with forward_errors(loaded), torch.no_grad():
            with hooked(loaded.model, sites, reader.hook):
                logits = _forward(loaded, fed, head)
            for start in range(0, len(columns), CHUNK):
                part = slice(start, start + CHUNK)
                given = logits(rows[part]).float()
                log_p = torch.log_softmax(given, dim=-1)
                bits = information(log_p[None], targets[part][None])
                surprisal[columns[part]], entropy[columns[part]] = (
                    each[0].double().cpu().numpy() for each in bits
                )
        if on_token is not None:
            on_token(len(columns))
    return surprisal, entropy


class _Accumulator:
    """Hooks that add the weighed deviations of chosen positions to the volumes."""

    def __init__(
        self,
        sites: Sequence[Site],
        values: npt.NDArray[np.float32],
        mean: npt.NDArray[np.float32],
        weight: Any,  # (n_volumes, n_positions), CSR
        positions: npt.NDArray[np.int64],
    ) -> None:
        self._sites = tuple(sites)
        self._starts = np.cumsum([0, *(site.width for site in sites)])
        self._values, self._mean = values, mean
        touched = np.flatnonzero(np.diff(weight.indptr))
        self._rows = slice(touched[0], touched[-1] + 1) if touched.size else slice(0, 0)
        self._weight = weight[self._rows]
        self._positions = torch.from_numpy(positions)

    def hook(self, index: int) -> Hook:
        """Make the hook of one site."""
        site = self._sites[index]
        units = slice(self._starts[index], self._starts[index + 1])

        def add(module: nn.Module, args: Any, output: Any) -> None:
            tensor = by_token(required_tensor(output, site), site, 1)[0]
            at = tensor[self._positions.to(tensor.device)].float().cpu().numpy()
            self._values[self._rows, units] += self._weight @ (at - self._mean[units])

        return add


def _forward(
    loaded: LoadedModel, fed: Sequence[int], head: nn.Module | None
) -> Callable[[Tensor], Tensor]:
    """Read a text; give the function that makes the logits of positions (n_positions,)."""
    token_ids = torch.tensor([list(fed)], device=loaded.device)
    if head is None:
        logits = loaded.model(input_ids=token_ids, use_cache=False).logits[0]
        return lambda positions: logits[positions]
    _, hidden = _with_short_head(loaded, token_ids, head)
    return lambda positions: head(hidden[0, positions])


def _with_short_head(loaded: LoadedModel, token_ids: Tensor, head: nn.Module) -> tuple[Any, Tensor]:
    """Run the model with logits of the last position only; give its output and the head's input."""
    held: list[Tensor] = []

    def shorten(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        held.append(args[0])
        return (args[0][:, -1:], *args[1:])

    with head.register_forward_pre_hook(shorten):
        output = loaded.model(input_ids=token_ids, use_cache=False)
    return output, held[0]


def _plain_head(loaded: LoadedModel, fed: Sequence[int], sites: Sequence[Site]) -> nn.Module | None:
    """Find the module whose output is the logits; None where the model does more to them."""
    head = loaded.model.get_output_embeddings()
    names = {site.name for site in sites}
    if head is None or any(loaded.model.get_submodule(name) is head for name in names):
        return None
    token_ids = torch.tensor([list(fed)], device=loaded.device)
    with forward_errors(loaded), torch.no_grad():
        try:
            output, hidden = _with_short_head(loaded, token_ids, head)
        except (IndexError, TypeError):  # called in another way, or not at all
            return None
        same = torch.equal(output.logits[0, -1:].float(), head(hidden[:, -1:])[0].float())
    return head if same and hidden.shape[1] == len(fed) else None
