"""Reading given texts: how well each token is foreseen, and what every unit does at it.

Of long texts values go straight into volumes, and logits come in chunks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csc_array
from torch import Tensor, nn

from llm2bids.exceptions import InterventionError
from llm2bids.model.generate import information, text_logits, together
from llm2bids.model.hooks import (
    Hook,
    forward_errors,
    hooked,
    new_values,
    position_hooks,
    position_reader,
)
from llm2bids.model.load import LoadedModel
from llm2bids.model.tokenizer import decode
from llm2bids.model.units import Site

# Positions whose logits are there at a time.
CHUNK = 256


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
        hooks = _adding_hooks(sites, values, mean, weight, positions, loaded.device)
        targets = torch.from_numpy(token_ids[columns]).to(loaded.device)
        rows = len(lead_in) + torch.from_numpy(columns - window.start).to(loaded.device) - 1
        with forward_errors(loaded), torch.no_grad():
            with hooked(loaded.model, sites, hooks):
                _, hidden = _with_short_head(loaded, fed, head)
            for start in range(0, len(columns), CHUNK):
                part = slice(start, start + CHUNK)
                given = hidden[0, rows[part]]
                logits = given if head is None else head(given)
                log_p = torch.log_softmax(logits.float(), dim=-1)
                bits = information(log_p[None], targets[part][None])
                surprisal[columns[part]], entropy[columns[part]] = (
                    each[0].double().cpu().numpy() for each in bits
                )
    return surprisal, entropy


def _adding_hooks(
    sites: Sequence[Site],
    values: npt.NDArray[np.float32],
    mean: npt.NDArray[np.float32],
    weight: Any,  # (n_volumes, n_positions), CSR
    positions: npt.NDArray[np.int64],
    device: str,
) -> Callable[[int], Hook]:
    """Make the hooks that add the weighed deviations of chosen positions to the volumes."""
    starts = np.cumsum([0, *(site.width for site in sites)])
    touched = np.flatnonzero(np.diff(weight.indptr))
    rows = slice(touched[0], touched[-1] + 1) if touched.size else slice(0, 0)
    weight = weight[rows]

    def add(index: int, taken: Tensor) -> None:
        units = slice(starts[index], starts[index + 1])
        values[rows, units] += weight @ (taken[0].float().cpu().numpy() - mean[units])

    return position_hooks(sites, positions[None], add, device=device)


def _with_short_head(
    loaded: LoadedModel, fed: Sequence[int], head: nn.Module | None
) -> tuple[Any, Tensor]:
    """Run the model, with a head on the last position only; give its output and the head's input.

    Without a head, all logits are given for its input.
    """
    held: list[Tensor] = []

    def shorten(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        held.append(args[0])
        return (args[0][:, -1:], *args[1:])

    token_ids = torch.tensor([list(fed)], device=loaded.device)
    with nullcontext() if head is None else head.register_forward_pre_hook(shorten):
        output = loaded.model(input_ids=token_ids, use_cache=False)
    return output, held[0] if head is not None else output.logits


def _plain_head(loaded: LoadedModel, fed: Sequence[int], sites: Sequence[Site]) -> nn.Module | None:
    """Find the module whose output is the logits; None where the model does more to them."""
    head = loaded.model.get_output_embeddings()
    names = {site.name for site in sites}
    if head is None or any(loaded.model.get_submodule(name) is head for name in names):
        return None
    with forward_errors(loaded), torch.no_grad():
        try:
            output, hidden = _with_short_head(loaded, fed, head)
        except (IndexError, TypeError):  # called in another way, or not at all
            return None
        same = torch.equal(output.logits[0, -1:].float(), head(hidden[:, -1:])[0].float())
    return head if same and hidden.shape[1] == len(fed) else None


# Texts in a batch, where the caller names none: all logits of all positions are computed.
BATCH_SIZE = 16


def text_nll(
    loaded: LoadedModel,
    texts: Sequence[Sequence[int]],
    *,
    batch_size: int | None = None,
    names: Sequence[str] | None = None,
    on_text: Callable[[int], object] | None = None,
) -> list[npt.NDArray[np.float64]]:
    """Measure the NLL of each token but the first, (n_tokens - 1,), of texts of two or more.

    `names` are what a message calls the texts.
    """
    nats: dict[int, npt.NDArray[np.float64]] = {}
    for rows in _batches(loaded, texts, batch_size or BATCH_SIZE):
        with forward_errors(loaded), torch.no_grad():
            token_ids, _, logits = text_logits(loaded, [texts[row] for row in rows])
            log_p = torch.log_softmax(logits[:, :-1].float(), dim=-1)
            nll = -log_p.gather(2, token_ids[:, 1:, None])[..., 0].double().cpu().numpy()
        for row, values in zip(rows, nll, strict=True):
            nats[row] = values[: len(texts[row]) - 1]
            wrong = np.flatnonzero(~np.isfinite(nats[row])) + 1
            if wrong.size:  # the edited model gives no number
                (token,) = decode(loaded, np.array([texts[row][wrong[0]]], dtype=np.int64))
                name = f"text {row + 1}" if names is None else names[row]
                raise InterventionError(
                    f"{name}: the likelihood of token {wrong[0]} ({token!r}) is "
                    f"{nats[row][wrong[0] - 1]} ({wrong.size} of {nats[row].size} tokens); "
                    "expected finite numbers: lower the strength of the edit, change fewer units, "
                    "or load the model with --dtype float32"
                )
        if on_text is not None:
            on_text(len(rows))
    return [nats[row] for row in range(len(texts))]


def mean_activation(
    loaded: LoadedModel,
    texts: Sequence[Sequence[int]],
    sites: Sequence[Site],
    *,
    of: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] = np.asarray,
) -> npt.NDArray[np.float64]:
    """Average (a function of) each unit over the tokens of texts but their first, (n_units,)."""
    # the first token of a context takes attention that has nowhere to go: its values are larger by
    # orders than all others
    total = np.zeros(sum(site.width for site in sites))
    n_tokens = 0
    for _, per_token in text_values(loaded, texts, sites):
        total += of(per_token[1:]).sum(axis=0, dtype=np.float64)
        n_tokens += len(per_token) - 1
    return total / max(n_tokens, 1)


def text_values(
    loaded: LoadedModel, texts: Sequence[Sequence[int]], sites: Sequence[Site]
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Read every unit at every token of texts: yields a text's number and (n_tokens, n_units)."""
    for rows in _batches(loaded, texts, BATCH_SIZE):
        batch = [texts[row] for row in rows]
        longest = max(map(len, batch))
        n_units = sum(site.width for site in sites)
        values = new_values((len(rows), longest, n_units), loaded.device)
        positions = np.tile(np.arange(longest), (len(rows), 1))
        reader = position_reader(sites, values, positions, device=loaded.device)
        with forward_errors(loaded), hooked(loaded.model, sites, reader), torch.no_grad():
            text_logits(loaded, batch)
        for row, text, per_token in zip(rows, batch, values, strict=True):
            yield row, per_token[: len(text)]


def _batches(
    loaded: LoadedModel, texts: Sequence[Sequence[int]], batch_size: int
) -> list[list[int]]:
    """Sort texts into batches that may run together, those of like length side by side."""
    short = next((row for row, text in enumerate(texts) if len(text) < 2), None)
    if short is not None:
        raise InterventionError(
            f"text {short + 1}: {len(texts[short])} token; expected two or more: the first one of "
            "a text is foreseen by nothing"
        )
    by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    return [
        rows[start : start + batch_size]
        for rows in together(loaded, texts, by_length)
        for start in range(0, len(rows), batch_size)
    ]
