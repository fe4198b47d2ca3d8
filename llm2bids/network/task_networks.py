"""The tasks' networks: the units with the largest effects, and how sure these are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage, stats

from llm2bids.exceptions import NetworkError
from llm2bids.network.effects import TaskEffects
from llm2bids.network.network import Network, from_stat_maps
from llm2bids.network.provenance import Provenance
from llm2bids.space.space import Space

Against = Literal["off", "others"]

OTHERS = "VsOthers"
"""End of the label of a network against the other tasks, as in the group maps."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskNetwork:
    """A task's network, and how it was chosen.

    Parameters
    ----------
    network : Network
        Units with their effect, Cohen's d, t, adjusted p and cluster.
    task : str
        The task.
    against : {"off", "others"}
        What it is compared with: the off prompts, or the mean of the other tasks.
    top_percent : float or None
        Share of all units that the network has; None where it was chosen by Cohen's d.
    alpha : float
        False discovery rate.
    n_fdr : int
        Units of the network whose effect survives it.
    n_fdr_anywhere : int
        Units of the whole space whose effect survives it.
    """

    network: Network
    task: str
    against: Against
    top_percent: float | None
    alpha: float
    n_fdr: int
    n_fdr_anywhere: int


def group_statistics(effects: npt.NDArray[np.floating[Any]]) -> dict[str, npt.NDArray[np.float64]]:
    """Test the mean of the participants' effects at every unit.

    Parameters
    ----------
    effects : ndarray of float, shape (n_participants, n_units)
        Effects of two participants at least.

    Returns
    -------
    dict of str to ndarray of float64, shape (n_units,)
        ``effect`` (mean), ``cohensd``, ``t`` and ``pfdr`` (two-sided p after Benjamini and
        Hochberg): the maps of `llm2bids.inference.second_level.fit_second_level`. Units in which
        all participants have the same effect get d and t of 0 and p of 1.

    Raises
    ------
    NetworkError
        If there are fewer than two participants.
    """
    n = len(effects)
    if n < 2:
        raise NetworkError(f"networks: found {n} participant; expected two or more; record more")
    mean = effects.mean(axis=0, dtype=np.float64)
    sd = effects.std(axis=0, ddof=1, dtype=np.float64)
    varies = sd > 1e-6 * np.abs(mean)
    d = np.divide(mean, sd, out=np.zeros_like(mean), where=varies)
    p = np.where(varies, 2 * stats.t.sf(np.abs(d) * np.sqrt(n), n - 1), 1.0)
    pfdr = np.asarray(stats.false_discovery_control(p), dtype=np.float64)
    return {"effect": mean, "cohensd": d, "t": d * np.sqrt(n), "pfdr": pfdr}


def task_networks(
    effects: TaskEffects,
    space: Space,
    *,
    against: Against = "off",
    top_percent: float = 5.0,
    alpha: float = 0.05,
    min_cohens_d: float | None = None,
) -> tuple[TaskNetwork, ...]:
    """Make the network of every task.

    Parameters
    ----------
    effects : TaskEffects
        Effect maps of two participants at least, over all units of the space.
    space : Space
        Their space.
    against : {"off", "others"}
        Compare with the off prompts, or with the mean of the other tasks, within participant.
    top_percent : float, default=5
        Take this share of all units, those with the largest mean effect of either sign: the sets
        that overlap and repeatability compare. t and p rank worse: they saturate in a large group,
        and in a small one nothing may survive.
    alpha : float, default=0.05
        False discovery rate, for the count of units that survive it; each unit's adjusted p is in
        the network's table.
    min_cohens_d : float, optional
        Take the units whose abs(d) is above this and that survive `alpha`, in place of
        `top_percent`; a network may then be empty.

    Returns
    -------
    tuple of TaskNetwork
        One for each task.

    Raises
    ------
    NetworkError
        If there is one participant only, one task against the others, `min_cohens_d` is not above
        0, or the effects are not of this space.
    """
    if effects.effects.shape[2] != space.n_units:
        raise NetworkError(
            f"networks: effects of {effects.effects.shape[2]} units, space {space.label} has "
            f"{space.n_units}; expected all units of the space"
        )
    compared = effects if against == "off" else effects.against_others()
    return tuple(
        _task_network(compared, index, space, against, top_percent, alpha, min_cohens_d)
        for index in range(len(effects.tasks))
    )


def label_clusters(values: npt.NDArray[np.floating[Any]], space: Space) -> npt.NDArray[np.int64]:
    """Label the clusters of units that touch by a face and have the same sign.

    Parameters
    ----------
    values : ndarray of float, shape (n_units,)
        0 outside the network.
    space : Space
        The space.

    Returns
    -------
    ndarray of int64, shape (n_units,)
        1 for the largest cluster, 2 for the next one, 0 outside.
    """
    grid = space.to_grid(np.sign(values).astype(np.int8))
    marked = np.zeros(grid.shape, dtype=np.int64)
    for sign in (1, -1):
        found, _ = ndimage.label(grid == sign)
        marked[found > 0] = found[found > 0] + marked.max()
    sizes = np.bincount(marked.ravel())
    order = np.argsort(-sizes[1:], kind="stable")
    rank = np.zeros(sizes.size, dtype=np.int64)
    rank[order + 1] = np.arange(1, sizes.size)
    return np.asarray(space.to_units(rank[marked]), dtype=np.int64)


def _task_network(
    effects: TaskEffects,
    index: int,
    space: Space,
    against: Against,
    top_percent: float,
    alpha: float,
    min_cohens_d: float | None,
) -> TaskNetwork:
    task = effects.tasks[index]
    maps = group_statistics(effects.effects[:, index])
    images = {name: _image(values, space) for name, values in maps.items()}
    chosen: dict[str, Any] = {"top_percent": top_percent}
    if min_cohens_d is not None:
        images = {"cohensd": images["cohensd"], **images}  # the first one chooses
        survives = _image((maps["pfdr"] < alpha).astype(np.float32), space)
        chosen = {"threshold": min_cohens_d, "mask_img": survives}
    network = from_stat_maps(
        images,
        space,
        label=task if against == "off" else f"{task}{OTHERS}",
        provenance=effects.provenance if against == "others" else _provenance(effects, index),
        **chosen,
    )
    if min_cohens_d is not None:
        rule = f"|cohensd| > {min_cohens_d:g} and false discovery rate {alpha:g}"
        network = replace(network, criterion=rule)
    return TaskNetwork(
        network=replace(network, table=_with_clusters(network, maps, space)),
        task=task,
        against=against,
        top_percent=top_percent if min_cohens_d is None else None,
        alpha=alpha,
        n_fdr=int((network.table["pfdr"] < alpha).sum()),
        n_fdr_anywhere=int((maps["pfdr"] < alpha).sum()),
    )


def _provenance(effects: TaskEffects, index: int) -> Provenance:
    return Provenance.union(row[index] for rows in (effects.on, effects.off) for row in rows)


def _with_clusters(
    network: Network, maps: Mapping[str, npt.NDArray[np.float64]], space: Space
) -> pd.DataFrame:
    units = network.units(space)
    inside = np.zeros(space.n_units)
    inside[units] = maps["effect"][units]
    return network.table.assign(cluster=label_clusters(inside, space)[units].astype(np.float64))


def _image(values: npt.NDArray[Any], space: Space) -> nib.Nifti1Image:
    return nib.Nifti1Image(space.to_grid(values), space.affine)
