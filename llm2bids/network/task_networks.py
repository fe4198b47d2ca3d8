"""The tasks' networks: the units with the largest effects, and how sure these are."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage

from llm2bids.inference.effects import Effects
from llm2bids.inference.group import OTHERS
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.second_level import group_statistics
from llm2bids.network.network import Network, make_network
from llm2bids.network.options import FindingsOptions
from llm2bids.network.stored import apart
from llm2bids.space.space import Space
from llm2bids.space.stat_map import select_units

Against = Literal["off", "others"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskNetwork:
    """A task's network, and how it was chosen.

    `against`: the off prompts, or the mean of the other tasks. `top_percent` of the units that the
    maps have, or `min_cohens_d` and the false discovery rate `alpha`. `n_fdr`: units of the
    network whose effect survives it, `n_fdr_anywhere`: of all units that the maps have.
    """

    network: Network = apart()
    task: str
    against: Against
    top_percent: float | None
    min_cohens_d: float | None = None
    alpha: float
    n_fdr: int
    n_fdr_anywhere: int

    derived: ClassVar[tuple[str, ...]] = (
        *("label", "n_units", "n_clusters", "criterion", "table", "image"),
    )

    @property
    def label(self) -> str:
        """Label of the network."""
        return self.network.label

    @property
    def n_units(self) -> int:
        """Units of the network."""
        return len(self.network)

    @property
    def n_clusters(self) -> int:
        """Clusters of units of one sign that touch."""
        return int(self.network.table["cluster"].max()) if len(self.network) else 0

    @property
    def criterion(self) -> str:
        """How units were chosen, in words."""
        return self.network.criterion

    @property
    def table(self) -> str:
        """Name of the network's table in the folder of the findings."""
        return f"networks/{self.network.label}_network.tsv"

    @property
    def image(self) -> str:
        """Name of the network's image in the folder of the findings."""
        return f"networks/{self.network.label}_network.nii.gz"


def task_networks(
    effects: Effects, space: Space, options: FindingsOptions, *, against: Against = "off"
) -> tuple[TaskNetwork, ...]:
    """Make the network of every task."""
    compared = effects if against == "off" else effects.against_others()
    return tuple(
        _task_network(compared, index, space, options, against)
        for index in range(len(effects.tasks))
    )


def label_clusters(values: npt.NDArray[np.floating[Any]], space: Space) -> npt.NDArray[np.int64]:
    """Label clusters of units that touch by a face and have one sign, (n_units,); 1 is largest."""
    grid = space.to_grid(np.sign(values).astype(np.int8))
    marked = np.zeros(grid.shape, dtype=np.int64)
    for sign in (1, -1):
        labels, _ = ndimage.label(grid == sign)
        marked[labels > 0] = labels[labels > 0] + marked.max()
    sizes = np.bincount(marked.ravel())
    rank = pd.Series(sizes[1:]).rank(method="first", ascending=False).astype(np.int64)
    return np.asarray(space.to_units(np.r_[0, rank][marked]), dtype=np.int64)


def _task_network(
    effects: Effects, index: int, space: Space, options: FindingsOptions, against: Against
) -> TaskNetwork:
    task, alpha, least = effects.tasks[index], options.alpha, options.min_cohens_d
    fit = group_statistics(effects.values[:, index])
    units = np.flatnonzero(effects.mask)
    if least is None:
        ranked_by, other = "effect", "cohensd"
        chosen = select_units(fit.effect, top_percent=options.top_percent)
        criterion = f"top {options.top_percent:g} % |effect|"
    else:
        ranked_by, other = "cohensd", "effect"
        survives = np.where(fit.pfdr < alpha, fit.cohensd, np.nan)
        chosen = select_units(survives, threshold=least)
        criterion = f"|cohensd| > {least:g} and false discovery rate {alpha:g}"
    if units.size < space.n_units:
        criterion = f"{criterion} of the {units.size:,} units in the mask"
    inside = np.zeros(space.n_units)
    inside[units[chosen]] = fit.effect[chosen]
    statistics = {name: getattr(fit, name)[chosen] for name in (ranked_by, other, "t", "pfdr")}
    statistics["cluster"] = label_clusters(inside, space)[units[chosen]].astype(np.float64)
    return TaskNetwork(
        network=make_network(
            space,
            units[chosen],
            statistics,
            label=task if against == "off" else f"{task}{OTHERS}",
            provenance=Provenance.union(row[index] for row in effects.made_from),
            criterion=criterion,
        ),
        task=task,
        against=against,
        top_percent=options.top_percent if least is None else None,
        min_cohens_d=least,
        alpha=alpha,
        n_fdr=int((fit.pfdr[chosen] < alpha).sum()),
        n_fdr_anywhere=int((fit.pfdr < alpha).sum()),
    )
