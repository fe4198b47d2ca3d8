"""Networks: sets of units with their statistics, in model coordinates."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import DatasetError, NetworkError
from llm2bids.inference.provenance import LEVELS, Provenance
from llm2bids.options import checked
from llm2bids.space.header import image_header
from llm2bids.space.space import Space
from llm2bids.space.stat_map import LOCATE_COLUMNS, summarize, units_at
from llm2bids.store.json import to_json
from llm2bids.store.tables import read_table, whole_numbers, write_table

# Columns of a network's table that describe the unit; statistics follow
UNIT_COLUMNS = LOCATE_COLUMNS[:-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A set of units, what was measured of them, and the data that this comes from.

    Parameters
    ----------
    label : str
        What the network is of, e.g. the task's label.
    space_label : str
        BIDS label of its space.
    fingerprint : str
        Of the space, without calibration (`Space.fingerprint`): networks with the same one name
        the same units.
    table : DataFrame
        One row for each unit, most important first: `UNIT_COLUMNS`, then one float64 column for
        each statistic, the one that ranked the units first.
    provenance : Provenance
        Participants, runs and prompts that went into it.
    criterion : str
        How units were chosen, in words.
    """

    label: str
    space_label: str
    fingerprint: str
    table: pd.DataFrame
    provenance: Provenance = field(default_factory=Provenance)
    criterion: str = ""

    def __repr__(self) -> str:
        return f"Network({self.label}, {len(self)} units of space {self.space_label})"

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, address: object) -> bool:
        return address in self.addresses

    def __and__(self, other: "Network") -> "Network":
        return self._combined(other, "&", self.addresses & other.addresses)

    def __or__(self, other: "Network") -> "Network":
        return self._combined(other, "|", self.addresses | other.addresses)

    def __sub__(self, other: "Network") -> "Network":
        return self._combined(other, "-", self.addresses - other.addresses)

    def __xor__(self, other: "Network") -> "Network":
        return self._combined(other, "^", self.addresses ^ other.addresses)

    @property
    def addresses(self) -> frozenset[str]:
        """Addresses of the units."""
        return frozenset(self.table["address"])

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the statistics, the one that ranked the units first."""
        return tuple(str(name) for name in self.table.columns[len(UNIT_COLUMNS) :])

    @checked
    def units(self, space: Space) -> npt.NDArray[np.intp]:
        """Find the units in a space.

        Parameters
        ----------
        space : Space
            The network's space.

        Returns
        -------
        ndarray of intp, shape (n_units,)
            Numbers in recording order, one for each row of the table.

        Raises
        ------
        NetworkError
            If it is not the network's space.
        """
        if space.fingerprint() != self.fingerprint:
            raise NetworkError(
                f"network {self.label} belongs to space {self.space_label} with fingerprint "
                f"{self.fingerprint[:16]}, not to {space.label} with {space.fingerprint()[:16]}; "
                "open the dataset that it was made from"
            )
        slices = self.table["module"].map(space.site_slices)
        numbers = [
            part.start + unit if isinstance(part, slice) and unit < part.stop - part.start else -1
            for part, unit in zip(slices, self.table["unit"], strict=True)
        ]
        if -1 in numbers:
            raise NetworkError(
                f"network {self.label}: unit {self.table['address'].iloc[numbers.index(-1)]} is "
                f"not in space {space.label}; make the network again"
            )
        return np.array(numbers, dtype=np.intp)

    @checked
    def to_img(self, space: Space, *, statistic: str | None = None) -> nib.Nifti1Image:
        """Draw the network in its space.

        Parameters
        ----------
        space : Space
            The network's space.
        statistic : str, optional
            Value of its voxels, one of `statistics`; without, 1 in the network and 0 elsewhere.

        Returns
        -------
        Nifti1Image
            float32 with a statistic (0 outside the network), uint8 without; it carries the
            fingerprint.

        Raises
        ------
        NetworkError
            If it is not the network's space, or has no such statistic.
        """
        if statistic is not None and statistic not in self.statistics:
            raise NetworkError(
                f"network {self.label} has no statistic {statistic!r}; it has "
                f"{', '.join(self.statistics) or 'none'}"
            )
        values = np.zeros(space.n_units, dtype=np.uint8 if statistic is None else np.float32)
        values[self.units(space)] = 1 if statistic is None else self.table[statistic]
        header = image_header(space, fingerprint=self.fingerprint, dtype=values.dtype.name)
        return nib.Nifti1Image(space.to_grid(values), space.affine, header)

    @checked
    def summary(self, space: Space) -> pd.DataFrame:
        """Sum the network up by layer and role.

        Parameters
        ----------
        space : Space
            The network's space.

        Returns
        -------
        DataFrame
            As `llm2bids.space.stat_map.summarize`, of the first statistic.

        Raises
        ------
        NetworkError
            If it is not the network's space.
        """
        self.units(space)
        value = self.table[self.statistics[0]] if self.statistics else 1.0
        return summarize(self.table.assign(value=value), space)

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write table and description.

        Parameters
        ----------
        path : str or Path
            Name of the table, ending with ``.tsv``; the description lies beside it as ``.json``.

        Returns
        -------
        tuple of Path
            Table and description.

        Raises
        ------
        NetworkError
            If the name does not end with ``.tsv``.
        """
        path = Path(path)
        description = _description(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, self.table)
        content = {
            "Label": self.label,
            "Space": self.space_label,
            "Fingerprint": self.fingerprint,
            "Criterion": self.criterion,
            "Provenance": {level: sorted(self.provenance.names(level)) for level in LEVELS},
        }
        description.write_text(to_json(content), encoding="utf-8")
        return path, description

    def _combined(self, other: "Network", sign: str, addresses: frozenset[str]) -> "Network":
        """Take rows from this network, then those that only the other one has."""
        if self.fingerprint != other.fingerprint:
            raise NetworkError(
                f"networks {self.label} (space {self.space_label}, {self.fingerprint[:16]}) and "
                f"{other.label} (space {other.space_label}, {other.fingerprint[:16]}) do not name "
                "the same units; combine networks of one space"
            )
        extra = other.table[~other.table["address"].isin(self.addresses)]
        rows = pd.concat([self.table, extra], ignore_index=True) if len(extra) else self.table
        table = rows[rows["address"].isin(addresses)].reset_index(drop=True)
        return replace(
            self,
            label=f"({self.label} {sign} {other.label})",
            table=table,
            provenance=self.provenance | other.provenance,
            criterion=f"({self.criterion}) {sign} ({other.criterion})",
        )


def make_network(
    space: Space,
    units: npt.NDArray[np.intp],
    statistics: Mapping[str, npt.NDArray[np.floating[Any]]],
    *,
    label: str,
    provenance: Provenance,
    criterion: str,
) -> Network:
    """Make a network of units (n,), most important first, with their statistics (n,) each."""
    return Network(
        label=label,
        space_label=space.label,
        fingerprint=space.fingerprint(),
        table=units_at(space, units).assign(**statistics),
        provenance=provenance,
        criterion=criterion,
    )


@checked
def load_network(path: str | Path) -> Network:
    """Read a network that `Network.save` wrote.

    Parameters
    ----------
    path : str or Path
        The table.

    Returns
    -------
    Network
        As before, statistics to nine digits.

    Raises
    ------
    NetworkError
        If table or description are missing, damaged or incomplete.
    """
    path = Path(path)
    description = _description(path)
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        table = read_table(path, text=("address", "module", "role"))
    except (OSError, ValueError, RecursionError, DatasetError) as error:
        raise NetworkError(
            f"{path}: cannot be read as a network ({error}); expected a table and its .json beside"
        ) from None
    missing = [name for name in UNIT_COLUMNS if name not in table]
    keys = ("Label", "Space", "Fingerprint", "Criterion", "Provenance")
    missing += [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise NetworkError(
            f"{path}: lacks {', '.join(missing)} (table or .json); make the network again"
        )
    table["unit"] = whole_numbers(table, "unit", where=path, error=NetworkError)
    named = table["module"] + "[" + table["unit"].astype("str") + "]"
    wrong = (named != table["address"]) | named.duplicated()
    if wrong.any():
        address = table.loc[wrong, "address"].iloc[0]
        raise NetworkError(
            f"{path}: address {address} is there twice, or is not that of its module and unit; "
            "make the network again"
        )
    floats = {name: "float64" for name in table.columns.difference(list(UNIT_COLUMNS[:6]))}
    types = {"layer": "Int64", "head": "Int64"} | floats
    try:
        table = table.astype({name: types[name] for name in table if name in types})
        provenance = Provenance.of(**content["Provenance"])
    except (TypeError, ValueError) as error:
        raise NetworkError(
            f"{path}: {error}; expected numbers, and lists of names; make the network again"
        ) from None
    return Network(
        label=str(content["Label"]),
        space_label=str(content["Space"]),
        fingerprint=str(content["Fingerprint"]),
        table=table,
        provenance=provenance,
        criterion=str(content["Criterion"]),
    )


def _description(path: Path) -> Path:
    """Give the path of the JSON file beside a network's table."""
    if path.suffix != ".tsv":
        raise NetworkError(f"{path}: a network's table ends with .tsv; choose such a name")
    return path.with_suffix(".json")
