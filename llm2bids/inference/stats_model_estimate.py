"""One model of a BIDS Stats Model's node: what it is fitted to, its contrasts and its files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

ENTITIES = {
    "subject": "sub", "session": "ses", "task": "task", "acquisition": "acq",
    "reconstruction": "rec", "run": "run", "echo": "echo", "space": "space",
}  # fmt: skip
"""pybids' names of the entities that a map's name has, in the order of BIDS."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelContrast:
    """A contrast of an estimate: weights (n_columns,), or (q, n_columns) of an F test."""

    label: str  # of files: letters and digits
    weights: npt.NDArray[np.float64]
    test: str  # t, F or pass
    info: Any  # pybids' `ContrastInfo`, the input of the next node
    estimate: "Estimate"

    def path(self, stat: str) -> Path:
        """File of one of its maps, relative to the output folder."""
        names = {"contrast": self.label, "stat": stat}
        return self.estimate.path("statmap.nii.gz", **names)


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """One model of a node: a run's series, or the maps of the node before it, and a design."""

    node: str  # label of its folder
    level: str
    meta: bool  # weighted sums of maps with their variances, in place of a linear model
    entities: dict[str, Any]
    design: pd.DataFrame  # a row for each volume or map
    series: Path | None = None  # of a run
    mask: Path | None = None
    metadata: Mapping[str, Any]  # of the series
    inputs: tuple[ModelContrast, ...] = ()
    contrasts: list[ModelContrast]

    @property
    def name(self) -> str:
        """What messages call it."""
        parts = [f"{key}-{value}" for key, value in self.entities.items() if key != "space"]
        return f"node {self.node}{', ' if parts else ''}{' '.join(parts)}"

    def path(self, suffix: str, **more: str) -> Path:
        """File relative to the output folder, as FitLins names it, with the space."""
        parts = [
            f"{short}-{self.entities[entity]}"
            for entity, short in ENTITIES.items()
            if entity in self.entities and not (suffix.startswith("design") and short == "space")
        ]
        folder = Path(f"node-{self.node}", *(p for p in parts if p.startswith(("sub-", "ses-"))))
        return folder / "_".join([*parts, *(f"{k}-{v}" for k, v in more.items()), suffix])

    def runs(self) -> list["Estimate"]:
        """List the runs that it was made from."""
        if self.series is not None:
            return [self]
        of_inputs = [run for item in self.inputs for run in item.estimate.runs()]
        return list({id(run): run for run in of_inputs}.values())


def alphanumeric(name: str) -> str:
    """Make a label of letters and digits, as FitLins does.

    >>> alphanumeric("pathology_edited"), alphanumeric("trial_type.tea"), alphanumeric("run")
    ('pathologyEdited', 'trialTypeTea', 'run')
    """
    first, *rest = re.sub("[^a-zA-Z0-9]", "_", name).split("_")
    return first + "".join(word.title() for word in rest)
