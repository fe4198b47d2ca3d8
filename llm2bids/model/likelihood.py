"""How well a model foresees given texts: negative log likelihood of each token, in nats."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from llm2bids.exceptions import InterventionError
from llm2bids.model.generate import padded, text_logits, together
from llm2bids.model.hooks import PositionReader, forward_errors, hooked, new_values
from llm2bids.model.load import LoadedModel
from llm2bids.model.text import decode
from llm2bids.model.units import Site

BATCH_SIZE = 16
"""Texts in a batch, where the caller names none: all logits of all positions are computed."""

Nats = list[npt.NDArray[np.float64]]
"""For each text the NLL of its tokens but the first, (n_tokens - 1,)."""


def text_nll(
    loaded: LoadedModel,
    texts: Sequence[Sequence[int]],
    *,
    batch_size: int | None = None,
    names: Sequence[str] | None = None,
    on_text: Callable[[int], object] | None = None,
) -> Nats:
    """Measure texts of two tokens or more; `names` are what a message calls them."""
    nats: dict[int, npt.NDArray[np.float64]] = {}
    for rows in _batches(loaded, texts, batch_size or BATCH_SIZE):
        token_ids, mask = padded([texts[row] for row in rows], loaded, left=False)
        with forward_errors(loaded), torch.no_grad():
            logits = text_logits(loaded, token_ids, mask)
            log_p = torch.log_softmax(logits[:, :-1].float(), dim=-1)
            nll = -log_p.gather(2, token_ids[:, 1:, None])[..., 0].double().cpu().numpy()
        for row, values in zip(rows, nll, strict=True):
            nats[row] = values[: len(texts[row]) - 1]
            name = f"text {row + 1}" if names is None else names[row]
            _check_finite(loaded, texts[row], nats[row], name)
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
        token_ids, mask = padded(batch, loaded, left=False)
        longest = token_ids.shape[1]
        n_units = sum(site.width for site in sites)
        values = new_values((len(rows), longest, n_units), loaded.device)
        positions = np.tile(np.arange(longest), (len(rows), 1))
        reader = PositionReader(sites, values, positions, device=loaded.device)
        with forward_errors(loaded), hooked(loaded.model, sites, reader.hook), torch.no_grad():
            text_logits(loaded, token_ids, mask)
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


def _check_finite(
    loaded: LoadedModel, text: Sequence[int], nll: npt.NDArray[np.float64], name: str
) -> None:
    """Stop where the edited model gives no number, naming the token."""
    wrong = np.flatnonzero(~np.isfinite(nll))
    if not wrong.size:
        return
    position = int(wrong[0]) + 1
    (token,) = decode(loaded, np.array([text[position]], dtype=np.int64))
    raise InterventionError(
        f"{name}: the likelihood of token {position} ({token!r}) is {nll[wrong[0]]} "
        f"({wrong.size} of {nll.size} tokens); expected finite numbers: lower the strength of the "
        "edit, change fewer units, or load the model with --dtype float32"
    )
