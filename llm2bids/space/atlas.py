"""Atlases of a space: sites, and attention heads, as labelled voxels with a lookup table."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.space.space import Space
from llm2bids.store.json import to_json

# Colours of roles, in order of their first appearance; told apart on white and on black.
PALETTE = (
    *("#4E79A7", "#F28E2B", "#59A14F", "#E15759", "#76B7B2"),
    *("#EDC948", "#B07AA1", "#FF9DA7", "#9C755F", "#2F6B4F"),
    *("#8CD17D", "#D37295", "#86BCB6", "#B6992D", "#A0CBE8"),
    *("#D4A6C8", "#D7B5A6", "#5B5EA6", "#FFBE7D", "#499894"),
)

# Columns of an atlas' lookup table; the first three are those of BIDS ``_dseg.tsv``.
ATLAS_COLUMNS = ("index", "name", "color", "layer", "module", "role", "head")


@dataclass(frozen=True, kw_only=True, eq=False)
class Atlas:
    """Labelled voxels and what the labels mean, as BIDS discrete segmentations have them."""

    labels: npt.NDArray[Any]  # (n_x, n_y, n_z) int16 or int32: 0 is background
    table: pd.DataFrame  # a row a region: `ATLAS_COLUMNS`; layer and head are Int64


def site_atlas(space: Space) -> Atlas:
    """Label the panel of every site, in recording order from 1."""
    regions: list[tuple[Site, int | None]] = [(site, None) for site in space.sites]
    return _atlas(space, regions, space.site_of_unit + 1)


def head_atlas(space: Space) -> Atlas:
    """Label every attention head from 1; units of sites without heads are background."""
    regions: list[tuple[Site, int | None]] = []
    of_unit = np.zeros(space.n_units, dtype=np.int64)
    for site in space.sites:
        if site.n_heads is None or site.head_size is None:
            continue
        units = np.arange(site.width) // site.head_size
        of_unit[space.site_slices[site.name]] = len(regions) + 1 + units
        regions.extend((site, head) for head in range(site.n_heads))
    if not regions:
        raise SpaceError(
            f"space {space.label} has no attention heads to label; "
            "record a site with heads (`llm2bids sites` shows them) or leave the head atlas out"
        )
    return _atlas(space, regions, of_unit)


def role_colors(roles: Iterable[str]) -> dict[str, str]:
    """Give each role its colour ``#RRGGBB``, in order of first appearance."""
    unique = dict.fromkeys(roles)
    return {role: PALETTE[number % len(PALETTE)] for number, role in enumerate(unique)}


def label_lists(table: pd.DataFrame) -> dict[str, str]:
    """Write a lookup table as viewers take it: Workbench (.txt), FSLeyes (.lut), NiiVue (.json)."""
    colors = [
        [int(color[start : start + 2], 16) for start in (1, 3, 5)] for color in table["color"]
    ]
    rows = list(zip(table["index"].tolist(), table["name"].tolist(), colors, strict=True))
    red, green, blue = ([0, *channel] for channel in zip(*colors, strict=True))
    niivue = {
        "R": red,
        "G": green,
        "B": blue,
        "A": [0, *(255 for _ in rows)],
        "I": [0, *(index for index, *_ in rows)],
        "labels": ["background", *(name for _, name, _ in rows)],
    }
    workbench = [f"{name}\n{index} {' '.join(map(str, rgb))} 255\n" for index, name, rgb in rows]
    shares = [" ".join(f"{part / 255:.4f}" for part in rgb) for *_, rgb in rows]
    fsleyes = [f"{row[0]} {share} {row[1]}\n" for row, share in zip(rows, shares, strict=True)]
    return {".txt": "".join(workbench), ".lut": "".join(fsleyes), ".json": to_json(niivue)}


def _atlas(
    space: Space, regions: Sequence[tuple[Site, int | None]], of_unit: npt.NDArray[np.int64]
) -> Atlas:
    """Make the atlas in which each unit has the number of its region from 1, or 0."""
    dtype = np.int16 if len(regions) <= np.iinfo(np.int16).max else np.int32
    colors = role_colors(site.role for site in space.sites)
    table = pd.DataFrame(
        {
            "index": np.arange(1, len(regions) + 1),
            "name": pd.Series(_names(regions), dtype="str"),
            "color": pd.Series([_shade(colors[s.role], head) for s, head in regions], dtype="str"),
            "layer": pd.array([site.layer for site, _ in regions], dtype="Int64"),
            "module": pd.Series([site.name for site, _ in regions], dtype="str"),
            "role": pd.Series([site.role for site, _ in regions], dtype="str"),
            "head": pd.array([head for _, head in regions], dtype="Int64"),
        }
    )
    return Atlas(labels=space.to_grid(of_unit.astype(dtype)), table=table)


def _names(regions: Iterable[tuple[Site, int | None]]) -> list[str]:
    """Name regions with letters and digits, e.g. ``L05SelfAttnQProjH03``, each differently."""
    names: list[str] = []
    taken: set[str] = set()
    for site, head in regions:
        words = re.findall(r"[0-9A-Za-z]+", site.role)
        name = "".join(word[0].upper() + word[1:] for word in words) or "Site"
        name = name if site.layer is None else f"L{site.layer:02d}{name}"
        name = name if head is None else f"{name}H{head:02d}"
        number, unique = 1, name
        while unique.lower() in taken:
            number += 1
            unique = f"{name}N{number}"
        taken.add(unique.lower())
        names.append(unique)
    return names


def _shade(color: str, head: int | None) -> str:
    """Lighten every other head, so that neighbours are told apart."""
    if head is None or head % 2 == 0:
        return color
    parts = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return "#" + "".join(f"{part + (255 - part) * 2 // 5:02X}" for part in parts)
