"""Making an edit: units of a map, a network or an atlas, and what is done to them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.inference.provenance import LEVELS, Provenance
from llm2bids.intervention.units import Sign, choose_units
from llm2bids.model.edit import Edit, SiteEdit, check_weights, grouped
from llm2bids.network.network import Network
from llm2bids.options import Options, checked, chosen, option, takes_options
from llm2bids.space.space import Space

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

Method = Literal["mean", "zero", "resample", "constant", "scale", "add"]
Floats = npt.NDArray[np.float32]

_NOTHING = Provenance()

# Off-topic tokens whose values a resampling edit holds.
RESAMPLED_ROWS = 64


_units = partial(option, group="units")
_change = partial(option, group="edit")


def _percent(text: str) -> float:
    return float(text.removesuffix("%"))


@dataclass(frozen=True, kw_only=True)
class EditOptions(Options):
    """Which units are changed, and what is done to them."""

    stat_img: Any = _units(None, "--map IMG", "statistical map", type=Path)
    top_percent: float | None = _units(
        None,
        "--top P",
        "percent of the units of the sites, largest first",
        shown="1",
        type=_percent,
    )
    threshold: float | None = _units(None, "--threshold", "units beyond it")
    sign: Sign = _units("both", "--sign", "values that count")
    network: Network | str | Path | None = _units(
        None, "--network TSV", "table of a network, in place of a map", type=Path
    )
    atlas: Literal["sites", "heads"] | None = _units(None, "--atlas", "regions, in place of a map")
    atlas_labels: Sequence[str] = _units(
        (), "--region NAME", "name in the atlas; repeatable", action="append"
    )
    sites: Sequence[str] | None = _units(
        None,
        "--sites PATTERN",
        "sites, as for record",
        shown="act_fn or what plays its part; all of a network",
        action="append",
    )
    method: Method = _change(
        "mean",
        "--method",
        "set to the calibration mean, to zero, to values at off-topic tokens, or to --value; scale "
        "by --value; add --value times the map, in calibration sd",
    )
    value: float | None = _change(None, "--value", "see --method")
    label: str = _change(
        "lesion",
        "--label LABEL",
        "letters and digits; names the session of a scan of the edited model",
    )
    seed: int = _change(0, "--seed SEED", "of resample", least=0)


@takes_options(EditOptions)
def make_edit(dataset: Dataset | str | Path, **options: Any) -> Edit:
    """Make an edit of the units that a map, a network or an atlas names.

    Parameters
    ----------
    dataset : Dataset or path
        Of the model that is to be edited.
    **options
        Which units, and what is done to them.

    Returns
    -------
    Edit
        With the fingerprint of the space, and the participants, runs and prompts that the units
        come from.

    Raises
    ------
    UsageError, InterventionError, SpaceError, NetworkError, ModelError
        If an argument, the map or the network does not fit, or no unit is left.

    Notes
    -----
    ``stat_img`` is a nibabel image, a path, or an array of one value for each unit, (n_units,).
    By default the units of a map are those whose output is given to the MLP's down projection
    (``act_fn``, or what plays its part), and all of a network or an atlas.
    """
    asked = EditOptions(**options)
    dataset = open_dataset(dataset) if isinstance(dataset, str | Path) else dataset
    method, value = asked.method, asked.value
    if (value is not None) != (method in ("constant", "scale", "add")):
        raise UsageError(
            f"method {method}: value (--value) is {value}; expected "
            f"{'none' if value is not None else 'a number'}"
        )
    units = choose_units(
        dataset,
        **chosen(asked, "stat_img", "network", "atlas", "atlas_labels"),
        **chosen(asked, "sites", "top_percent", "threshold", "sign"),
    )
    provenance = units.provenance
    if method == "add":
        moved = np.float32(value or 0) * units.values
        values = (moved * dataset.calibration.scale[units.units]).astype(np.float32)
    else:
        values, shown = method_values(dataset, method, units.units, value=value, seed=asked.seed)
        provenance = provenance | shown
    return Edit(
        kind="add" if method == "add" else "scale" if method == "scale" else "set",
        method=method,
        label=asked.label,
        parts=grouped(dataset.space.sites, units.units, values),
        source=units.source,
        criterion=units.criterion,
        **identity(dataset.space, provenance),
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
    made_from: Provenance = _NOTHING,
) -> Edit:
    """Add a vector (width,) to a site's output at every token."""
    where = next(known for known in space.sites if known.name == site)
    part = SiteEdit(
        site=where, units=np.arange(where.width), values=np.asarray(vector, dtype=np.float32)
    )
    return Edit(
        kind="add",
        method="vector",
        label=label,
        parts=(part,),
        strength=float(strength),
        source=source,
        criterion=criterion,
        **identity(space, made_from),
    )


@checked
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


def identity(space: Space, made_from: Provenance) -> dict[str, Any]:
    """Say which model and space an edit is for, and what it was made from."""
    return {
        "model_name": space.model_name,
        "weights_sha256": space.weights_sha256,
        "space_label": space.label,
        "fingerprint": space.fingerprint(),
        "made_from": {level: tuple(sorted(made_from.names(level))) for level in LEVELS},
    }


def _resting_rows(
    dataset: Dataset, units: npt.NDArray[np.intp], *, seed: int
) -> tuple[Floats, Provenance]:
    """Take values (n_rows, n_units) at off-topic tokens of runs, and say what these showed."""
    if seed < 0:
        raise UsageError(f"seed (--seed) is {seed}; expected 0 or more")
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
        shown.append(Provenance.of_run(run, picked["prompt_id"]))
    if not rows:
        raise InterventionError(
            f"{dataset.path}: no off-topic volume in its runs; expected some to resample from: "
            "take another method, e.g. mean"
        )
    return np.concatenate(rows)[:RESAMPLED_ROWS], Provenance.union(shown)
