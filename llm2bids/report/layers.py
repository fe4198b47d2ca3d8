"""Layers as a reader counts them: what comes before, the layers, what comes after."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
    last = max((site.layer for site in space.sites if site.layer is not None), default=-1)
    keys, entered = [], False  # -1 before the first layer, one more than the last layer after it
    for site in space.sites:
        entered = entered or site.layer is not None
        keys.append(site.layer if site.layer is not None else last + 1 if entered else -1)
    order = sorted(set(keys))
    of_site = np.searchsorted(order, keys)
    return Depth(
        labels=tuple({-1: "in", last + 1: "out"}.get(key, str(key)) for key in order),
        of_site=of_site,
        of_unit=of_site[space.site_of_unit],
    )


def roles_of(space: Space) -> tuple[str, ...]:
    """List the roles within layers, in recording order."""
    return tuple(dict.fromkeys(site.role for site in space.sites if site.layer is not None))
