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

from llm2bids.dataset.layout import INTACT
from llm2bids.exceptions import NetworkError
from llm2bids.inference.provenance import circularity_caution
from llm2bids.report.draw.color import full_color
from llm2bids.report.draw.mosaic import mosaic_figure, pack_layout, packed, quantise
from llm2bids.report.section import Section, missing, render, script_json
from llm2bids.report.sources import Sources, sidecar
from llm2bids.space.space import Space
from llm2bids.space.stat_map import units_at
from llm2bids.store.tables import checked_columns

MOST_BYTES = 6_000_000
"""Units times maps that the page may hold; it grows by four bytes for each three."""

MOST_MOSAICS = 12

N_UNITS, N_CLUSTERS = 12, 10  # rows of the tables of strongest units and clusters
STATS = {"effect": "effect (rest sd)", "cohensd": "Cohen's d"}
"""Statistics that can be explored, and what they are called."""

CONTROLS = {"fpr": "uncorrected", "fdr": "FDR", "bonferroni": "Bonferroni"}
"""Height controls as the page calls them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupMap:
    """The group's effect map of one contrast."""

    contrast: str
    task: str  # empty for contrasts between tasks
    path: Path
    metadata: dict[str, Any]  # its sidecar

    @property
    def session(self) -> str:
        """Session of an edited model, or its change from the intact one; empty for the intact."""
        label = self.path.name.partition("_")[0].removeprefix("ses-")
        return label if self.path.name.startswith("ses-") and label != INTACT else ""

    @property
    def is_against_off(self) -> bool:
        """Whether it is one condition of the intact model against the off prompts."""
        return len(self.metadata.get("ContrastWeights", {})) == 1 and not self.session

    @property
    def is_against_others(self) -> bool:
        """Whether it is a task against the mean of the others."""
        others = self.contrast.endswith("VsOthers")
        return others and not (self.is_against_off or self.session)

    @property
    def title(self) -> str:
        """What the map shows, in words."""
        if self.session:
            return f"{self.contrast} (ses-{self.session})"
        return self.contrast.removesuffix("VsOthers") if self.is_against_others else self.contrast

    def other(self, stat: str) -> Path:
        """Give the path of another statistic's map."""
        return self.path.with_name(self.path.name.replace("_stat-effect_", f"_stat-{stat}_"))


def find_maps(sources: Sources) -> tuple[GroupMap, ...]:
    """List the group's effect maps: those against the off prompts first, in the tasks' order."""
    maps = []
    for path in sources.files("group/*_stat-effect_statmap.nii.gz"):
        metadata = sidecar(path)
        maps.append(
            GroupMap(
                contrast=str(metadata.get("ContrastLabel", path.name)),
                task=str(metadata.get("TaskLabel") or ""),
                path=path,
                metadata=metadata,
            )
        )
    order = {task: number for number, task in enumerate(sources.tasks)}
    return tuple(
        sorted(
            maps,
            key=lambda group_map: (
                not group_map.is_against_off,
                order.get(group_map.task, len(order)),
            ),
        )
    )


def against_off(maps: tuple[GroupMap, ...]) -> list[GroupMap]:
    """Choose the maps of one condition against the off prompts; all maps where there is none."""
    return [group_map for group_map in maps if group_map.is_against_off] or list(maps)


def maps_section(sources: Sources, maps: tuple[GroupMap, ...]) -> Section:
    """Show a map to explore, and a mosaic for each contrast against the off prompts."""
    title = "Group maps"
    if not maps:
        levels = ("group",) if sources.analysis is not None else ("participant", "group")
        body = missing("There are no group maps yet.", *map(sources.command, levels))
        return Section(name="maps", title=title, body=body)
    data, left_out = _packed_maps(sources, maps)
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
    )
    return Section(name="maps", title=title, body=body)


def _packed_maps(sources: Sources, maps: tuple[GroupMap, ...]) -> tuple[dict[str, Any], list[str]]:
    """Pack the layout and as many maps as the page may hold; name those that did not fit."""
    wanted = [(group_map, "effect") for group_map in maps]
    wanted += [(group_map, "cohensd") for group_map in maps if group_map.is_against_off]
    room = max(1, MOST_BYTES // sources.dataset.space.n_units)
    entries = []
    for group_map, stat in wanted[:room]:
        path = group_map.path if stat == "effect" else group_map.other(stat)
        if path.exists():
            values = sources.unit_map(path)
            small = quantise(values)
            entries.append(
                {
                    "title": group_map.title,
                    "versus": group_map.is_against_others,
                    "stat": stat,
                    "unit": STATS[stat],
                    "limit": small.limit,
                    "show": full_color(values),
                    "color": sources.color(group_map.title, group_map.task),
                    "data": packed(small.steps),
                }
            )
    left_out = [f"{group_map.contrast} ({STATS[stat]})" for group_map, stat in wanted[room:]]
    return {**pack_layout(sources.dataset.space), "maps": entries}, left_out


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
    title = "Clusters and strongest units"
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
    return mosaic_figure(space, values, limit=limit, alt=alt)
