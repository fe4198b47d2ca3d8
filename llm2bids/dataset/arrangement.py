"""The arrangement of a dataset's space: chosen, learned, given in a file, and kept with it."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.dataset.layout import sidecar, template_file
from llm2bids.dataset.settings import is_dataset, read_settings, space_label
from llm2bids.dataset.sidecar import fill_json
from llm2bids.exceptions import DatasetError, SpaceError, UsageError
from llm2bids.recording.calibration import LocalizerScan
from llm2bids.space.arrange import cells_of, rearrange
from llm2bids.space.definition import ARRANGEMENTS, Layout, read_layout
from llm2bids.space.functional import METHOD, learn_cells
from llm2bids.space.smoothness import Stability, split_half_stability
from llm2bids.space.space import Space
from llm2bids.store.commit import Staging
from llm2bids.store.json import read_json, to_json
from llm2bids.store.tables import read_table, whole_numbers, write_table

# Prompts of each task that are set aside for the localizer, where nobody says how many.
LOCALIZER_PROMPTS = 16


# What a table's cells are arranged in: blocks of voxels; tables of earlier versions do not say.
PANELS = "blocks"

MOST_NAMED = 10  # constant units that are named in the log; all are counted

log = logging.getLogger(__name__)


def _arrangement_file(label: str) -> PurePosixPath:
    """Place the table of an arrangement."""
    return template_file(label, "arrangement", extension=".tsv.gz", datatype=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """An arrangement that was read from a file."""

    path: Path
    table: pd.DataFrame  # columns ``address`` and ``cell``
    arrangement: str
    layout: Layout
    panels: str = ""
    stability: Stability | None = None

    @property
    def sha256(self) -> str:
        """Hash of cells and layout."""
        text = self.table[["address", "cell"]].to_csv(index=False) + repr(self.layout)
        return hashlib.sha256(text.encode()).hexdigest()

    def apply(self, space: Space) -> Space:
        """Arrange a space as the table says."""
        addresses = space.unit_table()["address"].to_numpy(dtype=object)
        if not np.array_equal(self.table["address"].to_numpy(dtype=object), addresses):
            raise DatasetError(
                f"{self.path}: lists {len(self.table)} units, which are not the {space.n_units} of "
                f"space {space.label} in their order; it is of another model or other sites: use "
                "one of the same model and --sites"
            )
        if self.arrangement == "functional" and self.panels != PANELS:
            raise DatasetError(
                f"{self.path}: was learned for panels of one slice, as earlier versions had; in "
                "blocks of several slices its neighbours are apart. Learn it anew: --arrangement "
                "functional"
            )
        try:
            cells = _absolute(self.table, space, self.path)
            return rearrange(space, cells, arrangement=self.arrangement, layout=self.layout)
        except SpaceError as error:
            raise DatasetError(f"{self.path}: {error}") from None


def read_given(path: Path) -> Given:
    """Read an arrangement: a dataset's, or a table with its sidecar."""
    file = path
    if is_dataset(path):
        file = path / _arrangement_file(space_label(path, read_settings(path)))
    if not file.is_file():
        raise UsageError(
            f"--arrangement {path}: found no arrangement there; expected "
            f"{', '.join(ARRANGEMENTS)}, a dataset in functional arrangement, or its "
            "tpl-<space>_arrangement.tsv.gz"
        )
    table = read_table(file, text=("address",))
    if missing := [name for name in ("address", "cell") if name not in table]:
        raise DatasetError(
            f"{file}: lacks column(s) {', '.join(missing)}; expected address and cell"
        )
    metadata = file.with_name(sidecar(PurePosixPath(file.name)).name)
    content = read_json(metadata)
    arrangement = str(content.get("Arrangement"))
    try:
        layout = read_layout(arrangement, content.get("Layout"))
    except SpaceError as error:
        raise DatasetError(f"{metadata}: {error}") from None
    if layout is None:
        raise DatasetError(f"{metadata}: says index arrangement; expected functional or random")
    return Given(
        path=file,
        table=table,
        arrangement=arrangement,
        layout=layout,
        panels=str(content.get("Panels", "")),
        stability=_stability(content, metadata),
    )


def learned_space(
    space: Space, localizer: LocalizerScan, *, baseline: str, n_jobs: int = 1
) -> tuple[Space, Stability | None]:
    """Arrange a space by the responses to a localizer."""
    how: dict[str, Any] = {"baseline": baseline, "n_jobs": n_jobs}
    order = learn_cells(space, localizer.means, localizer.conditions, **how)
    constant = np.flatnonzero(order.constant)
    if constant.size:
        log.info(
            "%d units did not vary in the localizer and come last in their panels: %s%s",
            constant.size,
            ", ".join(space.address_of(int(unit)) for unit in constant[:MOST_NAMED]),
            " ..." if constant.size > MOST_NAMED else "",
        )
    layout = Layout(
        method=METHOD,
        prompt_ids=localizer.prompt_ids,
        n_tokens=localizer.n_tokens,
        n_constant=constant.size,
    )
    made = rearrange(space, order.cells, arrangement="functional", layout=layout)
    return made, split_half_stability(space, localizer.means, localizer.conditions, **how)


def write_arrangement(stage: Staging, space: Space, stability: Stability | None = None) -> None:
    """Stage the table of an arrangement and its sidecar; nothing in index arrangement."""
    if space.layout is None:
        return
    file = _arrangement_file(space.label)
    cells = cells_of(space) - _starts(space)
    addresses = space.unit_table()["address"]
    write_table(stage.path(file), pd.DataFrame({"address": addresses, "cell": cells}))
    metadata = fill_json(
        "derivative/arrangement.json",
        {},
        Arrangement=space.arrangement,
        Layout=space.layout.metadata(),
        SpaceFingerprint=space.fingerprint(),
    )
    if stability is None:
        del metadata["SplitHalf"]
    else:
        metadata["SplitHalf"]["NumberOfPrompts"] = list(stability.n_prompts)
        metadata["SplitHalf"]["Correlation"] = stability.correlation
    stage.text(sidecar(file), to_json(metadata))


def read_stability(root: Path, space: Space) -> Stability | None:
    """Read what the halves of a localizer agreed on."""
    if space.layout is None:
        return None
    path = root / sidecar(_arrangement_file(space.label))
    return _stability(read_json(path), path)


def _stability(content: dict[str, Any], path: Path) -> Stability | None:
    halves = content.get("SplitHalf")
    if halves is None:
        return None
    try:
        first, second = (int(n) for n in halves["NumberOfPrompts"])
        correlation = {
            str(role): {str(order): float(value) for order, value in values.items()}
            for role, values in halves["Correlation"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"{path}: SplitHalf is not what llm2bids writes ({type(error).__name__}: {error}); "
            "restore the file"
        ) from None
    return Stability(n_prompts=(first, second), correlation=correlation)


def check_arrangement(root: Path, space: Space) -> None:
    """Compare the table of an arrangement with the space that was read."""
    if space.layout is None:
        return
    path = root / _arrangement_file(space.label)
    if not path.is_file():
        raise DatasetError(f"{root}: the template lacks {path.name}; restore it")
    table = read_table(path, text=("address",))
    if "cell" not in table or len(table) != space.n_units:
        raise DatasetError(
            f"{path}: expected the columns address and cell, and {space.n_units} rows, found "
            f"{', '.join(map(str, table))} and {len(table)}; restore the file"
        )
    if not np.array_equal(_absolute(table, space, path), cells_of(space)):
        raise DatasetError(
            f"{path}: is not the arrangement of space {space.label}: its cells are not those of "
            "the unit table; restore the file"
        )


def _absolute(table: pd.DataFrame, space: Space, path: Path) -> npt.NDArray[np.int64]:
    """Count the cells of a table from the first unit of the space."""
    return whole_numbers(table, "cell", where=path) + _starts(space)


def _starts(space: Space) -> npt.NDArray[np.int64]:
    starts = [units.start for units in space.site_slices.values()]
    return np.array(starts)[space.site_of_unit]
