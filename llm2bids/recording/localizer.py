"""Localizer: the scan that a functional arrangement is learned from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import numpy as np
import numpy.typing as npt

from llm2bids.model.units import Site
from llm2bids.paradigm.task import Prompt
from llm2bids.recording.calibration import RestScan, scan_prompts

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalizerScan:
    """Mean responses to prompts that no run shows."""

    means: npt.NDArray[np.float32]  # (n_prompts, n_units), in the model's own scale
    conditions: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    n_tokens: int


def scan_localizer(
    loaded: "LoadedModel",
    prompts: Sequence[Prompt],
    sites: Sequence[Site],
    **how: Unpack[RestScan],
) -> LocalizerScan:
    """Scan the model and keep the mean response to each prompt."""
    means = np.empty((len(prompts), sum(site.width for site in sites)), dtype=np.float32)

    def average(part: slice, values: npt.NDArray[np.float32]) -> None:
        np.mean(values, axis=1, out=means[part])

    scan_prompts(loaded, prompts, sites, average, name="localizer", **how)
    return LocalizerScan(
        means=means,
        conditions=tuple(prompt.condition for prompt in prompts),
        prompt_ids=tuple(prompt.prompt_id for prompt in prompts),
        n_tokens=len(prompts) * how["tokens_per_prompt"],
    )
