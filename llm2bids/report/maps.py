"""Sections: group maps, as mosaics and to explore; clusters and strongest units."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup
from nibabel.affines import apply_affine

from llm2bids.dataset.first_files import EXACTNESS
from llm2bids.exceptions import NetworkError
from llm2bids.inference.provenance import circularity_caution
from llm2bids.report.calibration import null_rates
from llm2bids.report.draw.color import diverging_indices, full_color
from llm2bids.report.draw.mosaic import mosaic_figure
from llm2bids.report.explorer import explorer_data
from llm2bids.report.group_map import CONTROLS, GroupMap, against_off
from llm2bids.report.section import Section, listed, missing, number, render, script_json
from llm2bids.report.sources import Sources, read_object, sidecar
from llm2bids.space.space import Space
from llm2bids.space.stat_map import units_at
from llm2bids.store.tables import checked_columns

MOST_MOSAICS = 12

N_UNITS, N_CLUSTERS = 12, 10  # rows of the tables of strongest units and clusters


def maps_section(sources: Sources, maps: tuple[GroupMap, ...]) -> Section:
    """Show a map to explore, and a mosaic for each contrast against the off prompts."""
    title = "Contrasts and statistical maps"
    if not maps:
        levels = ("group",) if sources.analysis is not None else ("participant", "group")
        body = missing("There are no group maps yet.", *map(sources.command, levels))
        return Section(name="maps", title=title, body=body)
    data, left_out = explorer_data(sources, maps)
    mosaics = []
    for group_map in against_off(maps)[:MOST_MOSAICS]:
        values = sources.unit_map(group_map.path)
        limit = full_color(values)
        drawing = _mosaic(sources.dataset.space, group_map, values, limit)
        mosaics.append((group_map, sources.color(group_map.title, group_map.task), limit, drawing))
    body = render(
        "maps.html",
        data=script_json(data),
        mosaics=mosaics,
        left_out=left_out,
        n_participants=maps[0].metadata.get("NumberOfParticipants"),
        generalisation=maps[0].metadata.get("Generalisation", ""),
        cautions=_cautions(sources, maps),
        n_masked=int(np.count_nonzero(~sources.analysed)),
        contrasts=[_contrast_row(sources, group_map) for group_map in maps],
        kinds=list(_KINDS.values()),
        null_rates=null_rates(sources),
        exactness=read_object(sources.dataset.path / EXACTNESS),
    )
    return Section(name="maps", title=title, body=body)


_KINDS = {
    "stat-effect": "effect",
    "stat-z": "z",
    "stat-z_desc-*": "z, corrected",
    "stat-cohensd": "d",
    "stat-t": "t",
    "stat-pfdr": "p (FDR)",
    "stat-variance": "variance",
}
"""Files of a contrast, and what the table of contrasts calls them."""


def _contrast_row(sources: Sources, group_map: GroupMap) -> dict[str, Any]:
    """Describe a contrast with its weights and the addresses of its images."""
    prefix = group_map.path.name.partition("_stat-")[0]
    files = []
    for pattern in _KINDS:
        found = sources.files(f"group/{prefix}_{pattern}_statmap.nii.gz")
        files.append([(path.name, sources.link(path)) for path in found])
    names: dict[float, list[str]] = {}
    for name, weight in group_map.metadata.get("ContrastWeights", {}).items():
        names.setdefault(float(weight), []).append(str(name).rpartition(":")[2])
    return {
        "title": group_map.contrast,
        "color": sources.color(group_map.title, group_map.task),
        "weights": [
            f"{number(weight, signed=True)} "
            + (f"each of {len(columns)} others" if len(columns) > 2 else listed(columns))
            for weight, columns in sorted(names.items(), reverse=True)
        ],
        "n_participants": group_map.metadata.get("NumberOfParticipants", ""),
        "files": files,
    }


@dataclass(frozen=True, kw_only=True)
class _Strongest:
    """Strongest units and clusters of a contrast."""

    title: str
    color: str
    units: list[dict[str, Any]]  # address, layer, role, head, effect, cohensd, t
    thresholds: dict[str, Any]  # by height control: z, and units beyond it
    alpha: float  # of the thresholds
    control: str  # height control of the clusters; empty without clusters
    z: float | None  # threshold of the clusters, None where no unit passes
    least_units: int  # of a cluster
    clusters: list[dict[str, Any]]  # address of the peak, layer, role, z, n_units
    n_clusters: int


def strongest_section(sources: Sources, maps: tuple[GroupMap, ...]) -> Section:
    """List strongest units and clusters of each contrast against the off prompts."""
    title = "Cluster table and strongest units"
    if not maps:
        body = missing("Tables come with the group maps.", sources.command("group"))
        return Section(name="strongest", title=title, body=body)
    body = render(
        "strongest.html",
        contrasts=[strongest(sources, group_map) for group_map in against_off(maps)],
        controls=CONTROLS,
        n_participants=maps[0].metadata.get("NumberOfParticipants", 0),
        arrangement=sources.dataset.space.arrangement,
    )
    return Section(name="strongest", title=title, body=body)


def strongest(sources: Sources, group_map: GroupMap) -> _Strongest:
    """List a contrast's units by absolute effect, and its clusters by absolute z of the peak."""
    metadata = sidecar(group_map.other("z"))
    tables = sources.files(
        f"group/{group_map.path.name.partition('_stat-')[0]}_desc-*_clusters.tsv"
    )
    control, cut, clusters = "", {}, pd.DataFrame()
    if tables:
        control = tables[0].name.partition("_desc-")[2].partition("_")[0]
        cut = sidecar(group_map.other(f"z_desc-{control}"))
        clusters = _whole_clusters(tables[0])
    peaks = _peaks(sources.dataset.space, clusters)
    return _Strongest(
        title=group_map.title,
        color=sources.color(group_map.title, group_map.task),
        units=[_plain(row) for row in _strongest_units(sources, group_map).to_dict("records")],
        thresholds=metadata.get("TwoSidedThresholds", {}),
        alpha=float(metadata.get("Alpha", np.nan)),
        control=control,
        z=cut.get("Threshold"),
        least_units=max(1, int(cut.get("ClusterThreshold", 1))),
        clusters=sorted(peaks, key=lambda row: -abs(row["z"]))[:N_CLUSTERS],
        n_clusters=len(clusters),
    )


def _strongest_units(sources: Sources, group_map: GroupMap) -> pd.DataFrame:
    """Take the first rows of the contrast's network, or of the map where none was written."""
    written = sources.networks.get(group_map.contrast)
    if written is not None:
        return written.network.table.head(N_UNITS)
    effect = np.nan_to_num(sources.unit_map(group_map.path))
    top = np.argsort(-np.abs(effect), kind="stable")[:N_UNITS]
    table = units_at(sources.dataset.space, top).assign(effect=effect[top])
    for stat in ("cohensd", "t"):
        if group_map.other(stat).exists():
            table[stat] = sources.unit_map(group_map.other(stat))[top]
    return table


def _whole_clusters(path: Path) -> pd.DataFrame:
    """Read the first row of each cluster; rows of further peaks have no size."""
    try:  # nilearn leaves the size of further peaks empty
        table = pd.read_csv(path, sep="\t", dtype={"Cluster ID": "str"}, na_values="n/a")
    except (OSError, ValueError) as error:
        raise NetworkError(
            f"{path}: not a readable table ({error}); run the group level again"
        ) from None
    numbers = ("X", "Y", "Z", "Peak Stat", "Cluster Size (mm3)")
    table = checked_columns(table, path, numbers, missing=numbers)
    return table.loc[table["Cluster Size (mm3)"].notna()]


def _peaks(space: Space, clusters: pd.DataFrame) -> list[dict[str, Any]]:
    """Put the peaks of clusters into model coordinates, where they are units."""
    if clusters.empty:
        return []
    world = clusters[["X", "Y", "Z"]].to_numpy(dtype=np.float64)
    voxels = np.rint(apply_affine(np.linalg.inv(space.affine), world)).astype(np.intp)
    units = space.unit_of_voxel[tuple(np.clip(voxels, 0, np.array(space.shape) - 1).T)]
    volume = float(abs(np.linalg.det(space.affine[:3, :3])))
    rows = []
    for unit, cluster in zip(units.tolist(), clusters.to_dict("records"), strict=True):
        if unit >= 0:
            row = _plain(units_at(space, [unit]).to_dict("records")[0])
            row["z"] = float(cluster["Peak Stat"])
            row["n_units"] = round(float(cluster["Cluster Size (mm3)"]) / volume)
            rows.append(row)
    return rows


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): None if pd.isna(value) else value for key, value in row.items()}


def _cautions(sources: Sources, maps: tuple[GroupMap, ...]) -> list[str]:
    """List what the sidecars warn of; of circularity, for the prompts of all maps."""
    prompts = {
        str(prompt) for group_map in maps for prompt in group_map.metadata.get("Prompts", [])
    }
    circular = circularity_caution(sources.dataset.space, prompts).values()
    others = [maps[0].metadata.get(key) for key in ("Caution", "SharedPromptsCaution")]
    return [str(text) for text in (*circular, *others) if text]


def _mosaic(
    space: Space, group_map: GroupMap, values: npt.NDArray[np.float32], limit: float
) -> Markup:
    peak = int(np.abs(np.nan_to_num(values)).argmax())
    alt = (
        f"Mosaic of the group effect of {group_map.title} in all layers; largest at "
        f"{space.address_of(peak)}: {values[peak]:.2f} rest sd."
    )
    return mosaic_figure(space, diverging_indices(values, limit), alt=alt)
