"""Maps that the page lets explore: one byte a unit, with what passes a correction."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.layout import INTACT
from llm2bids.report.draw.color import LEVELS, full_color
from llm2bids.report.draw.mosaic import pack_layout, quantise
from llm2bids.report.section import counted, encoded, number
from llm2bids.report.sources import CONTROLS, STATS, GroupMap, Sources, sidecar

MOST_BYTES = 7_500_000  # of the group's maps on the page
MOST_PARTICIPANT_BYTES = 4_000_000  # of the participants' maps

_INNER = (0.15, 0.35, 0.6)  # of full colour: levels of a participant's map, before they grow


@dataclass
class _Room:
    """Maps that are packed so far, and those for which there was no room."""

    most: int
    entries: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    used: int = 0

    def add(self, entry: dict[str, Any], name: str) -> bool:
        size = len(entry["data"])
        if self.entries and self.used + size > self.most:
            self.left_out.append(name)
            return False
        self.used += size
        self.entries.append(entry)
        return True


def explorer_data(sources: Sources) -> tuple[dict[str, Any], list[str]]:
    """Pack the layout and as many maps as the page may hold; name those that did not fit."""
    first = sources.condition_maps or sources.maps
    group, people = _Room(most=MOST_BYTES), _Room(most=MOST_PARTICIPANT_BYTES)
    for group_map in dict.fromkeys((*first, *sources.maps)):
        name = f"{group_map.contrast} ({STATS['effect']})"
        group.add(_group_entry(sources, group_map, "effect"), name)
        _add_z(sources, group_map, group)
    for label in sorted({_participant(path) for path in _participant_maps(sources)}):
        for group_map in first:
            for path in _participant_maps(sources, label, group_map):
                name = f"{group_map.contrast} (sub-{label})"
                people.add(_participant_entry(sources, group_map, path), name)
    data = {**pack_layout(sources.dataset.space), "maps": [*group.entries, *people.entries]}
    return data, [*group.left_out, *people.left_out]


def _entry(
    sources: Sources, group_map: GroupMap, path: Path, steps: npt.NDArray[np.int8], **more: Any
) -> dict[str, Any]:
    """Pack a map of a contrast as the page's script reads it."""
    return {
        "title": group_map.title,
        "versus": group_map.is_against_others,
        "color": sources.color(group_map.title, group_map.task),
        "file": sources.link(path),
        "data": encoded(steps.tobytes()),
        **more,
    }


def _group_entry(sources: Sources, group_map: GroupMap, stat: str) -> dict[str, Any]:
    """Pack a statistic of a group map."""
    path = group_map.other(stat)
    values = sources.unit_map(path)
    steps, limit = quantise(values)
    view = sources.views.get(group_map.contrast)
    return _entry(
        sources,
        group_map,
        path,
        steps,
        stat=stat,
        unit=STATS[stat],
        limit=limit,
        show=full_color(values),
        level="Every unit is shown, whatever its p.",
        view=sources.link(view) if view else "",
    )


def _add_z(sources: Sources, group_map: GroupMap, room: _Room) -> None:
    """Pack z, and again for each correction, which share its values and have units that pass."""
    if not group_map.other("z").exists():
        return
    whole = _group_entry(sources, group_map, "z")
    number_of_z = len(room.entries)
    if not room.add(whole, f"{group_map.contrast} ({STATS['z']})"):
        return
    z = np.nan_to_num(sources.unit_map(group_map.other("z")))
    shared = {key: value for key, value in whole.items() if key != "data"} | {"like": number_of_z}
    metadata = sidecar(group_map.other("z"))
    for control, threshold in metadata.get("TwoSidedThresholds", {}).items():
        if control != "fpr":
            cut = threshold.get("z")
            passes = np.zeros(len(z), dtype=bool) if cut is None else np.abs(z) >= cut
            room.entries.append(shared | _passing(passes, control, metadata | {"Threshold": cut}))
    for path in sources.files(f"group/{group_map.prefix}_stat-z_desc-*_statmap.nii.gz"):
        control, about_cut = path.name.partition("_desc-")[2].partition("_")[0], sidecar(path)
        if int(about_cut.get("ClusterThreshold", 0)) > 1:
            passes = np.nan_to_num(sources.unit_map(path)) != 0
            file = {"file": sources.link(path)}
            room.entries.append(shared | _passing(passes, control, about_cut) | file)
    if group_map.is_against_off and group_map.other("cohensd").exists():
        d = np.nan_to_num(sources.unit_map(group_map.other("cohensd")))
        levels = _levels(z, d, whole["limit"])
        if levels is not None:
            room.entries.append(
                shared
                | {"stat": "cohensd", "unit": STATS["cohensd"], "levels": levels, "rough": True}
                | {"show": full_color(d), "file": sources.link(group_map.other("cohensd"))}
            )


def _passing(
    passes: npt.NDArray[np.bool_], control: str, metadata: dict[str, Any]
) -> dict[str, Any]:
    """Pack which units, (n_units,), pass, and say at which level and in clusters of which size."""
    name = CONTROLS.get(control, control)
    alpha, least = float(metadata.get("Alpha", np.nan)), int(metadata.get("ClusterThreshold", 0))
    threshold = metadata.get("Threshold")
    height = "no unit passes" if threshold is None else f"|z| from {number(float(threshold))}"
    size = f"in clusters of {least} units or more" if least > 1 else "each unit by itself"
    return {
        "unit": f"z, p < {alpha:g} {name}" + (f", clusters ≥ {least}" if least > 1 else ""),
        "level": f"p < {alpha:g}, {name}: {height}, {size}; {counted(int(passes.sum()), 'unit')}.",
        "passes": encoded(np.packbits(passes, bitorder="little").tobytes()),
    }


def _levels(
    z: npt.NDArray[np.float32], d: npt.NDArray[np.float32], limit: float
) -> list[float] | None:
    """Give d at each absolute step of z, (128,), where d rises with z as in a one-sample test."""
    order = np.argsort(np.abs(z), kind="stable")
    sizes, values = np.abs(z)[order], np.abs(d)[order]
    if (np.sign(z) != np.sign(d)).any() or (np.diff(values) < -0.01 * values[-1]).any():
        return None
    steps = (np.arange(LEVELS + 1) / LEVELS) ** 2 * limit
    return [round(float(level), 4) for level in np.interp(steps, sizes, values)]


def _participant_maps(
    sources: Sources, label: str = "*", group_map: GroupMap | None = None
) -> list[Path]:
    """List effect maps of participants at the first level, of all runs, or of one contrast."""
    name = "*_stat-effect_statmap.nii.gz"
    if group_map is not None:
        name = f"*task-{group_map.task or '*'}_*contrast-{group_map.contrast}{name[1:]}"
    found = sources.files(f"sub-{label}/**/{name}")
    return [path for path in found if "_ses-" not in path.name or f"_ses-{INTACT}_" in path.name]


def _participant(path: Path) -> str:
    match = re.match(r"sub-([^_]+)_", path.name)
    return match[1] if match else ""


def _participant_entry(sources: Sources, group_map: GroupMap, path: Path) -> dict[str, Any]:
    """Pack a participant's map coarsely: it stands beside the group's to be compared by eye."""
    values = sources.unit_map(path)
    show = full_color(values)
    steps, levels = coarsely(values, show)
    run = re.search(r"_run-(\d+)", path.name)
    subject = f"sub-{_participant(path)}"
    return _entry(
        sources,
        group_map,
        path,
        steps,
        title=group_map.title + (f", run {run[1]}" if run else ""),
        versus=False,
        stat="effect",
        subject=subject,
        unit=f"effect (rest sd), {subject}",
        levels=levels,
        rough=True,
        show=show,
        level="One participant, in coarse steps: the file has the values.",
    )


def coarsely(
    values: npt.NDArray[np.floating], show: float
) -> tuple[npt.NDArray[np.int8], list[float]]:
    """Round a map, (n_units,), to few levels, each 1.6 times the last: steps, and their sizes.

    Steps are 0 to the number of levels with the sign of the value, -128 where there is none.
    """
    largest = max(float(np.nanmax(np.abs(values), initial=0.0)), show)
    n_above = 1 + math.ceil(math.log(largest / show) / math.log(1.6))
    levels = show * np.r_[0.0, _INNER, 1.6 ** np.arange(n_above)]
    borders = (levels[1:] + levels[:-1]) / 2
    steps = np.sign(values) * np.searchsorted(borders, np.abs(values))
    steps = np.where(np.isnan(values), -LEVELS - 1, steps).astype(np.int8)
    padded = np.pad(levels, (0, LEVELS + 1 - len(levels)), mode="edge")
    return steps, [float(f"{level:.4g}") for level in padded]
