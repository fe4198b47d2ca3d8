"""Section: clusters and strongest units, in model coordinates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import NetworkError
from llm2bids.report.draw.color import task_color
from llm2bids.report.maps import GroupMap
from llm2bids.report.profiles import read_network, written_networks
from llm2bids.report.section import Missing, Section, missing, render
from llm2bids.report.sources import Sources, read_object, unit_map
from llm2bids.space.space import Space
from llm2bids.space.stat_map import units_at
from llm2bids.store.tables import checked_columns

N_UNITS, N_CLUSTERS = 12, 10
"""Rows of the tables."""

CONTROLS = {"fpr": "uncorrected", "fdr": "FDR", "bonferroni": "Bonferroni"}
"""Height controls as the page calls them."""


@dataclass(frozen=True, kw_only=True)
class Strongest:
    """Strongest units and clusters of a contrast.

    Parameters
    ----------
    title, color : str
        Contrast and its colour.
    units : list of dict
        Address, layer, role, head, effect, d, t.
    thresholds : dict
        By height control: z and number of units above it.
    alpha : float
        Level of the thresholds.
    control : str
        Height control of the clusters, as a key of `thresholds`; empty without clusters.
    z, least_units : float or None, int
        Threshold of the clusters' map (None where nothing passes), and least units of a cluster.
    clusters : list of dict
        Address of the peak, layer, role, z, units.
    n_clusters : int
        All clusters.
    """

    title: str
    color: str
    units: list[dict[str, Any]]
    thresholds: dict[str, Any]
    alpha: float
    control: str
    z: float | None
    least_units: int
    clusters: list[dict[str, Any]]
    n_clusters: int


def strongest_section(sources: Sources, maps: tuple[GroupMap, ...]) -> Section:
    """List clusters and strongest units of each contrast against the off prompts.

    Parameters
    ----------
    sources : Sources
        Dataset and analysis.
    maps : tuple of GroupMap
        From `find_maps`.

    Returns
    -------
    Section
        One pair of tables for each contrast.
    """
    title = "Clusters and strongest units"
    if not maps:
        part = Missing(what="Tables come with the group maps.", command=sources.command("group"))
        return Section(name="strongest", title=title, body=missing(part))
    shown = [one for one in maps if one.is_against_off] or list(maps)
    found = [strongest(sources, one) for one in shown]
    body = render(
        "strongest.html",
        contrasts=found,
        controls=CONTROLS,
        n_participants=maps[0].about.get("NumberOfParticipants", 0),
        arrangement=sources.dataset.space.arrangement,
    )
    return Section(name="strongest", title=title, body=body)


def strongest(sources: Sources, one: GroupMap) -> Strongest:
    """List clusters and strongest units of a contrast.

    Parameters
    ----------
    sources : Sources
        Dataset and analysis.
    one : GroupMap
        The contrast.

    Returns
    -------
    Strongest
        Units by absolute effect, clusters by absolute z of the peak.
    """
    space = sources.dataset.space
    table = strongest_units(sources, one)
    about = read_object(_sidecar(one, "z"))
    control, clusters = _clusters(one)
    cut = read_object(_sidecar(one, f"z_desc-{control}"))
    peaks = [row for row in _peaks(space, clusters) if row]
    return Strongest(
        title=one.title,
        color=task_color(sources.color(one.title, one.task)),
        units=[_plain(row) for row in table.to_dict("records")],
        thresholds=about.get("TwoSidedThresholds", {}),
        alpha=float(about.get("Alpha", np.nan)),
        control=control,
        z=cut.get("Threshold"),
        least_units=max(1, int(cut.get("ClusterThreshold", 1))),
        clusters=sorted(peaks, key=lambda row: -abs(row["z"]))[:N_CLUSTERS],
        n_clusters=int(clusters["Cluster Size (mm3)"].notna().sum()) if len(clusters) else 0,
    )


def strongest_units(sources: Sources, one: GroupMap) -> pd.DataFrame:
    """Give the first rows of the contrast's network, or of the group map where none was written."""
    about = written_networks(sources).get(one.contrast)
    if about is not None:
        return read_network(sources, about).table.head(N_UNITS)
    effect = unit_map(sources, one.path)
    top = np.argsort(-np.abs(effect), kind="stable")[:N_UNITS]
    table = units_at(sources.dataset.space, top).assign(effect=effect[top])
    for stat in ("cohensd", "t"):
        if one.other(stat).exists():
            table[stat] = unit_map(sources, one.other(stat))[top]
    return table


def _sidecar(one: GroupMap, stat: str) -> Path:
    image = one.other(stat)
    return image.with_name(image.name.replace(".nii.gz", ".json"))


def _clusters(one: GroupMap) -> tuple[str, pd.DataFrame]:
    stem = one.path.name.partition("_stat-")[0]
    paths = sorted(one.path.parent.glob(f"{stem}_desc-*_clusters.tsv"))
    if not paths:
        return "", pd.DataFrame()
    control = paths[0].name.partition("_desc-")[2].partition("_")[0]
    try:
        table = pd.read_csv(paths[0], sep="\t", dtype={"Cluster ID": "str"}, na_values="n/a")
    except (OSError, ValueError) as error:
        raise NetworkError(
            f"{paths[0]}: not a readable table ({error}); run the group level again"
        ) from None
    numbers = ("X", "Y", "Z", "Peak Stat", "Cluster Size (mm3)")
    return control, checked_columns(table, paths[0], numbers, missing=numbers)


def _peaks(space: Space, clusters: pd.DataFrame) -> list[dict[str, Any]]:
    """Put each cluster's first peak into model coordinates."""
    if clusters.empty:
        return []
    whole = clusters[clusters["Cluster Size (mm3)"].notna()]
    voxels = _voxels(space, whole[["X", "Y", "Z"]].to_numpy(dtype=np.float64))
    volume = float(abs(np.linalg.det(space.affine[:3, :3])))
    rows = []
    for voxel, cluster in zip(voxels, whole.to_dict("records"), strict=True):
        unit = int(space.unit_of_voxel[tuple(voxel)])
        if unit >= 0:
            row = _plain(units_at(space, [unit]).to_dict("records")[0])
            row["z"] = float(cluster["Peak Stat"])
            row["n_units"] = round(float(cluster["Cluster Size (mm3)"]) / volume)
            rows.append(row)
    return rows


def _voxels(space: Space, world: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    inverse = np.linalg.inv(space.affine)
    voxels = np.rint(world @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.intp)
    return np.asarray(np.clip(voxels, 0, np.array(space.shape) - 1))


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): None if pd.isna(value) else value for key, value in row.items()}
