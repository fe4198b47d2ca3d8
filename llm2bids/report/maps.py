"""Section: group maps, as mosaics and as a map to explore."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.inference.circular import circularity_caution
from llm2bids.report.draw.color import full_color, task_color
from llm2bids.report.draw.mosaic import mosaic_figure
from llm2bids.report.draw.packed import pack_layout, quantise
from llm2bids.report.section import Missing, Section, missing, packed, render
from llm2bids.report.sources import Sources, read_object, unit_map

MOST_BYTES = 6_000_000
"""Units times maps that the page may hold; it grows by four bytes for each three."""

MOST_MOSAICS = 12

STATS = {"effect": "effect (rest sd)", "cohensd": "Cohen's d"}
"""Statistics that can be explored, and what they are called."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupMap:
    """A group map of one contrast.

    Parameters
    ----------
    contrast : str
        Label of the contrast.
    task : str
        Label of its task; empty for contrasts between tasks.
    path : Path
        The effect map.
    about : dict
        Its sidecar.
    """

    contrast: str
    task: str
    path: Path
    about: dict[str, Any]

    @property
    def is_against_off(self) -> bool:
        """Whether it is one condition against the off prompts."""
        return len(self.about.get("ContrastWeights", {})) == 1

    def other(self, stat: str) -> Path:
        """Give the path of another statistic's map."""
        return self.path.with_name(self.path.name.replace("_stat-effect_", f"_stat-{stat}_"))

    @property
    def is_against_others(self) -> bool:
        """Whether it is a task against the mean of the others."""
        return not self.is_against_off and self.contrast.endswith("VsOthers")

    @property
    def title(self) -> str:
        """What the map shows, in words."""
        return self.contrast.removesuffix("VsOthers") if self.is_against_others else self.contrast


def find_maps(sources: Sources) -> tuple[GroupMap, ...]:
    """List the group's effect maps.

    Parameters
    ----------
    sources : Sources
        The analysis.

    Returns
    -------
    tuple of GroupMap
        Contrasts against the off prompts first, in the order of the tasks; empty without group
        level.
    """
    if sources.analysis is None:
        return ()
    found = []
    for path in sorted((sources.analysis / "group").glob("*_stat-effect_statmap.nii.gz")):
        about = read_object(path.with_name(path.name.replace(".nii.gz", ".json")))
        found.append(
            GroupMap(
                contrast=str(about.get("ContrastLabel", path.name)),
                task=str(about.get("TaskLabel") or ""),
                path=path,
                about=about,
            )
        )
    order = {task: place for place, task in enumerate(sources.tasks)}
    return tuple(
        sorted(found, key=lambda one: (not one.is_against_off, order.get(one.task, len(order))))
    )


def maps_section(sources: Sources, maps: tuple[GroupMap, ...]) -> Section:
    """Show the group maps.

    Parameters
    ----------
    sources : Sources
        Dataset and analysis.
    maps : tuple of GroupMap
        From `find_maps`.

    Returns
    -------
    Section
        A map to explore, and a mosaic for each contrast against the off prompts.
    """
    title = "Group maps"
    if not maps:
        return Section(name="maps", title=title, body=_nothing(sources))
    simple = [one for one in maps if one.is_against_off] or list(maps)
    data, left_out = packed_maps(sources, maps)
    mosaics = []
    for one in simple[:MOST_MOSAICS]:
        values = unit_map(sources, one.path)
        limit = full_color(values)
        drawing = _mosaic(sources, one, values, limit)
        mosaics.append((one, task_color(sources.color(one.title, one.task)), limit, drawing))
    body = render(
        "maps.html",
        data=script_json(data),
        mosaics=mosaics,
        left_out=left_out,
        n_participants=maps[0].about.get("NumberOfParticipants"),
        generalisation=maps[0].about.get("Generalisation", ""),
        cautions=_cautions(sources, maps),
        space=sources.dataset.space,
    )  # fmt: skip
    return Section(name="maps", title=title, body=body)


def _cautions(sources: Sources, maps: tuple[GroupMap, ...]) -> list[str]:
    """List what the sidecars warn of; of circularity, for the prompts of all maps."""
    prompts = {str(prompt) for one in maps for prompt in one.about.get("Prompts", [])}
    circular = circularity_caution(sources.dataset.space, prompts).values()
    others = [maps[0].about.get(key) for key in ("Caution", "SharedPromptsCaution")]
    return [str(text) for text in (*circular, *others) if text]


def packed_maps(sources: Sources, maps: tuple[GroupMap, ...]) -> tuple[dict[str, Any], list[str]]:
    """Pack as many maps as the page may hold.

    Parameters
    ----------
    sources : Sources
        Dataset and analysis.
    maps : tuple of GroupMap
        Most important first.

    Returns
    -------
    tuple of (dict, list of str)
        Layout and maps for the script; names of those that did not fit.
    """
    wanted = [(one, "effect") for one in maps]
    wanted += [(one, "cohensd") for one in maps if one.is_against_off]
    room = max(1, MOST_BYTES // sources.dataset.space.n_units)
    entries = []
    for one, stat in wanted[:room]:
        path = one.path if stat == "effect" else one.other(stat)
        if path.exists():
            values = unit_map(sources, path)
            color = task_color(sources.color(one.title, one.task))
            entry = map_entry(one.title, stat, values, show=full_color(values), color=color)
            entries.append({**entry, "versus": one.is_against_others})
    left_out = [f"{one.contrast} ({STATS[stat]})" for one, stat in wanted[room:]]
    return {**pack_layout(sources.dataset.space), "maps": entries}, left_out


def map_entry(
    title: str, stat: str, values: npt.NDArray[np.floating[Any]], *, show: float, color: str
) -> dict[str, Any]:
    """Pack one map.

    Parameters
    ----------
    title : str
        What it shows.
    stat : str
        Key of `STATS`.
    values : ndarray of float, shape (n_units,)
        The map.
    show : float
        Absolute value of full colour.
    color : str
        Colour of its task.

    Returns
    -------
    dict
        For the page's script.
    """
    small = quantise(values)
    return {
        "title": title,
        "stat": stat,
        "unit": STATS[stat],
        "limit": small.limit,
        "show": show,
        "color": color,
        "data": packed(small.steps),
    }


def script_json(data: object) -> Markup:
    r"""Write JSON that cannot end the script element that it stands in.

    Parameters
    ----------
    data : object
        What `json` can write.

    Returns
    -------
    Markup
        JSON with ``<``, ``>`` and ``&`` as escape sequences.

    Examples
    --------
    >>> str(script_json({"a": "</script>"}))
    '{"a":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _mosaic(
    sources: Sources, one: GroupMap, values: npt.NDArray[np.float32], limit: float
) -> Markup:
    space = sources.dataset.space
    peak = int(np.abs(values).argmax())
    alt = (
        f"Mosaic of the group effect of {one.title} in all layers; largest at "
        f"{space.address_of(peak)}: {values[peak]:.2f} rest sd."
    )
    return mosaic_figure(space, values, limit=limit, alt=alt)


def _nothing(sources: Sources) -> Markup:
    commands = [sources.command("group")]
    if sources.analysis is None:
        commands.insert(0, sources.command("participant"))
    return missing(Missing(what="There are no group maps yet.", command=" && ".join(commands)))
