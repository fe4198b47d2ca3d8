"""Directions in the residual stream that a model is moved along, and those that control them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from llm2bids.model.units import Site

Floats = npt.NDArray[np.float32]

DirectionKind = Literal["means", "effect", "vs-others"]
"""Difference of the means of on and off texts; the map; own mean less that of other topics."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Responses:
    """Mean residual streams of prompts with answers, by bank: (n_prompts, n_units) of layers."""

    sites: tuple[Site, ...]
    by_bank: Mapping[str, Floats]
    baseline: str

    def at(self, bank: str, site: Site) -> Floats:
        """Take those of one bank at one site, (n_prompts, width)."""
        start = 0
        for known in self.sites:
            if known.name == site.name:
                break
            start += known.width
        return self.by_bank[bank][:, start : start + site.width]


def mean_difference(responses: Responses, bank: str, site: Site) -> Floats:
    """Subtract the mean of the off texts from that of a bank's, (width,)."""
    off = responses.at(responses.baseline, site)
    return np.asarray(responses.at(bank, site).mean(axis=0) - off.mean(axis=0))


def versus_others(responses: Responses, bank: str, site: Site) -> Floats:
    """Subtract the mean over the other topics' means from the own topic's, (width,)."""
    others = [
        responses.at(name, site).mean(axis=0)
        for name in responses.by_bank
        if name not in (bank, responses.baseline)
    ]
    return np.asarray(responses.at(bank, site).mean(axis=0) - np.mean(others, axis=0))


def shuffled_difference(
    responses: Responses, bank: str, site: Site, norm: float, rng: np.random.Generator
) -> Floats:
    """Take the difference of means of the same texts with on and off shuffled, at a norm."""
    on, off = responses.at(bank, site), responses.at(responses.baseline, site)
    pooled = rng.permutation(np.concatenate([on, off]))
    return at_norm(pooled[: len(on)].mean(axis=0) - pooled[len(on) :].mean(axis=0), norm)


def random_direction(width: int, norm: float, rng: np.random.Generator) -> Floats:
    """Draw a direction evenly from the sphere of a norm, (width,)."""
    return at_norm(rng.standard_normal(width), norm)


def at_norm(vector: npt.NDArray[np.floating], norm: float) -> Floats:
    """Give a direction a norm; one that is 0 stays 0.

    >>> at_norm(np.array([3.0, 4.0]), 10.0).tolist()
    [6.0, 8.0]
    """
    size = float(np.linalg.norm(vector))
    return np.asarray(vector * (norm / size if size else 0.0), dtype=np.float32)
