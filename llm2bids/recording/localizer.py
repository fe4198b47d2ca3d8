"""Localizer: the scan that a functional arrangement is learned from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llm2bids.model.units import Site
from llm2bids.paradigm.task import Prompt, Sampling
from llm2bids.recording.batches import OnToken
from llm2bids.recording.calibration import scan_prompts

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Localizer:
    """Mean responses to prompts that no run shows."""

    means: npt.NDArray[np.float32]  # (n_prompts, n_units), in the model's own scale
    conditions: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    n_tokens: int


def scan_localizer(
    loaded: "LoadedModel",
    prompts: Sequence[Prompt],
    sites: Sequence[Site],
    *,
    tokens_per_prompt: int,
    sampling: Sampling,
    seed: int,
    batch_size: int | None = None,
    keep_first: bool = False,
    on_token: OnToken | None = None,
) -> Localizer:
    """Scan the model and keep the mean response to each prompt."""
    means = np.empty((len(prompts), sum(site.width for site in sites)), dtype=np.float32)

    def average(part: slice, values: npt.NDArray[np.float32]) -> None:
        np.mean(values, axis=1, out=means[part])

    scan_prompts(
        loaded,
        prompts,
        sites,
        average,
        tokens_per_prompt=tokens_per_prompt,
        sampling=sampling,
        seed=seed,
        batch_size=batch_size,
        keep_first=keep_first,
        on_token=on_token,
        name="localizer",
    )
    return Localizer(
        means=means,
        conditions=tuple(prompt.condition for prompt in prompts),
        prompt_ids=tuple(prompt.prompt_id for prompt in prompts),
        n_tokens=len(prompts) * tokens_per_prompt,
    )
