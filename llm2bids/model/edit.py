"""An edit: what is changed in a running model, as a value and as one JSON file. No torch here."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import InterventionError
from llm2bids.model.units import Site
from llm2bids.options import checked, fits
from llm2bids.store.commit import replace_text

EditKind = Literal["set", "scale", "add"]

_VERSION = 1

_LEVELS = ("participants", "runs", "prompts")

# What the file calls the fields of an edit.
_FIELDS = {
    "Kind": "kind",
    "Method": "method",
    "Label": "label",
    "Strength": "strength",
    "Model": "model_name",
    "WeightsSHA256": "weights_sha256",
    "Space": "space_label",
    "SpaceFingerprint": "fingerprint",
    "Source": "source",
    "Criterion": "criterion",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class SiteEdit:
    """What an edit does to the units of one site."""

    site: Site
    units: npt.NDArray[np.int64]  # (n_units,), each once, in the site's output
    # (n_units,): what the units are set to, multiplied by, or what is added to them; of a `set`
    # also (n_rows, n_units): the token at position p of its text takes row p modulo n_rows
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Edit:
    """A change of a running model: units, and what is done to them.

    Parameters
    ----------
    kind : {"set", "scale", "add"}
        Units are set to their values, multiplied by them, or the values are added to them.
    method : str
        Where the values come from, e.g. ``"mean"``, ``"zero"``, ``"resample"``, ``"constant"``.
    label : str
        BIDS label (letters and digits), which names the session of a scan of the edited model.
    parts : tuple of SiteEdit
        Units and values of each site.
    model_name, weights_sha256 : str
        The model that it is for, and the hash of its weights.
    space_label, fingerprint : str
        The space that the units were chosen in (`Space.fingerprint`).
    strength : float, default=1
        What the values of an ``"add"`` are multiplied by; 1 in edits of other kinds.
    source, criterion : str
        Map or network that the units come from, and how they were chosen, in words.
    made_from : mapping of str to tuple of str
        ``participants``, ``runs`` and ``prompts`` that the source was made from: they are no test
        of the edit.

    Raises
    ------
    InterventionError
        If units, values, strength or label are not usable.
    """

    kind: EditKind
    method: str
    label: str
    parts: tuple[SiteEdit, ...]
    model_name: str
    weights_sha256: str
    space_label: str
    fingerprint: str
    strength: float = 1.0
    source: str = ""
    criterion: str = ""
    made_from: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for fault in _faults(self):
            raise InterventionError(fault)

    def __repr__(self) -> str:
        return f"Edit({self.label}, {self.kind} {self.method}, {self.n_units} units)"

    @property
    def n_units(self) -> int:
        """Number of units that are changed."""
        return sum(len(part.units) for part in self.parts)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Sites that are changed."""
        return tuple(part.site for part in self.parts)

    @property
    def prompts(self) -> frozenset[str]:
        """Prompts that the units or the values were found with."""
        return frozenset(self.made_from.get("prompts", ()))

    @checked
    def with_strength(self, strength: float) -> "Edit":
        """Give the same edit at another strength.

        Parameters
        ----------
        strength : float
            What the added values are multiplied by.

        Returns
        -------
        Edit
            As this one.

        Raises
        ------
        UsageError, InterventionError
            If it is no finite number, or the edit adds nothing.
        """
        return replace(self, strength=float(strength))

    def save(self, path: str | Path) -> Path:
        """Write the edit as a JSON file.

        Parameters
        ----------
        path : str or Path
            Name of the file, ending with ``.json``.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        InterventionError
            If the name does not end with ``.json``.
        """
        file = Path(path)
        if file.suffix != ".json":
            raise InterventionError(f"{file}: an edit's file ends with .json; choose such a name")
        replace_text(file, json.dumps(self.metadata(), ensure_ascii=False) + "\n")
        return file

    def metadata(self) -> dict[str, Any]:
        """Say in JSON's types all that the file holds.

        Returns
        -------
        dict
            Content of the file.
        """
        return {
            "Version": _VERSION,
            **{key: getattr(self, name) for key, name in _FIELDS.items()},
            "NumberOfUnits": self.n_units,
            **{level.capitalize(): sorted(self.made_from.get(level, ())) for level in _LEVELS},
            "Sites": [
                {
                    "Module": part.site.name,
                    "Layer": part.site.layer,
                    "Role": part.site.role,
                    "Width": part.site.width,
                    "Units": part.units.tolist(),
                    "Values": part.values.tolist(),
                }
                for part in self.parts
            ],
        }


@checked
def load_edit(path: str | Path) -> Edit:
    """Read an edit that `Edit.save` wrote.

    Parameters
    ----------
    path : str or Path
        The JSON file.

    Returns
    -------
    Edit
        As it was written.

    Raises
    ------
    InterventionError
        If the file is missing, damaged, or no edit.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["Version"] != _VERSION:
            raise InterventionError(
                f"{file}: an edit file of version {content['Version']!r}; this llm2bids reads "
                f"version {_VERSION}: make it again"
            )
        texts = [key for key in _FIELDS if key != "Strength"]
        wrong = [key for key in texts if not isinstance(content[key], str)]
        levels = [level.capitalize() for level in _LEVELS]
        wrong += [key for key in levels if not fits(content[key], Sequence[str])]
        if wrong:
            raise ValueError(f"{wrong[0]} is {content[wrong[0]]!r}")
        fields: dict[str, Any] = {name: content[key] for key, name in _FIELDS.items()}
        fields["strength"] = content["Strength"]
        return Edit(
            **fields,
            made_from={level: tuple(map(str, content[level.capitalize()])) for level in _LEVELS},
            parts=tuple(map(_read_part, content["Sites"])),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        missing = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InterventionError(
            f"{file}: cannot be read as an edit ({missing}); expected the JSON file that "
            "`llm2bids edit`, `lesion` or `steer` writes"
        ) from None
    except InterventionError as error:
        if str(error).startswith(str(file)):
            raise
        raise InterventionError(f"{file}: {error}") from None


def _read_part(content: Mapping[str, Any]) -> SiteEdit:
    layer, width = content["Layer"], content["Width"]
    for number in (width, *content["Units"], *([] if layer is None else [layer])):
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"{number!r} is no whole number")
    return SiteEdit(
        site=Site(name=str(content["Module"]), layer=layer, role=str(content["Role"]), width=width),
        units=np.array(content["Units"], dtype=np.int64),
        values=np.array(content["Values"], dtype=np.float32),
    )


def _faults(edit: Edit) -> Iterator[str]:
    """Say what is wrong with an edit."""
    name = f"edit {edit.label}"
    if edit.kind not in get_args(EditKind):
        yield f"{name}: kind {edit.kind!r}; expected {', '.join(get_args(EditKind))}"
    if not re.fullmatch(r"[A-Za-z0-9]+", edit.label):
        yield (
            f"edit label {edit.label!r}: expected letters and digits only, as it names a session"
        )
    if not isinstance(edit.strength, int | float) or not math.isfinite(edit.strength):
        yield f"{name}: strength {edit.strength!r}; expected a finite number"
    if edit.kind != "add" and edit.strength != 1:
        yield (
            f"{name}: strength {edit.strength:g} of kind {edit.kind!r}; only what is added has a "
            "strength: expected 1"
        )
    if not edit.n_units:
        yield (f"{name}: no unit; expected at least one: lower the threshold, or take other sites")
    if len({site.name for site in edit.sites}) < len(edit.parts):
        yield f"{name}: a site is named twice; expected each once"
    for part in edit.parts:
        for fault in _part_faults(part, n_axes=(1, 2) if edit.kind == "set" else (1,)):
            yield f"{name}, site {part.site.name}{fault}"


def _part_faults(part: SiteEdit, *, n_axes: tuple[int, ...]) -> Iterator[str]:
    units, values, width = part.units, part.values, part.site.width
    if units.ndim != 1 or values.ndim not in n_axes or values.shape[-1:] != units.shape:
        yield f": values of shape {values.shape} for {units.size} units; expected one for each"
    if values.ndim == 2 and not len(values):
        yield ": no row of values; expected one or more"
    if units.size and not (units.min() >= 0 and units.max() < width):
        yield f": units {units.min()} to {units.max()}; the site has 0 to {width - 1}"
    if np.unique(units).size < units.size:
        yield ": a unit is named twice; expected each once"
    finite = np.isfinite(values).all(axis=tuple(range(values.ndim - 1)))
    if not finite.all():
        yield f", unit {units[~finite][0]}: a value is not finite; expected numbers"


def check_weights(loaded: Any, edit: Edit) -> None:
    """Refuse an edit for other weights than a loaded model has."""
    if loaded.weights_sha256 != edit.weights_sha256:
        raise InterventionError(
            f"edit {edit.label} is for {edit.model_name} (weights {edit.weights_sha256[:16]}), not "
            f"for {loaded.name} ({loaded.weights_sha256[:16]}); expected the model that its map "
            "was made with"
        )


def grouped(
    sites: Sequence[Site], units: npt.NDArray[np.intp], values: npt.NDArray[np.float32]
) -> tuple[SiteEdit, ...]:
    """Sort units (n,), numbered over all sites, and values (..., n) into parts by site."""
    stops = np.cumsum([site.width for site in sites])
    order = np.argsort(units, kind="stable")
    ordered, kept = units[order], values[..., order]
    which = np.searchsorted(stops, ordered, side="right")
    parts = []
    for index in np.unique(which):
        rows, site = which == index, sites[index]
        first = int(stops[index]) - site.width
        parts.append(
            SiteEdit(
                site=site,
                units=(ordered[rows] - first).astype(np.int64),
                values=np.ascontiguousarray(kept[..., rows], dtype=np.float32),
            )
        )
    return tuple(parts)
