"""Making an edit: units of a map, a network or an atlas, and what is done to them."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.layout import sidecar
from llm2bids.dataset.read import Dataset
from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.inference.provenance import LEVELS, Provenance
from llm2bids.model.edit import Edit, SiteEdit, check_weights, grouped
from llm2bids.model.units import Site
from llm2bids.network.network import Network, load_network
from llm2bids.space.atlas import head_atlas, site_atlas
from llm2bids.space.space import Space
from llm2bids.space.stat_map import check_threshold, select_units, unit_values
from llm2bids.store.json import read_json

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

Sign = Literal["both", "positive", "negative"]
Method = Literal["mean", "zero", "resample", "constant", "scale", "add"]
Floats = npt.NDArray[np.float32]

DEFAULT_TOP = 1.0
"""Percent of the units of the chosen sites that an edit takes, where nothing is said."""

RESAMPLED_ROWS = 64
"""Off-topic tokens whose values a resampling edit holds."""

_ACTIVATIONS = ("act_fn", "activation_fn", "act", "activation", "act_func", "activation_func")
"""Names of the module whose output, gated or not, is what the down projection is given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """Units that were chosen for an edit, numbered as in the space."""

    units: npt.NDArray[np.intp]  # (n_units,), most important first
    values: npt.NDArray[np.float64]  # (n_units,), of the map that they were chosen from
    source: str
    criterion: str
    provenance: Provenance


def make_edit(
    dataset: Dataset,
    *,
    stat_img: Any = None,
    network: Network | str | Path | None = None,
    atlas: Literal["sites", "heads"] | None = None,
    atlas_labels: Sequence[str] = (),
    sites: Sequence[str] | None = None,
    top_percent: float | None = None,
    threshold: float | None = None,
    sign: Sign = "both",
    method: Method = "mean",
    value: float | None = None,
    label: str = "lesion",
    seed: int = 0,
) -> Edit:
    """Make an edit of the units that a map, a network or an atlas names.

    Parameters
    ----------
    dataset : Dataset
        Of the model that is to be edited.
    stat_img : nibabel image, path, or ndarray, optional
        One value for each unit, from any tool.
    network : Network or path, optional
        In place of an image: a network, or its table.
    atlas : {"sites", "heads"}, optional
        In place of an image: regions of an atlas of the space.
    atlas_labels : sequence of str
        Names of the regions.
    sites : sequence of str, optional
        Patterns of the sites whose units are taken. By default those of a map whose output is
        given to the MLP's down projection (``act_fn``, or what plays its part), and all of a
        network or an atlas.
    top_percent, threshold : float, optional
        Units of a map: this share of the units of these sites, those with the largest values (1 by
        default), or those beyond a threshold.
    sign : {"both", "positive", "negative"}
        Which values of a map count.
    method : {"mean", "zero", "resample", "constant", "scale", "add"}
        Units are set to their calibration mean, to 0, to what they showed at off-topic tokens, or
        to `value`; or they are multiplied by `value`; or the map's values, in calibration standard
        deviations, times `value` are added.
    value : float, optional
        See `method`.
    label : str
        Name of the edit, letters and digits.
    seed : int
        Chooses the off-topic tokens of ``"resample"``.

    Returns
    -------
    Edit
        With the fingerprint of the space, and the participants, runs and prompts that the units
        come from.

    Raises
    ------
    UsageError, InterventionError, SpaceError, NetworkError, ModelError
        If an argument, the map or the network does not fit, or no unit is left.
    """
    chosen = choose_units(
        dataset, stat_img=stat_img, network=network, atlas=atlas, atlas_labels=atlas_labels,
        sites=sites, top_percent=top_percent, threshold=threshold, sign=sign,
    )  # fmt: skip
    return edit_units(dataset, chosen, method=method, value=value, label=label, seed=seed)


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


def edit_units(
    dataset: Dataset,
    chosen: Units,
    *,
    method: Method = "mean",
    value: float | None = None,
    label: str = "lesion",
    seed: int = 0,
) -> Edit:
    """Say what is done to chosen units."""
    if method not in get_args(Method):
        raise UsageError(f"method {method!r} is unknown; expected {', '.join(get_args(Method))}")
    if (value is not None) != (method in ("constant", "scale", "add")):
        raise UsageError(
            f"method {method}: value (--value) is {value}; expected "
            f"{'none' if value is not None else 'a number'}"
        )
    provenance = chosen.provenance
    if method == "add":
        moved = np.float32(value or 0) * chosen.values
        values = (moved * dataset.calibration.scale[chosen.units]).astype(np.float32)
    else:
        values, shown = method_values(dataset, method, chosen.units, value=value, seed=seed)
        provenance = provenance | shown
    return Edit(
        kind="add" if method == "add" else "scale" if method == "scale" else "set",
        method=method,
        label=label,
        parts=grouped(dataset.space.sites, chosen.units, values),
        **identity(dataset.space),
        source=chosen.source,
        criterion=chosen.criterion,
        made_from=levels(provenance),
    )


def method_values(
    dataset: Dataset,
    method: Method,
    units: npt.NDArray[np.intp],
    *,
    value: float | None = None,
    seed: int = 0,
) -> tuple[Floats, Provenance]:
    """Give what units (n,) are set to, (n,) or (n_rows, n), and the data that this comes from."""
    if method == "mean":
        return dataset.calibration.mean[units], Provenance()
    if method == "resample":
        return _resting_rows(dataset, units, seed=seed)
    return np.full(units.size, 0 if value is None else value, dtype=np.float32), Provenance()


def vector_edit(
    space: Space,
    site: str,
    vector: npt.NDArray[np.floating[Any]],
    *,
    strength: float = 1.0,
    label: str = "steer",
    source: str = "",
    criterion: str = "",
    made_from: Provenance | None = None,
) -> Edit:
    """Add a vector (width,) to a site's output at every token."""
    where = next((known for known in space.sites if known.name == site), None)
    if where is None or np.shape(vector) != (where.width,):
        raise InterventionError(
            f"vector of shape {np.shape(vector)} for site {site}: expected "
            f"{'a site of space ' + space.label if where is None else f'shape ({where.width},)'}"
        )
    part = SiteEdit(
        site=where,
        units=np.arange(where.width, dtype=np.int64),
        values=np.asarray(vector, dtype=np.float32),
    )
    return Edit(
        kind="add",
        method="vector",
        label=label,
        parts=(part,),
        strength=float(strength),
        **identity(space),
        source=source,
        criterion=criterion,
        made_from=levels(made_from or Provenance()),
    )


@contextmanager
def edited(model: "LoadedModel | Any", edit: Edit) -> Iterator[Any]:
    """Edit a model for the length of a ``with`` block.

    Parameters
    ----------
    model : transformers model, or LoadedModel
        The model that the edit was made for. The weights of a model of llm2bids are compared with
        the edit's; of another one, names and widths of the modules.
    edit : Edit
        What is changed.

    Yields
    ------
    model
        The same model, edited: in `generate`, in a forward pass, in recordings.

    Raises
    ------
    InterventionError
        If the edit is for other weights, or a site cannot be edited.
    """
    from llm2bids.model.edit_hooks import applied, check_modules, editable_sites
    from llm2bids.model.load import LoadedModel

    if isinstance(model, LoadedModel):
        check_weights(model, edit)
        with applied(model.model, edit, editable_sites(model, edit)):
            yield model
    else:
        check_modules(model, edit)
        with applied(model, edit):
            yield model


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


def site_mask(space: Space, patterns: Collection[str]) -> npt.NDArray[np.bool_]:
    """Mark the units of the sites that patterns match, (n_units,)."""
    from llm2bids.model.sites import SiteTable, select_sites

    inside = np.zeros(space.n_units, dtype=bool)
    for site in select_sites(SiteTable(sites=space.sites, skipped=()), tuple(patterns)):
        inside[space.site_slices[site.name]] = True
    return inside


def identity(space: Space) -> dict[str, Any]:
    """Say which model and space an edit is for."""
    return {
        "model_name": space.model_name,
        "weights_sha256": space.weights_sha256,
        "space_label": space.label,
        "fingerprint": space.fingerprint(),
    }


def levels(provenance: Provenance) -> dict[str, tuple[str, ...]]:
    """Spell a provenance as an edit holds it."""
    return {level: tuple(sorted(provenance.names(level))) for level in LEVELS}


def _resting_rows(
    dataset: Dataset, units: npt.NDArray[np.intp], *, seed: int
) -> tuple[Floats, Provenance]:
    """Take values (n_rows, n_units) at off-topic tokens of runs, and say what these showed."""
    rng = np.random.default_rng(seed)
    runs = rng.permutation(np.array(dataset.runs, dtype=object))
    each, rows, shown = -(-RESAMPLED_ROWS // max(min(len(runs), 8), 1)), [], []
    for run in runs[:8]:
        tokens = dataset.transcript(run)
        off = tokens[tokens["trial_type"].isna() & tokens["volume"].notna()]
        if off.empty:
            continue
        picked = off.iloc[np.sort(rng.choice(len(off), min(each, len(off)), replace=False))]
        values = dataset.values(run)[:, units]
        rows.append(values[picked["volume"].to_numpy(dtype=np.intp)])
        shown.append(
            Provenance.of(
                participants=[run.participant_label], runs=[run.name], prompts=picked["prompt_id"]
            )
        )
    if not rows:
        raise InterventionError(
            f"{dataset.path}: no off-topic volume in its runs; expected some to resample from: "
            "take another method, e.g. mean"
        )
    return np.concatenate(rows)[:RESAMPLED_ROWS], Provenance.union(shown)


def provenance_of(dataset: Dataset, stat_img: Any) -> Provenance:
    """Read what an image was made from; of an unknown one, take all that the dataset shows."""
    if isinstance(stat_img, str | Path) and sidecar(Path(stat_img)).is_file():
        content = read_json(sidecar(Path(stat_img)))
        if any(level.capitalize() in content for level in LEVELS):
            return Provenance.read(content, sidecar(Path(stat_img)))
    return Provenance.union(
        Provenance.of(
            participants=[run.participant_label],
            runs=[run.name],
            prompts=dataset.transcript(run)["prompt_id"],
        )
        for run in dataset.runs
    )


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
    check_threshold(threshold, top_percent, two_sided=sign == "both")
    if sign not in get_args(Sign):
        raise UsageError(f"sign {sign!r} is unknown; expected {', '.join(get_args(Sign))}")
    values = unit_values(stat_img, space, fingerprint=(dataset.fingerprint, space.fingerprint()))
    patterns = default_sites(space.sites) if sites is None else tuple(sites)
    inside = np.flatnonzero(site_mask(space, patterns))
    ranked = values[inside] if sign != "negative" else -values[inside]
    chosen = inside[
        select_units(ranked, threshold=threshold, top_percent=top_percent, two_sided=sign == "both")
    ]
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
    shown = _shown_sites(space, patterns)
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
            "heads, and one label or more (--label)"
        )
    made = makers[atlas](dataset.space)
    index = dict(zip(made.table["name"], made.table["index"], strict=True))
    if unknown := [label for label in labels if label not in index]:
        from difflib import get_close_matches

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


def _shown_sites(space: Space, patterns: Sequence[str]) -> str:
    """Name sites by their roles, as they are many."""
    named = {site.name: site.role for site in space.sites}
    return ", ".join(dict.fromkeys(named.get(pattern, pattern) for pattern in patterns))
