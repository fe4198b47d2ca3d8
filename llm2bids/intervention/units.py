"""Units of a map, a network or an atlas, chosen for an edit."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.layout import sidecar
from llm2bids.dataset.read import Dataset
from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.inference.provenance import LEVELS, Provenance
from llm2bids.model.units import Site
from llm2bids.network.network import Network, load_network
from llm2bids.space.arrange import chosen_sites
from llm2bids.space.atlas import head_atlas, site_atlas
from llm2bids.space.space import Space
from llm2bids.space.stat_map import select_units, unit_values
from llm2bids.store.json import read_json

Sign = Literal["both", "positive", "negative"]

# Percent of the units of the chosen sites that an edit takes, where nothing is said.
DEFAULT_TOP = 1.0

# Names of the module whose output, gated or not, is what the down projection is given.
_ACTIVATIONS = ("act_fn", "activation_fn", "act", "activation", "act_func", "activation_func")


@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """Units that were chosen for an edit, numbered as in the space."""

    units: npt.NDArray[np.intp]  # (n_units,), most important first
    values: npt.NDArray[np.float64]  # (n_units,), of the map that they were chosen from
    source: str
    criterion: str
    provenance: Provenance


def choose_units(
    dataset: Dataset,
    *,
    stat_img: Any = None,
    network: Network | str | Path | None = None,
    atlas: str | None = None,
    atlas_labels: Sequence[str] = (),
    sites: Sequence[str] | None = None,
    top_percent: float | None = None,
    threshold: float | None = None,
    sign: Sign = "both",
) -> Units:
    """Choose the units of a map, a network or an atlas; see `make_edit`."""
    sources = {"a map": stat_img, "a network": network, "an atlas": atlas}
    given = [name for name, source in sources.items() if source is not None]
    if len(given) != 1:
        raise UsageError(
            f"units of an edit: got {' and '.join(given) or 'nothing'}; expected one of a map "
            "(--map), a network (--network) and an atlas (--atlas)"
        )
    if atlas_labels and atlas is None:
        raise UsageError(
            f"units of an edit: regions (--region) {', '.join(atlas_labels)} without an atlas; "
            "give it (--atlas), or leave them out"
        )
    if stat_img is not None:
        return _units_of_map(dataset, stat_img, sites, top_percent, threshold, sign)
    if top_percent is not None or threshold is not None or sign != "both":
        raise UsageError(
            f"units of an edit: a threshold (--top, --threshold, --sign) and {given[0]}, which has "
            "none; give a map, or leave it out"
        )
    inside = site_mask(dataset.space, ("all",) if sites is None else sites)
    if network is not None:
        return _units_of_network(dataset, network, inside)
    return _units_of_atlas(dataset, str(atlas), atlas_labels, inside)


def default_sites(sites: Sequence[Site]) -> tuple[str, ...]:
    """Name the sites whose output goes into the MLP's down projection, or else the widest of it."""
    from llm2bids.model.sites import is_mlp

    inner = [site for site in sites if is_mlp(site)]
    names = tuple(s.name for s in inner if s.role.rpartition(".")[2] in _ACTIVATIONS)
    if names:
        return names
    widest = max((site.width for site in inner), default=0)
    first: dict[int | None, str] = {}
    for site in inner:
        if site.width == widest:
            first.setdefault(site.layer, site.name)
    if not first:
        raise InterventionError(
            "sites of the edit: the space has no activation of an MLP, the default; name sites "
            "with --sites (`llm2bids sites` lists them)"
        )
    return tuple(first.values())


def site_mask(space: Space, patterns: Sequence[str] | None) -> npt.NDArray[np.bool_]:
    """Mark the units of the sites that patterns match, or of the default ones, (n_units,)."""
    patterns = default_sites(space.sites) if patterns is None else patterns
    inside = np.zeros(space.n_units, dtype=bool)
    for site in chosen_sites(space, patterns):
        inside[space.site_slices[site.name]] = True
    return inside


def provenance_of(dataset: Dataset, stat_img: Any) -> Provenance:
    """Read what an image was made from; of an unknown one, take all that the dataset shows."""
    if isinstance(stat_img, str | Path) and sidecar(Path(stat_img)).is_file():
        content = read_json(sidecar(Path(stat_img)))
        if any(level.capitalize() in content for level in LEVELS):
            return Provenance.read(content, sidecar(Path(stat_img)))
    return Provenance.of_runs(dataset, dataset.runs)


def _units_of_map(
    dataset: Dataset,
    stat_img: Any,
    sites: Sequence[str] | None,
    top_percent: float | None,
    threshold: float | None,
    sign: Sign,
) -> Units:
    space = dataset.space
    if top_percent is None and threshold is None:
        top_percent = DEFAULT_TOP
    values = unit_values(stat_img, space, fingerprint=(dataset.fingerprint, space.fingerprint()))
    inside = np.flatnonzero(site_mask(space, sites))
    ranked = values[inside] if sign != "negative" else -values[inside]
    limits: dict[str, Any] = {
        "threshold": threshold,
        "top_percent": top_percent,
        "two_sided": sign == "both",
    }
    chosen = inside[select_units(ranked, **limits)]
    name = stat_img if isinstance(stat_img, str | Path) else type(stat_img).__name__
    if not chosen.size:
        largest = np.nanmax(np.append(np.abs(ranked) if sign == "both" else ranked, -np.inf))
        raise InterventionError(
            f"{name}: no unit of {inside.size:,} in the chosen sites "
            + (f"is above {threshold:g}" if threshold is not None else "has a value above 0")
            + f" (sign: {sign}); the largest is {largest:.3g}: "
            "lower the threshold, or take other sites"
        )
    size = {"both": "|value|", "positive": "value", "negative": "-value"}[sign]
    limit = f"{size} > {threshold:g}" if threshold is not None else f"top {top_percent:g} % {size}"
    roles = {site.name: site.role for site in space.sites}  # sites are many
    patterns = default_sites(space.sites) if sites is None else sites
    shown = ", ".join(dict.fromkeys(roles.get(pattern, pattern) for pattern in patterns))
    return Units(
        units=chosen,
        values=values[chosen],
        source=Path(name).name if isinstance(name, str | Path) else str(name),
        criterion=f"{limit} of {inside.size:,} units of {shown}",
        provenance=provenance_of(dataset, stat_img),
    )


def _units_of_network(
    dataset: Dataset, network: Network | str | Path, inside: npt.NDArray[np.bool_]
) -> Units:
    loaded = network if isinstance(network, Network) else load_network(Path(network))
    units = loaded.units(dataset.space)
    kept = inside[units]
    if not kept.any():
        raise InterventionError(
            f"network {loaded.label}: none of its {len(loaded)} units is in the chosen sites; "
            "take other sites"
        )
    ranking = loaded.statistics[0] if loaded.statistics else None
    values = np.ones(len(loaded)) if ranking is None else loaded.table[ranking].to_numpy()
    return Units(
        units=units[kept],
        values=np.asarray(values[kept], dtype=np.float64),
        source=f"network {loaded.label}",
        criterion=loaded.criterion,
        provenance=loaded.provenance,
    )


def _units_of_atlas(
    dataset: Dataset, atlas: str, labels: Sequence[str], inside: npt.NDArray[np.bool_]
) -> Units:
    makers = {"sites": site_atlas, "heads": head_atlas}
    if atlas not in makers or not labels:
        raise UsageError(
            f"atlas {atlas!r} with labels {', '.join(labels) or '(none)'}: expected sites or "
            "heads, and one label or more (--region)"
        )
    made = makers[atlas](dataset.space)
    index = dict(zip(made.table["name"], made.table["index"], strict=True))
    if unknown := [label for label in labels if label not in index]:
        near = get_close_matches(unknown[0], list(index), n=3, cutoff=0.3) or list(index)[:3]
        raise UsageError(
            f"label {unknown[0]!r}: not in the atlas of {atlas}; near it: {', '.join(near)}"
        )
    of_unit = dataset.space.to_units(made.labels)
    units = np.flatnonzero(np.isin(of_unit, [index[label] for label in labels]) & inside)
    return Units(
        units=units,
        values=np.ones(units.size),
        source=f"atlas of {atlas}: {', '.join(labels)}",
        criterion="all units of these regions",
        provenance=Provenance(),
    )
