"""Sections: group maps, as mosaics and to explore; clusters and strongest units."""

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
from llm2bids.report.draw.color import diverging_indices, full_color
from llm2bids.report.draw.mosaic import mosaic_figure
from llm2bids.report.explorer import explorer_data
from llm2bids.report.findings import null_rates
from llm2bids.report.section import listed, missing, number, render, script_json
from llm2bids.report.sources import CONTROLS, GroupMap, Sources, read_object, sidecar
from llm2bids.space.space import Space
from llm2bids.space.stat_map import units_at
from llm2bids.store.tables import checked_columns

MOST_MOSAICS = 12

N_UNITS, N_CLUSTERS = 12, 10  # rows of the tables of strongest units and clusters


def maps_body(sources: Sources) -> Markup:
    """Show a map to explore, and a mosaic for each contrast against the off prompts."""
    maps = sources.maps
    if not maps:
        levels = ("group",) if sources.analysis is not None else ("participant", "group")
        return missing("There are no group maps yet.", *map(sources.command, levels))
    data, left_out = explorer_data(sources)
    mosaics = []
    for group_map in (sources.condition_maps or maps)[:MOST_MOSAICS]:
        values = sources.unit_map(group_map.path)
        limit = full_color(values)
        drawing = _mosaic(sources.dataset.space, group_map, values, limit)
        mosaics.append((group_map, sources.color(group_map.title, group_map.task), limit, drawing))
    return render(
        "maps.html",
        data=script_json(data),
        mosaics=mosaics,
        left_out=left_out,
        metadata=maps[0].metadata,
        cautions=_cautions(sources),
        n_masked=int(np.count_nonzero(~sources.analysed)),
        contrasts=[_contrast_row(sources, group_map) for group_map in maps],
        kinds=list(_KINDS.values()),
        null_rates=null_rates(sources),
        exactness=read_object(sources.dataset.path / EXACTNESS),
    )


# Files of a contrast, and what the table of contrasts calls them
_KINDS = {
    "stat-effect": "effect",
    "stat-z": "z",
    "stat-z_desc-*": "z, corrected",
    "stat-cohensd": "d",
    "stat-t": "t",
    "stat-pfdr": "p (FDR)",
    "stat-variance": "variance",
}


def _contrast_row(sources: Sources, group_map: GroupMap) -> dict[str, Any]:
    """Describe a contrast with its weights and the addresses of its images."""
    files = []
    for pattern in _KINDS:
        paths = sources.files(f"group/{group_map.prefix}_{pattern}_statmap.nii.gz")
        files.append([(path.name, sources.link(path)) for path in paths])
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


def strongest_body(sources: Sources) -> Markup:
    """List strongest units and clusters of each contrast against the off prompts."""
    maps = sources.maps
    if not maps:
        return missing("Tables come with the group maps.", sources.command("group"))
    return render(
        "strongest.html",
        contrasts=[strongest(sources, group_map) for group_map in sources.condition_maps or maps],
        controls=CONTROLS,
        metadata=maps[0].metadata,
        arrangement=sources.dataset.space.arrangement,
    )


def strongest(sources: Sources, group_map: GroupMap) -> dict[str, Any]:
    """List a contrast's units by absolute effect, and its clusters by absolute z of the peak."""
    metadata = sidecar(group_map.other("z"))
    tables = sources.files(f"group/{group_map.prefix}_desc-*_clusters.tsv")
    control, cut, n_clusters, peaks = "", {}, 0, pd.DataFrame()
    if tables:
        control = tables[0].name.partition("_desc-")[2].partition("_")[0]
        cut = sidecar(group_map.other(f"z_desc-{control}"))
        clusters = _whole_clusters(tables[0])
        n_clusters, peaks = len(clusters), _peaks(sources.dataset.space, clusters)
    return {
        "title": group_map.title,
        "color": sources.color(group_map.title, group_map.task),
        "units": _rows(sources.network(group_map).table.head(N_UNITS)),
        "thresholds": metadata.get("TwoSidedThresholds", {}),  # of z by height control
        "alpha": float(metadata.get("Alpha", np.nan)),  # of the thresholds
        "control": control,  # height control of the clusters; empty without clusters
        "z": cut.get("Threshold"),  # of the clusters, None where no unit passes
        "least_units": max(1, int(cut.get("ClusterThreshold", 1))),  # of a cluster
        "clusters": _rows(peaks.head(N_CLUSTERS)),
        "n_clusters": n_clusters,
    }


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


def _peaks(space: Space, clusters: pd.DataFrame) -> pd.DataFrame:
    """Put the peaks of clusters into model coordinates, where they are units; largest z first."""
    world = clusters[["X", "Y", "Z"]].to_numpy(dtype=np.float64)
    voxels = np.rint(apply_affine(np.linalg.inv(space.affine), world)).astype(np.intp)
    units = space.unit_of_voxel[tuple(np.clip(voxels, 0, np.array(space.shape) - 1).T)]
    volume = float(abs(np.linalg.det(space.affine[:3, :3])))
    there = clusters[units >= 0]
    peaks = units_at(space, units[units >= 0]).assign(
        z=there["Peak Stat"].to_numpy(),
        n_units=np.rint(there["Cluster Size (mm3)"].to_numpy() / volume),
    )
    return peaks.sort_values("z", key=lambda z: -z.abs(), kind="stable")


def _rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """List the rows for a template, with None where there is no value."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _cautions(sources: Sources) -> list[str]:
    """List what the sidecars warn of; of circularity, for the prompts of all maps."""
    maps = sources.maps
    prompts = {str(name) for group_map in maps for name in group_map.metadata.get("Prompts", [])}
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
