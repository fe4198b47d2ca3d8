"""Maps that the page lets explore: one byte a unit, with what passes a correction."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.layout import INTACT
from llm2bids.report.draw.color import LEVELS, full_color
from llm2bids.report.draw.mosaic import pack_layout, quantise
from llm2bids.report.flatmap import UNITS
from llm2bids.report.section import counted, encoded, number
from llm2bids.report.sources import CONTROLS, GroupMap, Sources, sidecar

MOST_BYTES = 7_500_000  # of the group's maps on the page
MOST_PARTICIPANT_BYTES = 4_000_000  # of the participants' maps

_INNER = (0.15, 0.35, 0.6)  # of full colour: levels of a participant's map, before they grow


class _Packed(NamedTuple):
    """A map as the page's script reads it, and what else has its values, in other words."""

    name: str
    entry: dict[str, Any]
    variants: Sequence[dict[str, Any]] = ()  # what differs from `entry`


def explorer_data(sources: Sources) -> tuple[dict[str, Any], list[str]]:
    """Pack the layout and as many maps as the page may hold; name those that did not fit."""
    entries: list[dict[str, Any]] = []
    left_out = [
        *_fit(_group_maps(sources), MOST_BYTES, entries),
        *_fit(_participant_maps(sources), MOST_PARTICIPANT_BYTES, entries),
    ]
    return {**pack_layout(sources.dataset.space), "maps": entries}, left_out


def _fit(maps: Iterable[_Packed], most: int, entries: list[dict[str, Any]]) -> Iterator[str]:
    """Append maps with their variants while there is room; name those that are left out."""
    used = 0
    for name, entry, variants in maps:
        size = len(entry["data"])
        if used and used + size > most:
            yield name
            continue
        used += size
        shared = {key: value for key, value in entry.items() if key != "data"}
        shared["like"] = len(entries)
        entries += [entry, *(shared | variant for variant in variants)]


def _group_maps(sources: Sources) -> Iterator[_Packed]:
    """Pack effect and z of each contrast, those against the off prompts first."""
    for group_map in dict.fromkeys((*sources.condition_maps, *sources.maps)):
        for stat in ("effect", "z"):
            if group_map.other(stat).exists():
                entry = _group_entry(sources, group_map, stat)
                variants = _variants(sources, group_map, entry) if stat == "z" else ()
                yield _Packed(f"{group_map.contrast} ({UNITS[stat]})", entry, variants)


def _participant_maps(sources: Sources) -> Iterator[_Packed]:
    """Pack the participants' effects, of the intact model."""
    for label in sources.participants:
        for group_map in sources.condition_maps or sources.maps:
            task, contrast = group_map.task or "*", group_map.contrast
            name = f"*task-{task}_*contrast-{contrast}_stat-effect_statmap.nii.gz"
            for path in sources.files(f"sub-{label}/**/{name}"):
                if "_ses-" not in path.name or f"_ses-{INTACT}_" in path.name:
                    entry = _participant_entry(sources, group_map, path, f"sub-{label}")
                    yield _Packed(f"{contrast} (sub-{label})", entry)


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
        unit=UNITS[stat],
        limit=limit,
        show=full_color(values),
        level="Every unit is shown, whatever its p.",
        view=sources.link(view) if view else "",
    )


def _variants(sources: Sources, group_map: GroupMap, whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Say what differs from z for each correction, which has units that pass, and for Cohen's d."""
    z, variants = np.nan_to_num(sources.unit_map(group_map.other("z"))), []
    metadata = sidecar(group_map.other("z"))
    for control, threshold in metadata.get("TwoSidedThresholds", {}).items():
        if control != "fpr":
            cut = threshold.get("z")
            passes = np.zeros(len(z), dtype=bool) if cut is None else np.abs(z) >= cut
            variants.append(_passing(passes, control, metadata | {"Threshold": cut}))
    for path in sources.files(f"group/{group_map.prefix}_stat-z_desc-*_statmap.nii.gz"):
        control, about_cut = path.name.partition("_desc-")[2].partition("_")[0], sidecar(path)
        if int(about_cut.get("ClusterThreshold", 0)) > 1:
            passes = np.nan_to_num(sources.unit_map(path)) != 0
            file = {"file": sources.link(path)}
            variants.append(_passing(passes, control, about_cut) | file)
    effect_size = group_map.other("cohensd")
    if group_map.is_against_off and effect_size.exists():
        d = np.nan_to_num(sources.unit_map(effect_size))
        levels = _levels(z, d, whole["limit"])
        if levels is not None:
            known = {"stat": "cohensd", "unit": UNITS["cohensd"], "levels": levels, "rough": True}
            variants.append(known | {"show": full_color(d), "file": sources.link(effect_size)})
    return variants


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


def _participant_entry(
    sources: Sources, group_map: GroupMap, path: Path, subject: str
) -> dict[str, Any]:
    """Pack a participant's map coarsely: it stands beside the group's to be compared by eye."""
    values = sources.unit_map(path)
    show = full_color(values)
    steps, levels = coarsely(values, show)
    run = re.search(r"_run-(\d+)", path.name)
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
