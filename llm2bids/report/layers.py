"""Layers as a reader counts them: what comes before, the layers, what comes after."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm2bids.model.units import Site
from llm2bids.space.space import Space


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Levels of a model from input to output."""

    labels: tuple[str, ...]  # "in" before the layers, the number of each layer, "out" after them
    of_site: npt.NDArray[np.int64]  # (n_sites,)
    of_unit: npt.NDArray[np.int64]  # (n_units,)

    def ticks(self, most: int = 12) -> dict[float, str]:
        """Choose levels to label on an axis."""
        step = max(1, -(-len(self.labels) // most))
        numbers = [n for n, label in enumerate(self.labels) if label.isdigit()]
        ends = [n for n, label in enumerate(self.labels) if not label.isdigit()]
        kept = [n for n in numbers if int(self.labels[n]) % step == 0]
        if ends and len(self.labels) > most:
            kept = [n for n in kept if min(abs(n - end) for end in ends) > step / 2]
        return {float(n): self.labels[n] for n in sorted([*kept, *ends])}


def depth_of(space: Space) -> Depth:
    """Order the sites of a space by depth: levels with at least one site."""
    keys = _keys(space.sites)
    order = sorted(set(keys))
    place = {key: n for n, key in enumerate(order)}
    of_site = np.array([place[key] for key in keys], dtype=np.int64)
    names = {-1: "in"}
    last = max(keys)
    labels = tuple(
        names.get(key, "out" if key == last and _after(space.sites) else str(key)) for key in order
    )
    return Depth(
        labels=labels,
        of_site=of_site,
        of_unit=np.repeat(of_site, [site.width for site in space.sites]),
    )


def roles_of(space: Space) -> tuple[str, ...]:
    """List the roles within layers, in recording order."""
    return tuple(dict.fromkeys(site.role for site in space.sites if site.layer is not None))


def _keys(sites: Sequence[Site]) -> list[int]:
    """Give each site its layer; -1 before the first layer, one more than the last layer after."""
    numbers = [site.layer for site in sites if site.layer is not None]
    last = max(numbers, default=-1)
    keys, seen = [], False
    for site in sites:
        seen = seen or site.layer is not None
        keys.append(site.layer if site.layer is not None else (last + 1 if seen else -1))
    return keys


def _after(sites: Sequence[Site]) -> bool:
    keys = _keys(sites)
    return any(
        site.layer is None and key == max(keys) and key >= 0
        for site, key in zip(sites, keys, strict=True)
    )
