"""Stability of an arrangement: what two halves of a localizer agree on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm2bids.space.arrange import rearrange
from llm2bids.space.functional import FEWEST_PROMPTS, Method, learn_cells, random_cells
from llm2bids.space.layout import Layout
from llm2bids.space.smoothness import arrangement_stability
from llm2bids.space.space import Space


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How much arrangements that were learned from the halves of a localizer agree.

    Parameters
    ----------
    n_prompts : tuple of int
        Prompts of the two halves.
    correlation : dict of str to dict of str to float
        By role, and of all panels: the correlation of pairwise grid distances (median over
        panels) of the order from one half with that from the other (``functional``), and, for
        comparison, of native and of random order with that from the other.
    """

    n_prompts: tuple[int, int]
    correlation: dict[str, dict[str, float]]


def split_half_stability(
    space: Space,
    responses: npt.NDArray[np.float32],
    conditions: Sequence[str],
    *,
    baseline: str,
    method: Method = "components",
    n_jobs: int = 1,
) -> Stability | None:
    """Learn the arrangement from each half of a localizer, and compare.

    Parameters
    ----------
    space, responses, conditions, baseline, method, n_jobs
        As `llm2bids.space.functional.learn_cells`.

    Returns
    -------
    Stability or None
        None where half of the localizer is too short to learn from.

    Raises
    ------
    SpaceError
        As `llm2bids.space.functional.learn_cells`.
    """
    labels = np.asarray(conditions)
    seen: Counter[str] = Counter()
    place = np.empty(len(labels), dtype=np.int64)
    for row, name in enumerate(labels.tolist()):
        place[row] = seen[name]
        seen[name] += 1
    halves = [np.flatnonzero(place % 2 == rest) for rest in (0, 1)]
    if min(map(len, halves)) < FEWEST_PROMPTS or min(seen.values()) < 4:
        return None
    one, two = (
        rearrange(
            space,
            learn_cells(
                space, responses[half], labels[half].tolist(),
                baseline=baseline, method=method, n_jobs=n_jobs,
            ).cells,
            arrangement="functional",
            layout=Layout(method=method),
        )
        for half in halves
    )  # fmt: skip
    shuffled = rearrange(
        space, random_cells(space, seed=0), arrangement="random", layout=Layout(method="random")
    )
    others = {"functional": one, "index": space, "random": shuffled}
    found = {name: arrangement_stability(other, two) for name, other in others.items()}
    return Stability(n_prompts=(len(halves[0]), len(halves[1])), correlation=_by_role(space, found))


def _by_role(
    space: Space, found: dict[str, npt.NDArray[np.float64]]
) -> dict[str, dict[str, float]]:
    """Take medians over panels; roles whose panels are too small are left out."""
    roles = np.array([site.role for site in space.sites])
    parts = {"all panels": np.ones(len(roles), dtype=bool)}
    parts |= {role: roles == role for role in dict.fromkeys(roles.tolist())}
    return {
        name: {
            order: round(float(np.nanmedian(values[part])), 4) for order, values in found.items()
        }
        for name, part in parts.items()
        if all(np.isfinite(values[part]).any() for values in found.values())
    }
